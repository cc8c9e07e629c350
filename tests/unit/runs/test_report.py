"""runs/report.py: the page is self-contained, shows what was measured, and escapes what others wrote."""

from __future__ import annotations

import copy
import doctest
import math
import re
from html.parser import HTMLParser
from itertools import pairwise
from typing import Any
from xml.etree import ElementTree

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from neuralchat.runs import report
from neuralchat.runs.directory import series
from neuralchat.runs.report import Curve, plots, render_report, shown_arguments, svg, ticks

METRICS = [
    {"step": step, "loss": 4.0 / step, "learning_rate": 1e-4 * step, "tokens_per_s": 100.0, "rss_mb": 500}
    for step in (1, 2, 3)
] + [{"step": 3, "eval_loss": 1.5}]
MANIFEST: dict[str, Any] = {
    "neuralchat": "0.1.0",
    "created": "2025-01-01T00:00:00+0000",
    "base_model": {"name": "base <model>", "architecture": "LlamaForCausalLM"},
    "template": {"name": "alpaca", "sha256": "0123456789abcdef" * 4},
    "adapter": {"method": "lora", "trained_parameters": 1234567, "total_parameters": 9876543},
    "precision": {"storage": "float32", "compute": "float32", "adapter": "float32"},
    "data": {
        "counts": {
            "train": {
                "examples": 360, "tokens": 9000, "supervised_tokens": 3000, "longest": 77, "cut_examples": 2,
                "cut_tokens": 9, "unusable": ["row 1"], "bad_rows": 4,
            },
            "validation": {"examples": 40, "split_percentage": 10},
        }
    },
    "arguments": {"lora_rank": 16, "use_auth_token": "hf_secret", "cache_dir": None},
    "results": {
        "held_out_loss_before": 2.0, "held_out_loss_after": 1.5, "mean_loss": 1.25, "steps": 90, "packed": True,
        "tokens_per_s": 321.4, "training_seconds": 3725.0, "peak_memory_mb": 1536,
        "samples": [{"question": "<script>alert(1)</script>", "before": "", "after": "a & b", "expected": "c"}],
    },
    "versions": {"torch": "2.13.0"},
}  # fmt: skip


