"""Where an answer lies in the text that a chat template makes of a conversation: where it begins, and where it ends.

prompt   what the template has before an answer, when asked for a generation prompt: what chat sends
opening  what the template writes between the prompt and the words of the answer; the model learns to say it
closing  the special token that ends the turn, with what stands before it; the model learns to say it
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

from neuralchat.data.records import Turn
from neuralchat.data.templates.chat_text import ChatText, content_of, mark
from neuralchat.data.templates.shapes import DISORDER, END_OF_THOUGHTS, neutral_turn
from neuralchat.data.templates.template import Tools
from neuralchat.errors import TemplateError

END = mark("end")


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


class AnswerPlaces:
    """`own_prompt` is that of ChatTemplate."""

    def __init__(self, chat_text: ChatText, *, own_prompt: bool) -> None:
        self.chat_text = chat_text
        self.own_prompt = own_prompt

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

    def span_in(self, text: str, answer: WrittenAnswer, *, is_last: bool) -> Span:
        """Where no token of its own ends an answer, the special token with which the next turn begins does."""
        if not answer.closed and not is_last and (match := self.chat_text.special.search(text, answer.end)):
            return Span(answer.start, match.end(), True)
        return Span(answer.start, answer.end, answer.closed)

    def loses_reasoning(self, turns: Sequence[Turn], tools: Tools) -> bool:
        if not has_reasoning(turns[-1]):
            return False
        last = neutral_turn(turns[-1], 0)
        return mark("r0") not in self.chat_text.text([*turns[:-1], last], tools)


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
