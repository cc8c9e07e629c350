"""Forecasts learn: what earlier runs on this machine really took, against what had been measured before them.

Kept in the cache, a line for each run. A run of the same kind takes the usual ratio of the last ones for its time, and
for its memory the largest, since too little ends a run and too much does not.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any, Self

from neuralchat.cache import cache_directory, trusted_directory
from neuralchat.files import append_line, read_file, write_file

FILE = "runs.jsonl"
MAX_BYTES, KEPT_LINES = 1 << 20, 500
# How many of the last runs of a kind count.
LAST_RUNS = 5
# Of a shorter training the beginning says more than the kind does.
SHORTEST_SECONDS = 5.0
# What is beyond was another machine's doing, or another program's.
TIME_BOUNDS, MEMORY_BOUNDS = (0.4, 4.0), (1.0, 1.3)


@dataclass(frozen=True)
class RunKind:
    """A text that is equal for runs whose forecasts are wrong in the same way."""

    text: str

    @classmethod
    def of(cls, **facts: Any) -> Self:
        return cls(json.dumps(facts, sort_keys=True, default=str))


@dataclass(frozen=True)
class Corrections:
    """What to multiply a forecast with, and how many runs say so."""

    time: float = 1.0
    memory: float = 1.0
    runs: int = 0


def corrections(kind: RunKind) -> Corrections:
    """Those of the last runs of this kind; none where there were none, or what was kept cannot be read."""
    of_kind = [line for line in kept_lines() if line["kind"] == kind.text][-LAST_RUNS:]
    if not of_kind:
        return Corrections()
    time = median(line["seconds"] / line["forecast_seconds"] for line in of_kind)
    memory = max(line["memory_mb"] / line["forecast_memory_mb"] for line in of_kind)
    return Corrections(within(time, TIME_BOUNDS), within(memory, MEMORY_BOUNDS), len(of_kind))


def within(value: float, bounds: tuple[float, float]) -> float:
    """
    >>> within(9.0, (0.5, 4.0)), within(0.1, (0.5, 4.0))
    (4.0, 0.5)
    """
    return min(max(value, bounds[0]), bounds[1])


NUMBERS = ("forecast_seconds", "seconds", "forecast_memory_mb", "memory_mb")


def remember(
    kind: RunKind, *, forecast_seconds: float, seconds: float, forecast_memory_mb: float, memory_mb: float
) -> None:
    """Keep what a run took; forecasts are those without corrections. A cache that cannot be written is none."""
    if seconds < SHORTEST_SECONDS or forecast_seconds <= 0 or forecast_memory_mb <= 0:
        return
    numbers = dict(zip(NUMBERS, (forecast_seconds, seconds, forecast_memory_mb, memory_mb), strict=True))
    line = {"kind": kind.text, **{name: round(number, 3) for name, number in numbers.items()}}
    with suppress(OSError):
        path = file_of_runs()
        append_line(path, json.dumps(line), mode=0o600)
        if path.stat().st_size > MAX_BYTES // 2:
            kept = [json.dumps(line) for line in kept_lines()][-KEPT_LINES:]
            write_file(path, "".join(f"{line}\n" for line in kept), mode=0o600)


def file_of_runs() -> Path:
    return trusted_directory(cache_directory() / "forecasts") / FILE


def kept_lines() -> Iterator[dict[str, Any]]:
    """The lines that are whole; what somebody else could have written, or was damaged, is left out."""
    try:
        content = read_file(file_of_runs(), MAX_BYTES).decode("utf-8", "replace")
    except OSError:
        return
    for text in content.splitlines():
        with suppress(ValueError, RecursionError):
            line = json.loads(text)
            if (
                isinstance(line, dict)
                and isinstance(line.get("kind"), str)
                and all(is_positive(line.get(n)) for n in NUMBERS)
            ):
                yield line


def is_positive(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value) and value > 0
