"""Thumbs -> files of records: FILE holds answers that were found good and can be trained on, FILE.down the others.

A good answer is a record of the kind "messages" whose last turn is learned: answers before it have weight 0, since
nobody has said that they are good. In the file of bad answers all have weight 0, so that they are not learned even by
mistake. Whoever changes their mind, or takes a thumb back, finds the line gone.
"""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from neuralchat.data.record_files import RawRow
from neuralchat.data.records import RecordReport, records_of_rows
from neuralchat.errors import ArgumentsError
from neuralchat.files import append_line, read_file, write_file
from neuralchat.runs.directory import json_text
from neuralchat.runs.output_files import file_problems

FEEDBACK_ENDINGS = (".jsonl", ".ndjson")
RATINGS = ("up", "down", "none")
ANSWER_ID = re.compile(r"[A-Za-z0-9-]{8,64}")
LONGEST_NAME = 300
ALLOWED_ROLES = ("system", "user", "assistant")
# A file that is larger is not searched for a line to take back.
MOST_FEEDBACK_BYTES = 1 << 28


@dataclass(frozen=True)
class RatedAnswer:
    """`messages`: the conversation as it was asked, the answer last. `rating`: one of RATINGS; "none" takes back."""

    id: str
    rating: str
    model: str
    messages: tuple[Mapping[str, str], ...]

    def line(self, time: datetime) -> str:
        last = len(self.messages) - 1
        turns = [
            {**turn, "weight": 0}
            if turn["role"] == "assistant" and (index < last or self.rating == "down")
            else dict(turn)
            for index, turn in enumerate(self.messages)
        ]
        seconds = time.isoformat(timespec="seconds")
        row = {"messages": turns, "feedback": self.rating, "model": self.model, "time": seconds, "id": self.id}
        return json_text(row, indent=None).rstrip("\n")


@dataclass(frozen=True)
class FeedbackFile:
    """Where rated answers go; `add` may be called from any thread."""

    path: Path
    lock: threading.Lock = field(default_factory=threading.Lock, compare=False)

    @property
    def down_path(self) -> Path:
        """answers.jsonl -> answers.down.jsonl"""
        return self.path.with_name(f"{self.path.stem}.down{self.path.suffix}")

    def add(self, answer: RatedAnswer) -> None:
        """Raises OSError where the file cannot be written."""
        with self.lock:
            for path in (self.path, self.down_path):
                take_back(path, answer.id)
            if answer.rating != "none":
                path = self.path if answer.rating == "up" else self.down_path
                gap = "" if ends_with_line(path) else "\n"
                append_line(path, gap + answer.line(datetime.now(UTC)))


def feedback_file_problem(path: Path) -> str | None:
    """Why answers could not be written to it, or not be read as records; None if they can."""
    if path.suffix not in FEEDBACK_ENDINGS:
        reason = f"its name must end in {' or '.join(FEEDBACK_ENDINGS)}, so that finetune can read it"
    else:
        return next(iter(file_problems("--feedback", str(path), appends=True)), None)
    return f"--feedback {path} cannot be used: {reason}"


def rated_answer(value: Any) -> RatedAnswer:
    """What the page has sent, checked as records are. Raises ArgumentsError with all that is wrong."""
    if not isinstance(value, dict):
        raise ArgumentsError("expected an object with id, feedback, model and messages")
    problems = []
    if unknown := sorted(set(value) - {"id", "feedback", "model", "messages"}):
        problems.append(f"unknown fields: {', '.join(name[:40] for name in unknown[:8])}")
    if not (isinstance(value.get("id"), str) and ANSWER_ID.fullmatch(value["id"])):
        problems.append("'id' must be 8 to 64 letters, digits and hyphens")
    if value.get("feedback") not in RATINGS:
        problems.append(f"'feedback' must be one of {', '.join(RATINGS)}")
    if not isinstance(value.get("model"), str) or len(value["model"]) > LONGEST_NAME:
        problems.append(f"'model' must be a text of at most {LONGEST_NAME} characters")
    problems += messages_problems(value.get("messages"))
    if problems:
        raise ArgumentsError("; ".join(problems))
    messages = tuple({"role": turn["role"], "content": turn["content"]} for turn in value["messages"])
    return RatedAnswer(value["id"], value["feedback"], value["model"], messages)


def messages_problems(messages: Any) -> list[str]:
    """What keeps the reader of records from taking them."""
    plain = isinstance(messages, list) and all(
        isinstance(turn, dict)
        and set(turn) == {"role", "content"}
        and turn["role"] in ALLOWED_ROLES
        and isinstance(turn["content"], str)
        for turn in messages
    )
    if not plain:
        return [f"'messages' must be a list of objects with role ({', '.join(ALLOWED_ROLES)}) and content"]
    report = RecordReport()
    list(records_of_rows("messages", iter([RawRow(1, {"messages": messages})]), report))
    return report.problems


def take_back(path: Path, answer_id: str) -> None:
    """Delete the line of an answer that was rated before, if there is one."""
    try:
        content = read_file(path, MOST_FEEDBACK_BYTES)
    except FileNotFoundError:
        return
    if answer_id.encode() not in content:
        return
    lines = content.splitlines(keepends=True)
    kept = [line for line in lines if id_of(line) != answer_id]
    if len(kept) < len(lines):
        write_file(path, b"".join(kept))


def id_of(line: bytes) -> Any:
    try:
        row = json.loads(line)
    except ValueError:
        return None
    return row.get("id") if isinstance(row, dict) else None


def ends_with_line(path: Path) -> bool:
    """Whether a line that is appended to the file begins a line of its own; somebody may have edited it."""
    try:
        content = read_file(path, MOST_FEEDBACK_BYTES)
    except FileNotFoundError:
        return True
    return not content or content.endswith(b"\n")
