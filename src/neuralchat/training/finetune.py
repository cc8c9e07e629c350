"""Fine-tuning from the first word of the command to the finished run directory."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Sequence
from pathlib import Path

import torch
import transformers

from neuralchat.checkpointing.select import (
    AUTO,
    SharedCheckpoint,
    asks_to_resume,
    checkpoint_to_resume,
    restore_metrics,
)
from neuralchat.checkpointing.store import check_room, failures_told, sweep
from neuralchat.config.parser import FinetuneConfig, make_parser, parse
from neuralchat.console import clock, inform, note
from neuralchat.data.batch_plan import BatchPlan
from neuralchat.data.records import Record
from neuralchat.data.step_loader import StepParts
from neuralchat.distributed.collectives import agreed
from neuralchat.distributed.launchers import export_world, read_world
from neuralchat.distributed.local_ranks import start_local_ranks, wants_local_ranks
from neuralchat.distributed.rendezvous import joined
from neuralchat.errors import ArgumentsError
from neuralchat.models.kernels import compiled
from neuralchat.models.loading.base_model import parameter_counts
from neuralchat.runs.directory import (
    MANIFEST,
    METRICS,
    check_output_directory,
    prepare_output_directory,
    read_metrics,
    trained_file,
)
from neuralchat.runs.lock import RunLock
from neuralchat.training.forecast import TimeForecast
from neuralchat.training.memory import checkpoint_bytes
from neuralchat.training.progress import Progress
from neuralchat.training.results import Results, finish, peak_memory_mb
from neuralchat.training.sample_answers import Sample, ask, question_of, rouge_of_held_out, sample_records
from neuralchat.training.session import Session, check_extras, make_session
from neuralchat.training.signals import SignalWishes
from neuralchat.training.stopped import run_steps, saved_if_stopped
from neuralchat.training.trainer import FineTuningTrainer


def finetune_command(words: Sequence[str], *, prog: str, implied: Sequence[str]) -> int:
    """The whole command; returns the exit status. Raises NeuralChatError for what the user can mend."""
    if any(word in ("-h", "--help") for word in words):
        make_parser(prog).print_help()
        return 0
    world = read_world(os.environ)
    export_world(world, os.environ)
    arguments = parse(words, prog=prog, implied=implied)
    if (ranks := wants_local_ranks(arguments.distributed.num_processes, os.environ)) > 1:
        grace = arguments.distributed.peer_timeout
        return start_local_ranks(words, prog=prog, num_processes=ranks, grace=grace)
    for text in arguments.notices:
        note(text)
    if world.restart_count:
        note(f"start {world.restart_count + 1} of this job: it goes on from its last checkpoint")
        arguments.training.resume_from_checkpoint = AUTO
        arguments.tuning.overwrite_output_dir = False
    with joined(world, arguments):
        finetune(arguments)
    return 0


def finetune(arguments: FinetuneConfig) -> Results:
    """Check, load, train, save. Nothing is written to output_dir before everything has been checked."""
    start = time.perf_counter()
    output = arguments.output_dir
    overwrite = arguments.tuning.overwrite_output_dir
    lock = RunLock(output)
    checkpoint = agreed(lambda: chosen_checkpoint(arguments, output, lock))
    check_extras(arguments)
    if not arguments.model.use_fast_tokenizer:
        note("--use_fast_tokenizer false: transformers 5 has one kind of tokenizer, which reads both")
    shared = SharedCheckpoint(checkpoint)
    session = make_session(arguments, shared.path)

    def prepare() -> None:
        prepare_output_directory(output, overwrite=False)
        # Before anything is deleted: it might be another run's.
        lock.take()
        prepare_output_directory(output, overwrite=overwrite)
        check_room(output, 2 * checkpoint_bytes(session.model, session.arguments.training.optim))

    agreed(prepare)
    try:
        results = train(session)
        results.seconds = time.perf_counter() - start
        results.peak_memory_mb = peak_memory_mb()
        agreed(lambda: tell_results(output, session, results))
    finally:
        lock.release()
    return results


def tell_results(output: Path, session: Session, results: Results) -> None:
    with failures_told(output, MANIFEST):
        finish(output, session, results)


def chosen_checkpoint(arguments: FinetuneConfig, output: Path, lock: RunLock) -> Path | None:
    """What to go on from; the output directory is checked, and locked if it is there already."""
    wanted = arguments.training.resume_from_checkpoint
    resume = asks_to_resume(wanted)
    overwrite = arguments.tuning.overwrite_output_dir
    check_output_directory(output, overwrite=overwrite, resume=resume)
    if (resume or overwrite) and output.is_dir():
        lock.take()
        sweep(output)
    return checkpoint_to_resume(wanted, output, weights=trained_file(arguments.tuning.peft))


def plan_order(session: Session) -> str:
    order = str(session.training.train_sampling_strategy)
    # Packed batches hold no padding that sorting could save.
    return "random" if order == "group_by_length" and session.packed else order


def batch_plan(session: Session) -> BatchPlan:
    arguments, training = session.arguments, session.training
    rows = session.packed and arguments.data.dataset_concatenation
    seed = training.seed if training.data_seed is None else training.data_seed
    store = session.data.trained_on
    return BatchPlan(
        fingerprint=store.content_fingerprint,
        lengths=tuple(store.lengths.tolist()),
        seed=seed,
        units_per_step=session.identity["global_batch"],
        row_tokens=row_tokens(session) if rows else None,
        drop_last=training.dataloader_drop_last,
        order=plan_order(session),
    )


def row_tokens(session: Session) -> int:
    data = session.arguments.data
    pairs = session.layout is not None and session.layout.decoder_start_id is not None
    return data.max_source_length + data.max_target_length if pairs else data.max_seq_length


def make_trainer(session: Session, wishes: SignalWishes) -> FineTuningTrainer:
    training, tuning = session.training, session.arguments.tuning
    plan = batch_plan(session)
    if plan.steps == 0:
        raise ArgumentsError(
            f"--dataloader_drop_last leaves no step: {len(plan.units)} unit(s) of data are fewer than a batch of "
            f"{plan.units_per_step}"
        )
    parts = StepParts(
        session.data.trained_on, plan, accumulation_steps=training.gradient_accumulation_steps,
        rank=training.process_index, world=training.world_size, micro_batch_tokens=session.micro_batch_tokens,
        layout=session.layout,
    )  # fmt: skip
    progress = Progress(Path(str(training.output_dir)) / METRICS)
    trainer = FineTuningTrainer(
        parts=parts, pad_id=session.tokenizer.pad_token_id, model=session.model, args=training,
        eval_dataset=session.data.validation, processing_class=session.tokenizer, callbacks=[progress],
        initial_adapter=session.initial_adapter.name if session.initial_adapter else None, wishes=wishes,
        on_nonfinite=tuning.on_nonfinite, identity=session.identity,
    )  # fmt: skip
    progress.trainer = trainer
    trainer.remove_callback(transformers.PrinterCallback)
    return trainer


def train(session: Session) -> Results:
    tuning, training = session.arguments.tuning, session.training
    wishes = SignalWishes()
    trainer = make_trainer(session, wishes)
    if session.packed and training.train_sampling_strategy == "group_by_length":
        note("--train_sampling_strategy group_by_length saves nothing where there is no padding; the order is random")
    trained, total = parameter_counts(session.model)
    results = Results(trained_parameters=trained, total_parameters=total, packed=session.packed)
    describe(session, trainer, results)
    if training.do_train:
        agreed(lambda: restore_metrics(trainer.output, session.resume))
    records = sample_records(session.data, tuning.report_samples) if training.do_train else []
    before = ask(session.model, session.tokenizer, session.data, records, tuning.sample_tokens)
    if session.data.validation is not None:
        results.held_out_loss_before = loss_before(trainer, session)
    if not training.do_train:
        return results
    start = time.perf_counter()
    with wishes:
        outcome = run_steps(trainer, session)
        results.training_seconds = time.perf_counter() - start
        results.steps = trainer.state.global_step
        results.mean_loss = outcome
        results.tokens = trainer.tokens_seen
        results.tokens_this_time = trainer.tokens_seen - trainer.tokens_before
        results.skipped_steps = trainer.skipped_steps
        # Before anything else, so that nothing that follows can cost it.
        agreed(trainer.save_result)
        with saved_if_stopped(trainer, session):
            measure_after(trainer, session, records, before, results)
    return results


def loss_before(trainer: FineTuningTrainer, session: Session) -> float | None:
    """The held-out loss before the first step; a resumed run has it in its metrics."""
    if session.resume is None or not session.training.do_train:
        return trainer.evaluate()["eval_loss"]
    return next((line.get("eval_loss") for line in read_metrics(session.resume) if line.get("step") == 0), None)


def measure_after(
    trainer: FineTuningTrainer, session: Session, records: Sequence[Record], before: Sequence[str], results: Results
) -> None:
    tuning = session.arguments.tuning
    if session.data.validation is not None:
        results.held_out_loss_after = trainer.evaluate()["eval_loss"]
    after = ask(session.model, session.tokenizer, session.data, records, tuning.sample_tokens)
    if tuning.predict_with_generate:
        results.rouge = rouge_of_held_out(session)
    results.samples = [
        Sample(question_of(record), record.turns[-1].content, old, new)
        for record, old, new in zip(records, before, after, strict=True)
    ]


def describe(session: Session, trainer: FineTuningTrainer, results: Results) -> None:
    """What will happen, before it does."""
    plan, training = trainer.parts.plan, session.training
    label = "train" if session.data.train is not None else "validation"
    counts = session.data.counts[label]
    units = "rows" if plan.row_tokens else "examples"
    precision = session.precision.as_dict()
    compiles = session.arguments.tuning.compile_kernels and compiled.library("elementwise", BF16=0) is not None
    kernels = "compiled" if compiles else "torch"
    inform(
        f"{counts['examples']} examples, {counts['tokens']} tokens, "
        f"template {session.data.template.name}\n"
        f"{session.arguments.tuning.peft}: {results.trained_parameters:,} of {results.total_parameters:,} parameters "
        f"trained; weights {precision['storage']}, arithmetic {precision['compute']}\n"
        f"{plan.steps} steps an epoch of {plan.units_per_step} {units}, "
        f"{'packed' if session.packed else 'padded'}, {torch.get_num_threads()} threads, "
        f"{kernels} kernels; "
        f"output in {training.output_dir}"
    )
    if training.do_train:
        forecast = time_forecast(session, plan, results.trained_parameters)
        shared = f", {forecast.communication_share:.1%} of it between ranks" if forecast.link else ""
        inform(f"forecast: {forecast.steps} steps, about {clock(forecast.seconds)} of training{shared}")


def time_forecast(session: Session, plan: BatchPlan, trained_parameters: int) -> TimeForecast:
    training = session.training
    steps = training.max_steps if training.max_steps > 0 else math.ceil(training.num_train_epochs * plan.steps)
    return TimeForecast(
        steps=steps,
        tokens_per_step=sum(plan.lengths) / plan.steps,
        seconds_per_token=session.seconds_per_token,
        world_size=training.world_size,
        gradient_bytes=4 * trained_parameters,
        link=session.link,
    )
