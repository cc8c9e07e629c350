"""The pages that the program writes, as people open them: on a telephone, in the dark, without a script, on paper."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page
from support.pages.page_looks import CONTRAST, PLACES, SKIPPED_HEADINGS, SMALL_LETTERS, TOO_WIDE
from support.pages.written_pages import (
    ARABIC,
    QUESTION,
    check_page,
    evaluation_page,
    evaluation_page_of_nothing,
    preview_of_tokens,
    report_page,
)

WRITTEN: dict[str, Callable[[Path], str]] = {
    "evaluation": lambda _: evaluation_page(),
    "checkpoints": lambda _: evaluation_page(30, checkpoints=6),
    "no answers": lambda _: evaluation_page_of_nothing(),
    "report": lambda _: report_page(),
    "short run": lambda _: report_page(2, samples=False, held_out_loss_before=None, held_out_loss_after=None),
    "check": check_page,
    "check of nothing": lambda to: check_page(to, [{"instruction": QUESTION, "output": "Rank 8.", "input": ""}]),
    "preview": lambda _: preview_of_tokens(),
}


@pytest.fixture(scope="module")
def screen(browser: Browser) -> Iterator[Page]:
    """Without a script of the page; ours are run all the same."""
    context = browser.new_context(java_script_enabled=False)
    yield context.new_page()
    context.close()


@pytest.fixture(params=WRITTEN)
def written(request: pytest.FixtureRequest, screen: Page, tmp_path: Path) -> Page:
    screen.set_content(WRITTEN[request.param](tmp_path))
    screen.evaluate("document.querySelectorAll('details').forEach((node) => { node.open = true; })")
    return screen


def test_it_is_read_at_every_width_and_in_the_dark(written: Page) -> None:
    for width in (375, 768, 1280):
        written.set_viewport_size({"width": width, "height": 900})
        assert written.evaluate("document.documentElement.scrollWidth") <= width
        assert written.evaluate(TOO_WIDE) == []
        assert written.evaluate(SMALL_LETTERS) == []
    for theme in ("light", "dark"):
        written.emulate_media(color_scheme=theme)  # type: ignore[arg-type]
        assert written.evaluate(CONTRAST) == []
    assert written.evaluate(SKIPPED_HEADINGS) == []
    unnamed = (
        "document.querySelectorAll('svg[role=img]:not([aria-label]), svg:not([role]):not([aria-hidden] *, svg svg)')"
    )
    assert written.evaluate(f"[...{unnamed}].filter((node) => !node.ariaHidden).length") == 0


def test_the_verdict_is_beside_its_measure_on_a_telephone(screen: Page) -> None:
    screen.set_content(evaluation_page())
    screen.set_viewport_size({"width": 375, "height": 800})
    row = screen.locator(".compared tbody tr").first
    for words in ("right answers", "17 of 40 (42%", "37 of 40 (92%", "points (", "better"):
        box = row.get_by_text(words).first.bounding_box()
        assert box is not None
        assert (box["x"] >= 0, box["x"] + box["width"] <= 375) == (True, True)


def test_a_plot_alone_fills_its_panel(screen: Page) -> None:
    screen.set_viewport_size({"width": 1280, "height": 900})
    for html, inside in ((evaluation_page(), ".intervals"), (evaluation_page(30, 6), "svg.curves")):
        screen.set_content(html)
        panel, plot = (screen.locator(name).first.bounding_box() for name in (".plot", inside))
        assert panel is not None
        assert plot is not None
        assert plot["width"] > 0.9 * panel["width"] > 900


def test_each_line_has_its_own_direction(screen: Page) -> None:
    """Code below Arabic begins at the left, Arabic at the right."""
    screen.set_content(evaluation_page())
    question = screen.locator(".question", has_text=ARABIC).first
    assert question.evaluate(PLACES, [0, len(ARABIC) - 1]) == "right to left"
    assert question.evaluate(PLACES, [len(ARABIC) + 1, len(ARABIC) + 5]) == "left to right"


def test_what_is_folded_is_printed(screen: Page) -> None:
    screen.set_content(evaluation_page())
    folded = screen.locator("details:not([open]) .sample").first
    assert not folded.is_visible()
    screen.emulate_media(media="print", color_scheme="dark")
    assert folded.is_visible()
    # Dark ink on white paper, whatever the screen is like.
    assert screen.evaluate("getComputedStyle(document.body).color") == "rgb(29, 36, 51)"
    assert screen.evaluate("getComputedStyle(document.documentElement).colorScheme") == "light"
    screen.emulate_media(media="screen")
