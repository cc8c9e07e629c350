"""models/adapters/targets.py: which layers get LoRA where nobody names them, in families that PEFT knows or not."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from support.families import PACKED, PADDED, family_config
from torch import nn

from neuralchat.config.arguments import TuningArguments
from neuralchat.errors import AdapterError
from neuralchat.models.adapters.build import add_adapter
from neuralchat.models.adapters.rehearsal import rehearse, skeleton_of
from neuralchat.models.adapters.targets import ROUTERS, computes_as_linear, is_linear
from neuralchat.models.compat.peft import LORA_TARGETS, Conv1D

PLAIN = TuningArguments(lora_all_linear=False)


def adapted(family: str, tuning: TuningArguments = PLAIN) -> tuple[Any, list[str]]:
    """(a model without memory, with LoRA; what was told)."""
    told: list[str] = []
    with torch.device("meta"):
        return add_adapter(skeleton_of(family_config(family)), tuning, tell=told.append), told


def layers_with_lora(model: Any) -> set[str]:
    return {name for name, module in model.get_base_model().named_modules() if hasattr(module, "lora_A")}


# Of the commands of the original, whose default is not all linear layers (that is held for every family by
# tests/contract/test_families.py). Here are the families whose layers are most unlike others.
UNLIKE = (
    "bart bitnet bloom cohere2 deepseek_v3 falcon falcon_mamba gemma2 glm4 gpt_neox gpt_oss gptj granitemoehybrid "
    "jamba llama4_text mamba2 mixtral olmoe opt phi3 qwen3_next rwkv recurrent_gemma smollm3"
)


@pytest.mark.parametrize("family", UNLIKE.split())
def test_every_family_has_default_layers_and_they_are_told(family: str) -> None:
    model, told = adapted(family)
    layers = layers_with_lora(model)
    assert layers
    base = model.get_base_model()
    assert base.get_output_embeddings() is None or not hasattr(base.get_output_embeddings(), "lora_A")
    names = {layer.rpartition(".")[2] for layer in layers}
    assert names & ROUTERS == set()
    known = LORA_TARGETS.get(base.config.model_type)
    if names <= set(known or ()):
        assert told == []
    else:
        (line,) = told
        assert line.startswith("LoRA is put into all linear layers but the head: ")
        listed = line.partition(": ")[2].partition(" (")[0].split(", ")
        assert names == {name.rpartition(".")[2] for name in listed}


# Families of which PEFT knows no layers.
@pytest.mark.parametrize("family", ["phi3", "olmo2", "smollm3", "glm", "granite", "starcoder2", "cohere", "ministral3"])
def test_all_linear_layers_but_the_head(family: str) -> None:
    if family in LORA_TARGETS:
        pytest.skip("PEFT knows it by now")
    skeleton = skeleton_of(family_config(family))
    head = skeleton.get_output_embeddings()
    linear = {name for name, m in skeleton.named_modules() if isinstance(m, nn.Linear) and m is not head}
    model, told = adapted(family)
    assert layers_with_lora(model) == linear
    assert len(told) == 1


class WrittenOut(nn.Linear):
    def forward(self, input: torch.Tensor) -> torch.Tensor:
        return input @ self.weight.T + self.bias


class Choice(nn.Linear):
    def forward(self, input: torch.Tensor) -> torch.Tensor:
        return super().forward(input).softmax(-1)


class Chooses(nn.Linear):
    def forward(self, input: torch.Tensor, places: int) -> Any:
        return super().forward(input).topk(places)


class OfAConfig(nn.Linear):
    def __init__(self, config: Any) -> None:
        super().__init__(config.hidden_size, config.num_experts)


@pytest.mark.parametrize(
    ("layer", "linear"),
    [
        (nn.Linear(4, 4), True),
        (nn.Linear(4, 4, bias=False), True),
        (Conv1D(4, 4), True),
        (WrittenOut(4, 4), True),
        (Choice(4, 4), False),
        (Chooses(4, 4), False),
        (nn.Embedding(4, 4), False),
        (nn.Identity(), False),
        (OfAConfig(SimpleNamespace(hidden_size=4, num_experts=2)), True),
    ],
    ids=lambda value: type(value).__name__,
)
def test_what_computes_as_a_linear_layer(layer: nn.Module, linear: bool) -> None:
    computes_as_linear.cache_clear()
    before = torch.get_rng_state()
    with torch.device("meta"):
        assert is_linear(layer) == linear
    assert torch.equal(torch.get_rng_state(), before)


# Names that a user gives


@pytest.mark.parametrize(
    "names",
    [
        ["q_proj", "embed_tokens"],
        ["q_proj", "lm_head"],
        ["layers.0.self_attn.q_proj", "self_attn.v_proj"],
        ["model.layers.1.mlp.down_proj"],
        [r".*\.q_proj"],
    ],
)
def test_names_of_layers_are_taken(names: list[str]) -> None:
    model, _ = adapted("llama", TuningArguments(lora_target_modules=names))
    assert layers_with_lora(model)


def test_a_name_of_no_layer_beside_others_is_refused() -> None:
    """PEFT would leave it out without a word."""
    with pytest.raises(AdapterError) as caught:
        adapted("llama", TuningArguments(lora_target_modules=["q_proj", "k_porj", "zzz", "roj"]))
    assert str(caught.value).splitlines() == [
        "--lora_target_modules k_porj: LlamaForCausalLM has no layer of this name; did you mean k_proj?",
        "--lora_target_modules zzz: LlamaForCausalLM has no layer of this name",
        "--lora_target_modules roj: LlamaForCausalLM has no layer of this name; did you mean v_proj?",
        "Its linear layers: down_proj, gate_proj, k_proj, o_proj, q_proj, up_proj, v_proj",
    ]


def test_names_of_experts() -> None:
    # As the published weights have them, PEFT takes them for the parameters that they became.
    model, _ = adapted("mixtral", TuningArguments(lora_target_modules=["w1", "w2", "w3"], lora_dropout=0.0))
    assert any("experts" in layer for layer in layers_with_lora(model))
    with pytest.raises(AdapterError, match=r"gate_up_proj: these are experts, .* --lora_all_linear has LoRA on them"):
        adapted("mixtral", TuningArguments(lora_target_modules=["q_proj", "gate_up_proj"]))


@pytest.mark.parametrize("family", ["mixtral", "gpt_oss"])
@pytest.mark.parametrize(("option", "name"), [({"lora_dora": True}, "DoRA"), ({"lora_init": "pissa"}, "PiSSA")])
def test_what_peft_cannot_do_for_experts_is_told_before_weights_are_loaded(
    family: str, option: dict[str, Any], name: str
) -> None:
    with pytest.raises(AdapterError, match=rf"PEFT has no {name} for experts that are parameters \(.*down_proj"):
        rehearse(family_config(family), TuningArguments(**option))
    rehearse(family_config(family), TuningArguments(lora_target_modules=["q_proj"], lora_all_linear=False, **option))


# The families whose experts are chosen by a layer, or by what once was one.
ROUTED = [name for name, sizes in {**PACKED, **PADDED}.items() if "num_experts" in sizes]


@pytest.mark.parametrize("family", ROUTED)
def test_what_chooses_experts_is_left_alone_unless_it_is_named(family: str) -> None:
    """PEFT's word for all linear layers means routers too, where they once were layers: Mixtral and its like."""
    model, _ = adapted(family, TuningArguments(lora_dropout=0.0))
    layers = layers_with_lora(model)
    assert layers
    assert [layer for layer in layers if ROUTERS & set(layer.split("."))] == []


def test_experts_are_told_beside_the_layers() -> None:
    """The layers alone would read as if nothing else had LoRA."""
    model, told = adapted("jetmoe", TuningArguments(lora_dropout=0.0))
    assert {name.rpartition(".")[2] for name in layers_with_lora(model)} > {"kv_proj"}
    assert told == [
        "LoRA is put into all linear layers but the head: kv_proj, and experts: input_linear.weight, "
        "output_linear.weight (--lora_target_modules names others)"
    ]


def test_a_router_that_is_named_gets_lora() -> None:
    tuning = TuningArguments(lora_target_modules=["gate", "q_proj"], lora_all_linear=False, lora_dropout=0.0)
    model, _ = adapted("mixtral", tuning)
    assert any(layer.endswith(".gate") for layer in layers_with_lora(model))
