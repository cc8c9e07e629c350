"""The page as a person uses it: ask, watch, stop, again, edit, keep, compare, rate."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import BrowserContext, Page, expect
from support.chatbots.page_backend import Backend

from neuralchat.data.records import RecordReport, read_records

Ask = Callable[..., None]


def test_type_and_stream(page: Page, backend: Backend, ask: Ask) -> None:
    question = page.get_by_label("Your question")
    question.fill("first line")
    page.keyboard.press("Shift+Enter")
    page.keyboard.type("second line")
    page.keyboard.press("Enter")
    answer = page.locator(".answer .text")
    expect(answer).to_have_text("runs/support heard: first line\nsecond line", use_inner_text=True)
    expect(question).to_have_value("")
    assert backend.requests == [
        {
            "model": "runs/support",
            "messages": [{"role": "user", "content": "first line\nsecond line"}],
            "stream": True,
            "stream_options": {"include_usage": True},
        }
    ]
    ask("and then?")
    assert [message["content"] for message in backend.requests[1]["messages"]] == [
        "first line\nsecond line",
        "runs/support heard: first line\nsecond line",
        "and then?",
    ]
    # What a screen reader says, once the answer is whole; and how fast it was.
    expect(page.get_by_role("status")).to_have_text("Answer of runs/support: runs/support heard: and then?")
    expect(page.locator(".stats").last).to_contain_text(re.compile(r"\d+ tokens, [\d.]+ per second"))


@pytest.mark.parametrize("how", ["Escape", "button"])
def test_stop(page: Page, backend: Backend, ask: Ask, how: str) -> None:
    left = backend.left
    ask("slow", wait=False)
    expect(page.locator(".answer .text")).to_contain_text("word word")
    expect(page.locator(".answer")).to_have_attribute("aria-busy", "true")
    if how == "Escape":
        page.keyboard.press("Escape")
    else:
        page.get_by_label("Stop the answer").click()
    expect(page.locator(".stats")).to_have_text("stopped")
    expect(page.get_by_label("Your question")).to_be_focused()
    page.wait_for_timeout(200)
    assert backend.left == left + 1
    # The part that came is what the conversation goes on with.
    ask("go on")
    assert backend.requests[1]["messages"][1]["content"].startswith("word word")


def test_again_and_edit(page: Page, backend: Backend, ask: Ask) -> None:
    ask("one")
    ask("two")
    page.get_by_label("Answer again").click()
    page.wait_for_selector("#send[data-mode=send]")
    assert backend.requests[2] == backend.requests[1]
    expect(page.locator(".turn")).to_have_count(2)

    page.locator(".question").first.hover()
    page.get_by_label("Edit the question").first.click()
    field = page.get_by_role("textbox", name="Edit the question")
    expect(field).to_be_focused()
    expect(page.locator(".editor")).to_contain_text("removes the turn after it")
    page.keyboard.press("Escape")
    expect(page.get_by_label("Edit the question").first).to_be_focused()
    page.keyboard.press("Enter")
    field.fill("three")
    page.keyboard.press("Enter")
    expect(page.locator(".answer .text")).to_have_text("runs/support heard: three")
    expect(page.locator(".turn")).to_have_count(1)

    page.get_by_label("Edit the answer").click()
    page.get_by_role("textbox", name="Edit the answer").fill("Better.")
    page.get_by_role("button", name="Keep", exact=True).click()
    expect(page.locator(".answer .text")).to_have_text("Better.")
    ask("four")
    assert [message["content"] for message in backend.requests[-1]["messages"]] == ["three", "Better.", "four"]


def test_conversations_are_kept_renamed_and_deleted(page: Page, backend: Backend, ask: Ask) -> None:
    ask("about badges")
    page.get_by_role("button", name="New conversation").click()
    ask("about travel")
    page.reload()
    titles = page.locator(".conversations .title")
    expect(titles).to_have_text(["about travel", "about badges"])
    expect(page.locator(".answer .text")).to_have_text("runs/support heard: about travel")
    titles.last.click()
    expect(page.locator(".answer .text")).to_have_text("runs/support heard: about badges")

    page.locator(".conversations li").last.hover()
    page.get_by_label("Rename about badges").click()
    page.keyboard.type("Badges")
    page.keyboard.press("Enter")
    page.reload()
    expect(titles).to_have_text(["about travel", "Badges"])

    page.locator(".conversations li").last.hover()
    page.get_by_label("Delete Badges").click()
    page.get_by_role("button", name="Keep it").click()
    expect(titles).to_have_count(2)
    page.get_by_label("Delete Badges").click()
    page.get_by_role("button", name="Delete", exact=True).click()
    expect(titles).to_have_text(["about travel"])
    page.reload()
    expect(titles).to_have_text(["about travel"])


def test_a_conversation_goes_on_while_another_is_open(page: Page, ask: Ask) -> None:
    ask("slow", wait=False)
    expect(page.locator(".answer .text")).to_contain_text("word word")
    page.get_by_role("button", name="New conversation").click()
    expect(page.locator(".answer")).to_have_count(0)
    page.locator(".conversations .title").first.click()
    expect(page.locator(".answer .text")).to_contain_text("word word word")
    # A tab that is closed meanwhile keeps what had come.
    page.reload()
    expect(page.locator(".stats")).to_have_text("stopped")
    expect(page.locator(".answer .text")).to_contain_text("word")


def test_base_and_tuned_side_by_side(page: Page, backend: Backend, ask: Ask) -> None:
    page.get_by_label("Beside it").select_option("smollm2")
    ask("one")
    expect(page.locator(".answer .text")).to_have_text(["runs/support heard: one", "smollm2 heard: one"])
    first, second = (page.locator(".answer").nth(index).bounding_box() or {} for index in (0, 1))
    assert first["y"] == second["y"]
    assert first["x"] < second["x"]
    # Both go on with the answer of the first, until the other is chosen.
    ask("two")
    assert [request["messages"][1]["content"] for request in backend.requests[2:]] == ["runs/support heard: one"] * 2
    page.get_by_role("button", name="Continue with this").first.click()
    ask("three")
    assert [message["content"] for message in backend.requests[-1]["messages"]] == [
        "one", "smollm2 heard: one", "two", "runs/support heard: two", "three",
    ]  # fmt: skip
    page.reload()
    page.wait_for_selector("#model:enabled")
    assert page.get_by_label("Beside it").input_value() == "smollm2"


def test_settings_are_sent(page: Page, backend: Backend, ask: Ask) -> None:
    page.get_by_role("button", name="Settings", exact=True).click()
    page.get_by_label("System prompt").fill("Be brief.")
    page.get_by_label("Temperature").fill("0.7")
    page.get_by_label("Longest answer").fill("64")
    page.get_by_label("Seed").fill("5")
    page.get_by_label("Top p").fill("7")
    expect(page.get_by_label("Top p")).to_have_attribute("aria-invalid", "true")
    expect(page.locator("#help-top_p")).to_have_text("Top p is 7; allowed is a number from 0.01 to 1.")
    page.keyboard.press("Escape")
    ask("one")
    sent = backend.requests[0]
    assert sent["messages"][0] == {"role": "system", "content": "Be brief."}
    assert (sent["temperature"], sent["max_tokens"], sent["seed"]) == (0.7, 64, 5)
    # What is impossible is told and not sent.
    assert "top_p" not in sent
    expect(page.locator(".system-line")).to_have_text("System prompt Be brief.")
    page.reload()
    ask("two")
    assert backend.requests[1]["temperature"] == 0.7


def test_errors_are_told_in_words(page: Page, backend: Backend, ask: Ask) -> None:
    for question, words in (
        ("too long", "the prompt has 5000 tokens, the model has positions for 2048"),
        ("busy", "The server is busy; ask again in 7 seconds. 8 requests are waiting"),
        ("break", "The model cannot answer just now; ask again in a moment. The engine has crashed"),
    ):
        ask(question)
        expect(page.locator(".problem").last).to_contain_text(words)
    # A question without an answer is left out, and said to be; a part of an answer goes on.
    expect(page.locator(".problem").first).to_contain_text("left out of what follows")
    ask("one")
    assert [message["content"] for message in backend.requests[-1]["messages"]] == ["break", "runs/support h", "one"]


def test_a_key(page: Page, backend: Backend, ask: Ask, context: BrowserContext) -> None:
    backend.key = "secret-key"
    page.reload()
    expect(page.get_by_role("alert")).to_contain_text("The server wants a key.")
    page.get_by_role("button", name="Settings", exact=True).click()
    page.get_by_label("API key").fill("secret-key")
    page.get_by_label("API key").blur()
    page.keyboard.press("Escape")
    expect(page.get_by_role("alert")).to_be_hidden()
    page.wait_for_selector("#model:enabled")
    ask("one")
    expect(page.locator(".answer .text")).to_have_text("runs/support heard: one")
    # It lives as long as the tab.
    assert "secret-key" not in page.evaluate("JSON.stringify(localStorage)")
    assert context.new_page().goto("/") is not None
    expect(context.pages[1].get_by_role("alert")).to_contain_text("The server wants a key.")


def test_thumbs_write_records(page: Page, backend: Backend, ask: Ask) -> None:
    assert backend.feedback is not None
    down = backend.feedback.with_name("answers.down.jsonl")
    ask("one")
    ask("two")
    page.get_by_label("Good answer").last.click()
    expect(page.get_by_label("Good answer").last).to_have_attribute("aria-pressed", "true")
    expect(page.get_by_role("status")).to_have_text("Kept as feedback")
    page.get_by_label("Bad answer").first.click()
    expect(page.get_by_label("Bad answer").first).to_have_attribute("aria-pressed", "true")
    page.wait_for_timeout(100)

    record, other = read_all(backend.feedback), read_all(down)
    assert [(turn.content, turn.trained) for turn in record[0].turns if turn.role == "assistant"] == [
        ("runs/support heard: one", False),
        ("runs/support heard: two", True),
    ]
    assert [turn.content for turn in other[0].turns] == ["one", "runs/support heard: one"]
    assert not other[0].turns[-1].trained

    page.reload()
    expect(page.get_by_label("Good answer").last).to_have_attribute("aria-pressed", "true")
    # Another mind: the line is taken back from the one file, and stands in the other.
    page.get_by_label("Bad answer").last.click()
    expect(page.get_by_label("Bad answer").last).to_have_attribute("aria-pressed", "true")
    page.wait_for_timeout(100)
    assert backend.feedback.read_text() == ""
    assert len(read_all(down)) == 2
    page.get_by_label("Bad answer").last.click()
    expect(page.get_by_role("status")).to_have_text("Feedback taken back")
    assert len(read_all(down)) == 1


def read_all(path: Path) -> list[Any]:
    report = RecordReport()
    records = list(read_records([path], report))
    assert report.problems == []
    return records
