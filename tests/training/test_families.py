"""The specification's commands for MPT and FLAN-T5, and full fine-tuning, through the real command line."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from support.runs import ROWS, adapter, metrics
from support.small_models import make_tokenizer, save_published_mpt_checkpoint, save_published_t5_checkpoint
from transformers import AutoModelForCausalLM, AutoModelForSeq2SeqLM, AutoTokenizer


def test_the_specification_command_for_mpt(run_cli: Callable, write_records: Callable, tmp_path: Path) -> None:
    model = save_published_mpt_checkpoint(tmp_path / "mpt-7b")
    make_tokenizer().save_pretrained(tmp_path / "gpt-neox-20b")
    result = run_cli(
        "--model_name_or_path", model, "--bf16", "True", "--train_file", write_records(ROWS * 3),
        "--dataset_concatenation", "--per_device_train_batch_size", 8, "--per_device_eval_batch_size", 8,
        "--gradient_accumulation_steps", 1, "--do_train", "--learning_rate", "1e-4", "--num_train_epochs", 3,
        "--logging_steps", 1, "--save_total_limit", 2, "--overwrite_output_dir", "--log_level", "info",
        "--save_strategy", "epoch", "--output_dir", "./mpt_peft_finetuned_model", "--peft", "lora",
        "--trust_remote_code", "True", "--tokenizer_name", tmp_path / "gpt-neox-20b",
        script="finetune_clm.py", check=True,
    )  # fmt: skip
    assert "transformers has its own class for 'mpt'; the checkpoint's code is not run" in result.stderr
    assert "packing is exact" in result.stderr
    run = tmp_path / "mpt_peft_finetuned_model"
    assert len(list(run.glob("checkpoint-*"))) == 2
    said = run_cli("chat", run, "-p", "Name a fruit.", "--max_new_tokens", 3, check=True)
    assert "not run" not in said.stderr


def t5_flags(model: Path, records: Path) -> list[Any]:
    """The specification's FLAN-T5 command, paths and logging aside."""
    return [
        "--model_name_or_path", model, "--bf16", "True", "--train_file", records, "--per_device_train_batch_size", 2,
        "--per_device_eval_batch_size", 2, "--gradient_accumulation_steps", 1, "--do_train", "--learning_rate",
        "1.0e-5", "--warmup_ratio", "0.03", "--weight_decay", "0.0", "--num_train_epochs", 5, "--logging_steps", 10,
        "--save_steps", 2000, "--save_total_limit", 2, "--overwrite_output_dir", "--output_dir",
        "./flan-t5-xl_peft_finetuned_model", "--peft", "lora",
    ]  # fmt: skip


def test_the_specification_command_for_flan_t5(run_cli: Callable, write_records: Callable, tmp_path: Path) -> None:
    model = save_published_t5_checkpoint(tmp_path / "flan-t5-xl")
    result = run_cli(*t5_flags(model, write_records(ROWS * 2)), script="finetune_seq2seq.py", check=True)
    assert "packing is exact" in result.stderr
    run = tmp_path / "flan-t5-xl_peft_finetuned_model"
    assert [line["step"] for line in metrics(run)] == [10, 20, 30, 40]
    manifest = json.loads((run / "neuralchat.json").read_text())
    assert manifest["base_model"]["architecture"] == "T5ForConditionalGeneration"
    # T5 keeps its own padding token, and its embeddings more rows than tokens.
    assert AutoTokenizer.from_pretrained(run).pad_token == "<pad>"
    assert not any("embed" in name or "shared" in name for name in adapter(run))


