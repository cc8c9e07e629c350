"""--bf16 follows the machine; weights that are trained stay fp32."""

from __future__ import annotations

import copy

import pytest
import torch
from support.small_models import small_model

from neuralchat.models.layers.frozen_linear import freeze_linears
from neuralchat.models.loading import precision as module
from neuralchat.models.loading.precision import Precision, choose_precision, widen_small_weights


def test_fp32_without_the_flag() -> None:
    assert choose_precision(bf16=False, trains_base=False) == (
        Precision(storage=torch.float32, compute=torch.float32),
        None,
    )


@pytest.mark.parametrize(
    ("units", "compute", "told"), [(True, torch.bfloat16, ""), (False, torch.float32, "widened to fp32")]
)
def test_bf16_follows_the_machine(
    monkeypatch: pytest.MonkeyPatch, units: bool, compute: torch.dtype, told: str
) -> None:
    monkeypatch.setattr(module, "has_bf16_units", lambda: units)
    precision, notice = choose_precision(bf16=True, trains_base=False)
    assert precision == Precision(storage=torch.bfloat16, compute=compute)
    assert (notice is None) == units
    assert told in (notice or "")


def test_trained_weights_stay_fp32() -> None:
    precision, notice = choose_precision(bf16=True, trains_base=True)
    assert precision.storage == torch.float32
    assert notice is not None
    assert "stay in fp32" in notice


@pytest.mark.parametrize("family", ["llama", "llama_bias", "qwen2"])
def test_widened_model_equals_its_fp32_copy(family: str) -> None:
    """bf16 storage with fp32 arithmetic gives the logits of the same rounded weights held in fp32."""
    model = small_model(family).bfloat16()
    reference = copy.deepcopy(model).float()
    model.requires_grad_(False)
    widen_small_weights(model, torch.float32)
    freeze_linears(model)
    ids = torch.arange(20)[None]
    with torch.no_grad():
        torch.testing.assert_close(model(input_ids=ids).logits, reference(input_ids=ids).logits, rtol=1e-4, atol=1e-4)
    assert model.get_input_embeddings().weight.dtype == torch.bfloat16
