"""arguments -> session: all that can fail cheaply first; configuration, tokenizer, records; weights and proof last."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import transformers
from transformers import set_seed

from neuralchat.checkpointing.store import read_sums
from neuralchat.config.config import FinetuneConfig
from neuralchat.console import gib, inform, note
from neuralchat.data.given_records import GivenRecords
from neuralchat.data.layout import Layout
from neuralchat.data.prepared_data import PreparedData
from neuralchat.distributed.collectives import all_gather_object, local_size
from neuralchat.distributed.hardware import read_machine
from neuralchat.distributed.preflight import Link, facts_of_rank, preflight
from neuralchat.errors import ArgumentsError, ModelError
from neuralchat.models.adapters.build import add_adapter
from neuralchat.models.fast_paths import take_fast_paths
from neuralchat.models.loading.base_fingerprint import base_fingerprint
from neuralchat.models.loading.base_model import ModelSource, check_vocabulary, grow_embeddings, load_model
from neuralchat.models.loading.precision import Precision, choose_precision
from neuralchat.models.losses.loss_sum import packed_loss_sum, padded_loss_sum
from neuralchat.planning.memory import (
    MemoryForecast,
    cost_per_token,
    resident_bytes,
    settle_micro_batch,
    state_bytes,
)
from neuralchat.planning.packing_proof import proof_examples
from neuralchat.preparation.packed_rows import prepare_packing
from neuralchat.preparation.repeated import check_same_layers
from neuralchat.preparation.run_data import checked_identity, make_run_data
from neuralchat.preparation.start_apart import start_apart


@dataclass(frozen=True, kw_only=True)
class Session:
    """What the stages of one run share."""

    arguments: FinetuneConfig
    training: transformers.TrainingArguments
    source: ModelSource
    tokenizer: Any
    data: PreparedData
    model: Any
    precision: Precision
    # How micro-batches are packed; None where they are padded.
    layout: Layout | None
    # "compiled" for this machine, or "torch".
    kernels: str
    # The checkpoint to go on from, as this machine sees it.
    resume: Path | None
    # Its SHA256SUMS when it was chosen; empty where there is none.
    resume_sums: bytes
    identity: dict[str, Any]
    micro_batch_tokens: int
    # Of a forward and backward pass, by the proof's examples.
    seconds_per_token: float
    # What a sum over the ranks costs; None for a single process.
    link: Link | None
    # PiSSA changes the base weights; the adapter as it began is what turns the result into a plain one.
    initial_adapter: tempfile.TemporaryDirectory[str] | None = None
    # Read once: the directory may be gone when the run ends.
    started_in: str = field(default_factory=os.getcwd)

    @property
    def packed(self) -> bool:
        return self.layout is not None

    @property
    def output(self) -> Path:
        return self.arguments.output_dir


def make_session(
    arguments: FinetuneConfig,
    resume: Path | None,
    given_records: Sequence[GivenRecords] = (),
    *,
    before_model: Callable[[PreparedData], None] | None = None,
) -> Session:
    """`before_model`: what is to be done, on all ranks, once the records are known and nothing is loaded yet."""
    resume_sums = b"" if resume is None else read_sums(resume)
    if arguments.training.log_level != "passive":
        transformers.logging.set_verbosity(transformers.logging.log_levels[arguments.training.log_level])
    # The libraries' bars would break our own lines.
    transformers.logging.disable_progress_bar()
    run = make_run_data(arguments, resume, given_records)
    arguments, source, config, tokenizer, data = run.arguments, run.source, run.config, run.tokenizer, run.data
    training = arguments.training_arguments()
    identity = checked_identity(run, resume)
    link = preflight(facts_of_rank(identity, arguments.every_value(), Path(str(training.output_dir)), read_machine()))
    # Now that all ranks have shown to be in one run.
    if before_model is not None:
        before_model(data)
    set_seed(training.seed)
    check_device(arguments, training)
    precision, notice = choose_precision(
        bf16=arguments.bf16, trains_base=arguments.tuning.method.trains_base, bits=arguments.tuning.bits
    )
    if notice:
        note(notice)
    inform(f"loading {source.name}")
    model = load_model(source, config, precision)
    if base_fingerprint(source) != identity["base_model"]:
        raise ModelError(f"the files of {source.name} changed while they were loaded; start again when they are whole")
    if run.added_tokens:
        grow_embeddings(model, len(tokenizer))
    check_vocabulary(model, tokenizer)
    model = add_adapter(model, arguments.tuning, run.added_tokens)
    if resume is None and (notice := check_same_layers(model, identity, arguments.tuning)):
        note(notice)
    initial = keep_initial_adapter(model) if arguments.tuning.lora_init == "pissa" else None
    fast_paths = take_fast_paths(model, compile_kernels=arguments.tuning.compile_kernels)
    if arguments.tuning.lora_init == "apart":
        start_apart(model, arguments, data, tokenizer, restored=resume is not None)
    layout = prepare_packing(model, arguments, data, tokenizer, precision)
    micro_batch_tokens, seconds = settled_micro_batch(model, arguments, data, layout, tokenizer)
    return Session(
        arguments=arguments,
        training=training,
        source=source,
        tokenizer=tokenizer,
        data=data,
        model=model,
        precision=precision,
        layout=layout,
        kernels=fast_paths.kernels,
        resume=resume,
        resume_sums=resume_sums,
        identity=identity,
        micro_batch_tokens=micro_batch_tokens,
        seconds_per_token=seconds,
        link=link,
        initial_adapter=initial,
    )


def check_device(arguments: FinetuneConfig, training: transformers.TrainingArguments) -> None:
    """Raise ArgumentsError for what is there on CPUs only."""
    if arguments.tuning.bits is not None and training.device.type != "cpu":
        raise ArgumentsError(
            f"--bits {arguments.tuning.bits}: weights in few bits are widened on the CPU only; add --use_cpu, or leave "
            "--bits out (--bf16 True halves what the weights take)"
        )


def settled_micro_batch(
    model: Any, arguments: FinetuneConfig, data: PreparedData, layout: Layout | None, tokenizer: Any
) -> tuple[int, float]:
    """(micro_batch_tokens that memory allows, seconds per token)."""
    tuning, examples = arguments.tuning, proof_examples(data.trained_on)

    def loss_of(chosen: Any) -> Any:
        if layout is not None:
            return packed_loss_sum(model, layout.pack(chosen))
        return padded_loss_sum(model, chosen, pad_id=tokenizer.pad_token_id)

    bytes_per_token, seconds = cost_per_token(model, loss_of, examples)
    forecast = MemoryForecast(
        now_bytes=resident_bytes(),
        state_bytes=state_bytes(model, str(arguments.training.optim)),
        bytes_per_token=bytes_per_token,
        micro_batch_tokens=tuning.micro_batch_tokens,
        longest_example_tokens=int(data.trained_on.lengths.max()),
    )
    inform(f"memory forecast: {gib(forecast.peak_bytes())} at the peak, {gib(forecast.now_bytes)} now")
    settled = settle_micro_batch(forecast, read_machine(), local_size=local_size(), auto=tuning.auto_micro_batch)
    # A step is as fast as its slowest rank.
    return settled, max(all_gather_object(seconds))


def keep_initial_adapter(model: Any) -> tempfile.TemporaryDirectory[str]:
    directory = tempfile.TemporaryDirectory(prefix="neuralchat-")
    # As PEFT's guide to PiSSA asks: https://huggingface.co/docs/peft/developer_guides/lora#pissa
    model.peft_config[model.active_adapter].init_lora_weights = True
    model.save_pretrained(directory.name)
    model.peft_config[model.active_adapter].init_lora_weights = "pissa"
    return directory
