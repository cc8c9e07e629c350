"""The loop by itself, on a model of one weight: what happens when, as in transformers' Trainer, and what a resumed loop
does.
"""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from transformers import DefaultFlowCallback, Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_callback import CallbackHandler

from neuralchat.console.live import LiveProgress
from neuralchat.data.step_shares import StepShare
from neuralchat.preparation.optimizer import make_optimizer, make_scheduler
from neuralchat.training.assemble import make_state
from neuralchat.training.loop import TrainingLoop
from neuralchat.training.step import StepResult
from neuralchat.training.stopping import FailureKind, StepAbandonedError, StopSignals
from neuralchat.watching.counters import Counters

STEPS_PER_EPOCH = 4
EVENTS = (
    "on_train_begin", "on_epoch_begin", "on_step_begin", "on_pre_optimizer_step", "on_optimizer_step", "on_step_end",
    "on_log", "on_evaluate", "on_save", "on_epoch_end", "on_train_end",
)  # fmt: skip


class Recorder(TrainerCallback):
    """Every event with the step at which it came."""

    def __init__(self) -> None:
        self.seen: list[tuple[str, int]] = []
        for event in EVENTS:
            setattr(self, event, self.recorder(event))

    def recorder(self, event: str) -> Any:
        def record(_args: Any, state: Any, _control: Any, logs: Any = None, **_others: Any) -> None:
            # The Trainer logs a summary at its end.
            if event != "on_log" or "loss" in logs or "eval_loss" in logs:
                kind = " loss" if logs and "loss" in logs else ""
                self.seen.append((f"{event}{kind}", state.global_step))

        return record


class OneWeight(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(1))

    def forward(self, x: torch.Tensor, labels: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"loss": ((self.weight * x - labels) ** 2).mean()}


class Gradients:
    """In the place of GradientSum. `fails_at`: the step (from 1) that is given up, once."""

    def __init__(self, model: OneWeight, fails_at: int | None = None) -> None:
        self.model = model
        self.fails_at = fails_at

    def step(self, _share: Any, _tokens: int, step: int, _sources: Any) -> StepResult:
        torch.rand(3)
        if step == self.fails_at:
            self.fails_at = None
            raise StepAbandonedError(FailureKind.STOP)
        loss = (self.model.weight * torch.rand(1)).sum()
        loss.backward()
        return StepResult(loss.item(), 1.0)


class Saved:
    """In the place of Checkpointer: the states that were saved, by step."""

    def __init__(self) -> None:
        self.states: dict[int, Any] = {}

    def has(self, step: int) -> bool:
        return step in self.states

    def save(self, state: TrainerState, rng: Any, parts: Any) -> None:
        loop = parts["loop"]
        self.states[state.global_step] = {
            "epoch": state.epoch,
            "rng": rng,
            "weight": loop.gradients.model.weight.detach().clone(),
            "scheduler": dict(loop.scheduler.state_dict()),
            "rates": [group["lr"] for group in loop.optimizer.param_groups],
            **{name: part.state_dict() for name, part in parts.items()},
        }


def arguments(directory: Path, **changes: Any) -> TrainingArguments:
    usual = {"num_train_epochs": 2, "logging_steps": 3, "report_to": "none", "use_cpu": True, "learning_rate": 0.1}
    return TrainingArguments(output_dir=str(directory), disable_tqdm=True, optim="sgd", **{**usual, **changes})


def make_loop(
    args: TrainingArguments, *callbacks: TrainerCallback, fails_at: int | None = None, max_steps: int = 0
) -> TrainingLoop:
    torch.manual_seed(0)
    model = OneWeight()
    optimizer = make_optimizer(model, args)
    max_steps = max_steps or 2 * STEPS_PER_EPOCH
    scheduler = make_scheduler(optimizer, args, max_steps)
    shares = SimpleNamespace(plan=SimpleNamespace(steps=STEPS_PER_EPOCH))
    loader = SimpleNamespace(shares=shares, steps=lambda first, end: iter([StepShare()] * (end - first)))
    held_out = SimpleNamespace(
        measure=lambda _advance: {"eval_loss": 1.0}, chosen=lambda metrics, _args: metrics["eval_loss"]
    )
    return TrainingLoop(
        args=args, loader=loader, max_steps=max_steps, gradients=Gradients(model, fails_at), held_out=held_out,
        optimizer=optimizer, scheduler=scheduler, counters=Counters(), checkpointer=Saved(),
        callbacks=CallbackHandler([DefaultFlowCallback, *callbacks], model, None, optimizer, scheduler),
        state=make_state(args, max_steps, STEPS_PER_EPOCH, []), control=TrainerControl(),
        signals=StopSignals(), progress=LiveProgress(total_steps=max_steps, quiet=True),
    )  # type: ignore[arg-type]  # fmt: skip


