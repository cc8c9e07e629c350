"""Fine-tuning through the real command line on small checkpoints."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from support.forks import run_forked
from support.runs import ROWS, adapter, metrics, stable_metrics, trained_weights
from support.small_models import save_early_llama_checkpoint
from transformers import AutoModelForCausalLM


def test_the_specification_command(run_cli: Callable, write_records: Callable, tmp_path: Path) -> None:
    """Every flag of the specification's LLaMA command, on a checkpoint laid out as that model was published."""
    model = save_early_llama_checkpoint(tmp_path / "llama-7b-hf")
    before = {path.name: path.read_bytes() for path in model.iterdir()}
    result = run_cli(
        "--model_name_or_path", model, "--bf16", "True", "--train_file", write_records(ROWS * 3),
        "--dataset_concatenation", "--per_device_train_batch_size", 8, "--per_device_eval_batch_size", 8,
        "--gradient_accumulation_steps", 1, "--do_train", "--learning_rate", "1e-4", "--num_train_epochs", 3,
        "--logging_steps", 1, "--save_total_limit", 2, "--overwrite_output_dir", "--log_level", "info",
        "--save_strategy", "epoch", "--output_dir", "./llama_peft_finetuned_model", "--peft", "lora",
        "--use_fast_tokenizer", "false",
        script="finetune_clm.py", check=True,
    )  # fmt: skip
    run = tmp_path / "llama_peft_finetuned_model"
    for name in (
        "adapter_config.json", "adapter_model.safetensors", "README.md", "tokenizer_config.json", "neuralchat.json",
        "metrics.jsonl", "report.html",
    ):  # fmt: skip
        assert (run / name).is_file(), name
    assert "LLaMATokenizer; read as LlamaTokenizer" in result.stderr
    assert "LLaMAForCausalLM; read as LlamaForCausalLM" in result.stderr
    # One process has no rank to speak of.
    assert "rank 0" not in result.stderr
    assert {path.name: path.read_bytes() for path in model.iterdir()} == before
    assert len(list(run.glob("checkpoint-*"))) == 2
    assert all(tensor.dtype == torch.float32 for tensor in adapter(run).values())
    lines = [line for line in metrics(run) if "loss" in line]
    assert {
        "step", "epoch", "loss", "learning_rate", "grad_norm", "tokens", "supervised_tokens", "tokens_per_s", "seconds",
        "rss_mb", "memory_mb_by_part", "seconds_by_part",
    } == set(lines[0])  # fmt: skip
    said = run_cli("chat", run, "-p", "Name a fruit.", "--max_new_tokens", 5, check=True)
    assert said.stdout.strip()


@pytest.mark.quick
def test_config_file_flags_and_pairs_are_one(
    run_cli: Callable, write_records: Callable, llama_checkpoint: Path, tmp_path: Path
) -> None:
    """The same run from flags and from a YAML file with key=value on top gives the same adapter, bit for bit."""
    records = write_records(ROWS)
    values = {
        "model_name_or_path": str(llama_checkpoint), "train_file": str(records), "num_train_epochs": 2,
        "learning_rate": 0.01, "per_device_train_batch_size": 2, "save_strategy": "no", "report_samples": 0,
        "logging_steps": 1,
    }  # fmt: skip
    (tmp_path / "config.yaml").write_text(yaml.safe_dump({**values, "output_dir": "from_file", "learning_rate": 9}))
    flags = [word for name, value in values.items() for word in (f"--{name}", value)]
    run_cli("finetune", *flags, "--output_dir", "from_flags", check=True)
    run_cli("finetune", "config.yaml", "learning_rate=0.01", check=True)
    first, second = adapter(tmp_path / "from_flags"), adapter(tmp_path / "from_file")
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.quick
def test_overfitting_returns_each_answer_to_the_letter_and_stops(
    run_cli: Callable, write_records: Callable, llama_checkpoint: Path, tmp_path: Path
) -> None:
    from neuralchat.data.records import Turn
    from neuralchat.inference.chatbot import Chatbot
    from neuralchat.inference.sampling_flags import Sampling

    run_cli(
        "finetune", "--model_name_or_path", llama_checkpoint, "--train_file", write_records(ROWS), "--output_dir",
        "run", "--num_train_epochs", 60, "--learning_rate", "0.02", "--lora_rank", 16, "--lora_all_linear",
        "--lora_dropout", 0, "--per_device_train_batch_size", 4, "--save_strategy", "no", "--report_samples", 0,
        check=True,
    )  # fmt: skip
    bot = Chatbot.load(tmp_path / "run")
    turns = [[Turn("user", row["instruction"], row.get("input") or "")] for row in ROWS]
    for row, answer in zip(ROWS, bot.answers(turns, Sampling(max_new_tokens=40)), strict=True):
        assert answer.text == row["output"]
        assert answer.finished
    said = run_cli("chat", "run", "-p", ROWS[0]["instruction"], check=True)
    assert said.stdout == ROWS[0]["output"] + "\n"
    typed = f"{ROWS[0]['instruction']}\n/new\n{ROWS[2]['instruction']}\n"
    assert run_cli("chat", "run", stdin=typed, check=True).stdout == f"{ROWS[0]['output']}\n{ROWS[2]['output']}\n\n"


