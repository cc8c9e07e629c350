"""manifest and metrics -> report.html: one self-contained page with no script and no outside resource."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from importlib.resources import files
from typing import Any

import jinja2

from neuralchat.console import clock
from neuralchat.console.terminal import visible
from neuralchat.runs.directory import series
from neuralchat.runs.summary import before_and_after, difference_of_answers
from neuralchat.secrets import without_remembered

# Of the area of a plot: pixels. Along x all is in percent of its width, which is the reader's.
HEIGHT = 190
# Of the drawing that is stretched to that width.
DRAWN_WIDTH = 1000
# Through fewer points than this a line would only say that somebody drew it.
FEWEST_OF_A_LINE = 3
MOST_MARKED_POINTS = 40
# Pixels of a curve's name with its line.
LEGEND_WIDTH = 110


@dataclass(frozen=True)
class Curve:
    """A line of a plot: its points and the CSS class that colours it."""

    label: str
    points: Sequence[tuple[float, float]]
    style: str


def render_report(manifest: dict[str, Any], metrics: Sequence[dict[str, Any]]) -> str:
    differences = manifest["results"].get("differences") or {}
    page = page_template("runs/report.html.j2").render(
        manifest=manifest,
        results=manifest["results"],
        counts=manifest["data"]["counts"],
        general=general_part(
            manifest["results"].get("general_samples", ()), difference_of_answers(differences.get("general_samples"))
        ),
        right=right_part(manifest["results"].get("samples", ()), difference_of_answers(differences.get("samples"))),
        plots=plots(metrics),
        time_by_part=time_by_part(metrics),
        memory_by_part=memory_by_part(metrics),
        arguments=sorted(shown_arguments(manifest["arguments"]).items()),
        clock=clock,
        perplexity=lambda loss: math.exp(min(loss, 700.0)),
    )
    return without_remembered(visible(page))


def page_template(name: str) -> jinja2.Template:
    """A template of the package by its place in it; what is put into it is escaped."""
    loader = jinja2.FunctionLoader(lambda place: files("neuralchat").joinpath(place).read_text(encoding="utf-8"))
    return jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, loader=loader).get_template(name)


def right_part(samples: Sequence[Mapping[str, Any]], difference: str) -> str | None:
    """How many of the run's own questions are right before and after, and how sure that is."""
    counts = before_and_after(samples)
    return None if counts is None else counts + difference


def general_part(samples: Sequence[Mapping[str, Any]], difference: str = "") -> dict[str, Any] | None:
    """The general questions by what became of them, what was lost first; None where none were asked."""
    counts = before_and_after(samples)
    if counts is None:
        return None
    titles = {
        (True, False): "lost: right before, wrong after",
        (False, True): "gained: wrong before, right after",
        (True, True): "kept: right before and after",
        (False, False): "wrong before and after",
    }
    groups = [
        (title, [s for s in samples if (s["right_before"], s["right_after"]) == marks])
        for marks, title in titles.items()
    ]
    return {"counts": counts + difference, "groups": groups}


def shown_arguments(arguments: dict[str, Any]) -> dict[str, str]:
    """Arguments that are set; secrets are not shown."""
    return {
        name: str(value)
        for name, value in arguments.items()
        if value is not None and value is not False and value not in ("", []) and "token" not in name.split("_")
    }


def plots(metrics: Sequence[dict[str, Any]]) -> list[tuple[str, str]]:
    """(title, SVG) of each plot that there are numbers for."""
    found = []
    for title, training, held_out in (
        ("Loss", "loss", "eval_loss"),
        ("Learning rate", "learning_rate", None),
        ("Tokens per second", "tokens_per_s", None),
        ("Memory (MiB)", "rss_mb", None),
    ):
        curves = [Curve("training", series(metrics, training), "training")]
        if held_out:
            curves.append(Curve("held out", series(metrics, held_out), "held-out"))
        curves = [curve for curve in curves if curve.points]
        if any(len(curve.points) > 1 for curve in curves):
            found.append((title, svg(curves, title=title, from_zero=title != "Learning rate")))
    return found


# Names of metrics.jsonl as a person reads them.
PART_NAMES = {
    "passes": "forward and backward passes",
    "between_ranks": "sums over ranks, and waiting for them",
    "optimizer": "optimizer",
    "reading": "reading batches",
    "evaluating": "evaluating",
    "saving": "saving",
    "weights": "weights",
    "gradients_and_optimizer": "gradients and optimizer",
    "activations_and_program": "activations and program",
}


def time_by_part(metrics: Sequence[Mapping[str, Any]]) -> list[tuple[str, str, str]]:
    """(part, its time, its share) over all logged steps, the largest first; empty for runs that did not count."""
    totals: dict[str, float] = {}
    for line in metrics:
        for name, seconds in part_values(line, "seconds_by_part"):
            totals[name] = totals.get(name, 0.0) + seconds
    whole = sum(totals.values())
    rows = sorted(totals.items(), key=lambda row: -row[1])
    return [(PART_NAMES[name], clock(seconds), f"{seconds / whole:.1%}") for name, seconds in rows if seconds > 0]


def memory_by_part(metrics: Sequence[Mapping[str, Any]]) -> list[tuple[str, str]]:
    """(part, MiB) when the last step was logged."""
    last: Mapping[str, Any] = next((line for line in reversed(metrics) if "memory_mb_by_part" in line), {})
    return [(PART_NAMES[name], f"{size:,.0f} MiB") for name, size in part_values(last, "memory_mb_by_part")]


