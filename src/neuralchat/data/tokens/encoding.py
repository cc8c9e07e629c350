"""pieces -> token ids, and which of them are supervised.

Plain runs of text between special tokens are encoded whole, as the tokenizer itself would; prompt and answer
are always encoded apart, so no token ever crosses the boundary at which chat begins to generate.

Shapes: T tokens of one conversation.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from neuralchat.data.templates.template import Piece


def merge_runs(pieces: Iterable[Piece]) -> list[Piece]:
    """Join neighbouring plain pieces of the same supervision, so that they are encoded as one text."""
    merged: list[Piece] = []
    for piece in pieces:
        last = merged[-1] if merged else None
        if last and not last.special and not piece.special and last.supervised == piece.supervised:
            merged[-1] = last._replace(text=last.text + piece.text)
        elif piece.text:
            merged.append(piece)
    return merged


def encode_runs(
    tokenizer: Any, conversations: Sequence[Sequence[Piece]], *, joins_answers: bool = False
) -> list[tuple[np.ndarray, np.ndarray]]:
    """(ids int32 [T], supervised bool [T]) of each conversation; all plain texts go to the tokenizer at once.

    With `joins_answers` neighbouring plain pieces are encoded as the one text that they are, where a token of it ends
    at each border: then the ids are the tokenizer's own of the whole, and those of the prompt are what chat sends.
    """
    texts = [text for pieces in conversations for text in texts_to_encode(pieces, joins_answers)]
    encoded = dict(zip(texts, encode_texts(tokenizer, texts), strict=True)) if joins_answers else {}
    in_order = iter(() if joins_answers else encode_texts(tokenizer, texts))
    results = []
    for pieces in conversations:
        ids: list[int] = []
        supervised: list[bool] = []
        before = ""
        ids_before: list[int] = []
        for piece in pieces:
            if piece.special:
                new, before, ids_before = [tokenizer.convert_tokens_to_ids(piece.text)], "", []
            elif joins_answers:
                whole = encoded[before + piece.text]
                joined = whole[: len(ids_before)] == ids_before
                new = whole[len(ids_before) :] if joined else encoded[piece.text]
                before, ids_before = before + piece.text, ids_before + new
            else:
                new = next(in_order)
            ids += new
            supervised += [piece.supervised] * len(new)
        results.append((np.array(ids, dtype=np.int32), np.array(supervised, dtype=bool)))
    return results


def texts_to_encode(pieces: Sequence[Piece], joins_answers: bool) -> list[str]:
    """The plain pieces, and where pieces are joined each with all plain text right before it."""
    texts, before = [], ""
    for piece in pieces:
        if piece.special:
            before = ""
            continue
        texts.append(piece.text)
        if joins_answers and before:
            texts.append(before + piece.text)
        before += piece.text
    return texts


def encode_texts(tokenizer: Any, texts: Sequence[str]) -> list[list[int]]:
    """Token ids of each text; no special token is added, and none is recognised in the text."""
    if not texts:
        return []
    return tokenizer(
        list(texts), add_special_tokens=False, split_special_tokens=True, return_attention_mask=False, verbose=False
    )["input_ids"]
