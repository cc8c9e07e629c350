"""What decides the result of a run, stored with it, so that a run that goes on, or is repeated, is the same one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from neuralchat.config.parser import FinetuneConfig
from neuralchat.data.prepared_data import PreparedData
from neuralchat.errors import RunDirectoryError, problem_list

# Arguments that change neither the weights nor the order of what they are trained on. Paths are here since what they
# lead to is compared itself.
HARMLESS = frozenset(
    """
    model_name_or_path config_name tokenizer_name cache_dir use_fast_tokenizer model_revision use_auth_token
    trust_remote_code train_file validation_file dataset_name dataset_config_name max_eval_samples overwrite_cache
    dataset_cache_directory keep_in_memory on_bad_record no_packing verify_packing compile_kernels micro_batch_tokens
    auto_micro_batch allow_changed from_run overwrite_output_dir predict_with_generate generation_max_length
    generation_num_beams report_samples sample_tokens num_processes strict_backend bind_cores preflight_timeout
    peer_timeout output_dir do_train do_eval eval_strategy eval_steps eval_delay eval_on_start
    per_device_eval_batch_size per_device_train_batch_size gradient_accumulation_steps log_level log_level_replica
    log_on_each_node logging_strategy logging_first_step logging_steps logging_nan_inf_filter
    save_strategy save_steps save_total_limit save_on_each_node save_only_model resume_from_checkpoint
    restore_callback_states_from_checkpoint use_cpu ddp_backend ddp_timeout ddp_find_unused_parameters
    ddp_bucket_cap_mb ddp_broadcast_buffers ddp_static_graph dataloader_num_workers dataloader_pin_memory
    dataloader_persistent_workers dataloader_prefetch_factor disable_tqdm run_name report_to project trackio_space_id
    push_to_hub hub_model_id hub_strategy hub_token hub_private_repo hub_always_push hub_revision
    skip_memory_metrics include_num_input_tokens_seen gradient_checkpointing gradient_checkpointing_kwargs local_rank
    average_tokens_across_devices debug
    """.split()  # noqa: SIM905
)


def identity_of(
    arguments: FinetuneConfig, data: PreparedData, base_model: str, *, units_per_step: int, world_size: int
) -> dict[str, Any]:
    """As JSON. `units_per_step`: the global batch, all ranks and accumulation steps together."""
    deciding = {name: value for name, value in arguments.every_value().items() if name not in HARMLESS}
    return {
        "base_model": base_model,
        "template": data.template.fingerprint(),
        "data": data.trained_on.content_fingerprint,
        "global_batch": units_per_step,
        "arguments": deciding,
        # What follows is told where it differs, but refuses nothing.
        "world_size": world_size,
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
    }


def check_identity(
    stored: Mapping[str, Any], found: Mapping[str, Any], allowed: Sequence[str], *, where: str
) -> list[str]:
    """Notices. Raises RunDirectoryError naming all that differs between a run and what is `stored` of it.

    `allowed`: names that may differ, or "all".
    """
    differing = differences(stored, found)
    refused = {name: pair for name, pair in differing.items() if name not in allowed and "all" not in allowed}
    if refused:
        names = " ".join(refused)
        raise RunDirectoryError(
            problem_list(
                f"this is not the run that {where} belongs to; its result would be another:",
                [f"{name}: was {before}, is now {now}" for name, (before, now) in refused.items()],
            )
            + f"\nGive what it was, or accept the change with --allow_changed {names}"
        )
    notices = [f"{name} changed as allowed: was {old}, is now {new}" for name, (old, new) in differing.items()]
    rounding = [
        f"{name} was {stored[name]}, is now {found[name]}"
        for name in ("world_size", "threads", "torch")
        if name in stored and stored[name] != found[name]
    ]
    if rounding:
        notices.append(f"the result may differ in rounding, and where there is dropout: {', '.join(rounding)}")
    return notices


def differences(stored: Mapping[str, Any], found: Mapping[str, Any]) -> dict[str, tuple[str, str]]:
    """name -> (before, now) of all that decides the result and is not the same."""
    parts = {
        name: (short(stored.get(name)), short(found[name]))
        for name in ("base_model", "template", "data", "global_batch")
        if stored.get(name) != found[name]
    }
    before = stored.get("arguments")
    before, now = before if isinstance(before, dict) else {}, found["arguments"]
    for name in sorted({*before, *now}):
        if before.get(name) != now.get(name):
            parts[name] = (short(before.get(name)), short(now.get(name)))
    return parts


def short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 24 else text[:12] + "..."
