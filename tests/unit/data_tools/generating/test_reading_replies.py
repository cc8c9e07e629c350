"""generating/parsing.py, filters.py, languages.py: whatever a teacher says is read or refused, never an error."""

from __future__ import annotations

import doctest
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from neuralchat.data_tools.generating import diversity, filters, languages, parsing
from neuralchat.data_tools.generating.filters import FilterSettings, task_refusal
from neuralchat.data_tools.generating.parsing import (
    read_answer,
    read_classes,
    read_facts,
    read_score,
    read_tasks,
    read_turns,
)
from neuralchat.data_tools.generating.teaching import pipeline

SETTINGS = FilterSettings()
TWO = [("Name a bus.", False), ("Is this spam or not?", True)]


@pytest.mark.parametrize(
    "text",
    [
        " [generation] Name a bus.\n10. [classification] Is this spam or not?",
        "9. [generation] Name a bus.\n10. [classification] Is this spam or not?",
        "Here are the tasks:\n\n9) (Generation) Name a bus.\n10) [classification] Is this spam or not?\n\nEnjoy!",
        "- **Task:** Name a bus.\n- **Task:** Is this spam or not?",
        "```\n1. Name a bus.\n2. Is this spam or not?\n```",
        "**9.** [generation] Name a bus.\n**10.** [classification] Is this spam or not?",
        '["[generation] Name a bus.", "Is this spam or not?"]',
        json.dumps([{"task": "Name a bus."}, {"instruction": "Is this spam or not?", "type": "classification"}]),
        json.dumps({"tasks": ["Name a bus.", "Is this spam or not?"]}),
        '{"instruction": "Name a bus."}\n{"instruction": "Is this spam or not?"}',
        '9. "Name a bus."\n10. [classification]: Is this spam\n   or not?',
    ],
)
def test_lists_of_tasks(text: str) -> None:
    assert [tuple(task) for task in read_tasks(text, is_whole=True)] == TWO


def test_the_last_task_of_half_an_answer_is_left_out() -> None:
    assert len(read_tasks("1. Name a bus.\n2. Name an", is_whole=False)) == 1


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Input: none\nOutput: It is red.", ("", "It is red.")),
        ("**Input:** a, b\n\n**Output:**\n1. a\n2. b", ("a, b", "1. a\n2. b")),
        ("Output: It is red.", ("", "It is red.")),
        ("Input: N/A\nAnswer: Input: and Output: are labels.", ("", "Input: and Output: are labels.")),
        ('{"input": null, "output": "It is red."}', ("", "It is red.")),
        ("```\nInput: x\nOutput: y\n```", ("x", "y")),
        ("Input: none\nOutput: First line.\nOutput: second line.", ("", "First line.\nOutput: second line.")),
        ("It is red.", None),
        ("Input: none\nOutput:", None),
    ],
)
def test_answers(text: str, expected: tuple[str, str] | None) -> None:
    found = read_answer(text)
    assert (None if found is None else tuple(found)) == expected


def test_classes_facts_turns_and_scores() -> None:
    examples = read_classes("1. Label: spam\nInput: Win!\n\n2. Label: ham\nInput: Hello.\nSee you.\n\nLabel: lost")
    assert [tuple(each) for each in examples] == [("Win!", "spam"), ("Hello.\nSee you.", "ham")]
    facts = read_facts(
        '**Question 1:** Who?\n**Answer:** Ada did.\n**Quote:** "It was Ada."\n\nQuestion: Why?\nAnswer: So.'
    )
    assert [tuple(fact) for fact in facts] == [("Who?", "Ada did.", "It was Ada.", ""), ("Why?", "So.", "", "")]
    assert read_turns("User: a\nUser: b\nAssistant: c") == []
    assert read_turns("Assistant: a\nUser: b") == []
    assert read_turns("**User:** a\n\n**Assistant:** b\nUser: c") == [("user", "a"), ("assistant", "b")]
    assert [read_score(text) for text in ("Score: 5", "score - **2**/5", "Score: 3.5", "6 of 5", "")] == [
        5,
        2,
        None,
        None,
        None,
    ]


