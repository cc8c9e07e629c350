"""What an optimizer step costs besides the passes: measured on a few numbers, since it is the same for each of them."""

from __future__ import annotations

import time
from typing import Any

import torch

TRIED_NUMBERS = 1 << 21
# Clearing, clipping and the norm read or write each gradient again; an optimizer step does so about ten times.
WITH_CLIPPING = 1.4


def optimizer_seconds(model: Any) -> float:
    """Of a step over all that is trained, as AdamW takes it."""
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    numbers = torch.zeros(min(trained, TRIED_NUMBERS), requires_grad=True)
    if not len(numbers):
        return 0.0
    numbers.grad = torch.ones_like(numbers)
    optimizer = torch.optim.AdamW([numbers], fused=True)
    # The first step makes its state.
    optimizer.step()
    start = time.perf_counter()
    optimizer.step()
    return WITH_CLIPPING * (time.perf_counter() - start) * trained / len(numbers)