@pytest.mark.parametrize("method", ["lora", "none"])
def test_t5_learns_its_records_to_the_letter(
    run_cli: Callable, write_records: Callable, tmp_path: Path, method: str
) -> None:
    model = save_published_t5_checkpoint(tmp_path / "flan-t5")
    rows = [
        {"instruction": "Name a fruit.", "output": "An apple."}, {"instruction": "Name an animal.", "output": "A cat."},
        {"instruction": "What colour is the sky?", "output": "The sky is blue."},
        {"instruction": "Add the numbers.", "input": "2 and 3", "output": "five"},
        {"instruction": "What do birds do?", "output": "birds sing"},
        {"instruction": "What do dogs do?", "output": "dogs bark"},
        {"instruction": "Name the capital of France.", "output": "Paris."},
        {"instruction": "At how many degrees does water boil?", "output": "one hundred"},
    ]  # fmt: skip
    records = write_records(rows)
    more = ["--lora_rank", 16, "--lora_all_linear", "--lora_dropout", 0] if method == "lora" else []
    result = run_cli(
        "finetune", "--model_name_or_path", model, "--train_file", records, "--validation_file", records,
        "--output_dir", "run", "--peft", method, "--learning_rate", "0.01", "--num_train_epochs", 120,
        "--per_device_train_batch_size", 8, "--logging_steps", 60, "--save_strategy", "no", "--report_samples", 1,
        "--predict_with_generate", *more, check=True,
    )  # fmt: skip
    assert "held-out answers  rouge1 1.000" in result.stdout
    asked = [row for row in rows if "input" not in row]
    typed = "\n/new\n".join(row["instruction"] for row in asked)
    answers = run_cli("chat", "run", stdin=typed + "\n", check=True).stdout
    assert answers.split("\n") == [*(row["output"] for row in asked), "", ""]
    if method == "none":
        assert AutoModelForSeq2SeqLM.from_pretrained(tmp_path / "run").config.model_type == "t5"


def test_flags_of_the_other_architecture_are_refused(
    run_cli: Callable, write_records: Callable, llama_checkpoint: Path, tmp_path: Path
) -> None:
    model = save_published_t5_checkpoint(tmp_path / "flan-t5")
    records = write_records(ROWS)
    common = ["finetune", "--train_file", records, "--output_dir", "run", "--model_name_or_path"]
    found = run_cli(*common, model, "--max_seq_length", 64, "--train_on_inputs", "true")
    assert found.returncode == 2
    assert "--max_source_length and --max_target_length" in found.stderr
    assert "does not predict its input" in found.stderr
    found = run_cli(*common, llama_checkpoint, "--max_source_length", 64)
    assert found.returncode == 2
    assert "--max_source_length: for encoder-decoder models; use --max_seq_length" in found.stderr
    assert not (tmp_path / "run").exists()


def test_long_sources_are_cut_and_long_targets_left_out(
    run_cli: Callable, write_records: Callable, tmp_path: Path
) -> None:
    model = save_published_t5_checkpoint(tmp_path / "flan-t5")
    rows = [
        *ROWS, {"instruction": "Read this: " + "sky and grass " * 40, "output": "Ok."},
        {"instruction": "Say much.", "output": "sky and grass " * 40},
    ]  # fmt: skip
    result = run_cli(
        "finetune", "--model_name_or_path", model, "--train_file", write_records(rows), "--output_dir", "run",
        "--max_source_length", 150, "--max_target_length", 60, "--num_train_epochs", 1, "--report_samples", 0,
        check=True,
    )  # fmt: skip
    assert "1 of 9 examples were longer than --max_source_length 150" in result.stderr
    assert "1 record(s) cannot be trained on and are left out" in result.stderr
    assert "does not fit into --max_target_length 60" in result.stderr


