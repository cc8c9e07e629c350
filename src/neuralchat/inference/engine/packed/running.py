"""An answer that is being computed together with others."""

from __future__ import annotations

from collections.abc import Sequence

from neuralchat.inference.engine.interface import Reason, Token
from neuralchat.inference.engine.jobs import Job, Outcome
from neuralchat.inference.engine.next_token import Chooser
from neuralchat.inference.engine.packed.blocks import Blocks
from neuralchat.inference.engine.packed.packed_pass import Chunk
from neuralchat.inference.engine.packed.virtual_start import VirtualStart
from neuralchat.models.attention.pages import PagedMemory


class Running:
    """`ids`: prompt and answer so far, after virtual tokens where the adapter has some. `computed`: of those, how many
    have their keys and values in `blocks`. `root`: see Blocks.
    """

    def __init__(self, job: Job, root: int, start: VirtualStart | None = None) -> None:
        self.job, self.root, self.start = job, root, start
        self.virtual = 0 if start is None else start.count
        self.ids = [*([] if start is None else start.ids), *job.request.prompt_ids]
        self.prompt = len(self.ids)
        self.chooser = Chooser(job.request, job.request.prompt_ids)
        self.computed = self.remembered = 0
        self.blocks: list[int] = []
        self.cached_tokens: int | None = None

    @property
    def left(self) -> int:
        """Tokens whose keys and values are to be computed before the next one can be chosen."""
        return len(self.ids) - self.computed

    def begin(self, memory: Blocks, pages: PagedMemory) -> None:
        """Hold what is known of the text, the first time or after `leave`."""
        self.blocks, self.computed = memory.hold_known(self.root, self.ids)
        self.remembered = self.computed // memory.size
        if self.cached_tokens is None:
            self.cached_tokens = max(0, min(self.computed, self.prompt) - self.virtual)
        if self.start is not None and self.start.leading is not None and self.computed < self.virtual:
            # Whoever begins a text has looked whether there is room.
            assert self.hold(memory, self.virtual - self.computed)
            self.start.write(pages, self.blocks)
            self.was_computed(memory, self.virtual - self.computed)

    def leave(self, memory: Blocks) -> None:
        """Give the memory back; the text is computed again from what is still known of it by then."""
        full = self.computed // memory.size
        if rest := self.ids[full * memory.size : self.computed]:
            memory.remember_begun(self.blocks[full], self.blocks[full - 1] if full else None, self.root, rest)
        memory.give_back(self.blocks)
        self.blocks, self.computed, self.remembered = [], 0, 0

    def hold(self, memory: Blocks, count: int) -> bool:
        """Have blocks for `count` tokens more; False where there are not as many."""
        new = memory.blocks_for(self.computed + count) - len(self.blocks)
        if new > 0:
            found = memory.hold_new(new)
            if found is None:
                return False
            self.blocks += found
        return True

    def chunk(self, count: int) -> Chunk:
        end = self.computed + count
        virtual = None if self.start is None else self.start.embedded
        return Chunk(self.ids[self.computed : end], self.computed, self.blocks, end == len(self.ids), virtual)

    def was_computed(self, memory: Blocks, count: int) -> None:
        self.computed += count
        for place in range(self.remembered, self.computed // memory.size):
            before = self.blocks[place - 1] if place else None
            part = self.ids[place * memory.size : (place + 1) * memory.size]
            known = memory.remember(self.blocks[place], before, self.root, part)
            if known is not None and known != self.blocks[place]:
                self.take_over(memory, place, known)
            self.remembered += 1

    def take_over(self, memory: Blocks, place: int, known: int) -> None:
        """Two texts that begin alike were computed at a time: from here on both hold one block, the other is free."""
        memory.hold_again(known)
        memory.give_back([self.blocks[place]])
        self.blocks[place] = known

    def take(self, token: Token) -> Reason | None:
        """Tell the next token; why the answer has ended, if it has."""
        self.ids.append(token.id)
        self.job.tell(token)
        if token.id in self.job.request.end_ids:
            return "stop"
        return "length" if len(self.ids) - self.prompt >= self.job.room else None

    def outcome(self, reason: Reason, error: str = "") -> Outcome:
        return Outcome(self.job, reason, error, self.cached_tokens or 0)


def in_order(running: Sequence[Running]) -> list[Running]:
    """Those with one token to compute first, as a packed pass takes them, by adapter."""
    return sorted(running, key=lambda one: (one.left > 1, one.root))
