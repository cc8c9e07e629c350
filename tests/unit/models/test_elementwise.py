"""The compiled cross entropy equals torch's; the other kernels are compared in test_fused_layers.py."""

from __future__ import annotations

import pytest
import torch

from neuralchat.models.kernels.elementwise import Elementwise, kernels_for


@pytest.fixture
def elementwise() -> Elementwise:
    found = kernels_for(torch.zeros(1))
    if found is None:
        pytest.skip("no gcc, or not Linux: there are no compiled kernels")
    return found


@pytest.mark.parametrize("vocabulary", [1, 7, 97, 1024])
@pytest.mark.parametrize("size", [1.0, 30.0, 1e4])
def test_losses_and_gradient(elementwise: Elementwise, vocabulary: int, size: float) -> None:
    torch.manual_seed(0)
    logits = (size * torch.randn(5, vocabulary)).requires_grad_()
    targets = torch.randint(vocabulary, (5,))
    expected = torch.nn.functional.cross_entropy(logits.double(), targets, reduction="none")
    (gradient,) = torch.autograd.grad(expected.sum(), logits)
    slope = logits.detach().clone()
    torch.testing.assert_close(elementwise.cross_entropy(slope, targets), expected.float(), rtol=1e-6, atol=1e-5)
    torch.testing.assert_close(slope, gradient, rtol=1e-5, atol=2e-6)


@pytest.mark.parametrize("broken", [float("nan"), float("inf")])
def test_a_broken_row_gives_a_broken_loss(elementwise: Elementwise, broken: float) -> None:
    """Vector code may pass over what is not a number; the loss must show it, and only in its row."""
    logits = torch.zeros(3, 40)
    logits[1, 21] = broken
    losses = elementwise.cross_entropy(logits, torch.tensor([0, 1, 2]))
    assert torch.isfinite(losses).tolist() == [True, False, True]
