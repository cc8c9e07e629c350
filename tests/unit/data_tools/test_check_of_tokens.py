"""`neuralchat data check --model_name_or_path`: what training cuts, leaves out or cannot say, by row; and --columns."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from support.small_models import save_checkpoint
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from neuralchat.cli import main

WORDS = ["the", "laptop", "has", "a", "battery", ".", "it", "works", "is", "and", "light", "red", "green", "Why", "?"]
LONG = " ".join(["the battery is light and red ."] * 12)


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[int, str]]:
    """check -> row -> what was seen, with a tokenizer that has a token for each of a few words."""
    directory = tmp_path_factory.mktemp("tokens")
    save_checkpoint(directory / "model")
    vocabulary = {word: number for number, word in enumerate(["<unk>", "</s>", "<pad>", *WORDS])}
    backend = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    PreTrainedTokenizerFast(
        tokenizer_object=backend, unk_token="<unk>", eos_token="</s>", pad_token="<pad>"
    ).save_pretrained(directory / "model")
    rows = [
        {"instruction": "Why ?", "output": "it has a battery ."},
        {"instruction": LONG, "output": "it is red ."},
        {"instruction": "Why ?", "output": LONG},
        {"instruction": "Why ?", "output": "it has a battery and 3 \u00e9toiles ."},
        {"instruction": "Why 7 ?", "output": "it has a battery ."},
    ]
    (directory / "rows.json").write_text(json.dumps(rows))
    words = ["--model_name_or_path", str(directory / "model"), "--max_seq_length", "60", "--template", "alpaca"]
    report = directory / "report.json"
    assert main(["data", "check", str(directory / "rows.json"), *words, "--report", str(report)]) == 1
    return {
        finding["check"]: {row["row"]: row["seen"] for row in finding["rows"]}
        for finding in json.loads(report.read_text())["findings"]
    }


def test_a_prompt_that_is_cut_is_told_with_how_much(found: dict[str, dict[int, str]]) -> None:
    # The prompt of row 2 has 12 sentences of 7 tokens, the answer 4 and an end; the rest is the template's.
    assert list(found["cut_prompt"]) == [2]
    cut = int(found["cut_prompt"][2].partition(" ")[0])
    preamble = (
        "Below is an instruction that describes a task. Write a response that appropriately completes the request."
        " ### Instruction: ### Response:"
    )
    too_many = len(preamble.split()) + len(LONG.split()) + 5 - 60
    # A cut lies between words, so one more may go.
    assert cut in (too_many, too_many + 1)


def test_an_answer_that_does_not_fit_is_told_as_left_out(found: dict[str, dict[int, str]]) -> None:
    assert list(found["left_out"]) == [3]


def test_characters_of_answers_without_a_token_are_told_and_those_of_questions_are_not(
    found: dict[str, dict[int, str]],
) -> None:
    assert found["unknown_token"] == {4: "2 tokens"}


def test_columns_that_are_not_known_come_with_the_advice_of_finetune(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "a.jsonl"
    file.write_text(json.dumps({"Question (EN)": "Why?", "Answer": "So.", "id": 1}) + "\n")
    advice = "If other columns hold the texts, name them: --columns instruction=QUESTION_COLUMN,output=ANSWER_COLUMN"
    assert main(["data", "check", str(file)]) == 1
    assert advice in capsys.readouterr().out
    file.write_text(json.dumps({"Prompt": "Why does it rain?", "Reply": "Because of clouds."}) + "\n")
    assert main(["data", "check", str(file)]) == 1
    assert "--columns instruction=Prompt,output=Reply" in capsys.readouterr().out
    assert main(["data", "check", str(file), "--columns", "instruction=Prompt,output=Reply"]) == 0
    assert "--columns" not in capsys.readouterr().out
    assert main(["data", "check", str(file), "--columns", "instruction=Prompt,output=Text"]) == 1
    assert "no row has a column 'Text'" in capsys.readouterr().out
