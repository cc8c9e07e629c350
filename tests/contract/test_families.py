"""Every family of transformers with LoRA as it comes: what is trained, saved, merged and answered is what others get.

Compared with transformers and PEFT alone, one example at a time, none of our layers in the model.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from support.cells import settings_of
from support.families import FAMILIES, PACKED, PADDED, family_model
from support.packed import RELATIVE, one_by_one, random_examples

from neuralchat.data.tokenization import Example
from neuralchat.inference.generation.decoding import decode
from neuralchat.inference.generation.settings import generation_settings
from neuralchat.inference.sampling import Sampling
from neuralchat.models.adapters.build import add_adapter, base_model_of
from neuralchat.models.adapters.files import load_adapter
from neuralchat.models.adapters.merging import merged, tried_logits
from neuralchat.models.families.packed_layout import take_packed_rows
from neuralchat.models.fast_paths import take_fast_paths
from neuralchat.models.losses.loss_sum import packed_loss_sum, padded_loss_sum

Gradients = dict[str, torch.Tensor]
# Of a gradient that is a smaller part than this of all of them, what it rounds to counts as one of this size.
SMALL_PART = 1e-3


def adapted_model(family: str) -> Any:
    """With the default layers of LoRA, none of whose weights is zero."""
    model = add_adapter(family_model(family), settings_of("lora"))
    torch.manual_seed(1)
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data += 0.05 * torch.randn_like(parameter)
    return model.eval()


def examples_of() -> list[Example]:
    """Two groups with a beginning of their own, one alone; lengths from 5 to 41, longer than the windows."""
    return random_examples(2, 7, prefixes=(12, 9, 3))


@cache
def alone(family: str) -> tuple[float, Gradients]:
    """Loss and gradients of the examples one by one, by the layers of transformers and PEFT."""
    model = adapted_model(family)
    if base_model_of(model).config.is_encoder_decoder:
        losses = [padded_loss_sum(model, [example], pad_id=0) for example in examples_of()]
        return with_gradients(model, torch.stack(losses).sum())
    return one_by_one(model, examples_of())


def with_gradients(model: Any, loss: torch.Tensor) -> tuple[float, Gradients]:
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    found = torch.autograd.grad(loss, list(trained.values()), allow_unused=True)
    return loss.item(), {
        n: torch.zeros_like(p) if g is None else g for (n, p), g in zip(trained.items(), found, strict=True)
    }


def assert_same(found: tuple[float, Gradients], expected: tuple[float, Gradients]) -> None:
    assert found[0] == pytest.approx(expected[0], rel=RELATIVE)
    size = torch.stack([g.norm() for g in expected[1].values()]).norm()
    assert size > 0
    assert found[1].keys() == expected[1].keys()
    for name, gradient in expected[1].items():
        assert (found[1][name] - gradient).norm() <= RELATIVE * max(gradient.norm(), SMALL_PART * size), name


def fast_model(family: str) -> Any:
    model = adapted_model(family)
    take_fast_paths(model, compile_kernels=True)
    return model


@pytest.mark.proves("family packed")
@pytest.mark.parametrize("method", ["lora"])
@pytest.mark.parametrize("family", PACKED)
def test_packed_equals_one_by_one(family: str, method: str) -> None:
    model = fast_model(family)
    layout = take_packed_rows(model)
    assert layout is not None
    loss = packed_loss_sum(model, layout.pack(examples_of()))
    assert_same(with_gradients(model, loss), alone(family))


@pytest.mark.proves("family padded")
@pytest.mark.parametrize("method", ["lora"])
@pytest.mark.parametrize("family", PADDED)
def test_padded_equals_one_by_one(family: str, method: str) -> None:
    loss = padded_loss_sum(model := fast_model(family), examples_of(), pad_id=0)
    assert_same(with_gradients(model, loss), alone(family))


@pytest.mark.proves("family merged")
@pytest.mark.parametrize("method", ["lora"])
@pytest.mark.parametrize("family", FAMILIES)
def test_merged_equals_unmerged(family: str, method: str) -> None:
    model = adapted_model(family)
    expected = tried_logits(base_model_of(model))
    assert (expected - tried_logits(family_model(family))).norm() > 0.01 * expected.norm()
    torch.testing.assert_close(tried_logits(merged(model, method)), expected, rtol=1e-3, atol=1e-3)


@pytest.mark.proves("family saved plain")
@pytest.mark.parametrize("method", ["lora"])
@pytest.mark.parametrize("family", FAMILIES)
def test_what_is_saved_is_read_by_peft_and_here(family: str, method: str, tmp_path: Path) -> None:
    model = fast_model(family)
    expected = tried_logits(base_model_of(model))
    model.save_pretrained(str(tmp_path))
    for again in (
        PeftModel.from_pretrained(family_model(family), str(tmp_path)),
        load_adapter(family_model(family), tmp_path),
    ):
        torch.testing.assert_close(tried_logits(base_model_of(again.eval())), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.proves("family answers cached")
@pytest.mark.parametrize("method", ["lora"])
@pytest.mark.parametrize("family", FAMILIES)
def test_answers_equal_whole_passes_over_what_was_said(family: str, method: str) -> None:
    """Cached generation, on the attention of training where that is packed, against one pass of transformers' own."""
    model, plain = fast_model(family), adapted_model(family)
    take_packed_rows(model)
    prompt = list(range(3, 33))
    ids = torch.tensor([prompt])
    with generation_settings(base_model_of(model), Sampling(max_new_tokens=5), end_ids=[-1], pad_id=0) as settings:
        [answer] = decode(model, ids, torch.ones_like(ids), settings).tolist()
    if base_model_of(plain).config.is_encoder_decoder:
        inputs = {"input_ids": ids, "decoder_input_ids": torch.tensor([[2, *answer[:-1]]])}
    else:
        inputs = {"input_ids": torch.tensor([[*prompt, *answer[:-1]]])}
    with torch.no_grad():
        logits = plain(**inputs, use_cache=False).logits[0]
    assert logits[-5:].argmax(1).tolist() == answer
