"""session -> training loop: the plan of batches, optimizer and schedule, and what watches and saves."""

from __future__ import annotations

import math
import platform
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from transformers import (
    DefaultFlowCallback,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
    enable_full_determinism,
    set_seed,
)

from neuralchat.checkpointing.checkpointer import Checkpointer
from neuralchat.config.arguments import TuningArguments
from neuralchat.console import inform
from neuralchat.console.live import LiveProgress
from neuralchat.data.batch_plan import BatchPlan
from neuralchat.data.general_plan import GeneralPlan
from neuralchat.data.step_loader import StepLoader
from neuralchat.data.step_shares import StepShares
from neuralchat.distributed.collectives import all_gather_object
from neuralchat.distributed.hardware import read_machine
from neuralchat.distributed.machine_load import read_load
from neuralchat.inference.generation.settings import end_token_ids, with_end_tokens
from neuralchat.models.adapters.build import base_model_of
from neuralchat.models.adapters.teacher import Teacher
from neuralchat.models.compat.trainer import (
    CallbackHandler,
    ExportableState,
    align_special_tokens,
    get_reporting_integration_callbacks,
    neftune_post_forward_hook,
)
from neuralchat.models.losses.causal import causal_known_states
from neuralchat.preparation.optimizer import make_optimizer, make_scheduler, refused_by_library
from neuralchat.preparation.session import Session
from neuralchat.preparation.step_rows import make_step_shares, steps_in_all
from neuralchat.runs.directory import METRICS
from neuralchat.training.callbacks import EarlyStopping, MetricsWriter, ProgressLine
from neuralchat.training.held_out import HeldOut
from neuralchat.training.loop import TrainingLoop
from neuralchat.training.manifest import model_of_run
from neuralchat.training.run_clock import RunClock
from neuralchat.training.step import GradientSum, KeptKnowledge
from neuralchat.training.stopping import StopSignals
from neuralchat.watching.counters import Counters
from neuralchat.watching.part_clock import PartClock
from neuralchat.watching.speed_watch import SpeedWatch
from neuralchat.watching.watch import Watch


@dataclass(frozen=True, kw_only=True)
class Training:
    """The loop and what of it others look at."""

    loop: TrainingLoop
    counters: Counters
    checkpointer: Checkpointer
    signals: StopSignals
    progress: LiveProgress
    metrics: MetricsWriter
    speed_watch: SpeedWatch

    @property
    def state(self) -> TrainerState:
        return self.loop.state

    @property
    def plan(self) -> BatchPlan:
        return self.loop.loader.shares.plan

    @property
    def parts(self) -> dict[str, Any]:
        """What has state of its own besides the model, its optimizer and its schedule."""
        return {"loop": self.loop, "counters": self.counters}


def make_training(
    session: Session, callbacks: Sequence[TrainerCallback] = (), clock: RunClock | None = None
) -> Training:
    """Everything ready to train, at its first step. `callbacks` are the user's; `clock` began with the run."""
    args, model = session.training, session.model
    (enable_full_determinism if args.full_determinism else set_seed)(args.seed)
    shares = make_step_shares(
        session.arguments,
        args,
        session.data,
        layout=session.layout,
        units_per_step=session.identity["global_batch"],
        micro_batch_tokens=session.micro_batch_tokens,
    )
    plan = shares.plan
    max_steps = steps_in_all(args, plan)
    ready_model(session)
    signals, counters, progress = StopSignals(), Counters(), LiveProgress(total_steps=max_steps)
    parts = PartClock()
    optimizer = make_optimizer(model, args)
    scheduler = make_scheduler(optimizer, args, max_steps)
    checkpointer = Checkpointer(
        session.output,
        model,
        session.tokenizer,
        optimizer,
        scheduler,
        identity={**session.identity, "run": model_of_run(session)},
        save_total_limit=args.save_total_limit,
        save_only_model=args.save_only_model,
        initial_adapter=session.initial_adapter.name if session.initial_adapter else None,
    )
    metrics = MetricsWriter(session.output / METRICS, counters, parts, memory_parts(model, optimizer))
    speed_watch = make_speed_watch(counters, parts)
    with refused_by_library(f"--report_to {' '.join(args.report_to or [])}"):
        trackers = [kind() for kind in get_reporting_integration_callbacks(args.report_to)]
    handler = CallbackHandler(
        [
            DefaultFlowCallback,
            *trackers,
            metrics,
            ProgressLine(counters, progress),
            *early_stopping(session.arguments.tuning),
            Watch(counters, args.learning_rate),
            speed_watch,
            *callbacks,
        ],
        model,
        session.tokenizer,
        optimizer,
        scheduler,
    )
    control = TrainerControl()
    state = make_state(args, max_steps, plan.steps, [*handler.callbacks, control])
    control = handler.on_init_end(args, state, control)
    loop = TrainingLoop(
        args=args,
        loader=StepLoader(
            shares,
            workers=args.dataloader_num_workers,
            persistent=args.dataloader_persistent_workers,
            prefetch=args.dataloader_prefetch_factor,
        ),
        max_steps=max_steps,
        gradients=make_gradient_sum(
            session, signals, progress, shares.general, None if callbacks else max_steps, parts
        ),
        held_out=make_held_out(session, shares, signals),
        optimizer=optimizer,
        scheduler=scheduler,
        counters=counters,
        checkpointer=checkpointer,
        callbacks=handler,
        state=state,
        control=control,
        signals=signals,
        progress=progress,
        clock=clock or RunClock(),
        parts=parts,
    )
    return Training(
        loop=loop,
        counters=counters,
        checkpointer=checkpointer,
        signals=signals,
        progress=progress,
        metrics=metrics,
        speed_watch=speed_watch,
    )


