"""What the tests of damaged checkpoints share: loading with a time limit, and changing what lies in a directory."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from neuralchat.config.arguments import TuningArguments
from neuralchat.data.templates.making import make_template
from neuralchat.inference.chatbot import Chatbot
from neuralchat.models.adapters.build import add_adapter
from neuralchat.models.loading.base_model import ModelSource, load_config, load_model, load_tokenizer
from neuralchat.models.loading.precision import Precision
from support.fuzzing import time_limit
from support.notes import kept_notes
from support.small_models import make_tokenizer, small_model

METHODS = ("lora", "ptun", "prefix", "prompt", "llama_adapter", "ia3")
IDS = torch.tensor([[5, 6, 7, 8, 9, 10]])
FP32 = Precision(storage=torch.float32, compute=torch.float32)


def load(run: Path) -> Chatbot:
    with time_limit():
        return Chatbot.load(run)


def load_base(directory: Path, **source: Any) -> list[str]:
    """What was said while a base model was loaded."""
    where = ModelSource(name=str(directory), **source)
    with time_limit(), kept_notes() as texts:
        config = load_config(where)
        load_tokenizer(where)
        load_model(where, config, FP32)
    return texts


def change(path: Path, **values: Any) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


class Evil:
    """A pickle that writes a file when it is read."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return (Path.write_text, (self.path, "ran"))


def edit_weights(path: Path, edit: Callable[[dict[str, torch.Tensor]], Any]) -> None:
    weights = load_file(path)
    edit(weights)
    save_file(weights, path, metadata={"format": "pt"})


def save_run(directory: Path, base: Path, method: str) -> Path:
    """A run as training leaves it, without training."""
    torch.manual_seed(1)
    model = small_model("llama", len(make_tokenizer()))
    adapted = add_adapter(
        model,
        TuningArguments(
            peft=method, num_virtual_tokens=4, ptun_hidden_size=16, lora_rank=8, lora_alpha=16, lora_all_linear=False
        ),
    )
    for name, parameter in adapted.named_parameters():
        if parameter.requires_grad and "lora_" in name:
            torch.nn.init.normal_(parameter, std=0.2)
    adapted.peft_config["default"].base_model_name_or_path = str(base)
    adapted.save_pretrained(str(directory))
    tokenizer = make_tokenizer()
    tokenizer.save_pretrained(directory)
    template = make_template("alpaca", tokenizer)
    manifest = {
        "base_model": {"name": str(base), "path": str(base), "revision": "main"},
        "template": {"name": template.name, "sha256": template.fingerprint()},
        "adapter": {"method": method}, "results": {}, "precision": {"storage": "float32"},
    }  # fmt: skip
    (directory / "neuralchat.json").write_text(json.dumps(manifest))
    return directory


def logits_of(bot: Chatbot) -> torch.Tensor:
    with torch.inference_mode():
        return bot.model(input_ids=IDS).logits[:, -IDS.shape[1] :]
