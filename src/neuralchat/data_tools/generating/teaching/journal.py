"""The journal of a generation: every request before it is sent, every reply the moment it is there.

One JSON object per line. All else is computed from it, so it alone has to outlive the process.
"""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from neuralchat.data_tools.generating.teaching.exchange import TeacherReply
from neuralchat.errors import NeuralChatError, problem_list
from neuralchat.files import append_line, keep_beginning, parent_of
from neuralchat.runs.directory import json_text
from neuralchat.runs.lock import locked

JOURNAL_VERSION = 1
JOURNAL_ENDING = ".journal"


class JournalError(NeuralChatError):
    """A journal that does not belong to what is asked now, or that another process writes."""


@dataclass
class Attempt:
    """A request that was sent. `bound`: the most tokens that it can take, of the prompt and of the answer."""

    bound: tuple[int, int]
    # None: nothing is known of it. False: it was refused before anything was computed.
    was_paid: bool | None = None


@dataclass
class JournalRecord:
    """What is known of one request. `processed`: how many replies had been when it was built."""

    key: str
    processed: int
    attempts: list[Attempt] = field(default_factory=list)
    reply: TeacherReply | None = None


class Journal:
    """Written by one process at a time, by several of its threads."""

    def __init__(self, path: Path, settings: Mapping[str, Any]) -> None:
        """Raises JournalError where it was begun with other settings, each of which is told."""
        self.path = path
        self.mutex = threading.Lock()
        self.records: dict[int, JournalRecord] = {}
        self.lock: int | None = take_lock(path)
        try:
            lines = whole_lines(path)
            if lines:
                self.check_settings(lines[0], settings)
                for number, line in enumerate(lines[1:], start=2):
                    self.read_line(number, line)
        except BaseException:
            self.close()
            raise
        if not lines:
            self.append({"journal": JOURNAL_VERSION, "settings": dict(settings)})

    def close(self) -> None:
        if self.lock is not None:
            os.close(self.lock)
            self.lock = None

    def check_settings(self, line: Mapping[str, Any], settings: Mapping[str, Any]) -> None:
        if line.get("journal") != JOURNAL_VERSION or not isinstance(line.get("settings"), dict):
            raise JournalError(f"{self.path} is no journal of neuralchat data generate; name another --output")
        before = line["settings"]
        # As JSON gives them back.
        now = json.loads(json.dumps(dict(settings)))
        names = sorted(name for name in {*before, *now} if before.get(name) != now.get(name))
        if names:
            raise JournalError(
                problem_list(
                    f"{self.path} was begun with other settings; name another --output, or ask as before:",
                    [
                        f"{name} was {shown_setting(before.get(name))}, is {shown_setting(now.get(name))}"
                        for name in names
                    ],
                )
            )

    def read_line(self, number: int, line: Mapping[str, Any]) -> None:
        try:
            if "sent" in line:
                record = self.records.setdefault(line["sent"], JournalRecord(line["key"], line["processed"]))
                record.attempts.append(Attempt((line["bound"][0], line["bound"][1])))
            elif "reply" in line:
                record = self.records[line["reply"]]
                record.reply = TeacherReply(**{name: line[name] for name in REPLY_FIELDS})
                record.attempts[-1].was_paid = True
            elif "given_up" in line:
                self.records[line["given_up"]].reply = TeacherReply("", problem=line["problem"])
            elif "failed" in line:
                self.records[line["failed"]].attempts[-1].was_paid = None if line["may_be_paid"] else False
            else:
                raise KeyError("sent, reply, given_up or failed")
        except (KeyError, TypeError, IndexError) as error:
            raise JournalError(
                f"{self.path} line {number} is not as this program wrote it ({error}); name another --output"
            ) from error

    def append(self, line: Mapping[str, Any]) -> None:
        append_line(self.path, json_text(line, indent=None).rstrip("\n"), is_synced=True)

    def sent(self, number: int, key: str, processed: int, bound: tuple[int, int]) -> None:
        with self.mutex:
            record = self.records.setdefault(number, JournalRecord(key, processed))
            record.attempts.append(Attempt(bound))
            self.append({"sent": number, "key": key, "processed": processed, "bound": bound})

    def failed(self, number: int, why: str, *, may_be_paid: bool) -> None:
        with self.mutex:
            self.records[number].attempts[-1].was_paid = None if may_be_paid else False
            self.append({"failed": number, "why": why, "may_be_paid": may_be_paid})

    def replied(self, number: int, reply: TeacherReply) -> None:
        with self.mutex:
            record = self.records[number]
            record.attempts[-1].was_paid = True
            record.reply = reply
            self.append({"reply": number, **{name: getattr(reply, name) for name in REPLY_FIELDS}})

    def given_up(self, number: int, reply: TeacherReply) -> None:
        """Nobody answered, and nobody is asked again."""
        with self.mutex:
            self.records[number].reply = reply
            self.append({"given_up": number, "problem": reply.problem})

    def known_reply(self, number: int, key: str) -> TeacherReply | None:
        """Raises JournalError where another request has that number."""
        record = self.records.get(number)
        if record is None:
            return None
        if record.key != key:
            raise JournalError(
                f"{self.path}: request {number} is not the one that is asked now. Its seed tasks, its documents or the "
                "version of this program have changed; name another --output"
            )
        return record.reply


REPLY_FIELDS = ("text", "finished", "prompt_tokens", "answer_tokens", "problem")


def journal_of(output: Path) -> Path:
    return output.with_name(output.name + JOURNAL_ENDING)


def whole_lines(path: Path) -> list[dict[str, Any]]:
    """The lines of a journal. What a kill left of a line at its end is cut off."""
    content = path.read_bytes() if path.exists() else b""
    *lines, torn = content.split(b"\n")
    if torn:
        keep_beginning(path, len(content) - len(torn))
    parsed = []
    for number, line in enumerate(lines, start=1):
        value = None
        with suppress(ValueError):
            value = json.loads(line)
        if not isinstance(value, dict):
            raise JournalError(f"{path} line {number} is no JSON object; name another --output")
        parsed.append(value)
    return parsed


def take_lock(path: Path) -> int:
    """A descriptor that holds the lock of a journal, which is made if it is not there."""
    taken = JournalError(f"another process is generating into {path}; wait for it, or name another --output")
    with parent_of(path) as parent:
        return locked(path, parent, lambda _: taken)


def shown_setting(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else text[:60] + "..."
