"""Which tokens' keys and values lie in which block of the memory, and which are there already.

A block holds the keys and values of `size` neighbouring tokens of a text. A full one is known by what stands in it and
by the block before it, so a text that begins as an earlier one did finds what was computed then. The last block of a
text that is over is known too, though it is not full: the next turn of the conversation takes it and goes on in it.
Blocks that no answer holds stay known until their place is needed, the least recently used first.

The system gives a block's memory when it is first written, so blocks that were never held cost nothing, and are left
alone as long as enough is kept.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from itertools import count

# (serial number of the block before it, token ids). Numbers are never used again, so equal keys mean equal beginnings.
BlockKey = tuple[int, tuple[int, ...]]


class Blocks:
    """`total` blocks of `size` tokens. A text is of a root: the number of the adapter that computes it, 0 for none.

    `most_kept`: where so many known blocks are held by nobody, one of them is forgotten before a block is taken that
    was never held; None: blocks are forgotten only where no others are left.
    """

    def __init__(self, total: int, size: int, most_kept: int | None = None) -> None:
        self.total, self.size = total, size
        self.most_kept = total if most_kept is None else most_kept
        self.holders = [0] * total
        # Nobody holds the known ones in `idle`, the least recently used first, nor those in `unknown`, the last to be
        # taken first, nor any from `untouched` on, which never were.
        self.idle: OrderedDict[int, None] = OrderedDict()
        self.unknown: list[int] = []
        self.untouched = 0
        self.known: dict[BlockKey, int] = {}
        self.keys: dict[int, BlockKey] = {}
        self.serials: dict[int, int] = {}
        # Blocks that are not full, one at most after each block, by that one's serial number; nobody holds them.
        self.begun: dict[int, int] = {}
        self.begun_keys: dict[int, BlockKey] = {}
        self.next_serial = count(1)

    @property
    def free(self) -> int:
        """How many blocks nobody holds."""
        return len(self.idle) + len(self.unknown) + self.total - self.untouched

    @property
    def used_tokens(self) -> int:
        return (self.total - self.free) * self.size

    def blocks_for(self, tokens: int) -> int:
        return -(-tokens // self.size)

    def hold_known(self, root: int, ids: Sequence[int]) -> tuple[list[int], int]:
        """The blocks of the longest known beginning of `ids`, which are held from here on, and how many tokens it has.

        The last token is not looked for: it has to be computed, since another one follows from it.
        """
        found: list[int] = []
        before = -1 - root
        for start in range(0, len(ids) - self.size, self.size):
            block = self.known.get((before, tuple(ids[start : start + self.size])))
            if block is None:
                break
            found.append(block)
            before = self.serials[block]
        for block in found:
            self.hold_again(block)
        tokens = len(found) * self.size
        if (last := self.begun.get(before)) is not None:
            begun = self.begun_keys[last][1]
            if tokens + len(begun) < len(ids) and tuple(ids[tokens : tokens + len(begun)]) == begun:
                # Who holds it writes into it: it is nobody else's.
                self.forget(last)
                self.hold_again(last)
                found.append(last)
                tokens += len(begun)
        return found, tokens

    def hold_new(self, number: int) -> list[int] | None:
        """So many blocks whose content is forgotten; None, and nothing held, where not as many are free."""
        if number > self.free:
            return None
        blocks = [self.next_free() for _ in range(number)]
        for block in blocks:
            self.holders[block] = 1
        return blocks

    def next_free(self) -> int:
        """A block that nobody holds and nobody knows any more."""
        if self.unknown:
            return self.unknown.pop()
        if self.untouched < self.total and (len(self.idle) < self.most_kept or not self.idle):
            self.untouched += 1
            return self.untouched - 1
        block, _ = self.idle.popitem(last=False)
        self.forget(block)
        return block

    def forget(self, block: int) -> None:
        """What stands in a block that is known."""
        if block in self.keys:
            del self.known[self.keys.pop(block)], self.serials[block]
        else:
            serial, _ = self.begun_keys.pop(block)
            del self.begun[serial]

    def remember(self, block: int, before: int | None, root: int, ids: Sequence[int]) -> int | None:
        """A full block of `ids` after the block `before` is computed; the block that stands for it from here on.

        That is the block itself, or another one that was known first; None where `before` is not known itself.
        """
        serial = -1 - root if before is None else self.serials.get(before)
        if serial is None:
            return None
        key = (serial, tuple(ids))
        known = self.known.setdefault(key, block)
        if known == block and block not in self.keys:
            self.keys[block], self.serials[block] = key, next(self.next_serial)
        return known

    def remember_begun(self, block: int, before: int | None, root: int, ids: Sequence[int]) -> None:
        """The block after `before`, which is not full and is given back next, holds `ids`; another one is forgotten."""
        serial = -1 - root if before is None else self.serials.get(before)
        if serial is None:
            return
        if (other := self.begun.get(serial)) is not None:
            self.forget(other)
            del self.idle[other]
            self.unknown.append(other)
        self.begun[serial], self.begun_keys[block] = block, (serial, tuple(ids))

    def hold_again(self, block: int) -> None:
        self.holders[block] += 1
        self.idle.pop(block, None)

    def give_back(self, blocks: Sequence[int]) -> None:
        """The blocks of a text in their order; its end is forgotten before its beginning."""
        for block in reversed(blocks):
            self.holders[block] -= 1
            if self.holders[block]:
                continue
            if block in self.keys or block in self.begun_keys:
                self.idle[block] = None
            else:
                self.unknown.append(block)
