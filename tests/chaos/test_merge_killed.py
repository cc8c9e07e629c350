"""A merge that is killed leaves no model or a whole one, and the same command, given again, makes it."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support.forks import run_forked
from support.runs import copied

from neuralchat.export import merge as merging
from neuralchat.files import write_file

FIXTURE = Path(__file__).parents[1] / "fixtures" / "run_of_0_1"
MERGE = ["merge", "run", "--output", "merged"]


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def merge(place: Path, prepare: Callable[[], None] = lambda: None) -> tuple[int, str]:
    (place / "log").unlink(missing_ok=True)
    status = run_forked(MERGE, place, place / "log", prepare)
    said = (place / "log").read_text()
    assert "Traceback" not in said
    return status, said


def make_place(directory: Path) -> Path:
    copied(FIXTURE / "model", directory / "model")
    run = copied(FIXTURE / "run", directory / "run")
    # It looks for nothing where it was made: that place may be there.
    manifest = (run / "neuralchat.json").read_text()
    made_in = json.loads(manifest)["working_directory"]
    (run / "neuralchat.json").write_text(manifest.replace(made_in, "/nowhere"))
    return directory


@pytest.fixture
def place(tmp_path: Path) -> Path:
    return make_place(tmp_path)


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The files of an undisturbed merge."""
    place = make_place(tmp_path_factory.mktemp("undisturbed"))
    status, said = merge(place)
    assert status == 0, said
    return content(place / "merged")


def content(directory: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in directory.iterdir()}


def while_weights_are_written() -> None:
    from transformers import PreTrainedModel

    true_save = PreTrainedModel.save_pretrained

    def save(self: Any, directory: str, **named: Any) -> None:
        true_save(self, directory, **named)
        weights = Path(directory) / "model.safetensors"
        os.truncate(weights, weights.stat().st_size // 2)
        die()

    PreTrainedModel.save_pretrained = save


def before_the_manifest() -> None:
    def write(path: Path, text: str) -> None:
        if path.name == "neuralchat.json":
            die()
        write_file(path, text)

    merging.write_file = write


def at_name(name: str | None, *, after: bool = False) -> Callable[[], None]:
    """While files get their places in the output: before or after that of `name`, before the first for None."""

    def prepare() -> None:
        true_replace = os.replace

        def replace(source: Path, target: Path, **named: Any) -> None:
            is_it = Path(target).parent.name == "merged" and name in (None, Path(target).name)
            if is_it and not after:
                die()
            true_replace(source, target, **named)
            if is_it:
                die()

        os.replace = replace

    return prepare


UNFINISHED = {
    "while weights are written": while_weights_are_written,
    "before the manifest": before_the_manifest,
    "before the first file": at_name(None),
    "after the first file": at_name(None, after=True),
    "after the weights": at_name("model.safetensors", after=True),
    "before the last file": at_name("config.json"),
}


@pytest.mark.parametrize("moment", UNFINISHED)
def test_killed_before_it_is_whole(place: Path, expected: dict[str, bytes], moment: str) -> None:
    assert merge(place, UNFINISHED[moment])[0] == -signal.SIGKILL
    assert (place / "merged").is_dir()
    # Without it no program takes the directory for a model.
    assert not (place / "merged" / "config.json").exists()
    status, said = merge(place)
    assert status == 0, said
    assert content(place / "merged") == expected


def test_killed_when_it_is_whole(place: Path, expected: dict[str, bytes]) -> None:
    assert merge(place, at_name("config.json", after=True))[0] == -signal.SIGKILL
    found = {path.name: path.read_bytes() for path in (place / "merged").iterdir() if path.is_file()}
    assert found == expected
    status, said = merge(place)
    assert status == 2
    assert "--output merged is not empty" in said
    assert {path.name: path.read_bytes() for path in (place / "merged").iterdir() if path.is_file()} == expected
    words = ["chat", "merged", "-p", "Say a word.", "--max_new_tokens", "2"]
    assert run_forked(words, place, place / "log") == 0, (place / "log").read_text()


def test_two_merges_at_once_do_not_mix(place: Path, expected: dict[str, bytes]) -> None:
    """The second comes into the directory while the first is at work, though both found it empty."""

    def prepare() -> None:
        true_card = merging.card_of_merged

        def card(*words: Any) -> str:
            (place / "merged" / ".writing-1-0000").mkdir()
            return true_card(*words)

        merging.card_of_merged = card

    status, said = merge(place, prepare)
    assert status == 2
    assert "--output merged is not empty any more" in said
    assert [path.name for path in (place / "merged").iterdir()] == [".writing-1-0000"]
    # Whoever made that is gone.
    assert merge(place)[0] == 0
    assert content(place / "merged") == expected
