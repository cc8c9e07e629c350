"""checkpointing/fingerprint.py: what may differ between the parts of a run, and what is refused by name."""

from __future__ import annotations

from typing import Any

import pytest

from neuralchat.checkpointing.fingerprint import check_identity
from neuralchat.errors import RunDirectoryError

STORED: dict[str, Any] = {
    "base_model": "a" * 64, "template": "t" * 64, "data": "d" * 64, "global_batch": 8,
    "arguments": {"seed": 42, "learning_rate": 1e-4, "lora_rank": 8},
    "world_size": 1, "threads": 2, "torch": "2.13.0",
}  # fmt: skip


def changed(**values: Any) -> dict[str, Any]:
    arguments = {name: value for name, value in values.items() if name not in STORED}
    rest = {name: value for name, value in values.items() if name in STORED}
    return {**STORED, **rest, "arguments": {**STORED["arguments"], **arguments}}


def test_the_same_run_is_the_same() -> None:
    assert check_identity(STORED, changed(), [], where="checkpoint-3") == []


@pytest.mark.parametrize(
    ("name", "value", "was"),
    [
        ("seed", 43, "seed: was 42, is now 43"),
        ("learning_rate", 2e-4, "learning_rate: was 0.0001, is now 0.0002"),
        ("base_model", "b" * 64, "base_model: was aaaaaaaaaaaa..., is now bbbbbbbbbbbb..."),
        ("data", "e" * 64, "data: was dddddddddddd..., is now eeeeeeeeeeee..."),
        ("template", "u" * 64, "template: was tttttttttttt..., is now uuuuuuuuuuuu..."),
        ("global_batch", 16, "global_batch: was 8, is now 16"),
    ],
)
def test_a_change_is_named_and_refused_unless_allowed(name: str, value: Any, was: str) -> None:
    found = changed(**{name: value})
    with pytest.raises(RunDirectoryError, match=f"checkpoint-3 belongs to(.|\n)*{was}(.|\n)*--allow_changed {name}"):
        check_identity(STORED, found, [], where="checkpoint-3")
    for allowed in ([name], ["all"]):
        (notice,) = check_identity(STORED, found, allowed, where="checkpoint-3")
        assert notice.startswith(f"{name} changed as allowed: was ")


def test_all_changes_are_told_together() -> None:
    with pytest.raises(RunDirectoryError, match=r"data: (.|\n)*lora_rank: (.|\n)*seed: .*\n.*data lora_rank seed"):
        check_identity(STORED, changed(seed=1, lora_rank=4, data="x"), [], where="r")
    with pytest.raises(RunDirectoryError, match=r"--allow_changed data$"):
        check_identity(STORED, changed(seed=1, data="x"), ["seed"], where="r")


def test_an_argument_that_is_gone_or_new_is_a_change() -> None:
    found = {**STORED, "arguments": {"seed": 42, "learning_rate": 1e-4, "new": 1}}
    with pytest.raises(RunDirectoryError, match=r"lora_rank: was 8, is now None\n.*new: was None, is now 1"):
        check_identity(STORED, found, [], where="r")


def test_what_only_rounds_differently_is_told() -> None:
    (notice,) = check_identity(STORED, changed(threads=4, world_size=2), [], where="r")
    assert notice.endswith("world_size was 1, is now 2, threads was 2, is now 4")


@pytest.mark.parametrize("stored", [{}, {"arguments": 3}, {"arguments": None, "data": []}])
def test_a_damaged_identity_is_another_run(stored: dict[str, Any]) -> None:
    with pytest.raises(RunDirectoryError, match="this is not the run"):
        check_identity(stored, STORED, [], where="r")
