"""`neuralchat chat --file --output`: a file of questions -> a file of answers, in their order, to be gone on with.

Each answer is a line of its own, written whole. Groups of questions are answered together, and are the same groups
whenever the work begins anew: what was killed and goes on ends with the file that it would have made undisturbed.
"""

from __future__ import annotations

import argparse
import dataclasses
import hashlib
import json
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from neuralchat.console import inform
from neuralchat.console.waiting import waiting
from neuralchat.data.records import Turn
from neuralchat.data.records.asked import AskedTurns, read_asked
from neuralchat.errors import ArgumentsError, NeuralChatError
from neuralchat.files import append_line, keep_beginning
from neuralchat.inference.sampling import Sampling
from neuralchat.inference.terminal.partner import Partner, SaidAnswer
from neuralchat.inference.terminal.saved import message_of
from neuralchat.runs.directory import json_text
from neuralchat.runs.output_files import file_problems

GROUP_SIZE = 16
# How each of its lines begins.
LINE_START = b'{"messages": ['
OUTPUT_ENDING = ".jsonl"
# Seconds between two lines that tell how far it is.
TELL_S = 20.0


def check_batch_flags(options: argparse.Namespace) -> None:
    """Raises ArgumentsError with all that is wrong with --file and --output."""
    wrong = []
    if (options.file is None) != (options.output is None):
        missing, given = ("--output", "--file") if options.output is None else ("--file", "--output")
        wrong.append(f"{given} needs {missing}: --file has the questions, --output takes the answers")
    if options.file is not None and options.prompt is not None:
        wrong.append("--file and -p: ask a file of questions or this one")
    if options.file is not None and not Path(options.file).exists():
        wrong.append(f"--file {options.file} does not exist")
    if options.output is not None:
        output = Path(options.output)
        if output.suffix != OUTPUT_ENDING:
            wrong.append(f"--output {output}: its name must end in {OUTPUT_ENDING}, it gets a line for each answer")
        elif problem := shared_name_problem(output):
            wrong.append(problem)
        else:
            read = [("--file", options.file)] if options.file is not None else []
            wrong += file_problems("--output", str(output), read, appends=True)
    if wrong:
        raise ArgumentsError("\n".join(wrong), problems=wrong)


def shared_name_problem(output: Path) -> str | None:
    """A link would make way for a new file, so that the work would begin anew."""
    if output.is_symlink():
        return f"--output {output} is a link to {os.readlink(output)}; name the file that it leads to"
    if output.is_file() and (names := output.stat().st_nlink) > 1:
        return (
            f"--output {output} is a file with {names} names (hard links, as some backups make them); to go on with "
            f"it, give it a place of its own: cp {output} OTHER.jsonl, and name that"
        )
    return None


