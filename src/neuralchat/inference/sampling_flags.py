"""Flags of chat and eval that decide how the next token is chosen. Imports nothing heavy: help must be instant."""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from typing import Any

from neuralchat.errors import ArgumentsError


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """How the next token is chosen. temperature 0 is greedy: the likeliest token, always the same answer."""

    max_new_tokens: int = 256
    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int = 0
    repetition_penalty: float = 1.0
    num_beams: int = 1

    def options(self) -> dict[str, Any]:
        options: dict[str, Any] = {"max_new_tokens": self.max_new_tokens, "do_sample": self.temperature > 0}
        if self.temperature > 0:
            options |= {"temperature": self.temperature, "top_p": self.top_p, "top_k": self.top_k}
        if self.num_beams > 1:
            options["num_beams"] = self.num_beams
        if self.repetition_penalty != 1.0:
            options["repetition_penalty"] = self.repetition_penalty
        return options


def add_sampling_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--max_new_tokens", type=int, default=256, help="longest answer in tokens")
    parser.add_argument("--temperature", type=float, default=0.0, help="0 is greedy; higher is more varied")
    parser.add_argument("--top_p", type=float, default=1.0, help="sample from the likeliest tokens of this total")
    parser.add_argument("--top_k", type=int, default=0, help="sample from this many likeliest tokens; 0 is all")
    parser.add_argument("--repetition_penalty", type=float, default=1.0, help="above 1 discourages repetition")
    parser.add_argument("--trust_remote_code", action="store_true", help="run code of the base model if it has any")
    parser.add_argument(
        "--template", choices=("alpaca", "chat"), help="prompt format of an adapter that was not trained here"
    )
    parser.add_argument("--seed", type=int, default=None, help="seed of sampling")


def sampling_of(options: argparse.Namespace) -> Sampling:
    """Raises ArgumentsError with all impossible values at once."""
    wrong = []
    if options.max_new_tokens < 1:
        wrong.append(f"--max_new_tokens must be at least 1, found {options.max_new_tokens}")
    # Written so that "nan" is refused as well.
    if not options.temperature >= 0:
        wrong.append(f"--temperature must not be negative, found {options.temperature}")
    if not 0 < options.top_p <= 1:
        wrong.append(f"--top_p must be above 0 and at most 1, found {options.top_p}")
    if options.top_k < 0:
        wrong.append(f"--top_k must not be negative, found {options.top_k}")
    if not options.repetition_penalty > 0:
        wrong.append(f"--repetition_penalty must be above 0, found {options.repetition_penalty}")
    if wrong:
        raise ArgumentsError("\n".join(wrong))
    if options.seed is not None:
        import torch

        torch.manual_seed(options.seed)
    return Sampling(
        max_new_tokens=options.max_new_tokens,
        temperature=options.temperature,
        top_p=options.top_p,
        top_k=options.top_k,
        repetition_penalty=options.repetition_penalty,
    )
