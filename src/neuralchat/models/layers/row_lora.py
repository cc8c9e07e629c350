"""LoRA of another adapter for each part of a packed row: the base's product once, each adapter's for its own tokens.

Shapes: T tokens of the row, I inputs, O outputs, r rank; x [1, T, I]; A [r, I], B [O, r].
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

from neuralchat.models.compat.peft import LoraLinear, PlainLora, plain_lora_of

# (PEFT's name of an adapter, first token, end); tokens that are in no part have the base alone.
RowPart = tuple[str, int, int]
# The attribute of the layers that holds the parts of the row that is being computed; all layers share one list.
ROW_PARTS = "neuralchat_row_parts"


class RowLoraLinear(LoraLinear):
    """Takes over a LoRA layer in place; outside of `row_parts` it is PEFT's."""

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        parts: list[RowPart] | None = getattr(self, ROW_PARTS)[-1]
        if parts is None:
            return super().forward(x, *args, **kwargs)
        y = self.base_layer(x, *args, **kwargs)
        for name, start, end in parts:
            lora = plain_lora_of(self, name)
            if lora is not None:
                add_lora(y[:, start:end], x[:, start:end], lora)
        return y


def add_lora(y: Tensor, x: Tensor, lora: PlainLora) -> None:
    """y [1, N, O] += scaling * B A x [1, N, I], in the dtype of A and B, as PEFT does."""
    low = x[0].to(lora.a.dtype) @ lora.a.t()
    if y.dtype == lora.b.dtype:
        y[0].addmm_(low, lora.b.t(), alpha=lora.scaling)
    else:
        y[0] += (low @ lora.b.t()).mul_(lora.scaling).to(y.dtype)


def take_row_lora(model: nn.Module, parts: list[Any]) -> None:
    """Let the LoRA layers of `model` compute rows of many adapters, whose parts the last entry of `parts` names."""
    for module in model.modules():
        if type(module) is LoraLinear:
            module.__class__ = RowLoraLinear
            setattr(module, ROW_PARTS, parts)


@contextmanager
def row_parts(shared: list[Any], parts: Sequence[RowPart] | None) -> Iterator[None]:
    """Within, the layers that share the list compute rows of these parts; None: as PEFT has them switched."""
    shared.append(parts)
    try:
        yield
    finally:
        shared.pop()


def is_plain_lora(model: nn.Module, name: str) -> bool:
    """Whether all that an adapter changes of a model is plain LoRA in layers that compute by rows."""
    found = False
    for path, _ in model.named_parameters():
        steps = path.split(".")
        if name not in steps:
            continue
        # The layer holds a dictionary of parts by adapter: layers.0.q_proj.lora_A.NAME.weight
        layer = model.get_submodule(".".join(steps[: steps.index(name) - 1]))
        if type(layer) is not RowLoraLinear or plain_lora_of(layer, name) is None:
            return False
        found = True
    return found
