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
            "train_file": "data data_path data_file data_files dataset datasets train train_data train_path "
            "training_file input",
            "validation_file": "eval_file valid_file val_file dev_file eval_data val_data validation_data test_file "
            "test_datasets",
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
            "peft": "method finetuning_type adapter adapter_type tuner peft_type peft_method use_peft use_lora",
            "lora_rank": "r rank lora_r lora_dim",
            "lora_alpha": "alpha",
            "lora_dropout": "dropout",
            "lora_target_modules": "lora_target target target_modules lora_modules",
            "lora_all_linear": "lora_target_linear",
            "lora_dora": "use_dora peft_use_dora dora",
            "lora_rslora": "use_rslora peft_use_rslora rslora",
            "lora_init": "init_lora_weights peft_init_lora_weights",
            "special_tokens": "add_tokens add_special_tokens new_special_tokens additional_special_tokens",
            "bf16": "torch_dtype dtype model_dtype compute_dtype precision bfloat16 use_bf16",
            "seed": "random_state random_seed",
            "max_train_samples": "max_samples",
            "columns": "dataset_text_field text_field field_messages",
            "neftune_noise_alpha": "neft_alpha noise_alpha",
            "train_on_inputs": "train_on_prompt",
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
QUANTIZED = "say --bits 8 (int8) or --bits 4 (NF4, with scales in 8 bits); they need no package"
ATTENTION = "leave it out: the fastest exact attention for the model and this machine is taken by itself"
ONLY_LORA = (
    "beside LoRA no layer is trained whole; give it LoRA too (--lora_target_modules), train the embeddings of "
    "new tokens (--special_tokens), or all weights (--peft none)"
)
ANSWERS_ONLY = "leave it out: only answers are trained on, unless --train_on_inputs is given"
OWN_KERNELS = "leave it out: this machine's fast kernels are taken by themselves"
TOKENIZERS_WORD = "the tokenizer says it: set it in tokenizer_config.json, and name that with --tokenizer_name"
CORES = "leave it out: records are tokenized on all cores"
# Names that other tools use for what has no flag here -> what to do instead.
WITHOUT_A_FLAG: Mapping[str, str] = MappingProxyType(
    {
        name: instead
        for names, instead in (
            (
                "load_in_8bit load_in_4bit use_8bit use_4bit quantization quantization_bit quantization_method "
                "quantize bnb_4bit_quant_type bnb_4bit_compute_dtype bnb_4bit_use_double_quant use_bnb_nested_quant "
                "bnb_config_kwargs double_quantization use_qlora qlora gptq",
                QUANTIZED,
            ),
            (
                "flash_attn flash_attention flash_attn_2 use_flash_attn use_flash_attention use_flash_attention_2 "
                "attn_implementation attn_impl xformers_attention sdp_attention use_sdpa shift_attn",
                ATTENTION,
            ),
            (
                "modules_to_save lora_modules_to_save additional_target unfrozen_parameters freeze_trainable_layers "
                "freeze_trainable_modules lora_bias bias",
                ONLY_LORA,
            ),
            (
                "completion_only_loss assistant_only_loss train_on_responses_only train_on_completions_only "
                "mask_prompt mask_inputs response_template instruction_template",
                ANSWERS_ONLY,
            ),
            ("use_unsloth unsloth enable_liger_kernel use_kernels fused lora_mlp_kernel lora_qkv_kernel", OWN_KERNELS),
            ("eos_token bos_token pad_token unk_token padding_side", TOKENIZERS_WORD),
            ("preprocessing_num_workers dataset_num_proc dataset_processes num_proc", CORES),
            (
                "device device_map n_gpu",
                "leave it out: the machine's devices are found; --use_cpu True leaves GPUs alone",
            ),
            ("stage", "leave it out: supervised fine-tuning is what this command does"),
            ("dataset_dir data_dir", "name each file with its directory: --train_file DIRECTORY/FILE"),
            ("rope_scaling rope_theta", "positions are what the model's config.json says"),
            ("loftq_config loftq_init loraplus_lr_ratio", "it is not supported; --lora_init has what there is"),
            ("plot_loss", "leave it out: each run has its curves in report.html"),
            (
                "wandb_project wandb_entity use_wandb wandb",
                "say --report_to wandb; its own settings are environment variables",
            ),
        )
        for name in names.split()
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
