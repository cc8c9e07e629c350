"""What will happen, said before it does."""

from __future__ import annotations

import torch

from neuralchat.console import clock, show_plan
from neuralchat.data.batch_plan import BatchPlan
from neuralchat.planning.forecast import TimeForecast
from neuralchat.training.session import Session


def announce(session: Session, plan: BatchPlan, max_steps: int, parameters: tuple[int, int]) -> None:
    """`parameters`: how many are trained, and how many there are."""
    label = "train" if session.data.train is not None else "validation"
    counts = session.data.counts[label]
    units = "rows" if plan.row_tokens else "examples"
    precision = session.precision.as_dict()
    method = session.arguments.tuning.peft
    trained, total = parameters
    rows = {
        "data": f"{counts['examples']} examples, {counts['tokens']} tokens, template {session.data.template.name}",
        method: (
            f"{method}: {trained:,} of {total:,} parameters trained; "
            f"weights {precision['storage']}, arithmetic {precision['compute']}"
        ),
        "steps": (
            f"{plan.steps} steps per epoch of {plan.units_per_step} {units}, "
            f"{'packed' if session.packed else 'padded'}, {torch.get_num_threads()} threads, "
            f"{session.kernels} kernels; output in {session.output}"
        ),
    }
    if session.training.do_train:
        forecast = time_forecast(session, plan, max_steps, trained)
        shared = f", {forecast.communication_share:.1%} of it between ranks" if forecast.link else ""
        rows["forecast"] = (
            f"forecast: {forecast.steps} steps, about {clock(forecast.training_seconds)} of training{shared}"
        )
    show_plan(rows)


def time_forecast(session: Session, plan: BatchPlan, max_steps: int, trained_parameters: int) -> TimeForecast:
    return TimeForecast(
        steps=max_steps,
        tokens_per_step=sum(plan.lengths) / plan.steps,
        seconds_per_token=session.seconds_per_token,
        world_size=session.training.world_size,
        gradient_bytes=4 * trained_parameters,
        link=session.link,
    )
