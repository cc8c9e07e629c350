"""legacy_flags.py: old commands keep their meaning, and the user is told the flag of today."""

from __future__ import annotations

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st
from transformers import TrainingArguments

from neuralchat.config.arguments import ModelArguments
from neuralchat.config.legacy_flags import LEGACY_FLAGS, translate

NO_CUDA = "--no_cuda is now --use_cpu"
WARMUP = "--warmup_ratio is now --warmup_steps (a number below 1 is a share of all steps)"
CCL = "--xpu_backend is now --ddp_backend"
GROUP = "--group_by_length is now --train_sampling_strategy"
CASES = [
    (["--no_cuda"], ["--use_cpu"], NO_CUDA),
    (["--no_cuda", "True"], ["--use_cpu", "True"], NO_CUDA),
    (["--no_cuda", "--seed", "1"], ["--use_cpu", "--seed", "1"], NO_CUDA),
    (["--no-cuda"], ["--use_cpu"], "--no-cuda is now --use_cpu"),
    (["--xpu_backend", "mpi"], ["--ddp_backend", "mpi"], "--xpu_backend is now --ddp_backend"),
    (["--xpu_backend", "ccl"], ["--ddp_backend", "ccl"], CCL),
    (["--xpu-backend=ccl"], ["--ddp_backend", "ccl"], "--xpu-backend is now --ddp_backend"),
    (
        ["--pad_to_max_length"],
        [],
        "--pad_to_max_length is not needed any more (batches are as wide as their longest example at most)",
    ),
    (["--evaluation_strategy=steps"], ["--eval_strategy", "steps"], "--evaluation_strategy is now --eval_strategy"),
    (["--warmup_ratio", "0.03"], ["--warmup_steps", "0.03"], WARMUP),
    (["--group_by_length"], ["--train_sampling_strategy", "group_by_length"], GROUP),
    (["--group_by_length", "Yes"], ["--train_sampling_strategy", "group_by_length"], GROUP),
    (["--group_by_length", "False"], [], GROUP),
    (["--group_by_length=0"], [], GROUP),
    (["--use_ipex", "True"], [], "--use_ipex is not needed any more (torch itself has the fast paths now)"),
]


# Flags that are still right but for a value, or for having none: nothing is told.
SILENT_CASES = [
    (["--use_auth_token"], ["--use_auth_token", "True"]),
    (["--use_auth_token", "--seed", "1"], ["--use_auth_token", "True", "--seed", "1"]),
    (["--use_auth_token", "hf_x"], ["--use_auth_token", "hf_x"]),
]


@pytest.mark.parametrize(("words", "today"), SILENT_CASES)
def test_flag_that_kept_its_name(words: list[str], today: list[str]) -> None:
    assert translate(words) == (today, [])


@pytest.mark.parametrize(("old", "today", "notice"), CASES)
def test_translation(old: list[str], today: list[str], notice: str) -> None:
    assert translate(old) == (today, [notice])


def test_every_old_flag_has_a_case() -> None:
    words = [case[0][0] for case in [*CASES, *SILENT_CASES]]
    assert {word.split("=")[0].removeprefix("--").replace("-", "_") for word in words} == set(LEGACY_FLAGS)


def test_flags_of_today_exist_and_old_ones_do_not() -> None:
    fields = {field.name for kind in (ModelArguments, TrainingArguments) for field in dataclasses.fields(kind)}
    assert {legacy.today for legacy in LEGACY_FLAGS.values() if legacy.today} <= fields
    assert {old for old, legacy in LEGACY_FLAGS.items() if old != legacy.today}.isdisjoint(fields)


def test_order_of_the_words_is_kept() -> None:
    words = ["--seed", "1", "--no_cuda", "--warmup_ratio", "0.1", "--peft=lora", "--use_ipex"]
    translated, notices = translate(words)
    assert translated == ["--seed", "1", "--use_cpu", "--warmup_steps", "0.1", "--peft=lora"]
    assert len(notices) == 3


@given(st.lists(st.text(max_size=8).filter(lambda w: w.removeprefix("--").split("=")[0] not in LEGACY_FLAGS)))
def test_other_words_pass_unchanged(words: list[str]) -> None:
    assert translate(words) == (words, [])


def test_the_backend_of_today_passes_whatever_it_is() -> None:
    assert translate(["--ddp_backend", "ccl"]) == (["--ddp_backend", "ccl"], [])
    assert translate(["--ddp_backend=mpi"]) == (["--ddp_backend=mpi"], [])


def test_old_name_as_a_value_is_no_flag() -> None:
    assert translate(["--run_name", "no_cuda"]) == (["--run_name", "no_cuda"], [])
