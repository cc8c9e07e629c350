"""manifest -> what a user wants to know at the end of a run, and what to type next."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from shlex import quote
from typing import Any

from neuralchat.console import clock
from neuralchat.console.tables import Page, results_table
from neuralchat.errors import RunDirectoryError
from neuralchat.runs.differences import difference_text, probability
from neuralchat.runs.directory import MANIFEST, REPORT


def held_out_figure(results: dict[str, Any]) -> str | None:
    before, after = results["held_out_loss_before"], results["held_out_loss_after"]
    if before is not None and after is not None:
        change = (after - before) / before if before else 0.0
        return f"{before:.4f} before, {after:.4f} after ({change:+.0%})"
    known = after if before is None else before
    return None if known is None else f"{known:.4f}"


def before_and_after(samples: Sequence[Mapping[str, Any]]) -> str | None:
    """How many of those whose facts are known are right before and after; None where there are none."""
    known = [(sample["right_before"], sample["right_after"]) for sample in samples if "right_before" in sample]
    if not known:
        return None
    right_before, right_after = (sum(marks) for marks in zip(*known, strict=True))
    kept = sum(before and after for before, after in known)
    return (
        f"{right_before} of {len(known)} right before, {right_after} after "
        f"({kept} kept, {right_before - kept} lost, {right_after - kept} gained)"
    )


def difference_of_answers(found: Mapping[str, Any] | None) -> str:
    """How sure a difference of right answers is (RunResults.differences); empty where nothing is known of it."""
    if found is None:
        return ""
    told = difference_text(found["difference"], found["interval"], 0.95, share=True, digits=0)
    if "p" in found:
        told += f", p {probability(found['p'])}"
    if found["seen"]:
        return f"; {told}"
    # Of older runs: the exact test asked for more than the interval where there were few.
    low, high = found["interval"]
    return f"; {'no difference can be seen' if low <= 0 <= high else 'too few questions to be sure'}: {told}"


def forecast_figure(results: Mapping[str, Any]) -> list[tuple[str, str]]:
    """What had been forecast and how far it was off; empty where nothing was, or too little was trained to tell."""
    told = results.get("forecast")
    if not told:
        return []
    seconds, memory = told["training_seconds"], told["peak_memory_mb"]
    return [
        (
            "forecast was",
            f"training {clock(seconds)} ({of_training(results['training_seconds'], seconds)}), "
            f"peak memory {memory} MiB ({off_by(results['peak_memory_mb'], memory)})",
        )
    ]


# What is over sooner is not compared with its forecast.
SHORTEST_FORECAST_S = 20.0


def of_training(fact: float, forecast: float) -> str:
    """
    >>> of_training(110, 100), of_training(3, 0.5)
    ('it took 10 % more', 'over in seconds')
    """
    # A share of less than what a process does once says nothing.
    return off_by(fact, forecast) if max(fact, forecast) >= SHORTEST_FORECAST_S else "over in seconds"


def off_by(fact: float, forecast: float) -> str:
    """
    >>> off_by(110, 100), off_by(95, 100), off_by(100, 100), off_by(1, 0)
    ('it took 10 % more', 'it took 5 % less', 'as it was', 'nothing was forecast')
    """
    if forecast <= 0:
        return "nothing was forecast"
    percent = round(100 * (fact / forecast - 1))
    return f"it took {abs(percent)} % {'more' if percent > 0 else 'less'}" if percent else "as it was"


def summary(output: Path, manifest: dict[str, Any]) -> Page:
    """What a user wants to know at the end, and what to type next."""
    results = manifest["results"]
    samples = [
        (one_line(sample["question"]), one_line(sample["before"]), one_line(sample["after"]))
        for sample in results["samples"]
    ]
    figures, pointers = [], []
    if (held_out := held_out_figure(results)) is not None:
        figures.append(("held-out loss", held_out))
    differences = results.get("differences") or {}
    for name, part in (("right answers", "samples"), ("general", "general_samples")):
        if (said := before_and_after(results.get(part, []))) is not None:
            figures.append((name, said + difference_of_answers(differences.get(part))))
    if results.get("rouge"):
        scores = ", ".join(f"{name} {value:.3f}" for name, value in results["rouge"].items())
        figures.append(("held-out answers", scores))
    if results.get("best_step"):
        figures.append(("best state", f"checkpoint-{results['best_step']}, measured {results['best_metric']:.4f}"))
    figures += [("advice", text) for text in results.get("advice", [])]
    figures += [("slower", text) for text in results.get("slowdowns", [])]
    if results["steps"]:
        figures += [
            ("training loss", f"{results['mean_loss']:.4f} (mean over {results['steps']} steps)"),
            ("time", f"{clock(results['seconds'])}, of which training {clock(results['training_seconds'])}"),
            ("speed", f"{results['tokens_per_s']:.0f} tokens/s"),
            ("peak memory", f"{results['peak_memory_mb']} MiB"),
            *forecast_figure(results),
        ]
        pointers = [
            ("run", str(output)),
            ("report", str(output / REPORT)),
            ("chat", f"neuralchat chat {quote(str(output))}"),
        ]
    return results_table(samples, figures, pointers)


def summary_of_run(run: Path, manifest: dict[str, Any]) -> Page:
    """The summary of a manifest that was read back. Raises RunDirectoryError if it was edited."""
    if "merged" in manifest["adapter"] and not manifest["results"]:
        reason = (
            "several adapters, and has no results of its own; neuralchat eval finds some"
            if "combined" in manifest
            else "a checkpoint, whose run had no results yet"
        )
        raise RunDirectoryError(f"{run} was merged from {reason}")
    try:
        return summary(run, manifest)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise RunDirectoryError(f"{run / MANIFEST} is damaged: its results cannot be shown ({error!r})") from error


def one_line(text: str, width: int = 160) -> str:
    flat = " ".join(text.split())
    return flat if len(flat) <= width else flat[: width - 3] + "..."
