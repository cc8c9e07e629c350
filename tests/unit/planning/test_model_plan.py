"""planning/model_plan.py: what is told of a model before its weights are here, against what training then finds."""

from __future__ import annotations

import doctest
from pathlib import Path
from typing import Any

import pytest
import torch
from support.families import family_config
from support.small_models import SIZES as SMALL_SIZES
from support.small_models import make_tokenizer
from transformers import LlamaConfig

from neuralchat import cli
from neuralchat.config.arguments import TuningArguments
from neuralchat.console import units
from neuralchat.errors import ArgumentsError, ModelError
from neuralchat.models.adapters.rehearsal import skeleton_of
from neuralchat.models.loading.base_model import parameter_counts
from neuralchat.models.loading.precision import Precision
from neuralchat.planning import model_plan
from neuralchat.planning.layer_cost import (
    TokenCost,
    estimated_cost,
    extrapolated_cost,
    layer_count,
    made_up_examples,
    measured_cost,
    shortened,
)
from neuralchat.planning.model_plan import named_config, plan_model
from neuralchat.planning.model_shapes import SHAPES, llama_of, shape_named

FP32 = Precision(storage=torch.float32, compute=torch.float32)


@pytest.fixture
def configuration(tmp_path: Path) -> Path:
    """A model's directory without its weights."""
    LlamaConfig(**{**SMALL_SIZES, "vocab_size": 400, "num_hidden_layers": 6}).save_pretrained(tmp_path / "model")
    make_tokenizer().save_pretrained(tmp_path / "model")
    return tmp_path / "model"


def planned(*words: Any) -> int:
    return plan_model(cli.make_parser().parse_args(["plan", *map(str, words)]))


def test_doctests() -> None:
    assert doctest.testmod(units).attempted


@pytest.mark.slow
@pytest.mark.parametrize("family", ["llama", "gemma3_text", "bloom", "bart"])
def test_what_backward_keeps_is_that_of_the_whole_model(family: str) -> None:
    """Extrapolated from a few layers, and counted over all."""
    many = {"num_hidden_layers": 8, **({"encoder_layers": 8, "decoder_layers": 8} if family == "bart" else {})}
    config = family_config(family, **many)
    assert layer_count(config) == 8
    found = extrapolated_cost(config, TuningArguments(), FP32, 40)
    counted = measured_cost(config, TuningArguments(), FP32, made_up_examples(config, 40))
    assert found.kept_bytes == pytest.approx(counted.kept_bytes, rel=0.05)


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
    assert parts.startswith("  weights 0.0 GiB, what is trained 0.0 GiB, tokens at once ")
    speed = float(measured.removeprefix("speed: about ").split()[0])
    assert " for 1,000 records of 50 tokens, 2 times each" in time
    # The time is that of all tokens at the speed that is told.
    seconds = 1000 * 50 * 2 / speed
    assert time.startswith(f"time: about {units.duration(seconds)} ") or speed < 10


# What publishers say of their models, in parameters.
PUBLISHED = {
    "smollm2-135m": 134.5e6, "llama-7b": 6.738e9, "llama-13b": 13.016e9, "llama-65b": 65.29e9, "llama-2-70b": 68.98e9,
    "llama-3-8b": 8.03e9, "llama-3.2-1b": 1.236e9, "mistral-7b": 7.242e9, "qwen2.5-0.5b": 0.494e9,
    "qwen2.5-1.5b": 1.544e9, "qwen2.5-7b": 7.616e9, "mpt-7b": 6.649e9, "mpt-30b": 29.96e9, "flan-t5-base": 247.6e6,
    "flan-t5-large": 783.2e6, "flan-t5-xl": 2.850e9, "flan-t5-xxl": 11.14e9, "gpt-neox-20b": 20.55e9,
}  # fmt: skip


def test_published_models_have_their_published_sizes() -> None:
    assert set(PUBLISHED) == set(SHAPES)
    found = {name: parameter_counts(skeleton_of(shape_named(name)))[1] for name in SHAPES}
    # Of T5, transformers counts the head with the embeddings until it sees the weights.
    heads = {name: 32128 * SHAPES[name][1]["d_model"] for name in SHAPES if "t5" in name}
    assert found == {name: pytest.approx(size - heads.get(name, 0), rel=0.005) for name, size in PUBLISHED.items()}


