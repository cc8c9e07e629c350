"""evaluation/evaluate.py: what is asked, printed and written of the answers, and what the base model is asked.

The answers are scripted; losses, logits and prompts are those of a small model with an adapter.
"""

from __future__ import annotations

import errno
import json
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from support.chatbots.silent_bot import QUESTIONS, SilentBot
from support.small_models import make_tokenizer, small_model

from neuralchat.data.packing import pack
from neuralchat.data.templates.making import make_template
from neuralchat.data.tokenization import Encoder
from neuralchat.data.tokens.counts import TokenizationCounts
from neuralchat.errors import AdapterError, ArgumentsError, DataError, NeuralChatError
from neuralchat.evaluation.items import items_of_file
from neuralchat.evaluation.sample_answers import spread_prompts
from neuralchat.inference.sampling import Sampling
from neuralchat.models.losses.loss_sum import padded_loss_sum
from neuralchat.runs import output_files

Evaluate = Callable[..., tuple[int, SilentBot]]


def test_score(run_evaluate: Evaluate, capsys: pytest.CaptureFixture[str]) -> None:
    status, bot = run_evaluate(QUESTIONS, ["--lora_rank, 8", "no idea"], None, "--max_new_tokens", "5")
    assert status == 0
    said = capsys.readouterr().out
    assert re.search(r"^right answers +1 of 2 \(50%, 9 to 91\)$", said, re.MULTILINE)
    assert said.endswith("1 of 2 answers state the right fact (50%, 9 to 91 with 95 % confidence)\n")
    assert bot.asked[0] == Sampling(max_new_tokens=5)
    assert [[turn.content for turn in turns] for turns in bot.asked[1:]] == [["Rank flag?"], ["Which é?"]]


def test_wrong_answers_are_shown(run_evaluate: Evaluate, capsys: pytest.CaptureFixture[str]) -> None:
    run_evaluate(QUESTIONS, ["it is 8", "é"], None, "--show")
    assert capsys.readouterr().out.startswith("wrong  Rank flag?\n       said: it is 8\n       facts: --lora_rank, 8\n")


def test_alternatives_of_a_wrong_answer_are_shown(run_evaluate: Evaluate, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [{"instruction": "Days?", "output": "7", "facts": [["7", "seven"], "days"]}]
    run_evaluate(rows, ["Two days."], None, "--show")
    assert "       facts: 7 or seven, days\n" in capsys.readouterr().out


def test_figures_and_answers_are_written(run_evaluate: Evaluate, tmp_path: Path) -> None:
    output = tmp_path / "answers.json"
    page = tmp_path / "page.html"
    words = ["--output", str(output), "--report", str(page), "--max_new_tokens", "7"]
    run_evaluate(QUESTIONS, ["it is 8", "é"], ["no", "é"], *words)
    assert "é" in output.read_text(encoding="utf-8")
    part = json.loads(output.read_text(encoding="utf-8"))["parts"][0]
    assert part["max_new_tokens"] == 7
    assert "Answers of at most 7 tokens" in page.read_text(encoding="utf-8")
    assert [system["name"] for system in part["systems"]] == ["base", "run"]
    assert part["systems"][1]["scores"]["right"] == 0.5
    assert part["systems"][1]["perplexity"] > 1
    item = part["items"][1]
    assert (item["question"], item["facts"], item["expected"]) == ("Which é?", ["é"], "é")
    assert item["systems"]["run"]["answer"] == "é"
    assert item["systems"]["run"]["scores"] == {
        "right": 1.0, "exact": 1.0, "normalised": 1.0, "rouge_l": 1.0, "stopped": 1.0, "repetition": 0.0,
        "refusals": 0.0, "tokens": 1.0,
    }  # fmt: skip
    right = next(row for row in part["compared"] if row["measure"] == "right")
    assert (right["first"], right["second"], right["lost"], right["gained"], right["headline"]) == (
        "base", "run", 0, 0, True,
    )  # fmt: skip


def test_questions_without_facts_are_scored_by_their_answers(
    run_evaluate: Evaluate, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [{"instruction": "a", "output": "An apple."}, {"instruction": "c", "output": "two pears"}]
    run_evaluate(rows, ["apple", "three pears"], ["no", "no"])
    said = capsys.readouterr().out
    assert "normalised match      0 of 2 (0%, 0 to 66)" in said
    assert "1 of 2 (50%, 9 to 91)" in said
    assert "right answers" not in said
    assert "2 questions are few: every figure is uncertain" in said


def test_bad_questions(run_evaluate: Evaluate) -> None:
    with pytest.raises(DataError, match="row 2: field 'instruction' is missing"):
        run_evaluate([QUESTIONS[0], {"output": "b"}], [])


def test_output_that_cannot_be_written_is_told_before_anything_is_read(run_evaluate: Evaluate, tmp_path: Path) -> None:
    with pytest.raises(ArgumentsError, match=r"--output .*answers\.json: the directory .*none does not exist$"):
        run_evaluate([{"output": "b"}], [], None, "--output", str(tmp_path / "none" / "answers.json"))


@pytest.mark.parametrize(
    ("name", "reason"),
    [("", "is a directory; name a file"), ("locked/a.json", "cannot be written: no permission to write to .*locked")],
)
def test_output_that_cannot_be_a_file_is_told_before_anything_is_read(
    run_evaluate: Evaluate, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, reason: str
) -> None:
    (tmp_path / "locked").mkdir()
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path).name != "locked")
    with pytest.raises(ArgumentsError, match=f"--output .* {reason}$"):
        run_evaluate([{"output": "b"}], [], None, "--output", str(tmp_path / name))


