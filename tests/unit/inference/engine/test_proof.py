"""inference/engine/packed/proof.py: what is wrong is refused; what a text rounds badly is tried with another text."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from support.engines.asking import VOCABULARY
from support.small_models import small_model
from torch import Tensor

from neuralchat.inference.engine.packed import proof
from neuralchat.inference.engine.packed.packed_pass import Chunk, PackedPass
from neuralchat.inference.engine.packed.proof import computes_as_model, native_computes_as_packed
from neuralchat.models.families.table import family_of


def proven(
    monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype, changes: Callable[[Sequence[int], Sequence[int]], bool]
) -> bool:
    """Whether a model is believed whose own last logits are 10 % off for texts of which `changes(text, first)` says so.

    first: the first of its texts, by which that one is known.
    """
    model = small_model("llama", VOCABULARY).to(dtype)
    assert family_of(model.config).take_pages(model)
    own, first = proof.own_logits_of, []

    def own_logits_of(model: Any, ids: list[int]) -> Tensor:
        first[:] = first or ids
        found = own(model, ids)
        if changes(ids, first):
            found[-1] += 0.1 * found[-1].norm() * torch.nn.functional.normalize(torch.ones(VOCABULARY), dim=0)
        return found

    monkeypatch.setattr(proof, "own_logits_of", own_logits_of)
    return computes_as_model(PackedPass(model, 64), model)


def test_one_text_that_rounds_badly_in_bf16_is_no_proof_against_it(monkeypatch: pytest.MonkeyPatch) -> None:
    assert proven(monkeypatch, torch.bfloat16, lambda text, first: text == first)


def test_in_fp32_nothing_rounds_so_far(monkeypatch: pytest.MonkeyPatch) -> None:
    assert not proven(monkeypatch, torch.float32, lambda text, first: text == first)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_what_is_wrong_for_every_text_of_a_length_is_refused(
    monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype
) -> None:
    assert not proven(monkeypatch, dtype, lambda text, _: len(text) == proof.SHORT)


def test_what_no_text_has_wrong_is_believed(monkeypatch: pytest.MonkeyPatch) -> None:
    assert proven(monkeypatch, torch.float32, lambda *_: False)


@pytest.mark.parametrize(("texts", "believed"), [(1, True), (9, False)])
def test_compiled_layers_are_tried_with_another_text_too(texts: int, believed: bool) -> None:
    """Compiled layers that give the last text other logits, in the first pass or in all."""
    model = small_model("llama", VOCABULARY).bfloat16()
    assert family_of(model.config).take_pages(model)
    packed = PackedPass(model, 64)
    own, changed = packed.logits, []

    def logits(chunks: Sequence[Chunk], adapters: Sequence[str | None] = ()) -> Tensor:
        found = own(chunks)
        if adapters and len(chunks) == 2 and len(changed) < texts:
            changed.append(chunks)
            found[-1] = -found[-1]
        return found

    packed.logits = logits  # type: ignore[method-assign]
    assert native_computes_as_packed(packed) is believed
