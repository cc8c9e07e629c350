"""inference/origin.py: which of the four kinds a path or a name is, and what is read of it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from support.checkpoints import save_run
from support.runs import copied
from support.small_models import small_model

from neuralchat.errors import AdapterError, ModelError, NeuralChatError, RunDirectoryError
from neuralchat.inference.chatbot import Chatbot
from neuralchat.inference.origin import is_base_name, origin_of

FIXTURE = Path(__file__).parents[2] / "fixtures" / "run_of_0_1"
SHA256 = "0" * 64


@pytest.fixture
def run(tmp_path: Path, llama_checkpoint: Path) -> Path:
    return save_run(tmp_path / "run", llama_checkpoint, "lora")


def as_checkpoint(run: Path, changes: Any = None) -> Path:
    """The run's directory as its checkpoint: the manifest's part on the model is in checkpoint.json."""
    manifest = json.loads((run / "neuralchat.json").read_text())
    checkpoint = run.parent / "run" / "checkpoint-3"
    shutil.copytree(run, checkpoint, ignore=shutil.ignore_patterns("checkpoint-*", "neuralchat.json"))
    (checkpoint / "metrics.jsonl").write_text("")
    (checkpoint / "checkpoint.json").write_text(
        json.dumps({"arguments": {"peft": "lora"}, "run": manifest, **(changes or {})})
    )
    return checkpoint


def test_a_run(run: Path, llama_checkpoint: Path) -> None:
    found = origin_of(run)
    assert (found.kind, found.method, found.directory) == ("run", "lora", run)
    assert found.source.name == str(llama_checkpoint)
    assert (found.template_name, found.storage) == ("alpaca", "float32")


def test_a_checkpoint(run: Path, llama_checkpoint: Path) -> None:
    checkpoint = as_checkpoint(run)
    found = origin_of(checkpoint)
    assert (found.kind, found.method, found.directory) == ("checkpoint", "lora", checkpoint)
    assert found.source.name == str(llama_checkpoint)
    assert found.template_name == "alpaca"


def test_a_checkpoint_of_version_0_1(said: list[str]) -> None:
    """It names its base model as the command did, relative to where it was started."""
    found = origin_of(FIXTURE / "interrupted" / "checkpoint-10")
    assert (found.kind, found.method, found.template_name) == ("checkpoint", "lora", None)
    assert found.source.name == str(FIXTURE / "model")
    assert said == [
        f"{FIXTURE / 'interrupted' / 'checkpoint-10'} is of an earlier version and names its base model only as "
        f"'model'; taking {FIXTURE / 'model'}"
    ]


def test_a_checkpoint_of_version_0_1_beside_another_model(tmp_path: Path) -> None:
    """A model of the same name is not taken for the one of training."""
    copied(FIXTURE / "interrupted", tmp_path / "interrupted")
    copied(FIXTURE / "model", tmp_path / "model")
    small_model("llama", seed=1).save_pretrained(tmp_path / "model")
    with pytest.raises(ModelError, match=r"model is not the base model that .*checkpoint-10 was trained on: its files"):
        Chatbot.load(tmp_path / "interrupted" / "checkpoint-10")


def test_an_adapter_from_elsewhere(run: Path, llama_checkpoint: Path) -> None:
    (run / "neuralchat.json").unlink()
    found = origin_of(run)
    assert (found.kind, found.method, found.source.name) == ("adapter", "lora", str(llama_checkpoint))
    assert found.template_sha256 is None


def test_a_base_model(llama_checkpoint: Path) -> None:
    found = origin_of(llama_checkpoint)
    assert (found.kind, found.method, found.directory) == ("base model", None, None)
    assert found.source.name == str(llama_checkpoint)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("smollm2-135m-instruct", True),
        ("SmolLM2-135M-Instruct", True),
        ("gpt2", True),
        ("org/model-7b.v1", True),
        ("./model", False),
        ("/models/a", False),
        ("a/b/c", False),
        ("runs/b", False),
        ("runs", False),
        ("file.json", False),
    ],
)
def test_names(name: str, expected: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Beside a directory that is there, a name is a path with a mistake in it."""
    (tmp_path / "runs").mkdir()
    (tmp_path / "file.json").touch()
    monkeypatch.chdir(tmp_path)
    assert is_base_name(name) is expected


GOOD = {"base_model": {"name": "m"}, "template": {"name": "alpaca"}, "adapter": {"method": "lora"}}
REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"run": 3}, r"checkpoint\.json is damaged: run must hold names and values"),
    ({"run": {**GOOD, "base_model": {}}}, r"base_model\.name cannot be null"),
    ({"run": {**GOOD, "base_model": []}}, r"base_model must hold names and values, found list"),
    ({"run": {**GOOD, "adapter": {"method": 1}}}, r"adapter\.method cannot be int 1"),
]


@pytest.mark.parametrize(("changes", "message"), REFUSED)
def test_damaged_checkpoints(run: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(RunDirectoryError, match=message):
        origin_of(as_checkpoint(run, changes))


EARLY_REFUSED: list[tuple[Any, type[NeuralChatError], str]] = [
    ([], ModelError, r"checkpoint\.json must hold names and values, found list"),
    ({}, RunDirectoryError, "does not say with which arguments the run was begun"),
    ({"arguments": {"peft": ["lora"]}}, RunDirectoryError, "does not say with which arguments"),
    ({"arguments": {"peft": "lora"}, "template": 3}, RunDirectoryError, r"template\.sha256 cannot be int 3"),
]


@pytest.mark.parametrize(("content", "kind", "message"), EARLY_REFUSED)
def test_damaged_checkpoints_of_version_0_1(run: Path, content: Any, kind: type[NeuralChatError], message: str) -> None:
    checkpoint = as_checkpoint(run)
    (checkpoint / "checkpoint.json").write_text(json.dumps(content))
    with pytest.raises(kind, match=message):
        origin_of(checkpoint)


def test_an_unfinished_run_is_none_of_the_four(run: Path) -> None:
    (run / "neuralchat.json").unlink()
    (run / "metrics.jsonl").write_text("")
    with pytest.raises(RunDirectoryError, match=r"run is not a finished run: it has no neuralchat\.json"):
        origin_of(run)


def test_a_file_or_an_empty_directory_is_none_of_the_four(tmp_path: Path) -> None:
    with pytest.raises(RunDirectoryError, match="is not a finished run"):
        origin_of(tmp_path)
    (tmp_path / "file").touch()
    with pytest.raises(RunDirectoryError, match=r"file is a file, not a run directory; give the --output_dir of a run"):
        origin_of(tmp_path / "file")


def test_an_adapter_without_a_base_model(run: Path) -> None:
    (run / "neuralchat.json").unlink()
    config = json.loads((run / "adapter_config.json").read_text())
    (run / "adapter_config.json").write_text(json.dumps({**config, "base_model_name_or_path": None}))
    with pytest.raises(RunDirectoryError, match=r"adapter_config\.json names no base model"):
        origin_of(run)
    (run / "adapter_config.json").write_text("{}")
    with pytest.raises(AdapterError, match="has no peft_type"):
        origin_of(run)


def test_a_name_that_no_hub_knows_may_be_a_run_written_wrongly() -> None:
    with pytest.raises(RunDirectoryError, match=r"^run directory nowhere does not exist; as a model: cannot load"):
        Chatbot.load("nowhere")
    with pytest.raises(ModelError, match="cannot load the configuration of model 'nobody/nowhere'"):
        Chatbot.load("nobody/nowhere")
