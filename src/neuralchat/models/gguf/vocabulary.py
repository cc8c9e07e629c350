"""A tokenizer -> what GGUF says of it: tokens, their kinds, merges or scores, and how a text is split before that.

llama.cpp knows ways of splitting by name, so the steps in tokenizer.json are looked up; a tokenizer that splits
otherwise is refused, since another program would give the model other ids.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from gguf import TokenType

from neuralchat.errors import ModelError
from neuralchat.models.gguf.splits import split_name


@dataclass(frozen=True, kw_only=True)
class GgufVocabulary:
    """`model`: GGUF's name of the algorithm. `tokens`, `types`, `scores`: by id, one for each row of the embeddings.
    `special`: ids by their use (bos, eos, eot, ...). `begins`: whether a text begins with the bos token.
    """

    model: str
    tokens: list[str]
    types: list[int]
    pre: str | None = None
    merges: list[str] | None = None
    scores: list[float] | None = None
    special: Mapping[str, int] = field(default_factory=dict)
    begins: bool = False
    ends: bool = False
    settings: Mapping[str, bool] = field(default_factory=dict)
    charsmap: bytes | None = None


def vocabulary_of(tokenizer: Any, rows: int, end_ids: Sequence[int], begin_ids: Sequence[int]) -> GgufVocabulary:
    """`rows`: of the embeddings. `end_ids`: tokens that end an answer; `begin_ids`: that begin every text.

    Raises ModelError for a tokenizer that llama.cpp does not know.
    """
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        raise refused_tokenizer("it is written in Python")
    stated = json.loads(backend.to_str())
    model = stated["model"]
    tokens, types = tokens_and_types(tokenizer, stated, rows)
    bos = tokenizer.bos_token_id
    if list(begin_ids) not in ([], [bos]):
        raise refused_tokenizer("it begins texts with more than its bos token")
    common: dict[str, Any] = {
        "tokens": tokens, "types": types, "special": special_ids(tokenizer, end_ids), "begins": bool(begin_ids),
    }  # fmt: skip
    if model["type"] == "BPE" and has_pieces(stated):
        return GgufVocabulary(
            model="llama",
            scores=scores_of_merges(tokens, types, pairs_of(model)),
            settings=piece_settings(stated),
            **common,
        )
    if model["type"] == "BPE":
        name = split_name(stated)
        if name is None:
            raise refused_tokenizer("it splits texts in a way that llama.cpp has no name for")
        merges = [" ".join(part.replace(" ", "\u0120") for part in pair) for pair in pairs_of(model)]
        return GgufVocabulary(model="gpt2", pre=name, merges=merges, **common)
    if model["type"] == "Unigram":
        scores = [score for _, score in model["vocab"]]
        return GgufVocabulary(
            model="t5",
            pre="default",
            scores=scores[: len(tokens)] + [-10000.0] * (len(tokens) - len(scores)),
            settings={**piece_settings(stated), "remove_extra_whitespaces": True},
            ends=True,
            charsmap=charsmap_of(stated),
            **common,
        )
    raise refused_tokenizer(f"its algorithm is {model['type']}")


def refused_tokenizer(what: str) -> ModelError:
    return ModelError(f"this tokenizer cannot be written as GGUF: {what}")


def tokens_and_types(tokenizer: Any, stated: Mapping[str, Any], rows: int) -> tuple[list[str], list[int]]:
    """Names and kinds of all ids; embeddings that no token uses get names that no text has."""
    names = {id_: name for name, id_ in tokenizer.get_vocab().items()}
    if names and max(names) >= rows:
        raise refused_tokenizer(f"it has the id {max(names)}, and the model only {rows} embeddings")
    added = {token["id"]: token for token in stated["added_tokens"]}
    unknown = tokenizer.unk_token_id if stated["model"]["type"] == "Unigram" or has_pieces(stated) else None
    types = []
    for id_ in range(rows):
        name = names.get(id_)
        if name is None:
            types.append(TokenType.UNUSED)
        elif id_ == unknown:
            types.append(TokenType.UNKNOWN)
        elif id_ in added:
            types.append(TokenType.CONTROL if added[id_]["special"] else TokenType.USER_DEFINED)
        elif len(name) == 6 and name.startswith("<0x") and name.endswith(">"):
            types.append(TokenType.BYTE)
        else:
            types.append(TokenType.NORMAL)
    return [names.get(id_, f"[PAD{id_}]") for id_ in range(rows)], [int(kind) for kind in types]


def special_ids(tokenizer: Any, end_ids: Sequence[int]) -> dict[str, int]:
    """GGUF has three names for tokens that end an answer. Raises ModelError for more."""
    uses = {"bos": tokenizer.bos_token_id, "unk": tokenizer.unk_token_id, "pad": tokenizer.pad_token_id}
    eos = tokenizer.eos_token_id
    ends = list(dict.fromkeys([eos, *end_ids] if eos in end_ids else end_ids))
    if len(ends) > 3:
        raise refused_tokenizer(f"{len(ends)} tokens end an answer, and GGUF has three names for them")
    uses |= dict(zip(("eos", "eot", "eom"), ends, strict=False))
    return {use: id_ for use, id_ in uses.items() if id_ is not None}


def pairs_of(model: Mapping[str, Any]) -> list[tuple[str, str]]:
    pairs = (pair.split(" ") if isinstance(pair, str) else pair for pair in model["merges"])
    return [(left, right) for left, right in pairs]


# Pieces with spaces in them, as sentencepiece makes


def has_pieces(stated: Mapping[str, Any]) -> bool:
    return bool(stated["model"].get("byte_fallback"))


def scores_of_merges(tokens: Sequence[str], types: Sequence[int], pairs: Sequence[tuple[str, str]]) -> list[float]:
    """llama.cpp merges the pair first whose whole has the highest score: the order in which the pairs are listed."""
    rank: dict[str, int] = {}
    for number, (left, right) in enumerate(pairs):
        rank.setdefault(left + right, number)
    plain = int(TokenType.NORMAL)
    return [
        -float(rank.get(name, len(pairs))) if kind == plain else 0.0 for name, kind in zip(tokens, types, strict=True)
    ]


def steps(stated: Mapping[str, Any], part: str) -> list[Mapping[str, Any]]:
    """The steps of a normalizer or pre-tokenizer, which may be a sequence of them."""
    found = stated.get(part)
    if found is None:
        return []
    parts = {"normalizer": "normalizers", "pre_tokenizer": "pretokenizers"}
    return list(found[parts[part]]) if found["type"] == "Sequence" else [found]


def piece_settings(stated: Mapping[str, Any]) -> dict[str, bool]:
    prepends = any(step["type"] == "Prepend" for step in steps(stated, "normalizer")) or any(
        step["type"] == "Metaspace" and step.get("prepend_scheme", "always") != "never"
        for step in steps(stated, "pre_tokenizer")
    )
    return {"add_space_prefix": prepends}


def charsmap_of(stated: Mapping[str, Any]) -> bytes | None:
    for step in steps(stated, "normalizer"):
        if step["type"] == "Precompiled" and step.get("precompiled_charsmap"):
            return base64.b64decode(step["precompiled_charsmap"])
    return None
