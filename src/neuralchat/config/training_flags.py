"""The training arguments: those of transformers, one row each with what the program must know of it.

A test holds the rows against the fields of the locked version, so that a new field of an upgrade is met by name.
"""

from __future__ import annotations

import dataclasses
from typing import Any

from transformers import TrainingArguments

from neuralchat.config.facts import Facts

# What may carry the sums between processes; ccl is that of the original NeuralChat.
BACKENDS = ("gloo", "nccl", "mpi", "ccl", "xccl")
NO_DDP = "gradients are summed without DistributedDataParallel"
HOLDS_WHOLE_MODEL = "each process holds the whole base model here; --bf16 True halves it, more machines share the batch"
LOSS_ONLY = "evaluation computes loss and perplexity only"
NO_LIGER = "Liger kernels are not supported"
NOT_YET = "it is not supported yet"


def decides(help: str = "", **facts: Any) -> Facts:
    """An argument that changes the result. Without a help that of transformers holds."""
    return Facts(help=help, **facts)


def keeps_result(help: str = "", **facts: Any) -> Facts:
    return Facts(help=help, changes_result=False, **facts)


def no_effect(reason: str, *, changes_result: bool = False, **facts: Any) -> Facts:
    """An argument that is accepted for old commands, and told to whom sets it to anything but its default.

    `changes_result`: runs of earlier versions compare it.
    """
    return Facts(help=f"No effect: {reason}.", no_effect=reason, changes_result=changes_result, **facts)


def refused(reason: str) -> Facts:
    """An argument that cannot do here what it says: set to anything but its default it is refused."""
    return Facts(rejected=reason)


