"""neuralchat export: what would be the base model alone, or would be written where something else lies, is refused."""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from neuralchat.cli import make_parser
from neuralchat.errors import AdapterError, RunDirectoryError
from neuralchat.export import gguf as exporting
from neuralchat.export.command import export

FIXTURE = Path(__file__).parents[2] / "fixtures" / "run_of_0_1"
RUN, MODEL = FIXTURE / "run", FIXTURE / "model"


@pytest.fixture(scope="module")
def untrained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The adapter as LoRA begins."""
    place = tmp_path_factory.mktemp("untrained") / "run"
    shutil.copytree(RUN, place)
    weights = load_file(place / "adapter_model.safetensors")
    zeros = {name: torch.zeros_like(weight) if "lora_B" in name else weight for name, weight in weights.items()}
    save_file(zeros, place / "adapter_model.safetensors")
    return place


def options(run: Path, *words: object) -> argparse.Namespace:
    return make_parser().parse_args(["export", str(run), "--base_model", str(MODEL), *map(str, words)])


def ways(output: Path) -> list[list[str]]:
    return [
        ["--merge", str(output)],
        ["--adapter", str(output)],
        ["--gguf", "f32", "--output", str(output)],
        ["--gguf_adapter", "f32", "--output", str(output)],
    ]


@pytest.mark.parametrize("way", range(4))
def test_an_adapter_without_effect_is_exported_only_where_that_is_allowed(
    untrained: Path, tmp_path: Path, way: int, said: list[str]
) -> None:
    output = tmp_path / "out"
    words = ways(output)[way]
    with pytest.raises(AdapterError, match=r"has no effect: .*\(--allow_no_effect writes it\)"):
        export(options(untrained, *words))
    assert not output.exists()
    assert export(options(untrained, *words, "--allow_no_effect")) == 0
    assert any("has no effect" in text for text in said)
    assert any(output.iterdir())


@pytest.mark.parametrize("way", range(4))
def test_nothing_is_written_into_a_run(tmp_path: Path, way: int) -> None:
    run = tmp_path / "run"
    shutil.copytree(RUN, run)
    before = sorted(path.name for path in run.iterdir())
    with pytest.raises(RunDirectoryError, match=f"lies in the run {run}, which is read; name a directory outside"):
        export(options(run, *ways(run / "x" / "y")[way]))
    assert sorted(path.name for path in run.iterdir()) == before


def test_a_file_in_the_place_of_the_directory_is_called_a_file(tmp_path: Path) -> None:
    (tmp_path / "empty").touch()
    with pytest.raises(RunDirectoryError, match="empty is a file, not a directory; name a directory that is new"):
        export(options(RUN, "--merge", tmp_path / "empty"))


def test_a_file_that_numpy_could_not_write_is_told_as_a_full_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise OSError("1024 requested and 0 written")

    monkeypatch.setattr(exporting, "write_gguf_of", full)
    with pytest.raises(RunDirectoryError, match=r"out cannot be written: not all bytes were taken .* the disk is full"):
        export(options(RUN, "--gguf", "f16", "--output", tmp_path / "out"))


def test_a_full_disk_is_found_before_a_model_is_loaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("neuralchat.export.output.why_not_taken", lambda _: "No space left on device")
    monkeypatch.setattr(exporting.Chatbot, "load", lambda *_, **__: pytest.fail("loaded"))
    with pytest.raises(RunDirectoryError, match="out cannot be written: No space left on device"):
        export(options(RUN, "--gguf", "f16", "--output", tmp_path / "out"))


def test_a_run_is_combined_with_others(tmp_path: Path) -> None:
    """Not with itself by any name, and with each once."""
    other = tmp_path / "other"
    shutil.copytree(RUN, other)
    (tmp_path / "link").symlink_to(RUN)
    words = [f"--with={name}=0.5" for name in (tmp_path / "link", other, other)]
    with pytest.raises(AdapterError) as refused:
        export(options(RUN, "--merge", tmp_path / "out", *words))
    assert f"{tmp_path / 'link'} is the run itself, whose own weight is --weight" in str(refused.value)
    assert f"{other} is named twice; name it once, with the sum of its weights" in str(refused.value)
