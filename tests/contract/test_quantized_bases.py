"""Every family in 8 and 4 bits: what is trained on it is what plain PEFT trains on a model of the same numbers."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from support.cells import TAKES_LLAMA_ADAPTER, settings_of
from support.packed import RELATIVE, VOCABULARY, random_examples
from support.small_models import save_checkpoint, small_model

from neuralchat.errors import ModelError
from neuralchat.models.adapters.build import add_adapter, base_model_of
from neuralchat.models.adapters.merging import measured_merge
from neuralchat.models.compat.quantizing_load import QuantizingLoad
from neuralchat.models.families.packed_layout import take_packed_rows
from neuralchat.models.fast_paths import take_fast_paths
from neuralchat.models.layers.quantized_linear import QuantizedLinear
from neuralchat.models.loading.base_model import ModelSource, load_config, load_model
from neuralchat.models.loading.precision import Precision
from neuralchat.models.losses.loss_sum import packed_loss_sum, padded_loss_sum
from neuralchat.models.quantization.formats import BIT_FORMATS

FAMILIES = ("llama", "llama_mha", "llama_bias", "mistral", "qwen2", "gpt_neox", "mpt", "t5", "flan_t5")
CELLS = [
    *((family, "lora") for family in FAMILIES),
    *(("llama", method) for method in ("lora_all_linear", "prompt", "prefix", "ptun", "ia3", "llama_adapter")),
    *(("t5", method) for method in ("prefix", "ia3")),
    ("mpt", "prompt"),
]


def loaded_in(directory: Path, bits: int) -> Any:
    source = ModelSource(name=str(directory))
    return load_model(source, load_config(source), Precision(storage=torch.float32, compute=torch.float32, bits=bits))


def plain_with_numbers_of(model: Any, directory: Path) -> Any:
    """transformers' own model of `directory`; its weights that `model` keeps in few bits are what those stand for."""
    config = transformers.AutoConfig.from_pretrained(directory)
    kind: Any = transformers.AutoModelForSeq2SeqLM if config.is_encoder_decoder else transformers.AutoModelForCausalLM
    plain = kind.from_pretrained(directory, dtype=torch.float32).requires_grad_(False).eval()
    with torch.no_grad():
        for path, module in model.named_modules():
            if isinstance(module, QuantizedLinear):
                identity = torch.eye(module.in_features)
                # Through the layer itself, by unit vectors.
                matrix = module(identity).t() - (0 if module.bias is None else module.bias[:, None])
                plain.get_submodule(path).weight.copy_(matrix)
    return plain


@pytest.fixture(scope="module")
def directories(tmp_path_factory: pytest.TempPathFactory) -> Any:
    @cache
    def directory(family: str) -> Path:
        path = tmp_path_factory.mktemp("quantized") / family
        small_model(family, VOCABULARY).save_pretrained(path)
        return path

    return directory


def adapted(model: Any, method: str) -> Any:
    torch.manual_seed(1)
    found = add_adapter(model, settings_of(method))
    for parameter in found.parameters():
        if parameter.requires_grad:
            parameter.data += 0.05 * torch.randn_like(parameter)
    return found.eval()


def gradients(model: Any, loss: torch.Tensor) -> dict[str, torch.Tensor]:
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    return dict(zip(trained, torch.autograd.grad(loss, list(trained.values())), strict=True))


@pytest.mark.parametrize("bits", BIT_FORMATS)
@pytest.mark.parametrize(("family", "method"), CELLS)
def test_packed_training_is_that_of_plain_peft(directories: Any, family: str, method: str, bits: int) -> None:
    assert method != "llama_adapter" or family in TAKES_LLAMA_ADAPTER
    directory, examples = directories(family), random_examples(2, 7, prefixes=(12, 9, 3))
    model = loaded_in(directory, bits)
    left = [module for module in model.modules() if type(module) is torch.nn.Linear]
    assert left == [model.get_output_embeddings()]
    reference = adapted(plain_with_numbers_of(model, directory), method)
    expected_loss = torch.stack([padded_loss_sum(reference, [example], pad_id=0) for example in examples]).sum()
    expected = gradients(reference, expected_loss)
    model = adapted(model, method)
    take_fast_paths(model, compile_kernels=True)
    layout = take_packed_rows(model)
    assert layout is not None
    loss = packed_loss_sum(model, layout.pack(examples))
    assert loss.item() == pytest.approx(expected_loss.item(), rel=RELATIVE)
    found = gradients(model, loss)
    size = torch.stack([gradient.norm() for gradient in expected.values()]).norm()
    for name, gradient in expected.items():
        assert (found[name] - gradient).norm() <= 2 * RELATIVE * size, name
    # And recomputed.
    base_model_of(model).gradient_checkpointing_enable()
    model.train()
    again = packed_loss_sum(model, layout.pack(examples))
    assert again.item() == pytest.approx(expected_loss.item(), rel=RELATIVE)
    for name, gradient in gradients(model, again).items():
        assert (gradient - expected[name]).norm() <= 2 * RELATIVE * size, name


