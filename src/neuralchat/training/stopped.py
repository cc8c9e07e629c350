"""Training that was left before its end: what was asked for, or memory, and how it goes on."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager

from neuralchat.console import note
from neuralchat.distributed.collectives import gathered, told_by_first
from neuralchat.training.memory import SMALLEST_MICRO_BATCH
from neuralchat.training.session import Session
from neuralchat.training.signals import InterruptedTrainingError
from neuralchat.training.trainer import FineTuningTrainer
from neuralchat.training.trouble import Kind, OutOfMemoryError, StepAbandonedError


def run_steps(trainer: FineTuningTrainer, session: Session) -> float:
    """All steps that are left; returns the mean training loss of the whole run.

    Raises InterruptedTrainingError after a signal and OutOfMemoryError where memory ran out; the last finished step is
    saved then.
    """
    resume = session.resume
    while True:
        try:
            trainer.train(resume_from_checkpoint=str(resume) if resume else None)
            return trainer._total_loss_scalar / max(trainer.state.global_step, 1)
        except StepAbandonedError as left:
            trainer.save_now()
            checkpoint = trainer.output / f"checkpoint-{trainer.state.global_step}"
            if left.kind is Kind.STOP:
                raise interrupted(trainer, session) from None
            take_smaller_micro_batches(trainer, session, left.what)
            resume = checkpoint


@contextmanager
def saved_if_stopped(trainer: FineTuningTrainer, session: Session) -> Iterator[None]:
    """For what follows training: a stop there finds the last step saved, and the command to go on works."""
    try:
        yield
    except StepAbandonedError:
        trainer.save_now()
        raise interrupted(trainer, session) from None


def interrupted(trainer: FineTuningTrainer, session: Session) -> InterruptedTrainingError:
    number = next((n for n in gathered(trainer.wishes.stop) if n is not None), signal.SIGTERM)
    state = trainer.state
    checkpoint = trainer.output / f"checkpoint-{state.global_step}"
    error = InterruptedTrainingError(
        f"stopped by {signal.Signals(number).name} after step {state.global_step} of {state.max_steps}; all is saved "
        f"in {checkpoint}. Go on with{how_to_go_on(session)}",
        number,
    )
    return told_by_first(error)


def how_to_go_on(session: Session, *more: str) -> str:
    """The end of a sentence: what to type, with `more` words at its end."""
    if session.training.world_size > 1:
        return f" the same launch and {' '.join(('--resume_from_checkpoint auto', *more))}."
    return f":\n  {' '.join((session.arguments.command_to_resume(), *more))}"


def take_smaller_micro_batches(trainer: FineTuningTrainer, session: Session, what: str) -> None:
    """Halve what is computed at once. Raises OutOfMemoryError where that is not asked for, or cannot help."""
    parts = trainer.parts
    longest = int(parts.store.lengths.max())
    smaller = parts.micro_batch_tokens // 2
    told = f"memory ran out at step {trainer.state.global_step + 1} ({what}); the steps before it are saved. "
    error: OutOfMemoryError | None = None
    if smaller < max(SMALLEST_MICRO_BATCH, longest // 2):
        error = OutOfMemoryError(
            f"{told}--micro_batch_tokens {parts.micro_batch_tokens} is too small to halve for examples of {longest} "
            f"tokens. Go on with{how_to_go_on(session, '--gradient_checkpointing')}"
        )
    elif not session.arguments.tuning.auto_micro_batch:
        error = OutOfMemoryError(
            f"{told}Smaller micro-batches change no result (--auto_micro_batch takes them by itself). Go on with"
            f"{how_to_go_on(session, '--micro_batch_tokens', str(smaller))}"
        )
    if error is not None:
        raise told_by_first(error)
    note(f"{told}Going on with --micro_batch_tokens {smaller}, which changes no result")
    parts.micro_batch_tokens = session.micro_batch_tokens = smaller
