"""tokens of a row -> pieces of text as they are to be shown: nothing is left out, special ones by their names."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

from neuralchat.data_tools.preview.rows import RowToken
from neuralchat.inference.server.token_bytes import TokenBytes

# A line's end is a token too, or part of one, and may be learned or not.
LINE_END = "\u21b5\n"


@dataclass(frozen=True)
class TextPiece:
    """What one token says, or several that make a character together. `mark`: see console.tables.MarkedText."""

    text: str
    mark: str
    tokens: Sequence[RowToken]


class TokenTexts:
    """The texts of a vocabulary's tokens; what a decoder would leave out, as the first space, is shown."""

    def __init__(self, tokenizer: Any) -> None:
        self.bytes = TokenBytes(tokenizer)
        self.added = frozenset(tokenizer.added_tokens_decoder)

    def name(self, token_id: int) -> str:
        """Of a token by itself; that of half a character is its byte."""
        if token_id < 0:
            return f"[virtual {-token_id}]"
        # A vocabulary may be smaller than the embedding.
        return self.bytes.name(token_id).decode("utf-8", "backslashreplace") or f"[{token_id}]"

    def mark(self, token: RowToken) -> str:
        use = "learned" if token.learned else "compared" if token.compared else ""
        is_special = token.token_id < 0 or token.token_id in self.added
        return f"{use} special".strip() if is_special else use

    def pieces(self, tokens: Sequence[RowToken]) -> Iterator[TextPiece]:
        """A piece for each token, or for several of one mark that are parts of one character."""
        for mark, run in groupby(tokens, key=self.mark):
            waiting: list[RowToken] = []
            for token in run:
                waiting.append(token)
                if (text := self.whole_text(waiting)) is not None:
                    yield TextPiece(text.replace("\n", LINE_END), mark, waiting)
                    waiting = []
            if waiting:
                yield TextPiece("".join(self.name(token.token_id) for token in waiting), mark, waiting)

    def whole_text(self, tokens: Sequence[RowToken]) -> str | None:
        """None where they end within a character."""
        if len(tokens) == 1 and (tokens[0].token_id < 0 or not self.bytes.name(tokens[0].token_id)):
            return self.name(tokens[0].token_id)
        try:
            return b"".join(self.bytes.name(token.token_id) for token in tokens).decode("utf-8")
        except UnicodeDecodeError as error:
            # No character is longer; what is none is shown byte by byte.
            is_open = error.reason == "unexpected end of data" and len(error.object) - error.start < 4
            return None if is_open else error.object.decode("utf-8", "backslashreplace")
