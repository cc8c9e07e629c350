"""config/command/words.py: which words belong to which flag, and values written as words are read back."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from neuralchat.config.command.words import read_words, words_of
from neuralchat.config.conversion import BARE, TAKEN_BACK
from neuralchat.config.schema import SCHEMA


@pytest.mark.parametrize(
    ("words", "values"),
    [
        (["lora_rank=4"], {"lora_rank": "4"}),
        (["run_name=a=b"], {"run_name": "a=b"}),
        (["run_name=two\nlines"], {"run_name": "two\nlines"}),
        (["--run_name", "a=b"], {"run_name": "a=b"}),
        (["--run_name=x", "seed=1"], {"run_name": "x", "seed": "1"}),
        (["--run_name="], {"run_name": ""}),
        (["--do_train", "--seed", "1"], {"do_train": BARE, "seed": "1"}),
        (["--do_train", "false"], {"do_train": "false"}),
        (["--learning_rate", "-1"], {"learning_rate": "-1"}),
        (["--lora-rank", "4"], {"lora-rank": "4"}),
        (["--train_file", "c.json"], {"train_file": ["c.json"]}),
        (["--train_file", "a.json", "b.json", "--seed", "1"], {"train_file": ["a.json", "b.json"], "seed": "1"}),
        (["--train_file=a.json"], {"train_file": ["a.json"]}),
        (["train_file=a.json"], {"train_file": ["a.json"]}),
        (["--report_to", "tensorboard", "wandb"], {"report_to": ["tensorboard", "wandb"]}),
        # Directly after a flag, only a key that is itself a flag ends that flag's values.
        (["--do_train", "seed=1"], {"do_train": BARE, "seed": "1"}),
        (["--train_file", "data=v2.json"], {"train_file": ["data=v2.json"]}),
        (["--train_file", "a.json", "data=v2.json"], {"train_file": ["a.json"], "data": "v2.json"}),
        # All pairs belong to a flag that takes pairs, whatever is a flag does not.
        (["--columns", "instruction=q", "output=a", "seed=1"], {"columns": ["instruction=q", "output=a"], "seed": "1"}),
        (["columns=instruction=q,output=a"], {"columns": ["instruction=q,output=a"]}),
        (["--mix", "a.json=0.7", "b=0.3", "--seed", "1"], {"mix": ["a.json=0.7", "b=0.3"], "seed": "1"}),
        (["--seed", "no_bind_cores=1"], {"seed": BARE, "no_bind_cores": "1"}),
        (["seed=1", "seed="], {"seed": TAKEN_BACK}),
        (["--seed", "1", "--bf16", "--seed", "2"], {"bf16": BARE, "seed": "2"}),
        # An unknown flag takes along what follows it.
        (["--lora_rnk", "4", "5", "--seed", "1"], {"lora_rnk": "4", "seed": "1"}),
    ],
)
def test_words(words: list[str], values: dict[str, Any]) -> None:
    said = read_words(words, SCHEMA)
    assert (list(said.values.items()), said.stray) == (list(values.items()), [])


def test_words_that_belong_to_nothing() -> None:
    words = ["first", "--seed", "1", "2", "9=4", "=x", "--train_file=a", "b", "c.yaml", "--no_bind_cores", "x", "y"]
    assert read_words(words, SCHEMA).stray == ["first", "2", "9=4", "=x", "b", "c.yaml", "y"]


@pytest.mark.parametrize(
    ("word", "file"),
    [("c.yaml", "c.yaml"), ("a b/c.json", "a b/c.json"), ("--c.yaml", None), ("train_file=a.json", None)],
)
def test_a_config_file_is_the_first_word(word: str, file: str | None) -> None:
    found = read_words([word, "--seed", "1"], SCHEMA)
    assert (found.config_file, found.values["seed"]) == (None if file is None else Path(file), "1")


TEXTS = st.text(max_size=8)
ITEMS = TEXTS.filter(lambda text: not text.startswith("--") and "=" not in text)
VALUES = st.fixed_dictionaries(
    {},
    optional={
        "run_name": st.one_of(TEXTS, st.just(TAKEN_BACK), st.just(BARE)),
        "do_train": st.sampled_from(["true", "false", BARE]),
        "train_file": st.lists(ITEMS, min_size=1, max_size=3),
        "hub_model_id": TEXTS,
    },
)


@given(VALUES)
@example({"hub_model_id": "=", "train_file": ["=x", "b"]})
def test_values_written_as_words_are_read_back(values: dict[str, Any]) -> None:
    said = read_words(words_of(values), SCHEMA)
    assert (said.values, said.stray, said.config_file) == (values, [], None)
