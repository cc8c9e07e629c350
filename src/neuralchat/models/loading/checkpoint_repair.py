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

SPECIAL_USES = ("bos_token", "eos_token", "unk_token", "pad_token", "sep_token", "cls_token", "mask_token")
TOKENIZER_FILE, TOKENIZER_CONFIG = "tokenizer.json", "tokenizer_config.json"

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


def uses_without_a_row(tokenizer: Any, directory: Path, rows: int) -> dict[str, None]:
    """Special tokens that the tokenizer's class has added by itself past the model's embeddings, as arguments with
    which it is loaded without them. Empty where there is none, or where the files name them.

    transformers has a class for Qwen2 that takes <|endoftext|> for whatever tokenizer_config.json leaves open.
    """
    if len(tokenizer) <= rows or not (directory / TOKENIZER_FILE).is_file():
        return {}
    stated = read_json_object(directory / TOKENIZER_FILE)
    vocabulary, settings = stated["model"]["vocab"], read_tokenizer_config(str(directory))
    named = set(vocabulary) if isinstance(vocabulary, dict) else {piece for piece, *_ in vocabulary}
    named |= {token["content"] for token in stated.get("added_tokens", ())}
    named |= {token_text(settings.get(use)) for use in SPECIAL_USES}
    added = {
        use: token
        for use in SPECIAL_USES
        if (token := getattr(tokenizer, use)) is not None
        and token not in named
        and tokenizer.convert_tokens_to_ids(token) >= rows
    }
    if added:
        tokens = ", ".join(dict.fromkeys(added.values()))
        note(f"{type(tokenizer).__name__} adds {tokens}, which the model has no embedding for; it is left out")
    return dict.fromkeys(added)


def token_text(token: Any) -> str:
    return token.get("content", "") if isinstance(token, dict) else (token or "")


def read_tokenizer_config(path: str, **hub: Any) -> dict[str, Any]:
    """tokenizer_config.json of a directory or hub id; empty if there is none."""
    found = file_of_checkpoint(path, TOKENIZER_CONFIG, **hub)
    return read_json_object(Path(found)) if found else {}
