"""What stands in the place of a model or of its weights is told as what it is, before anything is loaded."""

from __future__ import annotations

import warnings
from pathlib import Path

import pytest
from support.small_models import small_model

from neuralchat.config.arguments import TuningArguments
from neuralchat.errors import ModelError
from neuralchat.models.adapters.build import add_adapter
from neuralchat.models.loading.base_model import resolve
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
