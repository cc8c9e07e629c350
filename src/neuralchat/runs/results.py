"""What a run found: filled while it trains, kept in its manifest, read back by programs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Self


@dataclass(frozen=True, kw_only=True)
class RunResults:
    """What a run found. Losses are means over supervised tokens; memory is the process's peak in MiB.

    A run that was interrupted counts `steps`, `skipped_steps` (those that --on_nonfinite skip left out), `tokens` and
    `mean_loss` over all its parts; times, `tokens_this_time` and `tokens_per_s` are those of the last part.
    `samples`: questions with `expected`, `before` and `after`, and where facts are known `right_before` and
    `right_after`. `general_samples`: general questions with the same, but for `expected`. `rouge`: F-measures from 0 to
    1 by name, of the answers to the held-out questions. `advice`: what to change for the next run (advice.py).
    `differences`: of the right answers of `samples` and `general_samples`, what can be seen of before and after.
    `micro_batch_tokens`: as memory allowed at the end. `data_findings`: what a quick look at the records found
    (data_tools/quick_check.py). `best_step` is the step whose weights are the result where --load_best_model_at_end
    asks for the best, and `best_metric` what was measured there. `forecast`: what had been told before the first step
    of `training_seconds` (of the last part), `peak_memory_mb` and its `memory_parts_mb`. `slowdowns`: sentences on
    what made training slower on its way (watching/speed_watch.py). None or empty is what was not measured.
    """

    trained_parameters: int = 0
    total_parameters: int = 0
    packed: bool = False
    steps: int = 0
    tokens: int = 0
    tokens_this_time: int = 0
    skipped_steps: int = 0
    mean_loss: float | None = None
    best_step: int | None = None
    best_metric: float | None = None
    held_out_loss_before: float | None = None
    held_out_loss_after: float | None = None
    training_seconds: float = 0.0
    seconds: float = 0.0
    peak_memory_mb: int = 0
    rouge: Mapping[str, float] | None = None
    samples: tuple[Mapping[str, Any], ...] = ()
    general_samples: tuple[Mapping[str, Any], ...] = ()
    differences: Mapping[str, Mapping[str, Any]] | None = None
    tokens_per_s: float = 0.0
    advice: tuple[str, ...] = ()
    micro_batch_tokens: int = 0
    data_findings: Mapping[str, Any] | None = None
    forecast: Mapping[str, Any] | None = None
    slowdowns: tuple[str, ...] = ()

    @classmethod
    def from_manifest(cls, manifest: Mapping[str, Any]) -> Self:
        """What an earlier or later version wrote besides is left out."""
        stored = manifest["results"]
        known = {field.name: stored[field.name] for field in fields(cls) if field.name in stored}
        lists = {name: tuple(known.get(name, ())) for name in ("samples", "general_samples", "advice", "slowdowns")}
        return cls(**{**known, **lists})