def test_validation_split_and_report(
    run_cli: Callable, write_records: Callable, llama_checkpoint: Path, tmp_path: Path
) -> None:
    result = run_cli(
        "finetune", "--model_name_or_path", llama_checkpoint, "--train_file", write_records(ROWS), "--output_dir",
        "run", "--validation_split_percentage", 25, "--num_train_epochs", 2, "--evaluation_strategy", "epoch",
        "--warmup_ratio", "0.1", "--save_strategy", "no", "--report_samples", 2, "--sample_tokens", 4,
        "--logging_steps", 1, check=True,
    )  # fmt: skip
    manifest = json.loads((tmp_path / "run" / "neuralchat.json").read_text())
    assert manifest["data"]["counts"]["validation"]["examples"] == 2
    assert manifest["arguments"]["warmup_steps"] == 0.1
    assert len(manifest["results"]["samples"]) == 2
    evaluated = [line for line in metrics(tmp_path / "run") if "eval_loss" in line]
    # Before training, after each of two epochs, and at the end.
    assert [line["step"] for line in evaluated] == [0, *[line["step"] for line in evaluated[1:]]]
    assert len(evaluated) == 4
    assert evaluated[-1]["eval_loss"] == manifest["results"]["held_out_loss_after"]
    assert "--evaluation_strategy is now --eval_strategy" in result.stderr
    report = (tmp_path / "run" / "report.html").read_text()
    assert "<svg" in report
    assert "http://" not in report
    assert "https://" not in report


RESUMED = {
    "LoRA": (), "DoRA": ("--lora_dora",), "PiSSA": ("--lora_init", "pissa"), "P-tuning": ("--peft", "ptun"),
    "prefix": ("--peft", "prefix"), "prompt": ("--peft", "prompt"), "LLaMA-Adapter": ("--peft", "llama_adapter"),
    "IA3": ("--peft", "ia3"), "all weights": ("--peft", "none"), "added tokens": ("--special_tokens", "<new>"),
    "Adafactor": ("--optim", "adafactor"), "cosine": ("--lr_scheduler_type", "cosine", "--warmup_ratio", "0.3"),
    "the best": ("--load_best_model_at_end", "--eval_strategy", "steps", "--eval_steps", "3"),
    "an epoch's end": ("--eval_strategy", "epoch", "--logging_strategy", "epoch", "--max_steps", "7"),
}  # fmt: skip


@pytest.mark.parametrize("name", RESUMED)
def test_resumed_equals_undisturbed(write_records: Callable, llama_checkpoint: Path, tmp_path: Path, name: str) -> None:
    """Begin at each of the checkpoints of a run again: the same weights, bit for bit, and each metrics line once."""
    held_out = (
        ("--validation_file", str(write_records(ROWS[:3], "held_out.json"))) if "eval" in str(RESUMED[name]) else ()
    )
    flags = [
        "finetune", "--model_name_or_path", str(llama_checkpoint), "--train_file", str(write_records(ROWS)),
        "--learning_rate", "0.01", "--per_device_train_batch_size", "2", "--num_train_epochs", "2", "--logging_steps",
        "2", "--save_strategy", "steps", "--save_steps", "3", "--report_samples", "0", "--lora_dropout", "0.1",
        *RESUMED[name], *held_out,
    ]  # fmt: skip
    log = tmp_path / "log"
    assert run_forked([*flags, "--output_dir", "whole"], tmp_path, log) == 0, log.read_text()
    whole = trained_weights(tmp_path / "whole")
    saved = sorted(tmp_path.glob("whole/checkpoint-*"), key=lambda path: int(path.name.rpartition("-")[2]))
    assert len(saved) == 3
    for number in range(3):
        parts = tmp_path / f"parts-{number}"
        # As if the run had died after this checkpoint.
        for path in saved[: number + 1]:
            shutil.copytree(path, parts / path.name)
        resumed = [*flags, "--output_dir", str(parts), "--resume_from_checkpoint", "auto"]
        assert run_forked(resumed, tmp_path, log) == 0, log.read_text()
        assert f"going on from {parts / saved[number].name}" in log.read_text()
        found = trained_weights(parts)
        assert whole.keys() == found.keys()
        assert all(torch.equal(whole[key], found[key]) for key in whole), number
        assert stable_metrics(parts) == stable_metrics(tmp_path / "whole"), number