def answer_file(bot: Partner, file: str, output: str, sampling: Sampling) -> int:
    """Answer what is not answered yet. Raises ArgumentsError at the end where some could not be."""
    path = Path(output)
    asked = [with_system(each, bot.system) for each in read_asked(Path(file))]
    ids = [answer_id(bot.name, each.turns, sampling) for each in asked]
    done = answered_lines(path, ids)
    if done:
        inform(f"{done} of {len(asked)} are answered already in {path}")
    told_at = time.monotonic()
    for start in range(done // GROUP_SIZE * GROUP_SIZE, len(asked), GROUP_SIZE):
        group = range(start, min(start + GROUP_SIZE, len(asked)))
        with waiting(f"answering {group.start + 1} to {group.stop} of {len(asked)}"):
            lines = answered_group(bot, [asked[n] for n in group], sampling)
        for number, line in zip(group, lines, strict=True):
            if number >= done:
                append_line(path, json_text({**line, "row": number + 1, "id": ids[number]}, indent=None).rstrip("\n"))
        if time.monotonic() - told_at >= TELL_S:
            told_at = time.monotonic()
            inform(f"{group.stop} of {len(asked)} answered")
    return tell_end(path, len(asked))


def with_system(asked: AskedTurns, system: str | None) -> AskedTurns:
    """`--system` is for conversations that have no system message of their own."""
    if not system or asked.turns[0].role == "system":
        return asked
    return dataclasses.replace(asked, turns=(Turn("system", system), *asked.turns))


def answer_id(name: str, turns: Sequence[Turn], sampling: Sampling) -> str:
    """Tells answers apart that differ in what was asked, by which model, or in how words were drawn."""
    asked = [name, [dataclasses.asdict(turn) for turn in turns], dataclasses.asdict(sampling)]
    return hashlib.sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest()[:16]


def answered_group(bot: Partner, asked: Sequence[AskedTurns], sampling: Sampling) -> list[dict[str, Any]]:
    """A line for each: its messages and the answer, or why there is none."""
    problems = [bot.question_problem(each.turns, sampling) for each in asked]
    fitting = [each.turns for each, problem in zip(asked, problems, strict=True) if problem is None]
    answers: list[SaidAnswer | str] = list(answered_or_refused(bot, fitting, sampling))
    lines = []
    for each, problem in zip(asked, problems, strict=True):
        messages = [message_of(turn) for turn in each.turns]
        answer = answers.pop(0) if problem is None else problem
        if isinstance(answer, str):
            lines.append({"messages": messages, "error": answer})
        else:
            said = {"role": "assistant", "content": answer.text}
            lines.append({"messages": [*messages, said], "finish_reason": "stop" if answer.finished else "length"})
    return lines


def answered_or_refused(
    bot: Partner, conversations: Sequence[Sequence[Turn]], sampling: Sampling
) -> Sequence[SaidAnswer | str]:
    """Where a server refuses one of them, each is asked alone, so that only that one goes without an answer."""
    if not conversations:
        return []
    try:
        return bot.answers(conversations, sampling)
    except NeuralChatError as error:
        # Not of these questions: a wrong key, a server that is gone.
        if getattr(error, "status", 0) not in (400, 413, 422):
            raise
        if len(conversations) == 1:
            return [str(error)]
    return [answer for turns in conversations for answer in answered_or_refused(bot, [turns], sampling)]


def answered_lines(path: Path, ids: Sequence[str]) -> int:
    """How many answers the file has. The beginning of a line that was being written is cut off.

    Raises ArgumentsError where its lines are no answers to these questions, asked so.
    """
    if not path.exists():
        return 0
    content = path.read_bytes()
    lines = content.split(b"\n")
    torn = lines.pop()
    for number, line in enumerate([*lines, torn] if not may_be_torn(torn) else lines):
        if number >= len(ids) or id_in(line) != ids[number]:
            raise ArgumentsError(
                f"--output {path} line {number + 1} is no answer to row {number + 1} of --file, asked with this model "
                "and these flags; name another file, or delete this one"
            )
    # Only now: before, it might be anybody's.
    if torn:
        keep_beginning(path, len(content) - len(torn))
    return len(lines)


def may_be_torn(last: bytes) -> bool:
    """Whether what stands behind the last end of a line may be the beginning of an answer that was being written."""
    start = last[: len(LINE_START)]
    return LINE_START.startswith(start) and not is_whole_json(last)


def is_whole_json(line: bytes) -> bool:
    try:
        json.loads(line)
    except ValueError:
        return False
    return True


def id_in(line: bytes) -> Any:
    try:
        row = json.loads(line)
    except ValueError:
        return None
    return row.get("id") if isinstance(row, dict) else None


def tell_end(path: Path, count: int) -> int:
    failed = [n for n, line in enumerate(path.read_bytes().splitlines(), start=1) if "error" in json.loads(line)]
    if failed:
        rows = ", ".join(map(str, failed[:8])) + (", ..." if len(failed) > 8 else "")
        raise ArgumentsError(
            f"{len(failed)} of {count} got no answer (rows {rows}); 'error' in {path} says why of each"
        )
    inform(f"{count} answer(s) are in {path}")
    return 0