class Page(HTMLParser):
    """Tags, attributes and text of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.attributes: list[tuple[str, str | None]] = []
        self.words: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.attributes += attrs

    def handle_data(self, data: str) -> None:
        self.words += [data.strip()] if data.strip() else []


def page_of(**results: Any) -> Page:
    manifest = copy.deepcopy(MANIFEST)
    manifest["results"] |= results
    return Page(render_report(manifest, METRICS))


def test_page_shows_what_was_measured() -> None:
    words = page_of().words
    expected = [
        "base <model> + lora", "1.500", "4.48", "1.250", "321", "1:02:05", "1.5 GiB", "held-out loss, was 2.000",
        "held-out perplexity, was 7.4", "mean training loss, 90 steps", "1,234,567 of 9,876,543 parameters",
        "360 examples, 9000 tokens (3000 supervised), longest 77, 2 cut, 1 unusable, 4 bad rows skipped",
        "40 examples", "packed, no padding", "0123456789ab", "(nothing)", "a & b",
    ]  # fmt: skip
    assert [text for text in expected if text not in words] == []


def test_page_says_how_sure_right_answers_are() -> None:
    manifest = copy.deepcopy(MANIFEST)
    manifest["results"]["samples"] = [
        {"question": "q", "before": "a", "after": "b", "right_before": False, "right_after": True} for _ in range(9)
    ]
    manifest["results"]["differences"] = {
        "samples": {"difference": 1.0, "interval": [0.6, 1.0], "p": 0.004, "seen": True}
    }
    page = render_report(manifest, METRICS)
    assert "0 of 9 right before, 9 after (0 kept, 0 lost, 9 gained); +100 points (+60 to +100, 95 %), p 0.004" in page


def test_page_without_held_out_records() -> None:
    page = page_of(held_out_loss_before=None, held_out_loss_after=None, packed=False)
    assert not any("held-out" in word for word in page.words if not word.startswith(":root"))
    assert "padded" in page.words


def test_page_has_no_script_and_no_outside_resource() -> None:
    page = page_of()
    assert page.tags.isdisjoint({"script", "link", "img", "iframe", "object", "embed"})
    assert [pair for pair in page.attributes if pair[0] in ("src", "href") or pair[0].startswith("on")] == []
    assert not re.search(r"https?:|url\(|@import", render_report(MANIFEST, METRICS))


def test_text_of_records_is_escaped() -> None:
    text = render_report(MANIFEST, METRICS)
    assert "<script>" not in text
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in text


def test_secrets_are_not_shown() -> None:
    assert "hf_secret" not in render_report(MANIFEST, METRICS)
    arguments = {"use_auth_token": "s", "hub_token": "s", "micro_batch_tokens": 1024, "tokenizer_name": "t"}
    assert shown_arguments(arguments) == {"micro_batch_tokens": "1024", "tokenizer_name": "t"}


def test_arguments_that_are_not_set_are_not_shown() -> None:
    assert shown_arguments({"a": None, "b": [], "c": False, "d": "", "e": True, "f": ["x"]}) == {
        "e": "True",
        "f": "['x']",
    }


def test_a_zero_is_a_set_argument() -> None:
    assert shown_arguments({"lora_dropout": 0.0, "report_samples": 0}) == {"lora_dropout": "0.0", "report_samples": "0"}


def test_plots_that_have_numbers() -> None:
    assert [title for title, _ in plots(METRICS)] == ["Loss", "Learning rate", "Tokens per second", "Memory (MiB)"]
    assert [title for title, _ in plots([{"step": 1, "loss": 2.0}, {"step": 2, "loss": 1.0}])] == ["Loss"]
    assert plots(METRICS[:1]) == []
    assert plots([]) == []


def test_series_leaves_out_what_is_no_number() -> None:
    metrics = [{"step": 1, "loss": 2.0}, {"step": 2}, {"step": 3, "loss": math.nan}, {"step": 4, "loss": math.inf}]
    assert series([*metrics, {"step": 5, "loss": None}, {"step": 6, "loss": 0.0}], "loss") == [(1, 2.0), (6, 0.0)]


def polylines(picture: str) -> list[list[tuple[float, float]]]:
    """x from 0 to 1000, stretched to the width that there is; y in pixels."""
    found = ElementTree.fromstring(picture).iter("polyline")
    return [[tuple(map(float, p.split(","))) for p in line.attrib["points"].split()] for line in found]  # type: ignore[misc]


def circles(picture: str) -> list[tuple[float, float]]:
    """x in percent of the width, y in pixels."""
    found = ElementTree.fromstring(picture).iter("circle")
    return [(float(circle.attrib["cx"].removesuffix("%")), float(circle.attrib["cy"])) for circle in found]


def test_two_points_are_no_line() -> None:
    """A held-out loss that was measured before and after only: two points with their values, beside a curve."""
    curves = [
        Curve("training", [(1, 4.0), (2, 2.0), (3, 1.0)], "training"),
        Curve("held out", [(1, 4.0), (3, 2.5)], "o"),
    ]
    picture = ElementTree.fromstring(svg(curves, title="Loss", from_zero=True))
    assert [line.attrib["class"] for line in picture.iter("polyline")] == ["training"]
    values = [(t.text, t.attrib["class"]) for t in picture.iter("text") if t.attrib["class"].startswith("value")]
    # Each on the side of its point where there is room.
    assert values == [("4", "value"), ("2.5", "value end")]


def test_svg_places_points_on_the_plot_area() -> None:
    # y from 0 to 4 in a height of 190, x from 1 to 3 in a width of 1000, which is 100 %.
    curves = [Curve("training", [(1, 4.0), (2, 2.0), (3, 0.0)], "training")]
    picture = svg(curves, title="Loss", from_zero=True)
    assert polylines(picture) == [[(0, 0), (500, 95), (1000, 190)]]
    assert circles(picture) == [(0, 0), (50, 95), (100, 190)]
    assert "legend" not in picture


def test_who_cannot_see_a_plot_is_told_its_course() -> None:
    curves = [Curve("training", [(1, 4.0), (9, 0.5)], "training"), Curve('"held" <out>', [(9, 1.234)], "held-out")]
    picture = ElementTree.fromstring(svg(curves, title="Loss & more", from_zero=True))
    assert picture.attrib["role"] == "img"
    assert picture.attrib["aria-label"] == (
        'Loss & more: training from 4 at 1 to 0.5 at 9; "held" <out> from 1.23 at 9 to 1.23 at 9'
    )


def test_what_is_right_and_wrong_is_said_in_words_and_colours() -> None:
    samples = [
        {"question": "q", "before": "a", "after": "b", "right_before": before, "right_after": after}
        for before, after in ((False, True), (True, False))
    ]
    samples.append({"question": "not checked", "before": "a", "after": "b"})
    manifest = copy.deepcopy(MANIFEST)
    manifest["results"]["samples"] = samples
    page = render_report(manifest, METRICS)
    found = re.findall(
        r'<div class="(right|wrong|unchecked)"><small>(before|after)(?: <b class="mark">(\w+)</b>)?', page
    )
    assert found == [
        ("wrong", "before", "wrong"), ("right", "after", "right"),
        ("right", "before", "right"), ("wrong", "after", "wrong"),
        ("unchecked", "before", ""), ("unchecked", "after", ""),
    ]  # fmt: skip


def test_svg_of_two_curves_has_a_legend() -> None:
    curves = [Curve("training", [(1, 4.0), (3, 1.0)], "training"), Curve("held out", [(3, 2.0)], "held-out")]
    texts = [text.text for text in ElementTree.fromstring(svg(curves, title="Loss", from_zero=True)).iter("text")]
    assert texts[-2:] == ["training", "held out"]
    assert texts[:5] == ["0", "1", "2", "3", "4"]


@example(points=[(0, 5e-324)], from_zero=True)
@given(st.lists(st.tuples(st.integers(0, 10**6), st.floats(0, 1e6)), min_size=1, max_size=60), st.booleans())
def test_svg_keeps_every_point_inside(points: list[tuple[int, float]], from_zero: bool) -> None:
    picture = svg([Curve("a", points, "training")], title="a", from_zero=from_zero)
    line = polylines(picture)[0] if len(points) > 2 else circles(picture)
    assert len(line) == len(points)
    assert all(0 <= x <= (1000 if len(points) > 2 else 100) and 0 <= y <= 190 for x, y in line)


def test_doctests() -> None:
    outcome = doctest.testmod(report)
    assert outcome.attempted >= 1
    assert outcome.failed == 0


@given(low=st.floats(-1e6, 1e6), span=st.floats(1e-5, 1e6))
def test_ticks_span_the_range_in_equal_round_steps(low: float, span: float) -> None:
    found = ticks(low, low + span)
    step = found[1] - found[0]
    assert found[0] <= low + 1e-9
    assert found[-1] >= low + span - 1e-9
    assert 2 <= len(found) <= 7
    assert [b - a for a, b in pairwise(found)] == pytest.approx([step] * (len(found) - 1), rel=1e-3)
    assert round(step / 10 ** math.floor(math.log10(step * 1.001)), 3) in (1, 2, 5)
