"""What one argument says of others that were left out."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

# What an evaluation measures that can be better or worse; smaller is better.
MEASURED = ("loss", "perplexity")


def implied_values(typed: Mapping[str, Any], given: Collection[str]) -> dict[str, Any]:
    """Values for arguments that were not given. To choose the best of several states they must be measured and saved.

    `--eval_steps 50` alone evaluates every 50 steps; transformers would not evaluate at all.
    """
    values: dict[str, Any] = {}

    def set_unless_given(name: str, value: Any) -> None:
        if name not in given:
            values[name] = value

    if typed["lora_target_modules"]:
        set_unless_given("lora_all_linear", False)
    chooses = typed["load_best_model_at_end"] or typed["early_stopping_patience"] is not None
    if "eval_steps" in given:
        set_unless_given("eval_strategy", "steps")
    elif chooses:
        set_unless_given("eval_strategy", "epoch")
    if chooses:
        set_unless_given("load_best_model_at_end", True)
        strategy = values.get("eval_strategy", typed["eval_strategy"])
        # Steps to save at that were asked for may be others, so long as they fit.
        if strategy != "no" and not ("save_steps" in given and strategy == "steps"):
            set_unless_given("save_strategy", strategy)
            if strategy == "steps":
                set_unless_given("save_steps", typed["eval_steps"] or typed["logging_steps"])
    if metric_name(typed["metric_for_best_model"]) == "perplexity":
        # transformers takes what is no loss for a score.
        set_unless_given("greater_is_better", False)
    return values


def metric_name(name: str | None) -> str:
    return str(name or "loss").removeprefix("eval_")
