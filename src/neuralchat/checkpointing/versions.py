"""State files of earlier versions -> the state of today."""

from __future__ import annotations

from typing import Any

from transformers import TrainerState

# What version 0.1 wrote down as still to be done at a step.
EVALUATION_0_1, EPOCH_END_0_1 = "evaluation", "epoch end"


def upgraded(state: dict[str, Any], trainer_state: TrainerState) -> dict[str, Any]:
    """`state` as this version writes it. `trainer_state` is that of the same checkpoint."""
    if "generators" in state:
        state = from_0_1(state, trainer_state.global_step, trainer_state.epoch)
    if isinstance(counters := state.get("counters"), dict):
        # Later versions compare with what the base model says.
        state = {**state, "counters": {"divergence_since_log": 0.0, **counters}}
    return state


def from_0_1(state: dict[str, Any], step: int, epoch: float) -> dict[str, Any]:
    """Version 0.1 kept one flat state, and the position only as the number of steps.

    `epoch` is the exact fraction step / steps per epoch, so it tells the steps per epoch.
    """
    steps_per_epoch = max(1, round(step / epoch)) if epoch else 1
    pending = list(state["pending"])
    epochs_done, step_of_epoch = divmod(step, steps_per_epoch)
    at_end = step > 0 and step_of_epoch == 0
    position = {
        "epoch": epochs_done - at_end,
        "step": steps_per_epoch if at_end else step_of_epoch,
        "ended": at_end and EPOCH_END_0_1 not in pending,
        "skipped": 0,
    }
    names = ("should_training_stop", "should_epoch_stop", "should_save", "should_evaluate", "should_log")
    due = {**dict.fromkeys(names, False), "should_evaluate": EVALUATION_0_1 in pending}
    loss, since_log = float(state["loss_sum"]), step - min(int(state["last_logged_step"]), step)
    counters = {
        "tokens": int(state["tokens"]),
        "supervised_tokens": int(state["supervised_tokens"]),
        "skipped_steps": int(state["skipped_steps"]),
        "seconds_before": float(state["seconds"]),
        "loss_since_log": loss,
        "steps_since_log": since_log,
        "losses_since_log": since_log,
        "total_loss": float(state["total_loss"]) + loss,
        "total_losses": step,
        "grad_norm": float(state["last_logs"].get("grad_norm") or 0.0),
        "learning_rate": float(state["last_logs"].get("learning_rate") or 0.0),
    }
    kept = {name: state[name] for name in ("trained", "optimizer", "scheduler")}
    return {**kept, "rng": state["generators"], "loop": {"position": position, "due": due}, "counters": counters}
