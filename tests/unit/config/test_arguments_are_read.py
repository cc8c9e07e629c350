"""Every flag does something: each field is read by the code, or refused when it is set."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

import pytest
from transformers import TrainingArguments

import neuralchat
from neuralchat.config.arguments import (
    REJECTED_TRAINING_ARGUMENTS,
    DataArguments,
    ModelArguments,
    TuningArguments,
)

SOURCES = Path(neuralchat.__file__).parent
OTHER_CODE = "\n".join(
    path.read_text(encoding="utf-8") for path in SOURCES.rglob("*.py") if path.name != "arguments.py"
)
FIELDS = [field.name for kind in (ModelArguments, DataArguments, TuningArguments) for field in dataclasses.fields(kind)]


def is_read(name: str) -> bool:
    return re.search(rf"\.{name}\b", OTHER_CODE) is not None


def test_a_field_that_does_not_exist_is_not_read() -> None:
    assert not is_read("no_such_argument")


@pytest.mark.parametrize("name", FIELDS)
def test_field_is_read(name: str) -> None:
    assert is_read(name), f"--{name} is accepted and has no effect"


@pytest.mark.parametrize("name", sorted(REJECTED_TRAINING_ARGUMENTS))
def test_rejected_argument_is_one_of_transformers(name: str) -> None:
    assert name in {field.name for field in dataclasses.fields(TrainingArguments)}


def test_own_fields_do_not_hide_those_of_transformers() -> None:
    assert set(FIELDS).isdisjoint(field.name for field in dataclasses.fields(TrainingArguments))
    assert len(set(FIELDS)) == len(FIELDS)
