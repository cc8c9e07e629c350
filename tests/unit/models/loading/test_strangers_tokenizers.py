"""A tokenizer of strangers: what it costs is told by name, before it is given a text of ours."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support.fuzzing import time_limit

from neuralchat.errors import ModelError
from neuralchat.models.loading import tokenizer_cost
from neuralchat.models.loading.base_model import ModelSource, load_config, load_tokenizer


@pytest.fixture
def model(tmp_path: Path, llama_checkpoint: Path) -> Path:
    return shutil.copytree(llama_checkpoint, tmp_path / "model")


def refused(model: Path, match: str) -> None:
    with time_limit(), pytest.raises(ModelError, match=match):
        load_tokenizer(ModelSource(name=str(model)))


def split_by(expression: str) -> dict[str, Any]:
    split = {"type": "Split", "pattern": {"Regex": expression}, "behavior": "Isolated", "invert": False}
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
    return {"pre_tokenizer": {"type": "Sequence", "pretokenizers": [split, byte_level]}}


def replace_by(text: str) -> dict[str, Any]:
    return {"normalizer": {"type": "Replace", "pattern": {"String": "a"}, "content": text}}


COSTLY = {
    "a cubic expression": (split_by("a*a*b"), "takes longer than 1 s; it is not used"),
    "one for digits": (split_by("[0-9]+[0-9]+[0-9]*c"), "takes longer than 1 s; it is not used"),
    "a text that grows": (replace_by("x" * 1_000_000), "(takes more than 1024 MiB|ends the process|takes longer)"),
}


@pytest.mark.parametrize("name", COSTLY)
def test_one_that_costs_too_much_is_refused(model: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tokenizer_cost, "TRIAL_SECONDS", 1.0)
    changes, match = COSTLY[name]
    tokenizer = json.loads((model / "tokenizer.json").read_text())
    (model / "tokenizer.json").write_text(json.dumps({**tokenizer, **changes}))
    refused(model, f"the tokenizer of '{model}' {match}")


@pytest.mark.parametrize("expression", [r"\s+(?!\S)|\s+|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}", " ?[^(\\s|[.,!?])]+"])
def test_expressions_of_published_models_are_taken(model: Path, expression: str) -> None:
    tokenizer = json.loads((model / "tokenizer.json").read_text())
    (model / "tokenizer.json").write_text(json.dumps({**tokenizer, **split_by(expression)}))
    assert load_tokenizer(ModelSource(name=str(model)))("a b")["input_ids"]


def pipe(path: Path) -> None:
    os.mkfifo(path)


def endless(path: Path) -> None:
    path.symlink_to("/dev/zero")


def huge(path: Path) -> None:
    path.touch()
    os.truncate(path, (256 << 20) + 1)


NAMES = ("tokenizer.json", "tokenizer_config.json", "generation_config.json", "chat_template.jinja", "vocab.txt")


@pytest.mark.parametrize(
    ("trap", "why"),
    [(pipe, "is a pipe, not a file"), (endless, "is a device, not a file"), (huge, "is larger than 256 MiB")],
)
@pytest.mark.parametrize("name", NAMES)
def test_what_never_ends_is_not_read(model: Path, trap: Callable[[Path], None], why: str, name: str) -> None:
    (model / name).unlink(missing_ok=True)
    trap(model / name)
    refused(model, f"{name} {why}")
    with time_limit(), pytest.raises(ModelError, match=f"{name} {why}"):
        load_config(ModelSource(name=str(model)))


def test_nested_deeply(model: Path) -> None:
    (model / "tokenizer.json").write_text('{"a":' * 100_000)
    refused(model, "cannot load the tokenizer")


def test_records_beside_a_model_may_be_large(model: Path) -> None:
    huge(model / "records.json")
    assert load_tokenizer(ModelSource(name=str(model)))("a b")["input_ids"]
