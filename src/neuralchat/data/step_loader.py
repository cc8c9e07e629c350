"""batch plan -> what a rank computes in each accumulation step, as an ordinary DataLoader."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from dataclasses import dataclass, field

from torch.utils.data import DataLoader, Dataset, Sampler

from neuralchat.data.batch_plan import BatchPlan, share_of_rank
from neuralchat.data.example_store import ExampleStore
from neuralchat.data.layout import Layout, Packed
from neuralchat.data.tokenization import Example


@dataclass(frozen=True)
class StepPart:
    """One accumulation step of one rank. Packed rows, or lists of examples where padding is asked for."""

    packed: list[Packed] = field(default_factory=list)
    padded: list[list[Example]] = field(default_factory=list)

    @property
    def tokens(self) -> int:
        return sum(batch.tokens for batch in self.packed) + sum(len(e.input_ids) for b in self.padded for e in b)

    @property
    def supervised_tokens(self) -> int:
        packed = sum(batch.supervised_tokens for batch in self.packed)
        return packed + sum(int(e.supervised.sum()) for b in self.padded for e in b)


class StepParts(Dataset[StepPart]):
    """Item k of an epoch is part k % accumulation_steps of optimizer step k // accumulation_steps.

    Items are numbered on over the epochs; `epoch` is set before each pass. Parts may be empty; that every step has
    as many keeps the Trainer's own count of accumulation steps right. Without a `layout` batches are padded.
    """

    def __init__(
        self,
        store: ExampleStore,
        plan: BatchPlan,
        *,
        accumulation_steps: int,
        rank: int,
        world: int,
        micro_batch_tokens: int,
        layout: Layout | None,
    ) -> None:
        self.store = store
        self.plan = plan
        self.accumulation_steps = accumulation_steps
        self.rank, self.world = rank, world
        self.micro_batch_tokens = micro_batch_tokens
        self.layout = layout
        self.epoch = 0

    def __len__(self) -> int:
        return self.plan.steps * self.accumulation_steps

    def __getitem__(self, index: int) -> StepPart:
        epoch, item = divmod(index, len(self))
        step, part = divmod(item, self.accumulation_steps)
        units = share_of_rank(self.plan.step(epoch, step), self.plan.lengths, self.rank, self.world)
        examples = [self.store[i] for unit in units[part :: self.accumulation_steps] for i in unit]
        return self.part(examples)

    def part(self, examples: list[Example]) -> StepPart:
        """These examples as micro-batches."""
        if not examples:
            return StepPart()
        if self.layout is None:
            return StepPart(padded=split_padded(examples, self.micro_batch_tokens))
        return StepPart(packed=self.layout.micro_batches(examples, self.micro_batch_tokens))


def split_padded(examples: list[Example], micro_batch_tokens: int) -> list[list[Example]]:
    """Batches of at most `micro_batch_tokens` tokens with their padding, longest examples first."""
    batches: list[list[Example]] = []
    width = 0
    for example in sorted(examples, key=lambda e: -len(e.input_ids)):
        if not batches or width * (len(batches[-1]) + 1) > micro_batch_tokens:
            batches.append([])
            width = len(example.input_ids)
        batches[-1].append(example)
    return batches


class EpochSampler(Sampler[int]):
    """The items of the epoch that `parts` stands at; workers need not know the epoch."""

    def __init__(self, parts: StepParts) -> None:
        self.parts = parts

    def __len__(self) -> int:
        return len(self.parts)

    def __iter__(self) -> Iterator[int]:
        first = self.parts.epoch * len(self.parts)
        return iter(range(first, first + len(self.parts)))


def only_part(parts: list[StepPart]) -> StepPart:
    """The collator: an item of the plan is a whole batch already."""
    return parts[0]


def leave_signals_alone(_worker: int) -> None:
    """Ctrl-C and batch systems reach workers too; the process they work for decides, and ends them."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1):
        signal.signal(number, signal.SIG_IGN)


def make_loader(parts: StepParts, *, workers: int, persistent: bool, prefetch: int | None) -> DataLoader[StepPart]:
    # A batch of one item, since accelerate can skip batches of a resumed run, but not single items.
    return DataLoader(
        parts,
        batch_size=1,
        sampler=EpochSampler(parts),
        collate_fn=only_part,
        num_workers=workers,
        persistent_workers=persistent and workers > 0,
        prefetch_factor=prefetch if workers else None,
        worker_init_fn=leave_signals_alone if workers else None,
    )
