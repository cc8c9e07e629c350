"""batch plan -> what one rank computes in each optimizer step, packed or padded, read ahead by workers if wanted."""

from __future__ import annotations

import re
import signal
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from multiprocessing import active_children
from multiprocessing.process import BaseProcess
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset

from neuralchat.console import note
from neuralchat.data.batch_plan import BatchPlan, share_of_rank
from neuralchat.data.example_store import ExampleStore
from neuralchat.data.general_plan import GeneralPlan
from neuralchat.data.layout import Layout, Packed
from neuralchat.data.tokenization import Example
from neuralchat.errors import DataError

# What torch says of a worker that is gone.
LOST_WORKER = re.compile(r"DataLoader worker \(.*\) (exited unexpectedly|is killed by signal)")
# Of workers in a row before the same step.
MOST_DEATHS = 3


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
class StepShares(Dataset[StepShare]):
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


def leave_signals_alone(_worker: int) -> None:
    """Let a loader's worker ignore signals: they reach it too, but the training process decides when it ends."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1):
        signal.signal(number, signal.SIG_IGN)


def whole_item(share: Any) -> Any:
    """The collator: an item is a whole batch already."""
    return share


class Steps:
    """A sampler: the numbers of the steps to be loaded, which may be set anew before each pass."""

    def __init__(self) -> None:
        self.range = range(0)

    def __len__(self) -> int:
        return len(self.range)

    def __iter__(self) -> Iterator[int]:
        return iter(self.range)


class StepLoader:
    """Reads shares ahead in worker processes.

    `persistent`: workers live on from epoch to epoch. `prefetch`: shares that each keeps ready; None: torch's default.
    """

    def __init__(
        self, shares: StepShares, *, workers: int = 0, persistent: bool = False, prefetch: int | None = None
    ) -> None:
        self.shares = shares
        self.sampler = Steps()
        self.options: dict[str, Any] = {}
        if workers:
            self.options = {
                "num_workers": workers,
                "persistent_workers": persistent,
                "prefetch_factor": prefetch,
                "worker_init_fn": leave_signals_alone,
            }
        self.workers: list[BaseProcess] = []
        self.loader = self.make()

    def make(self) -> DataLoader[StepShare]:
        return DataLoader(self.shares, batch_size=None, sampler=self.sampler, collate_fn=whole_item, **self.options)

    def set_micro_batch_tokens(self, micro_batch_tokens: int) -> None:
        """From the next pass on. Workers have copies of the shares, made when they start: others replace them."""
        self.shares.micro_batch_tokens = micro_batch_tokens
        self.loader = self.make()

    def steps(self, first: int, end: int) -> Iterator[StepShare]:
        """The shares of optimizer steps [first, end). Takes one number from torch's generator, as every loader does.

        A worker that is killed is replaced; raises DataError where that happens again and again.
        """
        return self.from_workers(self.begin(first, end), first, end)

    def begin(self, first: int, end: int) -> Iterator[StepShare]:
        self.sampler.range = range(first, end)
        is_main = threading.current_thread() is threading.main_thread()
        before = signal.getsignal(signal.SIGCHLD)
        others = active_children()
        shares = iter(self.loader)
        self.workers += [process for process in active_children() if process not in others]
        if is_main and before is not None:
            # torch would raise in the midst of whatever is done when a worker dies, such as half of an optimizer step.
            # That one has died is found all the same when its share is asked for.
            signal.signal(signal.SIGCHLD, before)
        return shares

    def from_workers(self, shares: Iterator[StepShare], first: int, end: int) -> Iterator[StepShare]:
        step, deaths = first, 0
        while step < end:
            try:
                share = next(shares)
            except RuntimeError as error:
                if not LOST_WORKER.match(str(error)):
                    raise
                deaths += 1
                if deaths > MOST_DEATHS:
                    raise DataError(
                        f"the processes that read ahead are killed again and again before step {step + 1}; is memory "
                        "short? --dataloader_num_workers 0 does without them"
                    ) from error
                note("a process that read ahead was killed; another takes its place")
                # They ignore SIGTERM, and may wait for what the dead one held.
                while self.workers:
                    self.workers.pop().kill()
                self.loader = self.make()
                # A loader that begins takes a random number, which an undisturbed run takes once.
                state = torch.get_rng_state()
                shares = self.begin(step, end)
                torch.set_rng_state(state)
                continue
            yield share
            step, deaths = step + 1, 0
