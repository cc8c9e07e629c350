"""`neuralchat data convert`: logs of OpenAI's interface and the page's thumbs become records and pairs."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from neuralchat.cli import main
from neuralchat.data.records import RecordReport, read_records
from neuralchat.inference.page.feedback import FeedbackFile, RatedAnswer

ASKED = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "Hi"},
    {"role": "assistant", "content": "Hello."},
    {"role": "user", "content": "Name a fruit."},
]
CALL = {"id": "c1", "type": "function", "function": {"name": "w", "arguments": '{"city": "Oslo"}'}}
TOOLS = [{"type": "function", "function": {"name": "w", "parameters": {"type": "object"}}}]


def completion(*answers: Any, finish: str = "stop") -> dict[str, Any]:
    choices = [
        {"index": index, "message": {"role": "assistant", "refusal": None, **said}, "finish_reason": finish}
        for index, said in enumerate(answers)
    ]
    return {"id": "chatcmpl-1", "object": "chat.completion", "created": 5, "model": "m", "choices": choices}


def written(path: Path, rows: Sequence[Any]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def rows_of(path: Path) -> list[Any]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def convert(files: Sequence[str], output: Path, *more: str) -> list[Any]:
    assert main(["data", "convert", *files, "--output", str(output), *more]) == 0
    return rows_of(output)


WANTED = [*ASKED[:2], {**ASKED[2], "weight": 0}, ASKED[3]]


@pytest.mark.parametrize(
    "row",
    [
        {"request": {"model": "m", "messages": ASKED}, "response": completion({"content": "An apple."})},
        {"request": json.dumps({"messages": ASKED}), "response": json.dumps(completion({"content": "An apple."}))},
        {"request_body": {"messages": ASKED}, "response_body": completion({"content": "An apple."})},
        {"messages": ASKED, "response": completion({"content": "An apple."})},
        {"messages": ASKED, **completion({"content": "An apple."})},
    ],
)
@pytest.mark.parametrize("count", [1, 2])
def test_a_log_becomes_a_record_whose_answer_alone_is_learned(tmp_path: Path, row: dict[str, Any], count: int) -> None:
    found = convert([written(tmp_path / "log.jsonl", [row] * count)], tmp_path / "out.jsonl")
    answer = {"role": "assistant", "content": "An apple."}
    assert found == [{"messages": [*WANTED, answer], "id": "chatcmpl-1", "model": "m", "created": 5}] * count
    report = RecordReport()
    (record, *_) = read_records([tmp_path / "out.jsonl"], report)
    assert [turn.trained for turn in record.turns if turn.role == "assistant"] == [False, True]


def test_answers_that_are_not_whole_are_left_out_and_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    asked = {"messages": [{"role": "user", "content": "Hm?"}]}
    rows = [
        {"request": asked, "response": completion({"content": "One."}, {"content": "Two."})},
        {"request": asked, "response": completion({"content": "Thr"}, finish="length")},
        {"request": asked, "response": {"error": {"message": "busy"}}},
        {"request": asked},
    ]
    found = convert([written(tmp_path / "log.jsonl", rows)], tmp_path / "out.jsonl")
    assert [row["messages"][-1]["content"] for row in found] == ["One.", "Two."]
    told = capsys.readouterr().err
    assert "log.jsonl row 2: an answer that is not whole (finish_reason length)" in told
    assert "log.jsonl rows 3-4 (2 rows), the first: a request without an answer" in told


def test_the_files_of_a_batch_are_joined(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    body = {"model": "m", "messages": [{"role": "user", "content": "Weather?"}], "tools": TOOLS}
    requests = [{"custom_id": name, "method": "POST", "url": "/v1/chat/completions", "body": body} for name in "ab"]
    said = completion({"content": None, "tool_calls": [CALL]}, finish="tool_calls")
    answers = [{"custom_id": "b", "response": {"status_code": 200, "body": said}, "error": None}]
    files = [written(tmp_path / "answers.jsonl", answers), written(tmp_path / "requests.jsonl", requests)]
    (row,) = convert(files, tmp_path / "out.jsonl")
    assert row["tools"] == TOOLS
    assert row["messages"][-1]["tool_calls"] == [CALL]
    assert "requests.jsonl row 1: a request without an answer" in capsys.readouterr().err
    assert main(["data", "convert", files[0], "--output", str(tmp_path / "no.jsonl")]) == 2
    assert "is an answer without its request" in capsys.readouterr().err


def test_text_completions_and_fine_tuning_files(tmp_path: Path) -> None:
    said = {"id": "cmpl-1", "choices": [{"index": 0, "text": " there was", "finish_reason": "stop"}]}
    log = written(tmp_path / "log.jsonl", [{"request": {"prompt": "Once"}, "response": said}])
    assert convert([log], tmp_path / "a.jsonl") == [{"prompt": "Once", "completion": " there was", "id": "cmpl-1"}]
    rows = [{"messages": [*WANTED, {"role": "assistant", "content": "A pear."}], "tools": TOOLS}]
    assert convert([written(tmp_path / "tuning.jsonl", rows)], tmp_path / "b.jsonl") == rows


def rate(file: FeedbackFile, rating: str, question: str, answer: str, number: int) -> None:
    turns = ({"role": "user", "content": question}, {"role": "assistant", "content": answer})
    file.add(RatedAnswer(f"answer-{number:04}", rating, "m", turns))


@pytest.fixture
def rated(tmp_path: Path) -> list[str]:
    """The files of the page: written by what writes them when it is served."""
    file = FeedbackFile(tmp_path / "answers.jsonl")
    rate(file, "up", "Name a fruit.", "An apple.", 1)
    rate(file, "down", "Name a fruit.", "A chair.", 2)
    rate(file, "down", "Name a fruit.", "A table.", 3)
    rate(file, "up", "Name a bird.", "A robin.", 4)
    rate(file, "down", "Name a king.", "Me.", 5)
    return [str(file.path), str(file.down_path)]


def test_thumbs_become_pairs(tmp_path: Path, rated: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    found = convert(rated, tmp_path / "pairs.jsonl", "--to", "preference", "--unpaired", str(tmp_path / "alone.jsonl"))
    prompt = [{"role": "user", "content": "Name a fruit."}]
    assert found == [
        {
            "prompt": prompt,
            "chosen": [{"role": "assistant", "content": "An apple."}],
            "rejected": [{"role": "assistant", "content": answer}],
        }
        for answer in ("A chair.", "A table.")
    ]
    assert rows_of(tmp_path / "alone.jsonl") == [
        {
            "prompt": [{"role": "user", "content": "Name a king."}],
            "completion": [{"role": "assistant", "content": "Me."}],
            "label": False,
        }
    ]
    assert "1 good answers have no bad one to the same prompt" in capsys.readouterr().err
    # What was written is read again, and so is OpenAI's form of it.
    assert convert([str(tmp_path / "pairs.jsonl")], tmp_path / "again.jsonl", "--to", "preference") == found
    openai = [
        {
            "input": {"messages": row["prompt"], "tools": [], "parallel_tool_calls": True},
            "preferred_output": row["chosen"],
            "non_preferred_output": row["rejected"],
        }
        for row in found
    ]
    given = written(tmp_path / "openai.jsonl", openai)
    assert convert([given], tmp_path / "third.jsonl", "--to", "preference") == found


def test_good_answers_become_records_and_bad_ones_are_never_learned(
    tmp_path: Path, rated: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    found = convert(rated[:1], tmp_path / "good.jsonl", "--to", "alpaca", "--drop", "feedback,model,time,id")
    assert found == [
        {"instruction": "Name a fruit.", "input": "", "output": "An apple."},
        {"instruction": "Name a bird.", "input": "", "output": "A robin."},
    ]
    assert main(["data", "convert", rated[1], "--to", "alpaca", "--output", str(tmp_path / "bad.jsonl")]) == 2
    assert "has an answer that is not to be learned (weight 0)" in capsys.readouterr().err


def test_pairs_need_ratings_and_a_good_answer(
    tmp_path: Path, rated: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    plain = written(tmp_path / "plain.jsonl", [{"instruction": "Why?", "output": "So."}])
    words = ["--to", "preference", "--output", str(tmp_path / "no.jsonl")]
    assert main(["data", "convert", plain, *words]) == 2
    assert "plain.jsonl row 1: has no field 'feedback'" in capsys.readouterr().err
    assert main(["data", "convert", rated[0], *words]) == 2
    assert "no bad answer has a good one to the same prompt (0 bad, 2 good)" in capsys.readouterr().err
    assert main(["data", "convert", *rated, "--to", "preference", "--output", str(tmp_path / "no.csv")]) == 2
    assert "it can be written as .jsonl, .ndjson, .json files" in capsys.readouterr().err
