"""Each internal name of a library that models/compat uses is what it was when its use was written.

A test that fails here names what an upgrade has changed; only the file of that library in models/compat and the module
of the family need to follow.
"""

from __future__ import annotations

import ast
import ctypes
import inspect
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
import transformers
from peft import LoraConfig, PrefixTuningConfig, get_peft_model
from support.small_models import make_tokenizer, save_checkpoint, small_model
from torch import nn
from torch.distributed.elastic.multiprocessing.errors import ProcessFailure
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import eager_mask, sdpa_mask
from transformers.models.llama import modeling_llama
from transformers.models.t5.modeling_t5 import T5LayerNorm

import neuralchat
from neuralchat.models.compat import llama_cpp as llama_compat
from neuralchat.models.compat import peft as peft_compat
from neuralchat.models.compat import torch as torch_compat
from neuralchat.models.compat import torch_elastic
from neuralchat.models.compat import trainer as trainer_compat
from neuralchat.models.compat import transformers as transformers_compat
from neuralchat.models.compat.transformers_models import MptAttention, t5_eager_attention

SOURCE = Path(neuralchat.__file__).parent
COMPAT = SOURCE / "models" / "compat"


# torch


@pytest.mark.parametrize("causal", [True, False])
def test_flash_attention_gives_the_log_sum_exp_of_its_scores(causal: bool) -> None:
    torch.manual_seed(0)
    q, k, v = (torch.randn(1, 3, 7, 16) for _ in range(3))
    output, lse = torch_compat.flash_forward(q, k, v, 0.0, causal, scale=0.3)
    scores = q @ k.transpose(2, 3) * 0.3
    if causal:
        scores = scores.masked_fill(torch.ones(7, 7, dtype=torch.bool).triu(1), -math.inf)
    torch.testing.assert_close(lse.reshape(1, 3, 7), torch.logsumexp(scores, dim=-1))
    torch.testing.assert_close(output, torch.softmax(scores, dim=-1) @ v)


def test_flash_attention_has_a_backward_that_takes_the_log_sum_exp() -> None:
    torch.manual_seed(0)
    q, k, v = (torch.randn(1, 3, 7, 16, requires_grad=True) for _ in range(3))
    grad = torch.randn(1, 3, 7, 16)
    expected = torch.autograd.grad(torch.softmax(q @ k.transpose(2, 3) * 0.3, dim=-1) @ v, (q, k, v), grad)
    with torch.no_grad():
        output, lse = torch_compat.flash_forward(q, k, v, 0.0, False, scale=0.3)
        found = torch_compat.flash_backward(grad, q, k, v, output, lse, 0.0, False, scale=0.3)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("bias", [True, False])
def test_onednn_linear_is_a_linear_layer(bias: bool) -> None:
    if not torch.backends.mkldnn.is_available():
        pytest.skip("this build of torch has no oneDNN")
    assert torch_compat.onednn_linear_available(), "torch.ops.mkldnn._linear_pointwise is gone"
    torch.manual_seed(0)
    x, weight, offset = torch.randn(2, 5, 8), torch.randn(6, 8), torch.randn(6) if bias else None
    torch.testing.assert_close(torch_compat.onednn_linear(x, weight, offset), nn.functional.linear(x, weight, offset))


@pytest.mark.parametrize("register", ["register_forward_hook", "register_forward_pre_hook"])
def test_hooks_are_found_where_modules_keep_them(register: str) -> None:
    module = nn.Linear(2, 2)
    assert not torch_compat.is_hooked(module)
    handle = getattr(module, register)(lambda *_: None)
    assert torch_compat.is_hooked(module)
    handle.remove()
    assert not torch_compat.is_hooked(module)


def test_libtorch_calls_an_openmp_that_gcc_calls_too() -> None:
    if not torch.backends.openmp.is_available():
        pytest.skip("this build of torch has no OpenMP")
    assert isinstance(torch_compat.openmp_entry(), ctypes.c_void_p)
    assert torch_compat.openmp_entry().value, "GOMP_parallel is not in libtorch_cpu.so"


def test_the_launcher_of_local_processes() -> None:
    fields = inspect.signature(torch_elastic.LaunchConfig).parameters
    used = (
        "min_nodes", "max_nodes", "nproc_per_node", "run_id", "rdzv_backend", "rdzv_endpoint", "local_addr",
        "max_restarts", "shutdown_timeout",
    )  # fmt: skip
    assert set(used) <= fields.keys()
    arguments = list(inspect.signature(torch_elastic.elastic_launch.__init__).parameters)
    assert arguments[:3] == ["self", "config", "entrypoint"]
    assert torch_elastic.SignalException("stopped", 2).sigval == 2
    failures = {rank: ProcessFailure(rank, 100 + rank, 3, error_file="") for rank in (0, 1)}
    failures[0].timestamp, failures[1].timestamp = 2, 1
    assert torch_elastic.ChildFailedError("name", failures).get_first_failure() == (1, failures[1])


