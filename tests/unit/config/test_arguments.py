"""arguments.py, checks.py: the defaults of the original, and every contradiction by its message."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from neuralchat.config.arguments import DataArguments
from neuralchat.config.config import FinetuneConfig
from neuralchat.config.schema import ORIGINAL_SCHEMA
from neuralchat.errors import ArgumentsError

RIGHT: dict[str, Any] = {"model_name_or_path": "m", "train_file": "a.json", "output_dir": "out", "do_train": True}


def problems_of(changes: dict[str, Any]) -> list[str]:
    """Problems of arguments that are right but for `changes`."""
    try:
        FinetuneConfig.from_values({**RIGHT, **changes})
    except ArgumentsError as error:
        title, *lines = str(error).splitlines()
        assert title == "these arguments cannot be used:"
        return [line.removeprefix("  - ") for line in lines]
    return []


def test_defaults_of_the_original_hold() -> None:
    config = FinetuneConfig.from_values(RIGHT, schema=ORIGINAL_SCHEMA)
    data, tuning = config.data, config.tuning
    assert (data.max_seq_length, data.template, data.train_on_inputs, data.dataset_seed) == (512, "auto", False, 42)
    assert (tuning.peft, tuning.lora_rank, tuning.lora_alpha, tuning.lora_dropout) == ("lora", 8, 16, 0.05)
    assert (tuning.lora_all_linear, tuning.keep_general) == (False, False)
    assert (config.training.lr_scheduler_type, config.training.warmup_steps) == ("linear", 0)
    assert (tuning.adapter_layers, tuning.adapter_len, tuning.num_virtual_tokens) == (30, 10, 10)


def test_list_defaults_are_not_shared() -> None:
    DataArguments().train_file.append("a.json")
    assert DataArguments().train_file == []


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"train_file": [], "dataset_name": "d", "dataset_config_name": "c"},
        {"do_eval": True, "validation_file": ["v.json"]},
        {"eval_strategy": "steps", "validation_split_percentage": 5},
        {"do_train": False, "do_eval": True, "train_file": [], "validation_file": ["v.json"]},
        {"train_sampling_strategy": "group_by_length"},
        {"num_train_epochs": 0, "max_steps": 5},
        {"lora_dropout": 0.0, "report_samples": 0, "sample_tokens": 0, "max_train_samples": 1},
    ],
)
def test_settings_that_go_together(changes: dict[str, Any]) -> None:
    assert problems_of(changes) == []


@pytest.mark.parametrize(
    "name",
    [
        "max_seq_length", "max_source_length", "max_target_length",
        "lora_rank", "lora_alpha", "adapter_layers", "adapter_len", "num_virtual_tokens",
        "ptun_hidden_size", "micro_batch_tokens", "generation_max_length", "generation_num_beams",
        "per_device_train_batch_size", "per_device_eval_batch_size",
        "gradient_accumulation_steps", "max_train_samples", "max_eval_samples",
    ],
)  # fmt: skip
def test_numbers_that_start_at_one(name: str) -> None:
    assert problems_of({name: 0}) == [f"--{name} must be at least 1, found 0"]
    assert problems_of({name: 1}) == []


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        (
            {"validation_split_percentage": 100},
            "--validation_split_percentage must be from 0 to below 100, found 100.0",
        ),
        ({"validation_split_percentage": -1}, "--validation_split_percentage must be from 0 to below 100, found -1.0"),
        ({"lora_dropout": 1.0}, "--lora_dropout must be from 0 to below 1, found 1.0"),
        ({"lora_dropout": -0.1}, "--lora_dropout must be from 0 to below 1, found -0.1"),
        ({"num_train_epochs": 0}, "--num_train_epochs must be above 0, found 0.0"),
        ({"report_samples": -1}, "--report_samples must not be negative, found -1"),
        ({"sample_tokens": -1}, "--sample_tokens must not be negative, found -1"),
        ({"template": "vicuna"}, "--template is 'vicuna'; allowed are own, auto, alpaca, chat"),
        ({"on_bad_record": "warn"}, "--on_bad_record is 'warn'; allowed are fail, skip"),
        ({"peft": "bitfit"}, "--peft is 'bitfit'; allowed are lora, ptun, prefix, prompt, llama_adapter, ia3, none"),
        ({"lora_init": "zero"}, "--lora_init is 'zero'; allowed are auto, apart, default, gaussian, pissa"),
        (
            {"predict_with_generate": True},
            "--predict_with_generate needs records: give --validation_file or --validation_split_percentage",
        ),
        ({"dataset_name": "d"}, "--train_file and --dataset_name: give one source of records"),
        (
            {"validation_file": ["v.json"], "validation_split_percentage": 5},
            "--validation_file and --validation_split_percentage: give one",
        ),
        (
            {"lora_all_linear": True, "lora_target_modules": ["q_proj"]},
            "--lora_all_linear and --lora_target_modules: give one",
        ),
        (
            {"dataset_concatenation": True, "no_packing": True},
            "--dataset_concatenation and --no_packing contradict each other",
        ),
        (
            {"train_sampling_strategy": "batch_rebalance"},
            "--train_sampling_strategy batch_rebalance: work is balanced over ranks already; use random",
        ),
        ({"columns": ["instruction=q", "ouput=a"]}, "--columns: a record has no field 'ouput'; did you mean output"),
        ({"columns": ["text=q", "text=a"]}, "--columns: text is given more than once"),
        (
            {"mix": ["a.json=1"]},
            "--mix names the files to train on itself: give it alone, without --train_file and --dataset_name",
        ),
        (
            {"train_file": [], "mix": ["a.json=0"]},
            "--mix a.json=0: the share must be a number above 0, such as a.json=0.3",
        ),
        (
            {"train_file": [], "mix": ["a.json=most"]},
            "--mix a.json=most: the share must be a number above 0, such as a.json=0.3",
        ),
        ({"train_file": [], "mix": ["a.json=1", "a.json=2"]}, "--mix: a.json is given more than once"),
        (
            {"train_file": [], "mix": ["a.json=1"], "max_train_samples": 4},
            "--mix and --max_train_samples: give --mix_samples instead",
        ),
        ({"mix_samples": 4}, "--mix_samples needs --mix"),
        ({"supervise": "first"}, "--supervise is 'first'; allowed are all, last"),
        *(
            (
                {"greater_is_better": True, "metric_for_best_model": metric},
                "--greater_is_better True would keep the worst checkpoint: of loss and perplexity less is better; "
                "leave it out",
            )
            for metric in (None, "loss", "eval_loss", "perplexity")
        ),
        *(
            (
                {"save_total_limit": limit},
                f"--save_total_limit is {limit}; the newest checkpoint is always kept, so it must be at least 1. Leave "
                "it out to keep all, or save none with --save_strategy no",
            )
            for limit in (0, -1)
        ),
        (
            {"lora_target_modules": ["q_proj", r".*\.v_proj"]},
            r"--lora_target_modules: '.*\.v_proj' is a regular expression, of which one may be given, alone; put the "
            r"names into it, such as '.*\.(q_proj|v_proj)'",
        ),
        (
            {"lora_target_modules": ["*_proj"]},
            "--lora_target_modules: '*_proj' is no regular expression (nothing to repeat at position 0); name layers, "
            r"such as q_proj v_proj, or match their whole paths, as '.*\.(q_proj|v_proj)' does",
        ),
        (
            {"lora_target_modules": [r"(.*)*x"]},
            "--lora_target_modules: '(.*)*x' may search for ever; a regular expression may have 3 repetitions (*, +, "
            "{}), none of a group, and 2000 characters",
        ),
        ({"dataset_config_name": "c"}, "--dataset_config_name needs --dataset_name"),
        ({"train_file": []}, "no records to train on: give --train_file, --mix or --dataset_name"),
        ({"do_train": False}, "nothing to do: add --do_train (or --do_eval)"),
        ({"do_eval": True}, "evaluation needs records: give --validation_file or --validation_split_percentage"),
        (
            {"eval_strategy": "epoch"},
            "evaluation needs records: give --validation_file or --validation_split_percentage",
        ),
        (
            {"special_tokens": ["<x>"], "peft": "prompt"},
            "--special_tokens: --peft prompt cannot train their embeddings; use lora or none",
        ),
    ],
)
def test_problem(changes: dict[str, Any], problem: str) -> None:
    assert problems_of(changes) == [problem]


def test_overwriting_what_is_to_be_resumed() -> None:
    problem = "--overwrite_output_dir would delete what --resume_from_checkpoint needs"
    assert problems_of({"overwrite_output_dir": True, "resume_from_checkpoint": "auto"}) == [problem]
    assert problems_of({"overwrite_output_dir": True}) == []


def test_overwriting_what_is_read(tmp_path: Path) -> None:
    """The model itself, a checkpoint of it, and records under a name of the run's own files."""
    run = tmp_path / "run"
    (run / "checkpoint-3").mkdir(parents=True)
    for name in ("metrics.jsonl", "records.jsonl"):
        (run / name).write_text("{}")
    overwriting = {"output_dir": str(run), "overwrite_output_dir": True}
    for changes, told in (
        ({"model_name_or_path": str(run)}, f"--model_name_or_path {run}"),
        ({"model_name_or_path": str(run / "checkpoint-3")}, f"--model_name_or_path {run}/checkpoint-3"),
        ({"train_file": [str(run / "metrics.jsonl")]}, f"--train_file {run}/metrics.jsonl"),
        ({"train_file": [], "mix": [f"{run}/metrics.jsonl=1"]}, f"--mix {run}/metrics.jsonl"),
    ):
        problem = f"--overwrite_output_dir would delete {told}, which is read; name another --output_dir"
        assert problems_of({**overwriting, **changes}) == [problem]
    assert problems_of({**overwriting, "train_file": [str(run / "records.jsonl")]}) == []
    assert problems_of({**overwriting, "cache_dir": str(run)}) == []