DECIDES, KEEPS_RESULT = decides(), keeps_result()
# What reaches out to others is the word of whoever starts a run, and not that of the run it repeats.
OF_THE_USER = keeps_result(repeated=False)
# Of many records; few are gone through more often (preparation/fitting.py).
DEFAULT_EPOCHS = 3.0
# `default` stands where ours is another than transformers': nothing is sent to a tracker unless asked, and a
# non-finite loss is never hidden.
TRAINING_FACTS: dict[str, Facts] = {
    "output_dir": keeps_result(
        "The run directory. Required.",
        default=None,
        required="say where the run is to be saved",
        path=True,
        repeated=False,
    ),
    "per_device_train_batch_size": keeps_result(
        "Examples (with --dataset_concatenation: rows) per process and accumulation step. By default 4 to 16 for all "
        "processes together, so that there are enough steps.",
        minimum=1,
        earlier=8,
    ),
    "num_train_epochs": decides(
        "How often the records are gone through; 3 is the default, more for fewer than 334 records, at most 10.",
        earlier=DEFAULT_EPOCHS,
    ),
    "max_steps": DECIDES,
    "learning_rate": decides("By default that of the method, see methods.md.", default=None),
    "lr_scheduler_type": decides(default="cosine", earlier="linear"),
    "lr_scheduler_kwargs": DECIDES,
    "warmup_steps": decides(default=0.03, earlier=0),
    "optim": DECIDES,
    "optim_args": DECIDES,
    "weight_decay": DECIDES,
    "adam_beta1": DECIDES,
    "adam_beta2": DECIDES,
    "adam_epsilon": DECIDES,
    "optim_target_modules": decides(names=True),
    "gradient_accumulation_steps": keeps_result(minimum=1),
    "average_tokens_across_devices": no_effect("the loss is always divided by the supervised tokens of all processes"),
    "max_grad_norm": DECIDES,
    "label_smoothing_factor": DECIDES,
    "bf16": decides("Keep the base weights in bf16. Arithmetic is bf16 where the machine has bf16 units, else fp32."),
    "fp16": refused("fp16 training is not supported; use --bf16 True"),
    "bf16_full_eval": refused("evaluation runs in the precision of training"),
    "fp16_full_eval": refused("evaluation runs in the precision of training"),
    "tf32": DECIDES,
    "activation_checkpointing": DECIDES,
    "activation_checkpointing_kwargs": DECIDES,
    "gradient_checkpointing": KEEPS_RESULT,
    "gradient_checkpointing_kwargs": KEEPS_RESULT,
    "torch_compile": refused(NOT_YET),
    "torch_compile_backend": refused(NOT_YET),
    "torch_compile_mode": refused(NOT_YET),
    "use_liger_kernel": refused(NO_LIGER),
    "liger_kernel_config": refused(NO_LIGER),
    "use_cache": refused("training needs no cache"),
    "neftune_noise_alpha": DECIDES,
    "torch_empty_cache_steps": no_effect("memory is bounded by --micro_batch_tokens", changes_result=True),
    "auto_find_batch_size": refused("memory is bounded by --micro_batch_tokens, which changes no result"),
    "logging_strategy": KEEPS_RESULT,
    "logging_steps": keeps_result(default=10),
    "logging_first_step": KEEPS_RESULT,
    "log_on_each_node": no_effect("the first process speaks for all"),
    "logging_nan_inf_filter": no_effect("a loss that is no number is never hidden, see --on_nonfinite", default=False),
    "include_num_input_tokens_seen": KEEPS_RESULT,
    "log_level": KEEPS_RESULT,
    "log_level_replica": no_effect("the first process speaks for all"),
    "disable_tqdm": no_effect("the progress line is NeuralChat's own"),
    "report_to": keeps_result(default="none", names=True, repeated=False),
    "run_name": keeps_result(repeated=False),
    "project": OF_THE_USER,
    "trackio_space_id": OF_THE_USER,
    "trackio_bucket_id": decides(repeated=False),
    "trackio_static_space_id": decides(repeated=False),
    "eval_strategy": KEEPS_RESULT,
    "eval_steps": KEEPS_RESULT,
    "eval_delay": KEEPS_RESULT,
    "per_device_eval_batch_size": keeps_result("Examples a process lays into one evaluation batch.", minimum=1),
    "prediction_loss_only": refused(LOSS_ONLY),
    "eval_on_start": no_effect("held-out records are always measured before the first step"),
    "eval_do_concat_batches": refused("evaluation keeps no logits"),
    "eval_use_gather_object": refused("evaluation keeps no logits"),
    "eval_accumulation_steps": refused("evaluation keeps no logits, so there is nothing to move"),
    "include_for_metrics": refused(LOSS_ONLY),
    "batch_eval_metrics": refused(LOSS_ONLY),
    "save_only_model": KEEPS_RESULT,
    "save_strategy": KEEPS_RESULT,
    "save_steps": KEEPS_RESULT,
    "save_on_each_node": no_effect("the first process writes checkpoints, all read them"),
    "save_total_limit": KEEPS_RESULT,
    "enable_jit_checkpoint": refused(NOT_YET),
    "push_to_hub": OF_THE_USER,
    "hub_token": keeps_result(secret=True, repeated=False),
    "hub_private_repo": OF_THE_USER,
    "hub_model_id": OF_THE_USER,
    "hub_strategy": OF_THE_USER,
    "hub_always_push": no_effect("an upload is waited for"),
    "hub_revision": OF_THE_USER,
    "load_best_model_at_end": DECIDES,
    "metric_for_best_model": DECIDES,
    "greater_is_better": DECIDES,
    "ignore_data_skip": refused("a resumed run always continues with the data it has not seen"),
    "restore_callback_states_from_checkpoint": no_effect("each start makes its callbacks anew"),
    "full_determinism": DECIDES,
    "seed": DECIDES,
    "data_seed": DECIDES,
    "use_cpu": KEEPS_RESULT,
    "accelerator_config": refused("processes and batches are laid out without accelerate"),
    "parallelism_config": refused("it is not supported"),
    "dataloader_drop_last": DECIDES,
    "dataloader_num_workers": KEEPS_RESULT,
    "dataloader_pin_memory": no_effect("batches are laid out where they are used"),
    "dataloader_persistent_workers": KEEPS_RESULT,
    "dataloader_prefetch_factor": KEEPS_RESULT,
    "dataloader_multiprocessing_context": no_effect("workers are forked", changes_result=True),
    "dataloader_in_order": no_effect("batches always come in order", changes_result=True),
    "remove_unused_columns": refused("records are not columns here"),
    "label_names": refused("labels are made from the records"),
    "train_sampling_strategy": decides(
        "Order of records. group_by_length is for padded batches; batch_rebalance is refused."
    ),
    "length_column_name": refused("lengths are known from tokenization"),
    "ddp_find_unused_parameters": no_effect(NO_DDP),
    "ddp_bucket_cap_mb": no_effect(NO_DDP),
    "ddp_broadcast_buffers": no_effect(NO_DDP),
    "ddp_static_graph": no_effect(NO_DDP),
    "ddp_backend": keeps_result(
        "What adds up over processes; by default gloo, on GPUs nccl. One not installed gives way to gloo.",
        choices=BACKENDS,
    ),
    "ddp_timeout": KEEPS_RESULT,
    "fsdp": refused(HOLDS_WHOLE_MODEL),
    "fsdp_config": refused(HOLDS_WHOLE_MODEL),
    "deepspeed": refused(HOLDS_WHOLE_MODEL),
    "debug": KEEPS_RESULT,
    "skip_memory_metrics": no_effect("metrics.jsonl always tells the memory"),
    "do_train": keeps_result("Train. 'neuralchat finetune' implies it; finetune_clm.py needs it."),
    "do_eval": keeps_result(
        "Measure the loss on the held-out records. They are also measured whenever they are given."
    ),
    "do_predict": refused("use 'neuralchat eval' for answers"),
    "resume_from_checkpoint": keeps_result(
        "A checkpoint directory, or 'auto' for the newest whole one in --output_dir.",
        path=True,
        repeated=False,
        resumed=False,
    ),
    "local_rank": keeps_result(
        # torch.distributed.launch adds it by itself, so nobody is told.
        "No effect: launchers give the rank in the environment.",
        repeated=False,
        resumed=False,
    ),
}


class TrainingFlags(TrainingArguments):
    """The fields of TrainingArguments as they were given: nothing is derived from them, no device is touched."""

    def __post_init__(self) -> None:
        pass

    def values(self) -> dict[str, Any]:
        """Every field by name."""
        return {field.name: getattr(self, field.name) for field in dataclasses.fields(self) if field.init}
