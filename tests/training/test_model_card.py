"""The Python code of a model card is run as it stands, and answers what `neuralchat chat` does."""

from __future__ import annotations

import contextlib
import io
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support.runs import ROWS
from support.small_models import save_checkpoint

from neuralchat.console.terminal import visible

QUESTION = "Name a fruit."


def blocks(directory: Path) -> list[str]:
    return re.findall(r"```python\n(.*?)```", (directory / "README.md").read_text(encoding="utf-8"), re.DOTALL)


def printed(code: str, directory: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    assert "How do I reset my badge?" in code
    monkeypatch.chdir(directory)
    with contextlib.redirect_stdout(io.StringIO()) as out:
        exec(compile(code.replace("How do I reset my badge?", QUESTION), "README.md", "exec"), {})
    return out.getvalue()


CASES: dict[str, tuple[str, tuple[object, ...]]] = {
    "lora": ("llama", ("--lora_all_linear", "--learning_rate", 0.05)),
    "chat template": ("llama", ("--lora_all_linear", "--learning_rate", 0.05, "--template", "chat")),
    "added tokens": ("llama", ("--learning_rate", 0.05, "--special_tokens", "<a>", "<b>")),
    "ia3": ("llama", ("--peft", "ia3", "--learning_rate", 0.5)),
    "llama_adapter": ("llama", ("--peft", "llama_adapter", "--learning_rate", 0.5)),
    "all weights": ("llama", ("--peft", "none", "--learning_rate", 0.01)),
    "encoder-decoder": ("t5", ("--learning_rate", 0.05)),
    "mpt": ("mpt", ("--learning_rate", 0.05)),
}


@pytest.mark.parametrize("name", CASES)
def test_code_of_a_run(
    run_cli: Callable[..., Any], write_records: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    name: str,
) -> None:  # fmt: skip
    family, flags = CASES[name]
    save_checkpoint(tmp_path / "model", family)
    run_cli(
        "finetune", "--model_name_or_path", "model", "--train_file", write_records(ROWS), "--output_dir", "run",
        "--num_train_epochs", 10, "--per_device_train_batch_size", 4, "--save_strategy", "no", "--report_samples", 0,
        *flags, check=True,
    )  # fmt: skip
    answer = run_cli("chat", "run", "-p", QUESTION, check=True).stdout.removesuffix(" [cut at --max_new_tokens]\n")
    assert answer.strip()
    with_us, without_us = blocks(tmp_path / "run")
    assert visible(printed(with_us, tmp_path / "run", monkeypatch)).rstrip("\n") == answer.rstrip("\n")
    # The manifest beside the card is all of us that it needs.
    assert "neuralchat" not in without_us.replace("neuralchat.json", "")
    assert str(tmp_path) not in (tmp_path / "run" / "README.md").read_text()
    assert visible(printed(without_us, tmp_path / "run", monkeypatch)).rstrip("\n") == answer.rstrip("\n")
    if name in ("lora", "encoder-decoder"):
        run_cli("merge", "run", "--output", "merged", check=True)
        for code in blocks(tmp_path / "merged"):
            assert visible(printed(code, tmp_path / "merged", monkeypatch)).rstrip("\n") == answer.rstrip("\n")
        assert "with its lora adapter folded in" in (tmp_path / "merged" / "README.md").read_text()


def test_a_card_names_a_base_model_on_the_hub_only_where_it_is_one(
    run_cli: Callable[..., Any], write_records: Callable[..., Path], llama_checkpoint: Path, tmp_path: Path
) -> None:
    run_cli(
        "finetune", "--model_name_or_path", llama_checkpoint, "--train_file", write_records(ROWS), "--output_dir",
        "run", "--max_steps", 1, "--peft", "prompt", "--report_samples", 0, check=True,
    )  # fmt: skip
    card = (tmp_path / "run" / "README.md").read_text()
    assert "base_model:" not in card.split("---")[1]
    assert "neuralchat chat THIS_DIRECTORY --base_model PATH" in card
    # PEFT does not give virtual tokens to today's transformers.
    assert len(blocks(tmp_path / "run")) == 1
    run_cli("merge", "run/checkpoint-1", "--output", "merged")
