"""evaluation/facts.py: which answers state their facts."""

from __future__ import annotations

import doctest

import pytest

from neuralchat.evaluation import facts as evaluation
from neuralchat.evaluation.facts import states_facts


@pytest.mark.parametrize(
    ("answer", "facts", "expected"),
    [
        ("Use --lora_rank; the default is 8.", ["--lora_rank", "8"], True),
        ("Use --lora_rank.", ["--lora_rank", "8"], False),
        ("USE --LORA_RANK", ["--lora_rank"], True),
        ("--lora_rank", ["--lora_rank"], True),
        ("'--lora_rank'", ["--lora_rank"], True),
        ("--lora_ranks", ["--lora_rank"], False),
        ("--lora_rank-x", ["--lora_rank"], False),
        ("x--lora_rank", ["--lora_rank"], False),
        ("it is 18", ["8"], False),
        ("it is 80", ["8"], False),
        ("see metrics.jsonl", ["json"], False),
        ("open metricsxjsonl", ["metrics.jsonl"], False),
        ("", ["8"], False),
        ("anything", [], True),
        ("Seven days.", [("7", "seven")], True),
        ("Seventeen days.", [("7", "seven")], False),
        ("red and green", ["red", ("yellow", "green")], True),
        ("red", ["red", ("yellow", "green")], False),
        ("I don\u2019t know.", ["don't know"], True),
        ("I don't know.", ["don\u2019t know"], True),
        ("中国的首都是北京。", ["北京"], True),
        ("日本の首都は東京です", ["東京"], True),
        ("한국의 수도는 서울입니다.", ["서울"], True),
        ("三加四等于7。", ["7"], True),
        ("三加四等于17。", ["7"], False),
        ("в Москве", ["москва"], False),
        ("Это Москва.", ["москва"], True),
        ("It is C++.", ["C"], False),
        ("It is C#.", ["C"], False),
        ("It is C.", ["C"], True),
        ("It is C++.", ["C++"], True),
        ("press Ctrl+C", ["C"], True),
        ("\u22125 degrees", ["5"], False),
        ("\u22125 degrees", ["-5"], True),
    ],
)
def test_states_facts(answer: str, facts: list[str | tuple[str, ...]], expected: bool) -> None:
    assert states_facts(answer, facts) is expected


@pytest.mark.parametrize("answer", ["the default is 0.8", "the default is 8.5", "it is 8,000"])
def test_a_part_of_a_number_is_not_the_number(answer: str) -> None:
    assert not states_facts(answer, ["8"])


@pytest.mark.parametrize("answer", ["it is 8.", "8, of course", "(8)", "8"])
def test_a_number_before_punctuation_is_the_number(answer: str) -> None:
    assert states_facts(answer, ["8"])


def test_doctests() -> None:
    outcome = doctest.testmod(evaluation)
    assert outcome.attempted >= 2
    assert outcome.failed == 0
