"""Ranks that are missing, that die, that hang, and machines with disks of their own."""

from __future__ import annotations

import json
import os
import random
import re
import shutil
import signal
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from support.forks import end_of, fork
from support.kill_at import arm
from support.ranks import environment, free_port, run_ranks, said, start_ranks
from support.runs import digest, stable_metrics

from neuralchat.checkpointing.store import damage
from neuralchat.preparation import run_data, session
from neuralchat.training import loop

ROWS = [{"instruction": f"Say the word number {i}.", "output": f"Word {i} it is." * (1 + i % 4)} for i in range(18)]
FLAGS = [
    "--num_train_epochs", "3", "--per_device_train_batch_size", "2", "--learning_rate", "0.01", "--logging_steps", "2",
    "--save_steps", "3", "--save_total_limit", "2", "--report_samples", "0", "--lora_dropout", "0.1", "--peer_timeout",
    "8", "--preflight_timeout", "60",
]  # fmt: skip
LAST_STEP = 15


class Bench:
    def __init__(self, directory: Path, model: Path) -> None:
        self.directory = directory
        self.model = model
        (directory / "records.json").write_text(json.dumps(ROWS))

    def words(self, output: str, *extra: str) -> list[str]:
        model, records = str(self.model), str(self.directory / "records.json")
        return [
            "finetune",
            "--model_name_or_path",
            model,
            "--train_file",
            records,
            "--output_dir",
            output,
            *FLAGS,
            *extra,
        ]

    def run(self, output: str, *extra: str, size: int = 2, **options: Any) -> list[int]:
        return run_ranks(self.words(output, *extra), self.directory, size, **options)

    def said(self, *patterns: str) -> None:
        text = said(self.directory)
        assert "Traceback" not in text, text
        for pattern in patterns:
            assert re.search(pattern, text), text


@pytest.fixture
def bench(tmp_path: Path, llama_checkpoint: Path) -> Bench:
    return Bench(tmp_path, llama_checkpoint)


def test_killed_at_random_moments_a_restart_ends_as_undisturbed(bench: Bench) -> None:
    """As under torchrun --max-restarts: all ranks end when one is killed, and all are started again with a count."""
    draw = random.Random(3)
    assert bench.run("whole") == [0, 0]
    expected = digest(bench.directory / "whole"), stable_metrics(bench.directory / "whole")
    moments = int(os.environ.get("NEURALCHAT_RANK_KILLS", "2"))
    for moment in range(moments):
        victim, call = draw.randrange(2), draw.randint(1, LAST_STEP)
        place = draw.choice(["forward", "backward", "step done"])
        output = f"run-{moment}"
        statuses = bench.run(output, "--overwrite_output_dir", prepare={victim: partial(arm, place, call)})
        assert statuses[victim] == -signal.SIGKILL, said(bench.directory)
        assert statuses[1 - victim] == 4, said(bench.directory)
        bench.said(rf"(contact is lost with|) ?rank {victim} on ")
        # The flag that would delete the run is the launch's own, and heeded at the first start only.
        assert bench.run(output, "--overwrite_output_dir", restarts=1) == [0, 0], said(bench.directory)
        bench.said("note: start 2 of this job: it goes on from its last checkpoint")
        assert (digest(bench.directory / output), stable_metrics(bench.directory / output)) == expected, (
            place,
            call,
            victim,
        )


def test_fewer_and_more_ranks_go_on_with_the_same_batches(bench: Bench) -> None:
    plain = ("--lora_dropout", "0", "--optim", "sgd")
    assert bench.run("whole", *plain) == [0, 0]
    steps = [line for line in stable_metrics(bench.directory / "whole") if "loss" in line]
    for size in (1, 4):
        output = f"on-{size}"
        shutil.copytree(bench.directory / "whole", bench.directory / output)
        (newest,) = [p for p in (bench.directory / output).glob("checkpoint-*") if p.name != "checkpoint-12"]
        shutil.rmtree(newest)
        assert bench.run(output, *plain, size=size, restarts=1) == [0] * size, said(bench.directory)
        bench.said("the result may differ in rounding.*world_size was 2")
        found = [line for line in stable_metrics(bench.directory / output) if "loss" in line]
        assert [line["step"] for line in found] == [line["step"] for line in steps]
        for key in ("loss", "grad_norm", "tokens", "learning_rate"):
            assert [line[key] for line in found] == pytest.approx([line[key] for line in steps], rel=1e-5)


def test_a_rank_that_does_not_come_is_named(bench: Bench) -> None:
    words = bench.words("run", "--preflight_timeout", "5")
    port = free_port()
    children = [
        fork(words, bench.directory, bench.directory / f"log-{rank}", environ=environment(rank, 4, port))
        for rank in (0, 2)
    ]
    assert [end_of(child, timeout=60) for child in children] == [4, 4]
    bench.said(r"error: 2 of 4 ranks did not come within 5 s \(--preflight_timeout\): rank 1, 3\. Here are: rank 0 on")
    assert said(bench.directory).count("error:") == 1


