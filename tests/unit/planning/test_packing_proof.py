"""planning/packing_proof.py: what is taken for rounding in bf16, and what never is."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from support.small_models import small_model

from neuralchat.config.arguments import TuningArguments
from neuralchat.data.layout import Layout
from neuralchat.data.tokenization import Example
from neuralchat.errors import PackingError
from neuralchat.models.adapters.build import add_adapter
from neuralchat.models.adapters.virtual_tokens import virtual_tokens_of
from neuralchat.models.families.packed_layout import take_packed_rows
from neuralchat.planning import packing_proof
from neuralchat.planning.packing_proof import prove_packing


def example(length: int) -> Example:
    ids = np.random.default_rng(length).integers(3, 90, length).astype(np.int32)
    return Example(ids, np.arange(length) > 2, f"row {length}")


EXAMPLES = [example(length) for length in (9, 12, 15)]


@pytest.fixture(scope="module")
def packed_model() -> tuple[Any, Layout]:
    model = add_adapter(small_model().bfloat16(), TuningArguments())
    assert take_packed_rows(model)
    return model, Layout(virtual_tokens_of(model), None)


def passes(*errors: float) -> Iterator[dict[str, torch.Tensor]]:
    """Loss and gradients, each as far from the first in norm as is said."""
    for error in (0.0, *errors):
        yield {"loss": torch.ones(1), "weight": torch.tensor([1.0 + error, 0.0])}


@pytest.mark.parametrize(
    ("dtype", "packed", "padded", "allowed"),
    [
        (torch.bfloat16, 0.09, math.nan, True),
        # More than a tenth, but not twice as much as padding does.
        (torch.bfloat16, 0.15, 0.08, True),
        (torch.bfloat16, 0.15, 0.07, False),
        # However badly a model rounds.
        (torch.bfloat16, 0.35, 0.9, False),
        (torch.bfloat16, math.nan, 0.1, False),
        (torch.float32, 0.01, 0.1, False),
    ],
)
def test_what_rounding_explains(
    monkeypatch: pytest.MonkeyPatch, packed_model: Any, dtype: torch.dtype, packed: float, padded: float, allowed: bool
) -> None:
    model, layout = packed_model
    found = passes(packed, padded)
    monkeypatch.setattr(packing_proof, "loss_and_gradients", lambda _trained, _loss: next(found))
    if allowed:
        assert prove_packing(model, layout, EXAMPLES, pad_id=0, dtype=dtype) == pytest.approx(packed)
    else:
        with pytest.raises(PackingError, match="packed training is not exact"):
            prove_packing(model, layout, EXAMPLES, pad_id=0, dtype=dtype)


def test_a_row_that_lacks_an_example_is_never_rounding(monkeypatch: pytest.MonkeyPatch, packed_model: Any) -> None:
    model, layout = packed_model
    assert prove_packing(model, layout, EXAMPLES, pad_id=0, dtype=torch.bfloat16) < 0.1
    monkeypatch.setattr(packing_proof, "NOISE_FACTOR", math.inf)
    whole = packing_proof.packed_loss_sum
    monkeypatch.setattr(packing_proof, "packed_loss_sum", lambda model, _: whole(model, layout.pack(EXAMPLES[:-1])))
    with pytest.raises(PackingError, match="packed training is not exact"):
        prove_packing(model, layout, EXAMPLES, pad_id=0, dtype=torch.bfloat16)
