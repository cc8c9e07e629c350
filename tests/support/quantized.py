"""A base model in few bits, and plain transformers' with the same numbers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSeq2SeqLM

from neuralchat.models.layers.quantized_linear import QuantizedLinear
from neuralchat.models.loading.base_model import ModelSource, load_config, load_model
from neuralchat.models.loading.precision import Precision


def loaded_in(directory: Path, bits: int) -> Any:
    source = ModelSource(name=str(directory))
    return load_model(source, load_config(source), Precision(storage=torch.float32, compute=torch.float32, bits=bits))


def plain_with_numbers_of(model: Any, directory: Path) -> Any:
    """transformers' own model of `directory`; its weights that `model` keeps in few bits are what those stand for."""
    config = AutoConfig.from_pretrained(directory)
    kind: Any = AutoModelForSeq2SeqLM if config.is_encoder_decoder else AutoModelForCausalLM
    plain = kind.from_pretrained(directory, dtype=torch.float32).requires_grad_(False).eval()
    with torch.no_grad():
        for path, module in model.named_modules():
            if isinstance(module, QuantizedLinear):
                identity = torch.eye(module.in_features)
                # Through the layer itself, by unit vectors.
                matrix = module(identity).t() - (0 if module.bias is None else module.bias[:, None])
                plain.get_submodule(path).weight.copy_(matrix)
    return plain
