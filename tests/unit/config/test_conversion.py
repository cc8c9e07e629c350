"""config/conversion.py: texts and Python values become what their argument holds, or are refused."""

from __future__ import annotations

import doctest
from pathlib import Path
from typing import Any

import pytest
from transformers import HfArgumentParser, SchedulerType, TrainingArguments

from neuralchat.config import conversion
from neuralchat.config.conversion import BARE, converted
from neuralchat.config.schema import SCHEMA


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("seed", "7", 7),
        ("seed", 7, 7),
        ("learning_rate", "1e-4", 1e-4),
        ("num_train_epochs", 3, 3.0),
        ("max_train_samples", "5", 5),
        ("bf16", "Yes", True),
        ("bf16", 0, False),
        ("bf16", BARE, True),
        ("gradient_checkpointing", BARE, True),
        ("use_auth_token", BARE, "True"),
        ("use_auth_token", True, "True"),
        ("output_dir", Path("a/b"), "a/b"),
        ("num_processes", 2, "2"),
        ("train_file", "a.json", ["a.json"]),
        ("train_file", [Path("a.json"), "b.json"], ["a.json", "b.json"]),
        ("train_file", [], []),
        ("label_names", ["a"], ["a"]),
        ("columns", "instruction=q,output=a", ["instruction=q", "output=a"]),
        ("columns", ["instruction=q", "output=a"], ["instruction=q", "output=a"]),
        ("columns", {"instruction": "q", "output": "a=b"}, ["instruction=q", "output=a=b"]),
        ("columns", '{"instruction": "q"}', ["instruction=q"]),
        ("columns", ['{"instruction": "q"}'], ["instruction=q"]),
        ("columns", "instruction=a, b", ["instruction=a, b"]),
        ("mix", {Path("a.json"): 2, "b,c.json": 0.5}, ["a.json=2", "b,c.json=0.5"]),
        ("report_to", ["tensorboard", "wandb"], ["tensorboard", "wandb"]),
        ("report_to", ["tensorboard"], "tensorboard"),
        ("lr_scheduler_type", SchedulerType.COSINE, "cosine"),
        ("lr_scheduler_kwargs", {"power": 2}, '{"power": 2}'),
        ("lr_scheduler_kwargs", '{"power": 2}', '{"power": 2}'),
        ("include_num_input_tokens_seen", "true", True),
        ("include_num_input_tokens_seen", "non_padding", "non_padding"),
        ("eval_steps", "0.5", 0.5),
    ],
)
def test_values(name: str, value: Any, expected: Any) -> None:
    found = converted(SCHEMA.arguments[name], value)
    assert (found, type(found)) == (expected, type(expected))


@pytest.mark.parametrize(
    ("name", "value", "problem"),
    [
        ("seed", "many", "invalid int value: 'many'"),
        ("seed", "1.5", "invalid int value: '1.5'"),
        ("seed", 1.0, "invalid int value: 1.0"),
        ("seed", True, "invalid int value: True"),
        ("seed", BARE, "expected a value"),
        ("seed", ["1"], r"invalid int value: \['1'\]"),
        ("learning_rate", "fast", "invalid float value: 'fast'"),
        ("columns", "instruction", "expected NAME=VALUE, found 'instruction'"),
        ("columns", ["instruction=q", "=a"], "expected NAME=VALUE, found '=a'"),
        ("columns", '{"instruction": ', "invalid JSON value: "),
        ("columns", {"instruction": ["q"]}, r"invalid text value: \['q'\]"),
        ("mix", BARE, "expected at least one value"),
        ("learning_rate", False, "invalid float value: False"),
        ("learning_rate", 10**400, "invalid float value: 1000"),
        ("bf16", "maybe", "invalid bool value: 'maybe'"),
        ("run_name", ["a"], r"invalid text value: \['a'\]"),
        ("run_name", {"a": 1}, "invalid text value: {'a': 1}"),
        ("train_file", BARE, "expected at least one value"),
        ("train_file", [["a"]], r"invalid text value: \['a'\]"),
        ("lr_scheduler_kwargs", {"a": object()}, "holds what JSON cannot: "),
        ("run_name", b"x" * 500, r"invalid text value: b'x+\.\.\.$"),
    ],
)
def test_values_that_are_refused(name: str, value: Any, problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        converted(SCHEMA.arguments[name], value)


# Read otherwise here: the first two take more than transformers' parser knows of, see the cases above; the others are
# refused whatever they are.
READ_OTHERWISE = {"include_num_input_tokens_seen", "debug", "parallelism_config", "liger_kernel_config"}


@pytest.mark.parametrize("text", ["1", "0", "0.5", "true", "no", "{}", "x"])
def test_texts_mean_what_they_mean_to_transformers(text: str) -> None:
    """Its own parser, flag by flag: the same value, or both refuse."""
    parser = HfArgumentParser(TrainingArguments, exit_on_error=False)
    for name in {a.name for a in SCHEMA.of_part("training")} - READ_OTHERWISE:
        argument = SCHEMA.arguments[name]
        try:
            theirs: Any = getattr(parser.parse_known_args([f"--{name}", text])[0], name)
        except Exception:
            theirs = ValueError
        try:
            ours: Any = converted(argument, text)
        except ValueError:
            ours = ValueError
        if argument.choices and ours not in argument.choices:
            ours = ValueError
        assert (name, ours) == (name, theirs)


def test_doctests() -> None:
    outcome = doctest.testmod(conversion)
    assert outcome.attempted >= 1
    assert outcome.failed == 0
