"""arguments -> what a run trains on, and its arguments as they fit that: all that is known without weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from transformers import AddedToken

from neuralchat.checkpointing.fingerprint import ROUNDING, as_begun, check_identity, identity_of
from neuralchat.checkpointing.select import global_batch, identity_of_run, stored_identity
from neuralchat.config.config import FinetuneConfig
from neuralchat.config.conversion import is_true
from neuralchat.config.facts import FALSE_WORDS, TRUE_WORDS
from neuralchat.console import note
from neuralchat.data.given_records import GivenRecords
from neuralchat.data.prepared_data import PreparedData, prepare
from neuralchat.data.templates.making import read_template
from neuralchat.distributed.collectives import run_first_on_each_host
from neuralchat.models.adapters.rehearsal import rehearse
from neuralchat.models.families.architecture import is_encoder_decoder
from neuralchat.models.loading.base_fingerprint import base_fingerprint
from neuralchat.models.loading.base_model import ModelSource, load_config, load_tokenizer, rows_of
from neuralchat.preparation.fitting import (
    check_architecture,
    with_fitting_length,
    with_fitting_rate,
    with_fitting_start,
    within_positions,
)
from neuralchat.runs.directory import read_manifest


@dataclass(frozen=True, kw_only=True)
class RunData:
    """`arguments` fit the model and the data. `added_tokens`: ids of --special_tokens. `world_size`: processes.
    `parameters`: (trained, all); None where they are known with the weights only.
    """

    arguments: FinetuneConfig
    source: ModelSource
    config: Any
    tokenizer: Any
    added_tokens: tuple[int, ...]
    data: PreparedData
    world_size: int
    parameters: tuple[int, int] | None

    @property
    def own_batch(self) -> int:
        """Units of an optimizer step as the arguments have it, all processes and accumulation steps together."""
        training = self.arguments.training
        return training.per_device_train_batch_size * training.gradient_accumulation_steps * self.world_size


def make_run_data(
    arguments: FinetuneConfig,
    resume: Path | None = None,
    given_records: Sequence[GivenRecords] = (),
    *,
    world_size: int | None = None,
) -> RunData:
    """`resume`: the checkpoint to go on from. `world_size`: how many processes train; None: as many as there are."""
    source = source_of(arguments)
    config = load_config(source)
    check_architecture(arguments, config)
    parameters = rehearse(config, arguments.tuning)
    arguments = with_fitting_rate(within_positions(arguments, config), config)
    arguments = with_fitting_start(arguments, config)
    of_this_version, kept = arguments, dict[str, Any]()
    if resume is not None:
        arguments, kept = as_begun(arguments, stored_identity(resume))
    tokenizer = load_tokenizer(source, rows_of(config))
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
    world_size = world_size or arguments.training_arguments().world_size
    fitted = partial(with_fitting_length, examples=len(data.trained_on), units=units, world_size=world_size)
    if kept:
        tell_kept(kept, fitted(of_this_version))
    return RunData(
        arguments=fitted(arguments),
        source=source,
        config=config,
        tokenizer=tokenizer,
        added_tokens=added,
        data=data,
        world_size=world_size,
        parameters=parameters,
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


def checked_identity(run: RunData, resume: Path | None, *, computes: bool = True) -> dict[str, Any]:
    """What decides the result, compared with the checkpoint to go on from or the run to repeat.

    `computes`: False where nothing is, so that what only rounds otherwise is told by nobody.
    """
    tuning = run.arguments.tuning
    stored, where = None, ""
    if resume is not None:
        stored, where = stored_identity(resume), str(resume)
    elif tuning.from_run is not None:
        stored, where = identity_of_run(Path(tuning.from_run)), tuning.from_run
    identity = identity_of(
        run.arguments,
        run.data,
        base_fingerprint(run.source),
        units_per_step=global_batch(stored, run.own_batch, run.world_size),
        world_size=run.world_size,
    )
    if stored is not None:
        if not computes:
            identity |= {name: stored[name] for name in ROUNDING if name in stored}
        notices = check_identity(stored, identity, tuning.allow_changed, where=where, resumed=resume is not None)
        for notice in notices:
            note(notice)
    return identity


def add_tokens(tokenizer: Any, tokens: list[str]) -> tuple[int, ...]:
    """Ids of the tokens asked for, new ones added; they are recognised in the text of records and of chats."""
    known = [token for token in tokens if token in tokenizer.get_vocab()]
    if known:
        note(f"--special_tokens: already in the vocabulary, trained all the same: {', '.join(known)}")
    tokenizer.add_tokens([AddedToken(token, normalized=False) for token in tokens if token not in known])
    return tuple(tokenizer.convert_tokens_to_ids(tokens))


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
