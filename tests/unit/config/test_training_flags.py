"""training_flags.py: one row for each field of TrainingArguments, and what the rows promise to runs of before."""

from __future__ import annotations

import ast
import dataclasses
import inspect
import re
import textwrap
from collections.abc import Iterator
from pathlib import Path

from transformers import Trainer, TrainingArguments, trainer_callback, trainer_optimizer
from transformers.integrations import integration_utils

import neuralchat
from neuralchat.config import checks
from neuralchat.config.arguments import DataArguments, DistributedArguments, ModelArguments, TuningArguments
from neuralchat.config.config import FinetuneConfig
from neuralchat.config.facts import OF_THE_FIELD
from neuralchat.config.schema import SCHEMA, Argument
from neuralchat.config.training_flags import TRAINING_FACTS, TrainingFlags

FIELDS = [field.name for field in dataclasses.fields(TrainingArguments) if field.init]
# What runs and checkpoints of version 0.1 leave out of their identity. A name that joins or leaves this list makes
# them another run, or lets another run pass for them.
KEEPS_RESULT = """
    model_name_or_path config_name tokenizer_name cache_dir use_fast_tokenizer model_revision use_auth_token
    trust_remote_code train_file mix mix_samples columns supervise validation_file dataset_name
    dataset_config_name max_eval_samples overwrite_cache
    dataset_cache_directory keep_in_memory on_bad_record no_packing verify_packing compile_kernels micro_batch_tokens
    chat_template chat_template_kwargs template_date auto_micro_batch allow_changed from_run
    overwrite_output_dir predict_with_generate generation_max_length generation_num_beams report_samples
    general_samples sample_tokens num_processes strict_backend bind_cores preflight_timeout peer_timeout
    output_dir do_train do_eval eval_strategy eval_steps eval_delay eval_on_start
    per_device_eval_batch_size per_device_train_batch_size gradient_accumulation_steps log_level log_level_replica
    log_on_each_node logging_strategy logging_first_step logging_steps logging_nan_inf_filter
    save_strategy save_steps save_total_limit save_on_each_node save_only_model resume_from_checkpoint
    restore_callback_states_from_checkpoint use_cpu ddp_backend ddp_timeout ddp_find_unused_parameters
    ddp_bucket_cap_mb ddp_broadcast_buffers ddp_static_graph dataloader_num_workers dataloader_pin_memory
    dataloader_persistent_workers dataloader_prefetch_factor disable_tqdm run_name report_to project trackio_space_id
    push_to_hub hub_model_id hub_strategy hub_token hub_private_repo hub_always_push hub_revision
    skip_memory_metrics include_num_input_tokens_seen gradient_checkpointing gradient_checkpointing_kwargs local_rank
    average_tokens_across_devices debug max_hours save_every_minutes
"""


def named(wanted: str) -> set[str]:
    return {name for name, argument in SCHEMA.arguments.items() if getattr(argument.facts, wanted)}


def test_there_is_a_row_for_every_field_of_the_locked_version() -> None:
    assert sorted(set(FIELDS) - set(TRAINING_FACTS)) == [], "new in transformers: decide what each is"
    assert sorted(set(TRAINING_FACTS) - set(FIELDS)) == [], "gone from transformers"
    assert list(TRAINING_FACTS) == FIELDS


def test_what_changes_the_result_is_what_version_0_1_compared() -> None:
    assert set(SCHEMA.arguments) - named("changes_result") == set(KEEPS_RESULT.split())


def test_what_version_0_1_did_not_have_or_had_otherwise() -> None:
    earlier = {n: a.facts.earlier for n, a in SCHEMA.arguments.items() if a.facts.earlier is not OF_THE_FIELD}
    assert earlier == {
        "lora_rank": 8, "lora_alpha": 16, "lora_dropout": 0.05, "lora_all_linear": False, "keep_general": False,
        "general_share": 0.15, "general_weight": 3.0, "lora_init": "default", "template": "auto",
        "lr_scheduler_type": "linear", "warmup_steps": 0, "per_device_train_batch_size": 8,
        "bits": None, "num_train_epochs": 3.0,
    }  # fmt: skip


