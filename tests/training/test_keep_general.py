"""--keep_general: what the base model says to general prompts is held on to, however a run is computed."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from support.forks import run_forked
from support.runs import ROWS, digest, metrics, stable_metrics, trained_weights

FLAGS = (
    "--num_train_epochs", 4, "--per_device_train_batch_size", 4, "--logging_steps", 1, "--report_samples", 0,
    "--learning_rate", "0.02", "--save_strategy", "no",
)  # fmt: skip


@pytest.fixture
def trained(run_cli: Callable, write_records: Callable, llama_checkpoint: Path, tmp_path: Path) -> Callable[..., Path]:
    """The run of some flags."""
    records = write_records(ROWS)

    def train(name: str, *flags: object) -> Path:
        run_cli(
            "finetune", "--model_name_or_path", llama_checkpoint, "--train_file", records, "--output_dir", name,
            *FLAGS, *flags, check=True,
        )  # fmt: skip
        return tmp_path / name

    return train


def divergences(run: Path) -> list[float]:
    return [line["general_divergence"] for line in metrics(run)[2:]]


def test_more_weight_keeps_more(trained: Callable[..., Path]) -> None:
    more = ("--general_share", 0.9, "--general_weight")
    runs = [trained(f"run-{weight}", *more, weight) for weight in (0.001, 30)]
    little, much = (sum(divergences(run)) for run in runs)
    assert 0 < much < 0.5 * little
    # What is learned of the data is told as ever.
    assert all(0 < line["loss"] < 10 for run in runs for line in metrics(run))


def test_none_of_it(trained: Callable[..., Path]) -> None:
    off = trained("off", "--keep_general", "False")
    default = ("--lora_init", "default")
    assert all("general_divergence" not in line for line in metrics(off))
    for name, flags in {"weight": ("--general_weight", 0), "share": ("--general_share", 0)}.items():
        assert digest(trained(name, *flags, *default)) == digest(off)


@pytest.mark.parametrize("method", ["lora", "prompt", "prefix", "llama_adapter", "ia3", "none"])
def test_padded_rows_and_packed_ones_do_the_same(trained: Callable[..., Path], method: str) -> None:
    """SGD, since Adam magnifies rounding. Of all weights, too, the base model is that from before."""
    flags = ("--peft", method, "--optim", "sgd", "--learning_rate", "0.05", "--general_share", 0.9)
    packed, padded = trained("packed", *flags), trained("padded", *flags, "--no_packing")
    assert divergences(padded) == pytest.approx(divergences(packed), rel=1e-3, abs=1e-7)
    assert [line["loss"] for line in metrics(padded)] == pytest.approx(
        [line["loss"] for line in metrics(packed)], rel=1e-4
    )
    weights = trained_weights(packed)
    size = torch.stack([w.norm() for w in weights.values()]).norm()
    difference = torch.stack([(trained_weights(padded)[n] - w).norm() for n, w in weights.items()]).norm()
    assert difference <= 1e-4 * size


@pytest.mark.parametrize("method", ["lora", "none"])
def test_a_run_that_goes_on_ends_as_the_undisturbed_one(trained: Callable[..., Path], method: str) -> None:
    saving = ("--save_strategy", "steps", "--save_steps", 3, "--lora_dropout", 0.1, "--peft", method)
    whole = trained("whole", *saving)
    parts = whole.parent / "parts"
    shutil.copytree(whole / "checkpoint-3", parts / "checkpoint-3")
    trained("parts", *saving, "--resume_from_checkpoint", "auto")
    found, expected = trained_weights(parts), trained_weights(whole)
    assert all(torch.equal(found[name], weight) for name, weight in expected.items())
    assert stable_metrics(parts) == stable_metrics(whole)


def test_lora_reads_what_the_records_use_and_nothing_else(trained: Callable[..., Path]) -> None:
    """The first matrices are those of the beginning, whichever the rate; others than PEFT's own."""
    slow, fast, default = (
        {name: weight for name, weight in trained_weights(trained(f"run-{at}", *flags)).items() if "lora_A" in name}
        for at, flags in enumerate([(), ("--learning_rate", "0.1"), ("--lora_init", "default")])
    )
    assert slow.keys() == default.keys()
    for name, weight in slow.items():
        assert torch.equal(weight, fast[name])
        assert not torch.allclose(weight, default[name], atol=0.1)
        # Of the size that PEFT's own have, before they are trained.
        torch.testing.assert_close(weight.norm(dim=1), torch.full((len(weight),), 3**-0.5))


def test_a_run_that_goes_on_reads_the_directions_of_its_beginning(
    write_records: Callable, llama_checkpoint: Path, tmp_path: Path
) -> None:
    """From the checkpoint: another machine rounds otherwise and would find others, with which B means nothing."""
    words = [
        "finetune", "--model_name_or_path", str(llama_checkpoint), "--train_file", str(write_records(ROWS)),
        *map(str, FLAGS[:-2]), "--save_steps", "2", "--output_dir",
    ]  # fmt: skip

    def elsewhere() -> None:
        from neuralchat.models.adapters import apart

        apart.DAMPING = 10.0

    log = tmp_path / "log"
    assert run_forked([*words, "undisturbed"], tmp_path, log) == 0, log.read_text()
    shutil.copytree(tmp_path / "undisturbed" / "checkpoint-4", tmp_path / "moved" / "checkpoint-4")
    resumed = [*words, "moved", "--resume_from_checkpoint", "auto"]
    assert run_forked(resumed, tmp_path, log, elsewhere) == 0, log.read_text()
    assert digest(tmp_path / "moved") == digest(tmp_path / "undisturbed")


def test_texts_too_short_for_general_prompts(trained: Callable[..., Path]) -> None:
    """Nothing to compare with is no reason to fail: LoRA begins as PEFT's own does."""
    short = ("--max_seq_length", 66, "--template", "alpaca")
    assert digest(trained("auto", *short)) == digest(trained("default", *short, "--lora_init", "default"))
