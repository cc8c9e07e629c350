"""Tokens of an answer and its text -> the bytes that each token stands for; joined they are the text.

Bytes are not in the text that a tokenizer decodes: half of a character is none. They are taken from the vocabulary, and
where that does not fit what was decoded (a space that is left out at the beginning, say), from the text.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import cached_property, lru_cache
from typing import Any

from neuralchat.inference.answer_text import AnswerText
from neuralchat.inference.engine.interface import Token

BYTE = re.compile("<0x([0-9A-F]{2})>")
WORD_BEGIN = "▁"
SPACE = b" "


@lru_cache(maxsize=1)
def bytes_of_letters() -> dict[str, int]:
    """The letters in which byte-level vocabularies (GPT-2's) write bytes: printable ones as they are, others after."""
    shown = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    hidden = [byte for byte in range(256) if byte not in shown]
    return {**{chr(byte): byte for byte in shown}, **{chr(256 + i): byte for i, byte in enumerate(hidden)}}


class TokenBytes:
    """What each token of a vocabulary stands for where nothing is beside it."""

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer = tokenizer
        self.of = lru_cache(maxsize=1 << 16)(self.looked_up)

    @cached_property
    def is_byte_level(self) -> bool:
        words = self.tokenizer.tokenize("é a")
        letters = bytes_of_letters()
        found = bytes(letters.get(letter, 0) for word in words for letter in word)
        return found.strip() == "é a".encode()

    @cached_property
    def special(self) -> frozenset[int]:
        return frozenset(self.tokenizer.all_special_ids)

    def looked_up(self, token: int) -> bytes:
        name = self.tokenizer.convert_ids_to_tokens(token)
        if name is None or token in self.special:
            return b""
        if token in self.tokenizer.added_tokens_decoder:
            return name.encode("utf-8", "replace")
        letters = bytes_of_letters()
        if self.is_byte_level and all(letter in letters for letter in name):
            return bytes(letters[letter] for letter in name)
        if match := BYTE.fullmatch(name):
            return bytes([int(match[1], 16)])
        return name.replace(WORD_BEGIN, " ").encode("utf-8", "replace")

    def name(self, token: int) -> bytes:
        """The same, but a special token is its name: one that might have been said, beside those that were."""
        return self.of(token) or str(self.tokenizer.convert_ids_to_tokens(token) or "").encode("utf-8", "replace")

    def shares(self, tokens: Sequence[Token], text: str) -> list[bytes]:
        """What each of these tokens has of the text that they make together."""
        left, found = text.encode("utf-8", "replace"), []
        for token in tokens:
            own = self.of(token.id)
            share = next((part for part in (own, own.removeprefix(SPACE)) if part and left.startswith(part)), b"")
            if not share and own.startswith(left):
                # A stop string cut it.
                share = left
            found.append(share)
            left = left[len(share) :]
        if found:
            found[-1] += left
        return found


class AttributedTokens:
    """The tokens of an answer that goes on, each with its bytes once its text has been handed out."""

    def __init__(self, text: AnswerText, token_bytes: TokenBytes) -> None:
        self.text = text
        self.bytes = token_bytes
        # Tokens without a text yet; and (tokens, where their text is in the answer).
        self.open: list[Token] = []
        self.spans: list[tuple[list[Token], int, int]] = []
        self.known = 0

    def add(self, token: Token) -> None:
        """Called after the answer's text has got the token, or its end."""
        self.open.append(token)
        self.advance()

    def advance(self) -> None:
        if self.text.known > self.known:
            self.spans.append((self.open, self.known, self.text.known))
            self.open, self.known = [], self.text.known

    def taken(self, *, is_last: bool = False) -> list[tuple[Token, bytes]]:
        """Those that are certain now, in order; tokens without a text of their own are none of the answer's."""
        self.advance()
        given = self.text.given
        found: list[tuple[Token, bytes]] = []
        while self.spans and (self.spans[0][2] <= given or is_last):
            tokens, start, end = self.spans.pop(0)
            found += zip(tokens, self.bytes.shares(tokens, self.text.text[start : min(end, given)]), strict=True)
        return [(token, share) for token, share in found if share]
