"""What is wrong with the flags of `neuralchat serve` and `chat` is told at once, before anything is loaded."""

from __future__ import annotations

from pathlib import Path

import pytest

from neuralchat.cli import make_parser
from neuralchat.errors import ArgumentsError
from neuralchat.inference.server.serving import serve_flags
from neuralchat.inference.terminal.command import chat


def problems_of(*words: object) -> list[str]:
    with pytest.raises(ArgumentsError) as caught:
        serve_flags(make_parser().parse_args(["serve", *map(str, words)]))
    title, *lines = str(caught.value).splitlines()
    return [line.removeprefix("  - ") for line in lines] or [title]


def test_all_that_is_wrong_is_told(tmp_path: Path) -> None:
    (tmp_path / "empty").touch(mode=0o600)
    found = problems_of(
        tmp_path / "none", "a!=smollm2-135m-instruct", "--port", -1, "--temperature", -2, "--top_p", 3,
        "--memory_tokens", 0, "--most_running", 0, "--key_file", tmp_path / "no-keys", "--admin_key_file",
        tmp_path / "empty", "--host", "0.0.0.0", "--allowed_hosts", "a b", "--bf16", "true", "--engine", "llamacpp",
    )  # fmt: skip
    expected = (
        "--temperature must not be negative", "--top_p must be above 0", "--key_file: ", "--admin_key_file ",
        "--port must be at least 0", "--allowed_hosts", "--memory_tokens must be at least 1",
        "--most_running must be at least 1", "--bf16 is for --engine torch", "run directory",
    )  # fmt: skip
    assert len(found) == len(expected)
    for line, beginning in zip(found, expected, strict=True):
        assert line.startswith(beginning)


def test_of_one_problem_only_that_is_told(tmp_path: Path) -> None:
    assert problems_of("smollm2-135m-instruct", "--port", 99999) == ["--port must be at most 65535, found 99999"]
    # That there is no key besides would be nonsense.
    [found] = problems_of("smollm2-135m-instruct", "--host", "0.0.0.0", "--key_file", tmp_path / "none")
    assert found.startswith("--key_file: ")
    # The default length is not that of which the sampling is wrong.
    assert problems_of("smollm2-135m-instruct", "--temperature", -1, "--most_new_tokens", 9, "--max_new_tokens", 9) == [
        "--temperature must not be negative, found -1.0"
    ]


def test_runs_that_do_not_go_together_are_told_at_once() -> None:
    found = problems_of("a!=smollm2-135m-instruct", "b=smollm2-135m-instruct")
    assert len(found) == 2
    assert "'a!' is no name of a model" in found[0]
    assert "several whole models" in found[1]


def test_a_base_model_beside_a_whole_model_is_refused() -> None:
    [found] = problems_of("smollm2-135m-instruct", "--base_model", "/somewhere")
    assert found.startswith("--base_model: smollm2-135m-instruct is a whole model")


def test_values_that_are_none_are_told_together() -> None:
    with pytest.raises(ArgumentsError) as caught:
        make_parser().parse_args(
            ["serve", "a", "--port", "x", "--temperature", "hot", "--engine", "foo", "--bf16", "b"]
        )
    assert str(caught.value).splitlines() == [
        "neuralchat serve cannot be run so:",
        "  - argument --port: invalid int value: 'x'",
        "  - argument --temperature: invalid float value: 'hot'",
        "  - argument --engine: invalid choice: 'foo' (choose from 'auto', 'torch', 'llamacpp')",
        "  - argument --bf16: it takes true or false, found 'b'",
    ]
    # What was wrong once is forgotten.
    assert make_parser().parse_args(["serve", "a", "--port", "1"]).port == 1


@pytest.mark.parametrize(
    ("words", "value"),
    [
        ((), None),
        (("--bf16",), True),
        (("--bf16", "True"), True),
        (("--bf16", "false"), False),
        (("--bf16=no",), False),
    ],
)
def test_bf16_is_written_as_in_training(words: tuple[str, ...], value: bool | None) -> None:
    for verb in ("serve", "chat"):
        assert make_parser().parse_args([verb, "a", *words]).bf16 is value


def test_those_of_chat_too(tmp_path: Path) -> None:
    words = ["http://127.0.0.1:1", "--bf16", "false", "--temperature", "-1", "--file", str(tmp_path / "none")]
    with pytest.raises(ArgumentsError) as caught:
        chat(make_parser().parse_args(["chat", *words]))
    lines = str(caught.value).splitlines()
    assert [line.partition(":")[0].split()[1] for line in lines[1:]] == ["--temperature", "--bf16", "--file", "--file"]
