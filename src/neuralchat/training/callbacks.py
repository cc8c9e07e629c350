"""What watches training: the lines of metrics.jsonl, and the progress that a person sees."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from transformers import TrainerCallback

from neuralchat.checkpointing.store import failures_told
from neuralchat.console import note
from neuralchat.console.live import LiveProgress
from neuralchat.files import append_line
from neuralchat.planning.process_memory import resident_bytes
from neuralchat.runs.directory import METRICS
from neuralchat.watching.counters import Counters
from neuralchat.watching.part_clock import PartClock

LAST_TRIES, LAST_SECONDS_BETWEEN = 5, 0.5
KEPT_KEYS = ("loss", "general_divergence", "learning_rate", "grad_norm")


class MetricsWriter(TrainerCallback):
    """Appends a line to metrics.jsonl for each logging step and each evaluation."""

    def __init__(
        self,
        metrics_file: Path,
        counters: Counters,
        parts: PartClock | None = None,
        memory_parts: Callable[[], dict[str, int]] | None = None,
    ) -> None:
        self.metrics_file = metrics_file
        self.counters = counters
        self.parts = parts or PartClock()
        self.memory_parts = memory_parts
        self.parts_at_log: dict[str, float] = {}
        self.unwritten: list[str] = []
        self.tokens_at_log = 0
        self.time_at_log = time.perf_counter()

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:  # noqa: ARG002
        # A resumed run counts tokens on from before; the time of this part goes with this part's tokens.
        self.tokens_at_log, self.time_at_log = self.counters.tokens, time.perf_counter()
        self.parts_at_log = dict(self.parts.seconds)

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:  # noqa: ARG002
        if not state.is_world_process_zero or not logs:
            return
        if "loss" in logs:
            self.write(self.training_line(state, logs))
        elif "eval_loss" in logs:
            self.write({"step": state.global_step, **{k: v for k, v in logs.items() if k.startswith("eval_")}})

    def training_line(self, state: Any, logs: dict[str, Any]) -> dict[str, Any]:
        now, tokens = time.perf_counter(), self.counters.tokens
        speed = (tokens - self.tokens_at_log) / max(now - self.time_at_log, 1e-9)
        self.tokens_at_log, self.time_at_log = tokens, now
        return {
            "step": state.global_step,
            "epoch": round(state.epoch or 0.0, 4),
            **{key: logs[key] for key in KEPT_KEYS if key in logs},
            "tokens": tokens,
            "supervised_tokens": self.counters.supervised_tokens,
            "tokens_per_s": round(speed, 1),
            "seconds": round(self.counters.seconds(), 3),
            **self.by_part(),
            **({"skipped_steps": self.counters.skipped_steps} if self.counters.skipped_steps else {}),
        }

    def by_part(self) -> dict[str, Any]:
        """Memory now, and seconds since the last line."""
        resident = resident_bytes()
        found: dict[str, Any] = {"rss_mb": resident >> 20}
        if self.memory_parts is not None:
            parts = self.memory_parts()
            parts["activations_and_program"] = max(0, resident - sum(parts.values()))
            found["memory_mb_by_part"] = {name: size >> 20 for name, size in parts.items()}
        before, self.parts_at_log = self.parts_at_log, dict(self.parts.seconds)
        since = {name: seconds - before.get(name, 0.0) for name, seconds in self.parts_at_log.items()}
        if since:
            found["seconds_by_part"] = {name: round(seconds, 3) for name, seconds in since.items()}
        return found

    def write(self, line: dict[str, Any]) -> None:
        """Lines that the disk does not take wait for the next one: they are not worth a run."""
        self.unwritten.append(json.dumps(line))
        try:
            self.write_waiting()
        except OSError as error:
            if not self.metrics_file.parent.is_dir():
                # Then there is no run any more.
                with failures_told(self.metrics_file.parent, METRICS):
                    raise
            if len(self.unwritten) == 1:
                note(
                    f"{METRICS} cannot be written ({error.strerror}); training goes on, its lines wait until it can be"
                )

    def write_waiting(self) -> None:
        while self.unwritten:
            append_line(self.metrics_file, self.unwritten[0])
            del self.unwritten[0]

    def write_at_last(self) -> None:
        """After the last evaluation: once more, and for a while, for what still waits."""
        for _ in range(LAST_TRIES):
            with suppress(OSError):
                self.write_waiting()
            if not self.unwritten:
                return
            time.sleep(LAST_SECONDS_BETWEEN)
        note(f"{METRICS} lacks its last {len(self.unwritten)} line(s): they could not be written")


class EarlyStopping(TrainerCallback):
    """Stops after `patience` evaluations in a row that found nothing better, as transformers' EarlyStoppingCallback.

    That one counts, and its count would have to be saved and restored; here it is read from the history of the run,
    which a checkpoint holds.
    """

    def __init__(self, patience: int, threshold: float) -> None:
        self.patience = patience
        self.threshold = threshold

    def on_evaluate(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:  # noqa: ARG002
        name = str(args.metric_for_best_model)
        key = name if name.startswith("eval_") else f"eval_{name}"
        # What was measured before the first step is no result of training.
        values = {line["step"]: line[key] for line in state.log_history if key in line and line["step"]}
        sign = -1 if args.greater_is_better else 1
        waited = evaluations_without_gain([sign * value for value in values.values()], self.threshold)
        # What is measured once more at the end of a run stops nothing.
        if state.global_step and waited >= self.patience and not control.should_training_stop:
            note(f"stopping early at step {state.global_step}: {waited} evaluation(s) in a row found no better {key}")
            control.should_training_stop = True


def evaluations_without_gain(values: Sequence[float], threshold: float) -> int:
    """How many of the last `values`, of which the smallest is best, were not better than all before by `threshold`.

    >>> evaluations_without_gain([3.0, 2.0, 2.5, 1.99], 0.1)
    2
    """
    best, waited = math.inf, 0
    for value in values:
        waited = 0 if value < best and best - value > threshold else waited + 1
        best = min(best, value)
    return waited


class ProgressLine(TrainerCallback):
    """Hands what is known after a step to the progress that a person sees."""

    def __init__(self, counters: Counters, progress: LiveProgress) -> None:
        self.counters = counters
        self.progress = progress
        self.first_step = self.tokens_before = 0
        self.began = time.perf_counter()

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:  # noqa: ARG002
        self.began = time.perf_counter()
        self.first_step, self.tokens_before = state.global_step, self.counters.tokens
        self.progress.begin(state.global_step)

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:  # noqa: ARG002
        self.progress.step_done(
            state.global_step,
            epoch=state.epoch or 0.0,
            loss=self.counters.mean_loss_since_log,
            memory_bytes=resident_bytes(),
            **self.speed(state),
        )

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:  # noqa: ARG002
        if logs and "loss" in logs:
            self.progress.logged(state.global_step, state.epoch or 0.0, logs["loss"], **self.speed(state))

    def speed(self, state: Any) -> dict[str, float | None]:
        """tokens_per_s and seconds_left, from the steps since training began or went on after a lack of memory; None
        before the first of them.
        """
        done, total = state.global_step - self.first_step, state.max_steps - self.first_step
        if not done:
            return {"tokens_per_s": None, "seconds_left": None}
        elapsed = time.perf_counter() - self.began
        return {
            "tokens_per_s": (self.counters.tokens - self.tokens_before) / max(elapsed, 1e-9),
            "seconds_left": elapsed / done * (total - done),
        }
