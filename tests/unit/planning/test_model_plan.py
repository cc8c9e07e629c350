"""planning/model_plan.py: what is told of a model before its weights are here, against what training then finds."""

from __future__ import annotations

import doctest
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from support.families import family_config
from support.small_models import SIZES, make_tokenizer
from transformers import LlamaConfig

from neuralchat import cli
from neuralchat.config.arguments import TuningArguments
from neuralchat.errors import ArgumentsError, ModelError
from neuralchat.models.adapters.rehearsal import skeleton_of
from neuralchat.models.loading.base_model import parameter_counts
from neuralchat.models.loading.precision import Precision
from neuralchat.planning import model_plan
from neuralchat.planning.model_plan import (
    extrapolated_cost,
    layer_count,
    llama_of,
    made_up_examples,
    measured_cost,
    plan_model,
    shortened,
)

FP32 = Precision(storage=torch.float32, compute=torch.float32)


@pytest.fixture
def configuration(tmp_path: Path) -> Path:
    """A model's directory without its weights."""
    LlamaConfig(**{**SIZES, "vocab_size": 400, "num_hidden_layers": 6}).save_pretrained(tmp_path / "model")
    make_tokenizer().save_pretrained(tmp_path / "model")
    return tmp_path / "model"


def planned(*words: Any) -> int:
    return plan_model(cli.make_parser().parse_args(["plan", *map(str, words)]))


def test_doctests() -> None:
    assert doctest.testmod(model_plan).attempted


@pytest.mark.slow
@pytest.mark.parametrize("family", ["llama", "gemma3_text", "bloom", "bart"])
def test_what_backward_keeps_is_that_of_the_whole_model(family: str) -> None:
    """Extrapolated from a few layers, and counted over all."""
    many = {"num_hidden_layers": 8, **({"encoder_layers": 8, "decoder_layers": 8} if family == "bart" else {})}
    config = family_config(family, **many)
    assert layer_count(config) == 8
    found, _ = extrapolated_cost(config, TuningArguments(), FP32, 40)
    counted, _ = measured_cost(config, TuningArguments(), FP32, made_up_examples(config, 40))
    assert found == pytest.approx(counted, rel=0.05)


def test_a_shortened_configuration_has_its_lists_cut() -> None:
    config = family_config("gemma3_text", num_hidden_layers=8)
    short = shortened(config, 3)
    assert layer_count(short) == len(short.layer_types) == 3
    assert layer_count(config) == len(config.layer_types) == 8


@pytest.mark.parametrize(("text", "size"), [("7B", 6.7e9), ("350m", 3.5e8), ("1.1 b", 1.1e9), ("70B", 7.0e10)])
def test_a_llama_of_a_size(text: str, size: float) -> None:
    assert parameter_counts(skeleton_of(llama_of(text)))[1] == pytest.approx(size, rel=0.2)


@pytest.mark.parametrize("text", ["0", "seven", "7 billions", "-7B", "9999T", ""])
def test_a_size_that_is_none(text: str) -> None:
    with pytest.raises(ArgumentsError, match=r"--model_parameters is '.*'; give a number such as 7B or 350M"):
        llama_of(text)


def test_a_configuration_without_weights(configuration: Path, capsys: pytest.CaptureFixture[str]) -> None:
    total = parameter_counts(skeleton_of(LlamaConfig.from_pretrained(configuration)))[1]
    assert planned(configuration, "--records", 1000, "--tokens_per_record", 50, "--epochs", 2) == 0
    first, memory, parts, measured, time = capsys.readouterr().out.splitlines()
    assert first.startswith(f"{configuration}: {total + 52224:,} parameters in 6 layers, of which lora trains 52,224")
    assert memory.startswith("memory: about ")
    assert memory.endswith(": it fits")
    assert parts.startswith(
        "  of which weights 0.0 GiB, what is trained with its optimizer 0.0 GiB, what backward keeps"
    )
    speed = float(measured.removeprefix("speed: about ").split()[0])
    assert " for 1,000 records of 50 tokens, 2 times each" in time
    # The time is that of all tokens at the speed that is told.
    seconds = 1000 * 50 * 2 / speed
    assert time.startswith(f"time: about {model_plan.duration(seconds)} ") or speed < 10


def test_a_model_that_does_not_fit(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Costs are made up here: 7B in fp32 are 25 GiB, in bf16 half of that."""
    from types import SimpleNamespace

    machine = SimpleNamespace(memory_limit=lambda: 16 << 30, available_memory=16 << 30)
    monkeypatch.setattr(model_plan, "read_machine", lambda: machine)
    monkeypatch.setattr(model_plan, "extrapolated_cost", lambda *_: (1e5, 0.5))
    assert planned("7B") == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("a model of 7B parameters, of the shape of LLaMA: 6.7 billion parameters in 32 layers")
    assert lines[1].endswith("weights in float32; this machine has 16.0 GiB: it does not fit")
    assert lines[2].startswith(
        "  of which weights 24.7 GiB, what is trained with its optimizer 0.4 GiB, what backward keeps"
    )
    smaller = [re.fullmatch(r"  with (.*): about ([\d.]+) GiB, which fits", line) for line in lines[3:6]]
    assert [found[1] for found in smaller if found] == ["--bf16", "--bf16 --bits 8", "--bf16 --bits 4"]
    sizes = [float(found[2]) for found in smaller if found]
    # 6.48 billion weights in linear layers but the head, of 2, 1 and 0.516 bytes.
    assert sizes[0] - sizes[1] == pytest.approx(6.48e9 / 2**30, abs=0.15)
    assert sizes[1] - sizes[2] == pytest.approx(6.48e9 * 0.484 / 2**30, abs=0.15)
    assert lines[6].startswith("speed: about 2 tokens/s")
    # 50,000 records x 200 tokens x 3 / 2 per second.
    assert lines[7].startswith("time: about 174 days for 50,000 records of 200 tokens, 3 times each")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("bf16", "weights"),
    [
        (
            (),
            "more than 265.3 GiB (133.7 GiB with --bf16, 68.5 GiB with --bf16 --bits 8, 36.9 GiB with --bf16 --bits 4)",
        ),
        (("--bf16", "--bits", "4"), "more than 36.9 GiB for the weights"),
    ],
)
def test_a_model_of_which_no_layer_fits(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], bf16: tuple[str, ...], weights: str
) -> None:
    """It is not measured, and yet it is told that it does not fit."""
    from types import SimpleNamespace

    machine = SimpleNamespace(memory_limit=lambda: 16 << 30, available_memory=8 << 30)
    monkeypatch.setattr(model_plan, "read_machine", lambda: machine)
    assert planned("70B", *bf16) == 0
    first, memory, speed = capsys.readouterr().out.splitlines()
    assert "parameters in 71 layers" in first
    assert memory.startswith(f"memory: {weights}")
    assert memory.endswith("this machine has 16.0 GiB: it does not fit")
    assert speed.startswith("speed and time: not measured")


def test_what_is_needed_where_nothing_is_known(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"neuralchat plan --model_parameters 7B$"):
        planned(tmp_path / "elsewhere")
    with pytest.raises(ArgumentsError, match="--records is 0; give a number from 1"):
        planned("7B", "--records", 0)
    with pytest.raises(ArgumentsError, match="--epochs is 0; give a number above 0"):
        planned("7B", "--epochs", 0)


def test_without_a_model_the_hardware_is_planned(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["plan"]) == 0
    assert "local rank" in capsys.readouterr().out
