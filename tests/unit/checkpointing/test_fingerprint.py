"""checkpointing/fingerprint.py: what may differ between the parts of a run, and what is refused by name."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from neuralchat.checkpointing.fingerprint import check_identity
from neuralchat.config.schema import SCHEMA
from neuralchat.errors import RunDirectoryError

STORED: dict[str, Any] = {
    "base_model": "a" * 64, "template": "t" * 64, "data": "d" * 64, "global_batch": 8,
    "arguments": {"seed": 42, "learning_rate": 1e-4, "lora_rank": 8, "weight_decay": 0.0},
    "world_size": 1, "threads": 2, "torch": "2.13.0",
}  # fmt: skip


def changed(**values: Any) -> dict[str, Any]:
    arguments = {name: value for name, value in values.items() if name not in STORED}
    rest = {name: value for name, value in values.items() if name in STORED}
    return {**STORED, **rest, "arguments": {**STORED["arguments"], **arguments}}


def checked(found: dict[str, Any], allowed: Sequence[str] = (), *, resumed: bool = True) -> list[str]:
    return check_identity(STORED, found, allowed, where="checkpoint-3", resumed=resumed)


def test_the_same_run_is_the_same() -> None:
    assert checked(changed()) == []


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
        checked(found)
    for allowed in ([name], ["all"]):
        (notice,) = checked(found, allowed)
        assert notice.startswith(f"{name} changed as allowed: was ")


def test_all_changes_are_told_together() -> None:
    with pytest.raises(
        RunDirectoryError, match=r"data: (.|\n)*seed: (.|\n)*weight_decay: .*\n.*data seed weight_decay"
    ):
        checked(changed(seed=1, weight_decay=0.1, data="x"))
    with pytest.raises(RunDirectoryError, match=r"--allow_changed data$"):
        checked(changed(seed=1, data="x"), ["seed"])


SHAPING = {
    "peft": "ia3", "lora_rank": 4, "lora_dora": True, "lora_target_modules": ["q_proj"], "lora_all_linear": True,
    "lora_init": "pissa", "special_tokens": ["<x>"], "num_virtual_tokens": 4, "ptun_hidden_size": 64,
    "adapter_layers": 2, "adapter_len": 4, "bits": "8",
}  # fmt: skip


def test_arguments_that_shape_weights_are_these() -> None:
    found = {name for name, argument in SCHEMA.arguments.items() if argument.facts.shapes_weights}
    assert found == set(SHAPING)


@pytest.mark.parametrize("name", SHAPING)
@pytest.mark.parametrize("allow", ["", "name", "all"])
def test_a_run_that_goes_on_keeps_the_shape_of_its_weights(name: str, allow: str) -> None:
    """To allow the change would only end in weights that do not fit."""
    allowed = [name if allow == "name" else allow] if allow else []
    with pytest.raises(RunDirectoryError, match=rf"  - {name}: was .*\n{name} decides which weights") as caught:
        checked(changed(**{name: SHAPING[name]}), allowed)
    assert "begin a new run in another --output_dir" in str(caught.value)
    assert "--allow_changed" not in str(caught.value)


def test_what_can_be_allowed_beside_what_cannot() -> None:
    with pytest.raises(RunDirectoryError) as caught:
        checked(changed(seed=1, lora_rank=4, peft="ia3", data="x"), ["data"])
    *_, last = lines = str(caught.value).splitlines()
    assert [line.split(":")[0] for line in lines[1:4]] == ["  - lora_rank", "  - peft", "  - seed"]
    assert lines[4].startswith("lora_rank, peft decide which weights")
    assert last == "The rest may be accepted with --allow_changed seed"


@pytest.mark.parametrize("name", SHAPING)
def test_a_run_that_is_repeated_may_have_other_weights(name: str) -> None:
    found = changed(**{name: SHAPING[name]})
    with pytest.raises(RunDirectoryError, match=f"--allow_changed {name}$"):
        checked(found, resumed=False)
    (notice,) = checked(found, [name], resumed=False)
    assert notice.startswith(f"{name} changed as allowed")


def test_an_argument_that_is_gone_or_new_is_a_change() -> None:
    found = {**STORED, "arguments": {"seed": 42, "learning_rate": 1e-4, "lora_rank": 8, "new": 1}}
    with pytest.raises(RunDirectoryError, match=r"new: was None, is now 1\n.*weight_decay: was 0.0, is now None"):
        checked(found)


def test_what_only_rounds_differently_is_told() -> None:
    (notice,) = checked(changed(threads=4, world_size=2))
    assert notice.endswith("world_size was 1, is now 2, threads was 2, is now 4")


@pytest.mark.parametrize("stored", [{}, {"arguments": 3}, {"arguments": None, "data": []}])
def test_a_damaged_identity_is_another_run(stored: dict[str, Any]) -> None:
    with pytest.raises(RunDirectoryError, match="this is not the run"):
        check_identity(stored, STORED, [], where="r", resumed=True)
