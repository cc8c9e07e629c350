"""config/command/parser.py: flags, files and key=value give the same arguments; every mistake has its message."""

from __future__ import annotations

import dataclasses
import json
import shlex
from collections.abc import Callable
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest
import yaml

from neuralchat.config.command.help import help_text
from neuralchat.config.command.parser import help_rows, parse
from neuralchat.config.config import FinetuneConfig
from neuralchat.config.schema import SCHEMA
from neuralchat.errors import ArgumentsError

RIGHT = {"model_name_or_path": "m", "train_file": "a.json", "output_dir": "out", "do_train": True}
MINIMAL = ["--model_name_or_path", "m", "--train_file", "a.json", "--output_dir", "out"]
Write = Callable[..., str]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def write_config(content: str | bytes, name: str = "c.yaml") -> str:
        path = tmp_path / name
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return str(path)

    return write_config


def parsed(*words: str) -> FinetuneConfig:
    return parse([*MINIMAL, *words], prog="test", implied=["--do_train"])


def refusal(*words: str, minimal: bool = True) -> str:
    with pytest.raises(ArgumentsError) as caught:
        parse([*(MINIMAL if minimal else []), *words], prog="test", implied=["--do_train"])
    return str(caught.value)


def test_flags() -> None:
    arguments = parsed("--lora_rank", "4", "--lora-alpha=32", "--lora_target_modules", "q", "v", "--no_verify_packing")
    assert arguments.model.model_name_or_path == "m"
    assert arguments.data.train_file == ["a.json"]
    tuning = arguments.tuning
    assert (tuning.lora_rank, tuning.lora_alpha, tuning.lora_target_modules) == (4, 32, ["q", "v"])
    assert tuning.verify_packing is False
    assert arguments.training.do_train is True


def test_defaults_that_differ_from_transformers() -> None:
    values = parsed().training
    assert (values.report_to, values.logging_nan_inf_filter, values.logging_steps) == ("none", False, 10)


@pytest.mark.parametrize(("peft", "rate"), [("lora", 3e-4), ("ptun", 2e-3), ("prefix", 3e-2), ("llama_adapter", 2e-2)])
def test_learning_rate_follows_the_method_unless_given(peft: str, rate: float) -> None:
    assert parsed("--peft", peft).training.learning_rate == rate
    assert parsed("--peft", peft, "--learning_rate", "0.5").training.learning_rate == 0.5


def test_given_names_what_the_user_set() -> None:
    given = parsed("--lora-rank=4", "--no_verify_packing", "--bf16", "True").given
    own = {"model_name_or_path", "train_file", "output_dir", "do_train"}
    assert given == own | {"lora_rank", "verify_packing", "bf16"}


def test_yaml_json_and_words_agree(write: Write) -> None:
    content = {"model_name_or_path": "m", "train_file": ["a.json", "b.json"], "output_dir": "out", "lora_rank": 4}
    from_json = parse([write(json.dumps(content), "c.json")], prog="t", implied=["--do_train"])
    yaml = "model_name_or_path: m\ntrain_file: [a.json, b.json]\noutput_dir: out\nlora_rank: 4\nlora_alpha: null\n"
    from_yaml = parse([write(yaml)], prog="t", implied=["--do_train"])
    words = ["--model_name_or_path", "m", "--train_file", "a.json", "b.json", "output_dir=out", "lora_rank=4"]
    assert from_json == from_yaml == parse(words, prog="t", implied=["--do_train"])


def test_what_stands_later_wins(write: Write) -> None:
    config = write("model_name_or_path: m\ntrain_file: a.json\noutput_dir: out\nlora_rank: 4\nlora_alpha: 5\n")
    arguments = parse([config, "lora_rank=6", "--lora_alpha", "7"], prog="t", implied=["--do_train"])
    assert (arguments.tuning.lora_rank, arguments.tuning.lora_alpha) == (6, 7)


def test_demo_configuration_means_what_it_says() -> None:
    config = Path(__file__).parents[3] / "examples/demo/finetune.yaml"
    arguments = parse([str(config)], prog="t", implied=["--do_train"])
    found = {**arguments.training.values(), **arguments.as_dict()}
    stated = yaml.safe_load(config.read_text(encoding="utf-8"))
    for name in ("train_file", "validation_file"):
        stated[name] = [stated[name]]
    assert {name: found[name] for name in stated} == stated


def test_legacy_flags_are_translated_and_told() -> None:
    arguments = parsed("--no_cuda", "--warmup_ratio", "0.1")
    assert (arguments.training.use_cpu, arguments.training.warmup_steps) == (True, 0.1)
    assert [notice.split()[0] for notice in arguments.notices] == ["--no_cuda", "--warmup_ratio"]


