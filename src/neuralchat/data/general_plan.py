"""general prompts -> the examples beside each optimizer step whose distributions are to stay those of the base model.

Which they are is a pure function of the prompts, the seed and the number of the step, as of the batches themselves.

Shapes: T tokens of one example.
"""

from __future__ import annotations

import hashlib
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from neuralchat.data.batch_plan import rng_for, share_of_rank
from neuralchat.data.general_prompts import GeneralPrompt, rehearsal_prompts
from neuralchat.data.records import Turn
from neuralchat.data.templates.template import Template
from neuralchat.data.tokenization import Encoder, Example

# Examples that the base model is asked together.
GROUP = 32


def general_examples(
    tokenizer: Any, template: Template, prompts: Sequence[GeneralPrompt] | None = None, *, max_seq_length: int
) -> list[Example]:
    """The prompts with their answers, as training shows them; those longer than `max_seq_length` tokens are left out.

    `supervised` marks the tokens whose predictions are compared, and `first_known` numbers them: all but the beginning
    that is the same for all.
    """
    chosen = rehearsal_prompts() if prompts is None else prompts
    encoder = Encoder(tokenizer, template, max_seq_length=max_seq_length, train_on_inputs=False)
    conversations = ((*prompt.turns, Turn("assistant", prompt.answer)) for prompt in chosen)
    encoded = encoder.encode_pieces(template.render(turns) for turns in conversations)
    rows = [ids for ids, _ in encoded if len(ids) <= max_seq_length]
    same = shared_beginning(rows)
    examples, number = [], 0
    for row in rows:
        place = np.arange(len(row)) >= max(1, same)
        examples.append(Example(row, place, "a general prompt", first_known=number))
        number += int(place.sum())
    return examples


def shared_beginning(rows: Sequence[np.ndarray]) -> int:
    """How many tokens all rows begin with, where there are several rows.

    >>> shared_beginning([np.array([1, 2, 3]), np.array([1, 2, 4, 5])])
    2
    """
    if len(rows) < 2:
        return 0
    width = min(map(len, rows))
    same = np.all([row[:width] == rows[0][:width] for row in rows], axis=0)
    return width if same.all() else int(np.argmin(same))


@dataclass(frozen=True)
class GeneralPlan:
    """`tokens_per_step`: how many tokens of general prompts stand beside a step on average.

    They are taken in an order that is shuffled anew whenever all were taken. Step k takes those that begin in the k-th
    stretch of `tokens_per_step` tokens, so a step may have none.
    """

    examples: Sequence[Example]
    seed: int
    tokens_per_step: float

    @cached_property
    def lengths(self) -> list[int]:
        return [len(example.input_ids) for example in self.examples]

    @cached_property
    def fingerprint(self) -> str:
        digest = hashlib.sha256()
        for example in self.examples:
            digest.update(example.input_ids.astype("<i4").tobytes() + b"|")
        return digest.hexdigest()

    @property
    def positions_per_step(self) -> float:
        """How many predictions are compared beside a step on average."""
        compared = sum(int(example.supervised.sum()) for example in self.examples)
        return self.tokens_per_step * compared / sum(self.lengths)

    def step(self, step: int) -> list[int]:
        """Which examples stand beside optimizer step `step`, counted on from 0 over the epochs."""
        total = sum(self.lengths)
        begin, end = step * self.tokens_per_step, (step + 1) * self.tokens_per_step
        chosen: list[int] = []
        for pass_ in range(int(begin // total), int(end // total) + 1):
            order = self.order(pass_)
            starts = self.starts(order) + pass_ * total
            chosen += order[bisect_left(starts, begin) : bisect_left(starts, end)].tolist()
        return chosen

    def order(self, pass_: int) -> np.ndarray:
        """In which order the examples are taken for the `pass_`-th time, from 0."""
        return rng_for(self.fingerprint, self.seed, f"general {pass_}").permutation(len(self.examples))

    def starts(self, order: np.ndarray) -> np.ndarray:
        """At which token each of them begins, laid end to end."""
        return np.cumsum([0, *(self.lengths[i] for i in order)])[:-1]

    def groups_of(self, steps: int | None) -> list[list[Example]]:
        """What the base model is to be asked for so many steps, None: any: the examples in groups, as first taken.

        Which examples are in a group does not depend on the number of steps, so neither does what is computed of it.
        """
        order = self.order(0)
        needed = len(order) if steps is None else bisect_left(self.starts(order), steps * self.tokens_per_step)
        groups = [order[first : first + GROUP] for first in range(0, needed, GROUP)]
        return [[self.examples[i] for i in group] for group in groups]

    def share(self, step: int, rank: int, world_size: int) -> list[Example]:
        """Those of them that `rank` computes."""
        units = [[index] for index in self.step(step)]
        return [self.examples[i] for unit in share_of_rank(units, self.lengths, rank, world_size) for i in unit]
