"""evaluation/evaluate.py: several runs, the page, groups of records, and what the user brings to score by.

The answers are scripted; losses, logits and prompts are those of a small model with an adapter.
"""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from peft import LoraConfig, get_peft_model
from support.chatbots.silent_bot import QUESTIONS, SilentBot
from support.small_models import small_model

from neuralchat import cli
from neuralchat.errors import ArgumentsError, DataError
from neuralchat.evaluation import items
from neuralchat.evaluation.sample_answers import spread_prompts

Evaluate = Callable[..., tuple[int, SilentBot]]


def test_two_runs_are_compared_with_the_base_and_with_each_other(
    run_evaluate: Evaluate, tuned_model: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "answers.json"
    bots = [SilentBot(tuned_model, ["--lora_rank, 8", "no"], ["no", "é"]), SilentBot(tuned_model, ["no", "é"], ["?"])]
    run_evaluate(QUESTIONS, [], None, "--output", str(output), bots=bots, runs=["run", "second"])
    part = json.loads(output.read_text())["parts"][0]
    assert [system["name"] for system in part["systems"]] == ["base", "run", "second"]
    headlines = [row for row in part["compared"] if row["headline"]]
    assert [(row["first"], row["second"], row["lost"], row["gained"]) for row in headlines] == [
        ("base", "run", 1, 1), ("base", "second", 0, 0), ("run", "second", 1, 1),
    ]  # fmt: skip
    # The base model was asked once, by the first: the second would have said "?".
    assert {item["systems"]["base"]["answer"] for item in part["items"]} == {"no", "é"}
    assert "these are 3 pairs" in capsys.readouterr().out


def test_the_page_holds_all_and_runs_nothing(run_evaluate: Evaluate, tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    rows = [*QUESTIONS, {"instruction": "<script>alert(1)</script>", "output": "z", "facts": ["z"]}]
    answers, before = ["<img src=x>", "é", "z"], ["--lora_rank 8", "no", "z"]
    run_evaluate(rows, answers, before, "--report", str(page))
    text = page.read_text(encoding="utf-8")
    order = [
        text.index(title) for title in ("lost: right before", "gained: wrong before", "right before and after (1)")
    ]
    assert order == sorted(order)
    assert "&lt;script&gt;alert(1)" in text
    assert "&lt;img src=x&gt;" in text
    assert "<script" not in text
    assert "<img" not in text
    assert "http" not in text.replace("http-equiv", "")
    assert "no difference can be seen" in text
    assert "prefers-color-scheme: dark" in text
    # Of the picture every row is told in words.
    pictures = re.findall(r'<svg role="img" aria-label="([^"]+)">', text)
    told = r"right answers: \+?0\.0 points \(-[\d.]+ to \+[\d.]+.*\), no difference can be seen"
    assert re.fullmatch(told, pictures[0])
    assert len(pictures) == text.count('role="img"')


def test_names_and_signs_are_written_for_people(run_evaluate: Evaluate, tmp_path: Path) -> None:
    """A kind of two words has a space, and no number stands apart from its sign of percent."""
    page = tmp_path / "page.html"
    prompts = spread_prompts(12)
    assert "small_talk" in {prompt.kind for prompt in prompts}
    run_evaluate([], ["no"] * 12, ["no"] * 12, "--general", "12", "--report", str(page))
    text = page.read_text(encoding="utf-8").partition("<body>")[2]
    assert '<th scope="row">small talk</th>' in text
    assert "small_talk" not in text
    assert "95&nbsp;%" in text
    assert re.search("9\\d\N{NO-BREAK SPACE}%", text)
    assert not re.search(r"\d %", re.sub('aria-label="[^"]*"', "", text))


def test_colours_say_what_is_right(run_evaluate: Evaluate, tmp_path: Path) -> None:
    """In words too; where nothing was checked, there are none of either."""
    page = tmp_path / "page.html"
    of_answers = r'<div class="(right|wrong|unchecked)"><small>\w+(?: <b class="mark">(\w+)</b>)?</small>'
    run_evaluate([{"instruction": "a", "output": "b"}], ["no"], ["no"], "--report", str(page))
    assert re.findall(of_answers, page.read_text(encoding="utf-8")) == [("unchecked", "")] * 2
    run_evaluate(QUESTIONS, ["8", "é"], ["no", "no"], "--report", str(page))
    found = re.findall(of_answers, page.read_text(encoding="utf-8"))
    assert all(style == word for style, word in found)
    assert [style for style, _ in found] == ["wrong", "wrong", "wrong", "right"]


def test_without_answers_there_is_no_heading_of_them(run_evaluate: Evaluate, tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    run_evaluate([{"text": "Only its loss is measured."}], [], [], "--report", str(page))
    text = page.read_text(encoding="utf-8")
    assert "loss on answers" in text
    assert "Answers, the worst first" not in text


def test_records_of_one_document_belong_together(run_evaluate: Evaluate, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [{**QUESTIONS[place % 2], "document": place // 2} for place in range(4)]
    run_evaluate(rows, ["8", "é", "8", "é"], ["8", "no", "8", "no"], "--cluster_by", "document")
    assert "4 questions in 2 groups" in capsys.readouterr().out
    rows[3].pop("document")
    with pytest.raises(DataError, match=r"--cluster_by document: 1 record\(s\) lack it, the first is .* row 4"):
        run_evaluate(rows, [], None, "--cluster_by", "document")


def test_code_of_the_user_scores_where_that_is_asked_for(
    run_evaluate: Evaluate, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "scoring.py"
    file.write_text("def short(question, answer, expected):\n    return len(answer) <= len(expected)\n")
    run_evaluate(QUESTIONS, ["8", "éé"], None, "--run_code", f"{file}:short")
    # True and False are counted, of numbers the mean is taken.
    assert re.search(r"^short +1 of 2 \(50%, 9 to 91\)$", capsys.readouterr().out, re.MULTILINE)
    file.write_text("def length(question, answer, expected):\n    return len(answer)\ndef one(answer):\n    return 1\n")
    run_evaluate(QUESTIONS, ["8", "éé"], None, "--run_code", f"{file}:length")
    assert re.search(r"^length +1\.500 \(1\.000 to 2\.000\)$", capsys.readouterr().out, re.MULTILINE)
    for named, reason in (
        (f"{file}:tall", "has no function tall"),
        (f"{tmp_path}/none.py:short", "none.py does not exist"),
        ("short", "name a file and a function of it"),
        # Before hours of answers, not after them.
        (f"{file}:one", r"one of .*scoring.py takes \(answer\); it is called as one\(question, answer, expected\)"),
    ):
        with pytest.raises(ArgumentsError, match=reason):
            run_evaluate(QUESTIONS, ["8", "é"], None, "--run_code", named)
    file.write_text("1 / 0")
    with pytest.raises(ArgumentsError, match="cannot be run: ZeroDivisionError"):
        run_evaluate(QUESTIONS, ["8", "é"], None, "--run_code", f"{file}:short")


SCORING = "def short(question, answer, expected):\n    return len(answer) < 3\n"


@pytest.mark.parametrize("facts", [["8"], None])
def test_a_function_of_the_user_is_the_headline_and_that_is_said(
    run_evaluate: Evaluate, tmp_path: Path, capsys: pytest.CaptureFixture[str], facts: list[str] | None
) -> None:
    """Whatever else the questions can be scored by."""
    file, output, page = (tmp_path / name for name in ("scoring.py", "out.json", "page.html"))
    file.write_text(SCORING)
    rows = [{"instruction": f"q{n}", "output": "8", **({"facts": facts} if facts else {})} for n in range(8)]
    flags = ["--run_code", f"{file}:short", "--output", str(output), "--report", str(page)]
    run_evaluate(rows, ["8"] * 8, ["none"] * 8, *flags)
    told = "the headline, short (your function), has 4 %"
    said = capsys.readouterr().out
    assert told in said
    assert told.replace(" %", "\N{NO-BREAK SPACE}%") in page.read_text()
    assert re.search(r"short +0 of 8 \(0%, 0 to 32\) +8 of 8 \(100%, 68 to 100\) +\+100\.0 points .* better", said)
    compared = json.loads(output.read_text())["parts"][0]["compared"]
    assert [row["measure"] for row in compared if row["headline"]] == ["run_code"]
    assert [row["measure"] for row in compared][1:3] == (["right", "loss"] if facts else ["loss", "exact"])
    assert compared[0]["weight"] == 0.8


def test_a_flag_that_is_given_twice_replaces_nothing_silently(run_evaluate: Evaluate) -> None:
    with pytest.raises(ArgumentsError, match=r"argument --run_code: given twice, a\.py:f and b\.py:g; give it once"):
        run_evaluate(QUESTIONS, [], None, "--run_code", "a.py:f", "--run_code", "b.py:g")


@pytest.mark.parametrize(
    ("returned", "told"),
    [
        ("[1 / 0]", r"it failed on .*row 2: ZeroDivisionError"),
        ("exit(3)", r"it failed on .*row 2: SystemExit: 3"),
        ("None", r"it gave None for .*row 2; it must return a number"),
        ("float('nan')", r"it gave nan for .*row 2; it must"),
    ],
)
def test_a_function_that_fails_takes_nothing_else_with_it(
    run_evaluate: Evaluate, tmp_path: Path, capsys: pytest.CaptureFixture[str], returned: str, told: str
) -> None:
    file, output = tmp_path / "scoring.py", tmp_path / "out.json"
    file.write_text(f"def own(question, answer, expected):\n    return 1 if answer == '8' else {returned}\n")
    with pytest.raises(ArgumentsError, match=told):
        run_evaluate(QUESTIONS, ["8", "é"], None, "--run_code", f"{file}:own", "--output", str(output))
    assert "1 of 2 answers" in capsys.readouterr().out
    [part] = json.loads(output.read_text())["parts"]
    assert [item["systems"]["run"]["answer"] for item in part["items"]] == ["8", "é"]


def test_an_answer_is_scored_once(run_evaluate: Evaluate, tmp_path: Path) -> None:
    file = tmp_path / "scoring.py"
    file.write_text(
        "from pathlib import Path\n"
        f"calls = Path({str(tmp_path / 'calls')!r})\n"
        "def own(question, answer, expected):\n"
        "    with calls.open('a') as stream:\n"
        "        print(answer, file=stream)\n"
        "    return 1.0\n"
    )
    run_evaluate(QUESTIONS, ["8", "é"], ["no", "é"], "--run_code", f"{file}:own")
    assert sorted((tmp_path / "calls").read_text().split()) == ["8", "no", "é"]


def test_checks_that_cannot_be_made_are_told_together(run_evaluate: Evaluate) -> None:
    wrong = [{"pattern": "("}, {"number": "7"}, {"words": 3}, {"json": False}, ["json"], {"number": True}]
    rows = [{"instruction": "a", "output": "b", "checks": checks} for checks in wrong]
    with pytest.raises(DataError) as refused:
        run_evaluate(rows, [])
    for text in (
        "row 1: checks.pattern is no regular expression",
        "row 2: checks.number cannot be '7'",
        "row 3: checks hold 'words'; allowed are",
        "row 4: checks.json cannot be False",
        "row 5: field 'checks' must be an object",
        "row 6: checks.number cannot be True",
    ):
        assert text in str(refused.value)


def parsed(words: Sequence[str]) -> argparse.Namespace:
    return cli.make_parser().parse_args(["eval", *words])


def test_the_command_of_the_demo_is_taken() -> None:
    options = parsed(["runs/demo", "--questions", "q.json", "--general", "60", "--max_new_tokens", "48"])
    assert (options.runs, options.general, options.max_new_tokens) == (["runs/demo"], 60, 48)
    assert parsed(["a", "--general", "all"]).general is None
    assert parsed(["a"]).general == 0


def test_all_adapters_are_looked_at_before_any_is_asked(run_evaluate: Evaluate, tuned_model: Any) -> None:
    """And all that have no effect are named."""
    fresh = get_peft_model(small_model(), LoraConfig(r=4, target_modules=["q_proj"])).eval()
    bots = [SilentBot(model, ["8", "é"], ["8", "é"]) for model in (tuned_model, fresh, fresh)]
    for bot, name in zip(bots, ("first", "second", "third"), strict=True):
        bot.name = name
    with pytest.raises(ArgumentsError, match=r"(?s)adapter of second has no effect.*adapter of third has no effect"):
        run_evaluate(QUESTIONS, [], None, bots=bots, runs=["first", "second", "third"])
    assert [bot.asked for bot in bots] == [[], [], []]


def test_a_file_of_questions_is_read_once_and_prompts_are_measured_once(
    run_evaluate: Evaluate, monkeypatch: pytest.MonkeyPatch
) -> None:
    read, asked = [], []
    whole, problem = items.read_rows, SilentBot.question_problem
    monkeypatch.setattr(items, "read_rows", lambda path, *more: read.append(path) or whole(path, *more))
    monkeypatch.setattr(
        SilentBot, "question_problem", lambda bot, turns, s: asked.append(turns) or problem(bot, turns, s)
    )
    run_evaluate([*QUESTIONS, *QUESTIONS, *QUESTIONS], ["it is 8", "é"] * 3, ["no", "é"] * 3)
    assert len(read) == 1
    # All of them once, for the base model too, and four to see whether the adapter does anything.
    assert len(asked) == 6 + 4
