"""neuralchat export --with: several adapters of one base model in one whole model."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from neuralchat.cli import main, make_parser
from neuralchat.errors import AdapterError, ArgumentsError
from neuralchat.export.command import export
from neuralchat.inference.chatbot import Chatbot

FIXTURE = Path(__file__).parents[2] / "fixtures" / "run_of_0_1"
RUN, MODEL = FIXTURE / "run", FIXTURE / "model"


def changed(directory: Path, **settings: Any) -> None:
    file = directory / "adapter_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **settings}))


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Another adapter of the same base model."""
    place = tmp_path_factory.mktemp("other") / "second"
    shutil.copytree(RUN, place)
    generator = torch.Generator().manual_seed(4)
    weights = load_file(place / "adapter_model.safetensors")
    drawn = {name: torch.randn(w.shape, generator=generator, dtype=w.dtype) * 0.2 for name, w in weights.items()}
    save_file(drawn, place / "adapter_model.safetensors")
    return place


def exported(output: Path, *words: object) -> Path:
    told = ["export", str(RUN), "--base_model", str(MODEL), "--merge", str(output), *map(str, words)]
    assert export(make_parser().parse_args(told)) == 0
    return output


def weight_of(directory: Path) -> dict[str, torch.Tensor]:
    return AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32).state_dict()


def changes_of(run: Path) -> dict[str, torch.Tensor]:
    """What an adapter adds to each matrix, worked out from its file."""
    config = json.loads((run / "adapter_config.json").read_text())
    weights = load_file(run / "adapter_model.safetensors")
    names = [name.removesuffix(".lora_A.weight") for name in weights if name.endswith(".lora_A.weight")]
    scaling = config["lora_alpha"] / config["r"]
    return {
        name.removeprefix("base_model.model.") + ".weight":
        scaling * weights[f"{name}.lora_B.weight"].float() @ weights[f"{name}.lora_A.weight"].float()
        for name in names
    }  # fmt: skip