def restored(loop: TrainingLoop, saved: dict[str, Any], step: int) -> TrainingLoop:
    loop.state.global_step, loop.state.epoch, loop.rng = step, saved["epoch"], saved["rng"]
    loop.gradients.model.weight.data.copy_(saved["weight"])
    loop.scheduler.load_state_dict(saved["scheduler"])
    for group, rate in zip(loop.optimizer.param_groups, saved["rates"], strict=True):
        group["lr"] = rate
    loop.load_state_dict(saved["loop"])
    loop.counters.load_state_dict(saved["counters"])
    return loop


@pytest.mark.parametrize(
    "changes",
    [
        {"save_strategy": "steps", "save_steps": 3, "eval_strategy": "steps", "eval_steps": 2},
        {"save_strategy": "epoch", "eval_strategy": "epoch", "logging_strategy": "epoch"},
        {"save_strategy": "no", "eval_strategy": "no", "logging_first_step": True},
        {"save_strategy": "epoch", "eval_strategy": "steps", "eval_steps": 4, "max_steps": 6},
    ],
)
def test_events_come_in_the_order_of_transformers_trainer(tmp_path: Path, changes: dict[str, Any]) -> None:
    args = arguments(tmp_path, per_device_train_batch_size=1, **changes)
    rows = [{"x": torch.ones(1), "labels": torch.zeros(1)}] * STEPS_PER_EPOCH
    theirs, ours = Recorder(), Recorder()
    Trainer(OneWeight(), args, train_dataset=rows, eval_dataset=rows, callbacks=[theirs]).train()
    loop = make_loop(args, ours, max_steps=args.max_steps if args.max_steps > 0 else 0)
    loop.run()
    # The last step is always logged here, however rarely steps are; theirs may log it later or not at all.
    last = ("on_log loss", loop.max_steps)
    assert last in ours.seen
    assert [event for event in ours.seen if event != last] == [event for event in theirs.seen if event != last]


@pytest.mark.parametrize("stopped_at", range(1, 9))
def test_a_step_given_up_leaves_no_trace_and_a_resumed_loop_goes_on(tmp_path: Path, stopped_at: int) -> None:
    args = arguments(tmp_path, save_strategy="no", eval_strategy="epoch", logging_steps=1)
    whole = make_loop(args)
    whole.run()
    stopped = make_loop(args, fails_at=stopped_at)
    with pytest.raises(StepAbandonedError):
        stopped.run()
    stopped.save_now()
    saved = stopped.checkpointer.states[stopped_at - 1]
    resumed = restored(make_loop(args), saved, stopped_at - 1)
    resumed.run()
    # Going on in the same process is the same as going on in another.
    stopped.run()
    for other in (resumed, stopped):
        assert torch.equal(other.gradients.model.weight, whole.gradients.model.weight)
        assert other.counters.mean_loss == whole.counters.mean_loss
        assert other.state.epoch == whole.state.epoch == 2
    logged = [line["step"] for line in stopped.state.log_history + resumed.state.log_history if "eval_loss" in line]
    assert set(logged) == {4, 8}


def test_an_evaluation_that_is_given_up_is_done_by_the_resumed_loop(tmp_path: Path) -> None:
    args = arguments(tmp_path, save_strategy="no", eval_strategy="epoch")
    loop = make_loop(args)
    true_measure, loop.held_out.measure = loop.held_out.measure, abandon
    with pytest.raises(StepAbandonedError):
        loop.run()
    loop.save_now()
    seen = Recorder()
    resumed = restored(make_loop(args, seen), loop.checkpointer.states[4], 4)
    resumed.held_out.measure = true_measure
    resumed.run()
    assert [event for event in seen.seen if event[0] in ("on_evaluate", "on_epoch_end")] == [
        ("on_evaluate", 4), ("on_epoch_end", 8), ("on_evaluate", 8)
    ]  # fmt: skip


