"""`neuralchat export --gguf_adapter`: the LoRA adapter alone, which llama.cpp puts beside a file of its base model."""

from __future__ import annotations

import argparse
from pathlib import Path
from shlex import quote

from neuralchat.console import put
from neuralchat.console.waiting import waiting
from neuralchat.errors import AdapterError
from neuralchat.export.card import CARD_FILE, CHAT_TEMPLATE_FILE, card_of_export, manifest_of
from neuralchat.export.effect import check_export_effect
from neuralchat.export.gguf import name_of_files
from neuralchat.export.output import check_output, placed_files
from neuralchat.files import settle_file, write_file
from neuralchat.inference.chatbot import Chatbot
from neuralchat.inference.gguf_text import checked_template
from neuralchat.inference.origin import origin_of
from neuralchat.models.adapters.files import check_adapter_files
from neuralchat.models.gguf.adapter_writing import write_gguf_adapter
from neuralchat.models.gguf.architectures import architecture_of
from neuralchat.models.gguf.tensor_types import TENSOR_TYPES
from neuralchat.models.loading.base_model import load_config


def export_gguf_adapter(options: argparse.Namespace) -> int:
    """Write OUTPUT/NAME-lora-TYPE.gguf, chat_template.jinja and README.md, all of them or none."""
    kind = TENSOR_TYPES[options.gguf_adapter.lower()]
    origin = origin_of(options.run, options.base_model)
    if origin.directory is None or origin.method is None or origin.is_whole_model:
        raise AdapterError(f"{options.run} has no adapter of its own; --gguf takes whole models")
    if (method := check_adapter_files(origin.directory)["peft_type"]) != "LORA":
        raise AdapterError(
            f"{options.run} is an adapter of {method}; llama.cpp takes LoRA alone beside a model. --gguf merges "
            "what can be merged"
        )
    # Before a weight is loaded.
    architecture_of(load_config(origin.source))
    name = name_of_files(origin)
    output = Path(options.output) if options.output else Path(f"{name}-lora-{kind.name}")
    check_output(output, options.run)
    with waiting("loading the model"):
        bot = Chatbot.load(
            options.run, trust_remote_code=options.trust_remote_code, base_model=options.base_model, keep_bits=True
        )
    check_export_effect(bot, allowed=options.allow_no_effect)
    template = checked_template(bot.voice)
    file = f"{name}-lora-{kind.name}.gguf"
    with placed_files(output, last=file, what="GGUF file", flag="--output") as work:
        count = write_gguf_adapter(work / file, bot.model, kind, name)
        settle_file(work / file)
        if template is not None:
            write_file(work / CHAT_TEMPLATE_FILE, template)
        told = f" --jinja --chat-template-file {CHAT_TEMPLATE_FILE}" if template is not None else ""
        use = (
            f"`llama-server -m BASE.gguf --lora {file}{told}`, where BASE.gguf is the base model's own file "
            "(`neuralchat export BASE_MODEL --gguf TYPE` writes one). Results and evaluation are those of the adapter "
            "in PEFT."
        )
        write_file(work / CARD_FILE, card_of_export(origin, manifest_of(origin, bot.template), use=use))
    size = (output / file).stat().st_size / 1e6
    put(f"{output / file}: {size:,.1f} MB, {kind.name}, changes {count} matrices of {origin.source.name}")
    told = f" --jinja --chat-template-file {quote(str(output / CHAT_TEMPLATE_FILE))}" if template is not None else ""
    put(f"the base model's own file: neuralchat export {quote(origin.source.name)} --gguf TYPE")
    put(f"for llama.cpp: llama-server -m BASE.gguf --lora {quote(str(output / file))}{told}")
    return 0