def test_secrets_paths_and_what_is_not_repeated() -> None:
    assert named("secret") == {"use_auth_token", "hub_token"}
    assert named("path") == {
        "model_name_or_path", "tokenizer_name", "config_name", "train_file", "validation_file", "dataset_name",
        "cache_dir", "dataset_cache_directory", "output_dir", "resume_from_checkpoint", "from_run",
        "chat_template", "mix",
    }  # fmt: skip
    assert named("pairs") == {"mix", "columns"}
    assert set(SCHEMA.arguments) - named("repeated") == {
        "output_dir", "overwrite_output_dir", "resume_from_checkpoint", "from_run", "allow_changed", "local_rank",
        "num_processes", "run_name",
        # What runs code, reaches out, or is believed, of a run that may be a stranger's.
        "trust_remote_code", "use_auth_token", "cache_dir", "dataset_cache_directory", "report_to", "project",
        "push_to_hub", "hub_token", "hub_model_id", "hub_strategy", "hub_private_repo", "hub_revision",
        "trackio_space_id", "trackio_bucket_id", "trackio_static_space_id",
    }  # fmt: skip
    not_resumed = {"overwrite_output_dir", "resume_from_checkpoint", "local_rank"}
    assert set(SCHEMA.arguments) - named("resumed") == not_resumed


def test_our_defaults_where_they_differ_from_those_of_transformers() -> None:
    def differs(argument: Argument) -> bool:
        return argument.default != argument.field_default

    ours = {argument.name: argument.default for argument in SCHEMA.arguments.values() if differs(argument)}
    assert ours == {
        "learning_rate": None, "lr_scheduler_type": "cosine", "warmup_steps": 0.03, "logging_steps": 10,
        "logging_nan_inf_filter": False,
    }  # fmt: skip


def test_defaults_are_those_of_the_field() -> None:
    values = {"model_name_or_path": "m", "train_file": "a.json", "output_dir": "o", "do_train": True}
    found, plain = FinetuneConfig.from_values(values).training, TrainingFlags()
    set_by_us = {"learning_rate", "lr_scheduler_type", "warmup_steps", "logging_steps", "logging_nan_inf_filter"}
    given = {"output_dir", "do_train", *set_by_us}
    assert {name for name in FIELDS if getattr(found, name) != getattr(plain, name)} == given


def test_own_fields_do_not_hide_those_of_transformers() -> None:
    kinds = (ModelArguments, DataArguments, TuningArguments, DistributedArguments)
    own = [field.name for kind in kinds for field in dataclasses.fields(kind)]
    assert set(own).isdisjoint(FIELDS)
    assert len(set(own)) == len(own)


def test_every_argument_has_a_meaning() -> None:
    assert [name for name, argument in SCHEMA.arguments.items() if not argument.meaning] == []


def reads_of(source: str) -> Iterator[str]:
    """Names read from something that is called args or training."""
    for node in ast.walk(ast.parse(textwrap.dedent(source))):
        if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Load):
            base = node.value
            name = base.id if isinstance(base, ast.Name) else base.attr if isinstance(base, ast.Attribute) else ""
            if name in ("args", "training"):
                yield node.attr


def test_training_flags_are_read_refused_or_said_to_have_no_effect() -> None:
    """Read by the code, or by the parts of transformers that it uses."""
    package = Path(neuralchat.__file__).parent
    sources = [path.read_text(encoding="utf-8") for path in package.rglob("*.py") if path.parent.name != "config"]
    sources += map(inspect.getsource, (trainer_callback, integration_utils, trainer_optimizer))
    sources.append(inspect.getsource(Trainer.get_optimizer_cls_and_kwargs))
    sources.append(inspect.getsource(TrainingArguments).replace("self.", "args."))
    read = {name for source in sources for name in reads_of(source)}
    # TrainerState.compute_steps puts these names together, a loop in __post_init__ the two old names.
    read |= {"logging_steps", "eval_steps", "save_steps", "gradient_checkpointing", "gradient_checkpointing_kwargs"}
    read |= set(re.findall(r"\btraining\.(\w+)", inspect.getsource(checks)))
    idle = {name for name, facts in TRAINING_FACTS.items() if facts.help.startswith("No effect")}
    refused = {name for name, facts in TRAINING_FACTS.items() if facts.rejected}
    assert sorted(set(FIELDS) - read - idle - refused) == [], "accepted, and without an effect"
