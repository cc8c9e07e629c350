"""evaluation/harness.py: tasks of lm-evaluation-harness, with tasks of our own and nothing fetched.

Where lm-eval is not installed, what needs none is tested; `make harness` tests the rest.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from support.chatbots.silent_bot import QUESTIONS, SilentBot
from support.small_models import make_tokenizer

from neuralchat.errors import ArgumentsError
from neuralchat.evaluation.comparison import compare_pairs
from neuralchat.evaluation.harness import harness_measures, items_of_samples, measured_task

Evaluate = Callable[..., tuple[int, SilentBot]]
ASKED = ("The sky is", "The grass is", "Two and three make", "Cats", "Dogs", "A fruit that is", "The capital is")
ROWS: list[dict[str, Any]] = [
    {"question": asked, "choices": [" blue", " green", " red.", " five", " sleep", " Paris"], "answer": number % 6}
    for number, asked in enumerate(ASKED)
]
CHOOSING = """\
task: {name}
dataset_path: json
dataset_kwargs: {{data_files: {{test: {data}}}}}
test_split: test
"""
COLOURS = (
    CHOOSING
    + """\
output_type: multiple_choice
doc_to_text: "{{{{question}}}}"
doc_to_choice: choices
doc_to_target: answer
target_delimiter: ""
metric_list: [{{metric: acc}}]
"""
)
PERPLEXITY = (
    CHOOSING
    + """\
output_type: loglikelihood_rolling
doc_to_text: ""
doc_to_target: "{{{{question}}}}{{{{choices[0]}}}}"
metric_list: [{{metric: word_perplexity}}]
"""
)
WRITING = (
    CHOOSING
    + """\
