"""Every argument of fine-tuning that is ours: its type, its default, and what the program must know of it.

An argument is one field. The names and defaults of the original NeuralChat hold; the training arguments are those of
transformers, see training_flags.py.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from neuralchat.config.facts import argument, harmless
from neuralchat.config.methods import LORA_INITS, METHODS, Method
from neuralchat.config.named_values import parse_named_values

# Of --micro_batch_tokens auto: larger matrix products gain nothing any more.
MOST_AUTO_TOKENS = 4096
# Rows of models/quantization/formats.py, as they are written.
BITS = ("8", "4")
# The fields that records have, of all kinds (data/records/kinds.py).
RECORD_FIELDS = (
    "instruction",
    "input",
    "output",
    "system",
    "history",
    "messages",
    "conversations",
    "prompt",
    "completion",
    "question",
    "query",
    "answer",
    "response",
    "context",
    "text",
    "tools",
    "functions",
    "facts",
)


@dataclass(kw_only=True)
class ModelArguments:
    """Which model and tokenizer, and how a hub may be asked for them."""

    model_name_or_path: str = harmless(
        None,
        "directory, hub id, or a model got by 'neuralchat fetch'",
        path=True,
        required="name a directory, a hub id or a fetched model",
    )
    config_name: str | None = harmless(None, "configuration from another place than the model", path=True)
    tokenizer_name: str | None = harmless(None, "tokenizer from another place than the model", path=True)
    cache_dir: str | None = harmless(None, "where models and data sets from a hub are kept", path=True, repeated=False)
    use_fast_tokenizer: bool = harmless(True, "accepted for old commands; transformers 5 has one kind of tokenizer")
    model_revision: str = harmless("main", "branch, tag or commit of a hub model")
    use_auth_token: str | None = harmless(
        None, "hub token, or True for the one you logged in with", secret=True, bare="True", repeated=False
    )
    trust_remote_code: bool = harmless(
        False, "run code of the checkpoint where transformers has no class of its own", repeated=False
    )


@dataclass(kw_only=True)
class DataArguments:
    """Which records, and how they become tokens."""

    train_file: list[str] = harmless([], "json, jsonl, csv, tsv or parquet file(s) to train on", path=True)
    mix: list[str] = harmless(
        [], "files to train on in these shares, such as general.json=0.7 domain.json=0.3", path=True, pairs=True
    )
    mix_samples: int | None = harmless(
        None, "examples of the mixture; by default as many as there are without repeating any", minimum=1
    )
    validation_file: list[str] = harmless([], "file(s) to measure the loss on, never trained on", path=True)
    dataset_name: str | None = harmless(None, "data set of a hub instead of files", path=True)
    dataset_config_name: str | None = harmless(None, "configuration of the hub data set")
    validation_split_percentage: float = argument(
        0, "hold out this share of the training records", minimum=0, below=100
    )
    columns: list[str] = harmless(
        [], "columns that hold a record's fields, such as instruction=q,output=a", pairs=True, choices=RECORD_FIELDS
    )
    max_seq_length: int = argument(512, "longest example in tokens; longer ones lose prompt text", minimum=1)
    max_train_samples: int | None = argument(None, "train on only the first records", minimum=1)
    max_eval_samples: int | None = harmless(None, "evaluate on only the first records", minimum=1)
    template: str = argument(
        "own",
        "prompt format: chat is the tokenizer's; own is that one where there is one, else alpaca; auto is chat for "
        "conversations alone",
        choices=("own", "auto", "alpaca", "chat"),
        earlier="auto",
    )
    supervise: str = harmless(
        "all", "train on all answers of a conversation, or on the last one only", choices=("all", "last")
    )
    chat_template: str | None = harmless(
        None, "file with a chat template to use in the place of the tokenizer's; the run keeps it", path=True
    )
    chat_template_kwargs: dict[str, Any] | str | None = harmless(
        None, "variables for the chat template, such as enable_thinking=false, or a JSON object; the run keeps them"
    )
    template_date: str | None = harmless(
        None, "the day, YYYY-MM-DD, that a chat template takes for today; by default that of the run's first start"
    )
    train_on_inputs: bool = argument(False, "train on the prompt too, not only on the answer")
    on_bad_record: str = harmless("fail", "refuse bad records, or skip them and say how many", choices=("fail", "skip"))
    dataset_concatenation: bool = argument(False, "fill each row to max_seq_length with several whole examples")
    overwrite_cache: bool = harmless(False, "tokenize again even if the tokens are cached")
    dataset_cache_directory: str | None = harmless(None, "where tokenized records are kept", path=True, repeated=False)
    keep_in_memory: bool = harmless(False, "hold tokenized records in memory instead of mapping the file")
    dataset_seed: int = argument(42, "seed of the validation split and of the mixture")
    max_source_length: int = argument(
        512, "encoder-decoder models: longest source; longer ones lose prompt text", minimum=1
    )
    max_target_length: int = argument(
        256, "encoder-decoder models: longest target; longer ones are left out, counted", minimum=1
    )
    special_tokens: list[str] = argument(
        [], "tokens to add to the vocabulary and to train with LoRA", shapes_weights=True
    )

    @property
    def template_variables(self) -> dict[str, Any]:
        """--chat_template_kwargs by name. Raises ValueError where they are neither a JSON object nor name=value."""
        return parse_named_values(self.chat_template_kwargs)


@dataclass(kw_only=True)
class TuningArguments:
    """Which adapter, and how training runs."""

    peft: str = argument("lora", "tuning method", choices=METHODS, shapes_weights=True)
    lora_rank: int = argument(16, "rank of LoRA", minimum=1, earlier=8, shapes_weights=True)
    lora_alpha: int = argument(32, "scale of LoRA: alpha / rank", minimum=1, earlier=16)
    lora_dropout: float = argument(0.0, "dropout before LoRA", minimum=0, below=1, earlier=0.05)
    lora_target_modules: list[str] = argument(
        [],
        "layers that get LoRA, or one regular expression that matches their paths; without --lora_all_linear by "
        "default those PEFT knows for the model",
        names=True,
        shapes_weights=True,
    )
    lora_all_linear: bool = argument(
        True, "LoRA on all linear layers but the head, unless some are named", earlier=False, shapes_weights=True
    )
    lora_dora: bool = argument(False, "LoRA with magnitudes of their own (DoRA); slower", shapes_weights=True)
    lora_rslora: bool = argument(False, "scale LoRA by alpha / sqrt(rank) (rsLoRA)")
    lora_init: str = argument(
        "auto",
        "how LoRA starts; apart: reads only directions that the records use and general text does not, kept through "
        "training; auto is apart with --keep_general, else default",
        choices=tuple(LORA_INITS),
        earlier="default",
        shapes_weights=True,
    )
    adapter_layers: int = argument(
        30, "llama_adapter: number of layers, at most the model's depth", minimum=1, shapes_weights=True
    )
    adapter_len: int = argument(10, "llama_adapter: length of the prompt in each layer", minimum=1, shapes_weights=True)
    num_virtual_tokens: int = argument(
        10, "ptun, prefix, prompt: number of virtual tokens", minimum=1, shapes_weights=True
    )
    bits: int | None = argument(
        None,
        "keep the frozen weights of linear layers in 8 bits (int8) or 4 (NF4); they are widened while they are used",
        choices=BITS,
        shapes_weights=True,
        earlier=None,
    )
    ptun_hidden_size: int = argument(1024, "ptun: hidden size of the prompt encoder", minimum=1, shapes_weights=True)
    keep_general: bool = argument(
        True,
        "causal models: hold on to what the base model says to general prompts",
        earlier=False,
    )
    general_share: float = argument(
        0.15, "tokens of general prompts beside each step, as a share of its own", minimum=0, below=1, earlier=0.15
    )
    general_weight: float = argument(
        3.0, "weight of their mean divergence from the base model's answers, against the loss", minimum=0, earlier=3.0
    )
    no_packing: bool = harmless(False, "train with padded batches")
    verify_packing: bool = harmless(True, "compare packed with one-by-one loss and gradients at the start")
    compile_kernels: bool = harmless(True, "compile attention and small layers for this machine, where there is gcc")
    micro_batch_tokens: int | str = harmless(
        1024,
        "tokens computed at once; bounds memory, changes no result; auto: as many as fit the free memory, up to 4096",
        minimum=1,
        words=("auto",),
    )
    auto_micro_batch: bool = harmless(False, "when memory runs out, go on with half of --micro_batch_tokens")
    on_nonfinite: str = argument(
        "stop",
        "what a loss or gradient that is no number does to the run: stop it, or skip that step",
        choices=("stop", "skip"),
    )
    allow_changed: list[str] = harmless(
        [], "resume although these arguments (or data, base_model, template) changed", repeated=False, names=True
    )
    from_run: str | None = harmless(
        None, "repeat the run of this directory, with its arguments where none are given", path=True, repeated=False
    )
    overwrite_output_dir: bool = harmless(False, "replace the run that output_dir holds", repeated=False, resumed=False)
    max_hours: float | None = harmless(
        None, "save and end after so many hours, exit status 75; --resume_from_checkpoint auto goes on", minimum=0
    )
    save_every_minutes: float | None = harmless(None, "save a checkpoint every so many minutes, too", minimum=0)
    predict_with_generate: bool = harmless(False, "after training, answer the held-out questions and report ROUGE")
    generation_max_length: int = harmless(256, "longest of these answers in tokens", minimum=1)
    generation_num_beams: int = harmless(1, "beams of these answers; 1 is greedy", minimum=1)
    early_stopping_patience: int | None = argument(
        None,
        "stop when so many evaluations in a row have found nothing better; the best checkpoint is the result",
        minimum=1,
    )
    early_stopping_threshold: float | None = argument(
        None, "by how much a metric must have become better to count as better", minimum=0
    )
    report_samples: int = harmless(3, "questions answered before and after training, for the report", minimum=0)
    general_samples: int = harmless(
        17, "general questions answered with them, to see what was kept and lost; none where none are", minimum=0
    )
    sample_tokens: int = harmless(64, "longest of these answers in tokens", minimum=0)

    @property
    def most_tokens_at_once(self) -> int:
        """--micro_batch_tokens before memory is looked at."""
        return MOST_AUTO_TOKENS if isinstance(self.micro_batch_tokens, str) else self.micro_batch_tokens

    @property
    def fits_micro_batch(self) -> bool:
        """Whether smaller micro-batches are taken where memory asks for them."""
        return self.auto_micro_batch or isinstance(self.micro_batch_tokens, str)

    @property
    def method(self) -> Method:
        return METHODS[self.peft]


@dataclass(kw_only=True)
class DistributedArguments:
    """How many processes train together, and how they find and watch each other."""

    num_processes: str = harmless("", "start so many processes on this machine: a number, or auto", repeated=False)
    strict_backend: bool = harmless(False, "fail if the backend asked for is not installed, instead of taking gloo")
    bind_cores: bool = harmless(True, "give each process of a machine cores of its own")
    preflight_timeout: int = harmless(300, "seconds to wait for all processes at the start", minimum=1)
    peer_timeout: int = harmless(120, "seconds without a sign of life after which a process counts as lost", minimum=1)