def test_full_fine_tuning_of_a_causal_model(
    run_cli: Callable, write_records: Callable, llama_checkpoint: Path, tmp_path: Path
) -> None:
    result = run_cli(
        "finetune", "--model_name_or_path", llama_checkpoint, "--train_file", write_records(ROWS), "--output_dir",
        "run", "--peft", "none", "--learning_rate", "0.003", "--num_train_epochs", 60, "--logging_steps", 20,
        "--save_strategy", "no", "--report_samples", 1, check=True,
    )  # fmt: skip
    assert "packing is exact" in result.stderr
    run = tmp_path / "run"
    whole, base = (AutoModelForCausalLM.from_pretrained(path).state_dict() for path in (run, llama_checkpoint))
    assert not any(torch.equal(whole[name], base[name]) for name in whole)
    assert not (run / "adapter_config.json").exists()
    assert run_cli("chat", "run", "-p", "Say nothing much.", check=True).stdout.strip() == "Ok"


def test_pissa_ends_as_a_plain_adapter(
    run_cli: Callable, write_records: Callable, llama_checkpoint: Path, tmp_path: Path
) -> None:
    """It fits the unchanged base model in plain PEFT, and gives what the run itself ended with."""
    from peft import PeftModel

    result = run_cli(
        "finetune", "--model_name_or_path", llama_checkpoint, "--train_file", write_records(ROWS),
        "--validation_file", write_records(ROWS, "held_out.json"), "--output_dir", "run", "--lora_init", "pissa",
        "--learning_rate", "0.01", "--num_train_epochs", 4, "--save_strategy", "no", "--report_samples", 0,
        "--lora_dropout", 0, check=True,
    )  # fmt: skip
    assert result.returncode == 0
    results = json.loads((tmp_path / "run" / "neuralchat.json").read_text())["results"]
    plain = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(llama_checkpoint), tmp_path / "run")
    assert plain.peft_config["default"].r == 2 * 16
    from neuralchat.data.records import RecordReport, read_records
    from neuralchat.data.templates.making import make_template
    from neuralchat.data.tokenization import Encoder
    from neuralchat.data.tokens.counts import TokenizationCounts
    from neuralchat.models.losses.loss_sum import padded_loss_sum

    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "run")
    encoder = Encoder(tokenizer, make_template("own", tokenizer), max_seq_length=512, train_on_inputs=False)
    records = list(read_records([str(tmp_path / "held_out.json")], RecordReport()))
    examples = encoder.encode(records, TokenizationCounts())
    with torch.no_grad():
        loss = padded_loss_sum(plain.eval(), examples, pad_id=0) / sum(int(e.supervised.sum()) for e in examples)
    assert loss.item() == pytest.approx(results["held_out_loss_after"], rel=1e-4)
    assert results["held_out_loss_after"] < results["held_out_loss_before"]


@pytest.mark.parametrize("variant", ["--lora_dora", "--lora_rslora"])
def test_variants_of_lora(
    run_cli: Callable, write_records: Callable, llama_checkpoint: Path, tmp_path: Path, variant: str
) -> None:
    run_cli(
        "finetune", "--model_name_or_path", llama_checkpoint, "--train_file", write_records(ROWS), "--output_dir",
        "run", variant, "--num_train_epochs", 4, "--learning_rate", "0.01", "--logging_steps", 1, "--save_strategy",
        "no", "--report_samples", 0, check=True,
    )  # fmt: skip
    losses = [line["loss"] for line in metrics(tmp_path / "run")]
    assert losses[-1] < losses[0]
    assert json.loads((tmp_path / "run" / "adapter_config.json").read_text())[f"use_{variant[7:]}"] is True


