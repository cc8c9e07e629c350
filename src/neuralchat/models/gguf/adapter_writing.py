"""A LoRA adapter -> a GGUF file of it alone, which llama.cpp puts beside a base model of the same architecture.

For each matrix of the base model there are two: NAME.lora_a [r, in] and NAME.lora_b [out, r], in numpy's order.
llama.cpp adds alpha / r times their product, with one alpha for all (llama-adapter.cpp, convert_lora_to_gguf.py).
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import gguf
import torch
from torch import Tensor

from neuralchat.errors import AdapterError
from neuralchat.models.adapters.build import base_model_of
from neuralchat.models.compat.peft import LoraEmbedding, LoraLayer, plain_lora_of
from neuralchat.models.gguf.architectures import Architecture, architecture_of
from neuralchat.models.gguf.tensor_types import TensorType, stored_as, stored_weight
from neuralchat.models.gguf.writing import arch_named, blocks_of, opened_writer


class LoraPair(NamedTuple):
    """Of one matrix, by GGUF's name of it. What is added is alpha / r * b @ a."""

    name: str
    a: Tensor
    b: Tensor


@torch.inference_mode()
def write_gguf_adapter(path: Path, model: Any, kind: TensorType, name: str) -> int:
    """Write `path`, in a working directory; returns how many matrices it changes. `model`: a PeftModel.

    Raises AdapterError for an adapter that llama.cpp cannot put beside a model.
    """
    base = base_model_of(model)
    architecture = architecture_of(base.config)
    check_plain(model, architecture)
    alpha = alpha_of(model)
    pairs = list(lora_pairs(model, architecture, alpha))
    with opened_writer(path, architecture.name) as writer:
        writer.add_type(gguf.GGUFType.ADAPTER)
        writer.add_name(name)
        writer.add_string(gguf.Keys.Adapter.TYPE, "lora")
        writer.add_float32(gguf.Keys.Adapter.LORA_ALPHA, alpha)
        writer.add_file_type(kind.file_type)
        writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
        for pair in pairs:
            for end, weight in (("lora_a", pair.a), ("lora_b", pair.b)):
                stored = stored_as(kind, pair.name, tuple(weight.shape))
                writer.add_tensor(f"{pair.name}.{end}", stored_weight(weight, stored), raw_dtype=stored)
        writer.write_header_to_file(path)
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
    return len(pairs)


def check_plain(model: Any, architecture: Architecture) -> None:
    """Raises AdapterError with all that keeps an adapter from being one of pairs alone."""
    config, base = model.peft_config[model.active_adapter], base_model_of(model)
    wrong = []
    if not architecture.served:
        wrong.append("llama.cpp's server answers with decoders only")
    if config.modules_to_save:
        wrong.append(f"it holds whole layers ({', '.join(config.modules_to_save)})")
    if config.trainable_token_indices:
        wrong.append("it holds embeddings of added tokens, which a base model's file has no rows for")
    if getattr(config, "target_parameters", None):
        wrong.append("it changes experts, which are parameters and no layers")
    words, head = base.get_input_embeddings(), base.get_output_embeddings()
    tied = words.weight is getattr(head, "weight", None)
    if tied and (isinstance(words, LoraLayer) or isinstance(head, LoraLayer)):
        wrong.append("it changes a matrix that is both the first and the last, which llama.cpp has only once")
    if wrong:
        raise AdapterError(
            f"this adapter cannot be written as GGUF by itself: {'; '.join(wrong)}. --gguf TYPE writes base model and "
            "adapter in one file"
        )


def alpha_of(model: Any) -> float:
    """llama.cpp takes 0 for "do not scale"."""
    return float(model.peft_config[model.active_adapter].lora_alpha) or 1.0


def lora_pairs(model: Any, architecture: Architecture, alpha: float) -> Iterator[LoraPair]:
    base, adapter = base_model_of(model), model.active_adapter
    names = gguf.get_tensor_name_map(arch_named(architecture.name), blocks_of(base.config))
    for own_name, layer in base.named_modules():
        if not isinstance(layer, LoraLayer):
            continue
        name = names.get_name(f"{own_name}.weight", try_suffixes=(".weight",))
        found = matrices_of(layer, adapter)
        if name is None or found is None:
            what = "has no name there" if name is None else "is more than two matrices (DoRA, a bias)"
            raise AdapterError(f"this adapter cannot be written as GGUF by itself: its part of {own_name} {what}")
        a, b, rank, scaling = found
        if not isinstance(layer, LoraEmbedding):
            b = b[row_order(f"{own_name}.weight", b.shape[0], architecture, base.config)]
        # Layers may have ranks and scalings of their own (rsLoRA, patterns); the file has one alpha.
        yield LoraPair(name, a, b.float() * (scaling * rank / alpha))


def matrices_of(layer: Any, adapter: str) -> tuple[Tensor, Tensor, int, float] | None:
    """(a, b, rank, scaling); None where there is more. Of an embedding a is the other way round, [rows, r]."""
    if isinstance(layer, LoraEmbedding):
        if adapter not in layer.lora_embedding_A or layer.lora_variant.get(adapter):
            return None
        a, b = layer.lora_embedding_A[adapter], layer.lora_embedding_B[adapter]
        return a.T, b, a.shape[0], layer.scaling[adapter]
    if not hasattr(layer, "lora_dropout") or (plain := plain_lora_of(layer, adapter)) is None:
        return None
    return plain.a, plain.b, plain.a.shape[0], plain.scaling


def row_order(name: str, rows: int, architecture: Architecture, config: Any) -> Tensor:
    """In which order the file has the rows of a matrix: what becomes of their numbers where they stand for weights."""
    numbers = torch.arange(rows, dtype=torch.float32)[:, None]
    return architecture.change(name, numbers, config).flatten().long()
