"""--bits through the real command: resumed to the bit, repeated, talked to, evaluated, merged; and what is refused."""

from __future__ import annotations

import json
import re
import shutil

import pytest
import torch
from support.notes import kept_notes
from support.runs import ROWS, Desk, digest, metrics, stable_metrics
from support.small_models import save_checkpoint

from neuralchat.inference import loading
from neuralchat.inference.chatbot import Chatbot
from neuralchat.models.layers.quantized_linear import QuantizedLinear

FLAGS = (
    "finetune", "--model_name_or_path", "model", "--train_file", "records.json", "--num_train_epochs", "3",
    "--per_device_train_batch_size", "4", "--learning_rate", "0.01", "--logging_steps", "1", "--save_steps", "2",
    "--save_strategy", "steps", "--report_samples", "1", "--sample_tokens", "4", "--lora_dropout", "0.1",
)  # fmt: skip
BITS = ("8", "4")


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Desk:
    """`run-8` and `run-4`, six steps each, with checkpoints."""
    directory = tmp_path_factory.mktemp("bits")
    place = Desk(directory, save_checkpoint(directory / "model"), ROWS)
    for bits in BITS:
        status, said = place.run(*FLAGS, "--output_dir", f"run-{bits}", "--bits", bits)
        assert status == 0, said
        others = "" if bits == "8" else r" and \d+% of the weights in 8 bits"
        assert re.search(
            rf"\d+% of the weights in {bits} bits{others}; embeddings, head and small weights as they", said
        )
        assert "packing is exact" in said
        assert f"weights {'int8' if bits == '8' else 'nf4, int8'} and float32, arithmetic float32" in said
    return place


def is_in_bits(bot: Chatbot) -> bool:
    return any(isinstance(module, QuantizedLinear) for module in bot.model.modules())


@pytest.mark.parametrize("bits", BITS)
def test_resumed_to_the_bit(desk: Desk, bits: str) -> None:
    whole, part = desk.directory / f"run-{bits}", desk.directory / f"part-{bits}"
    shutil.copytree(whole, part)
    for name in ("neuralchat.json", "adapter_model.safetensors"):
        (part / name).unlink()
    for step in (4, 6):
        shutil.rmtree(part / f"checkpoint-{step}")
    said = desk.run(*FLAGS, "--output_dir", part.name, "--bits", bits, "--resume_from_checkpoint", "auto")
    assert said[0] == 0, said[1]
    assert digest(part) == digest(whole)
    assert stable_metrics(part) == stable_metrics(whole)


@pytest.mark.parametrize("other", [(), ("--bits", "4")])
def test_a_run_goes_on_in_its_own_bits_only(desk: Desk, other: tuple[str, ...]) -> None:
    status, said = desk.run(
        *FLAGS, "--output_dir", "run-8", *other, "--resume_from_checkpoint", "auto", "--allow_changed", "all"
    )
    assert status == 2
    assert f"bits: was 8, is now {other[-1] if other else None}" in said


def test_repeated_from_its_directory(desk: Desk) -> None:
    status, said = desk.run("finetune", "--from_run", "run-4", "--output_dir", "again")
    assert status == 0, said
    assert digest(desk.directory / "again") == digest(desk.directory / "run-4")


def test_the_bits_make_a_difference(desk: Desk) -> None:
    eight, four = (desk.directory / f"run-{bits}" for bits in BITS)
    assert digest(eight) != digest(four)
    assert [line["step"] for line in metrics(eight)] == [line["step"] for line in metrics(four)]
    assert metrics(eight)[0]["loss"] == pytest.approx(metrics(four)[0]["loss"], rel=0.2)


@pytest.mark.parametrize("bits", BITS)
def test_a_run_and_its_checkpoints_are_used_in_their_bits(desk: Desk, bits: str) -> None:
    run = desk.directory / f"run-{bits}"
    manifest = json.loads((run / "neuralchat.json").read_text())
    assert manifest["precision"]["bits"] == int(bits)
    assert manifest["arguments"]["bits"] == int(bits)
    status, said = desk.run("eval", run.name, "--questions", "records.json", "--max_new_tokens", "3")
    assert status == 0, said
    # The answers before training were those of the base model in these bits.
    with Chatbot.load(run).untuned() as base:
        assert (
            base.predict(manifest["results"]["samples"][0]["question"], max_new_tokens=4)
            == (manifest["results"]["samples"][0]["before"])
        )


