"""batch plan -> what one rank computes in each optimizer step, packed or padded."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from neuralchat.data.batch_plan import BatchPlan, share_of_rank
from neuralchat.data.example_store import ExampleStore
from neuralchat.data.general_plan import GeneralPlan
from neuralchat.data.layout import Layout, Packed
from neuralchat.data.tokenization import Example


@dataclass(frozen=True)
class StepShare:
    """The micro-batches of one rank in one optimizer step: packed rows, or lists of examples to be padded.

    It may be empty: in a ragged last step there may be fewer units than ranks. General prompts are laid in the packed
    rows, or stand apart, to be padded; they are counted nowhere.
    """

    packed: list[Packed] = field(default_factory=list)
    padded: list[list[Example]] = field(default_factory=list)
    padded_general: list[list[Example]] = field(default_factory=list)

    @property
    def micro_batches(self) -> int:
        return len(self.packed) + len(self.padded) + len(self.padded_general)

    @property
    def tokens(self) -> int:
        return sum(batch.tokens for batch in self.packed) + sum(len(e.input_ids) for b in self.padded for e in b)

    @property
    def supervised_tokens(self) -> int:
        packed = sum(batch.supervised_tokens for batch in self.packed)
        return packed + sum(int(e.supervised.sum()) for b in self.padded for e in b)


@dataclass
class StepShares:
    """Item k is this rank's share of optimizer step k, counted on over the epochs.

    `micro_batch_tokens` bounds the tokens computed at once. Without a `layout` micro-batches are padded. `general`: the
    general prompts beside each step, where there are any.
    """

    store: ExampleStore
    plan: BatchPlan
    rank: int
    world_size: int
    micro_batch_tokens: int
    layout: Layout | None
    general: GeneralPlan | None = None

    def __getitem__(self, index: int) -> StepShare:
        units = self.units(index)
        own = share_of_rank(units, self.plan.lengths, self.rank, self.world_size)
        general = [] if self.general is None else self.general.share(index, self.rank, self.world_size)
        return self.share([self.store[i] for unit in own for i in unit], general)

    def units(self, index: int) -> list[list[int]]:
        """The units of optimizer step `index`, those of all ranks."""
        return self.plan.step(*divmod(index, self.plan.steps))

    def sources(self, index: int) -> list[str]:
        """Which records optimizer step `index` is made of, on all ranks."""
        return [self.store[i].source for unit in self.units(index) for i in unit]

    def share(self, examples: list[Example], general: Sequence[Example] = ()) -> StepShare:
        """These examples as micro-batches, and general prompts with them."""
        if self.layout is None:
            padded, apart = (split_padded(some, self.micro_batch_tokens) for some in (examples, general))
            return StepShare(padded=padded, padded_general=apart)
        return StepShare(packed=self.layout.micro_batches([*examples, *general], self.micro_batch_tokens))


def split_padded(examples: Sequence[Example], micro_batch_tokens: int) -> list[list[Example]]:
    """Batches of at most `micro_batch_tokens` tokens with their padding, longest examples first."""
    batches: list[list[Example]] = []
    width = 0
    for example in sorted(examples, key=lambda e: -len(e.input_ids)):
        if not batches or width * (len(batches[-1]) + 1) > micro_batch_tokens:
            batches.append([])
            width = len(example.input_ids)
        batches[-1].append(example)
    return batches
