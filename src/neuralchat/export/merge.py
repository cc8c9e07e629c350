"""`neuralchat merge`: fold a run's adapter into its base weights, for programs that know no adapters."""

from __future__ import annotations

import argparse
from pathlib import Path
from shlex import quote
from typing import Any

from neuralchat.config.methods import METHODS
from neuralchat.console import put
from neuralchat.errors import AdapterError, RunDirectoryError
from neuralchat.files import make_directory, write_file
from neuralchat.inference.chatbot import Chatbot
from neuralchat.inference.origin import Origin, origin_of, origin_of_run
from neuralchat.models.quiet import quiet_libraries
from neuralchat.runs.directory import MANIFEST, json_text, read_manifest, why_unwritable


def check_mergeable(method: str) -> None:
    """Raises AdapterError, with the reason, where the method cannot be merged."""
    if method in METHODS and METHODS[method].mergeable:
        return
    reason = METHODS[method].unmergeable if method in METHODS else "PEFT cannot merge it"
    mergeable = ", ".join(row.name for row in METHODS.values() if row.mergeable)
    raise AdapterError(f"--peft {method} cannot be merged: {reason}. Methods that can: {mergeable}")


def merged(model: Any, method: str) -> Any:
    """The base model with the adapter in its weights. Raises AdapterError where the method cannot be merged."""
    check_mergeable(method)
    return model.merge_and_unload()


def merge(options: argparse.Namespace) -> int:
    run, output = Path(options.run), Path(options.output)
    if output.exists() and any(output.iterdir() if output.is_dir() else [output]):
        raise RunDirectoryError(f"--output {output} is not empty; name a directory that is new")
    if reason := why_unwritable(output):
        raise RunDirectoryError(f"--output {output} cannot be written: {reason}")
    origin = origin_of(run) if run.is_dir() else origin_of_run(run)
    # Without a manifest of ours the merged model could not say how it wants to be asked.
    if origin.kind == "adapter":
        raise RunDirectoryError(f"{run} is an adapter from elsewhere; merge it with PEFT's merge_and_unload")
    if origin.method is None:
        raise AdapterError(f"{run} is a base model: there is no adapter to merge")
    # Before anything is loaded.
    check_mergeable(origin.method)
    bot = Chatbot.load(run, trust_remote_code=options.trust_remote_code)
    manifest = read_manifest(run) if origin.kind == "run" else manifest_of_checkpoint(origin, bot)
    whole = merged(bot.model, origin.method)
    make_directory(output)
    with quiet_libraries():
        whole.save_pretrained(str(output))
        bot.tokenizer.save_pretrained(str(output))
    manifest["adapter"] = {**manifest["adapter"], "method": "none", "merged": origin.method}
    write_file(output / MANIFEST, json_text(manifest))
    put(f"{output} is a whole model; talk to it with: neuralchat chat {quote(str(output))}")
    return 0


def manifest_of_checkpoint(origin: Origin, bot: Chatbot) -> dict[str, Any]:
    """What the merged model must say of itself; a checkpoint has no results yet."""
    template = bot.template
    return {
        "base_model": {"name": origin.source.name, "revision": origin.source.revision},
        "template": {
            "name": template.name,
            "sha256": template.fingerprint(),
            "end_tokens": list(template.end_tokens),
            "definition": template.definition(),
        },
        "adapter": {"method": origin.method},
        "precision": {"storage": origin.storage},
        "results": {},
    }
