"""Chat templates through the real command: what was learned is what chat says, and the run keeps how it was written."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support.runs import digest
from support.small_models import small_model
from support.templates.styles import STYLES, Style, tokenizer_of

CONVERSATIONS = [
    [("What colour is the sky?", "It is blue."), ("And the grass?", "It is green.")],
    [("Name a fruit.", "An apple."), ("And an animal?", "A cat.")],
]
ROTE: tuple[Any, ...] = (
    "--num_train_epochs", 60, "--learning_rate", "0.02", "--lora_rank", 16, "--lora_all_linear", "--lora_dropout", 0,
    "--per_device_train_batch_size", 4, "--save_strategy", "no", "--report_samples", 0,
)  # fmt: skip


def rows_of(conversations: list[list[tuple[str, str]]]) -> list[dict[str, Any]]:
    roles = ("user", "assistant")
    return [
        {"messages": [{"role": r, "content": text} for pair in turns for r, text in zip(roles, pair, strict=True)]}
        for turns in conversations
    ]


def save_model(directory: Path, style: Style) -> Path:
    tokenizer = tokenizer_of(style)
    small_model("llama", len(tokenizer)).save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    return directory


@pytest.mark.parametrize("name", ["qwen 3", "glm 4", "gpt-oss", "llama 2", "chatml, tokens not called special"])
def test_conversations_learned_by_rote_are_said_to_the_letter(
    run_cli: Callable, write_records: Callable, tmp_path: Path, name: str
) -> None:
    model = save_model(tmp_path / "model", STYLES[name])
    records = write_records(rows_of(CONVERSATIONS))
    run_cli(
        "finetune", "--model_name_or_path", model, "--train_file", records, "--output_dir", "run", *ROTE, check=True
    )
    for turns in CONVERSATIONS:
        typed = "".join(f"{question}\n" for question, _ in turns)
        expected = "".join(f"{answer}\n" for _, answer in turns)
        assert run_cli("chat", "run", stdin=typed, check=True).stdout == expected + "\n"


def test_template_variables_and_date_stay_with_the_run(
    run_cli: Callable, write_records: Callable, tmp_path: Path
) -> None:
    """Also where the model has no template of its own, and the file is gone afterwards."""
    model = save_model(tmp_path / "model", STYLES["smollm 3"]._replace(source=STYLES["chatml"].source))
    file = tmp_path / "own.jinja"
    file.write_text(STYLES["smollm 3"].source)
    common = (
        "finetune", "--model_name_or_path", model, "--train_file", write_records(rows_of(CONVERSATIONS)),
        "--chat_template", file, "--chat_template_kwargs", "enable_thinking=false", "--save_steps", 2, *ROTE,
        "--num_train_epochs", 4, "--save_strategy", "steps",
    )  # fmt: skip
    said = run_cli(*common, "--output_dir", "run", "--template_date", "2026-11-20", check=True)
    assert "for this run it is 2026-11-20" in said.stderr
    definition = json.loads((tmp_path / "run" / "neuralchat.json").read_text())["template"]["definition"]
    assert definition["date"] == "2026-11-20"
    assert definition["kwargs"] == {"enable_thinking": False}
    # A day later the run that goes on, and the one that repeats it, tell the model the same day.
    run_cli(*common, "--output_dir", "stopped", "--template_date", "2026-11-20", "--max_steps", 2, check=True)
    (tmp_path / "stopped" / "neuralchat.json").unlink()
    resumed = run_cli(*common, "--output_dir", "stopped", "--resume_from_checkpoint", "True", "--allow_changed",
                      "max_steps", check=True)  # fmt: skip
    assert "for this run it is 2026-11-20" in resumed.stderr
    repeated = run_cli("finetune", "--from_run", "run", "--output_dir", "again", check=True)
    assert "for this run it is 2026-11-20" in repeated.stderr
    assert digest(tmp_path / "again") == digest(tmp_path / "run")
    file.unlink()
    assert run_cli("chat", "run", "-p", "Name a fruit.", "--max_new_tokens", 3, check=True).stdout


def test_tokens_are_not_taken_from_another_day(run_cli: Callable, write_records: Callable, tmp_path: Path) -> None:
    model, records = save_model(tmp_path / "model", STYLES["smollm 3"]), write_records(rows_of(CONVERSATIONS))
    identities = []
    for day in ("2026-11-20", "2026-11-21", "2026-11-20"):
        run_cli("finetune", "--model_name_or_path", model, "--train_file", records, "--output_dir", "run", *ROTE,
                "--num_train_epochs", 1, "--template_date", day, "--overwrite_output_dir", check=True)  # fmt: skip
        identities.append(json.loads((tmp_path / "run" / "neuralchat.json").read_text())["identity"])
    first, second, third = identities
    assert first == third
    assert first["data"] != second["data"]
    assert first["template"] != second["template"]


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        (("--chat_template", "missing.jinja"), "--chat_template missing.jinja cannot be read"),
        (("--chat_template", "empty.jinja"), "--chat_template empty.jinja is empty"),
        (("--chat_template", "wrong.jinja"), "the chat template is not valid Jinja: line 1: "),
        (("--chat_template_kwargs", "thinking"), "expected name=value or a JSON object, found 'thinking'"),
        (("--chat_template_kwargs", "{broken"), "--chat_template_kwargs: "),
        (("--template_date", "tomorrow"), "--template_date must be YYYY-MM-DD, found tomorrow"),
        (("--template", "alpaca", "--chat_template_kwargs", "a=1"), "--template alpaca does not use a chat template"),
    ],
)
def test_what_cannot_be_a_template_is_refused(
    run_cli: Callable,
    write_records: Callable,
    llama_checkpoint: Path,
    tmp_path: Path,
    flags: tuple[str, ...],
    told: str,
) -> None:
    (tmp_path / "empty.jinja").write_text("\n")
    (tmp_path / "wrong.jinja").write_text("{% for m in messages %}{{ m.content }}")
    found = run_cli("finetune", "--model_name_or_path", llama_checkpoint, "--train_file",
                    write_records(rows_of(CONVERSATIONS)), "--output_dir", "run", *flags)  # fmt: skip
    assert found.returncode == 2
    assert told in found.stderr
    assert "Traceback" not in found.stderr
