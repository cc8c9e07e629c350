"""Bad days, each met with a message, an exit status and an intact checkpoint before it."""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from support.forks import run_forked
from support.runs import digest, stable_metrics

from neuralchat.checkpointing import store as checkpoint_module
from neuralchat.checkpointing.store import damage
from neuralchat.distributed.hardware import read_machine
from neuralchat.preparation import before_loading, expected
from neuralchat.runs.directory import checkpoints
from neuralchat.runs.lock import RunLock
from neuralchat.training import step as step_module

ROWS = [{"instruction": f"Say the word number {i}.", "output": f"Word {i} it is."} for i in range(16)]
# SGD and no dropout, so that runs with other micro-batches can be compared; one loss a micro-batch, which tests change.
FLAGS = [
    "--num_train_epochs", "2", "--per_device_train_batch_size", "4", "--learning_rate", "0.05", "--logging_steps", "1",
    "--save_steps", "2", "--report_samples", "0", "--optim", "sgd", "--lora_dropout", "0", "--keep_general", "false",
]  # fmt: skip


class Bench:
    """A place to run in, with a model and records."""

    def __init__(self, directory: Path, model: Path) -> None:
        self.directory = directory
        self.model = model
        self.log = directory / "log"
        (directory / "records.json").write_text(json.dumps(ROWS))

    def run(self, output: str, *extra: str, prepare: Callable[[], None] = lambda: None) -> int:
        self.log.unlink(missing_ok=True)
        words = ["finetune", "--model_name_or_path", str(self.model), "--train_file", "records.json", "--output_dir"]
        return run_forked([*words, output, *FLAGS, *extra], self.directory, self.log, prepare)

    def said(self, *patterns: str) -> None:
        text = self.log.read_text()
        assert "Traceback" not in text, text
        for pattern in patterns:
            assert re.search(pattern, text), text

    def steps(self, output: str) -> list[int]:
        found = checkpoints(self.directory / output)
        assert all(damage(checkpoint) is None for checkpoint in found)
        return [int(checkpoint.name.rpartition("-")[2]) for checkpoint in found]

    def adapter(self, output: str) -> torch.Tensor:
        weights = load_file(self.directory / output / "adapter_model.safetensors")
        return torch.cat([weights[name].flatten() for name in sorted(weights)])


@pytest.fixture
def bench(tmp_path: Path, llama_checkpoint: Path) -> Bench:
    return Bench(tmp_path, llama_checkpoint)


