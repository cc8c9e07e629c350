"""`neuralchat data check` of many rows: hints, blocks, processes and sorting find what the slow reference finds."""

from __future__ import annotations

import json
import multiprocessing
import os
import random
import signal
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rensa import RMinHash
from support.data_checks.row_by_row import OF_THE_WHOLE, found_row_by_row

from neuralchat.data.record_source import RecordSource
from neuralchat.data.records import RecordReport
from neuralchat.data_tools.checking import check, row_blocks
from neuralchat.data_tools.checking.block_workers import results_in_order
from neuralchat.data_tools.checking.findings import RowFindings
from neuralchat.data_tools.checking.in_answers import SENTENCE_ENDS, language_of
from neuralchat.data_tools.checking.record_table import key_bytes
from neuralchat.data_tools.checking.record_text import without_case
from neuralchat.data_tools.near_duplicates import HASHES, SKETCH_SEED, word_pairs
from neuralchat.data_tools.wording_table import first_alike, sketches_of
from neuralchat.errors import NeuralChatError

ROOT = Path(__file__).parents[3]
DEBRIS = (
    "<noinput>", "\n###\n12. Instruction: Name a bird.\n12. Input:\nNone", "<|im_end|>", "</s>", "[INST] a [/INST]",
    "\ufffd", "It isn\u00e2\u20ac\u2122t", "bat\u200btery", "ghp_" + "a1B2" * 9, " 4111 1111 1111 1111,", "...",
    "jane.smith@posteo.de", "+49 30 1234567", "password: hunter2hunter2", "As an AI language model, I", "\u017f",
    "as an a\u0131 model", "\nUser: And?\nAssistant: No.", "So that it works well. " * 12, " and the", "[Your Name]",
    "I'm really sorry, but I", "Unfortunately, I cannot", "I am not able to", "\u0130 apologize, but", "I can't help",
    "Потому что розетки нет.", "in the attached picture", "<br>", "&amp;", "https://a.test/b", "\nimport os\n", "TODO",
    "\nclass Battery:\n", "Das ist nicht für eine Batterie und wird auf sich", "Summarize the following article.",
)  # fmt: skip


def odd_rows(count: int, seed: int = 0) -> list[dict[str, Any]]:
    """Rows of the package's and of the examples' records, with debris, copies and near copies among them."""
    draw = random.Random(seed)
    rows = json.loads((ROOT / "examples" / "style" / "train.json").read_text())
    rows += [json.loads(line) for line in (ROOT / "src/neuralchat/data/general/rehearse.jsonl").open()]
    rows = [row for row in rows if isinstance(row.get("output"), str)]
    made: list[dict[str, Any]] = []
    for _ in range(count):
        row = dict(draw.choice(made if made and draw.random() < 0.2 else rows))
        words = row["output"].split(" ")
        for _ in range(draw.choice((0, 0, 1, 2, 9))):
            words.insert(draw.randrange(len(words) + 1), draw.choice(words))
        if draw.random() < 0.4:
            words.insert(draw.choice((0, len(words))), draw.choice(DEBRIS))
        row["output"] = " ".join(words)
        if draw.random() < 0.5:
            row["instruction"] += f" {draw.choice(('Please.', 'Why?', draw.choice(DEBRIS)))}"
        made.append(row)
    return [row if draw.random() > 0.02 else {"instruction": "", "output": 5} for row in made]


@pytest.fixture(scope="module")
def odd_files(tmp_path_factory: pytest.TempPathFactory) -> tuple[list[str], list[str]]:
    """(files of training, files of validation)."""
    directory = tmp_path_factory.mktemp("odd")
    rows = odd_rows(900)
    files = {
        "a.jsonl": "\n".join(map(json.dumps, rows[:500])) + "\nno JSON\n",
        "b.json": json.dumps(rows[450:850]),
        "held_out.jsonl": "\n".join(map(json.dumps, rows[830:])),
    }
    for name, content in files.items():
        (directory / name).write_text(content)
    return [str(directory / "a.jsonl"), str(directory / "b.json")], [str(directory / "held_out.jsonl")]


