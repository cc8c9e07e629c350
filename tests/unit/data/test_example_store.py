"""data/example_store.py: examples come back as they went in, and a store appears whole or not at all."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from neuralchat.data import example_store
from neuralchat.data.example_store import ExampleStore, fingerprint_of, stored, write_examples
from neuralchat.data.tokenization import Example


def example_of(ids: list[int], number: int = 0) -> Example:
    supervised = np.array([i % 3 == 1 for i in range(len(ids))], dtype=bool)
    return Example(np.array(ids, dtype=np.int32), supervised, f"f row {number}", number)


def content(example: Example) -> tuple[list[int], list[bool], str, int]:
    return example.input_ids.tolist(), example.supervised.tolist(), example.source, example.cut_tokens


EXAMPLES = [example_of([i, i + 1, *range(i)], i) for i in range(5)]


def store_of(root: Path, examples: list[Example], fingerprint: str = "f", **options: Any) -> ExampleStore:
    def make(directory: Path) -> dict[str, Any]:
        write_examples(directory, iter(examples))
        return {"examples": len(examples)}

    return stored(root, fingerprint, make=make, **options)[0]


@given(lists=st.lists(st.lists(st.integers(0, 2**31 - 1), min_size=1, max_size=6), max_size=8))
def test_examples_come_back(tmp_path_factory: pytest.TempPathFactory, lists: list[list[int]]) -> None:
    examples = [example_of(ids, number) for number, ids in enumerate(lists)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(example_store, "ROWS_A_BATCH", 3)
        store = store_of(tmp_path_factory.mktemp("store"), examples)
    assert len(store) == len(examples)
    assert store.lengths.tolist() == [len(ids) for ids in lists]
    assert [content(store[i]) for i in range(len(store))] == [content(example) for example in examples]


@pytest.mark.parametrize("in_memory", [False, True])
def test_types_of_a_stored_example(tmp_path: Path, in_memory: bool) -> None:
    example = store_of(tmp_path, EXAMPLES, in_memory=in_memory)[2]
    assert content(example) == content(EXAMPLES[2])
    assert (example.input_ids.dtype, example.supervised.dtype) == (np.int32, np.bool_)


def test_counts_come_back_and_make_is_not_called_again(tmp_path: Path) -> None:
    calls = []

    def make(directory: Path) -> dict[str, Any]:
        calls.append(directory)
        write_examples(directory, iter(EXAMPLES))
        return {"examples": 5, "unusable": ["é"]}

    for _ in range(2):
        store, counts = stored(tmp_path / "deep" / "root", "abc", make=make)
        assert counts == {"examples": 5, "unusable": ["é"]}
        assert store.fingerprint == "abc"
    assert len(calls) == 1
    assert [path.name for path in (tmp_path / "deep" / "root").iterdir()] == ["abc"]


def test_overwrite_makes_the_store_again(tmp_path: Path) -> None:
    store_of(tmp_path, EXAMPLES)
    assert len(store_of(tmp_path, EXAMPLES[:2])) == 5
    assert len(store_of(tmp_path, EXAMPLES[:2], overwrite=True)) == 2


def test_failed_make_leaves_nothing(tmp_path: Path) -> None:
    def make(directory: Path) -> dict[str, Any]:
        write_examples(directory, iter(EXAMPLES))
        raise ValueError("stopped half way")

    with pytest.raises(ValueError, match="stopped half way"):
        stored(tmp_path, "abc", make=make)
    assert list(tmp_path.iterdir()) == []


def test_store_of_another_process_is_taken(tmp_path: Path) -> None:
    def make(directory: Path) -> dict[str, Any]:
        # The other process finishes while this one still writes.
        store_of(tmp_path, EXAMPLES[:3], "abc")
        write_examples(directory, iter(EXAMPLES[:3]))
        return {"examples": 3}

    store, _ = stored(tmp_path, "abc", make=make)
    assert [content(store[i]) for i in range(3)] == [content(example) for example in EXAMPLES[:3]]
    assert [path.name for path in tmp_path.iterdir()] == ["abc"]


def test_failed_rename_is_not_hidden(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def rename(source: Path, target: Path) -> None:
        raise OSError("disk is gone")

    monkeypatch.setattr(os, "rename", rename)
    with pytest.raises(OSError, match="disk is gone"):
        store_of(tmp_path, EXAMPLES)


def test_selection_of_a_selection(tmp_path: Path) -> None:
    store = store_of(tmp_path, EXAMPLES)
    part = store.select(np.array([4, 2, 1]), "train").select(np.array([2, 0]), "again")
    assert [content(part[i]) for i in range(len(part))] == [content(EXAMPLES[1]), content(EXAMPLES[4])]
    assert part.lengths.tolist() == [len(EXAMPLES[1].input_ids), len(EXAMPLES[4].input_ids)]


def test_selections_have_fingerprints_of_their_own(tmp_path: Path) -> None:
    store = store_of(tmp_path, EXAMPLES)
    chosen = [([0, 1], "train"), ([0, 2], "train"), ([1, 0], "train"), ([0, 1], "validation")]
    marks = [store.select(np.array(indices), label).fingerprint for indices, label in chosen]
    assert len({store.fingerprint, *marks}) == 5
    assert store.select(np.array([0, 1]), "train").fingerprint == marks[0]


def test_fingerprint_keeps_parts_apart() -> None:
    assert fingerprint_of("ab", "c") == hashlib.sha256(b"2\0ab\0c\0").hexdigest()[:32]
    assert len({fingerprint_of("ab", "c"), fingerprint_of("a", "bc"), fingerprint_of("abc"), fingerprint_of()}) == 4


def test_fingerprint_changes_with_the_format(monkeypatch: pytest.MonkeyPatch) -> None:
    before = fingerprint_of("a")
    monkeypatch.setattr(example_store, "FORMAT", example_store.FORMAT + 1)
    assert fingerprint_of("a") != before


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def emptied(path: Path) -> None:
    path.write_bytes(b"")


def one_id_changed(path: Path) -> None:
    content = path.read_bytes()
    ids = EXAMPLES[4].input_ids.tobytes()
    assert content.count(ids) == 1
    path.write_bytes(content.replace(ids, bytes([ids[0] ^ 1]) + ids[1:]))


def other_owner(path: Path) -> None:
    os.chown(path, 4711, -1)


def writable_by_all(path: Path) -> None:
    path.chmod(0o666)


def pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


@pytest.mark.parametrize("damage", [cut, emptied, os.remove, one_id_changed, other_owner, writable_by_all, pipe])
@pytest.mark.parametrize("name", ["examples.arrow", "counts.json", "seal.json"])
def test_a_store_that_is_not_what_was_stored_is_made_again(
    tmp_path: Path, said: list[str], damage: Callable[[Path], None], name: str
) -> None:
    if damage is one_id_changed and name != "examples.arrow":
        pytest.skip("there are no ids")
    if damage is other_owner and os.geteuid():
        pytest.skip("only root can give files away")
    store_of(tmp_path, EXAMPLES)
    damage(tmp_path / "f" / name)
    again = store_of(tmp_path, EXAMPLES)
    assert [content(again[i]) for i in range(5)] == [content(example) for example in EXAMPLES]
    assert "are not used: " in said[0]
    assert "tokenizing again" in said[0]
    assert [path.name for path in tmp_path.iterdir()] == ["f"]


def test_a_store_of_an_earlier_version_is_made_again(tmp_path: Path, said: list[str]) -> None:
    """It had no seal."""
    store_of(tmp_path, EXAMPLES)
    (tmp_path / "f" / "seal.json").unlink()
    assert len(store_of(tmp_path, EXAMPLES[:2])) == 2
    assert "it was not finished" in said[0]


def test_a_link_in_the_place_of_a_store(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes").write_text("mine")
    (tmp_path / "root").mkdir()
    (tmp_path / "root" / "f").symlink_to(tmp_path / "mine")
    assert len(store_of(tmp_path / "root", EXAMPLES)) == 5
    assert (tmp_path / "mine" / "notes").read_text() == "mine"


def test_a_shared_directory_may_hold_what_others_stored(tmp_path: Path, said: list[str]) -> None:
    store_of(tmp_path, EXAMPLES)
    (tmp_path / "f" / "examples.arrow").chmod(0o664)
    assert len(store_of(tmp_path, EXAMPLES[:2], own=False)) == 5
    assert said == []


def test_a_store_that_vanishes_after_it_was_checked_is_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store_of(tmp_path, EXAMPLES)
    true_check, calls = example_store.broken_seal, []

    def check(entry: Path, **options: Any) -> str | None:
        found = true_check(entry, **options)
        if not calls:
            shutil.rmtree(entry)
        calls.append(found)
        return found

    monkeypatch.setattr(example_store, "broken_seal", check)
    assert len(store_of(tmp_path, EXAMPLES)) == 5
