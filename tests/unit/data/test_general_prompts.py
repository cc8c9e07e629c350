"""data/general: the prompts parse, are many and of many kinds, can be checked, and what measures is not rehearsed."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import neuralchat.data.general_prompts as general
from neuralchat.data.general_prompts import GeneralPrompt, measured_prompts, rehearsal_prompts
from neuralchat.data.records import Turn
from neuralchat.evaluation.facts import alternatives_of, states_facts

FOLDER = Path(general.__file__).parent / "general"
MEASURED, REHEARSED = measured_prompts(), rehearsal_prompts()
ALL = [*MEASURED, *REHEARSED]
KINDS = {
    "geography", "science", "history", "nature", "everyday", "arithmetic", "lists", "rewriting", "code", "small_talk",
    "refusals", "languages", "definitions", "comparisons", "yes_no", "reading", "constraints",
}  # fmt: skip
# Scripts without spaces between words: each character counts as a word.
UNSPACED = "\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af"
# Words that say nothing of what is asked: those of grammar, and those that all prompts of a form share.
FORM = frozenset(
    re.findall(
        r"\w+",
        """a an and are as at be by can did do does each for from has have how i in into is it its me my of on one or s
        t that the their there these this to was we were what when where which who why will with you your between
        call called common compare complete difference five four give list make many much name put say sentence tell
        three translate two word write""",
    )
)


def text_of(prompt: GeneralPrompt) -> str:
    return f"{prompt.instruction} {prompt.context}".strip()


def words(prompt: GeneralPrompt) -> set[str]:
    return set(re.findall(rf"[{UNSPACED}]|[^\W{UNSPACED}]+", text_of(prompt).lower()))


def content(prompt: GeneralPrompt) -> set[str]:
    """The words that say what is asked, plurals as singulars; all words where there are none."""
    found = {word[:-1] if len(word) > 3 and word.endswith("s") else word for word in words(prompt) - FORM}
    return found or words(prompt)


def likeness(a: set[str], b: set[str]) -> float:
    """Jaccard: shared words / all words."""
    return len(a & b) / len(a | b)


def near_duplicates(one: list[GeneralPrompt], other: list[GeneralPrompt]) -> list[tuple[str, str]]:
    """Pairs that ask the same in other words: half of what they ask about, or most of their words, is the same."""
    known = [(prompt, content(prompt), words(prompt)) for prompt in other]
    return [
        (text_of(prompt), text_of(second))
        for prompt in one
        for second, asked, all_words in known
        if prompt is not second
        and (likeness(content(prompt), asked) >= 0.5 or likeness(words(prompt), all_words) >= 0.8)
    ]


@pytest.mark.parametrize(
    ("one", "other", "near"),
    [
        ("What is the capital of France?", "what's the capital city of france", True),
        ("What is the capital of France?", "Name France's capital.", True),
        ("What is the capital of France?", "What is the capital of Spain?", False),
        ("What is 2 + 3?", "How much is 3 + 2?", True),
        ("What is 2 + 3?", "What is 2 + 6?", False),
        ("How are you?", "how are you", True),
        ("How are you?", "Can you keep a secret?", False),
        ("中国的首都是哪里", "请问中国的首都是哪里", True),
        ("中国的首都是哪里", "三加四等于几", False),
    ],
)
def test_near_duplicates_are_found(one: str, other: str, near: bool) -> None:
    assert bool(near_duplicates([GeneralPrompt(one, "a")], [GeneralPrompt(other, "a")])) is near


def test_no_measured_prompt_is_rehearsed_not_even_reworded() -> None:
    assert near_duplicates(MEASURED, REHEARSED) == []


def test_no_rehearsed_prompt_asks_for_a_measured_answer_about_the_same() -> None:
    """Such as the minutes of an hour and the seconds of a minute: rehearsing one would teach the other."""
    # Of these kinds all prompts have much the same answers.
    open_kinds = {"yes_no", "refusals"}
    pairs = [
        (text_of(measured), text_of(rehearsed))
        for measured in MEASURED
        for rehearsed in REHEARSED
        if measured.kind not in open_kinds
        and measured.facts == rehearsed.facts
        and likeness(content(measured), content(rehearsed)) > 0.2
    ]
    assert pairs == []


@pytest.mark.parametrize("prompts", [MEASURED, REHEARSED])
def test_no_prompt_stands_twice_in_a_file(prompts: list[GeneralPrompt]) -> None:
    again = [
        (text_of(one), text_of(two))
        for index, one in enumerate(prompts)
        for two in prompts[:index]
        if words(one) == words(two) and one.facts == two.facts
    ]
    assert again == []


def rows_of(name: str) -> Iterator[dict[str, Any]]:
    for line in (FOLDER / name).read_text(encoding="utf-8").splitlines():
        yield json.loads(line)


@pytest.mark.parametrize(("name", "prompts"), [("measure.jsonl", MEASURED), ("rehearse.jsonl", REHEARSED)])
def test_each_line_becomes_the_prompt_it_says(name: str, prompts: list[GeneralPrompt]) -> None:
    rows = list(rows_of(name))
    assert [row["instruction"] for row in rows] == [prompt.instruction for prompt in prompts]
    assert [row.get("input", "") for row in rows] == [prompt.context for prompt in prompts]
    for row, prompt in zip(rows, prompts, strict=True):
        assert row.keys() <= {"instruction", "input", "answer", "kind", "language", "facts"}
        assert row.get("answer", "") == prompt.answer
        assert all(isinstance(row[key], str) and row[key].strip() == row[key] != "" for key in row.keys() - {"facts"})
        assert row.get("facts", [None]) != [], "leave facts out where there are none"
        assert [list(alternatives_of(fact)) for fact in prompt.facts] == [
            fact if isinstance(fact, list) else [fact] for fact in row.get("facts", [])
        ]


def test_a_prompt_is_a_conversation_of_one_turn() -> None:
    prompt = GeneralPrompt("Add.", "arithmetic", "1 and 2")
    assert prompt.turns == (Turn("user", "Add.", "1 and 2"),)


def test_there_are_enough() -> None:
    assert len(ALL) >= 440
    assert len(MEASURED) >= 200
    assert len(REHEARSED) >= 240
    assert all(prompt.facts for prompt in MEASURED)
    # Settings are tuned on these.
    assert sum(bool(prompt.facts) for prompt in REHEARSED) >= 100


@pytest.mark.parametrize(("prompts", "least", "share"), [(MEASURED, 10, 0.1), (REHEARSED, 18, 0.1)])
def test_kinds_are_balanced(prompts: list[GeneralPrompt], least: int, share: float) -> None:
    counts = Counter(prompt.kind for prompt in prompts)
    assert counts.keys() == KINDS
    assert min(counts.values()) >= least
    assert max(counts.values()) <= share * len(prompts)


@pytest.mark.parametrize("prompts", [MEASURED, REHEARSED])
def test_yes_and_no_are_balanced(prompts: list[GeneralPrompt]) -> None:
    """Otherwise a model that always says yes would do well."""
    counts = Counter(alternatives_of(prompt.facts[0])[0] for prompt in prompts if prompt.kind == "yes_no")
    assert counts.keys() == {"yes", "no"}
    assert counts["yes"] == counts["no"]


def test_languages_vary() -> None:
    assert {prompt.kind for prompt in ALL if prompt.language} == {"languages"}
    for prompts in (MEASURED, REHEARSED):
        of_languages = [prompt for prompt in prompts if prompt.kind == "languages"]
        counts = Counter(prompt.language for prompt in of_languages)
        assert all(re.fullmatch("[a-z]{2}", language) for language in counts)
        assert "en" not in counts
        assert len(counts) >= 12
        assert max(counts.values()) <= len(of_languages) / 4
    letters = "".join(prompt.instruction for prompt in ALL)
    for script in (
        "\u0400-\u04ff",
        "\u0600-\u06ff",
        "\u0900-\u097f",
        "\u3040-\u30ff",
        "\u4e00-\u9fff",
        "\uac00-\ud7af",
    ):
        assert re.search(f"[{script}]", letters), script


def test_no_fact_is_part_of_its_prompt() -> None:
    """Otherwise an echo of the question would count as right, and so would a part of it."""
    echoed = [
        (text_of(prompt), choice)
        for prompt in ALL
        for fact in prompt.facts
        for choice in alternatives_of(fact)
        if states_facts(text_of(prompt), [choice])
    ]
    assert echoed == []


def test_facts_are_written_in_one_way() -> None:
    for prompt in ALL:
        for fact in prompt.facts:
            choices = alternatives_of(fact)
            assert all(choice == choice.lower().strip() != "" for choice in choices), prompt
            assert len(set(choices)) == len(choices), prompt
            # Each can be found in an answer that is nothing else: no fact begins or ends within a word.
            assert all(states_facts(choice, [choice]) for choice in choices), prompt


def test_few_other_prompts_answer_a_question_by_their_facts() -> None:
    """The facts of one prompt, said in answer to another, count there only where the questions have one answer."""
    said = {prompt.facts: " and ".join(alternatives_of(fact)[0] for fact in prompt.facts) for prompt in MEASURED}
    right = sum(states_facts(answer, prompt.facts) for prompt in MEASURED for answer in said.values())
    assert right / (len(MEASURED) * len(said)) < 0.03


def test_they_may_be_used_freely() -> None:
    assert "CC0 1.0" in (FOLDER / "README.md").read_text(encoding="utf-8")


def test_answers_are_given_to_what_is_rehearsed_and_state_the_facts() -> None:
    assert all(prompt.answer for prompt in REHEARSED)
    assert not any(prompt.answer for prompt in MEASURED)
    assert [p.instruction for p in REHEARSED if p.facts and not states_facts(p.answer, p.facts)] == []
    assert len({p.answer for p in REHEARSED}) == len(REHEARSED)
