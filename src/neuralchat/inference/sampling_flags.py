"""Flags of chat and eval that decide how the next token is chosen. Imports nothing heavy: help must be instant."""

from __future__ import annotations

import argparse
import dataclasses

from neuralchat.inference.sampling import Sampling


def add_sampling_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--max_new_tokens", type=int, default=256, help="longest answer in tokens")
    parser.add_argument("--temperature", type=float, default=0.0, help="0 is greedy; higher is more varied")
    parser.add_argument("--top_p", type=float, default=1.0, help="sample from the likeliest tokens of this total")
    parser.add_argument("--top_k", type=int, default=0, help="sample from this many likeliest tokens; 0 is all")
    parser.add_argument(
        "--min_p",
        type=float,
        default=0.0,
        help="sample from tokens of at least this share of the likeliest's probability",
    )
    parser.add_argument("--repetition_penalty", type=float, default=1.0, help="above 1 discourages repetition")
    parser.add_argument(
        "--presence_penalty", type=float, default=0.0, help="-2 to 2; above 0 discourages tokens that the answer holds"
    )
    parser.add_argument(
        "--frequency_penalty", type=float, default=0.0, help="-2 to 2; the same, once for each time a token came"
    )
    parser.add_argument("--trust_remote_code", action="store_true", help="run code of the base model if it has any")
    parser.add_argument(
        "--template", choices=("alpaca", "chat"), help="prompt format of an adapter that was not trained here"
    )
    parser.add_argument("--seed", type=int, default=None, help="seed of sampling")


def sampling_of(options: argparse.Namespace) -> Sampling:
    """Raises ArgumentsError with all impossible values at once."""
    names = {field.name for field in dataclasses.fields(Sampling)}
    return Sampling(**{name: value for name, value in vars(options).items() if name in names})
