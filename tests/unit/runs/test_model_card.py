"""runs/model_card.py: names are what strangers chose, so they are written as text and nothing else."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import yaml

from neuralchat.runs.kept_evaluation import KeptFigure
from neuralchat.runs.model_card import model_card


def manifest(name: str, method: str = "lora") -> dict[str, Any]:
    return {"base_model": {"name": name}, "adapter": {"method": method}, "template": {"name": "chat"}, "results": {}}


def test_a_name_adds_no_key_and_no_heading() -> None:
    name = "org/model\nlicense: evil\n---\n# Heading <script>"
    card = model_card(manifest(name), with_neuralchat="pass\n", hub_id=name)
    head = card.split("---\n")[1]
    assert yaml.safe_load(head) == {
        "base_model": "org/model license: evil --- # Heading <script>",
        "library_name": "peft",
        "tags": ["lora", "neuralchat"],
    }
    assert "\n# Heading" not in card
    assert "<script>" not in card.split("---\n", 2)[2]


def test_a_directory_is_no_name_for_the_hub() -> None:
    card = model_card(manifest("/home/ada/models/mine"), with_neuralchat="pass\n", without_neuralchat="")
    assert "base_model" not in yaml.safe_load(card.split("---\n")[1])
    assert "No name on the hub is known for mine, so the field `base_model` is left out." in card
    # Its name is for all to read, whose machine it lay on is not.
    assert "A lora adapter for mine, trained" in card
    assert "ada" not in card.replace("adapter", "").replace("Adapter", "")
    assert "--base_model PATH" in card


def test_a_short_name_is_written_as_the_hub_has_it() -> None:
    known = model_card(manifest("smollm2-135m-instruct"), with_neuralchat="pass\n", hub_id="HuggingFaceTB/SmolLM2-135M")
    assert yaml.safe_load(known.split("---\n")[1])["base_model"] == "HuggingFaceTB/SmolLM2-135M"
    assert "smollm2-135m-instruct is HuggingFaceTB/SmolLM2-135M under another name" in known
    same = model_card(manifest("org/model"), with_neuralchat="pass\n", hub_id="org/model")
    assert "another name" not in same
    assert "left out" not in same


ODD: list[Any] = [None, True, "x", "# a\n# b", 1.5, [], ["x"], {}, {"examples": "x"}, {"train": []}, {"counts": "x"}]


@pytest.mark.parametrize("value", ODD, ids=repr)
def test_what_strangers_write_in_the_place_of_numbers_is_left_out(value: Any) -> None:
    written = manifest("org/model")
    expected = model_card(written, with_neuralchat="pass\n", without_neuralchat="")
    for part in ({"data": value}, {"data": {"counts": value}}, {"data": {"counts": {"train": value}}}):
        assert model_card({**written, **part}, with_neuralchat="pass\n", without_neuralchat="") == expected
    adapter = {"method": "lora", "trained_parameters": value}
    assert model_card({**written, "adapter": adapter}, with_neuralchat="pass\n", without_neuralchat="") == expected
    card = model_card({**written, "neuralchat": value}, with_neuralchat="pass\n", without_neuralchat="")
    assert "\n# b" not in card


def test_the_figures_of_an_evaluation_are_a_table() -> None:
    found = [
        KeptFigure(
            part="questions", file="a|b.json", measure="right answers", questions=45, share=True, before=0.2, after=0.9,
            difference=0.7, interval=(0.5, 0.85), says="better", confidence=0.96, adjusted_p=0.0002,
            before_interval=(0.11, 0.34), after_interval=(0.79, 0.96),
        ),
        KeptFigure(
            part="held out", file="", measure="similarity", questions=45, share=False, before=0.1, after=0.2,
            difference=0.1, interval=(0.01, 0.2), says="no difference can be seen",
        ),
        KeptFigure(part="held out", file="", measure="loss on answers", questions=45, share=False, after=0.02),
    ]  # fmt: skip
    card = model_card(manifest("org/model"), with_neuralchat="pass\n", evaluation=found)
    rows = [
        r"| a\|b.json, 45 | right answers | 20%, 11 to 34 | 90%, 79 to 96 | +70.0 points (+50.0 to +85.0, 96 %) | "
        "<0.001 | better |",
        # As older versions kept it.
        "| held out, 45 | similarity | 0.100 | 0.200 | +0.100 (+0.010 to +0.200, 95 %) | earlier version | "
        "no difference can be seen |",
        "| held out, 45 | loss on answers |  | 0.020 |  |  |  |",
    ]
    assert [row for row in rows if row not in card.replace("\\<", "<").replace("&lt;", "<").splitlines()] == []
    assert "## Evaluation" not in model_card(manifest("org/model"), with_neuralchat="pass\n")
    assert "are left out" not in card
    # What the preface says of rows is of those that have a p.
    earlier = "Rows of an earlier version have words for all measures too, and an interval for each measure alone"
    assert earlier in card
    assert earlier not in model_card(manifest("org/model"), with_neuralchat="pass\n", evaluation=[found[0], found[2]])
    trial = replace(found[1], file="trial.json", part="questions", questions=3)
    card = model_card(manifest("org/model"), with_neuralchat="pass\n", evaluation=[*found, trial])
    assert "trial.json" not in card
    assert "Sets of fewer than 20 questions are left out." in card


def test_sets_are_told_apart_by_their_longest_answers_and_counted_whole() -> None:
    """The same questions may be a file and the held-out part; a measure may be of a few of them."""
    common: dict[str, Any] = {"share": True, "after": 0.5}
    found = [
        KeptFigure(part="questions", file="q.json", measure="right answers", questions=45, max_new_tokens=64, **common),
        KeptFigure(part="questions", file="q.json", measure="numbers", questions=4, max_new_tokens=64, **common),
        KeptFigure(part="held out", file="", measure="right answers", questions=45, max_new_tokens=256, **common),
        KeptFigure(part="general", file="", measure="right answers", questions=3, **common),
    ]
    card = model_card(manifest("org/model"), with_neuralchat="pass\n", evaluation=found)
    assert "Sets of fewer than 20 questions are left out." in card
    rows = [line for line in card.splitlines() if line.startswith(("| q.json", "| held out", "| general"))]
    assert rows == [
        "| q.json, 45 (answers of at most 64 tokens) | right answers |  | 50% |  |  |  |",
        "| q.json, 45 (answers of at most 64 tokens) | numbers (4 of them) |  | 50% |  |  |  |",
        "| held out, 45 (answers of at most 256 tokens) | right answers |  | 50% |  |  |  |",
    ]


def test_what_a_card_says_of_trials_is_so() -> None:
    few = [
        KeptFigure(part="questions", file=name, measure="right answers", questions=count, share=True, after=0.5)
        for name, count in (("ten.json", 10), ("five.json", 5))
    ]
    card = model_card(manifest("org/model"), with_neuralchat="pass\n", evaluation=few)
    assert "ten.json, 10" in card
    assert "five.json" not in card
    assert "are left out" not in card
    assert "All sets have fewer than 20 questions; the largest is shown." in card
    alone = model_card(manifest("org/model"), with_neuralchat="pass\n", evaluation=few[:1])
    assert "fewer than" not in alone


def test_the_licence_of_the_base_model_and_the_data() -> None:
    written = manifest("org/model") | {
        "data": {"train_fingerprint": "af5cd3521e6be8f8", "counts": {"train": {"examples": 1080}}}
    }
    card = model_card(written, with_neuralchat="pass\n", licence="Apache-2.0")
    assert yaml.safe_load(card.split("---\n")[1])["license"] == "apache-2.0"
    assert "| licence of the base model | Apache-2.0 |" in card
    assert "| training data | 1,080 examples, fingerprint af5cd3521e6be8f8 |" in card
    unknown = model_card(manifest("org/model"), with_neuralchat="pass\n")
    assert "license" not in yaml.safe_load(unknown.split("---\n")[1])
    assert "| licence of the base model | not in its files; look where it is from |" in unknown
    odd = model_card(manifest("org/model"), with_neuralchat="pass\n", licence="Mine <b>only</b>")
    assert "license" not in yaml.safe_load(odd.split("---\n")[1])
    assert "<b>" not in odd.replace("\\<b", "")


def test_a_file_for_other_programs_says_how_it_is_used_there() -> None:
    card = model_card(manifest("org/model"), use="`llama-server -m a.gguf`")
    assert yaml.safe_load(card.split("---\n")[1])["library_name"] == "gguf"
    assert card.endswith("## Use\n\n`llama-server -m a.gguf`\n")
