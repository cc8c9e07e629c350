"""inference/page/feedback.py: rated answers become records that finetune reads, good ones only."""

from __future__ import annotations

import json
import threading
from pathlib import Path
from typing import Any

import pytest

from neuralchat.data.records import Record, RecordReport, Turn, read_records
from neuralchat.errors import ArgumentsError
from neuralchat.inference.page.feedback import FeedbackFile, feedback_file_problem, rated_answer

TALK = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "One?"},
    {"role": "assistant", "content": "1 <|im_end|>"},
    {"role": "user", "content": "Two?\nand \u2028 three"},
    {"role": "assistant", "content": "2 ✓"},
]


def sent(rating: str = "up", answer_id: str = "answer-1", messages: Any = TALK) -> dict[str, Any]:
    return {"id": answer_id, "feedback": rating, "model": "runs/a", "messages": messages}


def records_in(path: Path) -> list[Record]:
    report = RecordReport()
    records = list(read_records([path], report))
    assert report.problems == []
    return records


def test_a_good_answer_is_a_record_whose_last_answer_is_learned(tmp_path: Path) -> None:
    file = FeedbackFile(tmp_path / "answers.jsonl")
    file.add(rated_answer(sent()))
    (record,) = records_in(file.path)
    assert record.turns == (
        Turn("system", "Be brief."),
        Turn("user", "One?"),
        Turn("assistant", "1 <|im_end|>", trained=False),
        Turn("user", "Two?\nand \u2028 three"),
        Turn("assistant", "2 ✓"),
    )
    assert not file.down_path.exists()


def test_a_bad_answer_goes_elsewhere_and_is_not_learned_even_there(tmp_path: Path) -> None:
    file = FeedbackFile(tmp_path / "answers.jsonl")
    file.add(rated_answer(sent("down")))
    assert not file.path.exists()
    (record,) = records_in(tmp_path / "answers.down.jsonl")
    assert not any(turn.trained for turn in record.turns if turn.role == "assistant")


def test_another_mind(tmp_path: Path) -> None:
    file = FeedbackFile(tmp_path / "answers.jsonl")
    # The last line has been written by hand, and does not end; another is no JSON.
    file.path.write_text(f"answer-1\n{json.dumps({'messages': TALK})}")
    for answer_id in ("answer-1", "answer-2"):
        file.add(rated_answer(sent("up", answer_id)))
    file.add(rated_answer(sent("up", "answer-1")))
    lines = file.path.read_text().splitlines()
    assert lines[0] == "answer-1"
    assert [json.loads(line).get("id") for line in lines[1:]] == [None, "answer-2", "answer-1"]
    file.add(rated_answer(sent("down", "answer-2")))
    file.add(rated_answer(sent("none", "answer-1")))
    file.add(rated_answer(sent("none", "never-rated")))
    assert [json.loads(line).get("id") for line in file.path.read_text().splitlines()[1:]] == [None]
    assert [json.loads(line)["id"] for line in file.down_path.read_text().splitlines()] == ["answer-2"]


def test_many_at_once(tmp_path: Path) -> None:
    file = FeedbackFile(tmp_path / "answers.jsonl")
    answers = [rated_answer(sent("up", f"answer-{number:03}")) for number in range(40)]
    threads = [threading.Thread(target=file.add, args=(answer,)) for answer in answers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(records_in(file.path)) == 40


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ([], "expected an object"),
        ({**sent(), "id": "../../etc"}, "'id' must be"),
        (
            {**sent(), "id": 5, "feedback": "great", "model": None},
            "'id' must be .*'feedback' must be one of .*'model' must",
        ),
        ({**sent(), "weight": 1}, "unknown fields: weight"),
        (sent(messages="x"), "'messages' must be a list"),
        (sent(messages=[{"role": "tool", "content": "x"}]), "'messages' must be a list"),
        (sent(messages=[*TALK, {"role": "assistant", "content": "x", "weight": 1}]), "'messages' must be a list"),
        (sent(messages=TALK[:-1]), "must not end with user"),
        (sent(messages=TALK[2:]), "must not be assistant at the beginning"),
        (sent(messages=[*TALK[:-1], {"role": "assistant", "content": " "}]), "is empty"),
        (sent(messages=[*TALK[:-1], {"role": "assistant", "content": "\ud800"}]), "surrogate"),
    ],
)
def test_what_is_no_rated_answer_is_refused(value: Any, said: str) -> None:
    with pytest.raises(ArgumentsError, match=said):
        rated_answer(value)


def test_the_file_is_looked_at_before_the_server_starts(tmp_path: Path) -> None:
    assert feedback_file_problem(tmp_path / "answers.jsonl") is None
    (tmp_path / "d.jsonl").mkdir()
    for name, said in (
        ("answers.txt", "must end in .jsonl"),
        ("none/answers.jsonl", "does not exist"),
        ("d.jsonl", "is a directory; name a file"),
    ):
        assert said in (feedback_file_problem(tmp_path / name) or "")
    assert [path.name for path in tmp_path.iterdir()] == ["d.jsonl"]
