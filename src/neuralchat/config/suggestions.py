"""A name that is not known -> the one that was probably meant."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Mapping
from types import MappingProxyType

# How alike two names must be, from 0 to 1.
ALIKE = 0.6
# Names that other tools use -> ours. A spelling mistake needs no row.
FLAGS_OF_OTHER_TOOLS: Mapping[str, str] = MappingProxyType(
    {
        alias: name
        for name, aliases in {
            "model_name_or_path": "model base_model model_id model_name model_path pretrained_model_name_or_path",
            "tokenizer_name": "tokenizer tokenizer_path tokenizer_name_or_path",
            "model_revision": "revision",
            "use_auth_token": "token hf_token auth_token",
            "train_file": "data data_path data_file data_files dataset train train_data train_path training_file input",
            "validation_file": "eval_file valid_file val_file dev_file eval_data val_data validation_data test_file",
            "dataset_name": "dataset_id hf_dataset",
            "validation_split_percentage": "val_size val_set_size validation_split eval_split test_size split",
            "output_dir": "output out outdir out_dir output_path save_dir save_path",
            "max_seq_length": "max_length max_len cutoff_len seq_len seq_length sequence_len sequence_length "
            "block_size model_max_length context_length max_tokens",
            "template": "prompt_template chat_format conversation_template",
            "learning_rate": "lr rate",
            "num_train_epochs": "epochs epoch num_epochs n_epochs",
            "max_steps": "steps num_steps iters max_iters iterations num_train_steps",
            "per_device_train_batch_size": "batch_size bs batch train_batch_size micro_batch_size mbs",
            "per_device_eval_batch_size": "eval_batch_size",
            "gradient_accumulation_steps": "grad_accum accumulation accumulation_steps gradient_accumulation "
            "grad_accumulation_steps",
            "max_grad_norm": "grad_clip gradient_clipping clip clip_grad",
            "warmup_steps": "warmup num_warmup_steps",
            "lr_scheduler_type": "scheduler lr_scheduler schedule",
            "weight_decay": "wd decay",
            "optim": "optimizer opt",
            "peft": "method finetuning_type adapter adapter_type tuner",
            "lora_rank": "r rank lora_r lora_dim",
            "lora_alpha": "alpha",
            "lora_dropout": "dropout",
            "lora_target_modules": "lora_target target target_modules lora_modules",
            "resume_from_checkpoint": "resume resume_from checkpoint continue",
            "overwrite_output_dir": "overwrite force",
            "report_to": "tracker logger log_to",
            "save_total_limit": "save_limit max_checkpoints keep",
            "eval_steps": "eval_interval eval_every eval_iters",
            "save_steps": "save_interval save_every",
            "logging_steps": "log_interval log_every log_steps",
            "early_stopping_patience": "patience early_stopping",
            "num_processes": "nproc nproc_per_node processes workers num_workers gpus",
            "dataset_concatenation": "packing sample_packing pack",
            "gradient_checkpointing": "grad_checkpoint use_gradient_checkpointing",
        }.items()
        for alias in aliases.split()
    }
)
VERBS_OF_OTHER_TOOLS = MappingProxyType(
    {
        **dict.fromkeys(("train", "tune", "sft", "fine-tune", "fine_tune", "lora"), "finetune"),
        **dict.fromkeys(("talk", "run", "infer", "inference", "generate", "predict", "ask"), "chat"),
        **dict.fromkeys(("evaluate", "test", "score", "benchmark"), "eval"),
        **dict.fromkeys(("export", "fuse", "save"), "merge"),
        **dict.fromkeys(("info", "report", "results", "summary"), "show"),
        **dict.fromkeys(("download", "pull", "get"), "fetch"),
        **dict.fromkeys(("estimate", "forecast", "hardware"), "plan"),
    }
)


def nearest(written: str, known: Collection[str], aliases: Mapping[str, str] = MappingProxyType({})) -> str | None:
    """The one of `known` that `written` was probably meant to be; None where none is likely.

    >>> nearest("lr", ["learning_rate", "seed"], FLAGS_OF_OTHER_TOOLS), nearest("sede", ["learning_rate", "seed"])
    ('learning_rate', 'seed')
    """
    if aliases.get(written.lower()) in known:
        return aliases[written.lower()]
    close = difflib.get_close_matches(written.lower(), sorted(known), n=1, cutoff=ALIKE)
    return close[0] if close else None


def did_you_mean(name: str | None, dashes: str = "--") -> str:
    """The end of a sentence about an unknown name."""
    return f"; did you mean {dashes}{name}?" if name else ""
