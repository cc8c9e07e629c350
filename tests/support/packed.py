"""Packed rows and examples one by one, and the examples to compare them on."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from peft import LoraConfig, get_peft_model

from neuralchat.data.packing import pack
from neuralchat.data.tokenization import Example
from neuralchat.models.attention import segments as segment_attention
from neuralchat.models.fast_paths import take_fast_paths
from neuralchat.models.losses.loss_sum import packed_loss_sum
from support.small_models import small_model

VOCABULARY = 97
RELATIVE = 1e-5


def lora_model(family: str, targets: Any = ("q_proj", "v_proj"), seed: int = 0) -> Any:
    """A small model with LoRA whose matrices are not zero."""
    model = small_model(family, VOCABULARY, seed)
    torch.manual_seed(seed)
    adapted = get_peft_model(model, LoraConfig(r=4, lora_alpha=8, lora_dropout=0.0, target_modules=targets))
    for parameter in adapted.parameters():
        if parameter.requires_grad:
            torch.nn.init.normal_(parameter, std=0.1)
    return adapted


def one_by_one(model: Any, examples: Sequence[Example]) -> tuple[float, dict[str, torch.Tensor]]:
    """Loss sum and gradients with transformers' own attention, whole logits, no packing: the reference."""
    model.zero_grad()
    total = 0.0
    for example in examples:
        ids = torch.from_numpy(example.input_ids.astype(np.int64))[None]
        labels = torch.where(torch.from_numpy(example.supervised)[None], ids, -100)
        logits = model(input_ids=ids, attention_mask=torch.ones_like(ids), use_cache=False).logits[:, :-1]
        loss = torch.nn.functional.cross_entropy(logits[0], labels[0, 1:], reduction="sum")
        loss.backward()
        total += loss.item()
    return total, {n: p.grad.clone() for n, p in model.named_parameters() if p.requires_grad}


def packed(model: Any, examples: Sequence[Example], *, share: bool = True) -> tuple[float, dict[str, torch.Tensor]]:
    segment_attention.register()
    base = model.get_base_model()
    plain = base.config._attn_implementation
    base.set_attn_implementation(segment_attention.SEGMENT_ATTENTION)
    take_fast_paths(model, compile_kernels=True)
    model.zero_grad()
    loss = packed_loss_sum(model, pack(examples, share_prefix=share))
    loss.backward()
    base.set_attn_implementation(plain)
    return loss.item(), {n: p.grad.clone() for n, p in model.named_parameters() if p.requires_grad}


def assert_equal(model: Any, examples: Sequence[Example], *, share: bool = True) -> None:
    expected_loss, expected = one_by_one(model, examples)
    loss, gradients = packed(model, examples, share=share)
    assert loss == pytest.approx(expected_loss, rel=RELATIVE)
    # A gradient is measured against the whole gradient: single entries may be nothing but rounding.
    size = torch.stack([g.norm() for g in expected.values()]).norm()
    for name, gradient in expected.items():
        assert (gradients[name] - gradient).norm() <= RELATIVE * size, name
        assert gradient.norm() > 0, name


def example(ids: Sequence[int], answer_from: int) -> Example:
    supervised = np.zeros(len(ids), dtype=bool)
    supervised[max(answer_from, 1) :] = True
    return Example(np.array(ids, dtype=np.int32), supervised, "test")


def random_examples(seed: int, count: int, *, prefixes: Sequence[int] = (12,), everything: bool = False) -> list:
    """Examples of 1 to 30 own tokens after one of several beginnings; some answers are a single token."""
    rng = np.random.default_rng(seed)
    beginnings = [rng.integers(0, VOCABULARY, size) for size in prefixes]
    found = []
    for index in range(count):
        own = rng.integers(0, VOCABULARY, int(rng.integers(2, 31)))
        ids = np.concatenate([beginnings[index % len(beginnings)], own])
        answer = 1 if index % 3 == 0 else int(rng.integers(1, len(own)))
        found.append(example(ids.tolist(), 1 if everything else len(ids) - answer))
    return found


def numbered_examples(lengths: Sequence[int]) -> Any:
    """Every token of an example is its number, which is also that of its record."""
    return [Example(np.full(n, i, dtype=np.int32), np.arange(n) > 0, f"row {i}") for i, n in enumerate(lengths)]