def test_config_file_that_cannot_be_read(write: Write) -> None:
    assert refusal("missing.yaml", minimal=False).startswith("config file missing.yaml cannot be read: No such file")
    assert "is not YAML: " in refusal(write("a: [1"), minimal=False)


def test_unknown_flag_with_a_near_name() -> None:
    message = refusal("--lora_rnk", "4", "--zzzzzzzz", "5")
    assert "  - unknown flag --lora_rnk; did you mean --lora_rank?" in message.splitlines()
    assert "  - unknown flag --zzzzzzzz" in message.splitlines()
    assert "does not belong" not in message


def test_misspelt_required_flag_is_named() -> None:
    message = refusal("--model_name_or_pth", "m", "--train_file", "a.json", "--output_dir", "out", minimal=False)
    assert "unknown flag --model_name_or_pth; did you mean --model_name_or_path?" in message


def test_what_is_missing_is_told_together() -> None:
    assert refusal(minimal=False).splitlines() == [
        "these arguments cannot be used:",
        "  - --model_name_or_path is missing: name a directory, a hub id or a fetched model",
        "  - --output_dir is missing: say where the run is to be saved",
        "  - no records to train on: give --train_file, --mix or --dataset_name",
    ]


def test_stray_word() -> None:
    assert "'stray' does not belong to any flag" in refusal("--lora_rank", "4", "stray")


def test_value_of_the_wrong_type() -> None:
    assert refusal("--lora_rank", "many", "--lora_rnk", "4", "--bf16", "maybe", "--peft", "bitfit").splitlines() == [
        "these arguments cannot be used:",
        "  - unknown flag --lora_rnk; did you mean --lora_rank?",
        "  - --lora_rank: invalid int value: 'many'",
        "  - --bf16: invalid bool value: 'maybe'",
        "  - --peft is 'bitfit'; allowed are lora, ptun, prefix, prompt, llama_adapter, ia3, none",
    ]


def test_value_that_is_missing() -> None:
    lines = refusal("--seed", "--lora_target_modules", "--lora_rank", "4").splitlines()
    assert lines[1:] == ["  - --seed: expected a value", "  - --lora_target_modules: expected at least one value"]


def test_choice_of_transformers() -> None:
    message = refusal("--lr_scheduler_type", "sideways", "--ddp_backend", "smoke")
    assert "--lr_scheduler_type is 'sideways'; allowed are linear, cosine," in message
    assert "--ddp_backend is 'smoke'; allowed are gloo, nccl, mpi, ccl, xccl" in message


def test_flags_are_not_abbreviated() -> None:
    assert "unknown flag --lora_ran; did you mean --lora_rank?" in refusal("--lora_ran", "4")


def test_all_problems_at_once() -> None:
    message = refusal("--lora_rnk", "4", "--lora_alpha", "0", "--fp16", "True", "--peft", "bitfit")
    lines = message.splitlines()
    assert lines[0] == "these arguments cannot be used:"
    expected = ["unknown flag --lora_rnk", "--fp16 cannot be used", "--lora_alpha must", "--peft is 'bitfit'"]
    assert [line[4 : 4 + len(start)] for line, start in zip(lines[1:], expected, strict=True)] == expected


# A value of each that is not its default.
REFUSED_VALUES: dict[str, Any] = {
    "accelerator_config": {"split_batches": True},
    "fsdp_config": {"min_num_params": 1},
    "auto_find_batch_size": True,
    "batch_eval_metrics": True,
    "deepspeed": "config.json",
    "do_predict": True,
    "enable_jit_checkpoint": True,
    "eval_accumulation_steps": 2,
    "eval_do_concat_batches": False,
    "eval_use_gather_object": True,
    "fp16": True,
    "fp16_full_eval": True,
    "bf16_full_eval": True,
    "fsdp": "full_shard",
    "ignore_data_skip": True,
    "include_for_metrics": ["loss"],
    "label_names": ["labels"],
    "length_column_name": "size",
    "liger_kernel_config": {"rope": True},
    "parallelism_config": {"dp": 1},
    "prediction_loss_only": True,
    "remove_unused_columns": False,
    "torch_compile": True,
    "torch_compile_backend": "inductor",
    "torch_compile_mode": "default",
    "use_cache": True,
    "use_liger_kernel": True,
}


def test_every_rejected_argument_has_a_value_to_refuse() -> None:
    assert set(REFUSED_VALUES) == {name for name, a in SCHEMA.arguments.items() if a.facts.rejected}


@pytest.mark.parametrize("name", sorted(REFUSED_VALUES))
def test_training_argument_that_cannot_be_used(name: str) -> None:
    with pytest.raises(ArgumentsError) as caught:
        FinetuneConfig.from_values({**RIGHT, name: REFUSED_VALUES[name]})
    _, line = str(caught.value).splitlines()
    assert line == f"  - --{name} cannot be used: {SCHEMA.arguments[name].facts.rejected}"