def at_loss(number: int, work: Callable[[torch.Tensor], torch.Tensor]) -> Callable[[], None]:
    """Change the loss of micro-batch `number` (from 1) of the run."""

    def prepare() -> None:
        true_loss, calls = step_module.packed_loss_sum, 0

        def loss(*words: Any, **named: Any) -> torch.Tensor:
            nonlocal calls
            calls += 1
            found = true_loss(*words, **named)
            return work(found) if calls == number else found

        step_module.packed_loss_sum = loss

    return prepare


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of half a megabyte."""
    place = tmp_path / "disk"
    place.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=512k", "tmpfs", str(place)], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip("a file system can be mounted by root only; test_checkpoints.py has the injected fault")
    yield place
    subprocess.run(["umount", str(place)], check=True)


def test_disk_full_during_a_save(bench: Bench, small_disk: Path) -> None:
    assert bench.run("whole", "--save_steps", "1") == 0
    output = str(small_disk / "run")
    assert bench.run(output, "--save_steps", "1") == 2
    bench.said(
        r"(checkpoint-\d|metrics.jsonl|checkpoint-result) could not be saved: the disk of .* is full: more "
        r"than .* MiB are needed, 0\.\d MiB are free",
        r"checkpoint-\d is whole: go on from it with the same command and --resume_from_checkpoint auto",
    )
    assert bench.steps(output) == list(range(1, len(bench.steps(output)) + 1))
    subprocess.run(["mount", "-o", "remount,size=64m", str(small_disk)], check=True)
    assert bench.run(output, "--save_steps", "1", "--resume_from_checkpoint", "auto") == 0
    assert digest(Path(output)) == digest(bench.directory / "whole")
    assert stable_metrics(Path(output)) == stable_metrics(bench.directory / "whole")


def test_disk_full_at_the_very_end(bench: Bench) -> None:
    """The adapter is there, the manifest is not: a message, and no finished run."""

    def prepare() -> None:
        from neuralchat.training import manifest

        def full(path: Path, _text: str) -> None:
            raise OSError(errno.ENOSPC, "No space left on device", str(path))

        manifest.write_file = full

    assert bench.run("run", prepare=prepare) == 2
    bench.said(r"neuralchat.json could not be saved: the disk of run is full", "checkpoint-8 is whole: go on from it")
    assert (bench.directory / "run" / "adapter_model.safetensors").is_file()
    assert bench.run("run", "--resume_from_checkpoint", "auto") == 0


def test_no_room_is_told_before_the_start(bench: Bench) -> None:
    def prepare() -> None:
        checkpoint_module.shutil = SimpleNamespace(disk_usage=lambda _: SimpleNamespace(free=10), rmtree=shutil.rmtree)

    assert bench.run("run", prepare=prepare) == 2
    bench.said(r"the disk of run has 0\.0 MiB free; a checkpoint beside its predecessor needs about")


@pytest.mark.parametrize("last_step", [2, 3])
def test_output_directory_vanishes(bench: Bench, last_step: int) -> None:
    """While a step is computed; the next line of the metrics, or the next checkpoint, finds it out."""

    def vanish(loss: torch.Tensor) -> torch.Tensor:
        shutil.rmtree("run")
        return loss

    assert bench.run("run", "--logging_steps", "4", prepare=at_loss(last_step, vanish)) == 2
    bench.said(r"could not be saved: the directory run is gone\nThere is no earlier checkpoint")


def test_a_loss_that_is_no_number_stops_before_the_step(bench: Bench) -> None:
    assert bench.run("run", prepare=at_loss(6, lambda loss: loss * float("nan"))) == 3
    bench.said(
        r"the loss is nan at step 6, before any weight was changed by it; the records are: records.json row \d+",
        "--on_nonfinite skip",
    )
    assert bench.steps("run") == [2, 4]


class BrokenGradient(torch.autograd.Function):
    @staticmethod
    def forward(_ctx: Any, loss: torch.Tensor) -> torch.Tensor:
        return loss.clone()

    @staticmethod
    def backward(_ctx: Any, *gradients: torch.Tensor) -> torch.Tensor:
        return gradients[0] * float("inf")


def test_a_gradient_that_is_no_number_stops_too(bench: Bench) -> None:
    assert bench.run("run", prepare=at_loss(6, BrokenGradient.apply)) == 3
    bench.said(r"the gradient is not a number at step 6, before any weight was changed by it; the records are: records")
    assert bench.steps("run") == [2, 4]


@pytest.mark.parametrize("work", [lambda loss: loss * float("nan"), BrokenGradient.apply])
def test_steps_that_are_no_numbers_are_skipped(bench: Bench, work: Callable) -> None:
    """Nothing changes in such a step: the weights after step 6 are those after step 5."""
    assert bench.run("run", "--on_nonfinite", "skip", "--save_steps", "1", prepare=at_loss(6, work)) == 0
    bench.said("note: step skipped: the (loss is nan|gradient is not a number) at step 6", "records.json row")
    before, after, last = (
        load_file(bench.directory / "run" / f"checkpoint-{step}" / "adapter_model.safetensors") for step in (5, 6, 7)
    )
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert not all(torch.equal(last[name], after[name]) for name in before)
    manifest = json.loads((bench.directory / "run" / "neuralchat.json").read_text())
    assert manifest["results"]["skipped_steps"] == 1
    assert [line["step"] for line in stable_metrics(bench.directory / "run")] == list(range(1, 9))
    assert all(line["loss"] == line["loss"] for line in stable_metrics(bench.directory / "run"))


def no_memory_above(tokens: int) -> Callable[[], None]:
    def prepare() -> None:
        true_loss = step_module.packed_loss_sum

        def loss(model: Any, batch: Any, **named: Any) -> torch.Tensor:
            # From the second step on: the forecast and the first step go well.
            if len(batch.input_ids) > tokens and checkpoints(Path("run")):
                raise RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate")
            return true_loss(model, batch, **named)

        step_module.packed_loss_sum = loss

    return prepare


def test_out_of_memory_says_what_helps_and_loses_nothing(bench: Bench) -> None:
    assert bench.run("run", prepare=no_memory_above(100)) == 5
    bench.said(
        r"memory ran out at step 3 \(.*can't allocate memory.*\); the steps before it are saved",
        "Smaller micro-batches change no result",
        "--resume_from_checkpoint auto --micro_batch_tokens 512",
    )
    assert bench.steps("run") == [2]


def test_out_of_memory_is_met_by_smaller_micro_batches(bench: Bench) -> None:
    assert bench.run("run", "--auto_micro_batch", prepare=no_memory_above(100)) == 0
    bench.said("Going on with --micro_batch_tokens 512", "Going on with --micro_batch_tokens 128")
    assert bench.run("small", "--micro_batch_tokens", "128") == 0
    assert [line["step"] for line in stable_metrics(bench.directory / "run")] == list(range(1, 9))
    difference = (bench.adapter("run") - bench.adapter("small")).norm() / bench.adapter("small").norm()
    assert difference <= 1e-5


def no_memory_in_evaluation_above(tokens: int) -> Callable[[], None]:
    def prepare() -> None:
        true_loss = step_module.packed_loss_sum

        def loss(model: Any, batch: Any, **named: Any) -> torch.Tensor:
            if not torch.is_grad_enabled() and len(batch.input_ids) > tokens:
                # What Python says is nothing.
                raise MemoryError
            return true_loss(model, batch, **named)

        step_module.packed_loss_sum = loss

    return prepare


@pytest.mark.parametrize("when", ["before", "between", "after"])
def test_out_of_memory_in_an_evaluation_loses_nothing(bench: Bench, when: str) -> None:
    flags = ["--validation_file", "records.json", "--per_device_eval_batch_size", "8"]
    flags += ["--eval_strategy", "steps", "--eval_steps", "3"] if when == "between" else []

    def prepare() -> None:
        from neuralchat.training import held_out

        true_measure, calls, wanted = held_out.HeldOut.measure, 0, {"before": 1, "between": 2, "after": 2}[when]

        def measure(*words: Any) -> Any:
            nonlocal calls
            calls += 1
            if calls == wanted:
                no_memory_in_evaluation_above(100)()
            return true_measure(*words)

        held_out.HeldOut.measure = measure

    assert bench.run("run", *flags, prepare=prepare) == 5
    bench.said(r"memory ran out.*\(MemoryError\)", "--resume_from_checkpoint auto --micro_batch_tokens 512")
    assert bench.steps("run") == {"before": [], "between": [2, 3], "after": [2, 4, 6, 8]}[when]
    assert bench.run("run", *flags, "--resume_from_checkpoint", "auto") == 0
    assert bench.run("whole", *flags) == 0
    assert digest(bench.directory / "run") == digest(bench.directory / "whole")
    assert bench.run("smaller", *flags, "--auto_micro_batch", prepare=prepare) == 0
    bench.said("Going on with --micro_batch_tokens")
    difference = (bench.adapter("smaller") - bench.adapter("whole")).norm() / bench.adapter("whole").norm()
    assert difference <= 1e-5


def test_examples_too_long_for_memory_end_the_run(bench: Bench) -> None:
    assert bench.run("run", "--auto_micro_batch", prepare=no_memory_above(10)) == 5
    bench.said("is too small to halve for examples of", "auto --gradient_checkpointing")


def machine_with(memory: int, *rooms: Any) -> Callable[[], None]:
    """These modules see a machine with so much memory."""

    def prepare() -> None:
        machine = replace(read_machine(), total_memory=memory, available_memory=memory, memory_quota=None)
        for room in rooms:
            room.read_machine = lambda: machine

    return prepare


def test_memory_that_will_not_do_is_told_before_the_start(bench: Bench) -> None:
    small = 256 << 20
    assert bench.run("run", prepare=machine_with(small, before_loading, expected)) == 2
    bench.said(r"needs about 0\.\d GiB of memory.*0\.2 GiB can be had. Nothing was loaded. To fit:", "a smaller model")
    # Where it shows only when the weights are there, activations are recomputed first, unless they are to be kept.
    assert bench.run("run", prepare=machine_with(small, expected)) == 2
    told = r"training will need about \d\.\d GiB of memory, 0\.\d GiB can be had; use --gradient_checkpointing"
    bench.said("activations do not fit into the memory: they are computed again", told)
    assert bench.run("run", "--gradient_checkpointing", "False", prepare=machine_with(small, expected)) == 2
    bench.said(told)
    assert not (bench.directory / "run").exists()


@pytest.mark.parametrize("years", [-1, 10])
def test_a_clock_that_jumps(bench: Bench, years: int) -> None:
    """Back or forward: the hours of the run, its retention and its metrics go by another clock."""

    def jump(loss: torch.Tensor) -> torch.Tensor:
        true_time = time.time
        time.time = lambda: true_time() + 86400 * 365 * years
        return loss

    assert bench.run("whole") == 0
    limits = ("--save_total_limit", "1", "--max_hours", "20", "--save_every_minutes", "600")
    assert bench.run("run", *limits, prepare=at_loss(3, jump)) == 0
    assert digest(bench.directory / "run") == digest(bench.directory / "whole")
    seconds = [json.loads(line)["seconds"] for line in (bench.directory / "run" / "metrics.jsonl").open()]
    assert seconds == sorted(seconds)
    assert bench.steps("run") == [8]


def test_two_runs_on_one_directory(bench: Bench) -> None:
    (bench.directory / "run").mkdir()
    lock = RunLock(bench.directory / "run")
    lock.take()
    (bench.directory / "run" / "checkpoint-7").mkdir()
    for flags in (("--overwrite_output_dir",), ("--resume_from_checkpoint", "auto")):
        assert bench.run("run", *flags) == 2
        bench.said(rf"another run is writing to run: process {os.getpid()} on .*, started 20\d\d-")
        assert (bench.directory / "run" / "checkpoint-7").is_dir()
    (bench.directory / "run" / "checkpoint-7").rmdir()
    assert bench.run("run") == 2
    bench.said("another run is writing to run: process")
    lock.release()
    assert bench.run("run") == 0


CHANGES = {
    "an argument": (("--learning_rate", "0.06"), "learning_rate: was 0.05, is now 0.06"),
    "the batch": (("--per_device_train_batch_size", "2"), "global_batch: was 4, is now 2"),
    "the template": (("--template", "chat"), "template: was"),
}


@pytest.mark.parametrize("name", CHANGES)
def test_resuming_another_run_is_refused_by_name(bench: Bench, name: str) -> None:
    flags, text = CHANGES[name]
    assert bench.run("run") == 0
    resume = ("--resume_from_checkpoint", str(bench.directory / "run" / "checkpoint-4"))
    assert bench.run("other", *resume, *flags) == 2
    bench.said("this is not the run that .*checkpoint-4 belongs to", text, "--allow_changed")
    assert not (bench.directory / "other").exists()
    assert bench.run("other", *resume, *flags, "--allow_changed", "all") == 0
    bench.said("changed as allowed")


def test_resuming_with_other_data_or_another_base_is_refused(bench: Bench) -> None:
    assert bench.run("run") == 0
    (bench.directory / "records.json").write_text(json.dumps([*ROWS[:-1], {**ROWS[-1], "output": "Another."}]))
    model = shutil.copytree(bench.model, bench.directory / "model")
    weights = bytearray((model / "model.safetensors").read_bytes())
    weights[-1] ^= 1
    (model / "model.safetensors").write_bytes(weights)
    bench.model = model
    assert bench.run("run", "--resume_from_checkpoint", "auto") == 2
    bench.said("base_model: was .*, is now", "data: was .*, is now", "--allow_changed base_model data")


def test_records_under_another_name_are_the_same_run(bench: Bench) -> None:
    assert bench.run("whole") == 0
    assert bench.run("run") == 0
    for step in (6, 8):
        shutil.rmtree(bench.directory / "run" / f"checkpoint-{step}")
    shutil.copy(bench.directory / "records.json", bench.directory / "moved.json")
    assert bench.run("run", "--resume_from_checkpoint", "auto", "--train_file", "moved.json") == 0
    assert digest(bench.directory / "run") == digest(bench.directory / "whole")
