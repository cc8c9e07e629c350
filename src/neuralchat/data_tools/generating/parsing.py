"""What a teacher says -> tasks, answers, questions, scores: in the form asked for, in JSON, or in whatever is near it.

Nothing here raises: what cannot be read is not there. Every pattern takes linear time.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from neuralchat.data_tools.generating.prompts import CLASSIFICATION, GENERATION

NUMBERED = re.compile(r"^[ \t]{0,8}(?:[*_#]{0,3}\(?\d{1,3}[.):][*_]{0,2}|[-*\u2022])[ \t]+", re.MULTILINE)
TYPE = re.compile(rf"^[\s*_]*[\[(]?({CLASSIFICATION}|{GENERATION})[\])]?[*_:]{{0,3}}\s*[-\u2013:]?\s*", re.IGNORECASE)
LABEL_OF_TASK = re.compile(r"^[*_]{0,2}(?:task|instruction|question)(?: \d{1,3})?[*_]{0,2}:[*_]{0,2}\s*", re.IGNORECASE)
ASKS_FOR_LABEL = re.compile(
    r"\b(?:classify|categori[sz]e|label|true or false|yes or no|which of the following|positive or negative|spam or)\b",
    re.IGNORECASE,
)
NO_INPUT_WORDS = {"", "none", "n/a", "na", "<noinput>", "no input", "noinput", "not needed", "-", "(none)", "[none]"}
CODE_FENCES = re.compile(r"^\s*```[\w-]*[ \t]*\n|\n```\s*$")
SCORE = re.compile(r"score\W{0,6}([1-5])(?:\.0)?(?![\d.]\d)", re.IGNORECASE)
TURN = re.compile(
    r"^[ \t]*[*_#]{0,3}(user|assistant|human|customer|expert)[*_]{0,2}:[*_]{0,2}", re.IGNORECASE | re.MULTILINE
)
ASSISTANT_NAMES = {"assistant", "expert"}
MOST_JSON = 200_000


class ReadTask(NamedTuple):
    instruction: str
    is_classification: bool


class ReadAnswer(NamedTuple):
    input: str
    output: str


class ReadFact(NamedTuple):
    """A question about a passage. `key`: what a right answer contains, where the teacher names it."""

    question: str
    answer: str
    quote: str
    key: str


def read_tasks(text: str, *, is_whole: bool) -> list[ReadTask]:
    """The tasks of a list. `is_whole`: whether the reply ended by itself; otherwise its last task is left out.

    >>> tasks = read_tasks("9. [generation] Name a bus.\\n10. **Task:** Is it spam or not?", is_whole=True)
    >>> [tuple(task) for task in tasks]
    [('Name a bus.', False), ('Is it spam or not?', True)]
    """
    found = [task for value in json_items(text) if (task := task_of_json(value)) is not None]
    if found:
        return found
    items = list_items(text)
    if not is_whole:
        items = items[:-1]
    return [task for item in items if (task := task_of_text(item)).instruction]


def task_of_json(value: Any) -> ReadTask | None:
    if isinstance(value, str):
        return task_of_text(value)
    if not isinstance(value, dict):
        return None
    text = next((value[name] for name in ("instruction", "task", "question") if isinstance(value.get(name), str)), None)
    if text is None:
        return None
    kind = str(value.get("type", value.get("kind", ""))).lower()
    task = task_of_text(text)
    return task._replace(is_classification=kind == CLASSIFICATION) if kind else task


def task_of_text(text: str) -> ReadTask:
    kind = TYPE.match(text)
    plain = text[kind.end() :] if kind else text
    plain = LABEL_OF_TASK.sub("", plain.strip())
    if kind is None and (kind := TYPE.match(plain)):
        plain = plain[kind.end() :]
    plain = unquoted(" ".join(plain.strip().strip("*_").split()))
    named = kind[1].lower() == CLASSIFICATION if kind else bool(ASKS_FOR_LABEL.search(plain))
    return ReadTask(plain, named)


def list_items(text: str) -> list[str]:
    """The items of a numbered or bulleted list, without what stands before it; without marks, the lines.

    A prompt that ends with "9." is gone on with by a first item without its number.
    """
    text = CODE_FENCES.sub("", text.strip())
    marks = list(NUMBERED.finditer(text))
    if not marks:
        return [line.strip() for line in text.splitlines() if line.strip()]
    items = [first_paragraph(part) for _, part in marked_parts(marks, text)]
    before = text[: marks[0].start()].strip()
    if TYPE.match(before):
        items.insert(0, first_paragraph(before))
    return [item for item in items if item]


def first_paragraph(text: str) -> str:
    """What follows an empty line is a remark of the teacher."""
    return re.split(r"\n[ \t]*\n", text.strip(), maxsplit=1)[0].strip()


def read_answer(text: str) -> ReadAnswer | None:
    """
    >>> read_answer("Input: none\\nOutput: A bus carries data.\\nIt has lanes.")
    ReadAnswer(input='', output='A bus carries data.\\nIt has lanes.')
    """
    for value in json_items(text):
        if isinstance(value, dict) and isinstance(value.get("output"), str):
            given = value.get("input")
            return ReadAnswer(without_no_input(given if isinstance(given, str) else ""), value["output"].strip())
    found = labelled(CODE_FENCES.sub("", text.strip()), ("input",), ("output", "answer", "response"))
    output = found.get("output", "")
    return ReadAnswer(without_no_input(found.get("input", "")), output) if output else None


def read_classes(text: str) -> list[ReadAnswer]:
    """Label and input of each example.

    >>> read_classes("Label: spam\\nInput: You won!\\n\\nLabel: ham\\nInput: See you at 5.")
    [ReadAnswer(input='You won!', output='spam'), ReadAnswer(input='See you at 5.', output='ham')]
    """
    given = [(value.get("label"), value.get("input")) for value in json_items(text) if isinstance(value, dict)]
    if not given:
        given = [(part.get("label"), part.get("input")) for part in blocks(text, ("label", "class label"), ("input",))]
    return [
        ReadAnswer(without_no_input(material), unquoted(label))
        for label, material in given
        if isinstance(label, str) and isinstance(material, str) and label.strip()
    ]


def read_facts(text: str) -> list[ReadFact]:
    """
    >>> read_facts("Question: Who?\\nAnswer: Ada.\\nQuote: It was Ada.\\nKey: Ada")
    [ReadFact(question='Who?', answer='Ada.', quote='It was Ada.', key='Ada')]
    """
    given = [value for value in json_items(text) if isinstance(value, dict)]
    if not given:
        given = list(blocks(text, ("question",), ("answer",), ("quote",), ("key",)))
    found = []
    for value in given:
        parts = [value.get(name, "") for name in ("question", "answer", "quote", "key")]
        if all(isinstance(part, str) for part in parts) and parts[0] and parts[1]:
            found.append(ReadFact(*(unquoted(part.strip()) for part in parts)))
    return found


def read_turns(text: str) -> list[tuple[str, str]]:
    """(role, content) of each turn; empty where roles do not alternate from user to assistant.

    >>> read_turns("User: Hi.\\nAssistant: Hello.\\nIt works.")
    [('user', 'Hi.'), ('assistant', 'Hello.\\nIt works.')]
    """
    marks = list(TURN.finditer(text))
    turns = [
        ("assistant" if mark[1].lower() in ASSISTANT_NAMES else "user", content)
        for mark, content in marked_parts(marks, text)
    ]
    if len(turns) % 2:
        turns.pop()
    expected = ["user", "assistant"] * (len(turns) // 2)
    return turns if [role for role, _ in turns] == expected and all(content for _, content in turns) else []


def read_score(text: str) -> int | None:
    """
    >>> read_score("It is right.\\n**Score:** 4/5"), read_score("Good.")
    (4, None)
    """
    found = SCORE.findall(text)
    return int(found[-1]) if found else None


def labelled(text: str, *labels: Sequence[str]) -> dict[str, str]:
    """The parts of a text that begin with a label at the beginning of a line, each under the first of its names."""
    return next(blocks(text, *labels, are_several=False), {})


def blocks(text: str, *labels: Sequence[str], are_several: bool = True) -> Iterator[dict[str, str]]:
    """Groups of labelled parts: a label that came already begins a new group, or with `are_several` off is text."""
    names = {name: group[0] for group in labels for name in group}
    pattern = re.compile(
        r"^[ \t]*(?:\d{1,3}[.)] ?)?[*_#]{0,3} ?("
        + "|".join(map(re.escape, names))
        + r")(?: \d{1,3})?[*_]{0,2}:[*_]{0,2}[ \t]*",
        re.IGNORECASE | re.MULTILINE,
    )
    marks = list(pattern.finditer(text))
    if not are_several:
        # What an answer holds of its own is none of ours.
        first: dict[str, re.Match[str]] = {}
        for mark in marks:
            first.setdefault(names[mark[1].lower()], mark)
        marks = sorted(first.values(), key=re.Match.start)
    group: dict[str, str] = {}
    for mark, part in marked_parts(marks, text):
        name = names[mark[1].lower()]
        if name in group:
            yield group
            group = {}
        group[name] = part
    if group:
        yield group


def marked_parts(marks: Sequence[re.Match[str]], text: str) -> list[tuple[re.Match[str], str]]:
    """Each mark, and what stands between it and the next."""
    ends = [*(mark.start() for mark in marks), len(text)][1:]
    return [(mark, text[mark.end() : end].strip()) for mark, end in zip(marks, ends, strict=True)]


def json_items(text: str) -> list[Any]:
    """The values of a JSON list, or of JSON objects one a line; empty where the text is none."""
    plain = CODE_FENCES.sub("", text.strip()).strip()
    if not plain.startswith(("[", "{")) or TYPE.match(plain) or len(plain) > MOST_JSON:
        return []
    try:
        value = json.loads(plain)
    except (ValueError, RecursionError):
        return [value for line in plain.splitlines() if (value := json_object(line)) is not None]
    if isinstance(value, dict):
        lists = [held for held in value.values() if isinstance(held, list)]
        return lists[0] if len(lists) == 1 and len(value) == 1 else [value]
    return value if isinstance(value, list) else []


def json_object(line: str) -> dict[str, Any] | None:
    try:
        value = json.loads(line.strip().rstrip(","))
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def without_no_input(text: str) -> str:
    return "" if text.strip().lower().rstrip(".") in NO_INPUT_WORDS else text.strip()


def unquoted(text: str) -> str:
    text = text.strip()
    for first, last in (('"', '"'), ("\u201c", "\u201d"), ("'", "'")):
        if len(text) > 1 and text.startswith(first) and text.endswith(last) and first not in text[1:-1]:
            return text[1:-1].strip()
    return text