# PEFT


def lora_layer(**options: Any) -> Any:
    model = get_peft_model(nn.Sequential(nn.Linear(6, 8)), LoraConfig(r=2, target_modules=["0"], **options))
    return model.base_model.model[0]


def test_the_lora_layer_around_a_linear_one() -> None:
    torch.manual_seed(0)
    layer = lora_layer(lora_alpha=6, init_lora_weights=False, lora_dropout=0.5)
    assert type(layer) is peft_compat.LoraLinear, "the class of PEFT's layer around nn.Linear is another one"
    lora = peft_compat.plain_lora(layer.eval())
    assert lora is not None
    x = torch.randn(3, 6)
    expected = layer.base_layer(x) + lora.scaling * lora.dropout(x) @ lora.a.t() @ lora.b.t()
    torch.testing.assert_close(layer(x), expected)
    assert lora.scaling == 3


def test_the_lora_layers_that_a_gguf_adapter_is_written_from() -> None:
    """All are LoraLayers, and that around words is told from the others."""
    layers = nn.Sequential(nn.Embedding(6, 4), nn.Linear(4, 8))
    words, linear = get_peft_model(layers, LoraConfig(r=2, target_modules=["0", "1"])).base_model.model
    assert isinstance(words, peft_compat.LoraLayer)
    assert isinstance(linear, peft_compat.LoraLayer)
    assert isinstance(words, peft_compat.LoraEmbedding)
    assert not isinstance(linear, peft_compat.LoraEmbedding)


@pytest.mark.parametrize("change", ["disabled", "merged", "dora", "bias"])
def test_a_lora_layer_that_is_no_longer_plain(change: str) -> None:
    options = {"dora": {"use_dora": True}, "bias": {"lora_bias": True}}
    layer = lora_layer(**options.get(change, {}))
    if change == "disabled":
        layer.enable_adapters(False)
    elif change == "merged":
        layer.merge()
    assert peft_compat.plain_lora(layer) is None


@pytest.mark.parametrize("family", ["llama", "flan_t5"])
def test_prefix_tuning_gives_a_cache_of_keys_and_values(family: str) -> None:
    task = "SEQ_2_SEQ_LM" if family == "flan_t5" else "CAUSAL_LM"
    model = get_peft_model(small_model(family), PrefixTuningConfig(task_type=task, num_virtual_tokens=5))
    found = peft_compat.leading_keys_values_of(model.get_prompt(batch_size=1))
    heads = 2 if family == "llama" else 4
    assert [(keys.shape, values.shape) for keys, values in found] == [((1, heads, 5, 8), (1, heads, 5, 8))] * 2


# transformers


def test_a_file_that_a_checkpoint_does_not_have(tmp_path: Path) -> None:
    assert transformers_compat.file_of_checkpoint(str(tmp_path), "tokenizer_config.json") is None
    (tmp_path / "tokenizer_config.json").write_text("{}")
    found = transformers_compat.file_of_checkpoint(str(tmp_path), "tokenizer_config.json")
    assert found == str(tmp_path / "tokenizer_config.json")


def test_a_model_can_forget_that_it_was_quantized(tmp_path: Path) -> None:
    model = small_model("llama")
    # As GGUF files are read: the configuration goes on to call the widened weights quantized.
    model.config.quantization_config = {"quant_method": "gguf"}
    model.is_quantized, model.hf_quantizer = True, object()
    transformers_compat.forget_quantization(model)
    model.save_pretrained(tmp_path)
    assert "quantization_config" not in (tmp_path / "config.json").read_text()
    again = transformers.AutoModelForCausalLM.from_pretrained(tmp_path)
    assert torch.equal(again.lm_head.weight, model.lm_head.weight)


@pytest.mark.parametrize("family", ["llama", "mistral", "qwen2"])
def test_attention_calls_a_rotary_function_of_its_module(family: str) -> None:
    layer = small_model(family).model.layers[0].self_attn
    plain = transformers_compat.rotary_function(type(layer))
    assert plain is not None, f"{type(layer).__name__}.forward does not call {transformers_compat.ROTARY} any more"
    assert list(inspect.signature(plain).parameters)[:4] == ["q", "k", "cos", "sin"]


def test_a_subclass_with_another_rotary_function_is_the_same_otherwise() -> None:
    plain = modeling_llama.apply_rotary_pos_emb
    calls: list[tuple[Any, ...]] = []

    def counted(*args: Any) -> Any:
        calls.append(args)
        return plain(*args)

    model, other = small_model("llama"), small_model("llama")
    layer = model.model.layers[0].self_attn
    layer.__class__ = transformers_compat.with_rotary_function(type(layer), counted)
    ids = torch.arange(3, 12)[None]
    assert torch.equal(model(input_ids=ids).logits, other(input_ids=ids).logits)
    assert len(calls) == 1
    assert modeling_llama.apply_rotary_pos_emb is plain
    assert transformers_compat.rotary_function(type(other.model.layers[0].self_attn)) is plain


