"""`neuralchat export --adapter`: the adapter alone, as PEFT reads it, without a path of this machine."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from neuralchat.config.methods import METHODS, trained_file
from neuralchat.console import note, put
from neuralchat.errors import AdapterError
from neuralchat.export.card import CARD_FILE, CHAT_TEMPLATE_FILE, card_of_export, manifest_of, name_elsewhere
from neuralchat.export.effect import check_adapter_effect
from neuralchat.export.output import check_output, placed_files
from neuralchat.export.python_code import with_neuralchat, without_neuralchat
from neuralchat.files import copy_file, settle_file, write_file
from neuralchat.inference.gguf_text import checked_template
from neuralchat.inference.origin import ADAPTER_CONFIG, Origin, origin_of
from neuralchat.inference.voice import Voice
from neuralchat.models.adapters.files import check_adapter_files
from neuralchat.models.families.architecture import is_encoder_decoder
from neuralchat.models.loading.base_model import load_config
from neuralchat.models.quiet import quiet_libraries


def export_adapter(options: argparse.Namespace) -> int:
    """Weights, configuration, tokenizer with the template of training, and a model card into a new directory."""
    output = Path(options.adapter)
    check_output(output, options.run, "--adapter")
    origin = origin_of(options.run, options.base_model)
    if origin.directory is None or origin.method is None or origin.is_whole_model:
        raise AdapterError(f"{options.run} has no adapter of its own; --gguf takes whole models")
    if origin.bits is not None:
        note(
            f"the adapter was trained on its base model in {origin.bits} bits; beside that model as it is, where PEFT "
            "loads it, answers differ a little (--merge takes the base model as it was in training)"
        )
    voice = Voice.of(origin, trust_remote_code=options.trust_remote_code)
    config = shared_config(origin)
    weights = trained_file(origin.method) if origin.method in METHODS else "adapter_model.safetensors"
    check_adapter_effect(origin.name, origin.directory / weights, allowed=options.allow_no_effect)
    with placed_files(output, last=ADAPTER_CONFIG, what="adapter", flag="--adapter") as work:
        voice.tokenizer.chat_template = checked_template(voice)
        with quiet_libraries():
            voice.tokenizer.save_pretrained(str(work))
        copy_file(origin.directory / weights, work / weights)
        write_file(work / ADAPTER_CONFIG, json.dumps(config, indent=2, sort_keys=True) + "\n")
        write_file(work / CARD_FILE, card_of_adapter(origin, voice, config["base_model_name_or_path"]))
        for file in sorted(work.iterdir()):
            settle_file(file)
    put(f"{output} is an adapter for {config['base_model_name_or_path']}, which PEFT loads beside that model")
    return 0


def shared_config(origin: Origin) -> dict[str, Any]:
    """adapter_config.json with the base model by a name that others know, where there is one."""
    assert origin.directory is not None
    config = check_adapter_files(origin.directory)
    base = origin.source.name
    if (name := name_elsewhere(base)) != base:
        note(f"the base model was a directory, {base}; the adapter names it '{name}', as it may be called elsewhere")
    # Also where --base_model names another than the file does, which may be a place of this machine.
    config["base_model_name_or_path"] = name
    return config


def card_of_adapter(origin: Origin, voice: Voice, base: str) -> str:
    manifest = manifest_of(origin, voice.template)
    manifest["base_model"] = {**manifest["base_model"], "name": base}
    row = METHODS.get(origin.method or "")
    code = without_neuralchat(
        base,
        voice.template,
        voice.end_ids,
        voice.pad_id,
        method=(origin.method or "") if row is not None else "",
        dtype=origin.storage or "float32",
        encoder_decoder=is_encoder_decoder(load_config(origin.source)),
        bits=origin.bits,
    )
    return card_of_export(
        origin,
        manifest,
        with_neuralchat=with_neuralchat(whole=False),
        without_neuralchat=code,
        template_in=CHAT_TEMPLATE_FILE if voice.tokenizer.chat_template else "",
    )
