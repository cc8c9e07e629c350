"""What a user sees and what metrics.jsonl keeps while training runs."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

from transformers import TrainerCallback

from neuralchat.checkpointing.store import failures_told
from neuralchat.console import clock
from neuralchat.runs.directory import METRICS
from neuralchat.training.memory import resident_bytes

KEPT_KEYS = ("loss", "learning_rate", "grad_norm")


class Progress(TrainerCallback):
    """Writes a line of metrics.jsonl for each logging and evaluation, and shows one progress line.

    On a terminal the line is rewritten in place; elsewhere it is printed at each logging step only.
    """

    def __init__(self, metrics_file: Path) -> None:
        self.metrics_file = metrics_file
        self.trainer: Any = None
        self.tokens_at_log = 0
        self.time_at_log = time.perf_counter()
        self.speed = 0.0
        self.first_step = 0
        self.began = self.time_at_log
        self.on_terminal = sys.stderr.isatty()

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:  # noqa: ARG002
        self.began = self.time_at_log = self.trainer.began = time.perf_counter()
        # A resumed run counts tokens on from before; the time of this part goes with this part's tokens.
        self.trainer.tokens_before = self.tokens_at_log = self.trainer.tokens_seen
        self.first_step = state.global_step
        self.trainer.settle()

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:  # noqa: ARG002
        # However short the run, its last step is logged.
        control.should_log |= state.global_step >= state.max_steps
        if self.on_terminal and state.is_world_process_zero:
            print(f"\r\x1b[K{self.line(state)}", end="", file=sys.stderr, flush=True)

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:  # noqa: ARG002
        if not state.is_world_process_zero or not logs:
            return
        if "loss" in logs:
            self.write(self.training_line(state, logs))
            if not self.on_terminal:
                print(self.line(state, logs["loss"]), file=sys.stderr, flush=True)
        elif "eval_loss" in logs:
            self.write({"step": state.global_step, **{k: v for k, v in logs.items() if k.startswith("eval_")}})

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:  # noqa: ARG002
        if self.on_terminal and state.is_world_process_zero:
            print(file=sys.stderr)

    def training_line(self, state: Any, logs: dict[str, Any]) -> dict[str, Any]:
        now = time.perf_counter()
        tokens = self.trainer.tokens_seen
        self.speed = (tokens - self.tokens_at_log) / max(now - self.time_at_log, 1e-9)
        self.tokens_at_log, self.time_at_log = tokens, now
        return {
            "step": state.global_step,
            "epoch": round(state.epoch or 0.0, 4),
            **{key: logs[key] for key in KEPT_KEYS if key in logs},
            "tokens": tokens,
            "supervised_tokens": self.trainer.supervised_tokens_seen,
            "tokens_per_s": round(self.speed, 1),
            "seconds": round(self.trainer.seconds(), 3),
            "rss_mb": resident_bytes() >> 20,
            **({"skipped_steps": self.trainer.skipped_steps} if self.trainer.skipped_steps else {}),
        }

    def write(self, line: dict[str, Any]) -> None:
        with (
            failures_told(self.metrics_file.parent, METRICS),
            self.metrics_file.open("a", encoding="utf-8") as stream,
        ):
            stream.write(json.dumps(line) + "\n")

    def line(self, state: Any, loss: float | None = None) -> str:
        done, total = state.global_step - self.first_step, state.max_steps - self.first_step
        elapsed = time.perf_counter() - self.began
        left = elapsed / max(done, 1) * (total - done)
        if loss is None:
            logged = [entry["loss"] for entry in state.log_history if "loss" in entry]
            loss = logged[-1] if logged else None
        shown = f"  loss {loss:.4f}" if loss is not None else ""
        speed = (self.trainer.tokens_seen - self.trainer.tokens_before) / max(elapsed, 1e-9)
        return (
            f"step {state.global_step}/{state.max_steps}  epoch {state.epoch or 0:.2f}{shown}  "
            f"{speed:.0f} tokens/s  {clock(left)} left"
        )
