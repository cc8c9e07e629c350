"""Conversations as the template writes them -> pieces, of which the answers and what ends them are supervised."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from neuralchat.data.records import Turn
from neuralchat.data.templates.answers import AnswerPlaces
from neuralchat.data.templates.chat_text import ChatText
from neuralchat.data.templates.pieces import Pieces
from neuralchat.data.templates.template import Piece, Rendering, Tools


class WrittenExamples:
    """`own_prompt` is that of ChatTemplate; `end_token` that of the tokenizer."""

    def __init__(self, chat_text: ChatText, end_token: str, *, own_prompt: bool) -> None:
        self.chat_text = chat_text
        self.answers = AnswerPlaces(chat_text, own_prompt=own_prompt)
        self.pieces = Pieces(chat_text, end_token)

    def prompt_pieces(self, turns: Sequence[Turn], tools: Tools) -> list[Piece]:
        """The prompt after earlier answers, which stand in it as they do in training, in pieces of their own."""
        text, spans = self.answers.prompt_text(turns, tools), []
        for i in (i for i, turn in enumerate(turns) if turn.role == "assistant"):
            answer = self.answers.answer_of(turns[: i + 1], tools)
            if text.startswith(answer.text[: answer.end]):
                spans.append(self.answers.span_in(text, answer, is_last=False))
        return self.pieces.of(text, spans)

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