def test_remote_code_runs_only_where_it_was_asked_for(run_evaluate: Evaluate) -> None:
    assert run_evaluate(QUESTIONS, ["8", "é"])[1].loaded_with["trust_remote_code"] is False
    assert run_evaluate(QUESTIONS, ["8", "é"], None, "--trust_remote_code")[1].loaded_with["trust_remote_code"] is True


def test_impossible_sampling_is_told_before_anything_is_read(run_evaluate: Evaluate) -> None:
    with pytest.raises(ArgumentsError, match="--top_p must be above 0 and at most 1, found 0"):
        run_evaluate([{"output": "b"}], [], None, "--top_p", "0")


def test_the_base_model_is_asked_the_same(run_evaluate: Evaluate, capsys: pytest.CaptureFixture[str]) -> None:
    run_evaluate(QUESTIONS, ["--lora_rank, 8", "no idea"], ["no idea", "é"])
    said = capsys.readouterr().out
    assert "questions: run beside base, 2 questions" in said
    assert "right answers         1 of 2 (50%, 9 to 91)" in said
    assert said.endswith(
        "questions: 1 of 2 right before, 1 after (0 kept, 1 lost, 1 gained)\n"
        "1 of 2 answers state the right fact (50%, 9 to 91 with 95 % confidence)\n"
    )


def test_the_base_model_is_left_alone_where_that_is_asked_for(
    run_evaluate: Evaluate, capsys: pytest.CaptureFixture[str]
) -> None:
    """The table is the same, without the column of the base model."""
    run_evaluate(QUESTIONS, ["8", "é"], ["no", "no"], "--tuned_only")
    alone = capsys.readouterr().out
    assert "beside base" not in alone
    assert alone.startswith("\nquestions: run, 2 questions\nmeasure ")
    run_evaluate(QUESTIONS, ["8", "é"], ["no", "no"])
    beside = capsys.readouterr().out
    tables = []
    for said, column in ((alone, 1), (beside, 2)):
        rows = (re.split(r" {2,}", line) for line in said.splitlines())
        tables.append({row[0]: row[column].strip() for row in rows if len(row) > column})
    # All but what is the same in both, which has no row of its own beside the base model.
    shared = tables[1].keys() - {"measure"}
    assert {"right answers", "loss on answers", "similarity (ROUGE-L)"} <= shared
    # Means have an interval here, which has its place in the difference there.
    tables[0] = {name: re.sub(r"\([\d.]+ to [\d.]+, perp", "(perp", text) for name, text in tables[0].items()}
    assert {name: re.sub(r" \([\d.]+ to [\d.]+\)", "", tables[0][name]) for name in shared} == {
        name: tables[1][name] for name in shared
    }


