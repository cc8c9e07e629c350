"""Conversations of a shape seen before, rendered by the texts that a template puts around their contents.

It saves most of the renderings that tell answers apart. What the template writes is still compared for every record.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from neuralchat.data.records import Turn
from neuralchat.data.templates.answers import Span
from neuralchat.data.templates.chat_text import content_of, mark
from neuralchat.data.templates.template import Rendering, Tools
from neuralchat.data.templates.written import WrittenExamples


@dataclass(frozen=True)
class Skeleton:
    """Texts around the contents of turns of one shape; spans as (turn, characters before its content, after it)."""

    literals: tuple[str, ...]
    spans: tuple[tuple[int, int, int, bool], ...]


class Skeletons:
    """Those of one template, made when a shape is met for the first time."""

    def __init__(self, written: WrittenExamples) -> None:
        self.written = written
        self.found: dict[Any, Skeleton | None] = {}

    def renderings(self, turns: Sequence[Turn], tools: Tools) -> list[Rendering] | None:
        """The rendering of plain turns by the texts around contents of this shape, if the template writes just that."""
        if tools or any(turn.reasoning or turn.tool_calls or turn.role == "tool" for turn in turns):
            return None
        skeleton = self.skeleton(tuple((turn.role, turn.trained) for turn in turns))
        if skeleton is None:
            return None
        written = self.written.chat_text.text(turns)
        asked = self.written.chat_text.text(turns[:-1], prompt=True)
        contents = [content_of(turn) for turn in turns]
        for texts in (contents, [text.strip() for text in contents]):
            text, places = assembled(skeleton.literals, texts)
            spans = [Span(places[i][0] - before, places[i][1] + after, c) for i, before, after, c in skeleton.spans]
            if text == written and (not spans or written[: spans[-1].start] == asked):
                return [Rendering(tuple(turns), self.written.pieces.of(text, spans))]
        return None

    def skeleton(self, shape: tuple[tuple[Any, bool], ...]) -> Skeleton | None:
        if shape not in self.found:
            self.found[shape] = self.make_skeleton(shape)
        return self.found[shape]

    def make_skeleton(self, shape: tuple[tuple[Any, bool], ...]) -> Skeleton | None:
        marks = [mark(f"m{i}") for i in range(len(shape))]
        turns = [Turn(role, text, trained=trained) for (role, trained), text in zip(shape, marks, strict=True)]
        text = self.written.chat_text.text(turns)
        if re.findall(mark("m\\d+"), text) != marks or not turns[-1].trained or turns[-1].role != "assistant":
            return None
        literals = tuple(re.split(mark("m\\d+"), text))
        renderings = self.written.renderings(turns, ())
        if len(renderings) != 1:
            return None
        _, places = assembled(literals, marks)
        spans = []
        for i in (i for i, turn in enumerate(turns) if turn.role == "assistant" and turn.trained):
            span = self.written.answers.span_in(
                text, self.written.answers.answer_of(turns[: i + 1], ()), is_last=i == len(turns) - 1
            )
            spans.append((i, places[i][0] - span.start, span.end - places[i][1], span.closed))
        return Skeleton(literals, tuple(spans))


def assembled(literals: Sequence[str], contents: Sequence[str]) -> tuple[str, list[tuple[int, int]]]:
    """(the text, where in it each content begins and ends)."""
    parts, places, position = [literals[0]], [], len(literals[0])
    for content, literal in zip(contents, literals[1:], strict=True):
        places.append((position, position + len(content)))
        parts += [content, literal]
        position += len(content) + len(literal)
    return "".join(parts), places
