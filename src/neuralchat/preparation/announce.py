"""What will happen, said before it does."""

from __future__ import annotations

import torch

from neuralchat.console import clock, show_plan
from neuralchat.data.batch_plan import BatchPlan
from neuralchat.models.quantization.formats import BIT_FORMATS
from neuralchat.planning.forecast import TimeForecast
from neuralchat.preparation.session import Session


def announce(session: Session, plan: BatchPlan, max_steps: int, parameters: tuple[int, int]) -> None:
    """`parameters`: how many are trained, and how many there are."""
    label = "train" if session.data.train is not None else "validation"
    counts = session.data.counts[label]
    batch = many(min(plan.units_per_step, len(plan.units)), "row" if plan.row_tokens else "example")
    precision = session.precision.as_dict()
    method = session.arguments.tuning.peft
    trained, total = parameters
    rows = {
        "data": f"{many(counts['examples'], 'example')}, {many(counts['tokens'], 'token')}, "
        f"template {session.data.template.name}",
        method: (
            f"{method}: {trained:,} of {total:,} parameters trained; "
            f"weights {in_bits(session)}{precision['storage']}, arithmetic {precision['compute']}"
        ),
        "steps": (
            f"{many(plan.steps, 'step')} per epoch of {batch}, "
            f"{'packed' if session.packed else 'padded'}, {many(torch.get_num_threads(), 'thread')}, "
            f"{session.kernels} kernels; output in {session.output}"
        ),
    }
    if session.training.do_train:
        forecast = time_forecast(session, plan, max_steps, trained)
        shared = f", {forecast.communication_share:.1%} of it between ranks" if forecast.link else ""
        rows["forecast"] = (
            f"forecast: {many(forecast.steps, 'step')}, about {clock(forecast.training_seconds)} of training{shared}"
        )
    show_plan(rows)


def in_bits(session: Session) -> str:
    bits = session.precision.bits
    return "" if bits is None else f"{BIT_FORMATS[bits].name} and "


def many(count: int, thing: str) -> str:
    """
    >>> many(1, "step"), many(2, "step")
    ('1 step', '2 steps')
    """
    return f"{count} {thing}" if count == 1 else f"{count} {thing}s"


def time_forecast(session: Session, plan: BatchPlan, max_steps: int, trained_parameters: int) -> TimeForecast:
    return TimeForecast(
        steps=max_steps,
        tokens_per_step=sum(plan.lengths) / plan.steps,
        seconds_per_token=session.seconds_per_token,
        world_size=session.training.world_size,
        gradient_bytes=4 * trained_parameters,
        link=session.link,
    )
