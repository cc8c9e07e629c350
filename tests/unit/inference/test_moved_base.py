"""A base model that lies elsewhere than in training: chat, eval and merge are told where, and compare it."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support.forks import run_captured
from support.fuzzing import time_limit
from support.runs import ROWS
from support.small_models import save_checkpoint, small_model

from neuralchat.console.terminal import visible
from neuralchat.errors import ArgumentsError, ModelError, NeuralChatError
from neuralchat.inference.chatbot import Chatbot
from neuralchat.inference.origin import name_of_base, origin_of

CUT = " [cut at --max_new_tokens]"


# Each has a run of its own, but for those that need no more than its manifest.
pytestmark = pytest.mark.slow
Moved = tuple[Path, Path, str]


def trained_and_moved(place: Path) -> Moved:
    """(run with a checkpoint, where its base model lies now, the answer that it gave before)."""
    base = save_checkpoint(place / "models" / "base")
    (place / "records.json").write_text(json.dumps(ROWS))
    trained = run_captured(
        [
            "finetune", "--model_name_or_path", "models/base", "--train_file", "records.json", "--output_dir", "run",
            "--max_steps", "4", "--save_steps", "2", "--learning_rate", "0.05", "--report_samples", "0",
        ],
        place,
    )  # fmt: skip
    assert trained.returncode == 0, trained.stderr
    answer = run_captured(["chat", "run", "-p", "Name a fruit.", "--max_new_tokens", "8"], place).stdout
    base.rename(place / "elsewhere")
    return place / "run", place / "elsewhere", answer


@pytest.fixture
def moved(tmp_path: Path) -> Moved:
    return trained_and_moved(tmp_path)


@pytest.fixture(scope="module")
def moved_once(tmp_path_factory: pytest.TempPathFactory) -> Moved:
    return trained_and_moved(tmp_path_factory.mktemp("moved"))


def test_every_verb_takes_the_new_place(
    run_cli: Callable[..., Any], moved: Moved, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, place, answer = moved
    chat = ("-p", "Name a fruit.", "--max_new_tokens", 8)
    gone = run_cli("chat", run, *chat)
    assert gone.returncode == 2
    # Asked for at its old place, and nowhere else: on a hub models/base may be anybody's.
    assert gone.stderr == (
        f"error: the base model of {run} cannot be loaded. If it lies elsewhere now, say where: --base_model PATH\n"
        f"model directory {tmp_path / 'models' / 'base'} does not exist\n"
    )
    assert run_cli("chat", run, *chat, "--base_model", place, check=True).stdout == answer
    assert run_cli("chat", run / "checkpoint-4", *chat, "--base_model", place, check=True).stdout == answer
    questions = tmp_path / "questions.json"
    questions.write_text(json.dumps([{"instruction": "Name a fruit.", "output": "x", "facts": ["x"]}]))
    scored = run_cli("eval", run, "--questions", questions, "--base_model", place, "--max_new_tokens", 2, check=True)
    assert "of 1 answers" in scored.stdout
    run_cli("merge", run, "--output", "merged", "--base_model", place, check=True)
    assert run_cli("chat", "merged", *chat, check=True).stdout == answer
    # With a home directory, as every path.
    monkeypatch.setenv("HOME", str(tmp_path))
    assert run_cli("chat", "~/run", *chat, "--base_model=~/elsewhere", check=True).stdout == answer


def test_another_model_is_refused(moved: Moved, tmp_path: Path) -> None:
    run, place, _ = moved
    other = shutil.copytree(place, tmp_path / "other")
    small_model("llama", 400, seed=1).save_pretrained(other)
    for directory in (run, run / "checkpoint-2"):
        with pytest.raises(ModelError, match=r"is not the base model that .* was trained on: its files differ"):
            Chatbot.load(directory, base_model=other)


def test_another_model_in_its_place_is_refused_too(moved: Moved, tmp_path: Path) -> None:
    """A run from another machine, or a stranger's, whose path leads to another model here."""
    run, place, _ = moved
    other = shutil.copytree(place, tmp_path / "other")
    small_model("llama", 400, seed=1).save_pretrained(other)
    manifest = json.loads((run / "neuralchat.json").read_text())
    assert manifest["base_model"]["path"] == str(tmp_path / "models" / "base")
    other.rename(tmp_path / "models" / "base")
    with pytest.raises(
        ModelError, match=r"models/base is not the base model that .*run was trained on.*--base_model PATH"
    ):
        Chatbot.load(run)
    manifest["base_model"]["path"] = str(place)
    (run / "neuralchat.json").write_text(json.dumps(manifest))
    Chatbot.load(run)


PLACES = ["/", "/dev", "/proc/self", "/proc/self/cwd", "/etc", "{run}", "{home}", "relative", "{pipe}"]


@pytest.mark.parametrize("place", PLACES)
def test_a_path_that_leads_where_no_model_is(moved_once: Moved, tmp_path: Path, place: str) -> None:
    run = shutil.copytree(moved_once[0], tmp_path / "run")
    (tmp_path / "pipe").mkdir()
    os.mkfifo(tmp_path / "pipe" / "config.json")
    manifest = json.loads((run / "neuralchat.json").read_text())
    path = place.format(run=run, home=Path.home(), pipe=tmp_path / "pipe")
    manifest["base_model"] |= {"path": path, "name": path, "config_name": None}
    (run / "neuralchat.json").write_text(json.dumps(manifest))
    with time_limit(20), pytest.raises(NeuralChatError, match="base model"):
        Chatbot.load(run)


def test_where_a_base_model_is_looked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "here" / "models" / "a").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "here")
    gone = str(tmp_path / "gone")
    assert name_of_base("models/a", str(tmp_path)) == str(tmp_path)
    assert name_of_base("models/a", gone) == "models/a"
    assert name_of_base("models/b", gone) == gone
    assert name_of_base("smollm2-135m-instruct", gone) == "smollm2-135m-instruct"
    assert name_of_base("models/b", "models/b") == name_of_base("models/b", None) == "models/b"


def test_a_stranger_does_not_say_where_models_are_downloaded_to(
    moved: Moved, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only a directory in which that model lies already is taken."""
    run, _, _ = moved
    manifest = json.loads((run / "neuralchat.json").read_text())
    manifest["base_model"] |= {"name": "org/model", "path": "org/model", "cache_dir": str(tmp_path / "theirs")}
    (run / "neuralchat.json").write_text(json.dumps(manifest))
    assert origin_of(run).source.cache_dir is None
    with pytest.raises(ModelError):
        Chatbot.load(run)
    assert not (tmp_path / "theirs").exists()
    snapshot = tmp_path / "theirs" / "models--org--model" / "snapshots" / "0"
    snapshot.mkdir(parents=True)
    (snapshot / "config.json").write_text("{}")
    assert origin_of(run).source.cache_dir == str(tmp_path / "theirs")


def test_what_has_no_base_model_beside_it(llama_checkpoint: Path) -> None:
    with pytest.raises(ArgumentsError, match="is a whole model, there is no base model beside it"):
        Chatbot.load(llama_checkpoint, base_model="elsewhere")


def test_an_adapter_from_elsewhere_cannot_be_compared(moved: Moved, tmp_path: Path, said: list[str]) -> None:
    run, place, answer = moved
    (tmp_path / "adapter").mkdir()
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        shutil.copy(run / name, tmp_path / "adapter")
    bot = Chatbot.load(tmp_path / "adapter", base_model=place, template="chat")
    assert any("cannot be compared" in text for text in said)
    assert visible(bot.predict("Name a fruit.", max_new_tokens=8)) == answer.removesuffix("\n").removesuffix(CUT)
