"""Every family with every method: packed equals one by one, and what is saved is plain PEFT."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from small_models import CAUSAL_FAMILIES, small_model
from test_packed_equals_alone import RELATIVE, VOCABULARY, random_examples

from neuralchat.data.packing import pack
from neuralchat.models import segment_attention
from neuralchat.models.adapters import METHODS, AdapterSettings, add_adapter
from neuralchat.models.causal_loss import packed_loss_sum, padded_loss_sum
from neuralchat.models.frozen_linear import freeze_linears
from neuralchat.models.fused_layers import fuse_layers
from neuralchat.models.fused_lora import fuse_lora
from neuralchat.models.virtual_tokens import virtual_tokens_of

pytestmark = pytest.mark.usefixtures("kernels")
# PEFT's LLaMA-Adapter knows these families only.
CELLS = [
    (family, method)
    for family in CAUSAL_FAMILIES
    for method in METHODS
    if method != "llama_adapter" or not family.startswith("qwen")
]


def adapted_model(family: str, method: str) -> Any:
    """A small model with an adapter none of whose weights is zero."""
    settings = AdapterSettings(
        method=method, lora_dropout=0.0, num_virtual_tokens=5, ptun_hidden_size=16, adapter_len=4, adapter_layers=30
    )
    model = add_adapter(small_model(family, VOCABULARY), settings)
    torch.manual_seed(1)
    for parameter in model.parameters():
        if parameter.requires_grad:
            torch.nn.init.normal_(parameter, std=0.3)
    return model.eval()


def gradients(model: Any, loss: torch.Tensor) -> dict[str, torch.Tensor]:
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    return dict(zip(trained, torch.autograd.grad(loss, list(trained.values())), strict=True))


@pytest.mark.parametrize(("family", "method"), CELLS)
@pytest.mark.parametrize("checkpointing", [False, True])
def test_packed_equals_one_by_one(family: str, method: str, checkpointing: bool) -> None:
    model = adapted_model(family, method)
    # Two that share a beginning, others that share another, one alone.
    examples = random_examples(2, 7, prefixes=(12, 9, 3))
    expected_loss = sum(padded_loss_sum(model, [example], pad_id=0) for example in examples)
    expected = gradients(model, expected_loss)
    segment_attention.register()
    base = model.get_base_model()
    base.set_attn_implementation(segment_attention.IMPLEMENTATION)
    freeze_linears(model)
    fuse_layers(model)
    fuse_lora(model)
    if checkpointing:
        base.gradient_checkpointing_enable()
        model.train()
    loss = packed_loss_sum(model, pack(examples, virtual=virtual_tokens_of(model)))
    found = gradients(model, loss)
    assert loss.item() == pytest.approx(expected_loss.item(), rel=RELATIVE)
    size = torch.stack([g.norm() for g in expected.values()]).norm()
    for name, gradient in expected.items():
        assert gradient.norm() > 0, name
        assert (found[name] - gradient).norm() <= RELATIVE * size, name
