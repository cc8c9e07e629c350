"""config/command/flag_parser.py: mistakes in a command of any verb are told with what was probably meant."""

from __future__ import annotations

import runpy
import subprocess
import sys

import pytest

from neuralchat import cli
from neuralchat.config.command.flag_parser import ALIASES


def refusal(capsys: pytest.CaptureFixture[str], *words: str) -> list[str]:
    assert cli.main(words) == 2
    said = capsys.readouterr()
    assert said.out == ""
    return said.err.splitlines()


@pytest.mark.parametrize("verb", cli.VERBS)
def test_a_flag_of_every_verb(capsys: pytest.CaptureFixture[str], verb: str) -> None:
    found = refusal(capsys, verb, "x", "--hlep")
    assert [line for line in found if "unknown flag" in line] == ["  - unknown flag --hlep; did you mean --help?"]


@pytest.mark.parametrize(
    ("words", "meant"),
    [
        ("chat m --temprature 1", "temperature"),
        ("chat m --Temperature=1", "temperature"),
        ("chat m --max_tokens 5", "max_new_tokens"),
        ("chat m --max-length=5", "max_new_tokens"),
        ("eval m --questons a.json", "questions"),
        ("eval m --data a.json", "questions"),
        ("merge m --out whole", "output"),
        ("merge m --outptu whole", "output"),
        ("plan 7B --record 5", "records"),
        ("cache clear --kind kernels", "kinds"),
    ],
)
def test_a_flag_that_is_not_known(capsys: pytest.CaptureFixture[str], words: str, meant: str) -> None:
    flag = next(word for word in words.split() if word.startswith("--")).partition("=")[0]
    verb = words.split()[0]
    assert refusal(capsys, *words.split()) == [
        f"error: neuralchat {verb} cannot be run so:",
        f"  - unknown flag {flag}; did you mean --{meant}?",
    ]


def test_all_flags_that_are_not_known_and_nothing_else(capsys: pytest.CaptureFixture[str]) -> None:
    # What is missing besides may be what was misspelt.
    assert refusal(capsys, "merge", "--outptu", "whole", "--zzz", "--temperature", "1")[1:] == [
        "  - unknown flag --outptu; did you mean --output?",
        "  - unknown flag --zzz",
        "  - unknown flag --temperature",
    ]


def test_dashes_may_stand_for_underscores() -> None:
    options = cli.make_parser().parse_args(["chat", "m", "--max-new-tokens=5", "--base-model", "b"])
    assert (options.max_new_tokens, options.base_model) == (5, "b")
    # Behind two dashes stand no flags.
    assert cli.make_parser().parse_args(["show", "--", "--max-new-tokens"]).run == "--max-new-tokens"


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--versoin"], "error: unknown flag --versoin; did you mean --version?"),
        (["-help"], "error: unknown flag -help; did you mean --help?"),
        (["chta", "m"], "error: unknown command 'chta'; did you mean chat? (there are: finetune, "),
        (["train", "a.yaml"], "error: unknown command 'train'; did you mean finetune? (there are: "),
        (["Export", "m"], "error: unknown command 'Export'; did you mean merge? (there are: "),
        (["qqq"], "error: unknown command 'qqq' (there are: finetune, chat, "),
        (["--seed", "1"], "error: unknown flag --seed; a command begins with one of finetune, chat, "),
        ([], "error: say what to do: one of finetune, chat, "),
    ],
)
def test_the_word_that_a_command_begins_with(capsys: pytest.CaptureFixture[str], words: list[str], told: str) -> None:
    (line,) = refusal(capsys, *words)
    assert line.startswith(told)


def test_other_names_are_no_flags_themselves() -> None:
    flags = {flag for verb in verbs_of(cli.make_parser()) for flag in verb.flags}
    assert {f"--{name}" for name in ALIASES.values()} <= flags


def verbs_of(parser: object) -> list[object]:
    (action,) = (action for action in parser._actions if action.choices)  # type: ignore[attr-defined]
    return list(action.choices.values())


HELP = """
import sys
from neuralchat.cli import main
for words in (["--help"], ["finetune", "--help"], ["chat", "--help"], ["eval", "-h"], ["plan", "-h"], ["merge", "-h"]):
    try:
        main(words)
    except SystemExit as end:
        assert end.code == 0
    assert not {"torch", "transformers", "peft", "numpy"} & set(sys.modules), words
"""


@pytest.mark.slow
def test_help_imports_nothing_heavy() -> None:
    found = subprocess.run([sys.executable, "-c", HELP], capture_output=True, text=True, check=False, timeout=60)
    assert (found.returncode, found.stderr) == (0, "")
    assert "--learning_rate" in found.stdout
    assert "--questions" in found.stdout


def test_python_m_neuralchat_is_the_command(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["__main__.py", "--version"])
    with pytest.raises(SystemExit) as end:
        runpy.run_module("neuralchat", run_name="__main__")
    assert end.value.code == 0
    assert capsys.readouterr().out.startswith("neuralchat ")
