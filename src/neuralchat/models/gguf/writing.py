"""A model and its vocabulary -> a GGUF file, a weight at a time: no second copy of the model is held."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import torch
from torch import Tensor

from neuralchat.errors import ModelError
from neuralchat.models.families.architecture import is_encoder_decoder
from neuralchat.models.gguf.architectures import Architecture, architecture_of
from neuralchat.models.gguf.hyperparameters import Value
from neuralchat.models.gguf.tensor_types import TensorType, stored_as, stored_bytes, stored_weight
from neuralchat.models.gguf.vocabulary import GgufVocabulary

# Of the layers that the table of names is asked for.
ENDINGS = (".weight", ".bias")


@dataclass(frozen=True, kw_only=True)
class GgufText:
    """What the file says besides numbers and weights. `template`: the chat template, None where there is none."""

    name: str
    vocabulary: GgufVocabulary
    template: str | None = None
    license: str | None = None


@torch.inference_mode()
def write_gguf(
    path: Path, model: Any, text: GgufText, kind: TensorType, on_weight: Callable[[int, int], None] = lambda _, __: None
) -> None:
    """Write `path`, in a working directory: it is whole only when this returns. `on_weight` is told (done, all) bytes.

    Raises ModelError for a model that GGUF has no words for, and OSError.
    """
    architecture = architecture_of(model.config)
    values = architecture.values(model.config)
    weights = dict(named_weights(model, architecture))
    layers = blocks_of(model.config)
    types = {name: stored_as(kind, name, tuple(weight.shape), layers) for name, weight in weights.items()}
    sizes = {name: stored_bytes(types[name], tuple(weight.shape)) for name, weight in weights.items()}
    with opened_writer(path, architecture.name) as writer:
        add_text(writer, text, kind)
        for name, value in values.items():
            add_value(writer, f"{architecture.name}.{name}", value)
        for name, weight in weights.items():
            writer.add_tensor_info(name, weight.shape, np.dtype(np.float32), sizes[name], raw_dtype=types[name])
        writer.write_header_to_file(path)
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
        done, total = 0, sum(sizes.values())
        for name, weight in weights.items():
            writer.write_tensor_data(stored_weight(weight, types[name]))
            done += sizes[name]
            on_weight(done, total)


@contextmanager
def opened_writer(path: Path, architecture: str) -> Iterator[gguf.GGUFWriter]:
    writer = gguf.GGUFWriter(path, architecture)
    try:
        yield writer
    finally:
        writer.close()


def named_weights(model: Any, architecture: Architecture) -> Iterator[tuple[str, Tensor]]:
    """(GGUF's name, the weight as llama.cpp wants it), computed when it is asked for where that is cheap.

    Raises ModelError for a weight without a name: it would be left out silently.
    """
    config = model.config
    names = gguf.get_tensor_name_map(arch_named(architecture.name), blocks_of(config))
    yield from architecture.added(config).items()
    words = model.get_input_embeddings().weight
    nameless, seen = [], set()
    if (scale := architecture.output_scale(config)) is not None:
        seen.add("output.weight")
        yield "output.weight", model.get_output_embeddings().weight * scale
    for own_name, weight in model.state_dict().items():
        if own_name.endswith(architecture.left_out) and architecture.left_out:
            continue
        name = names.get_name(own_name, try_suffixes=ENDINGS)
        # One matrix that is both first and last is written once; T5 has it three times.
        if name in seen or (weight.data_ptr() == words.data_ptr() and name != "token_embd.weight"):
            continue
        if name is None:
            nameless.append(own_name)
            continue
        seen.add(name)
        yield name, architecture.change(own_name, weight, config)
    if nameless:
        raise ModelError(
            f"this {config.model_type} model cannot be written as GGUF: {len(nameless)} weight(s), such as "
            f"{nameless[0]}, have no name there"
        )


def arch_named(name: str) -> gguf.MODEL_ARCH:
    return next(arch for arch, own in gguf.MODEL_ARCH_NAMES.items() if own == name)


def blocks_of(config: Any) -> int:
    text = config.get_text_config()
    layers = text.num_hidden_layers
    return max(layers, getattr(text, "num_decoder_layers", layers)) if is_encoder_decoder(config) else layers


def add_value(writer: gguf.GGUFWriter, name: str, value: Value) -> None:
    if isinstance(value, bool):
        writer.add_bool(name, value)
    elif isinstance(value, int):
        writer.add_uint32(name, value)
    elif isinstance(value, float):
        writer.add_float32(name, value)
    elif isinstance(value, str):
        writer.add_string(name, value)
    else:
        writer.add_array(name, value)


def add_text(writer: gguf.GGUFWriter, text: GgufText, kind: TensorType) -> None:
    writer.add_type(gguf.GGUFType.MODEL)
    writer.add_name(text.name)
    if text.license:
        writer.add_license(text.license)
    writer.add_file_type(kind.file_type)
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
    vocabulary = text.vocabulary
    writer.add_tokenizer_model(vocabulary.model)
    if vocabulary.pre is not None:
        writer.add_tokenizer_pre(vocabulary.pre)
    writer.add_token_list(vocabulary.tokens)
    writer.add_token_types(vocabulary.types)
    if vocabulary.merges is not None:
        writer.add_token_merges(vocabulary.merges)
    if vocabulary.scores is not None:
        writer.add_token_scores(vocabulary.scores)
    if vocabulary.charsmap is not None:
        writer.add_precompiled_charsmap(vocabulary.charsmap)
    for use, id_ in vocabulary.special.items():
        getattr(writer, f"add_{use}_token_id")(id_)
    writer.add_add_bos_token(vocabulary.begins)
    writer.add_add_eos_token(vocabulary.ends)
    for name, value in vocabulary.settings.items():
        getattr(writer, {"add_space_prefix": "add_add_space_prefix"}.get(name, f"add_{name}"))(value)
    if text.template is not None:
        writer.add_chat_template(text.template)
