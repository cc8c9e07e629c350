"""What stands in the place of a model or of its weights is told as what it is, before anything is loaded."""

from __future__ import annotations

import re
import warnings
from pathlib import Path

import pytest
from support.small_models import small_model

from neuralchat.config.arguments import TuningArguments
from neuralchat.errors import AdapterError, ModelError
from neuralchat.models.adapters.build import add_adapter
from neuralchat.models.adapters.rehearsal import rehearse
from neuralchat.models.loading.base_model import ModelSource, check_tokenizer_files, load_tokenizer, resolve
from neuralchat.models.loading.checkpoint_files import safetensors_shapes


@pytest.mark.parametrize(
    ("name", "what"),
    [("adapter_config.json", "holds an adapter"), ("model-q4.gguf", "holds a GGUF file"), ("a.txt", "no config.json$")],
)
def test_a_directory_without_a_model(tmp_path: Path, name: str, what: str) -> None:
    (tmp_path / name).write_text("{}")
    with pytest.raises(ModelError, match=what):
        resolve(str(tmp_path))


def test_a_pointer_in_the_place_of_weights(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n")
    with pytest.raises(ModelError, match="is a pointer of Git LFS"):
        safetensors_shapes(path)


def test_lora_on_gpt2_gives_no_warning() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        model = add_adapter(small_model("gpt2"), TuningArguments())
    assert all(config.fan_in_fan_out for config in model.peft_config.values())


def test_a_model_without_a_tokenizer(tmp_path: Path, llama_checkpoint: Path) -> None:
    bare = tmp_path / "bare"
    small_model().save_pretrained(bare)
    with pytest.raises(
        ModelError, match=r"bare has no tokenizer \(tokenizer\.json.*name that model with --tokenizer_name"
    ):
        load_tokenizer(ModelSource(name=str(bare)))
    tokenizer = load_tokenizer(ModelSource(name=str(bare), tokenizer_name=str(llama_checkpoint)))
    assert tokenizer.eos_token == "<|end|>"


@pytest.mark.parametrize("name", ["tokenizer.json", "vocab.txt", "spiece.model", "qwen.tiktoken", "tokenization_x.py"])
def test_whatever_belongs_to_a_tokenizer_is_left_to_the_library(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("{}")
    check_tokenizer_files(tmp_path)
    (tmp_path / name).rename(tmp_path / "model.safetensors")
    with pytest.raises(ModelError, match="has no tokenizer"):
        check_tokenizer_files(tmp_path)


# Regular expressions as LoRA's targets


def adapted_layers(pattern: str) -> set[str]:
    model = add_adapter(small_model(), TuningArguments(lora_target_modules=[pattern]))
    return {name.partition(".lora_A")[0].removeprefix("base_model.model.") for name, _ in model.named_modules()
            if name.endswith(".lora_A")}  # fmt: skip


def test_a_regular_expression_takes_the_layers_that_it_matches() -> None:
    pattern = r".*\.0\.self_attn\.(q|v)_proj"
    expected = {name for name, _ in small_model().named_modules() if re.fullmatch(pattern, name)}
    assert len(expected) == 2
    assert adapted_layers(pattern) == expected


def test_a_regular_expression_that_matches_no_path() -> None:
    with pytest.raises(AdapterError, match=r"A regular expression must match the whole path of a layer, as '\.\*"):
        add_adapter(small_model(), TuningArguments(lora_target_modules=["q_proj|v_proj"]))
    with pytest.raises(AdapterError) as caught:
        add_adapter(small_model(), TuningArguments(lora_target_modules=["no_proj"]))
    assert "regular expression" not in str(caught.value)


def test_an_adapter_with_a_regular_expression_is_read_back(tmp_path: Path) -> None:
    rehearse(small_model().config, TuningArguments(lora_target_modules=[r".*\.(q|v)_proj"]))
    with pytest.raises(AdapterError, match="target_modules"):
        rehearse(small_model().config, TuningArguments(lora_target_modules=[r"(.*\.)+(q|v)_proj"]))
