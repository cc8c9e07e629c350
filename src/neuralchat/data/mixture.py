"""--mix: files and their shares -> which examples of each are trained on, and how often."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
import pyarrow.compute as pc

from neuralchat.data.example_store import ExampleStore
from neuralchat.errors import DataError, problem_list


@dataclass(frozen=True)
class MixedFile:
    """A file of the mixture. `share` is of the whole, `examples` what the file has, `chosen` what is trained on."""

    name: str
    share: Fraction
    examples: int
    chosen: int

    def told(self) -> str:
        if self.chosen < self.examples:
            how = f"{self.examples - self.chosen:,} of its {self.examples:,} left out"
        elif self.chosen == self.examples:
            how = "each once"
        else:
            times, more = divmod(self.chosen, self.examples)
            often = f"{times} or {times + 1} times" if more else f"{times} times"
            how = f"each of its {self.examples:,} {often}"
        return f"{self.name} {self.chosen:,} ({float(self.share):.1%}; {how})"


def shares_of(mix: Sequence[str]) -> dict[str, Fraction]:
    """File -> share of the mixture, from texts like file=weight; the weights need not add up to 1.

    >>> shares_of(["a.json=2", "b.json=0.5"])
    {'a.json': Fraction(4, 5), 'b.json': Fraction(1, 5)}
    """
    weights = {name: Fraction(weight) for name, _, weight in (pair.rpartition("=") for pair in mix)}
    return {name: weight / sum(weights.values()) for name, weight in weights.items()}


def chosen_counts(shares: Sequence[Fraction], sizes: Sequence[int], total: int | None = None) -> list[int]:
    """How many examples of each file. `total`: None for as many as there are without repeating any.

    >>> chosen_counts([Fraction(7, 10), Fraction(3, 10)], [1000, 90])
    [210, 90]
    >>> chosen_counts([Fraction(7, 10), Fraction(3, 10)], [1000, 90], 500)
    [350, 150]
    """
    if total is None:
        total = min(math.floor(size / share) for size, share in zip(sizes, shares, strict=True))
    exact = [share * total for share in shares]
    counts = [math.floor(count) for count in exact]
    # The largest remainders are rounded up, earlier files first.
    order = sorted(range(len(exact)), key=lambda i: (counts[i] - exact[i], i))
    for i in order[: total - sum(counts)]:
        counts[i] += 1
    return counts


def mixed(
    store: ExampleStore, mix: Sequence[str], *, seed: int, total: int | None
) -> tuple[ExampleStore, list[MixedFile]]:
    """The examples of the mixture: a pure function of the data, the shares and the seed.

    All examples of a file are used equally often, or once more, which ones the seed says. What is repeated comes after
    everything else. Raises DataError where a file has no example, or the mixture would have none.
    """
    shares = shares_of(mix)
    rows = [rows_of_file(store, name) for name in shares]
    if empty := [name for name, own in zip(shares, rows, strict=True) if not len(own)]:
        raise DataError(problem_list("--mix: these files have no example to train on:", empty))
    files = mixed_files(shares, [len(own) for own in rows], total)
    counts = [file.chosen for file in files]
    chosen = np.concatenate(passes_of(rows, counts, seed))
    return store.select(chosen, "mixture"), files


def mixed_files(shares: Mapping[str, Fraction], sizes: Sequence[int], total: int | None) -> list[MixedFile]:
    """How many examples of each file are chosen. Raises DataError where one would have none."""
    counts = chosen_counts(list(shares.values()), sizes, total)
    files = [
        MixedFile(name, share, size, count)
        for (name, share), size, count in zip(shares.items(), sizes, counts, strict=True)
    ]
    if without := [file.told() for file in files if not file.chosen]:
        raise DataError(
            problem_list("--mix: the mixture is too small for an example of each file:", without)
            + "\nGive these files larger shares, or say how many examples there shall be: --mix_samples N."
        )
    return files


def passes_of(rows: Sequence[np.ndarray], counts: Sequence[int], seed: int) -> list[np.ndarray]:
    """Which rows of all are chosen, in their order, then which of them again, and so on.

    `rows`: the numbers that the examples of each file have; `counts`: how many of each file.
    """
    passes: dict[int, list[np.ndarray]] = {}
    for number, (own, count) in enumerate(zip(rows, counts, strict=True)):
        whole, rest = divmod(count, len(own))
        order = np.random.default_rng([seed, number]).permutation(len(own))
        for turn in range(whole):
            passes.setdefault(turn, []).append(own)
        if rest:
            passes.setdefault(whole, []).append(np.sort(own[order[:rest]]))
    return [np.sort(np.concatenate(passes[turn])) for turn in sorted(passes)]


def rows_of_file(store: ExampleStore, name: str) -> np.ndarray:
    """Positions in the store of the examples that come from a file."""
    own = pc.match_substring_regex(store.table["source"], rf"^{re.escape(name)} row \d+$")
    return np.flatnonzero(own.to_numpy()[store.indices])