def found_by_check(files: list[str], held_out: list[str], **options: Any) -> dict[str, Any]:
    findings, read = RowFindings(), RecordReport()
    sources = (RecordSource(files=tuple(files)), RecordSource(files=tuple(held_out), trained=False, held_out=True))
    check.look_through(*sources, read, RecordReport(), findings, **options)
    return {about.name: found.examples for about, found in findings.found.items()}


@pytest.mark.parametrize(("processes", "is_held_out"), [(1, False), (1, True), (2, True)])
def test_all_that_the_slow_reference_finds_is_found(
    odd_files: tuple[list[str], list[str]], monkeypatch: pytest.MonkeyPatch, processes: int, is_held_out: bool
) -> None:
    monkeypatch.setattr(check, "row_blocks", partial(row_blocks.row_blocks, rows=120))
    files, held_out = odd_files[0], odd_files[1] if is_held_out else []
    wanted = found_row_by_row(files, held_out)
    found = found_by_check(files, held_out, processes=processes)
    assert len(wanted) >= 25
    if is_held_out:
        # Those of the held-out file itself are told too.
        assert {place.file for place, _ in found["structure"]} == {*files, *held_out}
        found["structure"] = [entry for entry in found["structure"] if entry[0].file not in held_out]
    assert {name: entries for name, entries in found.items() if name not in OF_THE_WHOLE} == wanted


def test_blocks_of_a_few_rows_find_the_same(
    odd_files: tuple[list[str], list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = found_by_check(odd_files[0], [])
    monkeypatch.setattr(check, "row_blocks", partial(row_blocks.row_blocks, characters=5000))
    assert found_by_check(odd_files[0], []) == whole


def test_only_the_first_records_are_looked_at_where_so_many_are_wanted(odd_files: tuple[list[str], list[str]]) -> None:
    read = RecordReport()
    check.look_through(RecordSource(files=tuple(odd_files[0]), limit=70), RecordSource(), read, read, RowFindings())
    assert read.good == 70


@given(
    st.text(st.characters(exclude_categories=["Cs"]), max_size=40) | st.text(" \t\n\x0b\x1c\x85aBß.\u3000", max_size=20)
)
def test_texts_are_folded_as_by_the_slow_way(text: str) -> None:
    assert key_bytes(text) == without_case(text).encode()
    assert without_case(text).strip(" .!?")[-1:] == text.rstrip(SENTENCE_ENDS)[-1:].casefold()[-1:]


def test_sketches_tell_the_first_that_is_alike_as_comparing_all_with_all_does() -> None:
    texts = [row["output"] if isinstance(row["output"], str) else "" for row in odd_rows(300, seed=7)]
    sketches, has = sketches_of(texts)
    places = np.flatnonzero(has)
    found = first_alike(sketches, places, len(places))
    plain = RMinHash.from_token_sets([word_pairs(texts[place]) for place in places], HASHES, SKETCH_SEED)
    digests = np.asarray([sketch.digest() for sketch in plain]).reshape(len(plain), -1, 4)
    for number, sketch in enumerate(plain):
        shares_band = (digests[:number] == digests[number]).all(axis=2).any(axis=1)
        alike = [other for other in np.flatnonzero(shares_band) if sketch.jaccard(plain[other]) >= 0.8]
        assert found[number] == min(alike, default=-1)
    assert (found >= 0).sum() > 20


def test_a_process_that_dies_is_an_error_and_leaves_none_behind() -> None:
    with pytest.raises(NeuralChatError, match=r"has ended .*--processes 1"):
        list(results_in_order(end_at_five, iter(range(9)), 2))
    with pytest.raises(ZeroDivisionError):
        list(results_in_order(partial(divmod, 6), iter([3, 2, 1, 0, 1]), 2))
    assert not multiprocessing.active_children()


def end_at_five(number: int) -> int:
    if number == 5:
        os.kill(os.getpid(), signal.SIGKILL)
    return number


@pytest.mark.parametrize(
    ("text", "language"),
    [
        ("Welche Farbe hat das Gras, und ist es nass?", "German"),
        ("What is the colour of grass?", "English"),
        ("¿Qué está en la mesa para una persona?", "Spanish"),
        ("12 + 4 = 16", None),
        ("Los Angeles, El Paso, Las Vegas, Santa Fe", None),
    ],
)
def test_languages_are_told_by_their_small_words(text: str, language: str | None) -> None:
    assert language_of(text, 2) == language
