"""Every argument of fine-tuning: what may be set, its default, and which settings contradict each other.

The names and defaults of the original NeuralChat hold; the training arguments are those of transformers.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

# Tuning methods and the learning rate that suits each, used where none is given.
LEARNING_RATES = {
    "lora": 3e-4, "ptun": 5e-3, "prefix": 3e-2, "prompt": 1e-1, "llama_adapter": 2e-2, "ia3": 2e-2, "none": 2e-5
}  # fmt: skip
METHOD_NAMES = tuple(LEARNING_RATES)
# What may carry the sums between processes; ccl is that of the original NeuralChat.
BACKENDS = ("gloo", "nccl", "mpi", "ccl", "xccl")


def argument(default: Any, help: str, **metadata: Any) -> Any:
    if isinstance(default, list):
        return field(default_factory=lambda: list(default), metadata={"help": help, **metadata})
    return field(default=default, metadata={"help": help, **metadata})


@dataclass(kw_only=True)
class ModelArguments:
    """Which model and tokenizer, and how a hub may be asked for them."""

    model_name_or_path: str = field(metadata={"help": "directory, hub id, or a model got by 'neuralchat fetch'"})
    config_name: str | None = argument(None, "configuration from another place than the model")
    tokenizer_name: str | None = argument(None, "tokenizer from another place than the model")
    cache_dir: str | None = argument(None, "where models and data sets from a hub are kept")
    use_fast_tokenizer: bool = argument(True, "accepted for old commands; transformers 5 has one kind of tokenizer")
    model_revision: str = argument("main", "branch, tag or commit of a hub model")
    use_auth_token: str | None = argument(None, "hub token, or True for the one you logged in with")
    trust_remote_code: bool = argument(False, "run code of the checkpoint where transformers has no class of its own")


@dataclass(kw_only=True)
class DataArguments:
    """Which records, and how they become tokens."""

    train_file: list[str] = argument([], "json, jsonl, csv or parquet file(s) to train on")
    validation_file: list[str] = argument([], "file(s) to measure the loss on, never trained on")
    dataset_name: str | None = argument(None, "data set of a hub instead of files")
    dataset_config_name: str | None = argument(None, "configuration of the hub data set")
    validation_split_percentage: float = argument(0, "hold out this share of the training records")
    max_seq_length: int = argument(512, "longest example in tokens; longer ones lose prompt text")
    max_train_samples: int | None = argument(None, "train on only the first records")
    max_eval_samples: int | None = argument(None, "evaluate on only the first records")
    template: str = argument("auto", "prompt format: alpaca, chat (the tokenizer's own), or auto")
    train_on_inputs: bool = argument(False, "train on the prompt too, not only on the answer")
    on_bad_record: str = argument("fail", "fail, or skip bad records and say how many")
    dataset_concatenation: bool = argument(False, "fill each row to max_seq_length with several whole examples")
    overwrite_cache: bool = argument(False, "tokenize again even if the tokens are cached")
    dataset_cache_directory: str | None = argument(None, "where tokenized records are kept")
    keep_in_memory: bool = argument(False, "hold tokenized records in memory instead of mapping the file")
    dataset_seed: int = argument(42, "seed of the validation split")
    max_source_length: int = argument(512, "encoder-decoder models: longest source; longer ones lose prompt text")
    max_target_length: int = argument(256, "encoder-decoder models: longest target; longer ones are left out, counted")
    special_tokens: list[str] = argument([], "tokens to add to the vocabulary and to train with LoRA")


@dataclass(kw_only=True)
class TuningArguments:
    """Which adapter, and how training runs."""

    peft: str = argument("lora", f"tuning method: {', '.join(METHOD_NAMES)}")
    lora_rank: int = argument(8, "rank of LoRA")
    lora_alpha: int = argument(16, "scale of LoRA: alpha / rank")
    lora_dropout: float = argument(0.05, "dropout before LoRA")
    lora_target_modules: list[str] = argument([], "layers that get LoRA; by default those PEFT knows for the model")
    lora_all_linear: bool = argument(False, "LoRA on every linear layer but the head")
    lora_dora: bool = argument(False, "LoRA with magnitudes of their own (DoRA); slower")
    lora_rslora: bool = argument(False, "scale LoRA by alpha / sqrt(rank) (rsLoRA)")
    lora_init: str = argument("default", "how LoRA starts: default, gaussian or pissa")
    adapter_layers: int = argument(30, "llama_adapter: number of layers, at most the model's depth")
    adapter_len: int = argument(10, "llama_adapter: length of the prompt in each layer")
    num_virtual_tokens: int = argument(10, "ptun, prefix, prompt: number of virtual tokens")
    ptun_hidden_size: int = argument(1024, "ptun: hidden size of the prompt encoder")
    no_packing: bool = argument(False, "train with padded batches")
    verify_packing: bool = argument(True, "compare packed with one-by-one loss and gradients at the start")
    compile_kernels: bool = argument(True, "compile attention and small layers for this machine, where there is gcc")
    micro_batch_tokens: int = argument(1024, "tokens computed at once; bounds memory, changes no result")
    auto_micro_batch: bool = argument(False, "when memory runs out, go on with half of --micro_batch_tokens")
    on_nonfinite: str = argument("stop", "a loss or gradient that is no number: stop, or skip that step")
    allow_changed: list[str] = argument([], "resume although these arguments (or data, base_model, template) changed")
    from_run: str | None = argument(None, "repeat the run of this directory, with its arguments where none are given")
    overwrite_output_dir: bool = argument(False, "replace the run that output_dir holds")
    predict_with_generate: bool = argument(False, "after training, answer the held-out questions and report ROUGE")
    generation_max_length: int = argument(256, "longest of these answers in tokens")
    generation_num_beams: int = argument(1, "beams of these answers; 1 is greedy")
    report_samples: int = argument(3, "questions answered before and after training, for the report")
    sample_tokens: int = argument(64, "longest of these answers in tokens")


@dataclass(kw_only=True)
class DistributedArguments:
    """How many processes train together, and how they find and watch each other."""

    num_processes: str = argument("", "start so many processes on this machine: a number, or auto")
    strict_backend: bool = argument(False, "fail if the backend asked for is not installed, instead of taking gloo")
    bind_cores: bool = argument(True, "give each process of a machine cores of its own")
    preflight_timeout: int = argument(300, "seconds to wait for all processes at the start")
    peer_timeout: int = argument(120, "seconds without a sign of life after which a process counts as lost")


# Training arguments of transformers that cannot do here what they say. Set to anything but their default, they
# are refused with this reason.
REJECTED_TRAINING_ARGUMENTS = {
    "auto_find_batch_size": "memory is bounded by --micro_batch_tokens, which changes no result",
    "batch_eval_metrics": "evaluation computes loss and perplexity only",
    "deepspeed": "each process holds the whole base model here; --bf16 True halves it, more machines share the batch",
    "do_predict": "use 'neuralchat eval' for answers",
    "enable_jit_checkpoint": "it is not supported yet",
    "eval_accumulation_steps": "evaluation keeps no logits, so there is nothing to move",
    "eval_do_concat_batches": "evaluation keeps no logits",
    "eval_use_gather_object": "evaluation keeps no logits",
    "fp16": "fp16 training is not supported; use --bf16 True",
    "fp16_full_eval": "evaluation runs in the precision of training",
    "bf16_full_eval": "evaluation runs in the precision of training",
    "fsdp": "each process holds the whole base model here; --bf16 True halves it, more machines share the batch",
    "ignore_data_skip": "a resumed run always continues with the data it has not seen",
    "include_for_metrics": "evaluation computes loss and perplexity only",
    "label_names": "labels are made from the records",
    "length_column_name": "lengths are known from tokenization",
    "liger_kernel_config": "Liger kernels are not supported",
    "parallelism_config": "it is not supported",
    "prediction_loss_only": "evaluation computes loss and perplexity only",
    "remove_unused_columns": "records are not columns here",
    "torch_compile": "it is not supported yet",
    "torch_compile_backend": "it is not supported yet",
    "torch_compile_mode": "it is not supported yet",
    "use_cache": "training needs no cache",
    "use_liger_kernel": "Liger kernels are not supported",
}


def contradictions(data: DataArguments, tuning: TuningArguments, training: Any, given: set[str]) -> list[str]:
    """All that is wrong with the arguments by themselves. `given`: the names that the user set."""
    return [
        *range_problems(data, tuning, training),
        *choice_problems(data, tuning),
        *pair_problems(data, tuning, training, given),
        *data_problems(data, tuning, training),
    ]


def process_problems(distributed: DistributedArguments) -> list[str]:
    """What is wrong with the arguments of several processes."""
    problems = []
    count = distributed.num_processes
    if count not in ("", "auto") and not (count.isascii() and count.isdigit() and int(count) >= 1):
        problems.append(f"--num_processes is '{count}'; allowed are auto and a number from 1")
    for name in ("preflight_timeout", "peer_timeout"):
        if (value := getattr(distributed, name)) < 1:
            problems.append(f"--{name} must be at least 1, found {value}")
    return problems


def range_problems(data: DataArguments, tuning: TuningArguments, training: Any) -> list[str]:
    at_least_one = {
        "max_seq_length": data.max_seq_length,
        "max_source_length": data.max_source_length,
        "max_target_length": data.max_target_length,
        "lora_rank": tuning.lora_rank,
        "lora_alpha": tuning.lora_alpha,
        "adapter_layers": tuning.adapter_layers,
        "adapter_len": tuning.adapter_len,
        "num_virtual_tokens": tuning.num_virtual_tokens,
        "ptun_hidden_size": tuning.ptun_hidden_size,
        "micro_batch_tokens": tuning.micro_batch_tokens,
        "generation_max_length": tuning.generation_max_length,
        "generation_num_beams": tuning.generation_num_beams,
        "per_device_train_batch_size": training.per_device_train_batch_size,
        "per_device_eval_batch_size": training.per_device_eval_batch_size,
        "gradient_accumulation_steps": training.gradient_accumulation_steps,
    }
    problems = [f"--{name} must be at least 1, found {value}" for name, value in at_least_one.items() if value < 1]
    for name, value in (("max_train_samples", data.max_train_samples), ("max_eval_samples", data.max_eval_samples)):
        if value is not None and value < 1:
            problems.append(f"--{name} must be at least 1, found {value}")
    if not 0 <= data.validation_split_percentage < 100:
        problems.append(
            f"--validation_split_percentage must be from 0 to below 100, found {data.validation_split_percentage}"
        )
    if not 0 <= tuning.lora_dropout < 1:
        problems.append(f"--lora_dropout must be from 0 to below 1, found {tuning.lora_dropout}")
    if training.num_train_epochs <= 0 and training.max_steps <= 0:
        problems.append(f"--num_train_epochs must be above 0, found {training.num_train_epochs}")
    for name, value in (("report_samples", tuning.report_samples), ("sample_tokens", tuning.sample_tokens)):
        if value < 0:
            problems.append(f"--{name} must not be negative, found {value}")
    return problems


def choice_problems(data: DataArguments, tuning: TuningArguments) -> list[str]:
    choices = (
        ("template", data.template, ("auto", "alpaca", "chat")),
        ("on_bad_record", data.on_bad_record, ("fail", "skip")),
        ("on_nonfinite", tuning.on_nonfinite, ("stop", "skip")),
        ("peft", tuning.peft, METHOD_NAMES),
        ("lora_init", tuning.lora_init, ("default", "gaussian", "pissa")),
    )
    return [
        f"--{name} is '{value}'; allowed are {', '.join(allowed)}"
        for name, value, allowed in choices
        if value not in allowed
    ]


def pair_problems(data: DataArguments, tuning: TuningArguments, training: Any, given: set[str]) -> list[str]:
    together = (
        (data.train_file and data.dataset_name, "--train_file and --dataset_name: give one source of records"),
        (
            data.validation_file and data.validation_split_percentage,
            "--validation_file and --validation_split_percentage: give one",
        ),
        (
            tuning.lora_all_linear and tuning.lora_target_modules,
            "--lora_all_linear and --lora_target_modules: give one",
        ),
        (
            data.dataset_concatenation and tuning.no_packing,
            "--dataset_concatenation and --no_packing contradict each other",
        ),
        (
            tuning.overwrite_output_dir and "resume_from_checkpoint" in given,
            "--overwrite_output_dir would delete what --resume_from_checkpoint needs",
        ),
        (
            training.train_sampling_strategy == "batch_rebalance",
            "--train_sampling_strategy batch_rebalance: work is balanced over ranks already; use random",
        ),
        (
            data.special_tokens and tuning.peft not in ("lora", "none"),
            f"--special_tokens: --peft {tuning.peft} cannot train their embeddings; use lora or none",
        ),
        (data.dataset_config_name and not data.dataset_name, "--dataset_config_name needs --dataset_name"),
    )
    return [message for wrong, message in together if wrong]


def data_problems(data: DataArguments, tuning: TuningArguments, training: Any) -> list[str]:
    problems = []
    has_records = bool(data.train_file or data.dataset_name)
    if training.do_train and not has_records:
        problems.append("no records to train on: give --train_file or --dataset_name")
    if not training.do_train and not training.do_eval:
        problems.append("nothing to do: add --do_train (or --do_eval)")
    held_out = bool(data.validation_file or data.validation_split_percentage)
    if tuning.predict_with_generate and not held_out:
        problems.append(
            "--predict_with_generate needs records: give --validation_file or --validation_split_percentage"
        )
    wants_evaluation = training.do_eval or str(training.eval_strategy) not in ("no", "IntervalStrategy.NO")
    if wants_evaluation and not held_out:
        problems.append("evaluation needs records: give --validation_file or --validation_split_percentage")
    return problems
