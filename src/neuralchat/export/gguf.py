"""`neuralchat export --gguf`: a run as one file for llama.cpp and the programs around it, with an Ollama Modelfile."""

from __future__ import annotations

import argparse
from pathlib import Path
from shlex import quote
from typing import Any

from neuralchat.console import note, put
from neuralchat.console.waiting import waiting
from neuralchat.errors import AdapterError
from neuralchat.export.card import CARD_FILE, card_of_export, manifest_of
from neuralchat.export.combining import Others, combine, combined_manifest, others_of
from neuralchat.export.effect import check_export_effect
from neuralchat.export.modelfile import modelfile
from neuralchat.export.output import check_output, placed_files
from neuralchat.export.tried_prompts import ids_to_try
from neuralchat.files import settle_file, write_file
from neuralchat.inference.chatbot import Chatbot
from neuralchat.inference.gguf_text import write_gguf_of
from neuralchat.inference.origin import Origin, origin_of
from neuralchat.models.adapters.build import base_model_of
from neuralchat.models.adapters.merging import check_mergeable, measured_merge
from neuralchat.models.gguf.architectures import architecture_of
from neuralchat.models.gguf.tensor_types import tensor_type
from neuralchat.models.layers.quantized_linear import in_fp32
from neuralchat.models.loading.base_licence import licence_of_base


def export_gguf(options: argparse.Namespace) -> int:
    """Write OUTPUT/NAME-TYPE.gguf, Modelfile, and the model card of what was trained; all of them or none."""
    kind = tensor_type(options.gguf)
    origin = origin_of(options.run, options.base_model)
    if origin.method is not None and not origin.is_whole_model:
        check_mergeable(origin.method)
    others = others_of(options, origin)
    name = name_of_files(origin)
    output = Path(options.output) if options.output else Path(f"{name}-{kind.name}")
    check_output(output, options.run)
    with waiting("loading the model"):
        bot = Chatbot.load(
            options.run, trust_remote_code=options.trust_remote_code, base_model=options.base_model, keep_bits=True
        )
    # Before anything is computed.
    architecture = architecture_of(base_model_of(bot.model).config)
    if others is not None:
        combine(bot, others)
    check_export_effect(bot, allowed=options.allow_no_effect)
    model = whole_model(bot, origin.method, allow_lossy=options.allow_lossy)
    file = f"{name}-{kind.name}.gguf"
    told, has_template = modelfile(file, bot.template, begin_of(bot))
    with placed_files(output, last=file, what="GGUF file") as work:
        with waiting("writing"):
            licence = licence_of_base(origin.source)
            write_gguf_of(work / file, model, bot.voice, kind, name, licence=licence)
        settle_file(work / file)
        write_file(work / "Modelfile", told)
        if origin.method is not None:
            write_file(work / CARD_FILE, card_of_gguf(origin, bot, others, file, kind.name))
    if not has_template:
        note(
            "Ollama's template language cannot say this model's template, so the Modelfile has none; Ollama will guess"
        )
    put(f"{output / file}: {(output / file).stat().st_size / 1e6:,.1f} MB, {kind.name}")
    if architecture.served:
        put(f"for llama.cpp: {llama_command(output / file)}")
        put(f"for Ollama: ollama create {quote(name.lower())} -f {quote(str(output / 'Modelfile'))}")
    return 0


def llama_command(file: Path) -> str:
    return f"llama-server -m {quote(str(file))} --jinja"


def card_of_gguf(origin: Origin, bot: Chatbot, others: Others | None, file: str, kind: str) -> str:
    manifest = manifest_of(origin, bot.template)
    if others is not None:
        manifest = combined_manifest(manifest, others)
    method = str(origin.method)
    manifest["adapter"] = {**manifest["adapter"], "method": "none"} | (
        {} if origin.is_whole_model else {"merged": method}
    )
    use = (
        f"`{llama_command(Path(file))}` serves it with the prompts of training, `ollama create NAME -f Modelfile` "
        f"takes it into Ollama. Its numbers are stored as {kind}; results and evaluation are from before that."
    )
    return card_of_export(origin, manifest, use=use)


def name_of_files(origin: Origin) -> str:
    """Of the files that are made of it."""
    path = Path(origin.name)
    return path.absolute().name if origin.directory or path.is_dir() else path.name


def whole_model(bot: Chatbot, method: str | None, *, allow_lossy: bool) -> Any:
    """The bot's model with its adapter in its weights, in fp32, so that they are rounded once only."""
    model = in_fp32(bot.model)
    if not hasattr(model, "peft_config"):
        return model
    if method is None:
        raise AdapterError(f"{bot.name} has an adapter of an unknown method")
    whole, told = measured_merge(model, method, allow_lossy=allow_lossy, ids=ids_to_try(bot))
    put(told)
    return whole


def begin_of(bot: Chatbot) -> str:
    """What other programs write before every text by themselves."""
    return "".join(bot.tokenizer.convert_ids_to_tokens(bot.voice.begin_ids))
