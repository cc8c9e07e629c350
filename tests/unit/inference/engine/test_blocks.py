"""inference/engine/packed/blocks.py: what is known, what is held, what is forgotten first."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from neuralchat.inference.engine.packed.blocks import Blocks

TEXT = list(range(100, 140))


def computed(memory: Blocks, root: int, ids: list[int]) -> list[int]:
    """The blocks of a text that is computed and remembered, from what is known of it on."""
    return computed_after(memory, root, ids, *memory.hold_known(root, ids))


def computed_after(memory: Blocks, root: int, ids: list[int], held: list[int], tokens: int) -> list[int]:
    new = memory.hold_new(memory.blocks_for(len(ids)) - len(held))
    assert new is not None
    blocks = [*held, *new]
    for place in range(tokens // memory.size, len(ids) // memory.size):
        part = ids[place * memory.size : (place + 1) * memory.size]
        memory.remember(blocks[place], blocks[place - 1] if place else None, root, part)
    return blocks


def test_a_known_beginning_is_found_in_whole_blocks() -> None:
    memory = Blocks(20, 4)
    blocks = computed(memory, 0, TEXT[:18])
    assert len(blocks) == 5
    assert memory.hold_known(0, [*TEXT[:10], 1, 2])[0] == blocks[:2]
    # The last token has to be computed in any case.
    assert memory.hold_known(0, TEXT[:16])[0] == blocks[:3]
    assert memory.hold_known(0, TEXT[:17])[0] == blocks[:4]
    assert memory.hold_known(1, TEXT)[0] == []
    assert memory.hold_known(0, TEXT[1:])[0] == []
    assert memory.used_tokens == 20


def test_the_same_tokens_elsewhere_are_others() -> None:
    memory = Blocks(20, 2)
    blocks = computed(memory, 0, [1, 2, 1, 2, 3])
    assert memory.hold_known(0, [1, 2, 9, 9])[0] == blocks[:1]
    assert memory.hold_known(0, [1, 2, 1, 2, 4])[0] == blocks[:2]
    assert memory.hold_known(0, [1, 2, 1, 2, 1, 2, 4])[0] == blocks[:2]


def test_the_end_of_the_longest_unused_text_is_forgotten_first() -> None:
    memory = Blocks(6, 2)
    first, second = computed(memory, 0, [1, 2, 3, 4, 5, 6]), computed(memory, 0, [7, 8, 9, 10])
    memory.give_back(first)
    memory.give_back(second)
    assert memory.used_tokens == 0
    # One block was never used, then comes the end of the first text.
    assert memory.hold_new(2) == [5, first[2]]
    assert memory.hold_known(0, [1, 2, 3, 4, 5, 6, 7]) == (first[:2], 4)
    # Those are in use again, so the second text has to go.
    assert memory.hold_new(2) == [second[1], second[0]]
    assert memory.hold_new(1) is None
    assert memory.hold_known(0, [7, 8, 9, 10, 11])[0] == []


def test_what_nobody_knows_is_given_away_first() -> None:
    memory = Blocks(3, 2)
    blocks = computed(memory, 0, [1, 2, 3, 4, 5])
    memory.give_back(blocks)
    assert memory.hold_new(1) == [blocks[2]]
    assert memory.hold_known(0, [1, 2, 3, 4, 5])[0] == blocks[:2]


def test_a_text_after_a_forgotten_block_is_not_found() -> None:
    """Though a block of its end is still there."""
    memory = Blocks(2, 2)
    blocks = computed(memory, 0, [1, 2, 3, 4])
    memory.give_back(blocks)
    memory.idle.move_to_end(blocks[0], last=False)
    assert memory.hold_new(1) == [blocks[0]]
    assert memory.remember(blocks[0], None, 0, [1, 2]) == blocks[0]
    assert memory.hold_known(0, [1, 2, 3, 4, 5])[0] == [blocks[0]]


def test_memory_that_was_never_written_is_left_alone_where_enough_is_kept() -> None:
    memory = Blocks(10, 2, most_kept=3)
    first, second = computed(memory, 0, [1, 2, 3, 4]), computed(memory, 0, [5, 6, 7, 8, 9])
    assert (first, second) == ([0, 1], [2, 3, 4])
    memory.give_back(first)
    # Two are known and held by nobody: there may be a third, so a block that was never held is taken.
    assert memory.hold_new(1) == [5]
    memory.give_back(second)
    # What nobody knows comes first, then of four that are known the end of the first text and its beginning.
    assert memory.hold_new(4) == [4, first[1], first[0], 6]
    assert memory.hold_known(0, [1, 2, 3, 4, 5])[0] == []
    # Where nothing else is left, what is kept makes room all the same.
    assert memory.hold_new(4) == [7, 8, 9, second[1]]
    assert memory.hold_known(0, [5, 6, 7, 8, 9])[0] == [second[0]]
    assert memory.hold_new(1) is None


def test_where_nothing_may_be_kept_answers_have_room_all_the_same() -> None:
    memory = Blocks(4, 2, most_kept=0)
    blocks = computed(memory, 0, [1, 2, 3, 4])
    memory.give_back(blocks)
    assert memory.hold_new(4) == [blocks[1], blocks[0], 2, 3]


def leave(memory: Blocks, root: int, blocks: list[int], ids: list[int]) -> None:
    """As a text does that is over; what is not full of its last block is remembered too."""
    full = len(ids) // memory.size
    if rest := ids[full * memory.size :]:
        memory.remember_begun(blocks[full], blocks[full - 1] if full else None, root, rest)
    memory.give_back(blocks)


def test_the_next_turn_goes_on_in_the_last_block() -> None:
    memory = Blocks(9, 4)
    blocks = computed(memory, 0, TEXT[:11])
    leave(memory, 0, blocks, TEXT[:11])
    # One that says something else finds the full ones; one that ends within the last block has a token to compute.
    for text in ([*TEXT[:9], 1, 2, 3, 4], TEXT[:11]):
        assert memory.hold_known(0, text) == (blocks[:2], 8)
        memory.give_back(blocks[:2])
    assert memory.hold_known(0, TEXT[:12]) == (blocks, 11)
    # It is written to, so nobody else finds it.
    assert memory.hold_known(0, TEXT[:12]) == (blocks[:2], 8)
    memory.give_back(blocks[:2])
    leave(memory, 0, blocks, TEXT[:10])
    assert memory.hold_known(1, TEXT[:12]) == ([], 0)
    assert memory.hold_known(0, TEXT[:12]) == (blocks, 10)


def test_of_two_last_blocks_after_the_same_text_the_later_one_is_known() -> None:
    memory = Blocks(3, 4)
    first = computed(memory, 0, [1, 2, 3, 4, 5])
    second = computed(memory, 0, [1, 2, 3, 4, 6])
    leave(memory, 0, first, [1, 2, 3, 4, 5])
    leave(memory, 0, second, [1, 2, 3, 4, 6])
    assert memory.hold_known(0, [1, 2, 3, 4, 5, 9]) == (first[:1], 4)
    memory.give_back(first[:1])
    assert memory.hold_known(0, [1, 2, 3, 4, 6, 9]) == (second, 5)
    assert memory.hold_new(1) == [first[1]]


texts = st.lists(st.lists(st.integers(0, 2), min_size=1, max_size=14), min_size=1, max_size=12)


@given(texts, st.integers(1, 4), st.sampled_from([None, 0, 2, 9]), st.data())
def test_nothing_is_lost_and_nothing_is_held_twice(
    ids: list[list[int]], size: int, most_kept: int | None, data: st.DataObject
) -> None:
    memory = Blocks(30, size, most_kept)
    held: list[tuple[list[int], list[int]]] = []
    # What was written: the whole text up to the end of the block.
    written: dict[int, list[int]] = {}
    for text in ids:
        if memory.blocks_for(len(text)) > memory.free:
            continue
        found, tokens = memory.hold_known(0, text)
        assert tokens < len(text)
        assert len(found) == memory.blocks_for(tokens)
        for place, block in enumerate(found):
            end = min((place + 1) * size, tokens)
            assert written[block][:end] == text[:end]
        blocks = computed_after(memory, 0, text, found, tokens)
        written.update({block: text[: (place + 1) * size] for place, block in enumerate(blocks)})
        held.append((blocks, text))
        if data.draw(st.booleans()):
            leave(memory, 0, *held.pop(data.draw(st.integers(0, len(held) - 1))))
        counts = [sum(block in blocks for blocks, _ in held) for block in range(30)]
        assert memory.holders == counts
        free = [*memory.idle, *memory.unknown, *range(memory.untouched, 30)]
        assert sorted(free) == [block for block, count in enumerate(counts) if not count]
        assert all(block in memory.keys or block in memory.begun_keys for block in memory.idle)
        assert sorted(memory.keys) == sorted(memory.serials) == sorted(memory.known.values())
        assert sorted(memory.begun_keys) == sorted(memory.begun.values())
        assert set(memory.begun_keys) <= set(memory.idle)
    for blocks, text in held:
        leave(memory, 0, blocks, text)
    assert memory.used_tokens == 0
