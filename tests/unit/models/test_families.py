"""The table of families: the first row that matches counts, and one more row is all that a new family needs."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from support.cells import settings_of
from support.packed import VOCABULARY, random_examples
from support.small_models import small_config, small_model

import neuralchat
from neuralchat.errors import AdapterError
from neuralchat.models.adapters.build import add_adapter
from neuralchat.models.families import table
from neuralchat.models.families.architecture import is_encoder_decoder
from neuralchat.models.families.packed_layout import take_packed_rows
from neuralchat.models.families.table import FAMILIES, family_of
from neuralchat.models.losses.loss_sum import packed_loss_sum, padded_loss_sum

MADE_UP = "parrot"


@pytest.mark.parametrize(
    ("model", "row"), [("mpt", 0), ("t5", 1), ("flan_t5", 1), ("llama", 3), ("gpt2", 3), ("gpt_neox", 3)]
)
def test_the_row_of_a_model(model: str, row: int) -> None:
    assert family_of(small_config(model, VOCABULARY)) is FAMILIES[row]


def test_another_encoder_decoder_is_not_packed() -> None:
    model = small_model("flan_t5", VOCABULARY)
    model.config.model_type = MADE_UP
    before = model.config._attn_implementation
    assert is_encoder_decoder(model.config)
    assert take_packed_rows(model) is None
    assert model.config._attn_implementation == before


def parrot(method: str) -> Any:
    """MPT's layers under a name that nobody knows."""
    model = small_model("mpt", VOCABULARY)
    model.config.model_type = MADE_UP
    return add_adapter(model, settings_of(method)).eval()


@pytest.mark.parametrize("method", ["lora", "prefix", "prompt", "ptun", "ia3"])
def test_a_made_up_family_is_one_row(method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(table, "FAMILIES", (replace(FAMILIES[0], matches=table.of_type(MADE_UP)), *FAMILIES))
    model, examples = parrot(method), random_examples(2, 5, prefixes=(12, 3))
    layout = take_packed_rows(model)
    assert layout is not None
    expected = sum(padded_loss_sum(model, [example], pad_id=0).item() for example in examples)
    assert packed_loss_sum(model, layout.pack(examples)).item() == pytest.approx(expected, rel=1e-5)


def test_without_the_row_it_is_neither_packed_nor_adapted() -> None:
    model = small_model("mpt", VOCABULARY)
    model.config.model_type = MADE_UP
    assert take_packed_rows(model) is None
    for method in ("prefix", "ia3"):
        with pytest.raises(AdapterError, match=f"--peft {method} does not work for"):
            parrot(method)


def test_only_the_table_and_the_families_name_them() -> None:
    source = Path(neuralchat.__file__).parent
    allowed = {source / "models" / "families" / name for name in ("table.py", "mpt.py", "t5.py")}
    # llama.cpp's own names of them, in its tables.
    allowed |= {source / "models" / "gguf" / name for name in ("architectures.py", "splits.py", "vocabulary.py")}
    named = [
        str(path.relative_to(source))
        for path in source.rglob("*.py")
        if path not in allowed and any(word in path.read_text() for word in ('"mpt"', '"t5"', ".is_encoder_decoder"))
    ]
    assert named == ["models/families/architecture.py"]


def test_a_second_model_of_another_family_is_not_disturbed() -> None:
    """What one model takes stays with it: transformers' registries are of the process, attention is of the model."""
    ids = torch.arange(3, 20)[None]
    plain = small_model("llama", VOCABULARY)
    expected = plain(input_ids=ids).logits
    for other in ("llama", "mpt", "flan_t5"):
        assert take_packed_rows(small_model(other, VOCABULARY)) is not None
    assert torch.equal(plain(input_ids=ids).logits, expected)