PIECES = [
    *(
        "9. ",
        "[generation] ",
        "Input: ",
        "Output:",
        "\n",
        "\n\n",
        "Label:",
        "Question:",
        "Quote: ",
        "User:",
        "{",
        "]",
        '"',
    ),
    *("```", "**", "Score: 3", "Name a bus.", "\x00", "é", '[{"instruction": 3}]', '{"output": []}'),
]


@settings(max_examples=80, deadline=None)
@given(
    st.lists(
        st.sampled_from(PIECES),
        max_size=14,
    ).map("".join)
    | st.text(max_size=60)
)
def test_nothing_that_a_teacher_says_is_an_error(text: str) -> None:
    for task in read_tasks(text, is_whole=False):
        task_refusal(task.instruction, SETTINGS)
    answer = read_answer(text)
    assert answer is None or answer.output
    assert all(fact.question and fact.answer for fact in read_facts(text))
    assert all(label.output for label in read_classes(text))
    assert len(read_turns(text)) % 2 == 0
    assert read_score(text) in (None, 1, 2, 3, 4, 5)


@pytest.mark.parametrize(
    ("instruction", "reason"),
    [
        ("Explain how the graph of supply and demand shows the price.", None),
        ("How much power does a video card draw under load?", None),
        ("Name the file system that most phones use.", None),
        ("Draw a diagram of a pipeline.", "blacklist"),
        ("Describe the attached image of the board.", "blacklist"),
        ("Go to the website and list its prices.", "blacklist"),
        ("Sum up.", "length"),
        ("word " * 151, "length"),
        ("", "length"),
        ("* name three buses", "punctuation"),
        ("1 + 2 * 3 / 4 - 5 = ?", "punctuation"),
        ("Name three buses,", "punctuation"),
        ("Nenne mir drei Busse und erkläre, wie sie sich in der Praxis unterscheiden.", "language"),
        ("Назови три шины и объясни их отличия.", "language"),
        ("As an AI language model, I have no tasks.", "remark"),
        ("Here are eight new tasks for the list:", "remark"),
        ("Explain what a zebra is.", "blacklist"),
    ],
)
def test_filters(instruction: str, reason: str | None) -> None:
    refusal = task_refusal(instruction, FilterSettings(blacklist=("zebra", "c++")))
    assert (None if refusal is None else refusal.reason) == reason


@pytest.mark.parametrize(
    ("code", "text"),
    [
        ("de", "Die Firma zahlt ihre Rechnungen immer nach dreißig Tagen, weil das im Vertrag steht."),
        ("fr", "Le processeur de cet ordinateur est plus rapide que celui de la machine dans le bureau."),
        ("es", "La empresa paga las facturas de los proveedores en el plazo que figura en el contrato."),
        ("it", "La ditta paga le fatture dei fornitori nel termine che si trova nel contratto, come sempre."),
        ("pt", "A empresa paga as faturas dos fornecedores no prazo que está no contrato, como sempre, não antes."),
        ("nl", "Het bedrijf betaalt de rekeningen van de leveranciers op tijd, zoals het in het contract staat."),
        ("en", "The company pays the invoices of its suppliers within the time that is set in the contract."),
    ],
)
def test_languages_are_told_apart(code: str, text: str) -> None:
    problems = {wanted: languages.language_problem(text, wanted) for wanted in languages.TOLD_LANGUAGES}
    assert problems.pop(code) is None
    assert set(problems.values()) == {languages.TOLD_LANGUAGES[code].name}
    assert languages.language_problem(text, languages.ANY) is None


@pytest.mark.parametrize("module", [diversity, filters, languages, parsing, pipeline])
def test_doctests(module: object) -> None:
    assert doctest.testmod(module).failed == 0  # type: ignore[arg-type]
