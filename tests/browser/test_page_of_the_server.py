"""The page of the real server, with a model behind it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, expect
from support.live_server import LiveServer, live_server

from neuralchat.data.records import RecordReport, read_records

KEY = "a-key-of-sixteen-letters"


@pytest.fixture
def server(tmp_path: Path) -> Iterator[LiveServer]:
    from neuralchat.inference.server.settings import Keys, keys_in

    with live_server(feedback=tmp_path / "answers.jsonl", keys=Keys(clients=keys_in(KEY))) as server:
        yield server


def test_ask_rate_and_ask_again(browser: Browser, server: LiveServer, tmp_path: Path) -> None:
    context = browser.new_context(base_url=server.url)
    context.set_default_timeout(10_000)
    errors: list[Any] = []
    context.on("weberror", lambda error: errors.append(error.error))
    page = context.new_page()
    page.goto("/")
    expect(page.get_by_role("alert")).to_contain_text("The server wants a key.")
    page.get_by_role("button", name="Settings", exact=True).click()
    page.get_by_label("API key").fill(KEY)
    page.get_by_label("API key").blur()
    page.keyboard.press("Escape")
    page.wait_for_selector("#model:enabled")
    for question in ("Name a <|end|> colour.", "And another?"):
        page.get_by_label("Your question").fill(question)
        page.keyboard.press("Enter")
        page.wait_for_selector("#send[data-mode=send]")
        assert page.locator(".problem").count() == 0
        expect(page.locator(".answer .text").last).not_to_be_empty()
    page.get_by_label("Good answer").last.click()
    expect(page.get_by_role("status")).to_have_text("Kept as feedback")
    said = page.locator(".answer .text").last.inner_text()
    context.close()
    assert errors == []
    report = RecordReport()
    (record,) = read_records([tmp_path / "answers.jsonl"], report)
    assert [turn.trained for turn in record.turns if turn.role == "assistant"] == [False, True]
    assert record.turns[0].content == "Name a <|end|> colour."
    assert record.turns[-1].content.split() == said.split()