@pytest.mark.parametrize("bits", BITS)
def test_written_out_for_answers_where_memory_has_room(desk: Desk, bits: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Said in a line, and of the same numbers."""
    ids = torch.arange(3, 20)[None]
    for place in (f"run-{bits}", f"run-{bits}/checkpoint-4"):
        with kept_notes() as said:
            bot = Chatbot.load(desk.directory / place)
        assert not is_in_bits(bot)
        assert f"its weights in {bits} bits, 0.0 GiB in float32, are written out once" in "\n".join(said)
        with monkeypatch.context() as patch, kept_notes() as said:
            patch.setattr(loading, "WRITTEN_OUT_SHARE", 0.0)
            in_bits = Chatbot.load(desk.directory / place)
        assert is_in_bits(in_bits)
        assert "are more than half of the free memory" in "\n".join(said)
        with torch.no_grad():
            expected, found = (one.model(input_ids=ids).logits for one in (in_bits, bot))
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("bits", BITS)
def test_merged(desk: Desk, bits: str, monkeypatch: pytest.MonkeyPatch) -> None:
    run, whole = desk.directory / f"run-{bits}", desk.directory / f"whole-{bits}"
    status, said = desk.run("merge", run.name, "--output", whole.name)
    assert status == 0, said
    assert "merging moves no logit by more than" in said
    # Merged from its exact numbers, not from rounded ones.
    assert "written out" not in said
    monkeypatch.setattr(loading, "WRITTEN_OUT_SHARE", 0.0)
    bot, merged = Chatbot.load(run), Chatbot.load(whole)
    assert is_in_bits(bot)
    assert not is_in_bits(merged)
    ids = torch.arange(3, 20)[None]
    with torch.no_grad():
        expected, found = (one.model(input_ids=ids).logits for one in (bot, merged))
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-3)


def test_combined_with_one_of_other_bits_is_told(desk: Desk) -> None:
    status, said = desk.run("export", "run-8", "--merge", "both", "--with", "run-4=0.5")
    assert status == 0, said
    assert "run-4 was trained on the base model in 4 bits, run-8 in 8 bits; they are combined on that of run-8" in said
    shutil.copytree(desk.directory / "run-8", desk.directory / "again-8")
    status, said = desk.run("export", "run-8", "--merge", "same", "--with", "again-8=0.5")
    assert status == 0, said
    assert "they are combined on" not in said


def test_the_adapter_alone_says_what_it_was_trained_on(desk: Desk) -> None:
    status, said = desk.run("export", "run-4", "--adapter", "alone")
    assert status == 0, said
    assert "the adapter was trained on its base model in 4 bits" in said
    for card in ("alone", "run-4"):
        text = (desk.directory / card / "README.md").read_text()
        assert "# In training it was kept in 4 bits; as it is here, answers differ a little." in text


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        (("--bits", "5"), "--bits is '5'; allowed are 8, 4"),
        (("--bits", "four"), "--bits: invalid int value: 'four'"),
        (("--bits", "8", "--peft", "none"), "--bits 8: --peft none trains all weights"),
        (("--bits", "4", "--lora_dora"), "--bits 4 and --lora_dora: "),
        (("--bits", "4", "--lora_init", "pissa"), "--bits 4 and --lora_init pissa: "),
    ],
)
def test_refused(desk: Desk, words: tuple[str, ...], problem: str) -> None:
    status, said = desk.run(*FLAGS, "--output_dir", "refused", *words)
    assert status == 2
    assert problem in said
    assert not (desk.directory / "refused").exists()


def test_bits_of_a_later_version_are_refused(desk: Desk) -> None:
    strange = desk.directory / "strange"
    shutil.copytree(desk.directory / "run-8", strange)
    manifest = json.loads((strange / "neuralchat.json").read_text())
    manifest["precision"]["bits"] = 2
    (strange / "neuralchat.json").write_text(json.dumps(manifest))
    status, said = desk.run("chat", "strange", "-p", "Name a fruit.")
    assert status == 2
    assert "strange was trained on a base model in 2 bits; this version of NeuralChat knows 8 and 4" in said


def test_without_compiled_kernels_the_numbers_are_the_same(desk: Desk) -> None:
    for name, words in (("compiled", ()), ("torch", ("--no_compile_kernels",))):
        status, said = desk.run(*FLAGS, "--output_dir", name, "--bits", "4", "--lora_init", "default", *words)
        assert status == 0, said
    compiled, plain = ([line["loss"] for line in metrics(desk.directory / name)] for name in ("compiled", "torch"))
    assert len(compiled) == 6
    assert plain == pytest.approx(compiled, rel=1e-3)


def test_served_with_runs_of_the_same_bits_only(desk: Desk) -> None:
    status, said = desk.run("serve", "run-8", "run-4", "--port", "0")
    assert status == 2
    assert "model in 4 bits, and run-8 is of" in said
