"""inference/sampling.py and sampling_flags.py: what options mean for generation, which values are impossible."""

from __future__ import annotations

import argparse
import dataclasses
import doctest
from typing import Any, get_type_hints

import pytest
import torch

from neuralchat.errors import ArgumentsError
from neuralchat.inference import sampling
from neuralchat.inference.sampling import HIGHEST_SEED, Sampling, SamplingOptions, sampling_from
from neuralchat.inference.sampling_flags import add_sampling_flags, sampling_of


def options_of(*words: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    add_sampling_flags(parser)
    return parser.parse_args(words)


def test_default_is_greedy() -> None:
    assert sampling_of(options_of()) == Sampling()
    assert Sampling().options() == {"max_new_tokens": 256, "do_sample": False}


def test_flags_reach_the_generation() -> None:
    words = ["--max_new_tokens", "9", "--temperature", "0.5", "--top_p", "0.9", "--top_k", "40"]
    words += ["--min_p", "0.05"]
    assert sampling_of(options_of(*words, "--repetition_penalty", "1.2")).options() == {
        "max_new_tokens": 9, "do_sample": True, "temperature": 0.5, "top_p": 0.9, "top_k": 40, "min_p": 0.05,
        "repetition_penalty": 1.2,
    }  # fmt: skip


def test_greedy_ignores_what_only_sampling_uses() -> None:
    words = ["--top_p", "0.9", "--top_k", "40", "--repetition_penalty", "1.2"]
    expected = {"max_new_tokens": 256, "do_sample": False, "repetition_penalty": 1.2}
    assert sampling_of(options_of(*words)).options() == expected


IMPOSSIBLE: list[tuple[str, Any, str]] = [
    ("max_new_tokens", 0, "--max_new_tokens must be at least 1, found 0"),
    ("temperature", -0.1, "--temperature must not be negative, found -0.1"),
    ("top_p", 0.0, "--top_p must be above 0 and at most 1, found 0.0"),
    ("top_p", 1.1, "--top_p must be above 0 and at most 1, found 1.1"),
    ("top_k", -1, "--top_k must not be negative, found -1"),
    ("min_p", -0.1, "--min_p must be from 0 to 1, found -0.1"),
    ("min_p", 1.5, "--min_p must be from 0 to 1, found 1.5"),
    ("presence_penalty", 2.5, "--presence_penalty must be from -2 to 2, found 2.5"),
    ("frequency_penalty", -3.0, "--frequency_penalty must be from -2 to 2, found -3.0"),
    ("repetition_penalty", 0.0, "--repetition_penalty must be above 0, found 0.0"),
    ("seed", HIGHEST_SEED + 1, f"--seed must be from -{1 << 63} to {HIGHEST_SEED}, found {1 << 64}"),
]


@pytest.mark.parametrize(("name", "value", "message"), IMPOSSIBLE)
def test_impossible_value(name: str, value: Any, message: str) -> None:
    """The flag and the option of a call are refused in the same words."""
    with pytest.raises(ArgumentsError, match=f"^{message}$"):
        sampling_of(options_of(f"--{name}={value}"))
    with pytest.raises(ArgumentsError, match=f"^{message}$"):
        sampling_from({name: value})


def test_not_a_number_is_impossible() -> None:
    for name in ("temperature", "repetition_penalty"):
        with pytest.raises(ArgumentsError, match=f"--{name}"):
            sampling_of(options_of(f"--{name}=nan"))


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("max_new_tokens", 1.5, "--max_new_tokens must be a whole number, found 1.5"),
        ("temperature", "hot", "--temperature must be a number, found 'hot'"),
        ("temperature", None, "--temperature must be a number, found None"),
        ("top_k", True, "--top_k must be a whole number, found True"),
        ("seed", "7", "--seed must be a whole number, found '7'"),
        ("num_beams", 0, "--num_beams must be at least 1, found 0"),
    ],
)
def test_what_only_a_call_can_get_wrong(name: str, value: Any, message: str) -> None:
    with pytest.raises(ArgumentsError, match=f"^{message}$"):
        sampling_from({name: value})


def test_all_impossible_values_at_once() -> None:
    with pytest.raises(ArgumentsError, match=r"(?s)--max_new_tokens.*--temperature.*--top_k"):
        sampling_of(options_of("--max_new_tokens=0", "--temperature=-1", "--top_k=-1"))


def test_unknown_options_are_told_with_their_neighbours() -> None:
    with pytest.raises(ArgumentsError, match=r"(?s)unknown option temprature; did you mean temperature\?.*option zzz$"):
        sampling_from({"temprature": 1.0, "zzz": 2})


def test_the_options_of_calls_are_typed_like_the_dataclass() -> None:
    assert get_type_hints(SamplingOptions) == get_type_hints(Sampling)
    assert all(field.name in SamplingOptions.__annotations__ for field in dataclasses.fields(Sampling))


def test_flags_leave_the_generators_alone() -> None:
    before = torch.random.get_rng_state()
    assert sampling_of(options_of("--seed", "5")).seed == 5
    assert torch.equal(torch.random.get_rng_state(), before)


def test_doctests() -> None:
    outcome = doctest.testmod(sampling)
    assert outcome.attempted >= 1
    assert outcome.failed == 0
