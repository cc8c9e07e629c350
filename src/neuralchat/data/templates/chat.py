"""The tokenizer's own chat template: what it writes decides what is learned, what chat sends, and where answers end.

An answer is learned as the template writes it when nothing follows yet, for that is how chat will go on. Where the
template writes an answer otherwise once more is said (without its reasoning, say), each such answer becomes an example
of its own; where it does not, one example holds them all.

    prompt   what the template has before an answer, when asked for a generation prompt: what chat sends
    opening  what the template writes between the prompt and the words of the answer; the model learns to say it
    closing  the special token that ends the turn, with what stands before it; the model learns to say it
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import pairwise, takewhile
from typing import Any, NamedTuple

from neuralchat.data.records import Turn
from neuralchat.data.templates.chat_text import ChatText, content_of, mark
from neuralchat.data.templates.template import Piece, Rendering, Template, Tools
from neuralchat.errors import TemplateError

END_OF_THOUGHTS = "</think>"
END = mark("end")
DISORDER = "the chat template drops, repeats or reorders turns; use --template alpaca"
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


class WrittenAnswer(NamedTuple):
    """The place [start, end) of what is learned in the text of a conversation that ends with this answer.

    `closed`: the template ends it with a special token; otherwise the tokenizer's end token is put there.
    """

    text: str
    start: int
    end: int
    closed: bool
    lost_reasoning: bool = False


class Span(NamedTuple):
    start: int
    end: int
    closed: bool


@dataclass(frozen=True)
class Skeleton:
    """Texts around the contents of turns of one shape; spans as (turn, characters before its content, after it)."""

    literals: tuple[str, ...]
    spans: tuple[tuple[int, int, int, bool], ...]


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
        self.own_prompt = own_prompt
        self.chat_text = ChatText(tokenizer, kwargs, date)
        self.end_token = tokenizer.eos_token
        self.skeletons: dict[Any, Skeleton | None] = {}
        self.checked: set[Any] = set()
        self.end_tokens = self.find_end_tokens()

    def find_end_tokens(self) -> tuple[str, ...]:
        """The special tokens that end an answer, in conversations of all kinds that the template takes."""
        found: list[str] = []
        for number, turns in enumerate(PROBES):
            try:
                self.check_shape(turns, ())
                renderings = self.written_renderings(turns, ())
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
        if self.prompt_text(PROBES[0][:1]) != asked:
            found.append(
                "the chat template's generation prompt is not what it writes before an answer; "
                "chat sends what training wrote"
            )
        if self.chat_text.date:
            found.append(f"the chat template tells the model the date; for this run it is {self.chat_text.date}")
        return found

    @cached_property
    def frame(self) -> tuple[list[Piece], list[Piece]]:
        answer = self.answer_of(PROBES[0], ())
        before, _, after = answer.text[answer.start : answer.end].rpartition("answer")
        return self.pieces(before, []), list(takewhile(lambda piece: not piece.special, self.pieces(after, [])))

    # A conversation

    def render(self, turns: Sequence[Turn], tools: Tools = ()) -> list[Piece]:
        if turns[-1].role != "assistant":
            self.check_shape(turns, tools)
            return self.prompt_pieces(self.chat_text.swapped_turns(turns), self.chat_text.swap(tools))
        renderings = self.renderings(turns, tools)
        if len(renderings) != 1:
            raise TemplateError("the chat template writes these answers in several ways; they need several examples")
        return renderings[0].pieces

    def renderings(self, turns: Sequence[Turn], tools: Tools = ()) -> list[Rendering]:
        self.check_shape(turns, tools)
        swapped, tools = self.chat_text.swapped_turns(turns), self.chat_text.swap(tools)
        renderings = self.quick_rendering(swapped, tools) or self.written_renderings(swapped, tools)
        return [rendering._replace(turns=with_flags(turns, rendering.turns)) for rendering in renderings]

    def prompt_text(self, turns: Sequence[Turn], tools: Tools = ()) -> str:
        """What chat sends, and what stands before the answer in training."""
        return self.beginning(turns, tools)[0]

    def beginning(self, turns: Sequence[Turn], tools: Tools) -> tuple[str, str]:
        """(prompt, what the template writes in its place when the answer is there). Mostly the two are the same."""
        prompt = self.chat_text.text(turns, tools, prompt=True)
        written = self.chat_text.text([*turns, Turn("assistant", mark("a"))], tools)
        asks = prompt != self.chat_text.text(turns, tools)
        header = written[len(prompt) :].partition(mark("a"))[0]
        if written.startswith(prompt) and (asks or not header.strip()):
            return prompt, prompt
        # What stands before any answer. Spaces stay with the answer, as tokens have them.
        others = [Turn("assistant", "b"), Turn("assistant", "b", reasoning="c")]
        own = common_beginning(written, *(self.chat_text.text([*turns, other], tools) for other in others)).rstrip(" ")
        # Some templates write a turn (the system's) for the last question only.
        contents = [content_of(turn).strip() for turn in turns]
        only_there = any(text in prompt and text not in own for text in contents)
        return (prompt if only_there or (self.own_prompt and asks) else own), own

    def prompt_pieces(self, turns: Sequence[Turn], tools: Tools) -> list[Piece]:
        """The prompt after earlier answers, which stand in it as they do in training, in pieces of their own."""
        text, spans = self.prompt_text(turns, tools), []
        for i in (i for i, turn in enumerate(turns) if turn.role == "assistant"):
            answer = self.answer_of(turns[: i + 1], tools)
            if text.startswith(answer.text[: answer.end]):
                spans.append(self.span_in(text, answer, is_last=False))
        return self.pieces(text, spans)

    def answer_of(self, turns: Sequence[Turn], tools: Tools) -> WrittenAnswer:
        """Where the last turn, an answer, lies in the text of the whole."""
        text, lost = self.chat_text.text(turns, tools), False
        prompt, own = self.beginning(turns[:-1], tools)
        if not text.startswith(own):
            # The template has the model begin behind its thoughts.
            turns, lost = [*turns[:-1], without_reasoning(turns[-1])], True
            text = self.chat_text.text(turns, tools)
        after, length, closed = self.closing(turns, tools)
        fits = text.startswith(own) and text.endswith(after[length:])
        text = prompt + text[len(own) :]
        end = len(text) - len(after) + length
        if not fits or end < len(prompt):
            raise TemplateError(
                "the chat template does not write the prompt before this answer as chat would; use --template alpaca"
            )
        return WrittenAnswer(text, len(prompt), end, closed, lost or self.loses_reasoning(turns, tools))

    def closing(self, turns: Sequence[Turn], tools: Tools) -> tuple[str, int, bool]:
        """(text after the answer's words, characters of it that belong to the answer, whether a special token ends it).

        Special tokens that follow each other end it together; but only as far as they stand there whatever is said
        next, for what comes then belongs to the next turn, or to the end of the whole conversation.
        """
        marked = [*turns[:-1], with_mark(turns[-1])]
        after = self.after_mark(marked, tools)
        followed = [*marked, Turn("tool", "next") if turns[-1].tool_calls else Turn("user", "next")]
        try:
            common = common_beginning(after, self.after_mark(followed, tools))
        except TemplateError:
            common = after
        for text in (common, after):
            # A token that is cut in two by the difference is none.
            found = [match for match in self.chat_text.special.finditer(after) if match.end() <= len(text)]
            if found:
                return after, end_of_turn(found, calls=bool(turns[-1].tool_calls)), True
        return after, 0, False

    def after_mark(self, turns: Sequence[Turn], tools: Tools) -> str:
        parts = self.chat_text.text(turns, tools).split(END)
        if len(parts) != 2:
            raise TemplateError(DISORDER)
        return parts[1]

    def written_renderings(self, turns: Sequence[Turn], tools: Tools) -> list[Rendering]:
        """The renderings of a conversation by what the template writes after each of its answers."""
        answers = [i for i, turn in enumerate(turns) if turn.role == "assistant" and turn.trained]
        if not answers:
            return [Rendering(tuple(turns), self.pieces(self.chat_text.text(turns, tools), []))]
        found = {i: self.answer_of(turns[: i + 1], tools) for i in answers}
        renderings = []
        while found:
            last = max(found)
            text = found[last].text
            shared = [i for i, a in found.items() if i == last or text.startswith(a.text[: a.end])]
            spans = [self.span_in(text, found[i], is_last=i == last) for i in shared]
            lost = sum(found.pop(i).lost_reasoning for i in shared)
            chosen = tuple(replace(turn, trained=i in shared) for i, turn in enumerate(turns[: last + 1]))
            renderings.append(Rendering(chosen, self.pieces(text, spans), lost))
        return renderings[::-1]

    def span_in(self, text: str, answer: WrittenAnswer, *, is_last: bool) -> Span:
        """Where no token of its own ends an answer, the special token with which the next turn begins does."""
        if not answer.closed and not is_last and (match := self.chat_text.special.search(text, answer.end)):
            return Span(answer.start, match.end(), True)
        return Span(answer.start, answer.end, answer.closed)

    # Conversations of a shape seen before

    def quick_rendering(self, turns: Sequence[Turn], tools: Tools) -> list[Rendering] | None:
        """The rendering of plain turns by the texts around contents of this shape, if the template writes just that."""
        if tools or any(turn.reasoning or turn.tool_calls or turn.role == "tool" for turn in turns):
            return None
        skeleton = self.skeleton(tuple((turn.role, turn.trained) for turn in turns))
        if skeleton is None:
            return None
        written = self.chat_text.text(turns)
        asked = self.chat_text.text(turns[:-1], prompt=True)
        contents = [content_of(turn) for turn in turns]
        for texts in (contents, [text.strip() for text in contents]):
            text, places = assembled(skeleton.literals, texts)
            spans = [Span(places[i][0] - before, places[i][1] + after, c) for i, before, after, c in skeleton.spans]
            if text == written and (not spans or written[: spans[-1].start] == asked):
                return [Rendering(tuple(turns), self.pieces(text, spans))]
        return None

    def skeleton(self, shape: tuple[tuple[Any, bool], ...]) -> Skeleton | None:
        if shape not in self.skeletons:
            self.skeletons[shape] = self.make_skeleton(shape)
        return self.skeletons[shape]

    def make_skeleton(self, shape: tuple[tuple[Any, bool], ...]) -> Skeleton | None:
        marks = [mark(f"m{i}") for i in range(len(shape))]
        turns = [Turn(role, text, trained=trained) for (role, trained), text in zip(shape, marks, strict=True)]
        text = self.chat_text.text(turns)
        if re.findall(mark("m\\d+"), text) != marks or not turns[-1].trained or turns[-1].role != "assistant":
            return None
        literals = tuple(re.split(mark("m\\d+"), text))
        renderings = self.written_renderings(turns, ())
        if len(renderings) != 1:
            return None
        _, places = assembled(literals, marks)
        spans = []
        for i in (i for i, turn in enumerate(turns) if turn.role == "assistant" and turn.trained):
            span = self.span_in(text, self.answer_of(turns[: i + 1], ()), is_last=i == len(turns) - 1)
            spans.append((i, places[i][0] - span.start, span.end - places[i][1], span.closed))
        return Skeleton(literals, tuple(spans))

    # What a template leaves out

    def check_shape(self, turns: Sequence[Turn], tools: Tools) -> None:
        """Raise TemplateError where the template writes nothing of some turn, of its calls or of the tools."""
        shape = (bool(tools), *(shape_of(turn) for turn in turns))
        if shape in self.checked:
            return
        neutral = [neutral_turn(turn, i) for i, turn in enumerate(turns)]
        known = ({"type": "function", "function": NEUTRAL_TOOL},) if tools else ()
        text, asked = self.chat_text.text(neutral, known), ""
        if turns[-1].role == "assistant":
            asked = self.chat_text.text(neutral[:-1], known, prompt=True)
        if tools and NEUTRAL_TOOL["name"] not in text:
            raise TemplateError("the chat template knows no tools: it leaves them out; take them out of the records")
        for i, turn in enumerate(neutral):
            if turn.tool_calls and f"function{i}" not in text:
                raise TemplateError(f"the chat template knows no tool calls: it leaves out those of turn {i + 1}")
            if turn.content and mark(f"m{i}") not in text + asked:
                beside = " beside its tool calls" if turn.tool_calls else ""
                raise TemplateError(f"the chat template leaves out the text of turn {i + 1} ({turn.role}){beside}")
            if turn.role == "assistant" and not is_last_text(self.chat_text.text(neutral[: i + 1]), i):
                raise TemplateError(DISORDER)
        self.checked.add(shape)

    def loses_reasoning(self, turns: Sequence[Turn], tools: Tools) -> bool:
        if not has_reasoning(turns[-1]):
            return False
        last = neutral_turn(turns[-1], 0)
        return mark("r0") not in self.chat_text.text([*turns[:-1], last], tools)

    # Text into pieces

    def pieces(self, text: str, spans: Sequence[Span]) -> list[Piece]:
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


NEUTRAL_TOOL: dict[str, Any] = {
    "name": "neutral_tool",
    "description": "It does nothing.",
    "parameters": {"type": "object", "properties": {"value": {"type": "string", "description": "Any text."}}},
}


def with_flags(turns: Sequence[Turn], flagged: Sequence[Turn]) -> tuple[Turn, ...]:
    """The first of `turns`, as many as are `flagged`, which say whether they are trained."""
    return tuple(replace(turn, trained=flag.trained) for turn, flag in zip(turns, flagged, strict=False))


def common_beginning(*texts: str) -> str:
    """
    >>> common_beginning("abc", "abd")
    'ab'
    """
    shortest = min(texts, key=len)
    differing = (i for i, letter in enumerate(shortest) if any(text[i] != letter for text in texts))
    return shortest[: next(differing, len(shortest))]


def end_of_turn(tokens: Sequence[re.Match[str]], *, calls: bool) -> int:
    """Where the tokens end that end a turn together: those without a gap; after calls, brackets may close in a gap."""
    end = tokens[0].end()
    for token in tokens[1:]:
        gap = token.string[end : token.start()]
        if gap and not (calls and gap.strip()):
            break
        end = token.end()
    return end


def ends(piece: Piece, following: Piece) -> bool:
    return piece.supervised and piece.special and not following.supervised


def assembled(literals: Sequence[str], contents: Sequence[str]) -> tuple[str, list[tuple[int, int]]]:
    """(the text, where in it each content begins and ends)."""
    parts, places, position = [literals[0]], [], len(literals[0])
    for content, literal in zip(contents, literals[1:], strict=True):
        places.append((position, position + len(content)))
        parts += [content, literal]
        position += len(content) + len(literal)
    return "".join(parts), places


def is_last_text(text: str, index: int) -> bool:
    """Whether nothing of earlier turns stands behind the content of turn `index`."""
    found = re.findall(mark("m\\d+"), text)
    return mark(f"m{index}") not in found or found[-1] == mark(f"m{index}")


def shape_of(turn: Turn) -> tuple[Any, ...]:
    return turn.role, bool(turn.content), bool(turn.tool_calls), bool(turn.reasoning), END_OF_THOUGHTS in turn.content


def has_reasoning(turn: Turn) -> bool:
    return bool(turn.reasoning) or END_OF_THOUGHTS in turn.content


def without_reasoning(turn: Turn) -> Turn:
    return replace(turn, reasoning="", content=turn.content.rpartition(END_OF_THOUGHTS)[2].lstrip())


def with_mark(turn: Turn) -> Turn:
    """The turn with a mark where its words end: in its last tool call, or else after its content."""
    if not turn.tool_calls:
        return replace(turn, content=turn.content.rstrip() + END)
    call = turn.tool_calls[-1]
    function = call.get("function", call)
    marked = {**function, "arguments": {"value": END}}
    return replace(turn, tool_calls=(*turn.tool_calls[:-1], {**call, "function": marked}))


def neutral_turn(turn: Turn, index: int) -> Turn:
    """A turn of the same shape, whose parts can be found in what a template writes."""
    content, thoughts = mark(f"m{index}"), mark(f"r{index}")
    if END_OF_THOUGHTS in turn.content:
        content = f"<think>\n{thoughts}\n</think>\n\n{content}"
    call = {"function": {"name": f"function{index}", "arguments": {"value": "x"}}}
    return Turn(
        turn.role,
        content if turn.content else "",
        trained=turn.trained,
        reasoning=thoughts if turn.reasoning else "",
        tool_calls=(call,) if turn.tool_calls else (),
    )
