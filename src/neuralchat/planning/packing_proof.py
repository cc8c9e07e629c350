"""Proof at start: packed loss and gradients equal one-by-one ones on a few real examples, dropout off."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from neuralchat.data.example_store import ExampleStore
from neuralchat.data.layout import Layout
from neuralchat.data.tokenization import Example
from neuralchat.errors import ModelError, PackingError
from neuralchat.models.adapters.build import base_model_of
from neuralchat.models.losses.loss_sum import packed_loss_sum, padded_loss_sum

PROOF_EXAMPLES = 4
PROOF_TOKENS = 512
# fp32 rounding grows through a deep model; mixed samples or shifted positions are off by far more.
TOLERANCE = {torch.float32: 2e-3, torch.bfloat16: 1e-1}
# Some models round worse in bf16, most of all on a base in few bits: up to so many times as far as two unpacked passes
# are apart, and never as far as a missing example is, which is some 0.8.
NOISE_FACTOR, MOST_ROUNDING = 2.0, 0.3


def proof_examples(store: ExampleStore) -> list[Example]:
    """A few short examples: two that begin alike where there are such, of unequal lengths."""
    order = sorted(range(min(len(store), 64)), key=lambda i: int(store.lengths[i]))
    chosen: list[Example] = []
    for index in order[:: max(1, len(order) // (2 * PROOF_EXAMPLES))]:
        example = store[index]
        if sum(len(e.input_ids) for e in chosen) + len(example.input_ids) > PROOF_TOKENS and chosen:
            break
        chosen.append(example)
        if len(chosen) == PROOF_EXAMPLES:
            break
    return chosen


def prove_packing(model: Any, layout: Layout, examples: Sequence[Example], *, pad_id: int, dtype: torch.dtype) -> float:
    """The largest relative difference found. Raises PackingError if it is more than rounding explains.

    Raises ModelError where the model's own pass, without packing, fails.

    Adapter weights that are still zero would hide errors in what lies behind them, so all of them are moved a
    little, by the same numbers for both sides, and put back.
    """
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    before = {name: p.detach().clone() for name, p in trained.items()}
    was_training = model.training
    model.eval()
    try:
        generator = torch.Generator().manual_seed(0)
        for parameter in trained.values():
            parameter.data += 0.02 * torch.randn(parameter.shape, generator=generator).to(parameter)
        expected = alone(model, trained, examples, pad_id)
        found = packed(model, trained, layout.pack(examples))
        allowed = TOLERANCE[dtype]
        if dtype == torch.bfloat16 and worst_difference(expected, found) > allowed:
            allowed = max(allowed, rounding(model, trained, examples, pad_id, expected))
    finally:
        for name, parameter in trained.items():
            parameter.data.copy_(before[name])
        model.train(was_training)
    return compare(expected, found, allowed)


def rounding(
    model: Any, trained: dict[str, Any], examples: Sequence[Example], pad_id: int, alone: dict[str, torch.Tensor]
) -> float:
    """How far rounding alone may take two passes apart: by padding, which moves nothing but roundings."""
    padded = loss_and_gradients(trained, padded_loss_sum(model, examples, pad_id=pad_id))
    return min(NOISE_FACTOR * worst_difference(alone, padded), MOST_ROUNDING)


def alone(model: Any, trained: dict[str, Any], examples: Sequence[Example], pad_id: int) -> dict[str, torch.Tensor]:
    """Loss and gradients of the examples one by one, by the model's own forward."""
    try:
        losses = [padded_loss_sum(model, [example], pad_id=pad_id) for example in examples]
        return loss_and_gradients(trained, sum(losses[1:], losses[0]))
    except (TypeError, ValueError, AttributeError, KeyError, IndexError, RuntimeError) as error:
        family = type(base_model_of(model)).__name__
        raise ModelError(
            f"{family} cannot be trained: its own forward pass fails with {first_line_of(error)}"
        ) from error


def packed(model: Any, trained: dict[str, Any], batch: Any) -> dict[str, torch.Tensor]:
    """Loss and gradients of the same examples in one row. What a family raises there is a reason not to pack."""
    try:
        return loss_and_gradients(trained, packed_loss_sum(model, batch))
    except (TypeError, ValueError, AttributeError, KeyError, IndexError, RuntimeError, NotImplementedError) as error:
        raise PackingError(f"its layers do not take a packed row: {first_line_of(error)}") from error


def first_line_of(error: Exception) -> str:
    return f"{type(error).__name__}: {error}".splitlines()[0][:200]


def loss_and_gradients(trained: dict[str, Any], loss: torch.Tensor) -> dict[str, torch.Tensor]:
    """Loss and gradients by name; the model's gradients are left empty."""
    gradients = torch.autograd.grad(loss, list(trained.values()), allow_unused=True)
    found = {name: g for name, g in zip(trained, gradients, strict=True) if g is not None}
    return {"loss": loss.detach().reshape(1), **found}


def relative_errors(expected: dict[str, torch.Tensor], found: dict[str, torch.Tensor]) -> tuple[float, float]:
    """Relative differences in norm: of the loss, and of the whole gradient."""
    names = [name for name in expected if name != "loss"]
    loss_error = float((found["loss"] - expected["loss"]).abs() / expected["loss"].abs())
    difference = torch.stack([(found[n] - expected[n]).norm() for n in names if n in found]).norm()
    size = torch.stack([expected[n].norm() for n in names]).norm()
    return loss_error, float(difference / size)


def worst_difference(expected: dict[str, torch.Tensor], found: dict[str, torch.Tensor]) -> float:
    return max(relative_errors(expected, found))


def compare(expected: dict[str, torch.Tensor], found: dict[str, torch.Tensor], tolerance: float) -> float:
    """The larger of their differences. Raises PackingError where it is above `tolerance` or a gradient is missing."""
    missing = [name for name in expected if name not in found]
    loss_error, gradient_error = relative_errors(expected, found)
    # Not by the larger: a maximum may pass over what is not a number.
    if missing or not (loss_error <= tolerance and gradient_error <= tolerance):
        raise PackingError(
            f"packed training is not exact: loss differs by {loss_error:.1e}, gradients by {gradient_error:.1e} "
            f"(allowed {tolerance:.0e})" + (f", {len(missing)} gradient(s) are missing" if missing else "")
        )
    return max(loss_error, gradient_error)
