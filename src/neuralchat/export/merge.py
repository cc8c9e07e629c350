"""`neuralchat merge`: fold a run's adapter into its base weights, for programs that know no adapters."""

from __future__ import annotations

import argparse
from pathlib import Path
from shlex import quote
from typing import Any

from neuralchat.console import put
from neuralchat.data.templates.making import make_template
from neuralchat.errors import AdapterError, RunDirectoryError
from neuralchat.export.card import CARD_FILE, card_of_export, manifest_of, portable_manifest, template_facts
from neuralchat.export.combining import combine, combined_manifest, others_of
from neuralchat.export.effect import check_export_effect
from neuralchat.export.output import check_output, placed_files
from neuralchat.export.python_code import with_neuralchat, without_neuralchat
from neuralchat.export.tried_prompts import ids_to_try
from neuralchat.files import settle_file, write_file
from neuralchat.inference.chatbot import Chatbot
from neuralchat.inference.generation.settings import with_end_tokens
from neuralchat.inference.gguf_text import checked_template
from neuralchat.inference.origin import MODEL_CONFIG, Origin, origin_of, origin_of_run
from neuralchat.models.adapters.merging import check_mergeable, measured_merge
from neuralchat.models.families.architecture import is_encoder_decoder
from neuralchat.models.quiet import quiet_libraries
from neuralchat.runs.directory import MANIFEST, json_text


def merge(options: argparse.Namespace) -> int:
    run, output = Path(options.run), Path(options.output)
    # `neuralchat export` names the directory by the way out.
    flag = "--merge" if getattr(options, "merge", None) is not None else "--output"
    check_output(output, options.run, flag)
    origin = origin_of(run) if run.is_dir() else origin_of_run(run)
    # Without a manifest of ours the merged model could not say how it wants to be asked.
    if origin.kind == "adapter":
        raise RunDirectoryError(f"{run} is an adapter from elsewhere; merge it with PEFT's merge_and_unload")
    if origin.method is None:
        raise AdapterError(f"{run} is a base model: there is no adapter to merge")
    # Before anything is loaded.
    check_mergeable(origin.method)
    others = others_of(options, origin)
    bot = Chatbot.load(run, trust_remote_code=options.trust_remote_code, base_model=options.base_model, keep_bits=True)
    manifest = manifest_of(origin, bot.template)
    if others is not None:
        combine(bot, others)
        manifest = combined_manifest(manifest, others)
    check_export_effect(bot, allowed=options.allow_no_effect)
    whole, told = measured_merge(bot.model, origin.method, allow_lossy=options.allow_lossy, ids=ids_to_try(bot))
    put(told)
    carry_template(bot, manifest)
    whole.generation_config = with_end_tokens(whole.generation_config, bot.voice.end_ids)
    manifest["adapter"] = {**manifest["adapter"], "method": "none", "merged": origin.method}
    # What is written is whole, in the numbers that the bits stood for.
    manifest["precision"] = {**manifest.get("precision", {}), "bits": None}
    write_merged(output, origin, whole, bot, manifest, flag=flag)
    put(f"{output} is a whole model; talk to it with: neuralchat chat {quote(str(output))}")
    return 0


def carry_template(bot: Chatbot, manifest: dict[str, Any]) -> None:
    """Give the tokenizer the template of training as its chat template, so that every other program applies it."""
    source = checked_template(bot.voice, fix_date=False)
    if source is None:
        return
    changed = source != bot.tokenizer.chat_template
    bot.tokenizer.chat_template = source
    if changed and bot.template.name == "chat":
        # With its variables in the text, it is another one by its words.
        date = manifest["template"].get("definition", {}).get("date")
        manifest["template"] = template_facts(make_template("chat", bot.tokenizer, date=date))


def write_merged(
    output: Path, origin: Origin, whole: Any, bot: Chatbot, manifest: dict[str, Any], *, flag: str = "--output"
) -> None:
    """Model, tokenizer, README.md and manifest into `output`: all of it, or RunDirectoryError and nothing.

    Killed on the way, it leaves no model, and the next merge into `output` deletes what it left.
    """
    with placed_files(output, last=MODEL_CONFIG, what="merged model", flag=flag) as work:
        with quiet_libraries():
            whole.save_pretrained(str(work))
            bot.tokenizer.save_pretrained(str(work))
        write_file(work / CARD_FILE, card_of_merged(origin, manifest, bot, whole))
        write_file(work / MANIFEST, json_text(portable_manifest(manifest)))
        for file in sorted(work.iterdir()):
            settle_file(file)


def card_of_merged(origin: Origin, manifest: dict[str, Any], bot: Chatbot, whole: Any) -> str:
    code = without_neuralchat(
        ".",
        bot.template,
        bot.voice.end_ids,
        bot.voice.pad_id,
        method="none",
        dtype=str(whole.dtype).removeprefix("torch."),
        encoder_decoder=is_encoder_decoder(whole.config),
    )
    return card_of_export(origin, manifest, with_neuralchat=with_neuralchat(whole=True), without_neuralchat=code)
