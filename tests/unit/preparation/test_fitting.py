"""preparation/fitting.py: no more tokens than the model has positions for, told before anything is loaded; epochs and
batch by the number of records."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from support.families import family_config
from support.small_models import make_tokenizer, small_config
from transformers import AutoModelForCausalLM

from neuralchat.config.config import FinetuneConfig
from neuralchat.errors import ArgumentsError
from neuralchat.preparation.fitting import with_fitting_length, within_positions

POSITIONS = 128


def config_of(family: str) -> Any:
    if family == "mpt":
        config = small_config("mpt", 400)
        config.max_seq_len = POSITIONS
        return config
    return family_config(family, max_position_embeddings=POSITIONS)


def arguments(**values: Any) -> FinetuneConfig:
    usual = {"model_name_or_path": "m", "train_file": "a.json", "output_dir": "o", "do_train": True}
    return FinetuneConfig.from_values({**usual, **values})


@pytest.mark.parametrize("family", ["gpt2", "opt", "gpt_neo", "mpt"])
def test_the_default_length_becomes_what_the_model_has(said: list[str], family: str) -> None:
    assert arguments().data.max_seq_length > POSITIONS
    assert within_positions(arguments(), config_of(family)).data.max_seq_length == POSITIONS
    assert said == [f"--max_seq_length 512 becomes {POSITIONS}: the model has {POSITIONS} positions"]


def test_a_length_that_was_given_is_not_changed_but_refused() -> None:
    with pytest.raises(ArgumentsError) as caught:
        within_positions(arguments(max_seq_length=129), config_of("gpt2"))
    assert str(caught.value).splitlines() == [
        "these lengths do not fit the model:",
        "  - --max_seq_length 129: the model has 128 positions; give at most 128",
    ]
    assert within_positions(arguments(max_seq_length=128), config_of("gpt2")).data.max_seq_length == 128


@pytest.mark.parametrize("method", ["prompt", "prefix", "ptun"])
def test_virtual_tokens_take_positions(method: str) -> None:
    few = within_positions(arguments(peft=method, num_virtual_tokens=20), config_of("gpt2"))
    assert few.data.max_seq_length == POSITIONS - 20
    with pytest.raises(ArgumentsError, match=r"of which 20 are for virtual tokens; give at most 108"):
        within_positions(arguments(peft=method, num_virtual_tokens=20, max_seq_length=109), config_of("gpt2"))
    with pytest.raises(ArgumentsError, match="leaves no room for a text: the model has 128 positions"):
        within_positions(arguments(peft=method, num_virtual_tokens=127), config_of("gpt2"))


def test_both_lengths_of_an_encoder_decoder_model() -> None:
    given = {"max_source_length": 400, "max_target_length": 300}
    with pytest.raises(ArgumentsError, match=r"(?s)--max_source_length 400: .*--max_target_length 300: "):
        within_positions(arguments(**given), config_of("bart"))
    found = within_positions(arguments(), config_of("bart")).data
    assert (found.max_source_length, found.max_target_length) == (
        min(arguments().data.max_source_length, POSITIONS),
        min(arguments().data.max_target_length, POSITIONS),
    )


@pytest.mark.parametrize("family", ["llama", "bloom", "falcon"])
def test_positions_that_are_computed_bound_nothing(said: list[str], family: str) -> None:
    assert within_positions(arguments(max_seq_length=5000), config_of(family)).data.max_seq_length == 5000
    assert said == []


def test_the_command_says_so_before_anything_is_written(run_cli: Any, write_records: Any, tmp_path: Path) -> None:
    AutoModelForCausalLM.from_config(config_of("gpt2")).save_pretrained(tmp_path / "short")
    make_tokenizer().save_pretrained(tmp_path / "short")
    found = run_cli(
        "finetune",
        "--model_name_or_path",
        "short",
        "--train_file",
        write_records([{"instruction": "a", "output": "b"}]),
        "--output_dir",
        "run",
        "--max_seq_length",
        512,
    )
    assert found.returncode == 2
    assert "--max_seq_length 512: the model has 128 positions; give at most 128" in found.stderr
    assert "Traceback" not in found.stderr
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("examples", "epochs", "batch"), [(2, 10, 4), (120, 9, 4), (300, 4, 4), (334, 3, 4), (700, 3, 8), (5000, 3, 16)]
)
def test_few_records_are_gone_through_more_often(examples: int, epochs: int, batch: int) -> None:
    training = with_fitting_length(arguments(), examples=examples, units=examples, world_size=1).training
    assert (training.num_train_epochs, training.per_device_train_batch_size) == (epochs, batch)


def test_two_processes_make_the_epochs_and_steps_of_one() -> None:
    training = with_fitting_length(arguments(), examples=700, units=700, world_size=2).training
    assert (training.num_train_epochs, training.per_device_train_batch_size) == (3, 4)


def test_full_rows_leave_the_epochs_to_the_records() -> None:
    training = with_fitting_length(arguments(), examples=1000, units=90, world_size=1).training
    assert (training.num_train_epochs, training.per_device_train_batch_size) == (3, 4)


@pytest.mark.parametrize("values", [{"num_train_epochs": 1.0}, {"num_train_epochs": 3.0}, {"max_steps": 5}])
def test_epochs_that_were_given_stay(values: dict[str, Any]) -> None:
    training = with_fitting_length(arguments(**values), examples=20, units=20, world_size=1).training
    assert training.num_train_epochs == values.get("num_train_epochs", 3.0)
