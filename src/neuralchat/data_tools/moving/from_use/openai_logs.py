"""Logs of OpenAI's interface, a request and its answer per row -> rows of records.

What a log may look like: `{"request": {...}, "response": {...}}`, the bodies as objects or as JSON text; the answer's
object with the request's `messages` beside it; the two files of a batch, whose rows share a `custom_id`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from neuralchat.config.arguments import RECORD_FIELDS
from neuralchat.data.record_files import RawRow, SyntaxProblem, read_rows
from neuralchat.data.records import RecordReport
from neuralchat.data.records.values import from_json_text, summary_of

REQUESTS = ("request", "request_body", "body")
RESPONSES = ("response", "response_body")
LOG_FIELDS = ("request", "request_body", "response_body", "body", "choices", "custom_id")
# Of an answer's object these are kept beside the record.
ANSWER_FIELDS_KEPT = ("id", "model", "created")
# Answers that ended so are whole.
WHOLE = (None, "stop", "tool_calls", "function_call", "eos")


class LogRows:
    """Turns rows of logs into rows of records and leaves others as they are; `left_out` says which are no records."""

    def __init__(self, requests: Mapping[str, RequestOfBatch] | None = None) -> None:
        """`requests`: those of a batch, by their `custom_id`."""
        self.requests = requests or {}
        self.answered_ids: set[str] = set()
        self.left_out = RecordReport()
        self.answered = 0

    def __call__(self, name: str, rows: Iterator[RawRow | SyntaxProblem]) -> Iterator[RawRow | SyntaxProblem]:
        for row in rows:
            if isinstance(row, SyntaxProblem) or not is_log(row.value):
                yield row
            else:
                yield from self.records(name, row)

    def finish(self) -> None:
        for key, asked in self.requests.items():
            if key not in self.answered_ids:
                self.left_out.add(asked.file, asked.row, "a request without an answer")

    def records(self, name: str, row: RawRow) -> Iterator[RawRow | SyntaxProblem]:
        value = row.value
        key = str(value.get("custom_id"))
        self.answered_ids.add(key)
        answer, request = answer_in(value), request_in(value)
        if request is None and key in self.requests:
            request = self.requests[key].body
        if answer is None:
            error = value.get("error") or first_held(value, RESPONSES)
            self.left_out.add(name, row.number, f"a request without an answer, found {summary_of(error)}")
            return
        if request is None:
            what = "is an answer without its request; log both, or name the file of the batch's requests too"
            yield SyntaxProblem(row.number, what, False)
            return
        for index, choice in enumerate(answer["choices"]):
            finish = choice.get("finish_reason") if isinstance(choice, dict) else None
            if finish not in WHOLE:
                self.left_out.add(name, row.number, f"an answer that is not whole (finish_reason {finish})", nth=index)
                continue
            self.answered += 1
            yield RawRow(row.number, row_of_choice(request, answer, choice), row.problems)


class RequestOfBatch(NamedTuple):
    body: Mapping[str, Any]
    file: str
    row: int


def batch_requests(files: Sequence[str]) -> dict[str, dict[str, RequestOfBatch]]:
    """Those of `files` that hold the requests of a batch -> their bodies by `custom_id`."""
    found: dict[str, dict[str, RequestOfBatch]] = {}
    for name in files:
        for row in read_rows(Path(name), {*RECORD_FIELDS, *LOG_FIELDS}):
            value = row.value if isinstance(row, RawRow) else None
            if not (isinstance(value, dict) and isinstance(value.get("custom_id"), str) and "body" in value):
                break
            body = value["body"]
            if isinstance(body, dict) and isinstance(row, RawRow):
                found.setdefault(name, {})[value["custom_id"]] = RequestOfBatch(body, name, row.number)
    return found


def is_log(value: Any) -> bool:
    if not isinstance(value, dict):
        return False
    if answer_in(value) is not None or isinstance(first_held(value, REQUESTS), dict):
        return True
    return isinstance(value.get("custom_id"), str) and "response" in value


def first_held(value: Mapping[str, Any], names: tuple[str, ...]) -> Any:
    """The first of these fields that holds something; JSON text as what it says."""
    return next((from_json_text(value[name]) for name in names if value.get(name) is not None), None)


def answer_in(value: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """The object of an answer: the row itself, or in it; within a batch's as its body."""
    held = value if "choices" in value else first_held(value, RESPONSES)
    if isinstance(held, dict) and isinstance(held.get("body"), dict):
        held = held["body"]
    return held if isinstance(held, dict) and isinstance(held.get("choices"), list) else None


def request_in(value: Mapping[str, Any]) -> Mapping[str, Any] | None:
    held = first_held(value, REQUESTS)
    if isinstance(held, dict):
        return held
    return value if "messages" in value or isinstance(value.get("prompt"), str) else None


def row_of_choice(request: Mapping[str, Any], answer: Mapping[str, Any], choice: Any) -> dict[str, Any]:
    """Only the answer is learned: what the assistant had said before it stands in logs of its own."""
    kept = {name: answer[name] for name in ANSWER_FIELDS_KEPT if answer.get(name) is not None}
    choice = choice if isinstance(choice, dict) else {}
    if "messages" not in request:
        return {"prompt": request.get("prompt"), "completion": choice.get("text"), **kept}
    asked = request["messages"]
    if isinstance(asked, list):
        asked = [{**turn, "weight": 0} if is_answer(turn) else turn for turn in asked]
        asked = [*asked, said_message(choice.get("message"))]
    tools = {"tools": request["tools"]} if request.get("tools") else {}
    return {"messages": asked, **tools, **kept}


def is_answer(turn: Any) -> bool:
    return isinstance(turn, dict) and turn.get("role") == "assistant"


def said_message(message: Any) -> Any:
    """Without the keys that hold nothing, of which answers have several."""
    if not isinstance(message, dict):
        return message
    said = {key: held for key, held in message.items() if held not in (None, [], {})}
    return {"role": "assistant", "content": message.get("content"), **said}
