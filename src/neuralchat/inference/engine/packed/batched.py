"""Many answers at a time: each step computes a token of every running answer and parts of new prompts, packed.

Which run is settled by memory. An answer is taken up when its prompt has room, not when its longest possible length
has: few answers become that long, and memory kept for the others would stand empty. Where it runs out, the youngest
answer gives its blocks back and is computed again later, from what is still known of it; the oldest always goes on.

Adapters of plain LoRA and the base are in one pass, each with its own rows of it. One that changes more than rows can
be given apart has a pass of its own in each step.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby

from torch import Tensor

from neuralchat.inference.engine.interface import Reason
from neuralchat.inference.engine.jobs import Job, Outcome
from neuralchat.inference.engine.next_token import choose_tokens
from neuralchat.inference.engine.packed.blocks import Blocks
from neuralchat.inference.engine.packed.packed_pass import Chunk, PackedPass
from neuralchat.inference.engine.packed.proof import computes_as_model, native_computes_as_packed
from neuralchat.inference.engine.packed.running import Running, in_order
from neuralchat.inference.engine.packed.virtual_start import VirtualStart, virtual_start
from neuralchat.inference.engine.shelf import Shelf, ShelfAdapter
from neuralchat.models.kernels.decoder import PAGE
from neuralchat.models.layers.row_lora import RowPart, is_plain_lora, row_parts, take_row_lora

MOST_RUNNING = 32
# Tokens of prompts in one step: more are computed faster, but those who wait for their next token wait longer.
PROMPT_TOKENS_ALONE, PROMPT_TOKENS_BESIDE = 512, 128


class PackedAnswers:
    """See torch_engine.Batch. `memory_tokens` are rounded up to whole blocks; `most_kept_tokens`: see Blocks."""

    def __init__(
        self,
        shelf: Shelf,
        memory_tokens: int,
        *,
        most_kept_tokens: int | None = None,
        most_running: int = MOST_RUNNING,
        native: bool = True,
    ) -> None:
        self.shelf, self.most_running = shelf, most_running
        self.most_kept = None if most_kept_tokens is None else most_kept_tokens // PAGE
        self.memory = Blocks(-(-memory_tokens // PAGE), PAGE, self.most_kept)
        self.packed = PackedPass(shelf.base, self.memory.total)
        # In the order in which they came.
        self.active: list[Running] = []
        self.paused: list[Running] = []
        self.parts: list[Sequence[RowPart] | None] = [None]
        # How each adapter is computed, by its number: with others' rows (True), in a pass of its own (False). And the
        # virtual tokens of those that have some.
        self.by_rows: dict[int, bool] = {}
        self.starts: dict[int, VirtualStart] = {}
        self.cached_prompt_tokens = self.generated_tokens = 0
        self.proven = computes_as_model(self.packed, shelf.use(None))
        if self.proven and native:
            self.packed.take_native()
            if self.packed.native is not None and not native_computes_as_packed(self.packed):
                self.packed.native = None
        self.adapters_changed()

    def adapters_changed(self) -> None:
        take_row_lora(self.shelf.base, self.parts)
        for adapter in self.shelf.adapters.values():
            if adapter.number not in self.by_rows:
                self.prove(adapter)
        self.tell_native()

    def tell_native(self) -> None:
        """Let the compiled layers know the adapters whose rows they can compute."""
        native = self.packed.native
        if native is not None:
            names = [kept.peft_name for kept in self.shelf.in_layers if self.by_rows.get(kept.number)]
            native.set_adapters([name for name in names if native.covers(self.shelf.base, name)])

    def prove(self, adapter: ShelfAdapter) -> None:
        """Settle how an adapter is computed; not at all here where it would not be as PEFT does."""
        model, name = self.shelf.use(adapter), adapter.peft_name
        if adapter.is_virtual:
            start = virtual_start(model)
            if computes_as_model(self.packed, model, start=start):
                self.by_rows[adapter.number], self.starts[adapter.number] = True, start
            return

        def rows_apart(chunks: Sequence[Chunk]) -> Tensor:
            with row_parts(self.parts, [(name, 0, sum(len(chunk.ids) for chunk in chunks))]):
                return self.packed.logits(chunks)

        by_rows = is_plain_lora(self.shelf.base, name)
        if by_rows and computes_as_model(self.packed, model, rows_apart):
            self.by_rows[adapter.number] = True
        elif computes_as_model(self.packed, model):
            self.by_rows[adapter.number] = False

    # What the engine asks

    @property
    def running(self) -> int:
        return len(self.active) + len(self.paused)

    @property
    def memory_tokens(self) -> int:
        return self.memory.total * PAGE

    @property
    def memory_tokens_used(self) -> int:
        return self.memory.used_tokens

    def jobs(self) -> list[Job]:
        return [one.job for one in (*self.active, *self.paused)]

    def takes(self, adapter: ShelfAdapter | None) -> bool:
        return self.proven and (adapter is None or adapter.number in self.by_rows)

    def has_room(self, job: Job) -> bool:
        if self.paused or len(self.active) >= self.most_running:
            return False
        return self.fits(len(job.request.prompt_ids) + self.virtual_tokens(job.adapter))

    def virtual_tokens(self, adapter: ShelfAdapter | None) -> int:
        """Places of each text that virtual tokens take."""
        start = None if adapter is None else self.starts.get(adapter.number)
        return 0 if start is None else start.count

    def fits(self, tokens: int) -> bool:
        """Whether a text, and the next token of it and of every other one, have room."""
        needed = self.memory.blocks_for(tokens + 1) + len(self.active)
        return not self.active or needed <= self.memory.free

    def add(self, job: Job) -> None:
        root = 0 if job.adapter is None else job.adapter.number
        one = Running(job, root, self.starts.get(root))
        one.begin(self.memory, self.packed.memory)
        self.cached_prompt_tokens += one.cached_tokens or 0
        self.active.append(one)

    def drop_all(self) -> list[Job]:
        jobs = self.jobs()
        self.active, self.paused = [], []
        self.memory = Blocks(self.memory.total, PAGE, self.most_kept)
        return jobs

    # A step

    def step(self) -> list[Outcome]:
        ended = [one.outcome("cancelled") for one in self.take_cancelled()]
        while self.paused and self.fits(len(self.paused[0].ids)):
            one = self.paused.pop(0)
            one.begin(self.memory, self.packed.memory)
            self.active.append(one)
        planned = self.plan()
        for part in self.passes(list(planned)):
            for one, reason in self.compute(part, planned):
                one.leave(self.memory)
                self.active.remove(one)
                ended.append(one.outcome(reason))
        return ended

    def take_cancelled(self) -> Iterator[Running]:
        for one in [one for one in self.active if one.job.cancelled]:
            one.leave(self.memory)
            self.active.remove(one)
            yield one
        for one in [one for one in self.paused if one.job.cancelled]:
            self.paused.remove(one)
            yield one

    def plan(self) -> dict[Running, int]:
        """How many tokens of each answer are computed in this step; all of them have their place in the memory."""
        beside = any(one.left == 1 for one in self.active)
        budget = PROMPT_TOKENS_BESIDE if beside else PROMPT_TOKENS_ALONE
        planned: dict[Running, int] = {}
        for one in list(self.active):
            if one not in self.active:
                continue
            count = 1 if one.left == 1 else min(one.left, budget)
            if count and self.make_room(one, count, planned):
                planned[one] = count
                budget -= count if one.left > 1 else 0
        return planned

    def make_room(self, one: Running, count: int, planned: dict[Running, int]) -> bool:
        while not one.hold(self.memory, count):
            youngest = self.active.pop()
            planned.pop(youngest, None)
            youngest.leave(self.memory)
            self.paused.insert(0, youngest)
            if youngest is one:
                return False
        return True

    def passes(self, planned: Sequence[Running]) -> Iterator[list[Running]]:
        """Those that are computed in one pass."""

        def of_pass(one: Running) -> int:
            return 0 if self.by_rows.get(one.root, True) else one.root

        for _, part in groupby(sorted(planned, key=of_pass), key=of_pass):
            yield in_order(list(part))

    def compute(self, part: Sequence[Running], planned: dict[Running, int]) -> Iterator[tuple[Running, Reason]]:
        """One pass; yields those whose answers have ended."""
        chunks = [one.chunk(planned[one]) for one in part]
        adapter = part[0].job.adapter
        names: list[str | None] = []
        if self.by_rows.get(part[0].root, True):
            self.shelf.use(None)
            parts = row_parts(self.parts, list(lora_parts(part, planned)))
            names = [None if one.start or one.job.adapter is None else one.job.adapter.peft_name for one in part]
        else:
            self.shelf.use(adapter)
            parts = row_parts(self.parts, None)
        with parts:
            logits = self.packed.logits(chunks, names)
        for one in part:
            one.was_computed(self.memory, planned[one])
        wanted = [one for one, chunk in zip(part, chunks, strict=True) if chunk.wanted]
        tokens = choose_tokens(logits, [one.chooser for one in wanted])
        self.generated_tokens += len(tokens)
        for one, token in zip(wanted, tokens, strict=True):
            if (reason := one.take(token)) is not None:
                yield one, reason


def lora_parts(part: Sequence[Running], planned: dict[Running, int]) -> Iterator[RowPart]:
    """(adapter, first token, end) of the neighbouring texts of one adapter."""
    start = 0
    for root, texts in groupby(part, key=lambda one: one.root):
        members = list(texts)
        end = start + sum(planned[one] for one in members)
        if root and members[0].start is None:
            yield members[0].job.adapter.peft_name, start, end
        start = end
