"""A new argument is one dataclass field: everything else follows from it."""

from __future__ import annotations

import dataclasses
import json
import shlex
from pathlib import Path

import pytest

from neuralchat.config.arguments import TuningArguments
from neuralchat.config.command.parser import parse
from neuralchat.config.config import FinetuneConfig
from neuralchat.config.facts import argument, harmless
from neuralchat.config.schema import Schema
from neuralchat.errors import ArgumentsError


@dataclasses.dataclass(kw_only=True)
class MadeUpArguments(TuningArguments):
    warm_feet: int = argument(3, "how warm", minimum=1, below=9)
    shoe: str = harmless("left", "which one", choices=("left", "right"))
    laces: list[str] = harmless([], "where they lie", path=True)
    toe_token: str | None = harmless(None, "nobody's business", secret=True, repeated=False)
    dry_feet: bool = argument(True, "whether to stay inside")


SCHEMA = Schema(tuning=MadeUpArguments)
MINIMAL = ["--model_name_or_path", "m", "--train_file", "r.json", "--output_dir", "o"]
WORDS = ["--warm-feet", "4", "shoe=right", "--laces", "a", "b", "--toe_token", "hush", "--no_dry_feet"]


def made_up(*words: str) -> FinetuneConfig:
    return parse([*MINIMAL, *words], prog="t", implied=["--do_train"], schema=SCHEMA)


def values(config: FinetuneConfig) -> list[object]:
    return [getattr(config.tuning, name) for name in ("warm_feet", "shoe", "laces", "toe_token", "dry_feet")]


def test_it_is_parsed_and_has_its_default() -> None:
    assert values(made_up()) == [3, "left", [], None, True]
    assert values(made_up(*WORDS)) == [4, "right", ["a", "b"], "hush", False]


def test_it_is_checked_and_misspellings_find_it() -> None:
    with pytest.raises(ArgumentsError) as caught:
        made_up("--warm_feet", "9", "--shoe", "middle", "--warm_fet", "1")
    assert str(caught.value).splitlines()[1:] == [
        "  - unknown flag --warm_fet; did you mean --warm_feet?",
        "  - --warm_feet must be from 1 to below 9, found 9",
        "  - --shoe is 'middle'; allowed are left, right",
    ]


def test_it_is_part_of_the_fingerprint_where_it_changes_the_result() -> None:
    deciding = made_up(*WORDS).deciding_values()
    assert (deciding["warm_feet"], deciding["dry_feet"]) == (4, False)
    assert {"shoe", "laces", "toe_token"}.isdisjoint(deciding)


def test_a_secret_is_not_written_down() -> None:
    found = made_up(*WORDS)
    assert "hush" not in json.dumps([found.as_dict(), found.every_value()])
    assert found.as_dict()["warm_feet"] == 4


def test_it_is_repeated_by_from_run(tmp_path: Path) -> None:
    run = tmp_path / "run"
    run.mkdir()
    (tmp_path / "a").write_text("")
    parts = {"base_model": {"name": "m"}, "template": {"name": "t"}, "adapter": {"method": "lora"}, "results": {}}
    told = {**made_up(*WORDS).as_dict(), "toe_token": "hush"}
    manifest = {**parts, "working_directory": str(tmp_path), "arguments": told}
    (run / "neuralchat.json").write_text(json.dumps(manifest))
    again = parse(["--from_run", str(run), "--output_dir", "p"], prog="t", implied=[], schema=SCHEMA)
    assert values(again) == [4, "right", [str(tmp_path / "a"), "b"], None, False]
    overruled = parse([f"from_run={run}", "output_dir=p", "warm_feet=5"], prog="t", implied=[], schema=SCHEMA)
    assert values(overruled)[0] == 5


def test_it_stands_in_the_command_that_goes_on() -> None:
    stopped = made_up(*WORDS)
    words = shlex.split(stopped.command_to_resume())[1:]
    assert "hush" not in " ".join(words)
    with pytest.raises(ArgumentsError, match=r"--toe_token is '\*\*\*', which stands for a secret in messages"):
        parse(words, prog="t", implied=["--do_train"], schema=SCHEMA)
    words[words.index("***")] = "hush"
    assert values(parse(words, prog="t", implied=["--do_train"], schema=SCHEMA)) == values(stopped)
