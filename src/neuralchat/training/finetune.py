"""Fine-tuning from the first word of the command to the finished run directory."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
import transformers

from neuralchat.errors import ArgumentsError, tell
from neuralchat.models import compiled
from neuralchat.models.loading import (
    parameter_counts,
)
from neuralchat.run_directory import METRICS, check_output_directory, prepare_output_directory, trained_file
from neuralchat.training.batch_plan import BatchPlan
from neuralchat.training.command_line import FinetuneArguments, make_parser, parse
from neuralchat.training.interruption import SaveOnSignal
from neuralchat.training.progress import Progress
from neuralchat.training.results import Results, finish, peak_memory_mb
from neuralchat.training.resume import asks_to_resume, checkpoint_to_resume, trim_metrics
from neuralchat.training.samples import Sample, ask, question_of, rouge_of_held_out, sample_records
from neuralchat.training.session import Session, check_extras, make_session
from neuralchat.training.step_loader import StepParts
from neuralchat.training.trainer import FineTuningTrainer

Say = Callable[[str], None]


def finetune_command(words: Sequence[str], *, prog: str, implied: Sequence[str]) -> int:
    """The whole command; returns the exit status. Raises NeuralChatError for what the user can mend."""
    if any(word in ("-h", "--help") for word in words):
        make_parser(prog).print_help()
        return 0
    arguments = parse(words, prog=prog, implied=implied, say=tell)
    finetune(arguments, say=tell)
    return 0


def finetune(arguments: FinetuneArguments, *, say: Say) -> Results:
    """Check, load, train, save. Nothing is written to output_dir before everything has been checked."""
    start = time.perf_counter()
    output = Path(arguments.training_values["output_dir"])
    wanted = arguments.training_values["resume_from_checkpoint"]
    check_output_directory(output, overwrite=arguments.tuning.overwrite_output_dir, resume=asks_to_resume(wanted))
    resume = checkpoint_to_resume(wanted, output, say, weights=trained_file(arguments.tuning.peft))
    check_extras(arguments)
    if not arguments.model.use_fast_tokenizer:
        say("--use_fast_tokenizer false: transformers 5 has one kind of tokenizer, which reads both")
    session = make_session(arguments, resume, say)
    prepare_output_directory(output, overwrite=arguments.tuning.overwrite_output_dir)
    results = train(session, say)
    results.seconds = time.perf_counter() - start
    results.peak_memory_mb = peak_memory_mb()
    finish(output, session, results)
    return results


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
        fingerprint=store.fingerprint,
        lengths=tuple(store.lengths.tolist()),
        seed=seed,
        units_per_step=training.per_device_train_batch_size
        * training.gradient_accumulation_steps
        * training.world_size,
        row_tokens=row_tokens(session) if rows else None,
        drop_last=training.dataloader_drop_last,
        order=plan_order(session),
    )


def row_tokens(session: Session) -> int:
    data = session.arguments.data
    pairs = session.layout is not None and session.layout.decoder_start_id is not None
    return data.max_source_length + data.max_target_length if pairs else data.max_seq_length


def make_trainer(session: Session) -> FineTuningTrainer:
    training, tuning = session.training, session.arguments.tuning
    plan = batch_plan(session)
    if plan.steps == 0:
        raise ArgumentsError(
            f"--dataloader_drop_last leaves no step: {len(plan.units)} unit(s) of data are fewer than a batch of "
            f"{plan.units_per_step}"
        )
    parts = StepParts(
        session.data.trained_on, plan, accumulation_steps=training.gradient_accumulation_steps,
        rank=training.process_index, world=training.world_size, micro_batch_tokens=tuning.micro_batch_tokens,
        layout=session.layout,
    )  # fmt: skip
    progress = Progress(Path(str(training.output_dir)) / METRICS)
    trainer = FineTuningTrainer(
        parts=parts, pad_id=session.tokenizer.pad_token_id, model=session.model, args=training,
        eval_dataset=session.data.validation, processing_class=session.tokenizer, callbacks=[progress],
        initial_adapter=session.initial_adapter.name if session.initial_adapter else None,
    )  # fmt: skip
    progress.trainer = trainer
    trainer.remove_callback(transformers.PrinterCallback)
    return trainer


def train(session: Session, say: Say) -> Results:
    tuning, training = session.arguments.tuning, session.training
    trainer = make_trainer(session)
    if session.packed and training.train_sampling_strategy == "group_by_length":
        say("--train_sampling_strategy group_by_length saves nothing where there is no padding; the order is random")
    trained, total = parameter_counts(session.model)
    results = Results(trained_parameters=trained, total_parameters=total, packed=session.packed)
    describe(session, trainer, results)
    records = sample_records(session.data, tuning.report_samples) if training.do_train else []
    before = ask(session.model, session.tokenizer, session.data, records, tuning.sample_tokens)
    if session.data.validation is not None and (session.resume is None or not training.do_train):
        results.held_out_loss_before = trainer.evaluate()["eval_loss"]
    if not training.do_train:
        return results
    if session.resume is not None:
        trim_metrics(Path(str(training.output_dir)) / METRICS, session.resume)
    start = time.perf_counter()
    signals = SaveOnSignal()
    trainer.add_callback(signals)
    try:
        outcome = trainer.train(resume_from_checkpoint=str(session.resume) if session.resume else None)
    finally:
        signals.restore()
    signals.check(Path(str(training.output_dir)), trainer.state)
    results.training_seconds = time.perf_counter() - start
    results.steps = trainer.state.global_step
    results.mean_loss = outcome.training_loss
    results.tokens = trainer.tokens_seen
    # A resumed run counts tokens on from before; the time of this part goes with this part's tokens.
    results.tokens_this_time = trainer.tokens_seen - trainer.tokens_before
    if session.data.validation is not None:
        results.held_out_loss_after = trainer.evaluate()["eval_loss"]
    after = ask(session.model, session.tokenizer, session.data, records, tuning.sample_tokens)
    if tuning.predict_with_generate:
        results.rouge = rouge_of_held_out(session)
    results.samples = [
        Sample(question_of(record), record.turns[-1].content, old, new)
        for record, old, new in zip(records, before, after, strict=True)
    ]
    trainer.save_model()
    return results


def describe(session: Session, trainer: FineTuningTrainer, results: Results) -> None:
    """What will happen, before it does."""
    plan, training = trainer.parts.plan, session.training
    label = "train" if session.data.train is not None else "validation"
    counts = session.data.counts[label]
    units = "rows" if plan.row_tokens else "examples"
    precision = session.precision.as_dict()
    print(
        f"{counts['examples']} examples, {counts['tokens']} tokens, "
        f"template {session.data.template.name}\n"
        f"{session.arguments.tuning.peft}: {results.trained_parameters:,} of {results.total_parameters:,} parameters "
        f"trained; weights {precision['storage']}, arithmetic {precision['compute']}\n"
        f"{plan.steps} steps an epoch of {plan.units_per_step} {units}, "
        f"{'packed' if session.packed else 'padded'}, {torch.get_num_threads()} threads, "
        f"{'compiled' if compiled.library('elementwise', BF16=0) else 'torch'} kernels; "
        f"output in {training.output_dir}",
        file=sys.stderr,
        flush=True,
    )