def test_the_sum_of_two_is_the_sum_of_what_each_changes(
    other: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = weight_of(exported(tmp_path / "both", "--with", f"{other}=-0.5", "--weight", "0.75"))
    said = capsys.readouterr().out
    assert "combined by cat: run (0.75), second (-0.5)" in said
    assert "merging moves no logit by more than" in said
    base, one, two = weight_of(MODEL), changes_of(RUN), changes_of(other)
    assert one.keys() == two.keys() != set()
    for name, weight in base.items():
        expected = weight + (0.75 * one[name] - 0.5 * two[name] if name in one else 0)
        torch.testing.assert_close(found[name], expected, atol=1e-5, rtol=1e-4)
    manifest = json.loads((tmp_path / "both" / "neuralchat.json").read_text())
    combined = manifest["combined"]
    assert [(facts["name"], facts["weight"]) for facts in (combined["run"], *combined["with"])] == [
        ("run", 0.75),
        ("second", -0.5),
    ]
    assert manifest["results"] == {}
    card = (tmp_path / "both" / "README.md").read_text()
    trained = json.loads((RUN / "neuralchat.json").read_text())["data"]
    on = f"{trained['counts']['train']['examples']} examples, fingerprint {trained['train_fingerprint']}"
    assert "with 2 lora adapters folded in as one (cat), trained with NeuralChat" in card
    assert f"| run | 0.75 | {on} |\n| second | -0.5 | {on} |" in card
    # What is said of one of them alone is in its own row.
    assert "| training data |" not in card
    assert "trained parameters" not in card
    assert str(other) not in card
    assert Chatbot.load(tmp_path / "both").predict("Name an animal.", max_new_tokens=3) is not None
    assert main(["show", str(tmp_path / "both")]) == 2
    assert "merged from several adapters, and has no results of its own" in capsys.readouterr().err


def test_linear_is_the_product_of_weighted_sums(other: Path, tmp_path: Path) -> None:
    """PEFT's: each matrix by the root of its weight. Worked out by hand for one layer."""
    found = weight_of(exported(tmp_path / "both", "--with", f"{other}=0.5", "--combine", "linear"))
    base, config = weight_of(MODEL), json.loads((RUN / "adapter_config.json").read_text())
    scaling, files = (
        config["lora_alpha"] / config["r"],
        [load_file(r / "adapter_model.safetensors") for r in (RUN, other)],
    )
    name = next(n for n in changes_of(RUN) if "layers.0" in n)
    part = f"base_model.model.{name.removesuffix('.weight')}"
    a, b = (
        sum((w * scaling) ** 0.5 * f[f"{part}.{letter}.weight"].float() for w, f in zip((1.0, 0.5), files, strict=True))
        for letter in ("lora_A", "lora_B")
    )
    torch.testing.assert_close(found[name], base[name] + b @ a, atol=1e-5, rtol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("how", ["ties", "dare_linear", "dare_ties"])
def test_what_draws_or_prunes_is_the_same_each_time(how: str, other: Path, tmp_path: Path) -> None:
    words = ("--with", f"{other}=0.5", "--combine", how, "--density", "0.7")
    once, again = (weight_of(exported(tmp_path / place, *words)) for place in ("once", "again"))
    one, base = weight_of(exported(tmp_path / "one")), weight_of(MODEL)
    name = next(iter(changes_of(RUN)))
    assert all(torch.equal(once[n], again[n]) for n in once)
    assert not torch.allclose(once[name], one[name])
    assert not torch.allclose(once[name], base[name])


def test_gguf_takes_several_too(other: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["export", str(RUN), "--base_model", str(MODEL), "--gguf", "f32", "--output", str(tmp_path / "out")]
    assert export(make_parser().parse_args([*words, "--with", f"{other}=0.5"])) == 0
    assert "combined by cat" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "error", "told"),
    [
        (["--with", "x"], ArgumentsError, "--with is 'x'; it takes a run and its weight"),
        (["--with", "x=zero"], ArgumentsError, "--with is 'x=zero'"),
        (["--with", "x=nan", "--density", "2"], ArgumentsError, "(?s)--density is 2; .*--with is 'x=nan'"),
        (["--with", "x=1", "--combine", "mean"], ArgumentsError, "--combine is 'mean'; allowed are cat, linear, ties"),
        (["--with", "x=1", "--density", "0.5"], ArgumentsError, "--density belongs to --combine ties"),
        (["--weight", "2"], ArgumentsError, "--weight belongs to --with"),
        (["--with", "x=1", "--weight", "0"], ArgumentsError, "--weight is 0; allowed is any finite number but 0"),
        (
            ["--with", "nowhere/run=1"],
            AdapterError,
            "nowhere/run has no adapter of its own: there is no such directory",
        ),
        (["--with", f"{MODEL}=1"], AdapterError, "has no adapter of its own"),
    ],
)
def test_what_is_refused(words: list[str], error: type[Exception], told: str, tmp_path: Path) -> None:
    with pytest.raises(error, match=told):
        exported(tmp_path / "both", *words)
    assert not (tmp_path / "both").exists() or not list((tmp_path / "both").iterdir())


def test_adapters_that_do_not_belong_together_are_all_told(other: Path, tmp_path: Path) -> None:
    for name, settings in {"dora": {"use_dora": True}, "saved": {"modules_to_save": ["lm_head"]}}.items():
        shutil.copytree(other, tmp_path / name)
        changed(tmp_path / name, **settings)
    strange = shutil.copytree(other, tmp_path / "strange")
    manifest = json.loads((strange / "neuralchat.json").read_text())
    manifest["template"]["sha256"] = "0" * 64
    manifest["identity"]["base_model"] = "1" * 64
    (strange / "neuralchat.json").write_text(json.dumps(manifest))
    words = [word for name in ("dora", "saved", "strange") for word in ("--with", f"{tmp_path / name}=1")]
    with pytest.raises(AdapterError) as caught:
        exported(tmp_path / "both", *words)
    told = str(caught.value)
    assert "dora has DoRA, which PEFT cannot combine" in told
    assert "saved holds whole layers" in told
    assert "strange was trained with another prompt template" in told
    assert "strange was trained on another base model" in told


@pytest.mark.parametrize("place", ["own", "other"])
def test_an_adapter_of_zeros_is_no_ingredient(place: str, tmp_path: Path) -> None:
    zeros = tmp_path / "zeros"
    shutil.copytree(RUN, zeros)
    weights = load_file(zeros / "adapter_model.safetensors")
    save_file(
        {name: torch.zeros_like(w) if "lora_B" in name else w for name, w in weights.items()},
        zeros / "adapter_model.safetensors",
    )
    own, beside = (zeros, RUN) if place == "own" else (RUN, zeros)
    words = [
        "export",
        str(own),
        "--base_model",
        str(MODEL),
        "--merge",
        str(tmp_path / "out"),
        "--with",
        f"{beside}=0.5",
    ]
    with pytest.raises(AdapterError, match=r"the adapter of .*zeros has no effect: .* combined with nothing"):
        export(make_parser().parse_args(words))
    assert not (tmp_path / "out").exists()
    assert export(make_parser().parse_args([*words, "--allow_no_effect"])) == 0
    assert (tmp_path / "out" / "config.json").is_file()


def test_with_belongs_to_whole_models(tmp_path: Path) -> None:
    told = ["export", str(RUN), "--adapter", str(tmp_path / "a"), "--with", "x=1"]
    with pytest.raises(ArgumentsError, match="--with belongs to --merge and --gguf"):
        export(make_parser().parse_args(told))
