"""A run, checkpoint, adapter or base model -> its GGUF file in the cache, written once for each state of its files."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from neuralchat.errors import ModelError
from neuralchat.files import make_private_directory, read_file, write_new_file
from neuralchat.inference.gguf_text import gguf_text, write_gguf_of
from neuralchat.inference.loading import chat_precision, load
from neuralchat.inference.origin import Origin
from neuralchat.inference.voice import Voice
from neuralchat.models.adapters.merging import check_mergeable, merged
from neuralchat.models.gguf.architectures import architecture_of
from neuralchat.models.gguf.tensor_types import TENSOR_TYPES
from neuralchat.models.layers.quantized_linear import in_fp32
from neuralchat.models.loading.base_fingerprint import base_fingerprint
from neuralchat.models.loading.base_model import load_config, resolve
from neuralchat.models.loading.cached_model import cached_model
from neuralchat.models.loading.file_hashes import remembered_sha256
from neuralchat.models.quiet import quiet_libraries

# What is written changes with it.
WRITER_VERSION = 1
MODEL, FACTS = "model.gguf", "model.json"


@dataclass(frozen=True)
class ExportedModel:
    """`type`: of its numbers. `rows`: tokens that have a score. `positions`: of prompt and answer together."""

    file: Path
    type: str
    rows: int
    positions: int


def exported_model(
    origin: Origin,
    voice: Voice,
    *,
    template: str | None = None,
    trust_remote_code: bool = False,
    waiting: Callable[[str], Any] = lambda _: nullcontext(),
) -> ExportedModel:
    """Raises AdapterError or ModelError for what llama.cpp does not know, before any weight is loaded."""
    source = replace(origin.source, trust_remote_code=trust_remote_code)
    if not architecture_of(load_config(source)).served:
        raise ModelError("llama.cpp's server answers with decoders only; take --engine torch for this model")
    if origin.method is not None and not origin.is_whole_model:
        check_mergeable(origin.method)

    def make(entry: Path) -> None:
        with waiting("writing"):
            write_entry(entry, origin, voice, template, trust_remote_code)

    told = f"writing {origin.name} as GGUF for llama.cpp"
    return read_entry(cached_model(fingerprint(origin, voice), make, told=told, size=lambda: bytes_of_weights(origin)))


def bytes_of_weights(origin: Origin) -> int:
    """As many as the file will have, roughly; 0 of a model of the hub's cache."""
    return sum(file.stat().st_size for file in Path(resolve(origin.source.name)).glob("*.safetensors"))


def fingerprint(origin: Origin, voice: Voice) -> str:
    """SHA-256 of everything that the file hangs on."""
    parts: dict[str, Any] = {
        "writer": WRITER_VERSION,
        "type": engine_type(origin, load_config(origin.source)),
        "base": base_fingerprint(origin.source),
        "method": origin.method,
        "template": voice.template.fingerprint(),
        "end": voice.end_ids,
        "tokens": len(voice.tokenizer),
    }
    if origin.bits is not None:
        parts["bits"] = origin.bits
    if origin.directory is not None:
        names = ("adapter_config.json", "adapter_model.safetensors", "tokenizer.json")
        parts |= {
            name: remembered_sha256(origin.directory / name) for name in names if (origin.directory / name).is_file()
        }
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def engine_type(origin: Origin, config: Any) -> str:
    """That of the torch engine, so that answers are the same."""
    return "bf16" if chat_precision(origin, config).storage == torch.bfloat16 else "f32"


def write_entry(entry: Path, origin: Origin, voice: Voice, template: str | None, trust_remote_code: bool) -> None:
    with quiet_libraries():
        model, _, _ = load(origin, template=template, trust_remote_code=trust_remote_code)
        kind = TENSOR_TYPES[engine_type(origin, model.config)]
        model = in_fp32(model)
        if hasattr(model, "peft_config"):
            model = merged(model, origin.method or model.active_peft_config.peft_type.lower())
    # Refused before a directory is made.
    gguf_text(voice, model, origin.name)
    make_private_directory(entry)
    write_gguf_of(entry / MODEL, model, voice, kind, Path(origin.name).name)
    rows = model.get_input_embeddings().weight.shape[0]
    positions = architecture_of(model.config).values(model.config)["context_length"]
    write_new_file(entry / FACTS, json.dumps({"type": kind.name, "rows": rows, "positions": positions}))


def read_entry(entry: Path) -> ExportedModel:
    facts = json.loads(read_file(entry / FACTS, 1 << 16))
    return ExportedModel(entry / MODEL, facts["type"], facts["rows"], facts["positions"])
