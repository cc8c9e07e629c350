"""export/merge.py: what is refused before a model is loaded."""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from types import SimpleNamespace

import pytest
from safetensors import SafetensorError

from neuralchat.errors import RunDirectoryError
from neuralchat.export import merge as merging
from neuralchat.export.merge import merge
from neuralchat.export.output import placed_files
from neuralchat.files import write_file

RUN = Path(__file__).parents[2] / "fixtures" / "run_of_0_1" / "run"


def refused(output: Path, reason: str) -> None:
    options = argparse.Namespace(
        run=str(RUN), output=str(output), trust_remote_code=False, base_model=None, allow_lossy=False,
        allow_no_effect=False, with_runs=None, weight=None, combine=None, density=None,
    )  # fmt: skip
    with pytest.raises(RunDirectoryError, match=f"--output {output} {reason}$"):
        merge(options)


def test_output_without_permission(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # The tests may run as root, to whom everything is permitted.
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path) != tmp_path)
    refused(tmp_path / "deep" / "whole", f"cannot be written: no permission to write to {tmp_path}")


def test_output_below_a_file(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    refused(tmp_path / "file" / "whole", f"cannot be written: {tmp_path / 'file'} is a file")


def test_output_whose_name_is_not_utf8(tmp_path: Path) -> None:
    refused(tmp_path / os.fsdecode(b"caf\xe9"), "is not UTF-8, or too long, and no library can write there")
    assert list(tmp_path.iterdir()) == []


def test_output_that_is_not_empty(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    refused(tmp_path, "is not empty; name a directory that is new")


@pytest.mark.parametrize("at", ["model.safetensors", "README.md", "neuralchat.json"])
def test_a_disk_that_is_full_leaves_no_half_of_a_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at: str
) -> None:
    """safetensors makes an error of its own of it."""
    output = tmp_path / "whole"

    class Model:
        def save_pretrained(self, directory: str) -> None:
            (Path(directory) / "config.json").write_text("{}")
            if at == "model.safetensors":
                raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")

    def write(path: Path, content: str) -> None:
        if path.name == at:
            raise OSError(28, os.strerror(28), str(path))
        write_file(path, content)

    monkeypatch.setattr(merging, "write_file", write)
    monkeypatch.setattr(merging, "card_of_merged", lambda *_: "card")
    bot = SimpleNamespace(tokenizer=SimpleNamespace(save_pretrained=lambda directory: None))
    with pytest.raises(RunDirectoryError, match=r"whole cannot be written: .*No space left on device; there is no"):
        merging.write_merged(output, SimpleNamespace(), Model(), bot, {})
    assert not output.exists()


@pytest.mark.parametrize("is_new", [True, False])
def test_ctrl_c_leaves_no_directory_that_was_made_for_the_files(tmp_path: Path, is_new: bool) -> None:
    output = tmp_path / "whole"
    if not is_new:
        output.mkdir()

    def interrupted() -> None:
        with placed_files(output, last="a", what="model") as work:
            (work / "a").write_text("half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert output.exists() is not is_new
    assert is_new or list(output.iterdir()) == []
