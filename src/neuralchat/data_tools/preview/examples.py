"""examples -> those that are to be shown, one row each."""

from __future__ import annotations

import argparse

import numpy as np

from neuralchat.data.example_store import ExampleStore
from neuralchat.data_tools.preview.rows import TokenRow, example_part
from neuralchat.data_tools.preview.shown import Shown
from neuralchat.errors import ArgumentsError, problem_list

SHOWN_BY_DEFAULT = 3


def chosen_examples(store: ExampleStore, options: argparse.Namespace) -> list[int]:
    """Numbers of examples, from 0, in the order in which they were asked for, each once; the first ones by default."""
    count = len(store)
    if bad := [index for index in options.index if not 0 <= index < count]:
        raise ArgumentsError(
            problem_list(
                "these examples cannot be shown:",
                [f"--index {index}: there are {count}, 0 to {count - 1}" for index in bad],
            )
        )
    by_length = np.argsort(store.lengths, kind="stable")
    by_cut = np.argsort(-store.cut_tokens, kind="stable")
    by_chance = np.random.default_rng(options.random_seed).permutation(count)
    chosen = [
        *options.index,
        *by_length[::-1][: options.longest or 0].tolist(),
        *by_length[: options.shortest or 0].tolist(),
        *by_chance[: options.random or 0].tolist(),
        *by_cut[: min(options.cut or 0, int((store.cut_tokens > 0).sum()))].tolist(),
    ]
    asked = options.index or options.longest or options.shortest or options.random or options.cut
    return list(dict.fromkeys(chosen)) if asked else list(range(min(SHOWN_BY_DEFAULT, count)))


def shown_example(store: ExampleStore, index: int) -> Shown:
    example = store[index]
    cut = f", {example.cut_tokens} tokens of its prompt were cut" if example.cut_tokens else ""
    learned = int(example.supervised.sum())
    title = f"example {index}: {example.source}"
    what = f"{len(example.input_ids)} tokens, {learned} of them learned{cut}"
    return Shown(title, [TokenRow(what, [example_part(example, "")])])


def figures_of(store: ExampleStore, template: str) -> list[tuple[str, str]]:
    learned, total = int(store.supervised_lengths.sum()), int(store.lengths.sum())
    cut = int((store.cut_tokens > 0).sum())
    return [
        ("examples", f"{len(store):,}"),
        ("tokens", f"{total:,}, of which {learned:,} are learned ({learned / max(1, total):.0%})"),
        ("lengths", f"{store.lengths.min()} to {store.lengths.max()}, median {np.median(store.lengths):.0f}"),
        ("cut", f"{cut:,} prompt(s) cut to fit"),
        ("template", template),
    ]
