"""secrets.py: a secret is masked however it is spelled, and what is none stays."""

from __future__ import annotations

import doctest
import subprocess
import sys

import pytest
from support.fuzzing import time_limit

from neuralchat import secrets
from neuralchat.config.schema import SCHEMA
from neuralchat.secrets import (
    hand_down,
    handed_down,
    is_secret_name,
    masked,
    masked_words,
    remember_credentials,
    remember_environment,
    remember_secret,
    without_remembered,
    without_secret_words,
)

TOKEN = "s3cr3t-0f-m1ne"


@pytest.fixture(autouse=True)
def nothing_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(secrets, "remembered", set())


def test_doctests() -> None:
    outcome = doctest.testmod(secrets)
    assert outcome.attempted >= 4
    assert outcome.failed == 0


def test_the_secret_arguments_are_those_with_secret_names() -> None:
    arguments = SCHEMA.arguments.values()
    assert {a.name for a in arguments if a.facts.secret} == {a.name for a in arguments if is_secret_name(a.name)}


SPELLINGS = [
    ["--hub_token", TOKEN],
    [f"--hub_token={TOKEN}"],
    [f"hub_token={TOKEN}"],
    ["--hub-token", TOKEN],
    [f"--hub-token={TOKEN}"],
    ["--use_auth_token", TOKEN],
    [f"use_auth_token={TOKEN}"],
    [f"--HUB_TOKEN={TOKEN}"],
    ["--hub_token", "a", TOKEN],
    [f"--wandb_api_key={TOKEN}"],
    [f"--hub_token=a={TOKEN}"],
]


@pytest.mark.parametrize("words", SPELLINGS)
def test_words_of_a_command(words: list[str]) -> None:
    command = ["neuralchat", "finetune", "--seed", "1", *words, "--output_dir", "run"]
    shown = masked_words(command)
    assert TOKEN not in " ".join(shown)
    assert shown[:4] == command[:4]
    assert shown[-2:] == command[-2:]


@pytest.mark.parametrize("words", SPELLINGS)
def test_words_for_other_processes(words: list[str]) -> None:
    command = ["--seed", "1", *words, "--output_dir", "run", "--num_virtual_tokens", "4", "special_tokens=a"]
    kept, taken = without_secret_words(command)
    assert TOKEN not in " ".join(kept) or words[:2] == ["--hub_token", "a"]
    assert kept[:2] == command[:2]
    assert kept[-5:] == command[-5:]
    environ = {"PATH": "x"}
    hand_down(taken, environ)
    assert all(TOKEN not in word for word in environ)
    again = handed_down(environ)
    assert environ == {"PATH": "x"}
    assert without_secret_words(again)[1] == taken


def test_flags_that_say_where_the_secret_is_stay() -> None:
    words = ["--use_auth_token", "True", "--hub_token"]
    assert masked_words(words) == words
    assert without_secret_words(words) == ([], {"use_auth_token": "True", "hub_token": ""})


@pytest.mark.parametrize(
    "text",
    [
        "hub_token: {}",
        "hub_token: '{}'",
        '"hub_token": "{}"',
        "--hub_token={}",
        "hub_token={}",
        "HF_TOKEN={}",
        "https://me:{}@hub.example/x",
        "Authorization: Bearer {}",
        "password={}",
        "aws_secret_access_key = {}",
    ],
)
def test_messages(text: str) -> None:
    assert TOKEN not in masked(f"line 3: {text.format(TOKEN)}")


@pytest.mark.parametrize(
    "text",
    [
        "end_token: </s>",
        "the end token: </s>",
        "micro_batch_tokens=512",
        "--special_tokens <a>",
        "pad_token = <pad>",
        "see https://github.com/a/b@main",
        "100 tokens/s",
        "author: me",
        "--seed 1",
        "use_auth_token: True",
        "--hub_token: expected a value",
        "--hub_token is missing",
    ],
)
def test_what_is_no_secret_stays(text: str) -> None:
    assert masked(text) == text


def test_what_is_known_is_masked_anywhere() -> None:
    remember_environment({"HF_TOKEN": TOKEN, "HOME": "/home/me"})
    remember_credentials("https://me:passw0rd@hub.example")
    remember_secret("True")
    remember_secret(None)
    assert masked(f"a{TOKEN}b") == "a***b"
    assert without_remembered(f"{TOKEN} me:passw0rd True /home/me") == "*** *** True /home/me"


def test_tokens_of_known_services_are_masked_though_nobody_said_so() -> None:
    assert without_remembered("x hf_abcdefghijklmnopqrstuvwx y") == "x *** y"


def test_ps_shows_no_secret_of_a_process_nor_of_its_forks() -> None:
    code = (
        "import os, sys; from pathlib import Path; from neuralchat.secrets import hide_in_process_title\n"
        "hide_in_process_title([sys.argv[2]])\n"
        "child = os.fork()\n"
        "child and os.waitpid(child, 0)\n"
        "words = Path(f'/proc/{os.getpid()}/cmdline').read_bytes().split(bytes(1))\n"
        "print(words[3:5], sys.argv[2], flush=True)"
    )
    command = [sys.executable, "-c", code, "--hub_token", TOKEN]
    result = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    # The program itself still has it.
    stars = "*" * len(TOKEN)
    assert result.stdout.splitlines() == [f"[b'--hub_token', b'{stars}'] {TOKEN}"] * 2


@pytest.mark.parametrize("text", ["a" * 300_000, "a_-" * 100_000, "x://" * 100_000, "--a " * 100_000, "a: " * 100_000])
def test_no_text_takes_long(text: str) -> None:
    with time_limit(20):
        assert masked(text) == text
