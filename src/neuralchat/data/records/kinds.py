"""The kinds of records: by which fields each is recognised, and how a row of it becomes turns."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from neuralchat.data.records.conversations import conversation
from neuralchat.data.records.pairs import pair, prompt_completion, text
from neuralchat.data.records.record import Fact, Record, Turn
from neuralchat.data.records.tool_calls import tools_of
from neuralchat.data.records.values import Fields, Findings, is_absent, names_of, summary_of, text_problem

ALPACA_KIND = "Alpaca"
TEXT = "text"
FACTS = "a list of texts or of lists of alternatives"


@dataclass(frozen=True)
class RecordKind:
    """`recognised_by`: a row that has one of these fields, and none of an earlier kind's, is of this kind.

    `turns` reads them from a row's fields. `conversation`: with several turns, which a chat template is made for.
    """

    name: str
    recognised_by: tuple[str, ...]
    turns: Callable[[Fields], list[Turn]]
    conversation: bool = False


ALL_KINDS = (
    RecordKind(
        "messages",
        ("messages",),
        partial(conversation, key="messages", role_key="role", text_key="content"),
        conversation=True,
    ),
    RecordKind(
        "ShareGPT",
        ("conversations",),
        partial(conversation, key="conversations", role_key="from", text_key="value"),
        conversation=True,
    ),
    RecordKind(
        ALPACA_KIND,
        ("instruction", "output"),
        partial(pair, asked=("instruction",), context=("input", "context"), answered=("output", "response")),
    ),
    RecordKind("prompt/completion", ("prompt", "completion"), prompt_completion),
    RecordKind(
        "question/answer",
        ("question", "query", "answer"),
        partial(pair, asked=("question", "query"), context=("context", "input"), answered=("answer", "response")),
    ),
    RecordKind(TEXT, ("text",), text),
)
RECORD_KINDS: Mapping[str, RecordKind] = {kind.name: kind for kind in ALL_KINDS}
PLAIN_FIELDS = frozenset({"instruction", "input", "output"})
ALLOWED = "instruction/input/output, messages, conversations, prompt/completion, question/answer, or text"


def recognise(value: Any, expected: RecordKind | None = None) -> RecordKind | None:
    """The kind of a raw row by its fields, those that hold something first; or None.

    `expected`: the kind of the rows before it, which it keeps if it has a field of it. Tables of several kinds have the
    columns of all of them in each row: those that are empty do not count where others hold something.
    """
    if not isinstance(value, dict):
        return None
    if expected is not None:
        # So it is of nearly all rows.
        for name in expected.recognised_by:
            if not is_absent(held := value.get(name)) and held != []:
                return expected
    kinds = ALL_KINDS if expected is None else (expected, *ALL_KINDS)
    for is_there in (lambda name: not is_absent(held := value.get(name)) and held != [], value.__contains__):
        for kind in kinds:
            if any(map(is_there, kind.recognised_by)):
                return kind
    return None


def is_conversation(record: Record) -> bool:
    """Whether the record came as turns, which chat templates are made for."""
    return RECORD_KINDS[record.kind].conversation


def record_of(value: Any, kind: RecordKind | None, source: str, found: Findings) -> Record | None:
    """The record of a raw row; None where it has problems."""
    if not isinstance(value, dict):
        found.problem(f"expected an object with fields, found {summary_of(value)}")
        return None
    if kind is None:
        found.problem(f"fields not recognised: found {names_of(value) or 'no fields'}; allowed are {ALLOWED}")
        return None
    fields = Fields(value, found)
    turns = kind.turns(fields)
    tools = () if kind.name == TEXT else tools_of(fields)
    facts = facts_of(fields)
    fields.finish()
    return None if found.problems else Record(tuple(turns), source, kind.name, facts, tools)


def plain_fields(value: Mapping[str, Any]) -> tuple[str, str, str] | None:
    """(question, context, answer) of the plainest and commonest of rows, which need not be looked at field by field;
    None for any other row.
    """
    if not PLAIN_FIELDS.issuperset(value):
        return None
    question, answer, context = value.get("instruction"), value.get("output"), value.get("input", "")
    if not (
        type(question) is str and type(answer) is str and type(context) is str and question.strip() and answer.strip()
    ):
        return None
    try:
        if not (question.isascii() and answer.isascii() and context.isascii()):
            f"{question}{answer}{context}".encode()
    except UnicodeEncodeError:
        return None
    return question, context, answer


def facts_of(fields: Fields) -> tuple[Fact, ...]:
    name, facts = fields.optional_list(("facts",), FACTS)
    # Each is a text, or a list of alternatives.
    texts = [text for fact in facts for text in (fact or [""] if isinstance(fact, list) else [fact])]
    if not all(isinstance(text, str) and text for text in texts):
        fields.found.problem(f"field '{name}' must be {FACTS}, found {summary_of(facts)}")
        return ()
    fields.found.problem(next(filter(None, (text_problem(text, name, may_be_empty=True) for text in texts)), None))
    return facts_from(facts)


def facts_from(facts: Sequence[Any]) -> tuple[Fact, ...]:
    return tuple(fact if isinstance(fact, str) else tuple(fact) for fact in facts)