def make_speed_watch(counters: Counters, parts: PartClock) -> SpeedWatch:
    cpus = read_machine().cpus
    hosts = all_gather_object(platform.node())
    return SpeedWatch(counters, parts, lambda: read_load(cpus), cpus=len(cpus), hosts=hosts)


def memory_parts(model: Any, optimizer: torch.optim.Optimizer) -> Callable[[], dict[str, int]]:
    """What says how many bytes of this process are weights, and what is kept for those that are trained."""

    def now() -> dict[str, int]:
        parameters = list(model.parameters())
        gradients = [p.grad for p in parameters if p.grad is not None]
        state = [value for values in optimizer.state.values() for value in values.values() if torch.is_tensor(value)]
        return {
            "weights": sum(p.numel() * p.element_size() for p in parameters),
            "gradients_and_optimizer": sum(x.numel() * x.element_size() for x in (*gradients, *state)),
        }

    return now


def early_stopping(tuning: TuningArguments) -> list[TrainerCallback]:
    if tuning.early_stopping_patience is None:
        return []
    return [EarlyStopping(tuning.early_stopping_patience, tuning.early_stopping_threshold or 0.0)]


def ready_model(session: Session) -> None:
    """On its device, with noise on embeddings where it is asked for."""
    args, model = session.training, session.model
    move_to(model, args.device)
    base = base_model_of(model)
    base.config.use_cache = False
    align_special_tokens(base, session.tokenizer)
    # What is saved tells other programs where an answer ends.
    base.generation_config = with_end_tokens(
        base.generation_config, end_token_ids(session.tokenizer, session.data.template)
    )
    if args.neftune_noise_alpha is not None:
        # https://arxiv.org/abs/2310.05914
        embeddings = base.get_input_embeddings()
        embeddings.neftune_noise_alpha = args.neftune_noise_alpha
        embeddings.register_forward_hook(neftune_post_forward_hook)


def move_to(model: torch.nn.Module, device: torch.device) -> None:
    """Put the weights on a device, in place.

    The CPU of a rank among several has a number, and torch would copy all weights to it: each rank would have its own
    then, in the place of the file's pages that all ranks of a machine share.
    """
    if device.type != "cpu":
        model.to(device)


def make_state(args: TrainingArguments, max_steps: int, steps_per_epoch: int, watching: Sequence[Any]) -> TrainerState:
    """The state that callbacks know, at step 0."""
    stateful: Any = [callback for callback in watching if isinstance(callback, ExportableState)]
    state = TrainerState(
        max_steps=max_steps,
        num_train_epochs=math.ceil(max_steps / steps_per_epoch),
        train_batch_size=args.train_batch_size,
        is_local_process_zero=args.local_process_index == 0,
        is_world_process_zero=args.process_index == 0,
        stateful_callbacks=stateful,
    )
    state.compute_steps(args, max_steps)
    return state


def make_gradient_sum(
    session: Session,
    signals: StopSignals,
    progress: LiveProgress,
    general: GeneralPlan | None,
    steps: int | None,
    parts: PartClock,
) -> GradientSum:
    args, tuning = session.training, session.arguments.tuning
    return GradientSum(
        session.model,
        pad_id=session.tokenizer.pad_token_id,
        signals=signals,
        label_smoothing=args.label_smoothing_factor,
        max_grad_norm=args.max_grad_norm,
        on_nonfinite=tuning.on_nonfinite,
        on_micro_batch=progress.within_step,
        kept=None if general is None else kept_knowledge(session, general, steps),
        parts=parts,
    )


def kept_knowledge(session: Session, general: GeneralPlan, steps: int | None) -> KeptKnowledge:
    """Asks the base model, so before a checkpoint is loaded and before the first step.

    `steps`: how many there will be; None where a user's callback may leave some of the plan out and reach others.
    """
    tuning = session.arguments.tuning
    groups = general.groups_of(steps)
    inform(f"asking the base model {sum(map(len, groups))} general prompts, whose answers are to stay as they are")
    teacher = Teacher(session.model, trains_base=tuning.method.trains_base)
    packed = session.layout is not None
    return KeptKnowledge(
        teacher=None if packed else teacher,
        known=causal_known_states(session.model, teacher, groups) if packed else None,
        weight=tuning.general_weight,
        positions_per_step=general.positions_per_step,
    )


def make_held_out(session: Session, shares: StepShares, signals: StopSignals) -> HeldOut | None:
    if session.data.validation is None:
        return None
    return HeldOut(
        session.model,
        session.data.validation,
        shares,
        batch_size=session.training.per_device_eval_batch_size,
        pad_id=session.tokenizer.pad_token_id,
        device=session.training.device,
        signals=signals,
    )
