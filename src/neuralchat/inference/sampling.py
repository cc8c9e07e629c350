"""How the next token of an answer is chosen, and which values are impossible. Imports nothing heavy."""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Mapping
from typing import Any, TypedDict

from neuralchat.errors import ArgumentsError, problem_list

# What torch takes as the seed of a generator.
LOWEST_SEED, HIGHEST_SEED = -(1 << 63), (1 << 64) - 1
# Of presence and frequency, as in the API of OpenAI.
MOST_PENALTY = 2.0


class SamplingOptions(TypedDict, total=False):
    """The options of `Chatbot.chat`, `.stream` and `.predict`: those of `Sampling`, any of them left out."""

    max_new_tokens: int
    temperature: float
    top_p: float
    top_k: int
    min_p: float
    repetition_penalty: float
    presence_penalty: float
    frequency_penalty: float
    num_beams: int
    seed: int | None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sampling:
    """How the next token is chosen. Raises ArgumentsError with all impossible values at once.

    temperature 0 is greedy: the likeliest token, always the same answer. `top_p` (above 0, at most 1), `top_k` (0 is
    all) and `min_p` (a share of the likeliest token's probability) bound the tokens that are drawn from.
    `repetition_penalty` divides positive scores, and multiplies negative ones, of tokens that prompt or answer hold;
    `presence_penalty`, and `frequency_penalty` once for each time, are taken from the scores of tokens that the answer
    holds. `seed` makes a draw repeatable; torch's own generator goes on as if nothing had been drawn.

    >>> Sampling(max_new_tokens=8).options()
    {'max_new_tokens': 8, 'do_sample': False}
    """

    max_new_tokens: int = 256
    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    num_beams: int = 1
    seed: int | None = None

    def __post_init__(self) -> None:
        if wrong := kind_problems(self) or sampling_problems(self):
            raise ArgumentsError("\n".join(wrong), problems=wrong)

    def options(self) -> dict[str, Any]:
        """The arguments of transformers' generate; it has none for presence and frequency (penalties.py)."""
        options: dict[str, Any] = {"max_new_tokens": self.max_new_tokens, "do_sample": self.temperature > 0}
        if self.temperature > 0:
            options |= {"temperature": self.temperature, "top_p": self.top_p, "top_k": self.top_k}
            if self.min_p > 0:
                options["min_p"] = self.min_p
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
    if not 0 <= sampling.min_p <= 1:
        problems.append(f"--min_p must be from 0 to 1, found {sampling.min_p}")
    if not sampling.repetition_penalty > 0:
        problems.append(f"--repetition_penalty must be above 0, found {sampling.repetition_penalty}")
    for name in ("presence_penalty", "frequency_penalty"):
        if not -MOST_PENALTY <= getattr(sampling, name) <= MOST_PENALTY:
            problems.append(f"--{name} must be from -2 to 2, found {getattr(sampling, name)}")
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