def test_added_tokens_are_trained_saved_and_there_after_reload(
    run_cli: Callable, write_records: Callable, llama_checkpoint: Path, tmp_path: Path
) -> None:
    rows = [
        {"instruction": "What is the code of France?", "output": "<FR>"},
        {"instruction": "What is the code of Spain?", "output": "<ES>"},
        {"instruction": "Which country has <FR>?", "output": "France"},
        {"instruction": "Which country has <ES>?", "output": "Spain"},
    ]
    run_cli(
        "finetune", "--model_name_or_path", llama_checkpoint, "--train_file", write_records(rows), "--output_dir",
        "run", "--special_tokens", "<FR>", "<ES>", "--lora_rank", 16, "--lora_all_linear", "--lora_dropout", 0,
        "--learning_rate", "0.02", "--num_train_epochs", 150, "--per_device_train_batch_size", 4, "--save_strategy",
        "no", "--report_samples", 0, check=True,
    )  # fmt: skip
    run = tmp_path / "run"
    tokenizer = AutoTokenizer.from_pretrained(run)
    new = [tokenizer.convert_tokens_to_ids(token) for token in ("<FR>", "<ES>")]
    assert new == [len(tokenizer) - 2, len(tokenizer) - 1]
    assert tokenizer("a <FR> b", add_special_tokens=False)["input_ids"].count(new[0]) == 1
    rows_of_tokens = [w for name, w in adapter(run).items() if "trainable_tokens" in name]
    assert rows_of_tokens
    assert all(len(w) == 2 for w in rows_of_tokens)
    for row in rows:
        assert run_cli("chat", "run", "-p", row["instruction"], check=True).stdout.strip() == row["output"]


def test_a_merged_run_is_a_whole_model(
    run_cli: Callable, write_records: Callable, llama_checkpoint: Path, tmp_path: Path
) -> None:
    run_cli(
        "finetune", "--model_name_or_path", llama_checkpoint, "--train_file", write_records(ROWS), "--output_dir",
        "run", "--lora_all_linear", "--learning_rate", "0.01", "--num_train_epochs", 20, "--save_strategy", "no",
        "--report_samples", 0, check=True,
    )  # fmt: skip
    assert "is a whole model" in run_cli("merge", "run", "--output", "whole", check=True).stdout
    assert not (tmp_path / "whole" / "adapter_config.json").exists()
    # Another user's server can read the weights where it can read the rest.
    (tmp_path / "plain").write_text("")
    files = [
        file for name in ("run", "whole") for file in (tmp_path / name).iterdir() if file.name != ".neuralchat.lock"
    ]
    assert {file.name for file in files} >= {"adapter_model.safetensors", "model.safetensors"}
    assert {file.stat().st_mode for file in files} == {(tmp_path / "plain").stat().st_mode}
    question = ("-p", "Name a fruit.", "--max_new_tokens", 8)
    answers = [run_cli("chat", name, *question, check=True).stdout for name in ("run", "whole")]
    assert answers[0] == answers[1]
    # A base model that is gone does not matter any more.
    assert AutoModelForCausalLM.from_pretrained(tmp_path / "whole").config.model_type == "llama"
    again = run_cli("merge", "run", "--output", "whole")
    assert again.returncode == 2
    assert "--output whole is not empty" in again.stderr
    twice = run_cli("merge", "whole", "--output", "twice")
    assert "--peft none cannot be merged: all weights were trained" in twice.stderr
    assert not (tmp_path / "twice").exists()


def test_an_adapter_that_was_not_trained_here(run_cli: Callable, llama_checkpoint: Path, tmp_path: Path) -> None:
    """The original left its users such directories: an adapter and nothing else."""
    from peft import LoraConfig, get_peft_model

    model = get_peft_model(AutoModelForCausalLM.from_pretrained(llama_checkpoint), LoraConfig(task_type="CAUSAL_LM"))
    model.save_pretrained(str(tmp_path / "foreign"))
    said = run_cli("chat", "foreign", "-p", "Name a fruit.", "--max_new_tokens", 4, check=True)
    assert "foreign says nothing of its prompt format; taking chat (--template names another)" in said.stderr
    asked = run_cli("chat", "foreign", "-p", "Name a fruit.", "--max_new_tokens", 4, "--template", "alpaca", check=True)
    assert "says nothing" not in asked.stderr
    config = tmp_path / "foreign" / "adapter_config.json"
    config.write_text("{}")
    broken = run_cli("chat", "foreign", "-p", "Name a fruit.")
    assert broken.returncode == 2
    assert "adapter_config.json is damaged" in broken.stderr
