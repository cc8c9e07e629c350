"""What a request may ask of an engine: impossible ones are refused before they wait, with all reasons at once."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from neuralchat.errors import ArgumentsError, problem_list
from neuralchat.inference.engine.interface import Request


@dataclass(frozen=True)
class Limits:
    """What the engine's models have room for.

    `vocabulary`: ids below it have a row of the embeddings. `scores`: ids below it have a score, so that they can be
    answered. `positions`: of prompt and answer together, None where they are not bounded. `apart`: the answer has
    positions of its own (encoder-decoder). `memory`: keys and values, in tokens of prompt and answer; None where
    nothing is set.
    """

    vocabulary: int
    scores: int
    positions: int | None
    apart: bool = False
    memory: int | None = None

    def with_memory(self, tokens: int) -> Limits:
        return replace(self, memory=tokens)

    def room(self, prompt: int) -> int | None:
        """Most tokens of an answer to so many of a prompt, below 1 where there is none; None: not bounded."""
        bounds = []
        if self.positions is not None and self.apart:
            # One position is that of the token that answers begin after.
            bounds.append(self.positions - 1 if prompt <= self.positions else 0)
        elif self.positions is not None:
            bounds.append(self.positions - prompt)
        if self.memory is not None:
            bounds.append(self.memory - prompt)
        return min(bounds, default=None)


def check_request(request: Request, limits: Limits) -> int:
    """Most tokens of its answer. Raises ArgumentsError."""
    problems = [*id_problems(request, limits), *value_problems(request, limits)]
    room = limits.room(len(request.prompt_ids))
    if room is not None and room < 1:
        problems.append(
            f"the prompt has {len(request.prompt_ids)} tokens; prompt and answer have room for "
            f"{min(x for x in (limits.positions, limits.memory) if x is not None)} together"
        )
    if problems:
        raise ArgumentsError(problem_list("the request cannot be answered:", problems))
    wanted = request.sampling.max_new_tokens
    return wanted if room is None else min(wanted, room)


def id_problems(request: Request, limits: Limits) -> list[str]:
    if not request.prompt_ids:
        return ["the prompt is empty"]
    outside = [id_ for id_ in request.prompt_ids if not 0 <= id_ < limits.vocabulary]
    if outside:
        return [f"the prompt holds the token id {outside[0]}; ids are from 0 to {limits.vocabulary - 1}"]
    return []


def value_problems(request: Request, limits: Limits) -> list[str]:
    problems = []
    if request.sampling.num_beams != 1:
        problems.append(f"--num_beams is {request.sampling.num_beams}; an engine computes no beams")
    for id_, number in request.logit_bias.items():
        if not 0 <= id_ < limits.scores:
            problems.append(f"logit_bias names the token id {id_}; ids are from 0 to {limits.scores - 1}")
        elif not math.isfinite(number):
            problems.append(f"the logit_bias of token {id_} is {number}; it must be a finite number")
    if request.top_logprobs is not None and not 0 <= request.top_logprobs <= limits.scores:
        problems.append(f"top_logprobs must be from 0 to {limits.scores}, found {request.top_logprobs}")
    return problems