def test_rank_0_that_does_not_come_is_named(bench: Bench) -> None:
    words = bench.words("run", "--preflight_timeout", "3")
    child = fork(words, bench.directory, bench.directory / "log-1", environ=environment(1, 2, free_port()))
    assert end_of(child) == 4
    bench.said(r"\[rank 1\] error: rank 1 on .* cannot reach rank 0 at 127\.0\.0\.1:\d+ within 3 s")


def frozen_at(step: int) -> Callable[[], None]:
    def prepare() -> None:
        true_step = loop.TrainingLoop.train_step

        def train_step(self: Any, *words: Any, **named: Any) -> Any:
            if self.state.global_step == step:
                os.kill(os.getpid(), signal.SIGSTOP)
            return true_step(self, *words, **named)

        loop.TrainingLoop.train_step = train_step

    return prepare


def test_a_rank_that_hangs_is_named_and_nothing_waits_for_ever(bench: Bench) -> None:
    children = start_ranks(bench.words("run"), bench.directory, 2, prepare={1: frozen_at(7)})
    try:
        assert end_of(children[0]) == 4
    finally:
        os.kill(children[1].pid, signal.SIGKILL)
        end_of(children[1])
    bench.said(r"rank 1 on \S+ has given no sign of life for 8 s \(--peer_timeout\)")
    assert damage(bench.directory / "run" / "checkpoint-6") is None


def other_data() -> None:
    true_identity = run_data.identity_of
    run_data.identity_of = lambda *words, **named: {**true_identity(*words, **named), "data": "f" * 64}


def test_ranks_that_differ_are_told_in_a_table(bench: Bench) -> None:
    assert bench.run("run", prepare={1: other_data}) == [4, 4]
    bench.said(
        r"the ranks do not agree on data:",
        r"\n +rank +host +data\n",
        r"1 +\S+ +ffffffffffff",
        "Give every machine the same software, model, records and command",
    )
    assert not (bench.directory / "run").exists()


def test_an_error_of_one_rank_ends_all_and_is_told_once(bench: Bench) -> None:
    def fails() -> None:
        from neuralchat.errors import ModelError

        def load(*_words: Any, **_named: Any) -> None:
            raise ModelError("this disk is broken")

        session.load_model = load

    assert bench.run("run", prepare={1: fails}) == [4, 2]
    bench.said(r"\[rank 1\] error: this disk is broken", r"rank 1 on \S+ has ended: this disk is broken")


def test_bad_records_are_told_once(bench: Bench) -> None:
    (bench.directory / "records.json").write_text('[{"instruction": 3, "output": "b"}]')
    assert bench.run("run") == [2, 2]
    assert said(bench.directory).count("must be text, found int 3") == 1


def test_disks_of_their_own(bench: Bench) -> None:
    """Rank 1 works where nothing of rank 0 is: checkpoints are written by rank 0, and sent when a run goes on."""
    places = [bench.directory / "first", bench.directory / "second"]
    for place in places:
        place.mkdir()
    assert bench.run("run", directories=places) == [0, 0], said(bench.directory)
    assert not list((places[1] / "run").glob("checkpoint-*")) if (places[1] / "run").exists() else True
    expected = digest(places[0] / "run"), stable_metrics(places[0] / "run")
    shutil.rmtree(places[0] / "run" / "checkpoint-15")
    assert bench.run("run", "--resume_from_checkpoint", "auto", directories=places) == [0, 0], said(bench.directory)
    bench.said("going on from run/checkpoint-12")
    assert (digest(places[0] / "run"), stable_metrics(places[0] / "run")) == expected


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_to_one_rank_stops_all_and_loses_nothing(bench: Bench, number: signal.Signals) -> None:
    assert bench.run("whole", "--num_train_epochs", "8") == [0, 0]
    words = bench.words("run", "--num_train_epochs", "8", "--save_strategy", "no")
    for log in bench.directory.glob("log-*"):
        log.unlink()
    children = start_ranks(words, bench.directory, 2)
    lines = bench.directory / "run" / "metrics.jsonl"
    deadline = time.monotonic() + 120
    while not (lines.exists() and len(lines.read_text().splitlines()) > 3):
        assert time.monotonic() < deadline, said(bench.directory)
        time.sleep(0.01)
    os.kill(children[1].pid, number)
    assert [end_of(child) for child in children] == [128 + number] * 2, said(bench.directory)
    assert said(bench.directory).count(f"stopped by {number.name} after step") == 1
    assert bench.run("run", "--num_train_epochs", "8", "--save_strategy", "no", restarts=1) == [0, 0]
    assert digest(bench.directory / "run") == digest(bench.directory / "whole")
    assert stable_metrics(bench.directory / "run") == stable_metrics(bench.directory / "whole")
