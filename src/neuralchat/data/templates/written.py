"""Conversations as the template writes them -> pieces, of which the answers and what ends them are supervised."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

from neuralchat.data.records import Turn
from neuralchat.data.templates.answers import AnswerPlaces, WrittenAnswer
from neuralchat.data.templates.chat_text import ChatText
from neuralchat.data.templates.pieces import Pieces
from neuralchat.data.templates.template import Piece, Rendering, Tools

MOST_PLACES = 1 << 14


class KnownPlace(NamedTuple):
    """`answer`, without the text of its conversation; `digest`: of that up to the answer's end."""

    answer: WrittenAnswer
    digest: bytes


def digest_of_text(text: str) -> bytes:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()


class WrittenExamples:
    """`own_prompt` is that of ChatTemplate; `end_token` that of the tokenizer."""

    def __init__(self, chat_text: ChatText, end_token: str, *, own_prompt: bool) -> None:
        self.chat_text = chat_text
        self.answers = AnswerPlaces(chat_text, own_prompt=own_prompt)
        self.pieces = Pieces(chat_text, end_token)
        self.known_places: dict[bytes, KnownPlace] = {}

    def prompt_pieces(self, turns: Sequence[Turn], tools: Tools) -> list[Piece]:
        """The prompt after earlier answers, which stand in it as they do in training, in pieces of their own."""
        text, spans = self.answers.prompt_text(turns, tools), []
        said = hashlib.sha256(repr(tools).encode("utf-8", "surrogatepass"))
        for i, turn in enumerate(turns):
            said.update(repr(turn).encode("utf-8", "surrogatepass"))
            if turn.role == "assistant":
                place = self.known_place(said.digest(), turns[: i + 1], tools)
                if digest_of_text(text[: place.answer.end]) == place.digest:
                    spans.append(self.answers.span_in(text, place.answer, is_last=False))
        return self.pieces.of(text, spans)

    def known_place(self, key: bytes, turns: Sequence[Turn], tools: Tools) -> KnownPlace:
        """Where the last turn lies. Those of a conversation are met again with each of its next questions."""
        if (place := self.known_places.get(key)) is None:
            answer = self.answers.answer_of(turns, tools)
            place = KnownPlace(answer._replace(text=""), digest_of_text(answer.text[: answer.end]))
            if len(self.known_places) >= MOST_PLACES:
                self.known_places = {}
            self.known_places[key] = place
        return place

    def renderings(self, turns: Sequence[Turn], tools: Tools) -> list[Rendering]:
        """The renderings of a conversation by what the template writes after each of its answers."""
        answers = [i for i, turn in enumerate(turns) if turn.role == "assistant" and turn.trained]
        if not answers:
            return [Rendering(tuple(turns), self.pieces.of(self.chat_text.text(turns, tools), []))]
        found = {i: self.answers.answer_of(turns[: i + 1], tools) for i in answers}
        renderings = []
        while found:
            last = max(found)
            text = found[last].text
            shared = [i for i, a in found.items() if i == last or text.startswith(a.text[: a.end])]
            spans = [self.answers.span_in(text, found[i], is_last=i == last) for i in shared]
            lost = sum(found.pop(i).lost_reasoning for i in shared)
            chosen = tuple(replace(turn, trained=i in shared) for i, turn in enumerate(turns[: last + 1]))
            renderings.append(Rendering(chosen, self.pieces.of(text, spans), lost))
        return renderings[::-1]
