"""data/mixture.py: how many examples of each file, which, and that a held-out one is never trained on."""

from __future__ import annotations

import doctest
from collections import Counter
from collections.abc import Callable, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from neuralchat.config.arguments import DataArguments
from neuralchat.data import mixture
from neuralchat.data.mixture import chosen_counts, shares_of
from neuralchat.data.prepared_data import PreparedData, prepare
from neuralchat.errors import DataError

WEIGHTS = st.lists(st.integers(1, 50).map(lambda n: Fraction(n, 10)), min_size=1, max_size=4)


@given(weights=WEIGHTS, data=st.data())
def test_counts_follow_the_shares_and_repeat_nothing(weights: list[Fraction], data: st.DataObject) -> None:
    shares = [weight / sum(weights) for weight in weights]
    sizes = [data.draw(st.integers(1, 1000)) for _ in shares]
    counts = chosen_counts(shares, sizes)
    total = sum(counts)
    for count, share, size in zip(counts, shares, sizes, strict=True):
        assert count <= size
        assert abs(count - share * total) < 1
    # One more example could not be had without repeating one.
    assert any(share * (total + 1) > size for share, size in zip(shares, sizes, strict=True))


@given(weights=WEIGHTS, total=st.integers(1, 5000))
def test_counts_of_a_given_total(weights: list[Fraction], total: int) -> None:
    shares = [weight / sum(weights) for weight in weights]
    counts = chosen_counts(shares, [1] * len(shares), total)
    assert sum(counts) == total
    assert all(abs(count - share * total) < 1 for count, share in zip(counts, shares, strict=True))


def test_shares_are_exact_and_add_up() -> None:
    shares = shares_of(["a=b.json=0.1", "c.json=0.2"])
    assert shares == {"a=b.json": Fraction(1, 3), "c.json": Fraction(2, 3)}


@pytest.fixture
def mixed(write_records: Callable[..., Path], tokenizer: Any) -> Callable[..., PreparedData]:
    """Prepare a mixture of a general file (12 records) and a domain file (4) in one directory."""
    general = write_records([{"instruction": f"g{i}", "output": "general " * (i + 1)} for i in range(12)], "g.json")
    domain = write_records([{"question": f"d{i}", "answer": "domain " * (i + 1)} for i in range(4)], "d.json")

    def run(general_share: float, domain_share: float, **more: Any) -> PreparedData:
        mix = [f"{general}={general_share}", f"{domain}={domain_share}"]
        return prepare(DataArguments(mix=mix, **more), tokenizer)

    return run


def sources_of(examples: Sequence[Any] | None) -> list[str]:
    assert examples is not None
    return [Path(examples[i].source).name for i in range(len(examples))]


def of_file(sources: Sequence[str]) -> Counter[str]:
    return Counter(source.partition(" ")[0] for source in sources)


def test_no_example_is_repeated_by_default(mixed: Callable[..., PreparedData], said: list[str]) -> None:
    found = mixed(0.6, 0.4)
    sources = sources_of(found.train)
    assert of_file(sources) == {"g.json": 6, "d.json": 4}
    assert len(set(sources)) == 10
    (note,) = [text for text in said if "mixture" in text]
    assert note.startswith("train: mixture of 10 examples: ")
    assert "g.json 6 (60.0%; 6 of its 12 left out), " in note
    assert note.endswith("d.json 4 (40.0%; each once)")
    assert {Path(name).name: row for name, row in found.counts["train"]["mixture"].items()} == {
        "g.json": {"share": 0.6, "examples": 12, "chosen": 6},
        "d.json": {"share": 0.4, "examples": 4, "chosen": 4},
    }
    assert found.train is not None
    assert found.counts["train"]["examples"] == 10
    assert found.counts["train"]["tokens"] == sum(len(found.train[i].input_ids) for i in range(10))


def test_small_files_are_repeated_evenly_for_a_given_number(
    mixed: Callable[..., PreparedData], said: list[str]
) -> None:
    sources = sources_of(mixed(1, 1, mix_samples=20).train)
    assert of_file(sources) == {"g.json": 10, "d.json": 10}
    times = Counter(source for source in sources if source.startswith("d.json"))
    assert sorted(times.values()) == [2, 2, 3, 3]
    # What is repeated comes after everything else, so the first ones are different questions.
    assert len(set(sources[:14])) == 14
    assert any("d.json 10 (50.0%; each of its 4 2 or 3 times)" in text for text in said)


def test_the_seed_decides_and_nothing_else(mixed: Callable[..., PreparedData]) -> None:
    first, again = mixed(0.5, 0.5), mixed(2, 2)
    assert sources_of(first.train) == sources_of(again.train)
    assert first.trained_on.content_fingerprint == again.trained_on.content_fingerprint
    others = {tuple(sources_of(mixed(0.5, 0.5, dataset_seed=seed).train)) for seed in range(5)}
    assert len(others) > 1
    assert mixed(0.4, 0.6).trained_on.content_fingerprint != first.trained_on.content_fingerprint


@pytest.mark.parametrize("samples", [None, 40])
@pytest.mark.parametrize("seed", range(3))
def test_what_is_held_out_is_never_trained_on(
    mixed: Callable[..., PreparedData], samples: int | None, seed: int
) -> None:
    found = mixed(0.5, 0.5, mix_samples=samples, dataset_seed=seed, validation_split_percentage=25)
    trained, held_out = sources_of(found.train), sources_of(found.validation)
    assert not set(trained) & set(held_out)
    assert len(set(held_out)) == len(held_out)
    # A quarter of each file's chosen examples.
    assert of_file(held_out) == ({"g.json": 1, "d.json": 1} if samples is None else {"g.json": 3, "d.json": 1})
    assert len(set(trained)) + len(held_out) == (8 if samples is None else 16)
    assert found.counts["validation"]["examples"] == len(held_out)


def test_mixture_that_is_too_small(mixed: Callable[..., PreparedData]) -> None:
    with pytest.raises(DataError, match=r"too small for an example of each file:\n  - .*d\.json 0 \(1\.0%; 4 of its 4"):
        mixed(99, 1)


def test_file_without_an_example(tokenizer: Any, write_records: Callable[..., Path]) -> None:
    good = write_records([{"instruction": "a", "output": "b"}], "good.json")
    long = write_records([{"instruction": "a", "output": "water " * 900}], "long.json")
    with pytest.raises(DataError, match=r"these files have no example to train on:\n  - .*long\.json$"):
        prepare(DataArguments(mix=[f"{good}=1", f"{long}=1"]), tokenizer)


def test_doctests() -> None:
    outcome = doctest.testmod(mixture)
    assert outcome.attempted >= 3
    assert outcome.failed == 0
