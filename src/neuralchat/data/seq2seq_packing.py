"""Example -> PackedSeq2Seq for encoder-decoder models: sources end to end in one row, targets in another.

An example's source is what comes before its first supervised token, its target the rest. Source i is seen by itself
(in both directions) and by target i; nothing is shared, since every source token sees the tokens that follow it.
The decoder reads the target one place later, after its start token.

    examples      source a b c, target x y          source d, target z
    source row    a b c | d
    decoder row   start x | start
    target ids    x y | z
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from neuralchat.data.packing import NO_VIRTUAL_TOKENS, VirtualTokens
from neuralchat.data.tokenization import Example

Ranges = tuple[tuple[int, int], ...]


@dataclass(frozen=True, slots=True)
class PackedSeq2Seq:
    """source_ids int64 [S]; decoder_ids, target_ids int64 [N]. Ranges: [start, end) of each example in its row."""

    source_ids: np.ndarray
    decoder_ids: np.ndarray
    target_ids: np.ndarray
    source_ranges: Ranges
    target_ranges: Ranges
    sources: tuple[str, ...]
    tokens: int

    @property
    def supervised_tokens(self) -> int:
        return len(self.target_ids)


def source_and_target(example: Example) -> tuple[np.ndarray, np.ndarray]:
    """(source, target): the token ids before the first supervised one, and the rest.

    >>> example = Example(np.array([5, 6, 7, 8]), np.array([False, False, True, True]), "file:1")
    >>> [part.tolist() for part in source_and_target(example)]
    [[5, 6], [7, 8]]
    """
    border = int(np.argmax(example.supervised))
    return example.input_ids[:border], example.input_ids[border:]


def pack_seq2seq(
    examples: Sequence[Example], *, start_id: int, virtual: VirtualTokens = NO_VIRTUAL_TOKENS
) -> PackedSeq2Seq:
    """Lay sources and targets into two rows. `start_id`: the decoder's start token.

    Virtual tokens that enter as embeddings stand before every source.
    """
    placeholders = -1 - np.arange(virtual.laid)
    sources, targets = zip(*map(source_and_target, examples), strict=True)
    encoder = [np.concatenate([placeholders, source]) for source in sources]
    decoder = [np.concatenate([[start_id], target[:-1]]) for target in targets]
    return PackedSeq2Seq(
        source_ids=np.concatenate(encoder).astype(np.int64),
        decoder_ids=np.concatenate(decoder).astype(np.int64),
        target_ids=np.concatenate(targets).astype(np.int64),
        source_ranges=ranges([len(part) for part in encoder]),
        target_ranges=ranges([len(part) for part in decoder]),
        sources=tuple(example.source for example in examples),
        tokens=sum(len(example.input_ids) for example in examples),
    )


def ranges(lengths: Sequence[int]) -> Ranges:
    ends = np.cumsum(lengths).tolist()
    return tuple((end - length, end) for end, length in zip(ends, lengths, strict=True))
