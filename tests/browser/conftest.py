"""The page in a real Chromium; what it must never do is looked for after every test."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from playwright.sync_api import Browser, BrowserContext, Page, sync_playwright
from support.chatbots.page_backend import Backend, chromium_path, served


# Not "session": Playwright's loop runs in this thread as long as it lives, and other tests of the same worker
# that call `asyncio.run` would fail.
@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    path = chromium_path()
    if path is None:
        pytest.skip("there is no Chromium; NEURALCHAT_CHROMIUM may name one")
    with sync_playwright() as playwright:
        # As root, and in containers, Chromium cannot build its sandbox.
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox", "--disable-gpu"])
        yield browser
        browser.close()


@pytest.fixture(scope="session")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Backend]:
    with served(Backend(feedback=tmp_path_factory.mktemp("feedback") / "answers.jsonl")) as backend:
        yield backend


@pytest.fixture
def backend(site: Backend) -> Backend:
    """As if it had just begun."""
    site.requests.clear()
    site.key = ""
    assert site.feedback is not None
    for path in site.feedback.parent.iterdir():
        path.unlink()
    return site


@pytest.fixture
def console_errors() -> list[str]:
    """What the browser has complained of; a test that provokes it clears the list."""
    return []


@pytest.fixture
def context(browser: Browser, backend: Backend, console_errors: list[str]) -> Iterator[BrowserContext]:
    """A browser as it is at first. Afterwards: no request left the server, nothing broke its policy or failed."""
    context = browser.new_context(base_url=backend.url, viewport={"width": 1280, "height": 800})
    context.set_default_timeout(10_000)
    asked: list[str] = []
    context.on("request", lambda request: asked.append(request.url))
    context.on("console", lambda message: console_errors.append(message.text) if message.type == "error" else None)
    context.on("weberror", lambda error: console_errors.append(str(error.error)))
    yield context
    context.close()
    assert asked
    assert [url for url in asked if not url.startswith(backend.url)] == []
    # Chromium tells of every answer that is an error.
    assert [text for text in console_errors if "Failed to load resource" not in text] == []


@pytest.fixture
def page(context: BrowserContext) -> Page:
    page = context.new_page()
    page.goto("/")
    page.wait_for_selector("#model:enabled")
    return page


@pytest.fixture
def ask(page: Page) -> Callable[..., Any]:
    """Type a question and send it; returns when its answer has ended, or has begun."""

    def ask(question: str, *, wait: bool = True) -> None:
        page.get_by_label("Your question").fill(question)
        page.keyboard.press("Enter")
        if wait:
            page.wait_for_selector("#send[data-mode=send]")

    return ask
