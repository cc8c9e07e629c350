"""benchmarks/study.py: its commands are accepted, its data is what it says, its table is in the documents."""

from __future__ import annotations

import argparse
import importlib.util
import itertools
import re
import shlex
from collections import Counter
from pathlib import Path
from types import ModuleType

import pytest

from neuralchat.config.command.parser import parse

ROOT = Path(__file__).parents[3]
RECIPES = (ROOT / "docs" / "recipes.md").read_text(encoding="utf-8")
COMMANDS = [
    shlex.split(line)
    for block in re.findall(r"```bash\n(.*?)```", RECIPES, re.DOTALL)
    for line in block.replace("\\\n", " ").splitlines()
    if line.strip()
]


@pytest.fixture(scope="module")
def study() -> ModuleType:
    spec = importlib.util.spec_from_file_location("study", ROOT / "benchmarks" / "study.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def options(**values: object) -> argparse.Namespace:
    given = {
        "model": "m", "data": ["demo"], "methods": ["lora"], "settings": ["defaults"], "seeds": [42], "facts": 3,
        "wordings": 2, "rows": 300, "epochs": None, "extra": [], "bf16": True,
        "quick": False,
    }  # fmt: skip
    return argparse.Namespace(**given | values)


def test_every_method_and_setting_is_accepted(study: ModuleType, tmp_path: Path) -> None:
    found = [
        parse(study.command(cell, tmp_path)[4:], prog="t", implied=("--do_train",))
        for cell, _, _ in study.cells(options(methods=list(study.METHOD_FLAGS), settings=list(study.SETTINGS)))
    ]
    assert len(found) == len(study.METHOD_FLAGS) * len(study.SETTINGS)
    assert {each.tuning.peft for each in found} == {
        "lora", "ptun", "prefix", "prompt", "llama_adapter", "ia3", "none"
    }  # fmt: skip
    assert {each.tuning.keep_general for each in found} == {True, False}
    assert sum(each.tuning.lora_dora for each in found) == len(study.SETTINGS)


def test_fewer_facts_have_as_many_wordings_each(study: ModuleType) -> None:
    train, held_out = study.data_set("demo", options())
    assert Counter(row["output"] for row in train) == dict.fromkeys((row["output"] for row in held_out), 2)
    assert len(held_out) == 3
    whole, asked = study.data_set("demo", options(facts=None, wordings=None))
    assert (len(whole), len(asked)) == (1080, 45)


def test_a_file_of_records_is_split(study: ModuleType) -> None:
    file = ROOT / "examples" / "style" / "train.json"
    train, held_out = study.data_set(f"mine={file}", options(rows=100))
    assert (len(train), len(held_out)) == (80, 20)
    assert not [row for row in held_out if row in train]


def test_the_recipes_show_the_table_of_the_results(study: ModuleType) -> None:
    found = sorted((ROOT / "benchmarks" / "results").glob("study-*.jsonl"))
    assert found
    for results in found:
        assert results.name in RECIPES
        assert study.table(study.read_results(results, "run")) in RECIPES


def test_commands_of_the_recipes_are_accepted() -> None:
    verbs = Counter(words[1] for words in COMMANDS if words[0] == "neuralchat")
    assert verbs["finetune"] >= 4
    runs = set()
    for words in COMMANDS:
        if words[:2] != ["neuralchat", "finetune"]:
            continue
        found = parse(words[2:], prog="t", implied=("--do_train",))
        files = [*found.data.train_file, *found.data.validation_file]
        assert [name for name in files if name.startswith("examples/") and not (ROOT / name).is_file()] == []
        runs.add(str(found.output_dir))
    asked = [words for words in COMMANDS if words[:2] in (["neuralchat", "eval"], ["neuralchat", "chat"])]
    assert asked
    assert [words for words in asked if words[2] not in runs] == []


def test_options_of_the_study_in_the_recipes_exist(study: ModuleType) -> None:
    source = Path(study.__file__ or "").read_text(encoding="utf-8")
    named = {
        word for words in COMMANDS if "benchmarks/study.py" in words
        for word in itertools.takewhile(lambda word: word != "--extra", words) if word.startswith("--")
    }  # fmt: skip
    assert named
    assert [name for name in named if f'"{name}"' not in source] == []