def test_defaults_of_rejected_arguments_are_not_refused() -> None:
    defaults = {name: SCHEMA.arguments[name].default for name in REFUSED_VALUES}
    assert FinetuneConfig.from_values({**RIGHT, **defaults}).training == FinetuneConfig.from_values(RIGHT).training
    assert parsed("--fp16", "False", "fsdp=").training.fp16 is False


def test_training_arguments_leave_bf16_out() -> None:
    arguments = parsed("--bf16", "True", "--seed", "7")
    training = arguments.training_arguments()
    assert arguments.bf16 is True
    assert (training.bf16, training.seed, training.disable_tqdm, training.output_dir) == (False, 7, True, "out")


def test_training_arguments_that_transformers_refuses() -> None:
    words = ["--load_best_model_at_end", "True", "--eval_steps", "20", "--save_steps", "30"]
    arguments = parsed("--validation_split_percentage", "5", *words)
    with pytest.raises(ArgumentsError, match=r"training arguments are refused: .*saving steps to be a round multiple"):
        arguments.training_arguments()


def test_as_dict_has_the_training_arguments_that_were_given() -> None:
    found = parsed("--learning_rate", "0.1", "--lora_rank", "4").as_dict()
    assert (found["learning_rate"], found["lora_rank"], found["output_dir"]) == (0.1, 4, "out")
    assert "weight_decay" not in found


def test_as_dict_is_json() -> None:
    found = parsed("--learning_rate", "0.1").as_dict()
    assert json.loads(json.dumps(found)) == found


def test_manifest_holds_no_hub_token() -> None:
    # as_dict goes into neuralchat.json, which users share with the run.
    found = parsed("--use_auth_token", "hf_secret", "--hub_token", "hf_secret").as_dict()
    assert "hf_secret" not in json.dumps(found)


@pytest.mark.parametrize(
    ("key", "value", "expected"),
    [
        ("validation_file", "held.json", []),
        ("max_train_samples", "7", None),
        ("learning_rate", "0.5", 3e-4),
        ("overwrite_output_dir", "true", False),
        ("lora_target_modules", "q_proj", []),
        ("resume_from_checkpoint", "auto", None),
        ("use_auth_token", "secret", None),
    ],
)
def test_an_empty_pair_takes_back_what_stood_before(key: str, value: str, expected: Any) -> None:
    words = ["model_name_or_path=m", "train_file=t.json", "output_dir=o", f"{key}={value}", f"{key}="]
    found = parse(words, prog="t", implied=("--do_train",))
    parts = [vars(found.model), vars(found.data), vars(found.tuning), found.training.values()]
    assert next(part[key] for part in parts if key in part) == expected
    assert key not in found.given


def test_the_manifest_tells_defaults_that_are_ours() -> None:
    """Who reads neuralchat.json must not have to know which learning rate a method takes."""
    told = parsed("--peft", "prompt").as_dict()
    assert told["learning_rate"] == 1e-1
    assert told["logging_steps"] == 10
    assert "adam_beta1" not in told


@pytest.mark.parametrize(
    "words", [["--local-rank=1"], ["--local_rank=1"], ["--local-rank", "1"], ["--local_rank", "1"]]
)
def test_what_the_launch_module_of_torch_adds_is_accepted(words: list[str]) -> None:
    before = ["--model_name_or_path", "m", "--train_file", "f", "--output_dir", "o"]
    # It stands before the words of the user.
    found = parse([*words, *before], prog="t", implied=("--do_train",))
    assert found.training.local_rank == 1
    assert "--local" not in found.command_to_resume()


def test_problems_of_processes_are_told_with_the_others() -> None:
    with pytest.raises(
        ArgumentsError, match=r"--output_dir is missing(.|\n)*--num_processes is 'many'; allowed are auto"
    ):
        parse(["--num_processes", "many"], prog="t", implied=())


RESUMED = {
    ("--output_dir", "o", "--overwrite_output_dir", "--lora_rank", "4"): "--output_dir o --lora_rank 4",
    ("--overwrite-output-dir=true", "--output_dir", "a b"): "--output_dir 'a b'",
    ("--output_dir", "o", "overwrite_output_dir=true", "--resume_from_checkpoint", "o/checkpoint-3"): "--output_dir o",
}


@pytest.mark.parametrize("words", RESUMED)
def test_the_command_that_goes_on(words: tuple[str, ...]) -> None:
    """Printed when a run is stopped; it has to be accepted as it is."""
    base = ("--model_name_or_path", "m", "--train_file", "r.json")
    stopped = parse([*base, *(w for w in words if "checkpoint" not in w)], prog="t", implied=("--do_train",))
    command = stopped.command_to_resume()
    assert command == f"t --model_name_or_path m --train_file r.json {RESUMED[words]} --resume_from_checkpoint auto"
    assert not parse(shlex.split(command)[1:], prog="t", implied=("--do_train",)).tuning.overwrite_output_dir


