"""arguments -> session: all that can fail cheaply first; configuration, tokenizer, records; weights and proof last."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import transformers
from transformers import AddedToken, set_seed

from neuralchat.checkpointing.fingerprint import as_begun, check_identity, identity_of
from neuralchat.checkpointing.select import global_batch, identity_of_run, stored_identity
from neuralchat.checkpointing.store import read_sums
from neuralchat.config.config import FinetuneConfig
from neuralchat.config.conversion import FALSE_WORDS, TRUE_WORDS, is_true
from neuralchat.console import gib, inform, note
from neuralchat.data.given_records import GivenRecords
from neuralchat.data.layout import Layout
from neuralchat.data.prepared_data import PreparedData, prepare
from neuralchat.data.templates.making import read_template
from neuralchat.distributed.collectives import all_gather_object, local_size, run_first_on_each_host
from neuralchat.distributed.hardware import read_machine
from neuralchat.distributed.preflight import Link, facts_of_rank, preflight
from neuralchat.errors import ModelError
from neuralchat.models.adapters.build import add_adapter
from neuralchat.models.adapters.rehearsal import rehearse
from neuralchat.models.families.architecture import is_encoder_decoder
from neuralchat.models.fast_paths import take_fast_paths
from neuralchat.models.loading.base_fingerprint import base_fingerprint
from neuralchat.models.loading.base_model import (
    ModelSource,
    check_vocabulary,
    grow_embeddings,
    load_config,
    load_model,
    load_tokenizer,
)
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
from neuralchat.preparation.fitting import (
    check_architecture,
    with_fitting_batch,
    with_fitting_rate,
    with_fitting_start,
    within_positions,
)
from neuralchat.preparation.packed_rows import prepare_packing
from neuralchat.preparation.repeated import check_same_layers
from neuralchat.preparation.start_apart import start_apart
from neuralchat.runs.directory import read_manifest


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

    @property
    def row_tokens(self) -> int:
        """How long a row of --dataset_concatenation is."""
        data = self.arguments.data
        encoder_decoder = self.layout is not None and self.layout.decoder_start_id is not None
        return data.max_source_length + data.max_target_length if encoder_decoder else data.max_seq_length


def make_session(arguments: FinetuneConfig, resume: Path | None, given_records: Sequence[GivenRecords] = ()) -> Session:
    resume_sums = b"" if resume is None else read_sums(resume)
    if arguments.training.log_level != "passive":
        transformers.logging.set_verbosity(transformers.logging.log_levels[arguments.training.log_level])
    # The libraries' bars would break our own lines.
    transformers.logging.disable_progress_bar()
    source = source_of(arguments)
    config = load_config(source)
    check_architecture(arguments, config)
    rehearse(config, arguments.tuning)
    arguments = with_fitting_rate(within_positions(arguments, config), config)
    arguments = with_fitting_start(arguments, config)
    of_this_version, kept = arguments, dict[str, Any]()
    if resume is not None:
        arguments, kept = as_begun(arguments, stored_identity(resume))
    tokenizer = load_tokenizer(source)
    if arguments.data.chat_template:
        tokenizer.chat_template = read_template(Path(arguments.data.chat_template))
    added = add_tokens(tokenizer, arguments.data.special_tokens)
    data = run_first_on_each_host(
        lambda: prepare(
            arguments.data,
            tokenizer,
            encoder_decoder=is_encoder_decoder(config),
            cache_dir=source.cache_dir,
            given=given_records,
            template_date=template_date(arguments, resume),
        )
    )
    tokens, row_tokens = int(data.trained_on.lengths.sum()), arguments.data.max_seq_length
    units = -(-tokens // row_tokens) if arguments.data.dataset_concatenation else len(data.trained_on)
    world_size = arguments.training_arguments().world_size
    if kept:
        tell_kept(kept, with_fitting_batch(of_this_version, units, world_size))
    arguments = with_fitting_batch(arguments, units, world_size)
    training = arguments.training_arguments()
    identity = checked_identity(arguments, training, source, data, resume)
    link = preflight(facts_of_rank(identity, arguments.every_value(), Path(str(training.output_dir)), read_machine()))
    set_seed(training.seed)
    precision, notice = choose_precision(bf16=arguments.bf16, trains_base=arguments.tuning.method.trains_base)
    if notice:
        note(notice)
    inform(f"loading {source.name}")
    model = load_model(source, config, precision)
    if base_fingerprint(source) != identity["base_model"]:
        raise ModelError(f"the files of {source.name} changed while they were loaded; start again when they are whole")
    if added:
        grow_embeddings(model, len(tokenizer))
    check_vocabulary(model, tokenizer)
    model = add_adapter(model, arguments.tuning, added)
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


def tell_kept(kept: Mapping[str, Any], of_this_version: FinetuneConfig) -> None:
    """Of the values that a run was begun with, those that this version would not choose by itself."""
    values = of_this_version.every_value()
    told = [f"{name} {value}" for name, value in kept.items() if values[name] != value]
    if told:
        note(f"the run was begun with defaults of an earlier version, which stay: {', '.join(told)}")


def template_date(arguments: FinetuneConfig, resume: Path | None) -> str | None:
    """The day that a chat template takes for today: as asked for, or as in the run that goes on or is repeated."""
    if arguments.data.template_date:
        return arguments.data.template_date
    found: Any = None
    if resume is not None:
        found = stored_identity(resume).get("run")
    elif arguments.tuning.from_run is not None:
        found = read_manifest(Path(arguments.tuning.from_run))
    # Others may have written it.
    for name in ("template", "definition", "date"):
        found = found.get(name) if isinstance(found, dict) else None
    return found if isinstance(found, str) else None


def checked_identity(
    arguments: FinetuneConfig,
    training: transformers.TrainingArguments,
    source: ModelSource,
    data: PreparedData,
    resume: Path | None,
) -> dict[str, Any]:
    """What decides the result, compared with the checkpoint to go on from or the run to repeat."""
    tuning = arguments.tuning
    stored, where = None, ""
    if resume is not None:
        stored, where = stored_identity(resume), str(resume)
    elif tuning.from_run is not None:
        stored, where = identity_of_run(Path(tuning.from_run)), tuning.from_run
    own = training.per_device_train_batch_size * training.gradient_accumulation_steps * training.world_size
    identity = identity_of(
        arguments,
        data,
        base_fingerprint(source),
        units_per_step=global_batch(stored, own, training.world_size),
        world_size=training.world_size,
    )
    if stored is not None:
        notices = check_identity(stored, identity, tuning.allow_changed, where=where, resumed=resume is not None)
        for notice in notices:
            note(notice)
    return identity


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


def add_tokens(tokenizer: Any, tokens: list[str]) -> tuple[int, ...]:
    """Ids of the tokens asked for, new ones added; they are recognised in the text of records and of chats."""
    known = [token for token in tokens if token in tokenizer.get_vocab()]
    if known:
        note(f"--special_tokens: already in the vocabulary, trained all the same: {', '.join(known)}")
    tokenizer.add_tokens([AddedToken(token, normalized=False) for token in tokens if token not in known])
    return tuple(tokenizer.convert_tokens_to_ids(tokens))


def keep_initial_adapter(model: Any) -> tempfile.TemporaryDirectory[str]:
    directory = tempfile.TemporaryDirectory(prefix="neuralchat-")
    # As PEFT's guide to PiSSA asks: https://huggingface.co/docs/peft/developer_guides/lora#pissa
    model.peft_config[model.active_adapter].init_lora_weights = True
    model.save_pretrained(directory.name)
    model.peft_config[model.active_adapter].init_lora_weights = "pissa"
    return directory


def source_of(arguments: FinetuneConfig) -> ModelSource:
    model, token = arguments.model, arguments.model.use_auth_token
    return ModelSource(
        name=model.model_name_or_path,
        tokenizer_name=model.tokenizer_name,
        config_name=model.config_name,
        revision=model.model_revision,
        cache_dir=model.cache_dir,
        token=(is_true(token) or None) if (token or "no").lower() in (*TRUE_WORDS, *FALSE_WORDS) else token,
        trust_remote_code=model.trust_remote_code,
    )
