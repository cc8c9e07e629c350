"""The text of a conversation -> pieces: its special tokens by name, and what of it is supervised."""

from __future__ import annotations

from collections.abc import Sequence

from neuralchat.data.templates.answers import Span
from neuralchat.data.templates.chat_text import ChatText
from neuralchat.data.templates.template import Piece


class Pieces:
    """`end_token` is put where the template ends an answer with no special token."""

    def __init__(self, chat_text: ChatText, end_token: str) -> None:
        self.chat_text = chat_text
        self.end_token = end_token

    def of(self, text: str, spans: Sequence[Span]) -> list[Piece]:
        pieces: list[Piece] = []
        position = 0
        for span in spans:
            pieces += self.split(text[position : span.start], supervised=False)
            pieces += self.split(text[span.start : span.end], supervised=True)
            if not span.closed:
                pieces.append(Piece(self.end_token, special=True, supervised=True))
            position = span.end
        return pieces + self.split(text[position:], supervised=False)

    def split(self, text: str, *, supervised: bool) -> list[Piece]:
        """At special tokens, which take white space beside them as the tokenizer lets them."""
        chat, pieces, position, stripping = self.chat_text, [], 0, False
        for match in chat.special.finditer(text):
            plain = text[position : match.start()]
            plain = plain.lstrip() if stripping else plain
            plain = plain.rstrip() if match.group() in chat.strips_left else plain
            if plain:
                pieces.append(Piece(chat.restored(plain), supervised=supervised))
            pieces.append(Piece(match.group(), special=True, supervised=supervised))
            position, stripping = match.end(), match.group() in chat.strips_right
        rest = text[position:].lstrip() if stripping else text[position:]
        return [*pieces, Piece(chat.restored(rest), supervised=supervised)] if rest else pieces
