"""When freed pages are given back: before a micro-batch that is clearly larger than the last such one."""

from __future__ import annotations

import numpy as np
import pytest
from support.small_models import small_model

from neuralchat.config.arguments import TuningArguments
from neuralchat.data.layout import Layout
from neuralchat.data.step_shares import StepShare
from neuralchat.data.tokenization import Example
from neuralchat.models.adapters.build import add_adapter
from neuralchat.models.adapters.virtual_tokens import virtual_tokens_of
from neuralchat.models.families.packed_layout import take_packed_rows
from neuralchat.training import freed_pages
from neuralchat.training.step import GradientSum
from neuralchat.training.stopping import StopSignals

# Lengths of the examples of each micro-batch, and those of the tokens computed at once before which pages go.
SMALL_BEFORE_LARGE = [[9], [6, 3], [30], [9, 8], [31]]


def example(length: int) -> Example:
    ids = np.random.default_rng(length).integers(3, 90, length).astype(np.int32)
    return Example(ids, np.arange(length) > 2, f"row {length}")


@pytest.mark.parametrize(
    ("packed", "before"),
    [
        # 9, 9, 30, 17, 31 tokens.
        (True, [9, 30]),
        # 9, 2 x 6, 30, 2 x 9, 31 with padding.
        (False, [9, 12, 30]),
    ],
)
def test_before_larger_micro_batches_only(monkeypatch: pytest.MonkeyPatch, packed: bool, before: list[int]) -> None:
    model = add_adapter(small_model(), TuningArguments())
    if packed:
        assert take_packed_rows(model)
    layout = Layout(virtual_tokens_of(model), None)
    gradients = GradientSum(model, pad_id=0, signals=StopSignals())
    found: list[int] = []
    monkeypatch.setattr(freed_pages, "give_back_freed_pages", lambda: found.append(gradients.freed_pages.largest))
    for lengths in SMALL_BEFORE_LARGE:
        examples = [example(length) for length in lengths]
        share = StepShare(packed=[layout.pack(examples)]) if packed else StepShare(padded=[examples])
        _, failure = gradients.backward(share, 10)
        assert failure is None
    assert found == before
