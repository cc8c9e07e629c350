"""The chunked head equals torch's cross entropy on whole logits, value and every gradient."""

from __future__ import annotations

import pytest
import torch
from peft import LoraConfig
from peft.tuners.lora.layer import Linear as LoraLinear
from torch import nn

from neuralchat.models.losses import supervised as module
from neuralchat.models.losses.supervised import supervised_loss


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Seven rows a chunk, so that chunks and a ragged last one are met."""
    monkeypatch.setattr(module, "CHUNK_BYTES", 7 * 4 * 50)


def inputs(bias: bool = False) -> tuple[torch.Tensor, nn.Linear, torch.Tensor]:
    torch.manual_seed(0)
    hidden = torch.randn(23, 16, requires_grad=True)
    return hidden, nn.Linear(16, 50, bias=bias), torch.randint(0, 50, (23,))


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("bias", [False, True])
def test_value_and_gradients(smoothing: float, bias: bool) -> None:
    hidden, head, ids = inputs(bias)
    parameters = [hidden, *head.parameters()]
    reference = nn.functional.cross_entropy(head(hidden), ids, reduction="sum", label_smoothing=smoothing)
    expected = torch.autograd.grad(reference, parameters)
    loss = supervised_loss(hidden, head, ids, label_smoothing=smoothing)
    torch.testing.assert_close(loss, reference)
    for found, wanted in zip(torch.autograd.grad(loss * 3, parameters), expected, strict=True):
        torch.testing.assert_close(found, 3 * wanted, rtol=1e-5, atol=1e-5)


def test_other_heads_are_recomputed() -> None:
    hidden, linear, ids = inputs()
    head = nn.Sequential(linear, nn.Tanh())
    reference = nn.functional.cross_entropy(head(hidden), ids, reduction="sum")
    expected = torch.autograd.grad(reference, [hidden, linear.weight])
    loss = supervised_loss(hidden, head, ids)
    torch.testing.assert_close(loss, reference)
    for found, wanted in zip(torch.autograd.grad(loss, [hidden, linear.weight]), expected, strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-5)


def test_a_hooked_head_is_not_bypassed() -> None:
    hidden, head, ids = inputs()
    head.register_forward_hook(lambda _m, _i, output: output * 2)
    reference = nn.functional.cross_entropy(head(hidden), ids, reduction="sum")
    torch.testing.assert_close(supervised_loss(hidden, head, ids), reference)


def test_bf16_head_with_fp32_states() -> None:
    hidden, head, ids = inputs()
    head.requires_grad_(False)
    reference = nn.functional.cross_entropy(hidden @ head.weight.bfloat16().float().T, ids, reduction="sum")
    expected = torch.autograd.grad(reference, hidden)[0]
    loss = supervised_loss(hidden, head.bfloat16(), ids)
    torch.testing.assert_close(loss, reference)
    torch.testing.assert_close(torch.autograd.grad(loss, hidden)[0], expected, rtol=1e-5, atol=1e-5)


def test_frozen_head_costs_no_weight_gradient() -> None:
    hidden, head, ids = inputs()
    head.requires_grad_(False)
    supervised_loss(hidden, head, ids).backward()
    assert head.weight.grad is None
    assert hidden.grad is not None


def test_logits_never_exist_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    hidden, head, ids = inputs()
    sizes = []
    plain = module.matmul_by_transposed
    monkeypatch.setattr(module, "matmul_by_transposed", lambda s, w: sizes.append(len(s)) or plain(s, w))
    supervised_loss(hidden, head, ids)
    assert sizes == [7, 7, 7, 2]


def test_a_layer_that_is_only_called_linear_is_not_a_plain_head() -> None:
    """PEFT's LoRA layer has the class name Linear; its adapter must reach loss and gradient."""
    torch.manual_seed(0)
    hidden, base, ids = inputs()
    head = LoraLinear(base, "default", LoraConfig(r=4, lora_alpha=8), r=4, lora_alpha=8)
    head.lora_B["default"].weight.data.normal_()
    trained = [hidden, head.lora_A["default"].weight, head.lora_B["default"].weight]
    reference = nn.functional.cross_entropy(head(hidden), ids, reduction="sum")
    expected = torch.autograd.grad(reference, trained)
    loss = supervised_loss(hidden, head, ids)
    torch.testing.assert_close(loss, reference)
    for found, wanted in zip(torch.autograd.grad(loss, trained), expected, strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-5)
