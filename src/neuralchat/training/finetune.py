"""Fine-tuning from the first word of the command to the finished run directory."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from transformers import TrainerCallback

from neuralchat.checkpointing.select import SharedCheckpoint, asks_to_resume, checkpoint_to_resume
from neuralchat.checkpointing.store import check_room, failures_told, sweep
from neuralchat.config.command.parser import parse
from neuralchat.config.config import FinetuneConfig
from neuralchat.config.schema import ORIGINAL_SCHEMA, SCHEMA
from neuralchat.console import inform, is_first_rank, is_log_shown, note, show_page
from neuralchat.data.given_records import GivenRecords
from neuralchat.data.prepared_data import PreparedData
from neuralchat.data_tools.quick_check import quick_findings, told_findings_line
from neuralchat.distributed.collectives import run_on_rank_zero
from neuralchat.distributed.launchers import World, export_world, read_world
from neuralchat.distributed.local_ranks import start_local_ranks, wants_local_ranks, words_of_rank
from neuralchat.distributed.rendezvous import joined
from neuralchat.export.hub import HubUpload
from neuralchat.planning.earlier_runs import remember
from neuralchat.planning.memory import checkpoint_bytes
from neuralchat.planning.process_memory import peak_memory_mb
from neuralchat.preparation.packages import check_packages
from neuralchat.preparation.session import Session, make_session
from neuralchat.runs.directory import MANIFEST, check_output_directory, prepare_output_directory
from neuralchat.runs.lock import RunLock
from neuralchat.runs.results import RunResults
from neuralchat.runs.summary import summary
from neuralchat.training.assemble import make_training
from neuralchat.training.manifest import finish
from neuralchat.training.run_clock import RunClock
from neuralchat.training.train import train


def finetune_command(words: Sequence[str], *, prog: str, implied: Sequence[str]) -> int:
    """The whole command; returns the exit status. Raises NeuralChatError for what the user can mend."""
    world = read_world(os.environ)
    export_world(world, os.environ)
    words = words_of_rank(words, os.environ)
    # A command of the original means what it meant.
    schema = ORIGINAL_SCHEMA if prog.endswith(".py") else SCHEMA
    arguments = parse(words, prog=prog, implied=implied, schema=schema)
    if (ranks := wants_local_ranks(arguments.distributed.num_processes, os.environ)) > 1:
        grace = arguments.distributed.peer_timeout
        return start_local_ranks(words, prog=prog, num_processes=ranks, grace=grace)
    finetune_in(world, arguments)
    return 0


def finetune_in(
    world: World,
    arguments: FinetuneConfig,
    callbacks: Sequence[TrainerCallback] = (),
    given_records: Sequence[GivenRecords] = (),
) -> RunResults:
    """Fine-tune as this process's part of the `world` that its launcher has started."""
    for text in arguments.notices:
        note(text)
    if world.restart_count:
        note(f"start {world.restart_count + 1} of this job: it goes on from its last checkpoint")
        arguments = arguments.resumed()
    with joined(world, arguments):
        return finetune(arguments, callbacks, given_records)


def finetune(
    arguments: FinetuneConfig,
    callbacks: Sequence[TrainerCallback] = (),
    given_records: Sequence[GivenRecords] = (),
) -> RunResults:
    """Check, load, train, save. Nothing is written to output_dir before everything has been checked.

    `given_records` stand for the files of their names (data/given_records.py).
    """
    lock = RunLock(arguments.output_dir)
    try:
        return finetune_locked(arguments, callbacks, given_records, lock)
    finally:
        # However it ends: a program that goes on may try again.
        lock.release()


def finetune_locked(
    arguments: FinetuneConfig,
    callbacks: Sequence[TrainerCallback],
    given_records: Sequence[GivenRecords],
    lock: RunLock,
) -> RunResults:
    start, clock = time.perf_counter(), RunClock(arguments.tuning.max_hours, arguments.tuning.save_every_minutes)
    output, overwrite = arguments.output_dir, arguments.tuning.overwrite_output_dir
    checkpoint = run_on_rank_zero(lambda: chosen_checkpoint(arguments, output, lock))
    check_packages(arguments)
    if not arguments.model.use_fast_tokenizer:
        note("--use_fast_tokenizer false: transformers 5 has one kind of tokenizer, which reads both")
    shared = SharedCheckpoint(checkpoint)
    findings: list[dict[str, Any]] = []
    look = partial(look_at_records, findings) if arguments.training.do_train else None
    session = make_session(arguments, shared.path, given_records, before_model=look)

    def prepare() -> None:
        prepare_output_directory(output, overwrite=False)
        if not lock.is_held:
            # Before anything is deleted: it might be another run's. Which may have begun, and even ended, since the
            # directory was found empty.
            lock.take()
            check_output_directory(output, overwrite=overwrite, resume=False)
        prepare_output_directory(output, overwrite=overwrite)
        check_room(output, 2 * checkpoint_bytes(session.model, session.training.optim))

    run_on_rank_zero(prepare)
    uploads = [HubUpload(output, session.training)] if session.training.push_to_hub else []
    found = train(session, make_training(session, [*uploads, *callbacks], clock))
    seconds = time.perf_counter() - start
    results = replace(
        found, seconds=seconds, peak_memory_mb=peak_memory_mb(), data_findings=findings[0] if findings else None
    )
    run_on_rank_zero(lambda: learn_from(session, results))
    manifest = run_on_rank_zero(lambda: write_results(output, session, results))
    if manifest is not None and is_log_shown() and is_first_rank():
        show_page(summary(output, manifest))
    for upload in uploads:
        run_on_rank_zero(upload.upload_result)
    return results


def learn_from(session: Session, results: RunResults) -> None:
    """Let the next forecast of such a run know how far this one was off."""
    told, expected = results.forecast, session.expected
    # What was evaluated meanwhile is no part of the forecast.
    if told is None or (session.data.validation is not None and session.training.eval_strategy != "no"):
        return
    remember(
        expected.kind,
        forecast_seconds=told["training_seconds"] / expected.corrections.time,
        seconds=results.training_seconds,
        forecast_memory_mb=expected.memory.uncorrected.run_peak_bytes / 2**20,
        memory_mb=results.peak_memory_mb,
    )


def look_at_records(findings: list[dict[str, Any]], data: PreparedData) -> None:
    """Add to `findings` what a quick look at the records finds, told in one line; all ranks get what the first sees."""
    found = run_on_rank_zero(lambda: quick_findings(data.train_source, data.validation_source))
    findings.append(found)
    (note if found["counts"]["error"] else inform)(told_findings_line(found))


def write_results(output: Path, session: Session, results: RunResults) -> dict[str, Any] | None:
    """The manifest; None where this process writes none. What is shown of it is no part of saving it."""
    with failures_told(output, MANIFEST):
        return finish(output, session, results)


def chosen_checkpoint(arguments: FinetuneConfig, output: Path, lock: RunLock) -> Path | None:
    """What to go on from; the output directory is checked, and locked if it is there already."""
    wanted = arguments.training.resume_from_checkpoint
    resume = asks_to_resume(wanted)
    overwrite = arguments.tuning.overwrite_output_dir
    check_output_directory(output, overwrite=overwrite, resume=resume)
    if (resume or overwrite) and output.is_dir():
        lock.take()
        sweep(output)
    return checkpoint_to_resume(wanted, output, weights=arguments.tuning.method.trained_file)