def test_all_problems_are_told_at_once() -> None:
    found = problems_of({"lora_rank": 0, "peft": "bitfit", "dataset_name": "d", "special_tokens": ["<x>"], "seed": "x"})
    starts = ["--seed:", "--lora_rank", "--peft", "--train_file", "--special_tokens:"]
    assert [problem.split()[0] for problem in found] == starts


@pytest.mark.parametrize("count", ["", "auto", "1", "12", 12])
def test_numbers_of_processes(count: str | int) -> None:
    assert problems_of({"num_processes": count}) == []


@pytest.mark.parametrize("count", ["0", "-1", "two", "1.5", "²"])
def test_numbers_of_processes_that_are_none(count: str) -> None:
    assert problems_of({"num_processes": count}) == [
        f"--num_processes is '{count}'; allowed are auto and a number from 1"
    ]


def test_waiting_times_of_processes() -> None:
    assert problems_of({"preflight_timeout": 0, "peer_timeout": -3}) == [
        "--preflight_timeout must be at least 1, found 0",
        "--peer_timeout must be at least 1, found -3",
    ]


def test_no_number_is_outside_every_range() -> None:
    assert problems_of({"lora_dropout": float("nan")}) == ["--lora_dropout must be from 0 to below 1, found nan"]
    assert problems_of({"num_train_epochs": "nan"}) == ["--num_train_epochs must be above 0, found nan"]
