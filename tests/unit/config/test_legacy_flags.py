"""legacy_flags.py: old commands keep their meaning, and the user is told the flag of today."""

from __future__ import annotations

from typing import Any

import pytest

from neuralchat.config.command.legacy_flags import LEGACY_FLAGS
from neuralchat.config.command.names import named
from neuralchat.config.command.words import read_words
from neuralchat.config.conversion import BARE, TAKEN_BACK
from neuralchat.config.schema import SCHEMA

NO_CUDA = "--no_cuda is now --use_cpu"
WARMUP = "--warmup_ratio is now --warmup_steps (a number below 1 is a share of all steps)"
CCL = "--xpu_backend is now --ddp_backend"
GROUP = "--group_by_length is now --train_sampling_strategy"
SORTED = {"train_sampling_strategy": "group_by_length"}
CASES: list[tuple[list[str], dict[str, Any], str]] = [
    (["--no_cuda"], {"use_cpu": BARE}, NO_CUDA),
    (["--no_cuda", "True"], {"use_cpu": "True"}, NO_CUDA),
    (["no_cuda=true"], {"use_cpu": "true"}, NO_CUDA),
    (["--no_cuda", "--seed", "1"], {"use_cpu": BARE, "seed": "1"}, NO_CUDA),
    (["--no-cuda"], {"use_cpu": BARE}, "--no-cuda is now --use_cpu"),
    (["--xpu_backend", "mpi"], {"ddp_backend": "mpi"}, CCL),
    (["--xpu_backend", "ccl"], {"ddp_backend": "ccl"}, CCL),
    (["--xpu-backend=ccl"], {"ddp_backend": "ccl"}, "--xpu-backend is now --ddp_backend"),
    (["--lora_r", "4"], {"lora_rank": "4"}, "--lora_r is now --lora_rank"),
    (["--lora_target", "q_proj"], {"lora_target_modules": "q_proj"}, "--lora_target is now --lora_target_modules"),
    (
        ["--pad_to_max_length"],
        {},
        "--pad_to_max_length is not needed any more (batches are as wide as their longest example at most)",
    ),
    (["--evaluation_strategy=steps"], {"eval_strategy": "steps"}, "--evaluation_strategy is now --eval_strategy"),
    (["--warmup_ratio", "0.03"], {"warmup_steps": "0.03"}, WARMUP),
    (["--group_by_length"], SORTED, GROUP),
    (["--group_by_length", "Yes"], SORTED, GROUP),
    (["--group_by_length", "False"], {}, GROUP),
    (["--group_by_length=0"], {}, GROUP),
    (["--use_ipex", "True"], {}, "--use_ipex is not needed any more (torch itself has the fast paths now)"),
]


def today(words: list[str]) -> tuple[dict[str, Any], list[str]]:
    said = read_words(words, SCHEMA)
    assert said.stray == []
    found = named(said.values, SCHEMA)
    assert found.problems == []
    return found.values, found.notices


@pytest.mark.parametrize(("old", "values", "notice"), CASES)
def test_translation(old: list[str], values: dict[str, Any], notice: str) -> None:
    assert today(old) == (values, [notice])


def test_every_old_flag_has_a_case() -> None:
    words = [case[0][0] for case in CASES]
    assert {word.split("=")[0].removeprefix("--").replace("-", "_") for word in words} == set(LEGACY_FLAGS)


def test_flags_of_today_exist_and_old_ones_do_not() -> None:
    assert {legacy.today for legacy in LEGACY_FLAGS.values() if legacy.today} <= set(SCHEMA.arguments)
    assert set(LEGACY_FLAGS).isdisjoint(SCHEMA.arguments)


def test_what_stands_later_wins_whatever_its_name() -> None:
    words = ["--ddp_backend", "mpi", "--xpu_backend", "ccl", "--warmup_ratio", "0.1", "--warmup-steps", "5"]
    assert today(words) == ({"ddp_backend": "ccl", "warmup_steps": "5"}, [CCL, WARMUP])


def test_an_old_flag_is_taken_back_by_its_name() -> None:
    assert today(["--use_cpu", "no_cuda="]) == ({"use_cpu": TAKEN_BACK}, [])


def test_the_backend_of_today_passes_whatever_it_is() -> None:
    assert today(["--ddp_backend", "ccl"]) == ({"ddp_backend": "ccl"}, [])
    assert today(["--ddp_backend=mpi"]) == ({"ddp_backend": "mpi"}, [])


def test_old_name_as_a_value_is_no_flag() -> None:
    assert today(["--run_name", "no_cuda"]) == ({"run_name": "no_cuda"}, [])