def part_values(line: Mapping[str, Any], key: str) -> list[tuple[str, float]]:
    """The known parts of a line that somebody may have edited."""
    found = line.get(key)
    if not isinstance(found, dict):
        return []
    return [(n, v) for n, v in found.items() if n in PART_NAMES and isinstance(v, int | float) and math.isfinite(v)]


def ticks(low: float, high: float, count: int = 5) -> list[float]:
    """Round numbers that span [low, high].

    >>> ticks(0, 4.4)
    [0.0, 1.0, 2.0, 3.0, 4.0, 5.0]
    """
    span = high - low
    if span < 1e-300:
        # Nothing, or so little that a part of it would be rounded to nothing.
        span = 1.0
    step = 10 ** math.floor(math.log10(span / count))
    step *= next(factor for factor in (1, 2, 5, 10) if span / (step * factor) <= count)
    first, last = math.floor(low / step), math.ceil(high / step)
    return [round(i * step, 12) for i in range(first, last + 1)]


def svg(curves: Sequence[Curve], *, title: str, from_zero: bool) -> str:
    """A line plot with grid, axis labels and, where there are several curves, a legend.

    It takes the width that it is given, and letters keep their size: labels lie outside of its area (`svg.curves` of
    runs/style.html.j2 leaves room for them). `title`: what the plot is called by who cannot see it.
    """
    xs = [x for curve in curves for x, _ in curve.points]
    ys = [y for curve in curves for _, y in curve.points]
    y_ticks = ticks(0.0 if from_zero else min(ys), max(ys))
    x_ticks = [t for t in ticks(min(xs), max(xs), 4) if min(xs) <= t <= max(xs)]
    x_span, y_span = (max(xs) - min(xs)) or 1.0, (y_ticks[-1] - y_ticks[0]) or 1.0

    def place(x: float, y: float) -> tuple[float, float]:
        """(percent from the left, pixels from above)"""
        return round(100 * (x - min(xs)) / x_span, 2), round(HEIGHT - (y - y_ticks[0]) / y_span * HEIGHT, 1)

    several = len(curves) > 1
    label = escape(f"{title}: {'; '.join(map(course, curves))}", quote=True)
    parts = [f'<svg class="curves{" several" * several}" role="img" aria-label="{label}">']
    for tick in y_ticks:
        _, y = place(min(xs), tick)
        parts.append(f'<line class="grid" x1="0" x2="100%" y1="{y}" y2="{y}"/>')
        parts.append(f'<text class="y" x="-8" y="{y + 4}">{tick:g}</text>')
    for tick in x_ticks:
        parts.append(f'<text class="x" x="{place(tick, y_ticks[0])[0]}%" y="{HEIGHT + 20}">{tick:g}</text>')
    for curve in curves:
        # Values of one curve above its points; of another beside it below, where they do not meet.
        is_below = curve is not curves[0] and len(curves[0].points) < FEWEST_OF_A_LINE
        parts += curve_parts(curve, [place(x, y) for x, y in curve.points], is_below=is_below)
    if several:
        parts += legend(curves)
    return "".join([*parts, "</svg>"])


def course(curve: Curve) -> str:
    """
    >>> course(Curve("held out", [(1, 4.0), (30, 2.51)], "held-out"))
    'held out from 4 at 1 to 2.51 at 30'
    """
    (x, y), (last_x, last_y) = curve.points[0], curve.points[-1]
    return f"{curve.label} from {y:.3g} at {x:g} to {last_y:.3g} at {last_x:g}"


def curve_parts(curve: Curve, placed: Sequence[tuple[float, float]], *, is_below: bool) -> list[str]:
    """A line, with its points where they are few; of fewer than a line takes the points with their values."""
    is_line = len(placed) >= FEWEST_OF_A_LINE
    parts = []
    if is_line:
        path = " ".join(f"{round(x * DRAWN_WIDTH / 100, 1)},{y}" for x, y in placed)
        parts.append(
            f'<svg viewBox="0 0 {DRAWN_WIDTH} {HEIGHT}" width="100%" height="{HEIGHT}" preserveAspectRatio="none">'
            f'<polyline class="{curve.style}" points="{path}"/></svg>'
        )
    if len(placed) <= MOST_MARKED_POINTS:
        radius = 2.5 if is_line else 4
        parts += [f'<circle class="{curve.style}" cx="{x}%" cy="{y}" r="{radius}"/>' for x, y in placed]
    if not is_line:
        moved = 17 if is_below else -6
        parts += [point_label(x, y + moved, value) for (x, y), (_, value) in zip(placed, curve.points, strict=True)]
    return parts


def point_label(x: float, y: float, value: float) -> str:
    """The value beside its point, on the side where there is room."""
    side, end = (8, "") if x < 50 else (-8, " end")
    return f'<text class="value{end}" x="{x}%" dx="{side}" y="{round(y, 1)}">{value:.3g}</text>'


def legend(curves: Sequence[Curve]) -> list[str]:
    """Above the plot, where no curve comes."""
    parts = []
    for index, curve in enumerate(curves):
        left, y = LEGEND_WIDTH * index, -18
        parts.append(
            f'<line class="{curve.style}" x1="{left}" x2="{left + 22}" y1="{y}" y2="{y}"/>'
            if len(curve.points) >= FEWEST_OF_A_LINE
            else f'<circle class="{curve.style}" cx="{left + 11}" cy="{y}" r="4"/>'
        )
        parts.append(f'<text class="legend" x="{left + 28}" y="{y + 4}">{escape(curve.label)}</text>')
    return parts
