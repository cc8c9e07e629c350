"""The check of records as it was first written: row by row, each check on each row, what is between rows in dicts."""

from __future__ import annotations

from typing import Any

from rensa import RMinHash, RMinHashDeduplicator, RMinHashLSH

from neuralchat.data.record_source import RecordSource
from neuralchat.data.records import RecordReport
from neuralchat.data_tools.checking.between_records import CONTRADICTION, EXACT, LEAKAGE, NEAR, NEAR_LEAKAGE
from neuralchat.data_tools.checking.findings import FoundInReading, Place, RowFindings, place_of_source
from neuralchat.data_tools.checking.record_checks import RECORD_CHECKS
from neuralchat.data_tools.checking.record_text import RecordText, record_text
from neuralchat.data_tools.near_duplicates import BANDS, FEWEST_PAIRS, HASHES, SKETCH_SEED, THRESHOLD, word_pairs

# What is told of a set as a whole.
OF_THE_WHOLE = {"extreme_length", "length_balance", "class_balance"}


def found_row_by_row(files: list[str], held_out: list[str]) -> dict[str, list[tuple[Place, str]]]:
    """check -> (place, what was seen) of every finding but those of OF_THE_WHOLE."""
    findings = RowFindings()
    between = Between(findings)
    if held_out:
        for record in RecordSource(files=tuple(held_out), trained=False, held_out=True).records(RecordReport()):
            between.hold_out(record_text(record), place_of_source(record.source))
    for record in RecordSource(files=tuple(files)).records(FoundInReading(findings)):
        text, place = record_text(record), place_of_source(record.source)
        for check in RECORD_CHECKS:
            if (seen := check.find(text)) is not None:
                findings.add(check.about, place, seen)
        between.look_at(text, place)
    return {check.name: found.examples for check, found in findings.found.items()}


class Between:
    def __init__(self, findings: RowFindings) -> None:
        self.findings = findings
        self.first: dict[str, tuple[str, Place]] = {}
        self.pairs: set[tuple[str, str]] = set()
        self.held_out: dict[str, Place] = {}
        self.near, self.near_held_out = WordingIndex(), EveryWording()

    def hold_out(self, text: RecordText, place: Place) -> None:
        self.held_out.setdefault(text.prompt_key or text.answer_key, place)
        self.near_held_out.add(sketch_of(text.whole), place)

    def look_at(self, text: RecordText, place: Place) -> None:
        question, answer, sketch = text.prompt_key or text.answer_key, text.answer_key, sketch_of(text.whole)
        if question in self.held_out:
            self.findings.add(LEAKAGE, place, f"as {self.held_out[question]}")
        elif there := self.near_held_out.like(sketch):
            self.findings.add(NEAR_LEAKAGE, place, f"nearly {there}")
        if question in self.first:
            known, there = self.first[question]
            check = EXACT if known == answer or (question, answer) in self.pairs else CONTRADICTION
            self.findings.add(check, place, f"as {there}")
        else:
            self.first[question] = (answer, place)
            if there := self.near.like(sketch):
                self.findings.add(NEAR, place, f"nearly {there}")
            self.near.add(sketch, place)
        self.pairs.add((question, answer))


class WordingIndex:
    """Of texts that are like none before them."""

    def __init__(self) -> None:
        self.found = RMinHashDeduplicator(THRESHOLD, HASHES, True, num_bands=BANDS, seed=SKETCH_SEED)
        self.places: list[Place] = []

    def add(self, sketch: Any, place: Place) -> None:
        if sketch is not None:
            # The library leaves out what is like something that it has.
            self.found.add(str(len(self.places)), sketch)
            self.places.append(place)

    def like(self, sketch: Any) -> Place | None:
        if sketch is None or not (keys := self.found.get_duplicates(sketch)):
            return None
        return self.places[min(map(int, keys))]


class EveryWording:
    """Of all texts, also those that are like one before them."""

    def __init__(self) -> None:
        self.found = RMinHashLSH(THRESHOLD, HASHES, BANDS)
        self.sketches: list[tuple[Any, Place]] = []

    def add(self, sketch: Any, place: Place) -> None:
        if sketch is not None:
            self.found.insert(len(self.sketches), sketch)
            self.sketches.append((sketch, place))

    def like(self, sketch: Any) -> Place | None:
        near = [] if sketch is None else sorted(self.found.query(sketch))
        return next((self.sketches[n][1] for n in near if sketch.jaccard(self.sketches[n][0]) >= THRESHOLD), None)


def sketch_of(text: str) -> Any:
    pairs = word_pairs(text)
    return RMinHash.from_token_sets([pairs], HASHES, SKETCH_SEED)[0] if len(pairs) >= FEWEST_PAIRS else None
