"""How the next token of an answer is chosen, and which values are impossible. Imports nothing heavy."""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Mapping
from typing import Any, TypedDict

from neuralchat.errors import ArgumentsError, problem_list

# What torch takes as the seed of a generator.
LOWEST_SEED, HIGHEST_SEED = -(1 << 63), (1 << 64) - 1


class SamplingOptions(TypedDict, total=False):
    """The options of `Chatbot.chat`, `.stream` and `.predict`: those of `Sampling`, any of them left out."""

    max_new_tokens: int
    temperature: float
    top_p: float
    top_k: int
    repetition_penalty: float
    num_beams: int
    seed: int | None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sampling:
    """How the next token is chosen. Raises ArgumentsError with all impossible values at once.

    temperature 0 is greedy: the likeliest token, always the same answer. `top_p` (above 0, at most 1) and `top_k` (0 is
    all) bound the tokens that are drawn from. `seed` makes a draw repeatable; torch's own generator goes on as if
    nothing had been drawn.

    >>> Sampling(max_new_tokens=8).options()
    {'max_new_tokens': 8, 'do_sample': False}
    """

    max_new_tokens: int = 256
    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int = 0
    repetition_penalty: float = 1.0
    num_beams: int = 1
    seed: int | None = None

    def __post_init__(self) -> None:
        if wrong := kind_problems(self) or sampling_problems(self):
            raise ArgumentsError("\n".join(wrong))

    def options(self) -> dict[str, Any]:
        """The arguments of transformers' generate."""
        options: dict[str, Any] = {"max_new_tokens": self.max_new_tokens, "do_sample": self.temperature > 0}
        if self.temperature > 0:
            options |= {"temperature": self.temperature, "top_p": self.top_p, "top_k": self.top_k}
        if self.num_beams > 1:
            options["num_beams"] = self.num_beams
        if self.repetition_penalty != 1.0:
            options["repetition_penalty"] = self.repetition_penalty
        return options


def kind_problems(sampling: Sampling) -> list[str]:
    problems = []
    for field in dataclasses.fields(sampling):
        value = getattr(sampling, field.name)
        if value is None and field.default is None:
            continue
        whole = not isinstance(field.default, float)
        if isinstance(value, bool) or not isinstance(value, int if whole else int | float):
            problems.append(f"--{field.name} must be a {'whole ' if whole else ''}number, found {value!r:.40}")
    return problems


def sampling_problems(sampling: Sampling) -> list[str]:
    problems = []
    if sampling.max_new_tokens < 1:
        problems.append(f"--max_new_tokens must be at least 1, found {sampling.max_new_tokens}")
    # Written so that "nan" is refused as well.
    if not sampling.temperature >= 0:
        problems.append(f"--temperature must not be negative, found {sampling.temperature}")
    if not 0 < sampling.top_p <= 1:
        problems.append(f"--top_p must be above 0 and at most 1, found {sampling.top_p}")
    if sampling.top_k < 0:
        problems.append(f"--top_k must not be negative, found {sampling.top_k}")
    if not sampling.repetition_penalty > 0:
        problems.append(f"--repetition_penalty must be above 0, found {sampling.repetition_penalty}")
    if sampling.num_beams < 1:
        problems.append(f"--num_beams must be at least 1, found {sampling.num_beams}")
    if sampling.seed is not None and not LOWEST_SEED <= sampling.seed <= HIGHEST_SEED:
        problems.append(f"--seed must be from {LOWEST_SEED} to {HIGHEST_SEED}, found {sampling.seed}")
    return problems


def sampling_from(options: Mapping[str, Any]) -> Sampling:
    """Options of a call. Raises ArgumentsError for names that are unknown, and for impossible values."""
    known = [field.name for field in dataclasses.fields(Sampling)]
    problems = []
    for name in options:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
            problems.append(f"unknown option {name}" + (f"; did you mean {near[0]}?" if near else ""))
    if problems:
        raise ArgumentsError(problem_list(f"an answer takes the options {', '.join(known)}:", problems))
    return Sampling(**options)