def test_the_command_that_goes_on_with_a_config_file(tmp_path: Path) -> None:
    config = tmp_path / "run.yaml"
    config.write_text("model_name_or_path: m\ntrain_file: r.json\noutput_dir: o\noverwrite_output_dir: true\n")
    stopped = parse([str(config)], prog="t", implied=("--do_train",))
    again = parse(shlex.split(stopped.command_to_resume())[1:], prog="t", implied=("--do_train",))
    assert again.training.resume_from_checkpoint == "auto"
    assert not again.tuning.overwrite_output_dir


def test_the_command_that_goes_on_with_a_script(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["/some where/finetune_clm.py", "ignored"])
    words = ["--model_name_or_path", "m", "--train_file", "r.json", "--output_dir", "o", "--do_train"]
    found = parse(words, prog="finetune_clm.py", implied=()).command_to_resume()
    assert found.startswith("python '/some where/finetune_clm.py' --model_name_or_path m ")


def test_the_command_that_goes_on_keeps_what_was_said(tmp_path: Path) -> None:
    """Pairs, old flags, switches, lists and values that look like flags mean the same when they are read again."""
    config = tmp_path / "run.yaml"
    config.write_text("model_name_or_path: m\ntrain_file: [r.json]\noutput_dir: o\nseed: 3\nlora_rank: 2\n")
    words = [str(config), "--no_cuda", "seed=", "--lora_target_modules", "q", "v", "run_name=seed=1", "--no_bind_cores"]
    stopped = parse([*words, "--hub_model_id=--x", "--bf16"], prog="t", implied=("--do_train",))
    again = parse(shlex.split(stopped.command_to_resume())[1:], prog="t", implied=("--do_train",))
    assert again == dataclasses.replace(stopped.resumed(), given=stopped.given | {"resume_from_checkpoint"})
    assert (again.training.run_name, again.training.hub_model_id, again.training.seed) == ("seed=1", "--x", 42)


def test_a_resumed_run_is_a_changed_copy() -> None:
    before = parsed("--overwrite_output_dir")
    after = before.resumed()
    assert (after.training.resume_from_checkpoint, after.tuning.overwrite_output_dir) == ("auto", False)
    assert (before.training.resume_from_checkpoint, before.tuning.overwrite_output_dir) == (None, True)
    assert (after.data, after.training.seed) == (before.data, before.training.seed)


def test_python_values_are_those_of_the_command_line() -> None:
    told = ["--lora_rank", "4", "--bf16", "--num_train_epochs", "2", "--lora_target_modules", "q", "v"]
    words = parsed(*told, "--lr_scheduler_kwargs", '{"power": 2}', "--no_verify_packing", "--no_cuda")
    values = FinetuneConfig.from_values(
        {
            **RIGHT, "train_file": [Path("a.json")], "output_dir": Path("out"), "lora_rank": 4, "bf16": True,
            "num_train_epochs": 2, "lora_target_modules": ("q", "v"), "lr_scheduler_kwargs": {"power": 2},
            "verify_packing": False, "no_cuda": True, "seed": None,
        }
    )  # fmt: skip
    assert values == words
    assert values.notices == words.notices == ("--no_cuda is now --use_cpu",)
    assert isinstance(values.training.num_train_epochs, float)
    again = parse(shlex.split(values.command_to_resume())[2:], prog="t", implied=("--do_train",))
    assert again == dataclasses.replace(values.resumed(), given=values.given | {"resume_from_checkpoint"})


def test_help_names_every_flag() -> None:
    text = help_text("neuralchat finetune")
    assert [name for name in SCHEMA.arguments if f"--{name} " not in text] == []
    assert text.startswith("usage: neuralchat finetune [config.yaml]")


def test_help_is_written_down_as_the_arguments_are() -> None:
    """Reading it needs no transformers, so it is kept in a file: scripts/generate_cli_reference.py writes that."""
    kept = json.loads(files("neuralchat.config.command").joinpath("help.json").read_text(encoding="utf-8"))
    assert kept == help_rows()


def test_a_flag_without_effect_is_told() -> None:
    arguments = parsed("--skip_memory_metrics", "false", "--disable_tqdm", "--local-rank=0")
    told = [notice for notice in arguments.notices if "no effect" in notice]
    assert sorted(told) == [
        "--disable_tqdm has no effect: the progress line is NeuralChat's own",
        "--skip_memory_metrics has no effect: metrics.jsonl always tells the memory",
    ]