@pytest.mark.parametrize("bits", BIT_FORMATS)
def test_embeddings_and_head_are_as_they_were(directories: Any, bits: int) -> None:
    for family in ("llama", "llama_mha", "flan_t5"):
        model, plain = loaded_in(directories(family), bits), small_model(family, VOCABULARY)
        for name in ("get_input_embeddings", "get_output_embeddings"):
            assert torch.equal(getattr(model, name)().weight, getattr(plain, name)().weight)


@pytest.mark.parametrize("bits", BIT_FORMATS)
def test_nothing_of_the_marks_of_a_quantized_model_is_left(directories: Any, bits: int) -> None:
    model = loaded_in(directories("llama"), bits)
    assert not getattr(model, "is_quantized", False)
    assert not hasattr(model, "hf_quantizer")
    assert not {"quantization_config", "_is_quantized"} & set(vars(model.config))


def test_a_model_without_linear_layers_is_refused(directories: Any) -> None:
    with pytest.raises(ModelError, match=r"--bits 8: model .* has no linear layers"):
        loaded_in(directories("gpt2"), 8)


@pytest.mark.parametrize("bits", BIT_FORMATS)
def test_a_broken_weight_is_refused(tmp_path: Path, bits: int) -> None:
    model = small_model("llama", VOCABULARY)
    model.base_model.layers[1].mlp.up_proj.weight.data[3, 5] = float("nan")
    model.save_pretrained(tmp_path)
    with pytest.raises(ModelError, match=r"1 weight\(s\), such as model.layers.1.mlp.up_proj.weight, hold numbers"):
        loaded_in(tmp_path, bits)


@pytest.mark.parametrize("bits", BIT_FORMATS)
@pytest.mark.parametrize("family", ["llama", "mpt", "t5"])
def test_merged_into_the_numbers_of_training(directories: Any, family: str, bits: int) -> None:
    directory = directories(family)
    model = loaded_in(directory, bits)
    reference = adapted(plain_with_numbers_of(model, directory), "lora").merge_and_unload()
    whole, told = measured_merge(adapted(model, "lora"), "lora")
    assert float(told.removeprefix("merging moves no logit by more than ").partition(",")[0]) < 1e-3
    expected = dict(reference.named_parameters())
    for name, weight in whole.named_parameters():
        torch.testing.assert_close(weight, expected[name], rtol=1e-4, atol=1e-5)


def test_in_bf16(tmp_path: Path) -> None:
    """Weights in few bits beside others in bf16, for arithmetic in bf16 and in fp32."""
    source = ModelSource(name=str(save_checkpoint(tmp_path / "llama")))
    ids = torch.arange(20)[None]
    logits = []
    for compute in (torch.float32, torch.bfloat16):
        model = load_model(source, load_config(source), Precision(storage=torch.bfloat16, compute=compute, bits=4))
        assert model.get_input_embeddings().weight.dtype == torch.bfloat16
        take_fast_paths(model, compile_kernels=True)
        with torch.no_grad():
            logits.append(model(input_ids=ids).logits.float())
    assert (logits[0] - logits[1]).norm() <= 3e-2 * logits[0].norm()


def test_weights_are_handed_over_one_by_one_while_they_are_read(tmp_path: Path) -> None:
    plain = small_model("llama")
    plain.save_pretrained(tmp_path)
    there: list[int] = []
    loaded: list[Any] = []

    def choose(model: Any) -> dict[str, int]:
        loaded.append(model)
        return {path: index for index, path in enumerate(dict(model.named_modules())) if path.endswith("up_proj")}

    def store(layer: torch.nn.Module, weight: torch.Tensor, index: int) -> torch.nn.Parameter:
        assert layer is list(loaded[0].modules())[index]
        there.append(sum(not parameter.is_meta for parameter in loaded[0].parameters()))
        return torch.nn.Parameter(-weight, requires_grad=False)

    config = QuantizingLoad(choose, store)
    model = transformers.AutoModelForCausalLM.from_pretrained(
        tmp_path, quantization_config=config, dtype=torch.bfloat16
    )
    # By the names of weights; a layer has nine, and each is there when the next is read.
    assert there[1] - there[0] == 9
    expected = dict(plain.bfloat16().named_parameters())
    for name, weight in model.named_parameters():
        assert torch.equal(weight, -expected[name] if "up_proj" in name else expected[name])
    assert not getattr(model, "is_quantized", False)
    model.save_pretrained(tmp_path / "again")
    assert "quantization" not in (tmp_path / "again" / "config.json").read_text()