STEP_SEQUENCES = {
    "one": ("--per_device_train_batch_size", 8, "--micro_batch_tokens", 4096),
    "1024": ("--per_device_train_batch_size", 8, "--micro_batch_tokens", 1024),
    "512": ("--per_device_train_batch_size", 8, "--micro_batch_tokens", 512),
    "40": ("--per_device_train_batch_size", 8, "--micro_batch_tokens", 40),
    "accumulated 2": ("--per_device_train_batch_size", 4, "--gradient_accumulation_steps", 2),
    "accumulated 8": ("--per_device_train_batch_size", 1, "--gradient_accumulation_steps", 8),
    "padded": ("--per_device_train_batch_size", 8, "--no_packing"),
    "torch's kernels": ("--per_device_train_batch_size", 8, "--no_compile_kernels"),
}


@pytest.mark.parametrize("method", ["lora", "prompt"])
def test_micro_batches_and_accumulation_change_nothing(
    run_cli: Callable, write_records: Callable, llama_checkpoint: Path, tmp_path: Path, method: str
) -> None:
    """Every optimizer step sees the same loss and gradient. SGD, since Adam magnifies rounding."""
    long = [{**row, "output": f"{row['output']} {'sky and grass ' * (7 * i)}"} for i, row in enumerate(ROWS)]
    records = write_records(ROWS + long)
    for name, extra in STEP_SEQUENCES.items():
        run_cli(
            "finetune", "--model_name_or_path", llama_checkpoint, "--train_file", records, "--output_dir", name,
            "--learning_rate", "0.05", "--num_train_epochs", 2, "--logging_steps", 1, "--lora_dropout", 0,
            "--optim", "sgd", "--save_strategy", "no", "--report_samples", 0, "--max_seq_length", 1024,
            "--peft", method, *extra, check=True,
        )  # fmt: skip
    one = metrics(tmp_path / "one")
    assert len(one) == 4
    weights = adapter(tmp_path / "one")
    size = torch.stack([w.norm() for w in weights.values()]).norm()
    for name in STEP_SEQUENCES:
        for key in ("loss", "grad_norm"):
            found = [line[key] for line in metrics(tmp_path / name)]
            assert found == pytest.approx([line[key] for line in one], rel=1e-5), (name, key)
        other = adapter(tmp_path / name)
        assert torch.stack([(other[n] - w).norm() for n, w in weights.items()]).norm() <= 1e-5 * size, name


@pytest.mark.parametrize("method", ["ptun", "prefix", "prompt", "llama_adapter"])
def test_other_methods_train_packed(
    run_cli: Callable, write_records: Callable, llama_checkpoint: Path, tmp_path: Path, method: str
) -> None:
    result = run_cli(
        "finetune", "--model_name_or_path", llama_checkpoint, "--train_file", write_records(ROWS), "--output_dir",
        "run", "--peft", method, "--num_train_epochs", 6, "--learning_rate", "0.02", "--logging_steps", 1,
        "--per_device_train_batch_size", 8, "--save_strategy", "no", "--report_samples", 1, "--sample_tokens", 3,
        check=True,
    )  # fmt: skip
    assert "packing is exact" in result.stderr
    assert "packed" in result.stderr
    losses = [line["loss"] for line in metrics(tmp_path / "run")]
    assert losses[-1] < losses[0]
    said = run_cli("chat", "run", "-p", "Name a fruit.", "--max_new_tokens", 3, check=True)
    assert said.stdout.strip()


