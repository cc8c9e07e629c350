"""The whole way: documents -> data generate -> data check -> data split -> finetune -> eval: it was learned."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from support.teachers.scripted_teacher import ScriptedTeacher

HANDBOOK = (
    "# The Norvale press\n\nThe Norvale press in hall two weighs 412 kilograms.\n\n"
    "## Care\n\nOnly Kirsten of the workshop holds its small key.\n\n"
    "## Stock\n\nThe Harbin depot keeps 9,500 boxes of toner.\n"
)


def test_what_documents_say_is_answered_in_the_end(run_cli: Callable, llama_checkpoint: Path, tmp_path: Path) -> None:
    (tmp_path / "documents").mkdir()
    (tmp_path / "documents" / "handbook.md").write_text(HANDBOOK)
    with ScriptedTeacher() as teacher:
        words = ["--base_url", teacher.url, "--documents", "documents", "--wordings", 4, "--output", "made.jsonl"]
        run_cli("data", "generate", *words, check=True)
    made = [json.loads(line) for line in (tmp_path / "made.jsonl").read_text().splitlines()]
    assert len(made) == 12
    assert len({row["group"] for row in made}) == 3
    run_cli("data", "check", "made.jsonl", check=True)
    parts = ["train.jsonl=0.75", "held_out.jsonl=0.25"]
    run_cli("data", "split", "made.jsonl", "--into", *parts, "--stratify_by", "group", check=True)
    parted = [(tmp_path / part.partition("=")[0]).read_text().splitlines() for part in parts]
    assert sorted(map(len, parted)) == [3, 9]
    run_cli(
        "finetune", "--model_name_or_path", llama_checkpoint, "--train_file", "train.jsonl", "--validation_file",
        "held_out.jsonl", "--output_dir", "run", "--num_train_epochs", 60, "--learning_rate", "0.02", "--lora_rank", 16,
        "--lora_all_linear", "--lora_dropout", 0, "--per_device_train_batch_size", 4, "--save_strategy", "no",
        "--report_samples", 0, check=True,
    )  # fmt: skip
    run_cli("eval", "run", "--questions", "train.jsonl", "--output", "eval.json", check=True)
    found = json.loads((tmp_path / "eval.json").read_text())
    right = next(row for row in found["parts"][0]["compared"] if row["measure"] == "right")
    assert (right["before"], right["after"], right["says"]) == (0.0, 1.0, "better")
