"""arguments -> session: all that can fail cheaply first; configuration, tokenizer, records; weights and proof last."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import transformers
from transformers import set_seed

from neuralchat.checkpointing.store import read_sums
from neuralchat.config.config import FinetuneConfig
from neuralchat.console import inform, note
from neuralchat.data.given_records import GivenRecords
from neuralchat.data.layout import Layout
from neuralchat.data.prepared_data import PreparedData
from neuralchat.distributed.hardware import read_machine
from neuralchat.distributed.preflight import Link, facts_of_rank, preflight
from neuralchat.errors import ArgumentsError, ModelError
from neuralchat.models.adapters.build import add_adapter
from neuralchat.models.fast_paths import take_fast_paths
from neuralchat.models.loading.base_fingerprint import base_fingerprint
from neuralchat.models.loading.base_model import ModelSource, check_vocabulary, grow_embeddings, load_model
from neuralchat.models.loading.precision import Precision, choose_precision
from neuralchat.preparation.before_loading import check_fits
from neuralchat.preparation.expected import Expected, expected_cost
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
    # What a step will take, by small passes over a few records.
    expected: Expected
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
    def micro_batch_tokens(self) -> int:
        return self.expected.micro_batch_tokens

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
    recomputes = bool(training.activation_checkpointing)
    check_fits(run, precision, recomputes=recomputes, may_recompute=may_recompute(arguments))
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
    layout = prepare_packing(model, arguments, data, tokenizer, precision)
    if arguments.tuning.lora_init == "apart":
        start_apart(model, arguments, data, tokenizer, layout, restored=resume is not None)
    if training.activation_checkpointing:
        recompute_activations(model, training)
    measured = partial(
        expected_cost,
        model,
        arguments,
        training,
        data,
        layout,
        pad_id=tokenizer.pad_token_id,
        precision=precision,
        kernels=fast_paths.kernels,
        units_per_step=identity["global_batch"],
    )
    expected = measured(may_recompute=may_recompute(arguments))
    if expected is None:
        note(
            "activations do not fit into the memory: they are computed again in each backward pass, as with "
            "--gradient_checkpointing True, which changes no result and takes about a third longer"
        )
        training.activation_checkpointing = True
        recompute_activations(model, training)
        expected = measured(may_recompute=False)
    assert expected is not None
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
        expected=expected,
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


def may_recompute(arguments: FinetuneConfig) -> bool:
    """Whether nobody has said whether activations are to be recomputed."""
    return not {"gradient_checkpointing", "activation_checkpointing"} & arguments.given


def recompute_activations(model: Any, training: transformers.TrainingArguments) -> None:
    """Let no layer keep its activations for backward, as --gradient_checkpointing asks for."""
    options: dict[str, Any] = dict(training.activation_checkpointing_kwargs or {})  # type: ignore[arg-type]
    model.activation_checkpointing_enable(
        every_n_layers=options.pop("every_n_layers", 1),
        offload=options.pop("offload", False),
        activation_checkpointing_kwargs=options or None,
    )


def keep_initial_adapter(model: Any) -> tempfile.TemporaryDirectory[str]:
    directory = tempfile.TemporaryDirectory(prefix="neuralchat-")
    # As PEFT's guide to PiSSA asks: https://huggingface.co/docs/peft/developer_guides/lora#pissa
    model.peft_config[model.active_adapter].init_lora_weights = True
    model.save_pretrained(directory.name)
    model.peft_config[model.active_adapter].init_lora_weights = "pissa"
    return directory