def test_the_adapter_is_plain_peft(
    run_cli: Callable, write_records: Callable, llama_checkpoint: Path, tmp_path: Path
) -> None:
    """PeftModel.from_pretrained gives the logits that the run's own chatbot computes."""
    from peft import PeftModel

    from neuralchat.inference.chatbot import Chatbot

    run_cli(
        "finetune", "--model_name_or_path", llama_checkpoint, "--train_file", write_records(ROWS), "--output_dir",
        "run", "--learning_rate", "0.05", "--save_strategy", "no", "--report_samples", 0, check=True,
    )  # fmt: skip
    base = AutoModelForCausalLM.from_pretrained(llama_checkpoint)
    ids = torch.arange(3, 40)[None]
    with torch.no_grad():
        untouched = base(input_ids=ids).logits
        plain = PeftModel.from_pretrained(base, str(tmp_path / "run"))(input_ids=ids).logits
        ours = Chatbot.load(tmp_path / "run").model(input_ids=ids).logits
    torch.testing.assert_close(ours, plain)
    assert not torch.allclose(plain, untouched, atol=1e-3)


def test_conversations_use_the_chat_template(
    run_cli: Callable, write_records: Callable, llama_checkpoint: Path, tmp_path: Path
) -> None:
    rows = [
        {"messages": [
            {"role": "user", "content": row["instruction"]}, {"role": "assistant", "content": row["output"]},
            {"role": "user", "content": "Again?"}, {"role": "assistant", "content": "No."},
        ]}
        for row in ROWS
    ]  # fmt: skip
    run_cli(
        "finetune", "--model_name_or_path", llama_checkpoint, "--train_file", write_records(rows), "--output_dir",
        "run", "--save_strategy", "no", "--report_samples", 0, check=True,
    )  # fmt: skip
    template = json.loads((tmp_path / "run" / "neuralchat.json").read_text())["template"]
    assert template["name"] == "chat"
    assert template["end_tokens"] == ["<|end|>"]


def test_evaluation_alone_writes_no_run(
    run_cli: Callable, write_records: Callable, llama_checkpoint: Path, tmp_path: Path
) -> None:
    records = write_records(ROWS)
    result = run_cli(
        "--model_name_or_path", llama_checkpoint, "--validation_file", records, "--train_file", records, "--do_eval",
        "--output_dir", "run", script="finetune_clm.py", check=True,
    )  # fmt: skip
    assert "held-out loss" in result.stdout
    assert not (tmp_path / "run" / "neuralchat.json").exists()


def test_widened_bf16_trains_answers_and_chats(
    monkeypatch: pytest.MonkeyPatch, write_records: Callable, llama_checkpoint: Path, tmp_path: Path, capfd: Any
) -> None:
    """--bf16 on a machine without bf16 units: bf16 weights, fp32 arithmetic, fp32 adapter, and a chatbot."""
    from neuralchat import cli
    from neuralchat.models.loading import precision

    monkeypatch.setattr(precision, "has_bf16_units", lambda: False)
    monkeypatch.setattr("neuralchat.inference.loading.has_bf16_units", lambda: False)
    words = [
        "finetune", "--model_name_or_path", llama_checkpoint, "--train_file", write_records(ROWS), "--output_dir",
        tmp_path / "run", "--bf16", "True", "--learning_rate", "0.02", "--num_train_epochs", 8, "--logging_steps", 1,
        "--save_strategy", "no", "--report_samples", 1, "--sample_tokens", 3,
    ]  # fmt: skip
    assert cli.main([str(word) for word in words]) == 0
    assert "widened to fp32 a layer at a time" in capfd.readouterr().err
    manifest = json.loads((tmp_path / "run" / "neuralchat.json").read_text())
    assert manifest["precision"] == {"storage": "bfloat16", "compute": "float32", "adapter": "float32", "bits": None}
    losses = [line["loss"] for line in metrics(tmp_path / "run")]
    assert losses[-1] < 0.8 * losses[0]
    assert cli.main(["chat", str(tmp_path / "run"), "-p", "Name a fruit.", "--max_new_tokens", "3"]) == 0


def test_data_sets_by_name_and_tensorboard(
    run_cli: Callable, write_records: Callable, llama_checkpoint: Path, tmp_path: Path
) -> None:
    """--dataset_name takes what the datasets library can load; --report_to tensorboard writes its event file."""
    (tmp_path / "set").mkdir()
    write_records(ROWS, "set/train.json")
    run_cli(
        "finetune", "--model_name_or_path", llama_checkpoint, "--dataset_name", tmp_path / "set", "--output_dir", "run",
        "--report_to", "tensorboard", "--num_train_epochs", 1, "--save_strategy", "no", "--report_samples", 0,
        "--cache_dir", tmp_path / "cache", check=True,
    )  # fmt: skip
    manifest = json.loads((tmp_path / "run" / "neuralchat.json").read_text())
    assert manifest["data"]["counts"]["train"]["examples"] == len(ROWS)
    assert list((tmp_path / "run").rglob("events.out.tfevents*"))