def test_a_class_without_rotary_positions_has_no_such_function() -> None:
    assert transformers_compat.rotary_function(MptAttention) is None


def test_the_attention_interfaces_hand_out_sdpa_and_eager() -> None:
    assert transformers.AttentionInterface()["sdpa"] is sdpa_attention_forward
    assert transformers.AttentionMaskInterface()["sdpa"] is sdpa_mask
    assert transformers.AttentionMaskInterface()["eager"] is eager_mask


@pytest.mark.parametrize(("family", "expected"), [("llama", True), ("gpt2", True), ("mpt", False)])
def test_a_model_says_whether_it_calls_the_attention_interface(family: str, expected: bool) -> None:
    assert small_model(family).is_backend_compatible() is expected


# Layers of transformers' models that the modules of families/ read


def test_the_parts_of_mpt() -> None:
    base = small_model("mpt")
    decoder, attention = base.base_model, base.base_model.blocks[0].attn
    assert type(attention) is MptAttention
    assert list(inspect.signature(MptAttention.forward).parameters)[1:3] == ["hidden_states", "position_bias"]
    parts = ("Wqkv", "out_proj", "n_heads", "clip_qkv", "softmax_scale", "attn_dropout_p", "layer_idx")
    assert [name for name in parts if not hasattr(attention, name)] == []
    assert type(decoder.norm_f) is nn.LayerNorm
    # The bias of the last query: minus the slope for the key before it, nothing for itself. For 4 heads the slopes are
    # 2 ** -2, -4, -6, -8 (https://arxiv.org/abs/2108.12409, section 3).
    bias = decoder.build_mpt_alibi_tensor(decoder.num_heads, 2)
    assert bias[:, 0].tolist() == [[-(2.0**-n), 0.0] for n in (2, 4, 6, 8)]
    assert [getattr(base.config, name) for name in ("n_layers", "d_model", "n_heads")] == [2, 32, 4]


def test_the_parts_of_t5() -> None:
    base = small_model("flan_t5")
    for stack in (base.encoder, base.decoder):
        block = stack.block[0]
        attention = block.layer[0].SelfAttention
        assert {"position_bias", "encoder_hidden_states", "encoder_decoder_position_bias"} <= set(
            inspect.signature(block.forward).parameters
        )
        assert [name for name in ("is_causal", "is_decoder", "layer_idx") if not hasattr(attention, name)] == []
        assert [type(part) for part in (stack.dropout, stack.final_layer_norm)] == [nn.Dropout, T5LayerNorm]
        # One query amid seven keys: the row of its own position in the whole table.
        whole = attention.compute_bias(7, 7)
        one = attention.compute_bias(1, 7, past_seen_tokens=3)
        assert torch.equal(one[0, :, 0], whole[0, :, 3])
    assert isinstance(base.model_dim, int)
    assert isinstance(base.config.scale_decoder_outputs, bool)


def test_the_eager_attention_of_t5() -> None:
    torch.manual_seed(0)
    q, k, v, bias = torch.randn(1, 4, 3, 8), torch.randn(1, 4, 3, 8), torch.randn(1, 4, 3, 8), torch.randn(1, 4, 3, 3)
    attention = small_model("flan_t5").encoder.block[0].layer[0].SelfAttention
    output, _ = t5_eager_attention(attention, q, k, v, None, scaling=1.0, dropout=0.0, position_bias=bias)
    expected = torch.softmax(q @ k.transpose(2, 3) + bias, dim=-1) @ v
    torch.testing.assert_close(output, expected.transpose(1, 2))


# The parts of Trainer


def test_parts_of_the_trainer() -> None:
    model = small_model("llama")
    every = {name for name, _ in model.named_parameters(remove_duplicate=False)}
    decayed = trainer_compat.decayed_names(model)
    assert decayed < every
    assert {name for name in every - decayed if "norm" not in name} == set()
    assert trainer_compat.is_optimizer_factory(torch.optim.AdamW) is False
    assert [c.__name__ for c in trainer_compat.get_reporting_integration_callbacks([])] == []
    wanted = ["callbacks", "model", "processing_class", "optimizer", "lr_scheduler"]
    assert list(inspect.signature(trainer_compat.CallbackHandler).parameters) == wanted
    assert isinstance(transformers.TrainerControl(), trainer_compat.ExportableState)
    assert "greedy" in {kind.value for kind in transformers.SchedulerType}


