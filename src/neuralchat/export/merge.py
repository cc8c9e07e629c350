"""`neuralchat merge`: fold a run's adapter into its base weights, for programs that know no adapters."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from neuralchat.config.methods import METHODS
from neuralchat.errors import AdapterError, RunDirectoryError
from neuralchat.inference.chatbot import Chatbot, is_foreign_adapter
from neuralchat.runs.directory import MANIFEST, read_manifest, write_atomically


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
    # Without a manifest of ours the merged model could not say how it wants to be asked.
    if is_foreign_adapter(run):
        raise RunDirectoryError(f"{run} is an adapter from elsewhere; merge it with PEFT's merge_and_unload")
    manifest = read_manifest(run)
    method = manifest["adapter"]["method"]
    # Before anything is loaded.
    check_mergeable(method)
    bot = Chatbot.load(run, trust_remote_code=options.trust_remote_code)
    whole = merged(bot.model, method)
    output.mkdir(parents=True, exist_ok=True)
    whole.save_pretrained(str(output))
    bot.tokenizer.save_pretrained(str(output))
    manifest["adapter"] = {**manifest["adapter"], "method": "none", "merged": method}
    write_atomically(output / MANIFEST, json.dumps(manifest, indent=2, ensure_ascii=False) + "\n")
    print(f"{output} is a whole model; talk to it with: neuralchat chat {output}")
    return 0