output_type: generate_until
doc_to_text: "{{{{question}}}}"
doc_to_target: "{{{{choices[answer]}}}}"
generation_kwargs: {{until: ["."], max_gen_toks: 4}}
metric_list: [{{metric: exact_match}}]
"""
)


def task_file(directory: Path, name: str, text: str) -> Path:
    data = directory / "rows.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    (directory / f"{name}.yaml").write_text(text.format(name=name, data=data))
    return directory / f"{name}.yaml"


def needs_harness() -> None:
    pytest.importorskip("lm_eval", reason="the extra 'harness' (package lm-eval) is not installed; `make harness`")


@torch.no_grad()
def log_likelihood(model: Any, question: str, choice: str) -> float:
    tokenizer = make_tokenizer()
    ids = tokenizer(question + choice)["input_ids"]
    start = len(tokenizer(question)["input_ids"])
    scores = model(torch.tensor([ids])).logits[0].double().log_softmax(-1)
    return sum(float(scores[place - 1, ids[place]]) for place in range(start, len(ids)))


def right_choices(model: Any) -> list[float]:
    """By plain forward passes."""
    found = []
    for row in ROWS:
        scores = [log_likelihood(model, row["question"], choice) for choice in row["choices"]]
        found.append(float(scores.index(max(scores)) == row["answer"]))
    return found


@pytest.mark.slow
def test_base_and_tuned_are_paired_document_by_document(
    run_evaluate: Evaluate, tuned_model: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    needs_harness()
    tasks = [task_file(tmp_path, "colours", COLOURS), task_file(tmp_path, "texts", PERPLEXITY)]
    output, page = tmp_path / "out.json", tmp_path / "page.html"
    words = ["--harness_tasks", ",".join(map(str, tasks)), "--output", str(output), "--report", str(page)]
    run_evaluate([], [], ["as it was"], *words)
    colours, texts = json.loads(output.read_text())["parts"]
    with tuned_model.disable_adapter():
        before = right_choices(tuned_model)
    after = right_choices(tuned_model)
    assert before != after
    for name, expected in (("base", before), ("run", after)):
        assert [item["systems"][name]["scores"]["acc"] for item in colours["items"]] == expected
    [row] = colours["compared"]
    lost = sum(a > b for a, b in zip(before, after, strict=True))
    assert (row["measure"], row["lost"], row["share"], row["better"]) == ("acc", lost, True, "higher")
    assert colours["items"][0]["question"] == "The sky is"
    # Of the whole only: words are counted over all documents.
    assert texts["compared"] == []
    sums = [sum(log_likelihood(tuned_model, "<|end|>", row["question"] + row["choices"][0]) for row in ROWS)]
    words_in_all = sum(len((row["question"] + row["choices"][0]).split()) for row in ROWS)
    perplexity = texts["systems"][1]["figures"]["word_perplexity"]
    assert perplexity == pytest.approx(2.718281828459045 ** (-sums[0] / words_in_all), rel=1e-3)
    said = capsys.readouterr()
    assert "colours: run beside base, 7 questions" in said.out
    assert "word_perplexity" in said.out
    assert "it/s" not in said.err
    assert "colours" in page.read_text()


@pytest.mark.slow
def test_the_runs_prompt_format_where_it_is_asked_for(run_evaluate: Evaluate, tmp_path: Path) -> None:
    needs_harness()
    output = tmp_path / "out.json"
    words = ["--harness_tasks", str(task_file(tmp_path, "writing", WRITING)), "--harness_chat", "--harness_limit", "2"]
    run_evaluate([], [], None, *words, "--output", str(output))
    [part] = json.loads(output.read_text())["parts"]
    assert len(part["items"]) == 2
    assert "### Instruction:\nThe sky is\n\n### Response:" in part["items"][0]["question"]


@pytest.mark.slow
def test_tasks_that_are_not_there_are_told_together(run_evaluate: Evaluate, tmp_path: Path) -> None:
    needs_harness()
    broken = task_file(tmp_path, "broken", COLOURS.replace("{data}", "/none/rows.jsonl"))
    with pytest.raises(ArgumentsError) as refused:
        run_evaluate(QUESTIONS, [], None, "--harness_tasks", f"arc_esay,{broken}")
    assert "no task 'arc_esay', and there is no such .yaml file" in str(refused.value)
    assert "arc_easy" in str(refused.value)
    assert f"{broken} cannot be loaded: FileNotFoundError" in str(refused.value)


def test_without_the_package_its_name_is_told(run_evaluate: Evaluate, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("lm_eval", "lm_eval.tasks"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(ArgumentsError, match=r"needs the package lm-eval: pip install 'neuralchat\[harness\]'"):
        run_evaluate(QUESTIONS, [], None, "--harness_tasks", "arc_easy")


def test_flags_that_do_nothing_alone_are_refused(run_evaluate: Evaluate) -> None:
    with pytest.raises(ArgumentsError, match="belong to --harness_tasks, which is missing"):
        run_evaluate(QUESTIONS, [], None, "--harness_chat")
    with pytest.raises(ArgumentsError, match="--harness_limit is 0; allowed is 1 or more"):
        run_evaluate(QUESTIONS, [], None, "--harness_tasks", "arc_easy", "--harness_limit", "0")


# What the harness gives, as it gives it


def samples(metric: str, values: list[Any]) -> list[dict[str, Any]]:
    return [
        {"doc_id": n, "arguments": [(f"Q{n}", " a")], "target": 0, "filter": "none", "metrics": [metric], metric: value}
        for n, value in enumerate(values)
    ]


class Task:
    @staticmethod
    def higher_is_better() -> dict[str, bool]:
        return {"acc": True, "bits": False}


def test_means_are_paired_and_all_else_is_a_figure() -> None:
    first = measured_task("base", None, samples("acc", [0, 1, 0, 1]), {"acc,none": 0.5, "alias": "x"})
    second = measured_task("run", None, samples("acc", [1, 1, 1, 1]), {"acc,none": 1.0, "acc_stderr,none": "N/A"})
    assert first.given == {"acc": {0: 0.0, 1: 1.0, 2: 0.0, 3: 1.0}}
    items = items_of_samples("colours", samples("acc", [0, 1, 0, 1]))
    [row] = compare_pairs(items, harness_measures(Task, [first, second]), [(first, second)])
    assert (row.before, row.after, row.gained, row.share) == (0.5, 1.0, 2, True)
    # exp of a mean, sums of two numbers, and what is no number.
    odd = measured_task("run", None, samples("bits", [1.0, 3.0]), {"bits,none": 7.4})
    assert (odd.given, odd.figures) == ({}, {"bits": 7.4})
    pairs = measured_task("run", None, samples("bits", [(1.0, 2), (3.0, 4)]), {"bits,none": 0.6})
    assert (pairs.given, pairs.figures) == ({}, {"bits": 0.6})
    none = measured_task("run", None, samples("bits", [float("nan"), 1.0]), {"bits,none": float("nan")})
    assert (none.given, none.figures) == ({}, {})
