"""What --fix does to texts: one row of a table for each defect that has one right answer."""

from __future__ import annotations

import html
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Literal, NamedTuple

from neuralchat.config.arguments import RECORD_FIELDS
from neuralchat.data.records.conversations import ROLE_NAMES
from neuralchat.data_tools.checking import patterns

TextKind = Literal["answer", "context", "asked"]
Path = tuple[str | int, ...]

ANSWERS = frozenset({"output", "completion", "answer", "response", "text"})
CONTEXTS = frozenset({"input", "context"})
TEXT_FIELDS = frozenset(RECORD_FIELDS) - {"tools", "functions", "facts"}
TURN_TEXTS = ("content", "value", "text")
PLAIN_LINE_ENDS = str.maketrans({"\u2028": "\n", "\u2029": "\n\n"})
# Tokens that end a text, where a text ends.
END_TOKENS = re.compile(
    r"(?:\s*(?:<\|(?:endoftext|end_of_text|im_end|eot_id|end_of_turn|end)\|>|</s>|<eos>|\[EOS\]))+\s*$"
)
# Characters that bytes of UTF-8 beyond ASCII become in Latin-1 or Windows-1252.
MISREAD = re.compile(
    "[\u0080-\u00ff\u20ac\u201a\u0192\u201e\u2026\u2020\u2021\u02c6\u2030\u0160\u2039\u0152\u017d\u2018\u2019\u201c\u201d\u2022"
    "\u2013\u2014\u02dc\u2122\u0161\u203a\u0153\u017e\u0178]{2,}"
)


class Fix(NamedTuple):
    """Of the check `name`, in texts of these kinds: a text -> what it should be."""

    name: str
    kinds: tuple[TextKind, ...]
    fix: Callable[[str], str]


def without_control(text: str) -> str:
    """
    >>> without_control("bat\u200btery\u2028cell")
    'battery\\ncell'
    """
    return patterns.CONTROL.sub("", text.translate(PLAIN_LINE_ENDS))


def decoded_again(text: str) -> str:
    """
    >>> decoded_again("isn\u00e2\u20ac\u2122t a caf\u00c3\u00a9, à la carte")
    'isn\u2019t a café, à la carte'
    """
    return MISREAD.sub(reread, text) if patterns.MOJIBAKE.search(text) else text


def reread(match: re.Match[str]) -> str:
    """What the bytes of misread characters say as UTF-8; where they say nothing, the characters."""
    try:
        return b"".join(byte_of(character) for character in match[0]).decode("utf-8")
    except UnicodeError:
        return match[0]


def byte_of(character: str) -> bytes:
    try:
        return character.encode("cp1252")
    except UnicodeEncodeError:
        return character.encode("latin-1")


def unescaped(text: str) -> str:
    return patterns.HTML_ENTITY.sub(lambda match: html.unescape(match[0]), text)


def without_marker(text: str) -> str:
    return "" if patterns.NO_INPUT.match(text) or patterns.NO_INPUT_TAG.fullmatch(text.strip()) else text


def without_end_tokens(text: str) -> str:
    return END_TOKENS.sub("", text)


def without_task_list(text: str) -> str:
    match = patterns.TASK_LIST.search(text)
    return text[: match.start()].rstrip() if match else text


FIXES: tuple[Fix, ...] = (
    Fix("no_input_marker", ("context",), without_marker),
    Fix("control_character", ("asked", "context", "answer"), without_control),
    Fix("mojibake", ("asked", "context", "answer"), decoded_again),
    Fix("html_entity", ("asked", "context", "answer"), unescaped),
    Fix("task_list_echo", ("answer",), without_task_list),
    Fix("special_token", ("answer",), without_end_tokens),
)


class TextPlace(NamedTuple):
    path: Path
    kind: TextKind
    text: str


def text_places(value: Any, fields: Mapping[str, str]) -> Iterator[TextPlace]:
    """The texts of a raw row that records are made of. `fields`: column -> field, as --columns says.

    >>> [place.path for place in text_places({"q": "Why?", "output": "So.", "id": "7"}, {"q": "instruction"})]
    [('q',), ('output',)]
    """
    if isinstance(value, list):
        yield from texts_of_list(value, ())
        return
    for name, held in value.items() if isinstance(value, dict) else ():
        field = fields.get(name, name)
        if field not in TEXT_FIELDS:
            continue
        if isinstance(held, list):
            yield from texts_of_list(held, (name,), is_answer=field in ANSWERS)
        elif isinstance(held, str) and field not in ("messages", "conversations", "history"):
            yield TextPlace((name,), text_kind(field), held)


def text_kind(field: str) -> TextKind:
    return "answer" if field in ANSWERS else "context" if field in CONTEXTS else "asked"


def texts_of_list(turns: list[Any], path: Path, *, is_answer: bool = False) -> Iterator[TextPlace]:
    """The texts of turns, and of pairs of a question and an answer."""
    for index, turn in enumerate(turns):
        if isinstance(turn, dict):
            role = ROLE_NAMES.get(str(turn.get("role", turn.get("from"))).strip().lower())
            kind: TextKind = "answer" if role == "assistant" or (role is None and is_answer) else "asked"
            yield from (
                TextPlace((*path, index, name), kind, turn[name])
                for name in TURN_TEXTS
                if isinstance(turn.get(name), str)
            )
        elif isinstance(turn, list):
            for place, text in enumerate(turn):
                if isinstance(text, str):
                    yield TextPlace((*path, index, place), "answer" if place == 1 else "asked", text)


def with_text(value: Any, path: Path, text: str) -> Any:
    """A row with another text at a place; what is not on the way there is shared.

    >>> with_text({"messages": [{"role": "user", "content": "Hi"}]}, ("messages", 0, "content"), "Ho")
    {'messages': [{'role': 'user', 'content': 'Ho'}]}
    """
    if not path:
        return text
    copy: Any = list(value) if isinstance(value, list) else dict(value)
    copy[path[0]] = with_text(value[path[0]], path[1:], text)
    return copy
