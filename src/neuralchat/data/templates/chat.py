"""The tokenizer's own chat template: what it writes decides what is learned, what chat sends, and where answers end.

An answer is learned as the template writes it when nothing follows yet, for that is how chat will go on. Where the
template writes an answer otherwise once more is said (without its reasoning, say), each such answer becomes an example
of its own; where it does not, one example holds them all.

    shapes.py     which turns the template writes at all
    answers.py    where an answer lies in the text that it makes of a conversation
    pieces.py     the text in pieces, supervised where the answers lie
    written.py    the examples that a conversation becomes
    skeletons.py  the same, faster, for shapes seen before
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from itertools import pairwise, takewhile
from typing import Any

from neuralchat.data.records import Turn
from neuralchat.data.templates.chat_text import ChatText
from neuralchat.data.templates.shapes import TakenShapes
from neuralchat.data.templates.skeletons import Skeletons
from neuralchat.data.templates.template import Piece, Rendering, Template, Tools
from neuralchat.data.templates.written import WrittenExamples
from neuralchat.errors import TemplateError

PROBES: tuple[tuple[Turn, ...], ...] = (
    (Turn("user", "question"), Turn("assistant", "answer")),
    (Turn("user", "question"), Turn("assistant", "answer"), Turn("user", "question"), Turn("assistant", "answer")),
    (Turn("system", "rule"), Turn("user", "question"), Turn("assistant", "answer")),
    (
        Turn("user", "question"),
        Turn("assistant", "", tool_calls=({"function": {"name": "call", "arguments": {"name": "value"}}},)),
        Turn("tool", "result"),
        Turn("assistant", "answer"),
    ),
)


class ChatTemplate(Template):
    """`kwargs`: variables for the template, such as enable_thinking. `date`: the day that a template sees as today.

    `own_prompt`: the prompt is the template's generation prompt even where that is not what stands before an answer;
    for models that were not trained here.
    """

    name = "chat"
    joins_answers = True

    def __init__(
        self,
        tokenizer: Any,
        kwargs: Mapping[str, Any] | None = None,
        date: str | None = None,
        *,
        own_prompt: bool = False,
    ) -> None:
        self.chat_text = ChatText(tokenizer, kwargs, date)
        self.end_token = tokenizer.eos_token
        self.shapes = TakenShapes(self.chat_text)
        self.written = WrittenExamples(self.chat_text, self.end_token, own_prompt=own_prompt)
        self.skeletons = Skeletons(self.written)
        self.end_tokens = self.find_end_tokens()

    def find_end_tokens(self) -> tuple[str, ...]:
        """The special tokens that end an answer, in conversations of all kinds that the template takes."""
        found: list[str] = []
        for number, turns in enumerate(PROBES):
            try:
                self.shapes.check(turns, ())
                renderings = self.written.renderings(turns, ())
            except TemplateError:
                if number == 0:
                    raise
                continue
            for rendering in renderings:
                found += [
                    piece.text for piece, next_one in pairwise([*rendering.pieces, Piece("")]) if ends(piece, next_one)
                ]
        return tuple(dict.fromkeys([*found, self.end_token]))

    def definition(self) -> dict[str, Any]:
        return {"name": self.name, "end_token": self.end_token, **self.chat_text.definition()}

    @cached_property
    def notices(self) -> list[str]:
        found = []
        asked = self.chat_text.text(PROBES[0][:1], prompt=True)
        if self.written.answers.prompt_text(PROBES[0][:1]) != asked:
            found.append(
                "the chat template's generation prompt is not what it writes before an answer; "
                "chat sends what training wrote"
            )
        if unused := self.chat_text.unused_variables():
            found.append(f"--chat_template_kwargs: the chat template does not use {', '.join(unused)}")
        if self.chat_text.date:
            found.append(f"the chat template tells the model the date; for this run it is {self.chat_text.date}")
        return found

    @cached_property
    def frame(self) -> tuple[list[Piece], list[Piece]]:
        answer = self.written.answers.answer_of(PROBES[0], ())
        before, _, after = answer.text[answer.start : answer.end].rpartition("answer")
        pieces = self.written.pieces
        return pieces.of(before, []), list(takewhile(lambda piece: not piece.special, pieces.of(after, [])))

    def render(self, turns: Sequence[Turn], tools: Tools = ()) -> list[Piece]:
        if turns[-1].role != "assistant":
            self.shapes.check(turns, tools)
            return self.written.prompt_pieces(self.chat_text.swapped_turns(turns), self.chat_text.swap(tools))
        renderings = self.renderings(turns, tools)
        if len(renderings) != 1:
            raise TemplateError("the chat template writes these answers in several ways; they need several examples")
        return renderings[0].pieces

    def renderings(self, turns: Sequence[Turn], tools: Tools = ()) -> list[Rendering]:
        self.shapes.check(turns, tools)
        swapped, tools = self.chat_text.swapped_turns(turns), self.chat_text.swap(tools)
        renderings = self.skeletons.renderings(swapped, tools) or self.written.renderings(swapped, tools)
        return [rendering._replace(turns=with_flags(turns, rendering.turns)) for rendering in renderings]


def with_flags(turns: Sequence[Turn], flagged: Sequence[Turn]) -> tuple[Turn, ...]:
    """The first of `turns`, as many as are `flagged`, which say whether they are trained."""
    return tuple(replace(turn, trained=flag.trained) for turn, flag in zip(turns, flagged, strict=False))


def ends(piece: Piece, following: Piece) -> bool:
    return piece.supervised and piece.special and not following.supervised
