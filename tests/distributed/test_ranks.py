"""Several processes give the numbers of one: every step's loss and gradient norm, and the adapter they end with."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from support.cells import proven
from support.forks import run_forked
from support.ranks import run_ranks, said
from support.small_models import save_checkpoint

WORDS = "the sky is blue and the grass is green "
# 13 records of unequal length: the last batch of an epoch is a ragged one.
ROWS = [{"instruction": f"Say {i}.", "output": WORDS[: 3 + 5 * i] + "."} for i in range(7)] + [
    {"instruction": "Name a fruit." * (1 + i), "output": WORDS * i + "An apple."} for i in range(6)
]
FLAGS = [
    "--learning_rate", "0.02", "--num_train_epochs", "2", "--logging_steps", "1", "--lora_dropout", "0",
    "--save_strategy", "no", "--report_samples", "0", "--eval_strategy", "epoch",
]  # fmt: skip
# Adam magnifies rounding; with SGD what is found is what was computed.
SGD, ADAM = ("--optim", "sgd"), ("--optim", "adamw_torch")


class Bench:
    def __init__(self, directory: Path, family: str = "llama") -> None:
        self.directory = directory
        save_checkpoint(directory / "model", family)
        (directory / "records.json").write_text(json.dumps(ROWS))

    def train(self, name: str, *flags: Any, ranks: int = 1) -> tuple[list[dict[str, Any]], dict[str, torch.Tensor]]:
        """Metrics and trained weights of one run."""
        words = [
            "finetune", "--model_name_or_path", "model", "--train_file", "records.json", "--validation_file",
            "records.json", "--output_dir", name, *FLAGS, *map(str, flags),
        ]  # fmt: skip
        if ranks == 1:
            assert run_forked(words, self.directory, self.directory / "log-0") == 0, said(self.directory)
        else:
            assert run_ranks(words, self.directory, ranks) == [0] * ranks, said(self.directory)
        lines = [json.loads(line) for line in (self.directory / name / "metrics.jsonl").read_text().splitlines()]
        return lines, load_file(self.directory / name / "adapter_model.safetensors")


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


def assert_same(one: tuple[list, dict], many: tuple[list, dict], *, adapter: float = 1e-5) -> None:
    for key in ("loss", "grad_norm", "eval_loss", "tokens", "supervised_tokens"):
        expected, found = ([line[key] for line in lines if key in line] for lines in (one[0], many[0]))
        assert expected
        assert found == pytest.approx(expected, rel=1e-5), key
    size = torch.stack([w.norm() for w in one[1].values()]).norm()
    difference = torch.stack([(many[1][name] - w).norm() for name, w in one[1].items()]).norm()
    assert difference <= adapter * size


@proven("distributed")
def test_two_and_four_processes_equal_one(tmp_path: Path, family: str, method: str) -> None:
    """Unequal lengths, a ragged last batch; four examples a step, laid out over 1, 2 and 4 processes."""
    bench = Bench(tmp_path, family)
    flags = ["--peft", method, *SGD]
    one = bench.train("one", *flags, "--per_device_train_batch_size", 4)
    assert_same(one, bench.train("two", *flags, "--per_device_train_batch_size", 2, ranks=2))
    assert_same(one, bench.train("four", *flags, "--per_device_train_batch_size", 1, ranks=4))


@pytest.mark.parametrize("method", ["lora", "prompt"])
def test_accumulation_padding_and_adam_equal_one(bench: Bench, method: str) -> None:
    flags = ["--peft", method, *SGD]
    one = bench.train("one", *flags, "--per_device_train_batch_size", 8)
    # 1 x 4 accumulated x 2 processes.
    accumulated = ["--per_device_train_batch_size", 1, "--gradient_accumulation_steps", 4]
    assert_same(one, bench.train("accumulated", *flags, *accumulated, ranks=2))
    if method == "lora":
        assert_same(one, bench.train("padded", *flags, "--per_device_train_batch_size", 4, "--no_packing", ranks=2))
    flags = ["--peft", method, *ADAM]
    one = bench.train("one with adam", *flags, "--per_device_train_batch_size", 4)
    two = bench.train("two with adam", *flags, "--per_device_train_batch_size", 2, ranks=2)
    assert_same(one, two, adapter=1e-3)


@pytest.mark.quick
def test_rows_of_several_examples_equal_one(bench: Bench) -> None:
    flags = [*SGD, "--dataset_concatenation", "--max_seq_length", 256]
    one = bench.train("one", *flags, "--per_device_train_batch_size", 2)
    assert_same(one, bench.train("two", *flags, "--per_device_train_batch_size", 1, ranks=2))


def test_a_base_in_few_bits_equals_one(bench: Bench) -> None:
    flags = [*SGD, "--bits", 4]
    one = bench.train("one", *flags, "--per_device_train_batch_size", 4)
    assert_same(one, bench.train("two", *flags, "--per_device_train_batch_size", 2, ranks=2))


@pytest.mark.skipif("NEURALCHAT_LONG" not in os.environ, reason="make chaos runs it: minutes on the demo model")
@pytest.mark.usefixtures("users_cache")
def test_the_demo_model_on_two_and_four_processes(bench: Bench) -> None:
    flags = ["--model_name_or_path", "smollm2-135m-instruct", *SGD, "--max_steps", 3, "--eval_strategy", "no"]
    one = bench.train("one", *flags, "--per_device_train_batch_size", 4)
    assert_same(one, bench.train("two", *flags, "--per_device_train_batch_size", 2, ranks=2))
    assert_same(one, bench.train("four", *flags, "--per_device_train_batch_size", 1, ranks=4))
