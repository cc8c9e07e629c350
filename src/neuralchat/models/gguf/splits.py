"""The steps by which a byte-level tokenizer splits a text -> llama.cpp's name of them (tokenizer.ggml.pre)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

CONTRACTIONS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
LLAMA3 = CONTRACTIONS + r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
QWEN2 = CONTRACTIONS + r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
QWEN35 = (
    CONTRACTIONS + r"|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
UPPER, LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
TEKKEN = (
    rf"[^\r\n\p{{L}}\p{{N}}]?{UPPER}*{LOWER}+|[^\r\n\p{{L}}\p{{N}}]?{UPPER}+{LOWER}*"
    r"|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
GPT4O = (
    rf"[^\r\n\p{{L}}\p{{N}}]?{UPPER}*{LOWER}+{CONTRACTIONS}?|[^\r\n\p{{L}}\p{{N}}]?{UPPER}+{LOWER}*{CONTRACTIONS}?"
    r"|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
# GPT-2's expression is a setting of the step itself.
GPT2 = "gpt-2's"
# (steps, whether whole words of the vocabulary are taken before any merge) -> name
SPLIT_NAMES: dict[tuple[tuple[str, ...], bool], str] = {
    ((GPT2,), False): "gpt-2",
    (("digit", GPT2), False): "smollm",
    ((LLAMA3,), True): "llama-bpe",
    ((LLAMA3,), False): "smaug-bpe",
    ((QWEN2,), False): "qwen2",
    ((QWEN35,), False): "qwen35",
    ((TEKKEN,), True): "tekken",
    ((GPT4O,), False): "gpt-4o",
    ((GPT4O,), True): "gpt-4o",
}


# Names that llama.cpp has for the same steps.
SAME_STEPS: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(("mpt", "olmo", "jais", "trillion", "granite-docling"), (GPT2,)),
    **dict.fromkeys(("starcoder", "refact", "command-r", "codeshell", "exaone", "minerva-7b"), ("digit", GPT2)),
    **dict.fromkeys(("llama3", "llama-v3", "dbrx"), (LLAMA3,)),
    **dict.fromkeys(("stablelm2", "hunyuan", "deepseek-r1-qwen"), (QWEN2,)),
}


def split_name(stated: Mapping[str, Any]) -> str | None:
    """`stated`: a tokenizer.json. None where llama.cpp has no name for its steps."""
    normalizer = stated.get("normalizer")
    # llama.cpp leaves composed characters as they come; texts mostly are composed.
    if normalizer is not None and normalizer["type"] != "NFC":
        return None
    found = stated.get("pre_tokenizer")
    if found is None:
        return None
    listed = found["pretokenizers"] if found["type"] == "Sequence" else [found]
    spelled = [spelled_step(step) for step in listed]
    if None in spelled:
        return None
    steps = tuple(step for step in spelled if step)
    return SPLIT_NAMES.get((steps, bool(stated["model"].get("ignore_merges"))))


def steps_of(name: str) -> list[Any] | None:
    """The other way round: the steps as pre-tokenizers (tokenizers), None for a name that is not known."""
    from tokenizers import Regex, pre_tokenizers

    known = {other: steps for (steps, _), other in SPLIT_NAMES.items()} | SAME_STEPS
    if name not in known:
        return None
    made: list[Any] = []
    for step in known[name]:
        if step == "digit":
            made.append(pre_tokenizers.Digits(individual_digits=True))
        elif step != GPT2:
            made.append(pre_tokenizers.Split(Regex(step), "isolated"))
    return [*made, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=GPT2 in known[name])]


def spelled_step(step: Mapping[str, Any]) -> str | None:
    """Empty for a step that splits nothing; None for one that is not known."""
    if step["type"] == "ByteLevel" and not step["add_prefix_space"]:
        return GPT2 if step["use_regex"] else ""
    if step["type"] == "Digits" and step["individual_digits"]:
        return "digit"
    if step["type"] == "Split" and step["behavior"] == "Isolated" and not step["invert"]:
        return step["pattern"].get("Regex")
    return None
