"""runs/model_card.py: names are what strangers chose, so they are written as text and nothing else."""

from __future__ import annotations

from typing import Any

import pytest
import yaml

from neuralchat.runs.model_card import model_card


def manifest(name: str, method: str = "lora") -> dict[str, Any]:
    return {"base_model": {"name": name}, "adapter": {"method": method}, "template": {"name": "chat"}, "results": {}}


def test_a_name_adds_no_key_and_no_heading() -> None:
    name = "org/model\nlicense: evil\n---\n# Heading <script>"
    card = model_card(manifest(name), with_neuralchat="pass\n", without_neuralchat="")
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
    # Its name is for all to read, whose machine it lay on is not.
    assert "A lora adapter for mine, trained" in card
    assert "ada" not in card.replace("adapter", "").replace("Adapter", "")
    assert "--base_model PATH" in card


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
