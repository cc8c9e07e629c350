"""What will happen, said before it does."""

from __future__ import annotations

import torch

from neuralchat.console import clock, show_plan
from neuralchat.data.batch_plan import BatchPlan
from neuralchat.models.quantization.formats import kinds_of_numbers
from neuralchat.planning.forecast import TimeForecast
from neuralchat.preparation.session import Session


def announce(session: Session, plan: BatchPlan, max_steps: int, parameters: tuple[int, int]) -> TimeForecast | None:
    """`parameters`: how many are trained, and how many there are. The forecast; None where nothing is trained."""
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
    forecast = None
    if session.training.do_train:
        forecast = time_forecast(session, plan, max_steps, trained)
        shared = f", {forecast.communication_share:.1%} of it between ranks" if forecast.link else ""
        rows["forecast"] = (
            f"forecast: {many(forecast.steps, 'step')}, about {clock(forecast.training_seconds)} of training{shared}"
            f"{learned(session)}"
        )
    show_plan(rows)
    return forecast


def learned(session: Session) -> str:
    runs = session.expected.corrections.runs
    return f" (corrected by {many(runs, 'earlier run')} of this kind)" if runs else ""


def in_bits(session: Session) -> str:
    bits = session.precision.bits
    return "" if bits is None else f"{kinds_of_numbers(bits)} and "


def many(count: int, thing: str) -> str:
    """
    >>> many(1, "step"), many(2, "step")
    ('1 step', '2 steps')
    """
    return f"{count} {thing}" if count == 1 else f"{count} {thing}s"


def time_forecast(session: Session, plan: BatchPlan, max_steps: int, trained_parameters: int) -> TimeForecast:
    expected, world_size = session.expected, session.training.world_size
    tokens = sum(plan.lengths) / plan.steps
    return TimeForecast(
        steps=max_steps,
        tokens_per_step=tokens,
        # Tokens of a rank are fewer, and what it computes for them is more than they are: general prompts, the head.
        seconds_per_token=expected.step_seconds * world_size / tokens,
        world_size=world_size,
        gradient_bytes=4 * trained_parameters,
        link=session.link,
        correction=expected.corrections.time,
    )
