"""Near duplicates among many: sketches of a block of texts at once, and whose of them are alike, found by sorting.

Of each of a sketch's hashes the lower half is kept: 256 bytes for a record. Two that differ have the same lower half
once in 65,536 times, which is less than the error of the estimate by far.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt
from rensa import RMinHash

from neuralchat.data_tools.near_duplicates import BANDS, FEWEST_PAIRS, HASHES, SKETCH_SEED, THRESHOLD, word_pairs

Sketches = npt.NDArray[np.uint16]
SketchPlaces = npt.NDArray[np.int64]
# Texts whose pairs of words are in memory at the same time.
SKETCHED_AT_ONCE = 250
# A text is compared with the first so many of those that share a band with it. More share one only where all texts have
# a long part in common, and then comparing all with all would take days.
MOST_COMPARED = 100
COMPARED_AT_ONCE = 1 << 16
NONE = -1


def sketches_of(texts: Sequence[str]) -> tuple[Sketches, npt.NDArray[np.bool_]]:
    """((texts, HASHES) lower halves of hashes, (texts,) whether a text is long enough to be told apart)."""
    sketches = np.zeros((len(texts), HASHES), np.uint16)
    long_enough = np.zeros(len(texts), bool)
    for first in range(0, len(texts), SKETCHED_AT_ONCE):
        pairs = [word_pairs(text) for text in texts[first : first + SKETCHED_AT_ONCE]]
        places = [place for place, held in enumerate(pairs) if len(held) >= FEWEST_PAIRS]
        if places:
            digests = RMinHash.digests_from_token_sets([pairs[place] for place in places], HASHES, SKETCH_SEED)
            at = np.asarray(places) + first
            sketches[at] = np.asarray(digests, np.uint32).astype(np.uint16)
            long_enough[at] = True
    return sketches, long_enough


def first_kept(sketches: Sketches, places: SketchPlaces) -> SketchPlaces:
    """(places,) of each the first before it that is nearly the same and is not left out for the same reason, or NONE.

    Where a row is like one before it and a third is like the second only, the third stays: what it is like is gone.
    """
    found = first_alike(sketches, places, len(places))
    is_kept = found == NONE
    chained = np.flatnonzero((found != NONE) & ~is_kept[found])
    likes = all_alike(sketches, places, chained)
    for place in chained.tolist():
        kept = [other for other in likes[place] if is_kept[other]]
        found[place] = min(kept, default=NONE)
        is_kept[place] = not kept
    return found


def first_alike(sketches: Sketches, places: SketchPlaces, known: int) -> SketchPlaces:
    """(places,) of each the first among those before it that is nearly the same, or NONE.

    `places`: rows of `sketches` to look at, in order. Only the first `known` of them are compared with, and where these
    are not all, only the others are compared.
    """
    found = np.full(len(places), len(places), np.int64)
    is_asked = np.arange(len(places)) >= (0 if known == len(places) else known)
    for values in bands_of(sketches, places):
        for asked, candidates in band_pairs(values, is_asked, known):
            # What is known to be like an earlier one stays so.
            is_open = candidates < found[asked]
            asked, candidates = asked[is_open], candidates[is_open]
            alike = are_alike(sketches, places[asked], places[candidates])
            np.minimum.at(found, asked[alike], candidates[alike])
    return np.where(found < len(places), found, NONE)


def all_alike(sketches: Sketches, places: SketchPlaces, asked_for: SketchPlaces) -> dict[int, set[int]]:
    """Of each place asked for, all of those before it that are nearly the same."""
    found: dict[int, set[int]] = {place: set() for place in asked_for.tolist()}
    is_asked = np.zeros(len(places), bool)
    is_asked[asked_for] = True
    for values in bands_of(sketches, places) if found else ():
        for asked, candidates in band_pairs(values, is_asked, len(places)):
            alike = are_alike(sketches, places[asked], places[candidates])
            for place, other in zip(asked[alike].tolist(), candidates[alike].tolist(), strict=True):
                found[place].add(other)
    return found


def bands_of(sketches: Sketches, places: SketchPlaces) -> Iterator[npt.NDArray[np.uint64]]:
    """Of each band its four hashes as one number, of each place."""
    bands = sketches.view(np.uint64)
    assert bands.shape[1] == BANDS
    return (bands[:, band][places] for band in range(BANDS))


def band_pairs(
    values: npt.NDArray[np.uint64], is_asked: npt.NDArray[np.bool_], known: int
) -> Iterator[tuple[SketchPlaces, SketchPlaces]]:
    """(asked, earlier) places with the same value: each with the first of its group, then with the second, ..."""
    order = np.argsort(values, kind="stable")
    ordered = values[order]
    begins = np.flatnonzero(np.concatenate(([True], ordered[1:] != ordered[:-1]))) if len(values) else order
    sizes = np.diff(np.append(begins, len(values)))
    begins, sizes = begins[sizes > 1], sizes[sizes > 1]
    # Of each member of a group of several: where in `order` its group begins, and where it is itself.
    group = np.repeat(begins, sizes)
    member = group + (np.arange(len(group)) - np.repeat(np.cumsum(sizes) - sizes, sizes))
    asked = is_asked[order[member]]
    group, member = group[asked], member[asked]
    for step in range(MOST_COMPARED):
        has_earlier = member - group > step
        group, member = group[has_earlier], member[has_earlier]
        is_known = order[group + step] < known
        group, member = group[is_known], member[is_known]
        if not len(group):
            return
        yield order[member], order[group + step]


def are_alike(sketches: Sketches, some: SketchPlaces, others: SketchPlaces) -> npt.NDArray[np.bool_]:
    """Whether the estimate of the share of pairs of words that two have in common is THRESHOLD or more."""
    alike = np.zeros(len(some), bool)
    for first in range(0, len(some), COMPARED_AT_ONCE):
        part = slice(first, first + COMPARED_AT_ONCE)
        equal = (sketches[some[part]] == sketches[others[part]]).sum(axis=1)
        alike[part] = equal / HASHES >= THRESHOLD
    return alike