def test_a_shape_that_is_not_known() -> None:
    with pytest.raises(ArgumentsError, match=r"--model_config is 'lama-7b'.*did you mean llama-7b\? .*mpt-7b"):
        planned("--model_config", "lama-7b")


def test_a_published_name_is_enough(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also in the place of a model; but a directory of that name is that directory."""
    monkeypatch.chdir(tmp_path)
    assert named_config("MPT-7b", None)[1].model_type == "mpt"
    LlamaConfig(**{**SMALL_SIZES, "vocab_size": 400}).save_pretrained("mpt-7b")
    assert named_config("mpt-7b", None)[1].model_type == "llama"


COST = TokenCost(kept_bytes=4e6, passing_bytes=1e6, seconds=0.5, fixed_bytes=0)


def test_a_model_that_does_not_fit(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Costs are made up here: 7B in fp32 are 25 GiB, in bf16 half of that."""
    monkeypatch.setattr(model_plan, "measurable_bytes", lambda: 1 << 40)
    monkeypatch.setattr(model_plan, "extrapolated_cost", lambda *_: COST)
    assert planned("--model_config", "llama-7b", "--memory_gib", 20) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("llama-7b: 6.8 billion parameters in 32 layers, of which lora trains 40.0 million")
    assert lines[1].endswith("weights in float32; the machine has 20.0 GiB: it does not fit")
    assert lines[2].startswith("  weights 25.1 GiB, what is trained 0.4 GiB, tokens at once 5.0 GiB, program ")
    assert lines[3].startswith("  to fit: --bf16 True: about 1")
    assert lines[3].endswith("; weights are rounded to 8 significant bits")
    # Of 25.1 GiB in fp32, 24.1 are in linear layers but the head.
    assert lines[4].startswith("  to fit: --bits 8: about 1")
    assert lines[5].startswith("speed: about 2 tokens/s")
    # 50,000 records x 200 tokens x 3 / 2 per second.
    assert lines[6].startswith("time: about 174 days for 50,000 records of 200 tokens, 3 times each")


def test_several_machines(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Half a second a token, 3,200 tokens a step: 1,600 s beside 161 MB over 1 Gbit/s, about 1.3 to 2.5 s."""
    monkeypatch.setattr(model_plan, "measurable_bytes", lambda: 1 << 40)
    monkeypatch.setattr(model_plan, "extrapolated_cost", lambda *_: COST)
    assert planned("--model_config", "llama-7b", "--nodes", 6, "--link_gbit", 1) == 0
    text = capsys.readouterr().out
    assert "links of 1 Gbit/s and 50 microseconds" in text
    rows = [line.split() for line in text[text.index("machines  ") :].splitlines()[1:]]
    assert [row[0] for row in rows if row[0].isdigit()] == ["1", "2", "4", "6"]
    assert [row[-1] for row in rows if row[0].isdigit()] == ["100.0%", "99.9%", "99.9%", "99.9%"]


def test_machines_are_counted_where_a_model_is_named() -> None:
    with pytest.raises(ArgumentsError, match="--nodes is 'a,b'; with a model, give the number of machines"):
        planned("7B", "--nodes", "a,b")
    with pytest.raises(ArgumentsError, match="--link_gbit is 0; give a number above 0"):
        planned("7B", "--link_gbit", 0)


def test_an_estimate_is_near_what_is_measured() -> None:
    """For models of which not even a few layers can be measured: within a factor of two for LLaMA's kind."""
    config = LlamaConfig(
        **{**SMALL_SIZES, "hidden_size": 128, "intermediate_size": 344, "vocab_size": 400, "num_hidden_layers": 3}
    )
    counted = measured_cost(config, TuningArguments(), FP32, made_up_examples(config, 100))
    assert 0.5 < estimated_cost(config, FP32).kept_bytes / counted.kept_bytes < 2


@pytest.mark.parametrize(("bf16", "weights"), [((), "263.0"), (("--bf16",), "131.5")])
def test_a_model_of_which_no_layer_fits(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], bf16: tuple[str, ...], weights: str
) -> None:
    """It is not measured, and yet it is told that it does not fit."""
    monkeypatch.setattr(model_plan, "measurable_bytes", lambda: 4 << 30)
    assert planned("--model_config", "llama-2-70b", "--memory_gib", 16, *bf16) == 0
    first, memory, speed = capsys.readouterr().out.splitlines()
    assert "parameters in 80 layers" in first
    assert memory.startswith("memory: more than ")
    assert memory.endswith("the machine has 16.0 GiB: it does not fit")
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
