"""What an optimizer step receives -> rows of tokens, each with its id, its position and how often it is learned.

Read from the very objects that the training loop is given; nothing is made a second time.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from neuralchat.data.layout import Packed
from neuralchat.data.packing import PackedBatch, Segment
from neuralchat.data.seq2seq_packing import PackedSeq2Seq
from neuralchat.data.step_shares import StepShare
from neuralchat.data.tokenization import Example


@dataclass(slots=True)
class RowToken:
    """`token_id`: -1, -2, ... of virtual tokens. `learned`: how often its cross entropy is part of the step's loss; a
    shared token may be that of several examples. `compared`: the same of predictions that are held to the base model's,
    as those of general prompts are.
    """

    token_id: int
    position: int
    learned: int = 0
    compared: int = 0


@dataclass(frozen=True)
class TokenPart:
    """Tokens of a row that belong together: a segment, or a whole example. `title`: what it is and what it sees."""

    title: str
    tokens: Sequence[RowToken]


@dataclass(frozen=True)
class TokenRow:
    """What is computed at once: a packed row, or the examples of a padded batch."""

    title: str
    parts: Sequence[TokenPart]

    @property
    def tokens(self) -> Iterator[RowToken]:
        return (token for part in self.parts for token in part.tokens)

    @property
    def learned(self) -> int:
        return sum(token.learned for token in self.tokens)


def rows_of_share(share: StepShare) -> list[TokenRow]:
    """The micro-batches of one process in one step."""
    padded = [*share.padded, *share.padded_general]
    return [*map(row_of_packed, share.packed), *map(row_of_padded, padded)]


def example_part(example: Example, title: str) -> TokenPart:
    """An example by itself."""
    is_general = example.first_known is not None
    marks = example.supervised.astype(int).tolist()
    return TokenPart(
        title,
        [
            RowToken(token, place, 0 if is_general else mark, mark if is_general else 0)
            for place, (token, mark) in enumerate(zip(example.input_ids.tolist(), marks, strict=True))
        ],
    )


def row_of_padded(examples: Sequence[Example]) -> TokenRow:
    width = max(len(example.input_ids) for example in examples)
    parts = []
    for example in examples:
        own = len(example.input_ids)
        padding = f", then {width - own} of padding" if width > own else ""
        parts.append(example_part(example, f"{example.source}: {own} tokens{padding}"))
    return TokenRow(f"padded batch: {len(examples)} example(s), {width} tokens wide", parts)


def row_of_packed(batch: Packed) -> TokenRow:
    return packed_row(batch) if isinstance(batch, PackedBatch) else seq2seq_row(batch)


def packed_row(batch: PackedBatch) -> TokenRow:
    tokens = list(map(RowToken, batch.input_ids.tolist(), batch.position_ids.tolist()))
    mark_targets(batch, tokens)
    followers = Counter((part.prefix_start, part.prefix_end) for part in batch.segments if has_prefix(part))
    parts = []
    for segment, source in zip(batch.segments, batch.segment_sources, strict=True):
        own = tokens[segment.start : segment.end]
        what = source or shared_title(own, followers[segment.start, segment.end])
        sees = f", sees [{segment.prefix_start}, {segment.prefix_end}) before it" if has_prefix(segment) else ""
        places = f"[{segment.start}, {segment.end})"
        parts.append(TokenPart(f"{places} {what}: positions {own[0].position} to {own[-1].position}{sees}", own))
    title = (
        f"packed row: {len(tokens)} tokens computed, {len(batch.sources)} example(s) of {batch.tokens} tokens in them"
    )
    return TokenRow(title, parts)


def has_prefix(segment: Segment) -> bool:
    return segment.prefix_end > segment.prefix_start


def shared_title(tokens: Sequence[RowToken], followers: int) -> str:
    virtual = sum(token.token_id < 0 for token in tokens)
    what = f"{virtual} virtual tokens" if virtual else ""
    what += " and text, " if 0 < virtual < len(tokens) else ", " if virtual else ""
    return f"{what}shared by {followers} example(s)"


def mark_targets(batch: PackedBatch, tokens: Sequence[RowToken]) -> None:
    """Count at each token of the row whose target it is.

    Targets are listed example by example, in the order of the segments, each as the place that predicts and the id.
    """
    targets = Ahead(list(zip(batch.target_positions.tolist(), batch.target_ids.tolist(), strict=True)))
    compared = Ahead(batch.compared_positions.tolist())
    for segment, source in zip(batch.segments, batch.segment_sources, strict=True):
        if not source:
            continue
        places = [*range(segment.prefix_start, segment.prefix_end), *range(segment.start, segment.end)]
        for before, place in pairwise(places):
            token = tokens[place]
            if source not in batch.sources:
                token.compared += compared.take(before)
            else:
                token.learned += targets.take((before, token.token_id))


class Ahead:
    """A list that is walked through: `take` says whether its next entry is `wanted`, and goes past it then."""

    def __init__(self, entries: Sequence[object]) -> None:
        self.entries = entries
        self.place = 0

    def take(self, wanted: object) -> bool:
        found = self.place < len(self.entries) and self.entries[self.place] == wanted
        self.place += found
        return found


def seq2seq_row(batch: PackedSeq2Seq) -> TokenRow:
    """Sources, each with the target that its decoder is to say."""
    parts = []
    for source, (start, end), (first, last) in zip(
        batch.sources, batch.source_ranges, batch.target_ranges, strict=True
    ):
        asked = [RowToken(token, place) for place, token in enumerate(batch.source_ids[start:end].tolist())]
        said = [RowToken(token, place, learned=1) for place, token in enumerate(batch.target_ids[first:last].tolist())]
        parts.append(TokenPart(f"{source}: source [{start}, {end}), target [{first}, {last})", [*asked, *said]))
    title = f"packed rows: {len(batch.source_ids)} tokens of sources, {len(batch.target_ids)} of targets"
    return TokenRow(title, parts)


def ids_and_learned(rows: Sequence[TokenRow]) -> tuple[np.ndarray, np.ndarray]:
    """(int64 [T] ids, int64 [T] how often each is learned), all rows end to end."""
    tokens = [token for row in rows for token in row.tokens]
    return np.array([t.token_id for t in tokens]), np.array([t.learned for t in tokens])
