"""What a user can get wrong: a message that helps, a non-zero exit, no traceback, no half-made run directory."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

GOOD = {"instruction": "Name a fruit.", "input": "", "output": "An apple."}


def refused(result: Any, *texts: str, status: int = 2) -> None:
    assert result.returncode == status, result.stderr
    assert result.stderr.count("error:") >= 1
    assert "Traceback" not in result.stderr
    for text in texts:
        assert text in result.stderr, result.stderr


@pytest.fixture
def finetune(run_cli: Callable, llama_checkpoint: Path, tmp_path: Path) -> Callable:
    def run(records: Any, *extra: object, model: Any = llama_checkpoint, output: Any = "run") -> Any:
        result = run_cli(
            "finetune", "--model_name_or_path", model, "--train_file", records, "--output_dir", output, *extra
        )
        assert not (tmp_path / "run").exists()
        return result

    return run


BAD_FILES = {
    "empty": ("", ["the file is empty"]),
    "no rows": ("[]", ["the file holds no record"]),
    "broken JSON": (
        '[{"instruction": "a", "output": "b"}, {"instruction" "x"}]',
        ["row 2", "is not JSON at line 1, column 54"],
    ),
    "wrong fields": (
        '[{"query text": "a", "b": "b"}]',
        ["row 1", "found query text, b", "instruction/input", "--columns"],
    ),
    "null output": ('[{"instruction": "a", "output": null}]', ["row 1: field 'output' must be text, found null"]),
    "number": ('[{"instruction": 7, "output": "b"}]', ["row 1: field 'instruction' must be text, found int 7"]),
    "empty output": ('[{"instruction": "a", "output": " "}]', ["row 1: field 'output' is empty"]),
    "missing output": ('[{"instruction": "a", "input": ""}]', ["field 'output' is missing; found instruction, input"]),
    "mixed": (
        '[{"instruction": "a", "output": "b"}, {"messages": []}]',
        ["row 2: is a messages record, but the file began with Alpaca records"],
    ),
    "all at once": (
        '[{"instruction": 1, "output": "b"}, {"instruction": "a", "output": ""}, {"instruction": "a", "output": "b"}]',
        ["2 problem(s)", "row 1", "row 2", "--on_bad_record skip"],
    ),
}


@pytest.mark.quick
@pytest.mark.parametrize("name", BAD_FILES)
def test_bad_records(finetune: Callable, tmp_path: Path, name: str) -> None:
    content, texts = BAD_FILES[name]
    path = tmp_path / "records.json"
    path.write_text(content)
    refused(finetune(path), "records.json", *texts)


def test_missing_files_are_told_together(finetune: Callable, tmp_path: Path) -> None:
    result = finetune(tmp_path / "none.json", "--validation_file", tmp_path / "nor.json")
    refused(result, "none.json does not exist", "nor.json does not exist")


def test_problems_of_both_files_are_told(finetune: Callable, write_records: Callable) -> None:
    train = write_records([{**GOOD, "output": None}], "train.json")
    held_out = write_records([{**GOOD, "instruction": 3}], "held_out.json")
    refused(finetune(train, "--validation_file", held_out), "train.json row 1", "held_out.json row 1")


def test_unknown_flag_names_the_nearest(finetune: Callable, write_records: Callable) -> None:
    refused(finetune(write_records([GOOD]), "--lora_rnk", 4), "unknown flag --lora_rnk; did you mean --lora_rank?")


def test_abbreviations_are_not_guessed(finetune: Callable, write_records: Callable) -> None:
    refused(finetune(write_records([GOOD]), "--lora_ra", 4), "unknown flag --lora_ra")


def test_contradictions_are_told_together(finetune: Callable, write_records: Callable) -> None:
    result = finetune(
        write_records([GOOD]), "--dataset_concatenation", "--no_packing", "--lora_rank", 0, "--peft", "lorra",
        "--template", "vicuna", "--deepspeed", "ds.json", "--fsdp", "full_shard",
    )  # fmt: skip
    refused(
        result, "--dataset_concatenation and --no_packing contradict", "--lora_rank must be at least 1, found 0",
        "--peft is 'lorra'; allowed are lora", "--template is 'vicuna'",
        "--deepspeed cannot be used: each process holds the whole base",
        "--fsdp cannot be used: each process holds the whole base model",
    )  # fmt: skip


def test_wrong_type(finetune: Callable, write_records: Callable) -> None:
    refused(finetune(write_records([GOOD]), "--lora_rank", "eight"), "--lora_rank", "eight")


def test_arguments_that_transformers_refuses(finetune: Callable, write_records: Callable) -> None:
    refused(finetune(write_records([GOOD]), "--lr_scheduler_type", "sideways"), "sideways")


def test_missing_model(finetune: Callable, write_records: Callable) -> None:
    refused(finetune(write_records([GOOD]), model="./nowhere"), "nowhere does not exist")


def test_hub_model_out_of_reach(finetune: Callable, write_records: Callable) -> None:
    refused(finetune(write_records([GOOD]), model="some/model"), "cannot load", "some/model", "fetched model")


def test_model_that_is_not_fetched(finetune: Callable, write_records: Callable) -> None:
    refused(finetune(write_records([GOOD]), model="smollm2-135m-instruct"), "neuralchat fetch smollm2-135m-instruct")


def test_directory_without_a_model(finetune: Callable, write_records: Callable, tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    refused(finetune(write_records([GOOD]), model=tmp_path / "model"), "has no config.json")


def test_weights_that_are_missing(
    finetune: Callable, write_records: Callable, llama_checkpoint: Path, tmp_path: Path
) -> None:
    import shutil

    from safetensors.torch import load_file, save_file

    model = shutil.copytree(llama_checkpoint, tmp_path / "model")
    weights = load_file(model / "model.safetensors")
    weights.pop("model.layers.0.mlp.up_proj.weight")
    save_file(weights, model / "model.safetensors", metadata={"format": "pt"})
    refused(finetune(write_records([GOOD]), model=model), "lacks 1 weight(s), such as model.layers.0.mlp.up_proj")


def test_output_directory_that_is_not_empty(
    run_cli: Callable, write_records: Callable, llama_checkpoint: Path, tmp_path: Path
) -> None:
    (tmp_path / "used").mkdir()
    (tmp_path / "used" / "notes.txt").write_text("mine")
    result = run_cli(
        "finetune", "--model_name_or_path", llama_checkpoint, "--train_file", write_records([GOOD]), "--output_dir",
        "used",
    )  # fmt: skip
    refused(result, "is not empty", "--overwrite_output_dir", "--resume_from_checkpoint auto")
    assert [path.name for path in (tmp_path / "used").iterdir()] == ["notes.txt"]


def test_overwriting_keeps_what_is_not_of_a_run(
    run_cli: Callable, write_records: Callable, llama_checkpoint: Path, tmp_path: Path
) -> None:
    (tmp_path / "used" / "checkpoint-7").mkdir(parents=True)
    (tmp_path / "used" / "notes.txt").write_text("mine")
    (tmp_path / "used" / "metrics.jsonl").write_text('{"step": 99}\n')
    run_cli(
        "finetune", "--model_name_or_path", llama_checkpoint, "--train_file", write_records([GOOD]), "--output_dir",
        "used", "--overwrite_output_dir", "--num_train_epochs", 1, "--report_samples", 0, "--save_strategy", "no",
        check=True,
    )  # fmt: skip
    assert (tmp_path / "used" / "notes.txt").read_text() == "mine"
    assert not (tmp_path / "used" / "checkpoint-7").exists()
    assert '"step": 99' not in (tmp_path / "used" / "metrics.jsonl").read_text()


def test_unwritable_output_directory(finetune: Callable, write_records: Callable, tmp_path: Path) -> None:
    place = Path("/proc") if os.geteuid() == 0 else tmp_path / "locked"
    if place.parent == tmp_path:
        place.mkdir(mode=0o500)
    refused(finetune(write_records([GOOD]), output=place / "run"), "cannot be written")


def test_output_directory_that_is_a_file(finetune: Callable, write_records: Callable, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    refused(finetune(write_records([GOOD]), output=tmp_path / "file"), "is a file; give a directory")


def test_resuming_where_there_is_nothing(finetune: Callable, write_records: Callable) -> None:
    result = finetune(write_records([GOOD]), "--resume_from_checkpoint", "latest")
    refused(result, "there is no whole checkpoint in run")


def test_skipping_bad_records(
    run_cli: Callable, write_records: Callable, llama_checkpoint: Path, tmp_path: Path
) -> None:
    rows = [GOOD, {**GOOD, "output": None}, {**GOOD, "output": "A pear."}]
    result = run_cli(
        "finetune", "--model_name_or_path", llama_checkpoint, "--train_file", write_records(rows), "--output_dir",
        "skipped", "--on_bad_record", "skip", "--num_train_epochs", 1, "--report_samples", 0, "--save_strategy", "no",
        check=True,
    )  # fmt: skip
    assert "skipped 1 bad record(s), kept 2" in result.stderr
    assert "row 2: field 'output' must be text, found null" in result.stderr


def test_a_loss_that_is_no_number_stops_and_names_the_records(
    run_cli: Callable, write_records: Callable, llama_checkpoint: Path
) -> None:
    result = run_cli(
        "finetune", "--model_name_or_path", llama_checkpoint, "--train_file", write_records([GOOD] * 4),
        "--output_dir", "exploded", "--learning_rate", "1e30", "--num_train_epochs", 9, "--save_strategy", "no",
        "--per_device_train_batch_size", 1, "--max_grad_norm", 0, "--report_samples", 0,
    )  # fmt: skip
    refused(result, "the loss is", "records.json row", status=3)


def test_chat_with_a_run_that_is_not_there(run_cli: Callable, tmp_path: Path) -> None:
    refused(run_cli("chat", "nowhere", "-p", "hello"), "run directory nowhere does not exist")
    (tmp_path / "half" / "checkpoint-3").mkdir(parents=True)
    refused(run_cli("chat", "half", "-p", "hello"), "half is not a finished run", "has not finished")


def test_scripts_do_not_train_unless_told(run_cli: Callable, write_records: Callable, llama_checkpoint: Path) -> None:
    result = run_cli(
        "--model_name_or_path", llama_checkpoint, "--train_file", write_records([GOOD]), "--output_dir", "run",
        script="finetune_clm.py",
    )  # fmt: skip
    refused(result, "nothing to do: add --do_train")


def test_names_that_no_file_can_have(finetune: Callable) -> None:
    refused(finetune("x" * 5000 + ".json"), "cannot be the name of a file: File name too long")


def test_showing_a_run_whose_results_were_edited(run_cli: Callable, tmp_path: Path) -> None:
    template = {"name": "alpaca", "sha256": "0"}
    manifest = {"base_model": {"name": "m"}, "template": template, "adapter": {"method": "lora"}, "results": {}}
    (tmp_path / "neuralchat.json").write_text(json.dumps(manifest))
    refused(run_cli("show", tmp_path), "neuralchat.json is damaged: its results cannot be shown")
