"""Repairs for checkpoints as people have them, in memory: the files stay untouched, each repair is told.

The LLaMA checkpoints of early 2023 name classes that never were released (LLaMAForCausalLM, LLaMATokenizer),
give empty texts as special tokens and -1 as the padding id.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from neuralchat.console import note
from neuralchat.errors import ModelError
from neuralchat.models.compat.transformers import file_of_checkpoint
from neuralchat.models.loading.checkpoint_files import read_json_object

RENAMED_ARCHITECTURES = {"LLaMAForCausalLM": "LlamaForCausalLM", "MPTForCausalLM": "MptForCausalLM"}
RENAMED_TOKENIZERS = {"LLaMATokenizer": "LlamaTokenizer", "LLaMATokenizerFast": "LlamaTokenizer"}
LLAMA_SPECIAL_TOKENS = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}


def repair_config(config: Any) -> Any:
    """Give `config` the names and ids that transformers knows."""
    names = config.architectures or []
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise ModelError(f"config.json: architectures must be a list of names, found {str(names)[:60]!r}")
    repaired = [RENAMED_ARCHITECTURES.get(name, name) for name in names]
    if repaired != names:
        note(f"config.json names {', '.join(names)}; read as {', '.join(map(str, repaired))} (the file is not changed)")
        config.architectures = repaired
    # Of a model that sees or hears too, the part that reads text has the vocabulary.
    text = config.get_text_config()
    pad_id = getattr(text, "pad_token_id", None)
    if isinstance(pad_id, int) and not 0 <= pad_id < text.vocab_size:
        note(f"config.json has pad_token_id {pad_id}, outside the vocabulary; read as none")
        text.pad_token_id = None
    return config


def tokenizer_overrides(tokenizer_config: dict[str, Any]) -> dict[str, Any] | None:
    """Arguments with which LlamaTokenizer must be loaded, or None if the tokenizer needs no repair."""
    name = str(tokenizer_config.get("tokenizer_class"))
    if name not in RENAMED_TOKENIZERS:
        return None
    empty = {key: text for key, text in LLAMA_SPECIAL_TOKENS.items() if not token_text(tokenizer_config.get(key))}
    filled = f", empty special tokens read as {' '.join(empty.values())}" if empty else ""
    note(f"tokenizer_config.json names {name}; read as {RENAMED_TOKENIZERS[name]}{filled} (the file is not changed)")
    return {**empty, "add_bos_token": True}


def token_text(token: Any) -> str:
    return token.get("content", "") if isinstance(token, dict) else (token or "")


def read_tokenizer_config(path: str, **hub: Any) -> dict[str, Any]:
    """tokenizer_config.json of a directory or hub id; empty if there is none."""
    found = file_of_checkpoint(path, "tokenizer_config.json", **hub)
    return read_json_object(Path(found)) if found else {}
