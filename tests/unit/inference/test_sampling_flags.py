"""inference/sampling_flags.py: what the flags mean for generation, and which values are impossible."""

from __future__ import annotations

import argparse
from typing import Any

import pytest
import torch

from neuralchat.errors import ArgumentsError
from neuralchat.inference.sampling_flags import Sampling, add_sampling_flags, sampling_of


def options_of(*words: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    add_sampling_flags(parser)
    return parser.parse_args(words)


def test_default_is_greedy() -> None:
    assert sampling_of(options_of()) == Sampling()
    assert Sampling().options() == {"max_new_tokens": 256, "do_sample": False}


def test_flags_reach_the_generation() -> None:
    words = ["--max_new_tokens", "9", "--temperature", "0.5", "--top_p", "0.9", "--top_k", "40"]
    assert sampling_of(options_of(*words, "--repetition_penalty", "1.2")).options() == {
        "max_new_tokens": 9, "do_sample": True, "temperature": 0.5, "top_p": 0.9, "top_k": 40,
        "repetition_penalty": 1.2,
    }  # fmt: skip


def test_greedy_ignores_what_only_sampling_uses() -> None:
    words = ["--top_p", "0.9", "--top_k", "40", "--repetition_penalty", "1.2"]
    expected = {"max_new_tokens": 256, "do_sample": False, "repetition_penalty": 1.2}
    assert sampling_of(options_of(*words)).options() == expected


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("max_new_tokens", 0, "--max_new_tokens must be at least 1, found 0"),
        ("temperature", -0.1, "--temperature must not be negative, found -0.1"),
        ("top_p", 0.0, "--top_p must be above 0 and at most 1, found 0.0"),
        ("top_p", 1.1, "--top_p must be above 0 and at most 1, found 1.1"),
        ("top_k", -1, "--top_k must not be negative, found -1"),
        ("repetition_penalty", 0.0, "--repetition_penalty must be above 0, found 0.0"),
    ],
)
def test_impossible_value(name: str, value: Any, message: str) -> None:
    with pytest.raises(ArgumentsError, match=f"^{message}$"):
        sampling_of(options_of(f"--{name}={value}"))


def test_not_a_number_is_impossible() -> None:
    for name in ("temperature", "repetition_penalty"):
        with pytest.raises(ArgumentsError, match=f"--{name}"):
            sampling_of(options_of(f"--{name}=nan"))


def test_all_impossible_values_at_once() -> None:
    with pytest.raises(ArgumentsError, match=r"(?s)--max_new_tokens.*--temperature.*--top_k"):
        sampling_of(options_of("--max_new_tokens=0", "--temperature=-1", "--top_k=-1"))


def test_seed_makes_sampling_repeatable() -> None:
    draws = []
    for seed in ("5", "5", "6"):
        sampling_of(options_of("--seed", seed))
        draws.append(torch.rand(4).tolist())
    assert draws[0] == draws[1] != draws[2]
