"""library/finetune.py: what a call takes, and which errors it shares with the command."""

from __future__ import annotations

import doctest
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support.runs import ROWS

import neuralchat
from neuralchat.cli import main
from neuralchat.config.command.parser import parse
from neuralchat.config.config import PYTHON_CALL, FinetuneConfig
from neuralchat.console import log_shown
from neuralchat.errors import ArgumentsError, DataError
from neuralchat.library import finetune as module
from neuralchat.library.finetune import finetune, finetune_model


@pytest.fixture
def configured(monkeypatch: pytest.MonkeyPatch) -> Callable[..., tuple[FinetuneConfig, dict[str, Any]]]:
    """The configuration that a call makes, without training, and what else it hands on."""

    def call(*args: Any, function: Callable[..., Any] = finetune, **kwargs: Any) -> tuple[FinetuneConfig, dict]:
        seen: list[Any] = []
        monkeypatch.setattr(module, "run_of", lambda config, **more: seen.append((config, more)))
        function(*args, **kwargs)
        return seen[0]

    return call


def test_a_call_is_the_command_with_the_same_values(configured: Callable) -> None:
    config, more = configured("m", Path("r.json"), output_dir=Path("o"), num_train_epochs=3, bf16=True, lora_rank="4")
    words = "--model_name_or_path m --train_file r.json --output_dir o --num_train_epochs 3 --bf16 --lora_rank 4"
    assert config == parse(words.split(), prog="t", implied=("--do_train",))
    assert config.training.do_train
    assert config.prog == PYTHON_CALL
    assert more == {"callbacks": (), "given_records": [], "verbose": False}


def test_several_files(configured: Callable) -> None:
    config, _ = configured("m", ["a.json", Path("b.json")], output_dir="o", validation_file="c.json")
    assert (config.data.train_file, config.data.validation_file) == (["a.json", "b.json"], ["c.json"])


@pytest.mark.parametrize("name", ["train_file", "train_records"])
def test_records_stand_under_their_name(configured: Callable, name: str) -> None:
    config, more = configured("m", output_dir="o", validation_file=ROWS[:1], **{name: ROWS})
    assert (config.data.train_file, config.data.validation_file) == (["train_records"], ["validation_records"])
    assert [(given.name, given.rows) for given in more["given_records"]] == [
        ("train_records", ROWS),
        ("validation_records", ROWS[:1]),
    ]


def test_names_of_the_original_and_of_old_flags(configured: Callable) -> None:
    values = {"model_name_or_path": "m", "train_file": "r.json", "output_dir": "o", "no_cuda": True}
    config, _ = configured(values, function=finetune_model)
    assert (config.model.model_name_or_path, config.training.use_cpu) == ("m", True)
    given = FinetuneConfig.from_values({**values, "do_train": True})
    assert configured(given, function=finetune_model)[0] == given


REFUSED: list[tuple[dict[str, Any], str]] = [
    (
        {"num_processes": 2},
        r"--num_processes 2: a call trains .* torchrun --nproc_per_node 2 script\.py",
    ),
    ({"num_processes": "auto"}, "--num_processes auto: a call trains in the process that makes it"),
    ({"do_train": False}, "--do_train false: this call is made to train"),
    ({"model_name_or_path": "n"}, "model and model_name_or_path are the same: give one"),
    ({"train_file": "a.json", "train_records": ROWS}, "train_file and train_records: give one source of records"),
    (
        {"validation_file": "a.json", "validation_records": ROWS},
        "validation_file and validation_records: give one source of records",
    ),
    ({"train_records": ROWS, "validation_records": ROWS, "validation_split_percentage": 5}, "--validation_file and"),
    ({"lora_rnk": 4}, r"unknown flag --lora_rnk; did you mean --lora_rank\?"),
]


@pytest.mark.parametrize(("options", "message"), REFUSED)
def test_what_a_call_refuses(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ArgumentsError, match=message):
        finetune(**{"model": "m", "output_dir": "o", **options})


def test_one_process_is_what_a_call_is(configured: Callable) -> None:
    for value, expected in ((1, "1"), ("1", "1"), (None, "")):
        config, _ = configured("m", "r.json", output_dir="o", num_processes=value)
        assert config.distributed.num_processes == expected


def test_records_of_another_kind() -> None:
    with pytest.raises(DataError, match=r"train_records must be a list of dicts or .*, found generator"):
        finetune("m", (row for row in ROWS), output_dir="o")


def test_a_configuration_that_trains_nothing() -> None:
    values = {"model_name_or_path": "m", "validation_file": "r.json", "output_dir": "o", "do_eval": True}
    with pytest.raises(ArgumentsError, match="--do_train is missing from the configuration"):
        finetune_model(FinetuneConfig.from_values(values))


ERRORS: list[dict[str, Any]] = [
    {},
    {"model": "./nowhere", "train_file": "none.json", "output_dir": "o"},
    {"model": "./nowhere", "train_file": "bad.json", "output_dir": "o"},
    {"model": "m", "train_file": "bad.json", "output_dir": "o", "lora_rank": 0, "peft": "lor", "template": "x"},
    {"model": "m", "train_file": "bad.json", "output_dir": "full"},
]


@pytest.mark.parametrize("values", ERRORS)
def test_errors_have_the_text_of_the_command(
    values: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "bad.json").write_text("[{}]")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").touch()
    with pytest.raises(neuralchat.NeuralChatError) as caught:
        finetune(**values)
    assert capsys.readouterr() == ("", "")
    words = [f"--{name.replace('model', 'model_name_or_path')}={value}" for name, value in values.items()]
    with log_shown():
        assert main(["finetune", *words]) == caught.value.exit_status
    assert capsys.readouterr().err.endswith(f"error: {caught.value}\n")


def test_what_goes_on_with_a_stopped_call() -> None:
    values = {"model_name_or_path": "m", "train_file": "r.json", "output_dir": "o", "do_train": True}
    config = FinetuneConfig.from_values(values, prog=PYTHON_CALL)
    assert config.command_to_resume() == "neuralchat.finetune(..., resume_from_checkpoint='auto')"
    replaced = FinetuneConfig.from_values({**values, "overwrite_output_dir": True}, prog=PYTHON_CALL)
    assert replaced.command_to_resume(micro_batch_tokens=512) == (
        "neuralchat.finetune(..., resume_from_checkpoint='auto', overwrite_output_dir=False, micro_batch_tokens=512)"
    )
    command = parse(
        ["--model_name_or_path", "m", "--train_file", "r.json", "--output_dir", "o", "--micro_batch_tokens", "9"],
        prog="t",
        implied=("--do_train",),
    )
    assert command.command_to_resume(micro_batch_tokens=4, gradient_checkpointing=True) == (
        "t --model_name_or_path m --train_file r.json --output_dir o --resume_from_checkpoint auto "
        "--micro_batch_tokens 4 --gradient_checkpointing"
    )


def test_doctests() -> None:
    outcome = doctest.testmod(module)
    assert outcome.attempted >= 2
    assert outcome.failed == 0
