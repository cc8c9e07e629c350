"""The pages that the program writes, holding what strains them: long words, code, right-to-left text, or nothing."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from neuralchat.cli import main
from neuralchat.data.records import Turn
from neuralchat.data_tools.preview.page import preview_page
from neuralchat.data_tools.preview.rows import RowToken, TokenPart, TokenRow
from neuralchat.data_tools.preview.shown import Preview, Shown
from neuralchat.data_tools.preview.token_text import TokenTexts
from neuralchat.evaluation.answers import Answered
from neuralchat.evaluation.comparison import Measured, compare_pairs, measures_for
from neuralchat.evaluation.items import GENERAL, QUESTIONS, Item
from neuralchat.evaluation.telling.outcome import EvaluationOutcome, PartOutcome, Side
from neuralchat.evaluation.telling.page import render_evaluation
from neuralchat.runs.report import render_report
from support.small_models import make_pieces_tokenizer

LONG_WORD = "https://example.org/" + "averylongpathwithoutanyspace" * 8
CODE = "def reset(badge):\n    return desk.reset(badge, days=3, reason='" + "x" * 90 + "')"
HEBREW = "\u05e9\u05dc\u05d5\u05dd, \u05d4\u05d3\u05d2\u05dc \u05d4\u05d5\u05d0 --lora_rank 8."
ARABIC = "\u0645\u0631\u062d\u0628\u0627\u060c \u0647\u0630\u0627 \u0647\u0648 --lora_rank."
ANSWERS = ("The rank is 8.", LONG_WORD, CODE, HEBREW, "", "<b>8</b> & more, " + "and so on and on, " * 30)
QUESTION = "Which flag sets the rank of the adapter"


def questions(count: int, kinds: Sequence[str] = ("",)) -> list[Item]:
    asked = [f"{QUESTION}, {number}?" for number in range(count)]
    asked[:3] = [HEBREW, LONG_WORD, f"{ARABIC}\n{CODE}"][:count]
    return [
        Item(f"q.json row {n}", (Turn("user", text),), "It is 8.", ("8",), kind=kinds[n % len(kinds)])
        for n, text in enumerate(asked)
    ]


def answered(name: str, count: int, right_from: int, step: int | None = None) -> Measured:
    """Right answers to all questions but the first `right_from`, hard ones among both."""
    hard = [answer.replace("rank is 8", "rank") for answer in ANSWERS]
    answers = {
        n: Answered(hard[n % len(hard)] + (" 8" if n >= right_from else " seven"), 9, True) for n in range(count)
    }
    return Measured(name, answers, step=step)


def part_of(name: str, items: Sequence[Item], systems: Sequence[Measured]) -> PartOutcome:
    measures = measures_for(items)
    sides = [Side.of(system, items, measures, is_base=place == 0) for place, system in enumerate(systems)]
    pairs = [(systems[0], system) for system in systems[1:]]
    return PartOutcome(name, items, sides, compare_pairs(items, measures, pairs))


def evaluation_page(count: int = 40, checkpoints: int = 0) -> str:
    """A base model and what became of it: one run, or its checkpoints too."""
    items = questions(count)
    run = "runs/an_adapter_with_a_name_that_is_long_of_2026-11-27_and_of_no_use"
    steps = [answered(f"{run} step {10 * n}", count, max(4, count - 6 * n), 10 * n) for n in range(1, checkpoints + 1)]
    systems = [answered("smollm2-135m-instruct", count, count - 6), *(steps or [answered(run, count, 4)])]
    general = [answered("smollm2-135m-instruct", 12, 5), *([] if steps else [answered(run, 12, 8)])]
    kinds = ("arithmetic", "languages", "instruction following")
    parts = [part_of(QUESTIONS, items, systems), part_of(GENERAL, questions(12, kinds), general)]
    return render_evaluation(EvaluationOutcome(0.05, parts if not steps else parts[:1]))


def evaluation_page_of_nothing() -> str:
    """A base model alone, which has answered nothing."""
    return render_evaluation(EvaluationOutcome(0.05, [part_of(QUESTIONS, questions(2), [Measured("base")])]))


def metrics_of_report(steps: int) -> list[dict[str, Any]]:
    lines: list[dict[str, Any]] = [
        {
            "step": n,
            "loss": 3.2 / n**0.4,
            "learning_rate": 2e-4 * (1 - n / (steps + 1)),
            "tokens_per_s": 900 + 40 * (n % 3),
            "rss_mb": 1200 + n,
            "seconds_by_part": {"passes": 1.5, "optimizer": 0.2, "reading": 0.01},
            "memory_mb_by_part": {"weights": 513.0, "gradients_and_optimizer": 40.0, "activations_and_program": 300.0},
        }
        for n in range(1, steps + 1)
    ]
    return [*lines, {"step": 1, "eval_loss": 3.0}, {"step": steps, "eval_loss": 1.4}]


def report_page(steps: int = 60, samples: bool = True, **results: Any) -> str:
    asked = [
        {"question": q, "before": b, "after": a, "expected": "It is 8.", "right_before": rb, "right_after": ra}
        for q, b, a, rb, ra in (
            (HEBREW, "seven", ARABIC + " 8", False, True),
            (LONG_WORD, CODE, LONG_WORD, False, False),
            (QUESTION, "It is 8.", "It is 7.", True, False),
            (QUESTION, "8", "8", True, True),
        )
    ]
    unchecked = {"question": "Say hello.", "before": "Hello", "after": "Hi", "expected": "Hello"}
    difference = {"difference": 0.0, "interval": [-0.5, 0.5], "p": 1.0, "seen": False}
    manifest = {
        "neuralchat": "0.1.0",
        "created": "2026-11-27T00:00:00+0000",
        "base_model": {"name": "models/" + "a_base_model_with_a_long_name_" * 4, "architecture": "LlamaForCausalLM"},
        "template": {"name": "chat", "sha256": "0123456789abcdef" * 4},
        "adapter": {"method": "lora", "trained_parameters": 1_234_567, "total_parameters": 135_000_000},
        "precision": {"storage": "float32", "compute": "float32", "adapter": "float32"},
        "data": {
            "counts": {
                "train": {"examples": 360, "tokens": 9000, "supervised_tokens": 3000, "longest": 77, "bad_rows": 4},
                "validation": {"examples": 40},
            }
        },
        "arguments": {
            "gradient_accumulation_steps": 4,
            "model_name_or_path": "/home/somebody/models/" + "a_long_directory_" * 6,
            "packing_of_examples_with_a_long_name": True,
        },
        "results": {
            "held_out_loss_before": 2.0, "held_out_loss_after": 1.5, "mean_loss": 1.25, "steps": 90, "packed": True,
            "tokens_per_s": 321.4, "training_seconds": 3725.0, "peak_memory_mb": 1536,
            "samples": [*asked, unchecked] if samples else [],
            "general_samples": asked if samples else [],
            "differences": {"samples": difference, "general_samples": difference} if samples else {},
            "advice": ["the loss still falls at the end: --num_train_epochs 3 is worth a try"],
            "data_findings": {
                "is_whole": False, "records": 1200, "counts": {"error": 1, "warning": 2},
                "command": "neuralchat data check /home/somebody/data/" + "long_name_" * 8 + ".jsonl",
                "checks": [
                    {
                        "severity": "warning", "check": "personal_data", "count": 2, "advice": "leave it out",
                        "rows": [{"file": LONG_WORD, "row": 3, "seen": HEBREW}],
                    }
                ],
            },
            **results,
        },
        "versions": {"torch": "2.13.0", "transformers": "5.0.0"},
    }  # fmt: skip
    return render_report(manifest, metrics_of_report(steps))


def check_page(directory: Path, rows: Sequence[dict[str, str]] | None = None) -> str:
    """By the command, of records with faults unless others are given."""
    faulty = [
        {"instruction": f"{QUESTION}, {n}?", "output": answer, "input": ""}
        for n, answer in enumerate(
            (*ANSWERS, "As an AI language model, I cannot.", "I write to a@posteo.de of it.") * 6
        )
    ]
    file, page = directory / ("records_of_" + "a_long_name_" * 6 + ".json"), directory / "check.html"
    file.write_text(json.dumps(faulty if rows is None else rows), encoding="utf-8")
    page.unlink(missing_ok=True)
    assert main(["data", "check", str(file), "--fail_on", "never", "--page", str(page)]) == 0
    return page.read_text(encoding="utf-8")


def preview_of_tokens() -> str:
    tokenizer = make_pieces_tokenizer()
    ids = tokenizer(f"{QUESTION}? {HEBREW} {CODE} {LONG_WORD}")["input_ids"]
    tokens = [RowToken(-1, 0), RowToken(tokenizer.eos_token_id, 1, learned=1)]
    tokens += [RowToken(i, n, int(n > 40), int(30 < n < 40)) for n, i in enumerate(ids, 2)]
    rows = [TokenRow("row 1: 2 examples", [TokenPart("example 4, seen by no other", tokens)])]
    shown = Shown("step 17", rows, [("tokens", f"{len(tokens):,}")], weight=0.25)
    return preview_page(
        Preview("What a step is made of: " + "long_name_" * 9, [("model", LONG_WORD)], [shown]), TokenTexts(tokenizer)
    )