def test_noise_on_embeddings_is_a_forward_hook() -> None:
    embedding = torch.nn.Embedding(3, 4)
    embedding.neftune_noise_alpha = 1.0
    embedding.register_forward_hook(trainer_compat.neftune_post_forward_hook)
    ids = torch.zeros(1, 2, dtype=torch.long)
    assert not torch.equal(embedding.train()(ids), embedding.weight[ids])
    assert torch.equal(embedding.eval()(ids), embedding.weight[ids])


def test_special_tokens_are_those_of_the_tokenizer() -> None:
    model, tokenizer = small_model("llama"), make_tokenizer()
    model.config.eos_token_id = 5
    trainer_compat.align_special_tokens(model, tokenizer)
    assert model.config.eos_token_id == tokenizer.eos_token_id


# No such name outside models/compat


# Public in spite of their underscore, by the documentation of the standard library.
PUBLIC = {"_replace", "_asdict", "_fields", "_exit"}
# Modules of the libraries that their documentation does not name.
INTERNAL_MODULES = (
    "transformers.models.", "transformers.masking_utils", "transformers.modeling_utils", "transformers.integrations",
    "transformers.trainer_callback", "transformers.trainer_optimizer",
    "peft.tuners.", "peft.utils.", "accelerate.state", "accelerate.utils.", "torch.distributed.elastic.",
    "torch.distributed.launcher.", "torch._",
)  # fmt: skip
INTERNAL_OPERATORS = ("torch.ops.",)


def private_names(path: Path) -> Iterator[str]:
    """Every use of an attribute of something else whose name says that it is private, or of a module that is."""
    own = str(path.relative_to(SOURCE))
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        names = []
        if isinstance(node, ast.Attribute):
            of_self = isinstance(node.value, ast.Name) and node.value.id in ("self", "cls")
            private = node.attr.startswith("_") and not node.attr.startswith("__") and not of_self
            internal = ast.unparse(node).startswith(INTERNAL_OPERATORS)
            names = [node.attr] if private or internal else []
        elif isinstance(node, ast.ImportFrom) and node.module and not node.module.startswith("neuralchat"):
            names = [node.module] if f"{node.module}.".startswith(INTERNAL_MODULES) else []
            names += [alias.name for alias in node.names if alias.name.startswith("_")]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names if f"{alias.name}.".startswith(INTERNAL_MODULES)]
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in ("getattr", "setattr"):
            name = node.args[1]
            names = [name.value] if isinstance(name, ast.Constant) and str(name.value).startswith("_") else []
        elif isinstance(node, ast.keyword) and node.arg and node.arg.startswith("_"):
            names = [node.arg]
        yield from (f"{own}:{getattr(node, 'lineno', 0)} {name}" for name in names if name not in PUBLIC)


def test_no_other_file_touches_an_internal_name() -> None:
    files = [path for path in SOURCE.rglob("*.py") if COMPAT not in path.parents]
    assert len(files) > 50
    found = [name for path in files for name in private_names(path)]
    assert found == [], "move these to models/compat, with a line of reason and a test here"


def test_what_the_search_would_find(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(globals(), "SOURCE", tmp_path)
    file = tmp_path / "module.py"
    file.write_text(
        "import transformers.masking_utils\nfrom peft.tuners.lora.layer import Linear\nfrom torch import _six\n"
        "model._tr_loss\ngetattr(config, '_commit_hash')\ntorch.ops.aten.add\nload(name, _raise=False)\n"
        "self._own\nrow._replace(a=1)\n"
    )
    found = {line.split()[1] for line in private_names(file)}
    assert found >= {
        "transformers.masking_utils", "peft.tuners.lora.layer", "_six", "_tr_loss", "_commit_hash", "_raise",
    }  # fmt: skip
    assert not found & {"_own", "_replace"}
    assert any(line.startswith("module.py:6 ") for line in private_names(file))


def test_checkpoints_without_a_quantization_are_saved_as_before(tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "model")
    model = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "model")
    transformers_compat.forget_quantization(model)
    model.save_pretrained(tmp_path / "again")
    files = [(tmp_path / name / "model.safetensors").read_bytes() for name in ("model", "again")]
    assert files[0] == files[1]


# llama.cpp


def test_llama_cpp_has_a_quantizer_of_blocks() -> None:
    """What it computes: tests/unit/export/test_export.py."""
    pytest.importorskip("xllamacpp", reason="the extra 'llamacpp' is not installed")
    values = np.linspace(-1, 1, 512, dtype=np.float32).reshape(2, 256)
    found = llama_compat.quantized(values, gguf.GGMLQuantizationType.Q4_K)
    assert found.shape == (2, 144)
    read = gguf.quants.dequantize(found, gguf.GGMLQuantizationType.Q4_K)
    assert np.abs(read - values).max() < 0.05