def test_what_has_no_base_model_is_not_compared(
    run_evaluate: Evaluate, capsys: pytest.CaptureFixture[str], said: list[str]
) -> None:
    run_evaluate(QUESTIONS, ["8", "é"])
    assert capsys.readouterr().out.endswith("1 of 2 answers state the right fact (50%, 9 to 91 with 95 % confidence)\n")
    assert "run is a whole model, with no base model beside it to compare with" in said


def test_general_questions_are_counted_by_themselves(
    run_evaluate: Evaluate, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """And what was lost is told by kind."""
    facts = [prompt.facts for prompt in spread_prompts(3)]
    kinds = [prompt.kind for prompt in spread_prompts(3)]
    page, output = tmp_path / "page.html", tmp_path / "out.json"
    right = [" ".join(fact if isinstance(fact, str) else fact[0] for fact in each) for each in facts]
    words = ["--general", "3", "--report", str(page), "--output", str(output)]
    _, bot = run_evaluate([], [right[0], "nothing", right[2]], right, *words)
    assert capsys.readouterr().out.endswith(
        f"general: 3 of 3 right before, 2 after (2 kept, 1 lost, 0 gained); lost of {kinds[1]} 1\n"
        "2 of 3 general answers state the right fact (67%, 21 to 94 with 95 % confidence)\n"
    )
    assert [turns[-1].content for turns in bot.asked[1:]] == [prompt.instruction for prompt in spread_prompts(3)]
    rows = json.loads(output.read_text())["parts"][0]["kinds"]
    lost = {"kind": kinds[1], "asked": 1, "before": 1, "after": 0, "lost": 1, "gained": 0}
    assert (rows[0], sorted(row["kind"] for row in rows)) == (lost, sorted(kinds))
    assert (
        f'<th scope="row">{kinds[1]}</th><td>1</td><td>1</td><td>0</td><td class="worse">1</td><td></td>'
        in page.read_text()
    )


def test_flags_that_cannot_be_are_told_together(run_evaluate: Evaluate) -> None:
    with pytest.raises(ArgumentsError) as refused:
        run_evaluate(
            QUESTIONS,
            [],
            None,
            "--general",
            "-1",
            "--max_questions",
            "0",
            "--detect",
            "0",
            "--output",
            ".",
            "--report",
            "no/page.html",
        )
    for text in (
        "--general is -1; allowed is 0 or more, or 'all'",
        "--max_questions is 0; allowed is 1 or more",
        "--detect is 0; allowed is 0.01 to 100 points",
        "--output . is a directory",
        "--report no/page.html: the directory no does not exist",
    ):
        assert text in str(refused.value)


def test_an_adapter_without_effect_is_an_error(run_evaluate: Evaluate) -> None:
    fresh = get_peft_model(small_model(), LoraConfig(r=4, target_modules=["q_proj"])).eval()
    with pytest.raises(AdapterError, match=r"the adapter of run has no effect: with it and without it"):
        run_evaluate(QUESTIONS, ["8", "é"], ["8", "é"], model=fresh)


def test_an_adapter_that_changes_little_has_an_effect(run_evaluate: Evaluate) -> None:
    fresh = get_peft_model(small_model(), LoraConfig(r=4, target_modules=["q_proj"])).eval()
    with torch.no_grad():
        for name, parameter in fresh.named_parameters():
            if "lora_B" in name:
                parameter.fill_(1e-3)
    assert run_evaluate(QUESTIONS, ["8", "é"], ["8", "é"], model=fresh)[0] == 0


def test_losses_are_those_of_the_models_own_forward(run_evaluate: Evaluate, tuned_model: Any, tmp_path: Path) -> None:
    output = tmp_path / "answers.json"
    rows = [{"instruction": "a", "output": "An apple."}, {"instruction": "c", "output": "two pears"}]
    run_evaluate(rows, ["a", "b"], ["c", "d"], "--output", str(output))
    items = json.loads(output.read_text())["parts"][0]["items"]
    tokenizer = make_tokenizer()
    encoder = Encoder(tokenizer, make_template("alpaca", tokenizer), max_seq_length=512, train_on_inputs=False)
    records = [item.record for item in items_of_file(str(tmp_path / "records.json"))]
    examples = encoder.encode([record for record in records if record], TokenizationCounts())
    assert pack(examples).supervised_tokens == sum(item["systems"]["run"]["loss_tokens"] for item in items)
    with torch.no_grad():
        for example, item in zip(examples, items, strict=True):
            count = int(example.supervised.sum())
            tuned = padded_loss_sum(tuned_model, [example], pad_id=0)
            with tuned_model.disable_adapter():
                base = padded_loss_sum(tuned_model, [example], pad_id=0)
            assert item["systems"]["run"]["loss"] == pytest.approx(float(tuned) / count, rel=1e-4)
            assert item["systems"]["base"]["loss"] == pytest.approx(float(base) / count, rel=1e-4)
            assert item["systems"]["run"]["loss"] != pytest.approx(item["systems"]["base"]["loss"], rel=1e-3)


def test_a_question_too_long_for_the_model_is_told_and_left_out(
    run_evaluate: Evaluate, capsys: pytest.CaptureFixture[str], said: list[str]
) -> None:
    rows = [QUESTIONS[1], {"instruction": "word " * 3000, "output": "x", "facts": ["x"]}]
    _, bot = run_evaluate(rows, ["é"], None)
    assert len(bot.asked) == 2
    assert "1 of 1 answers state the right fact (100%, 21 to 100 with 95 % confidence)" in capsys.readouterr().out
    assert any(text.startswith("not asked: ") and "row 2" in text for text in said)


@pytest.mark.parametrize("flag", ["--output", "--report"])
def test_no_input_is_overwritten(run_evaluate: Evaluate, tmp_path: Path, flag: str) -> None:
    code, foreign, run = tmp_path / "s.py", tmp_path / "mine.html", tmp_path / "run"
    code.write_text("def f(question, answer, record):\n    return 1.0\n")
    foreign.write_text("mine")
    run.mkdir()
    (run / "adapter_config.json").write_text("{}")
    asked = tmp_path / "records.json"
    for name, told in (
        (asked, f"{flag} {asked} is --questions {asked} itself, which is read; name another file"),
        (code, f"{flag} {code} is the file of --run_code {code} itself"),
        (run / "adapter_config.json", f"lies in the run {run}, which is read; name a place outside of it"),
        (foreign, f"{flag} {foreign} exists already and is no report of this program"),
    ):
        before = name.read_bytes() if name.exists() else None
        with pytest.raises(ArgumentsError) as refused:
            run_evaluate(QUESTIONS, [], None, "--run_code", f"{code}:f", flag, str(name), runs=[str(run)])
        assert told in str(refused.value)
        assert before is None or name.read_bytes() == before


def test_a_report_is_replaced_by_a_newer_one(run_evaluate: Evaluate, tmp_path: Path) -> None:
    output, page = tmp_path / "a.json", tmp_path / "a.html"
    for answer in ("it is 8", "--lora_rank 8"):
        run_evaluate(QUESTIONS, [answer, "é"], ["no", "é"], "--output", str(output), "--report", str(page))
    assert json.loads(output.read_text())["parts"][0]["items"][0]["systems"]["run"]["answer"] == "--lora_rank 8"
    assert "--lora_rank 8" in page.read_text()


def test_a_disk_that_fills_up_costs_no_figure(
    run_evaluate: Evaluate, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """They are told first; the file is named, and the other one is written."""
    output, page, whole = tmp_path / "a.json", tmp_path / "a.html", output_files.write_file

    def filling(path: Path, content: str) -> None:
        if path == output:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        whole(path, content)

    monkeypatch.setattr(output_files, "write_file", filling)
    words = ["--output", str(output), "--report", str(page)]
    with pytest.raises(NeuralChatError, match=f"^--output {output} cannot be written: No space left on device$"):
        run_evaluate(QUESTIONS, ["8", "é"], ["no", "é"], *words)
    assert capsys.readouterr().out.endswith("1 of 2 answers state the right fact (50%, 9 to 91 with 95 % confidence)\n")
    assert page.exists()
    assert not output.exists()


def test_wrong_answers_that_were_cut_off_are_counted(run_evaluate: Any, capsys: pytest.CaptureFixture[str]) -> None:
    run_evaluate(QUESTIONS, ["it is 8", ""], ["no", ""])
    assert capsys.readouterr().out.endswith(
        "of the others, cut off before their end: 1; a larger --max_new_tokens lets answers end\n"
    )
    run_evaluate(QUESTIONS, ["8", "é"], ["no", "é"])
    assert "cut off" not in capsys.readouterr().out
