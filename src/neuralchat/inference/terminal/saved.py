"""A conversation -> a file with one record, and back."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from neuralchat.data.record_files import READERS
from neuralchat.data.records import RecordReport, Turn, read_records
from neuralchat.errors import ArgumentsError, DataError
from neuralchat.files import write_file
from neuralchat.runs.directory import json_text

LINES_ENDING, JSON_ENDING = ".jsonl", ".json"


def message_of(turn: Turn) -> dict[str, Any]:
    """As the kind "messages" has it; material of an instruction follows it after an empty line."""
    content = f"{turn.content}\n\n{turn.context}" if turn.context else turn.content
    message: dict[str, Any] = {"role": turn.role, "content": content}
    if turn.reasoning:
        message["reasoning_content"] = turn.reasoning
    if turn.tool_calls:
        message["tool_calls"] = [dict(call) for call in turn.tool_calls]
    return {**message, **turn.extra}


def save_turns(path: Path, system: str | None, history: Sequence[Turn]) -> int:
    """How many turns were written. Raises ArgumentsError for a name that could not be read again."""
    if not history:
        raise ArgumentsError("nothing has been said yet that could be saved")
    if path.suffix not in (JSON_ENDING, LINES_ENDING):
        raise ArgumentsError(f"the name of the file must end in {JSON_ENDING} or {LINES_ENDING}, found '{path.name}'")
    turns = [*([Turn("system", system)] if system else []), *history]
    record = {"messages": [message_of(turn) for turn in turns]}
    write_file(path, json_text(record, indent=None) if path.suffix == LINES_ENDING else json_text([record]))
    return len(history)


def load_turns(path: Path) -> tuple[str | None, list[Turn]]:
    """(system message, the other turns) of the only record of a file. Raises DataError for any other file."""
    if not path.exists():
        raise DataError(f"{path} does not exist")
    if not path.is_file():
        raise DataError(f"{path} is no file; records may be {', '.join(READERS)} files")
    report = RecordReport()
    records = list(read_records([path], report))
    report.settle("fail")
    if len(records) != 1:
        raise DataError(f"{path} holds {len(records)} conversations; a file with one of them can be gone on with")
    turns = list(records[0].turns)
    if turns[0].role == "assistant":
        raise DataError(f"{path} holds a text without a question, which is no conversation")
    system = turns.pop(0).content if turns[0].role == "system" else None
    return system, turns
