"""The merged model gives the logits of base model and adapter, whatever matrices are shared."""

from __future__ import annotations

import copy
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from support.small_models import small_config, small_model
from transformers import AutoModelForCausalLM, AutoModelForSeq2SeqLM

from neuralchat.errors import AdapterError
from neuralchat.models.adapters import merging
from neuralchat.models.adapters.merging import measured_merge, merged

VOCABULARY = 97
IDS = torch.arange(3, 20)[None]
# Family, layers with LoRA, whether a head that was the embedding's matrix is one of its own afterwards.
TIED = [
    ("llama", ["lm_head"], True),
    ("llama", ["embed_tokens"], True),
    ("llama", ["embed_tokens", "lm_head"], True),
    ("llama", ["embed_tokens", "lm_head", "q_proj"], True),
    ("llama", ["q_proj", "down_proj"], False),
    ("gpt2", ["wte"], True),
    ("gpt2", ["wte", "lm_head", "c_attn"], True),
    ("gpt2", ["c_attn"], False),
    ("mpt", ["wte", "Wqkv"], True),
    ("t5", ["lm_head"], True),
]


def adapted(family: str, targets: list[str]) -> Any:
    model = small_model(family, VOCABULARY)
    kind = "SEQ_2_SEQ_LM" if model.config.is_encoder_decoder else "CAUSAL_LM"
    model = get_peft_model(model, LoraConfig(r=4, lora_alpha=8, target_modules=targets, task_type=kind))
    torch.manual_seed(1)
    for name, parameter in model.named_parameters():
        if "lora_" in name:
            torch.nn.init.normal_(parameter, std=0.2)
    return model.eval()


def logits_of(model: Any) -> torch.Tensor:
    decoder = {"decoder_input_ids": IDS[:, :5]} if model.config.is_encoder_decoder else {}
    with torch.no_grad():
        return model(input_ids=IDS, use_cache=False, **decoder).logits


@pytest.mark.parametrize(("family", "targets", "untied"), TIED)
def test_lora_on_a_matrix_that_head_and_embedding_share(
    tmp_path: Path, family: str, targets: list[str], untied: bool
) -> None:
    assert small_config(family, VOCABULARY).tie_word_embeddings
    model = adapted(family, targets)
    expected = logits_of(model.get_base_model())
    assert (expected - logits_of(small_model(family, VOCABULARY))).norm() > 0.01 * expected.norm()
    whole = merged(model, "lora")
    torch.testing.assert_close(logits_of(whole), expected, rtol=1e-4, atol=1e-4)
    # And as others read it.
    whole.save_pretrained(tmp_path)
    kind: Any = AutoModelForSeq2SeqLM if whole.config.is_encoder_decoder else AutoModelForCausalLM
    again = kind.from_pretrained(tmp_path).eval()
    torch.testing.assert_close(logits_of(again), expected, rtol=1e-4, atol=1e-4)
    assert (again.get_output_embeddings().weight is again.get_input_embeddings().weight) == (not untied)
    # T5's configuration says so always, and the weights decide.
    assert again.config.tie_word_embeddings == (not untied or family == "t5")


def test_a_merge_that_gives_another_model_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """As that of a shared matrix would be, were it left shared."""
    monkeypatch.setattr(merging, "untie_adapted_head", lambda base: None)
    with pytest.raises(AdapterError, match=r"the merged model is another one .* Nothing was written"):
        merged(adapted("llama", ["embed_tokens", "lm_head"]), "lora")


def test_how_far_rounding_moves_is_told_beside_what_is_moved() -> None:
    """Against the logits of two forward passes: in fp32 with the adapter, and of the merged model in bf16."""
    model = adapted("llama", ["q_proj", "down_proj"]).to(torch.bfloat16)
    ids = [int(i) for i in torch.randint(3, 90, (40,), generator=torch.Generator().manual_seed(2))]
    whole, told = measured_merge(copy.deepcopy(model), "lora", ids=ids)
    with torch.no_grad():
        expected = model.float().get_base_model()(torch.tensor([ids])).logits[0]
        found = whole(torch.tensor([ids])).logits[0].float()
    changed = int((expected.argmax(-1) != found.argmax(-1)).sum())
    largest, size = float((expected - found).abs().max()), float(expected.pow(2).mean().sqrt())
    words = re.fullmatch(
        r"merging moves no logit by more than \S+; storing and computing it in bfloat16 by up to (\S+), where they are "
        r"about (\S+) in size: the logits differ by (\S+) % in all, the likeliest next token at (\d+) of 40 "
        "positions of general prompts",
        told,
    )
    assert words is not None, told
    assert [float(word) for word in words.groups()[:3]] == pytest.approx(
        [largest, size, 100 * float((expected - found).norm() / expected.norm())], rel=0.1
    )
    assert int(words[4]) == changed


def test_a_merge_that_rounding_makes_another_model_is_refused_unless_allowed() -> None:
    """As after a training that went astray: attention that looks at one place alone looks at another in bf16."""
    model = small_model("llama", VOCABULARY).to(torch.bfloat16)
    model = get_peft_model(model, LoraConfig(r=4, lora_alpha=8, target_modules=["q_proj", "k_proj"]))
    torch.manual_seed(1)
    for name, parameter in model.named_parameters():
        if "lora_" in name:
            torch.nn.init.normal_(parameter, std=30.0)
    with pytest.raises(
        AdapterError, match=r"differ by \d\d % of their size, and the likeliest next token at \d+ of 16 "
    ):
        measured_merge(copy.deepcopy(model), "lora")
    assert "made-up tokens" in measured_merge(model, "lora", allow_lossy=True)[1]


def test_a_merge_that_gives_no_numbers_is_refused() -> None:
    model = adapted("llama_mha", ["q_proj"])
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            parameter.data[0, 0] = float("nan")
    with pytest.raises(AdapterError, match="the merged model is another one"):
        merged(model, "lora")
