"""Every family with every method: packed equals one by one, and what is saved is plain PEFT."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from peft import PeftModel
from support.cells import kernels_of, proven, settings_of
from support.packed import RELATIVE, VOCABULARY, random_examples
from support.small_models import ALL_FAMILIES, small_model

from neuralchat.data.layout import Layout
from neuralchat.data.tokenization import Example
from neuralchat.errors import AdapterError
from neuralchat.inference.generation.decoding import decode
from neuralchat.inference.generation.settings import generation_settings
from neuralchat.inference.sampling import Sampling
from neuralchat.models.adapters.build import add_adapter, base_model_of
from neuralchat.models.adapters.merging import merged
from neuralchat.models.families.packed_layout import take_packed_rows
from neuralchat.models.fast_paths import take_fast_paths
from neuralchat.models.losses.loss_sum import packed_loss_sum, padded_loss_sum


def adapted_model(family: str, method: str) -> Any:
    """A small model with an adapter none of whose weights is zero."""
    model = add_adapter(small_model(family, VOCABULARY), settings_of(method))
    torch.manual_seed(1)
    for parameter in model.parameters():
        if parameter.requires_grad and method != "none":
            # Larger ones would saturate softmax, where rounding grows.
            parameter.data += 0.05 * torch.randn_like(parameter)
    return model.eval()


def examples_of(family: str) -> list:
    """Two groups with a beginning of their own, one alone."""
    everything = random_examples(2, 7, prefixes=(12, 9, 3))
    # A target of an encoder-decoder model needs a source before it.
    assert all(not example.supervised[0] for example in everything)
    return everything


def gradients(model: Any, loss: torch.Tensor) -> dict[str, torch.Tensor]:
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    found = torch.autograd.grad(loss, list(trained.values()))
    return dict(zip(trained, found, strict=True))


def make_fast(model: Any) -> Layout:
    """What session.prepare_packing puts in."""
    take_fast_paths(model, compile_kernels=True)
    layout = take_packed_rows(model)
    assert layout is not None
    return layout


@cache
def one_by_one(family: str, method: str) -> tuple[float, dict[str, torch.Tensor]]:
    """Loss and gradients of the examples, each alone and padded, by the layers of transformers and PEFT."""
    model = adapted_model(family, method)
    losses = [padded_loss_sum(model, [example], pad_id=0) for example in examples_of(family)]
    loss = torch.stack(losses).sum()
    return loss.item(), gradients(model, loss)


def assert_packed_equals_one_by_one(family: str, method: str, *, checkpointing: bool) -> None:
    expected_loss, expected = one_by_one(family, method)
    model = adapted_model(family, method)
    layout = make_fast(model)
    if checkpointing:
        base_model_of(model).gradient_checkpointing_enable()
        model.train()
    loss = packed_loss_sum(model, layout.pack(examples_of(family)))
    found = gradients(model, loss)
    assert loss.item() == pytest.approx(expected_loss, rel=RELATIVE)
    size = torch.stack([g.norm() for g in expected.values()]).norm()
    assert found.keys() == expected.keys()
    for name, gradient in expected.items():
        assert (found[name] - gradient).norm() <= RELATIVE * size, name
    # A bias that no result depends on (that of keys, for one) has no gradient; an adapter's weight always has.
    if method != "none":
        assert [name for name, gradient in expected.items() if gradient.norm() == 0] == []
    assert size > 0


@pytest.mark.quick
@proven("packed")
def test_packed_equals_one_by_one(family: str, method: str, use_kernels: Callable[[str], None]) -> None:
    use_kernels(kernels_of(family, method))
    assert_packed_equals_one_by_one(family, method, checkpointing=False)


@proven("checkpointed")
def test_packed_and_checkpointed_equals_one_by_one(
    family: str, method: str, use_kernels: Callable[[str], None]
) -> None:
    """With the kernels that the cell was not tested with without checkpointing."""
    use_kernels(kernels_of(family, method, other=True))
    assert_packed_equals_one_by_one(family, method, checkpointing=True)


@proven("trained alone")
def test_one_step_changes_the_adapter_and_nothing_else_and_lowers_the_loss(family: str, method: str) -> None:
    model, examples = add_adapter(small_model(family, VOCABULARY), settings_of(method)), examples_of(family)
    layout = make_fast(model)
    batch = layout.pack(examples)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.Adam(trained, lr=2e-3)
    losses = []
    for _ in range(4):
        loss = packed_loss_sum(model, batch)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]
    changed = {name for name, p in model.named_parameters() if not torch.equal(p, before[name])}
    assert changed == {name for name, p in model.named_parameters() if p.requires_grad}


def logits_of(model: Any, family: str) -> torch.Tensor:
    ids = torch.arange(3, 23)[None]
    more = {"decoder_input_ids": ids[:, :7]} if "t5" in family else {}
    with torch.no_grad():
        return model(input_ids=ids, attention_mask=torch.ones_like(ids), use_cache=False, **more).logits[
            :, -(7 if more else 20) :
        ]


@proven("saved plain")
def test_what_is_saved_is_plain_peft(family: str, method: str, tmp_path: Any) -> None:
    model = adapted_model(family, method)
    make_fast(model)
    model.save_pretrained(str(tmp_path))
    plain = PeftModel.from_pretrained(small_model(family, VOCABULARY), str(tmp_path)).eval()
    expected = logits_of(plain, family)
    torch.testing.assert_close(logits_of(model, family), expected, rtol=1e-4, atol=1e-4)
    assert not torch.allclose(expected, logits_of(small_model(family, VOCABULARY), family), atol=1e-3)


@proven("loaded plain")
def test_a_plain_peft_adapter_loads_here(family: str, method: str, tmp_path: Any) -> None:
    """Made and saved by PEFT alone; with the fast paths it gives the same loss."""
    foreign = adapted_model(family, method)
    foreign.save_pretrained(str(tmp_path))
    examples = examples_of(family)
    with torch.no_grad():
        expected = torch.stack([padded_loss_sum(foreign, [example], pad_id=0) for example in examples]).sum()
        model = PeftModel.from_pretrained(small_model(family, VOCABULARY), str(tmp_path)).eval()
        layout = make_fast(model)
        found = packed_loss_sum(model, layout.pack(examples))
    assert found.item() == pytest.approx(expected.item(), rel=RELATIVE)


def answers_of(model: Any, prompts: list[list[int]]) -> list[list[int]]:
    """Greedy answers, each with its end token."""
    ids = torch.tensor(prompts)
    with generation_settings(base_model_of(model), Sampling(max_new_tokens=8), end_ids=[2], pad_id=0) as settings:
        found = decode(model.eval(), ids, torch.ones_like(ids), settings)
    return [row[: row.index(2) + 1] if 2 in row else row for row in found.tolist()]


@pytest.mark.parametrize("family", ALL_FAMILIES)
@pytest.mark.parametrize("method", ["lora_all_linear", "none"])
def test_eight_records_are_learned_to_the_letter(family: str, method: str) -> None:
    """Packed training, then greedy answers from the prompts alone, each ended by its end token."""
    model = add_adapter(small_model(family, VOCABULARY), replace(settings_of(method), lora_rank=16))
    layout = make_fast(model)
    rng = torch.Generator().manual_seed(0)
    prompts = [[3 + i, *torch.randint(20, VOCABULARY, (5,), generator=rng).tolist()] for i in range(8)]
    answers = [[*torch.randint(20, VOCABULARY, (3 + i % 4,), generator=rng).tolist(), 2] for i in range(8)]
    examples = [
        Example(np.array(p + a, dtype=np.int32), np.array([False] * len(p) + [True] * len(a)), f"record {i}")
        for i, (p, a) in enumerate(zip(prompts, answers, strict=True))
    ]
    batch = layout.pack(examples)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-2, weight_decay=0.0)
    assert answers_of(model, prompts) != answers
    for step in range(1, 401):
        loss = packed_loss_sum(model.train(), batch) / batch.supervised_tokens
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if step % 20 == 0 and answers_of(model, prompts) == answers:
            break
    assert answers_of(model, prompts) == answers


@proven("base kept")
def test_without_its_adapter_the_model_is_the_base(family: str, method: str) -> None:
    model = adapted_model(family, method)
    make_fast(model)
    with model.disable_adapter():
        found = logits_of(model, family)
    torch.testing.assert_close(found, logits_of(small_model(family, VOCABULARY), family), rtol=1e-4, atol=1e-4)


@proven("merged")
def test_merged_equals_unmerged(family: str, method: str) -> None:
    model = adapted_model(family, method)
    expected = logits_of(model, family)
    found = logits_of(merged(model, settings_of(method).peft), family)
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-3)


@proven("unmerged refused")
def test_merging_what_cannot_be_merged_is_refused(family: str, method: str) -> None:
    with pytest.raises(AdapterError, match=f"--peft {method} cannot be merged: its "):
        merged(adapted_model(family, method), method)


@proven("refused")
def test_a_method_that_peft_has_not_for_the_family_is_refused(family: str, method: str) -> None:
    with pytest.raises(AdapterError, match=f"--peft {method} does not work for .*\n.*hoose another of: lora, ptun,"):
        add_adapter(small_model(family, VOCABULARY), settings_of(method))


@proven("answers cached")
def test_answers_equal_whole_passes_over_what_was_said(family: str, method: str) -> None:
    """Cached generation, two prompts of unequal length at once, against one uncached pass over each result."""
    model, pairs = adapted_model(family, method), "t5" in family
    prompts = [list(range(3, 13)), list(range(20, 26))]
    ids = torch.tensor([prompts[0], [0] * 4 + prompts[1]])
    mask = torch.tensor([[1] * 10, [0] * 4 + [1] * 6])
    with generation_settings(base_model_of(model), Sampling(max_new_tokens=6), end_ids=[-1], pad_id=0) as settings:
        answers = decode(model, ids, mask, settings)
    assert answers.shape == (2, 6)
    for prompt, answer in zip(prompts, answers.tolist(), strict=True):
        inside = {"decoder_input_ids": torch.tensor([[0, *answer[:-1]]])} if pairs else {}
        text = torch.tensor([prompt if pairs else [*prompt, *answer[:-1]]])
        with torch.no_grad():
            logits = model(input_ids=text, attention_mask=torch.ones_like(text), use_cache=False, **inside).logits[0]
        assert logits[-6:].argmax(1).tolist() == answer
