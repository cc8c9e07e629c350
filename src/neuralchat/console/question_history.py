"""Questions of earlier sessions, kept in a file that only its owner can read: what the arrow keys bring back."""

from __future__ import annotations

import json
import os
import stat
from contextlib import suppress
from pathlib import Path

from neuralchat.cache import cache_directory, check_own, trusted_directory
from neuralchat.console.messages import note
from neuralchat.files import append_line, read_file, write_file

HISTORY = "chat_history.jsonl"
OWNER_ONLY = 0o600
KEPT_QUESTIONS = 1000
MOST_HISTORY_BYTES = 1 << 24
# Longer ones, as pasted documents, are asked again from where they came.
LONGEST_KEPT = 20_000


class QuestionHistory:
    """`questions`: the oldest first. Where the file cannot be used, a note says so, and they last for the session."""

    def __init__(self) -> None:
        self.questions: list[str] = []
        self.path: Path | None = None
        try:
            path = trusted_directory(cache_directory()) / HISTORY
            self.questions = self.read(path)
            self.path = path
        except OSError as error:
            self.tell(error)

    def read(self, path: Path) -> list[str]:
        try:
            content = read_file(path, MOST_HISTORY_BYTES)
        except FileNotFoundError:
            return []
        status = path.stat()
        check_own(path, status)
        if stat.S_IMODE(status.st_mode) != OWNER_ONLY and status.st_uid == os.geteuid():
            path.chmod(OWNER_ONLY)
        lines = content.decode("utf-8", "replace").splitlines()
        questions = []
        for line in lines:
            with suppress(ValueError, RecursionError):
                questions.append(json.loads(line))
        kept = [question for question in questions if isinstance(question, str)][-KEPT_QUESTIONS:]
        if len(lines) > 2 * KEPT_QUESTIONS:
            write_file(path, "".join(f"{json.dumps(question)}\n" for question in kept), mode=OWNER_ONLY)
        return kept

    def add(self, question: str) -> None:
        if question in self.questions[-1:] or len(question) > LONGEST_KEPT:
            return
        self.questions.append(question)
        if self.path is None:
            return
        try:
            append_line(self.path, json.dumps(question), mode=OWNER_ONLY)
        except OSError as error:
            self.path = None
            self.tell(error)

    def tell(self, error: OSError) -> None:
        note(f"questions are not kept for the next time: {error.strerror or error}")
