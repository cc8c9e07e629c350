"""models/losses/divergence.py, models/adapters/teacher.py: the sum of KL(base || tuned), and its gradients."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from peft import (
    AdaptionPromptConfig,
    IA3Config,
    LoraConfig,
    PrefixTuningConfig,
    PromptTuningConfig,
    get_peft_model,
)
from support.packed import RELATIVE, VOCABULARY
from support.small_models import small_model

from neuralchat.data.packing import pack
from neuralchat.data.tokenization import Example
from neuralchat.models.adapters.teacher import Teacher
from neuralchat.models.adapters.virtual_tokens import virtual_tokens_of
from neuralchat.models.families.packed_layout import leave_packed_rows, take_packed_rows
from neuralchat.models.fast_paths import take_fast_paths
from neuralchat.models.losses.causal import causal_known_states, causal_packed_sums, causal_padded_divergence_sum
from neuralchat.models.losses.divergence import divergence_sum
from neuralchat.models.losses.loss_sum import packed_loss_sum

LINEAR = ["q_proj", "v_proj"]
CONFIGS: dict[str, Any] = {
    "lora": LoraConfig(r=4, lora_alpha=8, target_modules=LINEAR),
    "lora on the head": LoraConfig(r=4, lora_alpha=8, target_modules=[*LINEAR, "lm_head"]),
    "dora": LoraConfig(r=4, lora_alpha=8, use_dora=True, target_modules=LINEAR),
    "ia3": IA3Config(task_type="CAUSAL_LM", target_modules=["k_proj", "down_proj"], feedforward_modules=["down_proj"]),
    "prompt": PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=3),
    "prefix": PrefixTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=3),
    "llama_adapter": AdaptionPromptConfig(task_type="CAUSAL_LM", adapter_len=3, adapter_layers=2),
}

# Its gates let little through.
SPREAD = {"llama_adapter": 1.0}


def examples() -> list[Example]:
    random = np.random.default_rng(0)
    begin = random.integers(1, VOCABULARY, 9)
    rows = [np.concatenate([begin, random.integers(1, VOCABULARY, size)]).astype(np.int32) for size in (3, 7, 5)]
    firsts = np.cumsum([0, *(len(row) - len(begin) for row in rows)])
    return [
        Example(row, np.arange(len(row)) >= len(begin), "made up", first_known=int(first))
        for row, first in zip(rows, firsts, strict=False)
    ]


def tuned(method: str) -> Any:
    """A model whose adapter changes what it says."""
    torch.manual_seed(0)
    model = get_peft_model(small_model("llama", VOCABULARY), CONFIGS[method])
    for name, parameter in model.named_parameters():
        if parameter.requires_grad and "magnitude" not in name:
            torch.nn.init.normal_(parameter, mean=1.0 if method == "ia3" else 0.0, std=SPREAD.get(method, 0.1))
    return model.eval()


def reference(model: Any, untouched: Any) -> tuple[float, dict[str, torch.Tensor]]:
    """Whole logits of the tuned model and of a model that never had an adapter, one example at a time."""
    model.zero_grad()
    total = torch.zeros(())
    for example in examples():
        ids = torch.from_numpy(example.input_ids.astype(np.int64))[None]
        size = ids.shape[1]
        with torch.no_grad():
            known = untouched(input_ids=ids).logits[0]
        said = model(input_ids=ids, attention_mask=torch.ones_like(ids), use_cache=False).logits[0, -size:]
        places = np.flatnonzero(example.supervised) - 1
        p, q = (logits[places].double().softmax(dim=1) for logits in (known, said))
        total = total + (p * (p.log() - q.log())).sum()
    total.backward()
    return total.item(), gradients(model)


def shake(model: Any) -> None:
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.02 * torch.randn_like(parameter)


def gradients(model: Any) -> dict[str, torch.Tensor]:
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.requires_grad and p.grad is not None}


def assert_same(found: tuple[float, dict[str, torch.Tensor]], wanted: tuple[float, dict[str, torch.Tensor]]) -> None:
    assert wanted[0] > 1e-3
    assert found[0] == pytest.approx(wanted[0], rel=RELATIVE)
    assert found[1].keys() == wanted[1].keys()
    for name, gradient in wanted[1].items():
        torch.testing.assert_close(found[1][name], gradient, rtol=1e-4, atol=1e-5 * gradient.abs().max().item())


@pytest.mark.parametrize("method", CONFIGS)
def test_packed_and_padded_equal_a_model_without_adapter(method: str) -> None:
    model, untouched = tuned(method), small_model("llama", VOCABULARY).eval()
    wanted = reference(model, untouched)
    teacher = Teacher(model, trains_base=False)
    model.zero_grad()
    padded = causal_padded_divergence_sum(model, teacher, examples(), pad_id=0)
    padded.backward()
    assert_same((padded.item(), gradients(model)), wanted)
    take_fast_paths(model, compile_kernels=True)
    assert take_packed_rows(model) is not None
    model.zero_grad()
    known = causal_known_states(model, teacher, [examples()[:1], examples()[1:]])
    loss, packed = causal_packed_sums(model, pack(examples(), virtual=virtual_tokens_of(model)), known)
    assert loss.item() == 0.0
    packed.backward()
    assert_same((packed.item(), gradients(model)), wanted)
    leave_packed_rows(model)


def test_all_weights_are_compared_with_a_copy_from_before() -> None:
    model = small_model("llama", VOCABULARY).eval()
    teacher = Teacher(model, trains_base=True)
    shake(model)
    wanted = reference(model, small_model("llama", VOCABULARY).eval())
    model.zero_grad()
    padded = causal_padded_divergence_sum(model, teacher, examples(), pad_id=0)
    padded.backward()
    assert_same((padded.item(), gradients(model)), wanted)


def test_all_weights_in_packed_rows_are_compared_with_what_was_said_before() -> None:
    model, untouched = (small_model("llama", VOCABULARY).eval() for _ in range(2))
    take_packed_rows(model)
    known = causal_known_states(model, Teacher(model, trains_base=True), [examples()])
    shake(model)
    causal_packed_sums(model, pack(examples()), known)[1].backward()
    found = causal_packed_sums(model, pack(examples()), known)[1].item(), gradients(model)
    leave_packed_rows(model)
    assert_same(found, reference(model, untouched))


def test_learned_and_compared_in_one_row() -> None:
    """Each sum is what it is without the other."""
    model = tuned("lora")
    learned = [Example(e.input_ids[::-1].copy(), e.supervised, "learned") for e in examples()]
    take_packed_rows(model)
    known = causal_known_states(model, Teacher(model, trains_base=False), [examples()])
    loss, divergence = causal_packed_sums(model, pack([*learned, *examples()]), known)
    assert loss.item() == pytest.approx(packed_loss_sum(model, pack(learned)).item(), rel=RELATIVE)
    alone = causal_packed_sums(model, pack(examples()), known)[1]
    assert divergence.item() == pytest.approx(alone.item(), rel=RELATIVE)
    batch = pack([*learned, *examples()])
    assert (batch.tokens, batch.supervised_tokens, len(batch.sources)) == (42, 15, 3)


def test_the_model_is_as_it_was_afterwards() -> None:
    model = tuned("lora").train()
    with Teacher(model, trains_base=False).at_hand(model) as base:
        assert not base.training
        assert not torch.is_grad_enabled()
    assert torch.is_grad_enabled()
    assert {module.training for module in model.modules()} == {True}


def test_a_head_with_a_bias_in_several_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("neuralchat.models.losses.supervised.chunk_rows", lambda _vocabulary: 3)
    torch.manual_seed(0)
    head, teacher_head = torch.nn.Linear(8, 11), torch.nn.Linear(8, 11)
    states, known = torch.randn(7, 8, requires_grad=True), torch.randn(7, 8)
    divergence_sum(states, head, known, teacher_head).backward()
    found = [states.grad, head.weight.grad, head.bias.grad]
    states.grad = head.weight.grad = head.bias.grad = None
    p, q = (logits.softmax(dim=1) for logits in (teacher_head(known).detach(), head(states)))
    (p * (p / q).log()).sum().backward()
    for one, other in zip(found, [states.grad, head.weight.grad, head.bias.grad], strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)
