"""The model as it was before it was tuned, at hand in every step: its adapter switched off, or a copy of it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from copy import deepcopy
from typing import Any

import torch

from neuralchat.models.adapters.build import adapter_off


class Teacher:
    """Made before the first step. Where all weights are trained it holds a second set of them."""

    def __init__(self, model: Any, *, trains_base: bool) -> None:
        self.copy = deepcopy(model).requires_grad_(False).eval() if trains_base else None

    @contextmanager
    def at_hand(self, model: Any) -> Iterator[Any]:
        """Within, the plain transformers model as it was, without dropout and without gradients.

        `model` is the one that is trained; nothing may train it meanwhile.
        """
        with torch.no_grad():
            if self.copy is not None:
                yield self.copy
                return
            was_training = model.training
            model.eval()
            try:
                with adapter_off(model) as base:
                    yield base
            finally:
                model.train(was_training)
