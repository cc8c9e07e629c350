"""`neuralchat data generate` beside a scripted teacher over HTTP: what is accepted, refused, asked again, and paid."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from rouge_score.rouge_scorer import RougeScorer
from support.teachers.scripted_teacher import ScriptedTeacher, mixed_faults

from neuralchat.cli import main
from neuralchat.data_tools.generating.teaching import server_teacher
from neuralchat.data_tools.generating.teaching.journal import journal_of


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server_teacher, "FIRST_WAIT_S", 0.01)


def generate(teacher: ScriptedTeacher, output: Path, *words: str, count: int = 12) -> int:
    given = ["--base_url", teacher.url, "--output", str(output), "--count", str(count), *words]
    return main(["data", "generate", *given])


def rows_of(output: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in output.read_text(encoding="utf-8").splitlines()]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, ScriptedTeacher, dict[str, Any]]]:
    """40 records of a teacher that fails in every way: (the file, the teacher, the report)."""
    directory = tmp_path_factory.mktemp("made")
    with pytest.MonkeyPatch.context() as patch, ScriptedTeacher(mixed_faults) as teacher:
        patch.setattr(server_teacher, "FIRST_WAIT_S", 0.01)
        report = directory / "report.json"
        assert generate(teacher, directory / "a.jsonl", "--report", str(report), count=40) == 0
        yield directory / "a.jsonl", teacher, json.loads(report.read_text())


def test_enough_is_accepted_and_each_row_says_where_it_comes_from(
    made: tuple[Path, ScriptedTeacher, dict[str, Any]],
) -> None:
    output, _, report = made
    rows = rows_of(output)
    assert 40 <= len(rows) <= 44
    assert report["records"] == len(rows)
    for number, row in enumerate(rows, start=1):
        assert set(row) == {"instruction", "input", "output", "provenance"}
        origin = row["provenance"]
        assert (origin["id"], origin["way"], origin["teacher"]) == (f"made-{number:05}", "self-instruct", "teacher-1")
        assert len(origin["requests"]) == 2
        assert origin["shown"]
    # Answer first: a classification has an input for each label.
    assert any(row["provenance"]["kind"] == "classification" and row["input"] for row in rows)


def test_no_two_accepted_tasks_are_alike_by_rouge_score(made: tuple[Path, ScriptedTeacher, dict[str, Any]]) -> None:
    tasks = list(dict.fromkeys(row["instruction"] for row in rows_of(made[0])))
    scorer = RougeScorer(["rougeL"], use_stemmer=False)
    scores = [scorer.score(one, other)["rougeL"].fmeasure for at, one in enumerate(tasks) for other in tasks[at + 1 :]]
    assert len(scores) > 400
    assert max(scores) < 0.7


def test_data_check_finds_no_error(made: tuple[Path, ScriptedTeacher, dict[str, Any]]) -> None:
    assert main(["data", "check", str(made[0])]) == 0


def test_every_kind_of_rubbish_is_refused_by_its_reason(made: tuple[Path, ScriptedTeacher, dict[str, Any]]) -> None:
    refused = made[2]["refused"]
    assert {"too_alike", "blacklist", "language", "punctuation", "length", "unreadable"} <= set(refused)
    assert all(found["examples"] and found["because"] for found in refused.values())
    assert "(Explain what the processor" in refused["too_alike"]["examples"][0]


def test_what_failed_was_asked_again_and_nothing_was_billed_twice(
    made: tuple[Path, ScriptedTeacher, dict[str, Any]],
) -> None:
    _, teacher, report = made
    assert max(teacher.asked.values()) > 1
    assert report["requests"] == sum(teacher.asked.values())
    told = report["tokens"]["prompts"] + report["tokens"]["answers"]
    assert told == teacher.tokens_billed
    assert teacher.most_together <= 4


def test_the_same_command_asks_nothing_and_writes_the_same(
    made: tuple[Path, ScriptedTeacher, dict[str, Any]], tmp_path: Path
) -> None:
    output, teacher, _ = made
    before, asked = output.read_bytes(), teacher.asked.total()
    assert generate(teacher, output, count=40) == 0
    assert output.read_bytes() == before
    assert teacher.asked.total() == asked


def test_arrival_faults_and_parallel_change_nothing_but_the_time(tmp_path: Path) -> None:
    outputs = []
    faults: list[Callable[[str, int], str]] = [
        lambda _key, _times: "ok",
        lambda key, times: "ok" if times or key[0] in "01234567" else "500",
    ]
    for number, fault in enumerate(faults):
        with ScriptedTeacher(fault) as teacher:
            assert generate(teacher, tmp_path / f"{number}.jsonl", "--parallel", str(1 + 7 * number)) == 0
        outputs.append((tmp_path / f"{number}.jsonl").read_bytes())
    assert outputs[0] == outputs[1]


def test_more_are_asked_for_later_without_asking_again(tmp_path: Path) -> None:
    with ScriptedTeacher() as teacher:
        assert generate(teacher, tmp_path / "a.jsonl", count=6) == 0
        few, asked = rows_of(tmp_path / "a.jsonl"), set(teacher.asked)
        assert generate(teacher, tmp_path / "a.jsonl", count=20) == 0
        assert max(teacher.asked.values()) == 1
        many = rows_of(tmp_path / "a.jsonl")
        assert many[: len(few)] == few
        assert len(many) >= 20
        assert len(teacher.asked) > len(asked)
        # Fewer than there are: all that was paid for stays.
        assert generate(teacher, tmp_path / "a.jsonl", count=3) == 0
        assert rows_of(tmp_path / "a.jsonl") == many


def test_a_request_that_always_fails_is_left_out_and_the_others_are_not(tmp_path: Path) -> None:
    def fault(key: str, times: int) -> str:
        return "400" if key[0] in "0123" else "ok"

    with ScriptedTeacher(fault) as teacher:
        assert generate(teacher, tmp_path / "a.jsonl", "--report", str(tmp_path / "r.json")) == 0
        assert max(teacher.asked.values()) == 1
    assert json.loads((tmp_path / "r.json").read_text())["refused"]["no_reply"]["count"] > 0


def test_of_a_teacher_that_says_nothing_but_rubbish_it_is_told_what_to_do(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with ScriptedTeacher(lambda _key, _times: "rubbish") as teacher:
        assert generate(teacher, tmp_path / "a.jsonl", "--patience", "3", "--report", str(tmp_path / "r.json")) == 1
    report = json.loads((tmp_path / "r.json").read_text())
    most = max(report["refused"], key=lambda name: report["refused"][name]["count"])
    assert report["advice"].startswith(f"{report['refused'][most]['count']} of ")
    assert f" times {most}, {report['refused'][most]['because']}; " in report["advice"]
    assert report["advice"] in " ".join(capsys.readouterr().out.split())


def test_a_teacher_that_is_gone_is_told_and_the_same_command_goes_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server_teacher, "MOST_ATTEMPTS", 2)
    is_down = False

    def fault(key: str, times: int) -> str:
        return "500" if is_down else "ok"

    with ScriptedTeacher(fault) as teacher:
        assert generate(teacher, tmp_path / "a.jsonl", count=4) == 0
        is_down = True
        assert generate(teacher, tmp_path / "a.jsonl", count=30) == 2
        assert "teacher-1 does not answer: the server refuses: it broke" in capsys.readouterr().err
        kept = rows_of(tmp_path / "a.jsonl")
        is_down = False
        assert generate(teacher, tmp_path / "a.jsonl", count=30) == 0
        assert rows_of(tmp_path / "a.jsonl")[: len(kept)] == kept
    with ScriptedTeacher() as teacher:
        assert generate(teacher, tmp_path / "b.jsonl", count=4) == 0
        assert generate(teacher, tmp_path / "b.jsonl", count=30) == 0
    assert (tmp_path / "a.jsonl").read_bytes() == (tmp_path / "b.jsonl").read_bytes()


def test_silence_ends_at_the_timeout_and_counts_as_perhaps_paid(tmp_path: Path) -> None:
    with ScriptedTeacher(lambda key, times: "silent" if not times and key[-1] in "0123" else "ok") as teacher:
        words = ("--timeout", "0.3", "--report", str(tmp_path / "r.json"))
        assert generate(teacher, tmp_path / "a.jsonl", *words, count=24) == 0
    report = json.loads((tmp_path / "r.json").read_text())
    again = [key for key, times in teacher.asked.items() if times > 1]
    assert again
    assert report["tokens_that_may_be_billed"] > 0


def test_turns_critic_and_domain(tmp_path: Path) -> None:
    with ScriptedTeacher() as teacher:
        words = ("--turns", "2", "--critic", "4", "--domain", "the upkeep of  lighthouses")
        assert generate(teacher, tmp_path / "a.jsonl", *words, "--report", str(tmp_path / "r.json"), count=5) == 0
    prompts = [body["messages"][0]["content"] for body in teacher.bodies]
    assert all("the upkeep of lighthouses" in prompt for prompt in prompts)
    rows = rows_of(tmp_path / "a.jsonl")
    assert all([turn["role"] for turn in row["messages"]] == ["user", "assistant"] * 2 for row in rows)
    assert all(row["provenance"]["score"] >= 4 for row in rows)
    report = json.loads((tmp_path / "r.json").read_text())
    assert report["refused"]["low_score"]["count"] == report["scores"]["2"] > 0


def test_own_seeds_and_words_that_no_task_may_have(tmp_path: Path) -> None:
    seeds = tmp_path / "seeds.jsonl"
    seeds.write_text("".join(json.dumps({"instruction": f"Describe thing number {n} to me."}) + "\n" for n in range(9)))
    with ScriptedTeacher() as teacher:
        words = ("--seeds", str(seeds), "--blacklist", "invoice,payroll,router")
        assert generate(teacher, tmp_path / "a.jsonl", *words) == 0
    assert "Describe thing number" in teacher.bodies[0]["messages"][0]["content"]
    tasks = " ".join(row["instruction"] for row in rows_of(tmp_path / "a.jsonl"))
    assert not {"invoice", "payroll", "router"} & set(tasks.replace(".", " ").split())


def test_an_endpoint_that_lists_no_models_and_thinks_aloud(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with ScriptedTeacher(lists_models=False, thinks=True) as teacher:
        assert generate(teacher, tmp_path / "a.jsonl") == 2
        assert "the server refuses" in capsys.readouterr().err
        assert generate(teacher, tmp_path / "a.jsonl", "--model", "big-one") == 0
    assert {body["model"] for body in teacher.bodies} == {"big-one"}
    assert "Hm" not in (tmp_path / "a.jsonl").read_text()


def test_generating_imports_no_torch(tmp_path: Path) -> None:
    """It asks over HTTP: it should begin at once."""
    import subprocess

    work = "import sys; import neuralchat.data_tools.generating.generate; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", work], check=False).returncode == 0


def test_the_key_is_sent_and_never_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    key = tmp_path / "key"
    key.write_text("sesame-open-7261\n")
    key.chmod(0o600)
    with ScriptedTeacher() as teacher:
        assert generate(teacher, tmp_path / "a.jsonl", "--key_file", str(key), count=3) == 0
        assert {headers["Authorization"] for headers in teacher.headers} == {"Bearer sesame-open-7261"}
        key.chmod(0o644)
        assert generate(teacher, tmp_path / "a.jsonl", "--key_file", str(key), count=3) == 2
    written = (tmp_path / "a.jsonl").read_text() + journal_of(tmp_path / "a.jsonl").read_text()
    told = capsys.readouterr()
    assert "sesame" not in written + told.out + told.err
    assert "can be read by others: chmod 600" in told.err
