"""Fast paths belong to the model they were put into, and nothing of the process is left changed."""

from __future__ import annotations

import shutil
from typing import Any

import pytest
import torch
from support.cells import settings_of
from support.packed import VOCABULARY, random_examples
from support.small_models import small_model
from transformers.models.llama import modeling_llama

from neuralchat.models.adapters.build import add_adapter
from neuralchat.models.families.packed_layout import take_packed_rows
from neuralchat.models.fast_paths import take_fast_paths
from neuralchat.models.kernels import elementwise
from neuralchat.models.losses.loss_sum import packed_loss_sum

needs_gcc = pytest.mark.skipif(shutil.which("gcc") is None, reason="no gcc")


def lora_model() -> Any:
    torch.manual_seed(0)
    return add_adapter(small_model("llama", VOCABULARY), settings_of("lora"))


@needs_gcc
def test_what_is_taken() -> None:
    # Two layers with seven linear layers each, all with LoRA; the head is the embedding's matrix.
    found = take_fast_paths(lora_model(), compile_kernels=True)
    assert (found.norms, found.mlps, found.rotary, found.lora, found.kernels) == (5, 2, 2, 14, "compiled")
    assert found.frozen_linears == 15
    # What is fused already is not fused again.
    model = lora_model()
    take_fast_paths(model, compile_kernels=True)
    again = take_fast_paths(model, compile_kernels=True)
    assert (again.frozen_linears, again.norms, again.mlps, again.rotary, again.lora) == (0, 0, 0, 0, 0)


@needs_gcc
def test_one_model_without_kernels_beside_one_with_them(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two runs in one process: --no_compile_kernels of the first is not the second's."""
    models = {"torch": lora_model(), "compiled": lora_model()}
    batch = None
    for name, model in models.items():
        found = take_fast_paths(model, compile_kernels=name == "compiled")
        assert found.kernels == name
        layout = take_packed_rows(model)
        assert layout is not None
        batch = layout.pack(random_examples(1, 5))
    given: list[str] = []
    library = elementwise.library_for
    for module in ("kernels.elementwise", "attention.segment_kernel"):
        monkeypatch.setattr(
            f"neuralchat.models.{module}.library_for",
            lambda x, name, **defines: (given.append(name), library(x, name, **defines))[1],
        )
    losses = {}
    for name, model in models.items():
        given.clear()
        loss = packed_loss_sum(model, batch)
        loss.backward()
        losses[name] = loss.item()
        assert set(given) == (set() if name == "torch" else {"elementwise", "segment_attention"})
    assert losses["torch"] == pytest.approx(losses["compiled"], rel=1e-5)


@pytest.mark.parametrize("compile_kernels", [True, False])
def test_transformers_stays_as_it_is(compile_kernels: bool) -> None:
    before = dict(vars(modeling_llama))
    untouched = small_model("llama", VOCABULARY)
    classes = [type(module) for module in untouched.modules()]
    ids = torch.arange(3, 20)[None]
    expected = untouched(input_ids=ids).logits
    model = lora_model()
    take_fast_paths(model, compile_kernels=compile_kernels)
    take_packed_rows(model)
    assert dict(vars(modeling_llama)) == before
    assert [type(module) for module in untouched.modules()] == classes
    assert torch.equal(untouched(input_ids=ids).logits, expected)