def abandon(_advance: Any) -> Any:
    raise StepAbandonedError(FailureKind.STOP)


def test_a_checkpoint_before_the_end_of_an_epoch_goes_on_at_that_end(tmp_path: Path) -> None:
    args = arguments(tmp_path, save_strategy="steps", save_steps=4, eval_strategy="epoch")
    loop = make_loop(args)
    loop.run()
    seen = Recorder()
    restored(make_loop(args, seen), loop.checkpointer.states[4], 4).run()
    names = [event for event in seen.seen if event[0] in ("on_epoch_begin", "on_epoch_end", "on_evaluate")]
    assert names == [
        ("on_epoch_end", 4), ("on_evaluate", 4), ("on_epoch_begin", 4), ("on_epoch_end", 8), ("on_evaluate", 8)
    ]  # fmt: skip


class EndsEpochs(TrainerCallback):
    """Ends every epoch after its second step."""

    def on_step_end(self, args: Any, state: Any, control: Any, **_others: Any) -> None:
        control.should_epoch_stop = state.epoch % 1 == 0.5


def test_epochs_ended_early_by_a_callback(tmp_path: Path) -> None:
    args = arguments(tmp_path, save_strategy="epoch")
    loop = make_loop(args, EndsEpochs())
    loop.run()
    assert loop.position.epoch == 3
    assert loop.state.global_step == 8
    resumed = restored(make_loop(args, EndsEpochs()), loop.checkpointer.states[4], 4)
    resumed.run()
    assert torch.equal(resumed.gradients.model.weight, loop.gradients.model.weight)


def test_a_run_that_was_finished_can_be_made_longer(tmp_path: Path) -> None:
    args = arguments(tmp_path, save_strategy="steps", save_steps=8)
    loop = make_loop(args)
    loop.run()
    longer = restored(make_loop(args, max_steps=12), loop.checkpointer.states[8], 8)
    longer.run()
    assert longer.state.global_step == 12
    assert longer.state.epoch == 3


@pytest.mark.parametrize(
    "position",
    [
        {"epoch": 0, "step": 3, "ended": False, "skipped": 0}, {"epoch": -1, "step": 8, "ended": False, "skipped": 0},
        {"epoch": 0.5, "step": 2, "ended": False, "skipped": 0}, {"epoch": 0, "step": 5, "ended": False, "skipped": 1},
    ],
)  # fmt: skip
def test_a_position_that_no_run_can_have_is_refused(tmp_path: Path, position: dict[str, Any]) -> None:
    loop = make_loop(arguments(tmp_path))
    loop.state.global_step = 4
    with pytest.raises(ValueError, match="it stands at"):
        loop.load_state_dict({"position": position, "due": {}})


def test_a_position_of_other_data_is_told_in_words(tmp_path: Path) -> None:
    """As when records were allowed to change: no repr of an object, and the number of steps that there are now."""
    loop = make_loop(arguments(tmp_path))
    loop.state.global_step = 7
    position = {"epoch": 0, "step": 7, "ended": False, "skipped": 0}
    assert set(position) == set(asdict(loop.position))
    with pytest.raises(ValueError, match=r"^it stands at step 7 of epoch 1, 7 in all; an epoch has 4 steps now$"):
        loop.load_state_dict({"position": position, "due": {}})


def test_counters_that_no_run_can_have_are_refused() -> None:
    for wrong in ({"tokens": -1}, {"tokens": 1.5}, {"total_loss": float("nan")}, {"total_loss": "much"}):
        with pytest.raises(ValueError, match=f"{next(iter(wrong))} is"):
            Counters().load_state_dict({**Counters().state_dict(), **wrong})


def test_tokens_of_this_part_of_the_run_are_counted_over_a_step_that_is_tried_again() -> None:
    earlier, counters = Counters(tokens=100), Counters()
    counters.load_state_dict(earlier.state_dict())
    for tokens in (20, 30):
        counters.start()
        counters.step_done(1.0, 1.0, 0.1, tokens=tokens, supervised_tokens=tokens)
    assert counters.tokens - counters.tokens_before == 50
