"""training loop -> results: what is measured before and after, stops and lack of memory on the way."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

from neuralchat.checkpointing.select import restore_metrics
from neuralchat.checkpointing.validate import fits
from neuralchat.console import note
from neuralchat.data.general_prompts import GeneralPrompt
from neuralchat.data.records import Record
from neuralchat.distributed.collectives import (
    all_gather_object,
    is_distributed,
    run_on_rank_zero,
    told_by_first,
)
from neuralchat.distributed.hardware import read_machine
from neuralchat.errors import NeuralChatError
from neuralchat.evaluation.sample_answers import (
    ask,
    difference_of,
    general_answers_of,
    rouge_of_held_out,
    sample_records,
    samples_of,
    spread_prompts,
)
from neuralchat.models.adapters.build import adapter_off, base_model_of
from neuralchat.models.loading.base_model import parameter_counts
from neuralchat.planning.cautions import cautions
from neuralchat.planning.forecast import TimeForecast
from neuralchat.planning.memory import SMALLEST_MICRO_BATCH_TOKENS
from neuralchat.preparation.announce import announce
from neuralchat.preparation.fitting import fitting_rate
from neuralchat.preparation.session import Session
from neuralchat.runs.directory import read_metrics
from neuralchat.runs.results import RunResults
from neuralchat.training.assemble import Training
from neuralchat.training.stopping import (
    FailureKind,
    InterruptedTrainingError,
    OutOfMemoryError,
    OutOfTimeError,
    StepAbandonedError,
)
from neuralchat.watching.counters import Counters

# Tokens of an answer to a general question.
GENERAL_TOKENS = 32


def train(session: Session, training: Training) -> RunResults:
    """Measure, train, measure again. The trained weights are in the run directory afterwards."""
    args = session.training
    if session.packed and args.train_sampling_strategy == "group_by_length":
        note("--train_sampling_strategy group_by_length saves nothing where there is no padding; the order is random")
    trained, total = parameters = parameter_counts(session.model)
    forecast = announce(session, training.plan, training.loop.max_steps, parameters)
    results = RunResults(trained_parameters=trained, total_parameters=total, packed=session.packed)
    if args.do_train:
        usual_rate = fitting_rate(session.arguments.tuning.method, base_model_of(session.model).config)
        for text in cautions(
            session.arguments,
            args,
            training.plan,
            training.loop.max_steps,
            cpus=len(read_machine().cpus),
            usual_rate=usual_rate,
        ):
            note(text)
    with training.progress:
        results = measure_and_train(session, training, results, forecast)
    training.metrics.write_at_last()
    return results


def measure_and_train(
    session: Session, training: Training, results: RunResults, forecast: TimeForecast | None
) -> RunResults:
    """`results` and what is found besides."""
    tuning, args = session.arguments.tuning, session.training
    if args.do_train and session.resume is None:
        run_on_rank_zero(lambda: restore_metrics(session.output, None))
    asked = Asked()
    if args.do_train and tuning.report_samples:
        records = sample_records(session.data, tuning.report_samples)
        asked = Asked(records, spread_prompts(tuning.general_samples))
    with training.progress.activity("answering questions"):
        before = answers_before(session, asked)
    if session.data.validation is not None:
        results = replace(results, held_out_loss_before=loss_before(training, session))
    if not args.do_train:
        return results
    if session.resume is not None:
        training.loop.rng = training.checkpointer.restore(
            session.resume, session.resume_sums, training.state, training.parts
        )
        # When the checkpoint is known to be what was chosen.
        run_on_rank_zero(lambda: restore_metrics(session.output, session.resume))
    first, start = training.state.global_step, time.perf_counter()
    with training.signals:
        run_steps(training, session)
        seconds = time.perf_counter() - start
        results = with_counts(results, training.counters, steps=training.state.global_step, training_seconds=seconds)
        results = replace(
            results,
            micro_batch_tokens=training.loop.loader.shares.micro_batch_tokens,
            slowdowns=tuple(training.speed_watch.told),
        )
        if forecast is not None:
            told = forecast_of(session, forecast, steps=training.state.global_step - first)
            results = replace(results, forecast=told)
        if args.load_best_model_at_end:
            best = training.state
            results = replace(results, best_step=best.best_global_step, best_metric=best.best_metric)
        # Before anything else, so that nothing that follows can cost it.
        run_on_rank_zero(training.checkpointer.save_result)
        with saved_if_stopped(training, session):
            return measure_after(training, session, asked, before, results)


def forecast_of(session: Session, forecast: TimeForecast, *, steps: int) -> dict[str, Any]:
    """What had been told of these steps, to be kept beside what they took."""
    memory = session.expected.memory
    return {
        "training_seconds": forecast.seconds_of(steps),
        "peak_memory_mb": memory.run_peak_bytes >> 20,
        "memory_parts_mb": {name: size >> 20 for name, size in memory.parts().items()},
        "corrected_by_runs": session.expected.corrections.runs,
    }


@dataclass(frozen=True)
class Asked:
    """What is asked before and after training: questions of the data, and general ones."""

    records: Sequence[Record] = ()
    general: Sequence[GeneralPrompt] = ()


def answers_before(session: Session, asked: Asked) -> tuple[list[str], list[str]]:
    """As `answers_now`, of the base model: virtual tokens begin at random, and disturb it before they are trained."""
    if not session.arguments.tuning.method.virtual_tokens:
        return answers_now(session, asked)
    with adapter_off(session.model) as base:
        return answers_now(session, asked, base)


def answers_now(session: Session, asked: Asked, asked_model: Any = None) -> tuple[list[str], list[str]]:
    """(answers to the questions of the data, answers to the general ones) of the model as it is.

    `asked_model`: another one than that of the session.
    """
    tokens = session.arguments.tuning.sample_tokens
    model = session.model if asked_model is None else asked_model, session.tokenizer, session.data
    own = ask(*model, [record.turns[:-1] for record in asked.records], tokens)
    # One fact is enough for them.
    return own, ask(*model, [prompt.turns for prompt in asked.general], min(tokens, GENERAL_TOKENS))


def with_counts(results: RunResults, counters: Counters, *, steps: int, training_seconds: float) -> RunResults:
    """`results` and what was counted on the way."""
    tokens = counters.tokens - counters.tokens_before
    return replace(
        results,
        steps=steps,
        skipped_steps=counters.skipped_steps,
        mean_loss=counters.mean_loss,
        tokens=counters.tokens,
        tokens_this_time=tokens,
        training_seconds=training_seconds,
        tokens_per_s=round(tokens / training_seconds, 1),
    )


def loss_before(training: Training, session: Session) -> float | None:
    """The held-out loss before the first step; a resumed run has it in its metrics."""
    if session.resume is None or not session.training.do_train:
        return held_out_loss(training, session)
    return next((line.get("eval_loss") for line in read_metrics(session.resume) if line.get("step") == 0), None)


def held_out_loss(training: Training, session: Session) -> float:
    """Measured before or after all steps. Raises OutOfMemoryError where memory ran out and smaller pieces are not asked
    for, or cannot help; what has been trained is saved then.
    """
    while True:
        try:
            return training.loop.evaluate()["eval_loss"]
        except StepAbandonedError as left:
            if left.kind is not FailureKind.MEMORY:
                raise
            if training.state.global_step:
                training.loop.save_now()
            take_smaller_micro_batches(training, session, left.what)


def measure_after(
    training: Training,
    session: Session,
    asked: Asked,
    before: tuple[Sequence[str], Sequence[str]],
    results: RunResults,
) -> RunResults:
    """`results` and what the trained model does."""
    tuning = session.arguments.tuning
    if session.data.validation is not None:
        results = replace(results, held_out_loss_after=held_out_loss(training, session))
    with training.progress.activity("answering questions"):
        after = answers_now(session, asked)
        if tuning.predict_with_generate:
            rouge = rouge_of_held_out(
                session.model,
                session.tokenizer,
                session.data,
                max_new_tokens=tuning.generation_max_length,
                beams=tuning.generation_num_beams,
            )
            results = replace(results, rouge=rouge)
    samples, general = zip(before, after, strict=True)
    told = samples_of(asked.records, *samples)
    general_told = general_answers_of(asked.general, *general)
    parts = {"samples": told, "general_samples": general_told}
    differences = {name: found for name, part in parts.items() if (found := difference_of(part)) is not None}
    return replace(results, samples=told, general_samples=general_told, differences=differences or None)


def run_steps(training: Training, session: Session) -> None:
    """All steps that are left.

    Raises InterruptedTrainingError after a signal and OutOfMemoryError where memory ran out; the last finished step is
    saved then.
    """
    first = training.state.global_step
    while True:
        try:
            training.loop.run()
            return
        except StepAbandonedError as left:
            training.loop.save_now()
            if left.kind is FailureKind.STOP:
                raise interrupted(training, session) from None
            take_smaller_micro_batches(training, session, left.what)
        except NeuralChatError:
            raise
        except Exception:
            if session.resume is None or training.state.global_step > first or is_distributed():
                raise
            # The first step after a checkpoint: what the optimizer cannot use shows only now.
            with fits(session.resume):
                raise


@contextmanager
def saved_if_stopped(training: Training, session: Session) -> Iterator[None]:
    """For what follows training: a stop there finds the last step saved, and the command to go on works."""
    try:
        yield
    except StepAbandonedError:
        training.loop.save_now()
        raise interrupted(training, session) from None


def interrupted(training: Training, session: Session) -> NeuralChatError:
    if training.loop.clock.has_ended_run:
        return out_of_time(training, session)
    number = next((n for n in all_gather_object(training.signals.stop) if n is not None), signal.SIGTERM)
    state = training.state
    checkpoint = training.checkpointer.directory(state.global_step)
    error = InterruptedTrainingError(
        f"stopped by {signal.Signals(number).name} after step {state.global_step} of {state.max_steps}; all is saved "
        f"in {checkpoint}. Go on with{how_to_go_on(session)}",
        number,
    )
    return told_by_first(error)


def out_of_time(training: Training, session: Session) -> OutOfTimeError:
    state = training.state
    return told_by_first(
        OutOfTimeError(
            f"--max_hours {session.arguments.tuning.max_hours:g} would be over after the next step; step "
            f"{state.global_step} of {state.max_steps} is saved in "
            f"{training.checkpointer.directory(state.global_step)}. Go on with{how_to_go_on(session)}"
        )
    )


def how_to_go_on(session: Session, **more: Any) -> str:
    """The end of a sentence: what to type, with `more` arguments at its end."""
    if session.training.world_size > 1:
        flags = [f"--{name}" if value is True else f"--{name} {value}" for name, value in more.items()]
        return f" the same launch and {' '.join(('--resume_from_checkpoint auto', *flags))}."
    return f":\n  {session.arguments.command_to_resume(**more)}"


def take_smaller_micro_batches(training: Training, session: Session, what: str) -> None:
    """Halve what is computed at once. Raises OutOfMemoryError where that is not asked for, or cannot help."""
    shares = training.loop.loader.shares
    longest = int(shares.store.lengths.max())
    smaller = shares.micro_batch_tokens // 2
    told = f"memory ran out at step {training.state.global_step + 1} ({what}); the steps before it are saved. "
    error: OutOfMemoryError | None = None
    if smaller < max(SMALLEST_MICRO_BATCH_TOKENS, longest // 2):
        error = OutOfMemoryError(
            f"{told}--micro_batch_tokens {shares.micro_batch_tokens} is too small to halve for examples of {longest} "
            f"tokens. Go on with{how_to_go_on(session, gradient_checkpointing=True)}"
        )
    elif not session.arguments.tuning.fits_micro_batch:
        error = OutOfMemoryError(
            f"{told}Smaller micro-batches change no result (--auto_micro_batch takes them by itself). Go on with"
            f"{how_to_go_on(session, micro_batch_tokens=smaller)}"
        )
    if error is not None:
        raise told_by_first(error)
    note(f"{told}Going on with --micro_batch_tokens {smaller}, which changes no result")
    training.loop.loader.set_micro_batch_tokens(smaller)
