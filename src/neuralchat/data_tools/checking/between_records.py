"""What only shows between records: copies, other answers to the same question, records of validation in training.

Found at the end, by sorting what was remembered of each record: so the result does not depend on who read which block.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from neuralchat.data_tools.checking.findings import KEPT_FINDINGS, CheckHelp, Place, RowFindings
from neuralchat.data_tools.checking.record_table import RecordMarks, RecordTable
from neuralchat.data_tools.wording_table import first_alike, first_kept

EXACT = CheckHelp("exact_duplicate", "warning", "the same record again; keep one")
NEAR = CheckHelp("near_duplicate", "warning", "nearly the same words (not: the same meaning); keep one")
CONTRADICTION = CheckHelp(
    "other_answer", "warning", "an earlier row answers the same question otherwise; keep the better"
)
LEAKAGE = CheckHelp("leakage", "error", "the question is in the validation file too; its figures say nothing then")
NEAR_LEAKAGE = CheckHelp("near_leakage", "warning", "nearly a record of the validation file")
LENGTHS = CheckHelp(
    "length_balance", "note", "a few records hold most of the text; --supervise, split or leave some out"
)
# Of answers: far outside of what the others have, by quartiles of the logarithm, as box plots draw them.
OUTLIER = CheckHelp("extreme_length", "note", "far longer than the other answers")
CLASSES = CheckHelp(
    "class_balance", "note", "one answer is far more frequent than others; a model learns to give it always"
)
OUTLIER_RANGES = 3.0
FEWEST_FOR_QUARTILES = 50
LONGEST_PART = 0.01
MOST_SHARE = 0.25
# So large a share of one answer is too much, where answers recur at all.
MOST_OF_ONE_ANSWER = 0.2

RecordNumbers = npt.NDArray[np.int64]


def look_between(table: RecordTable, held_out: int, findings: RowFindings, *, near: bool) -> dict[str, RecordNumbers]:
    """Add what shows between the records of `table`, of which the first `held_out` are those of validation.

    Returns by check the records that can go without a loss: copies, and those whose question is held out.
    """
    marks = table.marks()
    training = np.arange(held_out, table.count)

    def there(word: str, others: RecordNumbers) -> Callable[[int], str]:
        return lambda number: f"{word} {table.place(int(others[number]), marks.rows)}"

    def tell(check: CheckHelp, records: RecordNumbers, seen: Callable[[int], str]) -> None:
        kept = [
            (table.place(int(record), marks.rows), seen(number))
            for number, record in enumerate(records[:KEPT_FINDINGS])
        ]
        findings.add_all(check, len(records), kept)

    leaks = same_as_first(marks.questions[:held_out], marks.questions[held_out:])
    is_leak = leaks >= 0
    tell(LEAKAGE, training[is_leak], there("as", leaks[is_leak]))
    firsts, is_new_pair = first_of_question(marks.questions[held_out:], marks.answers[held_out:])
    is_copy = firsts != np.arange(len(training))
    is_exact, is_other = is_copy & ~is_new_pair, is_copy & is_new_pair
    firsts += held_out
    tell(EXACT, training[is_exact], there("as", firsts[is_exact]))
    tell(CONTRADICTION, training[is_other], there("as", firsts[is_other]))
    if near:
        if held_out:
            asked = training[marks.has_sketch[held_out:] & ~is_leak]
            known = np.flatnonzero(marks.has_sketch[:held_out])
            like = first_alike(marks.sketches, np.concatenate((known, asked)), len(known))[len(known) :]
            tell(NEAR_LEAKAGE, asked[like >= 0], there("nearly", known[like[like >= 0]]))
        asked = training[marks.has_sketch[held_out:] & ~is_copy]
        like = first_kept(marks.sketches, asked)
        tell(NEAR, asked[like >= 0], there("nearly", asked[like[like >= 0]]))
    look_at_lengths(table, marks, held_out, findings)
    look_at_classes(table, marks, held_out, findings)
    return {LEAKAGE.name: training[is_leak], EXACT.name: training[is_exact]}


def same_as_first(known: npt.NDArray[np.uint64], asked: npt.NDArray[np.uint64]) -> RecordNumbers:
    """(asked,) the first place in `known` with the same value, or -1."""
    values, firsts = np.unique(known, return_index=True)
    if not len(values):
        return np.full(len(asked), -1)
    near = np.minimum(np.searchsorted(values, asked), len(values) - 1)
    return np.where(values[near] == asked, firsts[near], -1)


def first_of_question(
    questions: npt.NDArray[np.uint64], answers: npt.NDArray[np.uint64]
) -> tuple[RecordNumbers, npt.NDArray[np.bool_]]:
    """(of each record the first with its question, whether it is the first with its question and its answer)."""
    firsts, is_new = np.arange(len(questions)), np.ones(len(questions), bool)
    order = np.argsort(questions, kind="stable")
    ordered = questions[order]
    same = np.concatenate((ordered[1:] == ordered[:-1], [False])) if len(order) else np.zeros(0, bool)
    begins = ~np.concatenate(([False], same[:-1]))
    # All that follows is about records whose question comes again.
    several = same | ~begins
    firsts[order] = np.repeat(order[begins], np.diff(np.append(np.flatnonzero(begins), len(order))))
    members = np.sort(order[several])
    by_pair = members[np.lexsort((members, answers[members], questions[members]))]
    again = (questions[by_pair[1:]] == questions[by_pair[:-1]]) & (answers[by_pair[1:]] == answers[by_pair[:-1]])
    is_new[by_pair[1:][again]] = False
    return firsts, is_new


def look_at_lengths(table: RecordTable, marks: RecordMarks, held_out: int, findings: RowFindings) -> None:
    lengths = marks.answer_lengths[held_out:].astype(np.int64)
    if len(lengths) < FEWEST_FOR_QUARTILES:
        return
    logs = np.log1p(lengths)
    low, high = np.quantile(logs, (0.25, 0.75))
    # Answers of much the same length have hardly a range.
    far = np.flatnonzero(logs > high + OUTLIER_RANGES * max(high - low, 0.5))
    kept = [
        (table.place(held_out + int(index), marks.rows), f"{lengths[index]:,} characters in its answers")
        for index in far[:KEPT_FINDINGS]
    ]
    findings.add_all(OUTLIER, len(far), kept)
    longest = np.sort(lengths)[-max(1, int(len(lengths) * LONGEST_PART)) :]
    if longest.sum() > MOST_SHARE * max(1, lengths.sum()):
        share = longest.sum() / lengths.sum()
        seen = f"{len(longest)} of {len(lengths)} records hold {share:.0%} of the characters of answers"
        findings.add(LENGTHS, Place(table.stretches[-1][1], None), seen)


def look_at_classes(table: RecordTable, marks: RecordMarks, held_out: int, findings: RowFindings) -> None:
    """Whether one answer is that of very many records, as of a class that was not balanced."""
    answers = marks.answers[held_out:]
    if len(answers) < FEWEST_FOR_QUARTILES:
        return
    _, firsts, counts = np.unique(answers, return_index=True, return_counts=True)
    most = int(np.argmax(counts))
    others = np.delete(counts, most)
    if counts[most] < MOST_OF_ONE_ANSWER * len(answers) or counts[most] < 2 * max(others, default=0):
        return
    seen = (
        f"{counts[most]:,} of {len(answers):,} records have the answer of this row; they have {len(counts):,} answers"
    )
    findings.add(CLASSES, table.place(held_out + int(firsts[most]), marks.rows), seen)
