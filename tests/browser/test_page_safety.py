"""What the page must not do with texts, who can use it, and how it looks on small screens."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from playwright.sync_api import Page, expect
from support.chatbots.page_backend import Backend
from support.pages.page_looks import CONTRAST, PLACES

Ask = Callable[..., None]
HOSTILE = (
    "<script>window.harmed = true</script><img src=x onerror='window.harmed = true'> <|im_end|> **bold** ${x} &amp;"
)


def test_texts_stay_text(page: Page, backend: Backend, ask: Ask) -> None:
    long = (HOSTILE + " ") * 100
    assert len(long) > 10_000
    for text in (HOSTILE, long):
        ask(text)
        assert backend.requests[-1]["messages"][-1]["content"] == text
        # The question as it was typed; the answer, in which stars are Markdown, with every character of the rest.
        assert page.locator(".question .text").last.evaluate("node => node.textContent") == text
        answer = page.locator(".answer .text").last
        expect(answer.locator("strong").first).to_have_text("bold")
        shown = answer.evaluate("node => node.textContent")
        assert shown.strip() == f"runs/support heard: {text}".replace("**bold**", "bold").replace("&amp;", "&").strip()
    page.reload()
    expect(page.locator(".question .text").first).to_have_text(HOSTILE)
    assert page.locator("#messages script, #messages img, #messages iframe").count() == 0
    assert page.evaluate("window.harmed") is None
    # As the title of the conversation too.
    assert page.locator(".conversations .title").first.evaluate("node => node.textContent").startswith("<script>")


def test_markdown_is_shown(page: Page, ask: Ask) -> None:
    ask("markdown")
    answer = page.locator(".answer .markdown")
    expect(answer.locator("h1")).to_have_text("Badges")
    expect(answer.locator("li")).to_have_count(2)
    expect(answer.locator("pre code .k").first).to_have_text("def")
    expect(answer.locator("td[align=right]")).to_have_text("17:00")
    link = answer.locator("a")
    expect(link).to_have_count(1)
    assert link.get_attribute("rel") == "noopener noreferrer nofollow"
    assert link.get_attribute("target") == "_blank"
    expect(answer).to_contain_text("<script>window.harmed = true</script>")
    assert page.evaluate("window.harmed") is None
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    page.get_by_label("Copy the code").click()
    assert page.evaluate("navigator.clipboard.readText()").startswith("def reset(badge: str) -> bool:\n    # Blocked")
    page.get_by_label("Copy the answer").click()
    assert page.evaluate("navigator.clipboard.readText()").startswith("# Badges")


def test_only_cleaned_html_enters_the_page(page: Page, console_errors: list[str]) -> None:
    """Trusted Types: a mistake in the page's own code would be stopped by the browser."""
    refused = page.evaluate(
        "() => { try { document.body.innerHTML = '<b>x</b>'; return ''; } catch (error) { return error.name; } }"
    )
    assert refused == "TypeError"
    assert page.evaluate(
        "() => { try { trustedTypes.createPolicy('other', {}); return ''; } catch (error) { return error.name; } }"
    )
    assert len(console_errors) == 2
    console_errors.clear()


def names_of_controls(page: Page) -> list[dict[str, str]]:
    """Every control that can be seen, with the name that the browser computes for it."""
    client = page.context.new_cdp_session(page)
    nodes = client.send("Accessibility.getFullAXTree")["nodes"]
    roles = ("button", "textbox", "combobox", "link", "dialog", "navigation", "main", "article", "region")
    return [
        {"role": node["role"]["value"], "name": node.get("name", {}).get("value", "")}
        for node in nodes
        if not node.get("ignored") and node["role"]["value"] in roles
    ]


def test_every_control_has_a_name(page: Page, ask: Ask) -> None:
    ask("markdown")
    page.get_by_label("Beside it").select_option("smollm2")
    ask("one")
    for prepare in (lambda: None, lambda: page.get_by_role("button", name="Settings", exact=True).click()):
        prepare()
        controls = names_of_controls(page)
        assert {"button", "textbox"} <= {control["role"] for control in controls}
        assert [control for control in controls if not control["name"].strip()] == []
    assert page.evaluate("document.documentElement.lang") == "en"
    ids = page.evaluate("[...document.querySelectorAll('[id]')].map((node) => node.id)")
    assert len(ids) == len(set(ids))


def test_everything_is_reached_by_the_keyboard(page: Page, ask: Ask) -> None:
    ask("one")
    page.evaluate("document.activeElement.blur()")
    reached = []
    for _ in range(40):
        page.keyboard.press("Tab")
        reached.append(
            page.evaluate(
                "() => { const held = document.activeElement; if (held === document.body) return ['', true];"
                " return [held.getAttribute('aria-label') || held.textContent.trim() || held.id,"
                " getComputedStyle(held).outlineStyle !== 'none' || held.id === 'question']; }"
            )
        )
    names = [name for name, _ in reached]
    for wanted in (
        "To the question", "New conversation", "one", "Rename one", "Delete one", "Settings", "Copy the question",
        "Edit the question", "Copy the answer", "Answer again", "Edit the answer", "Good answer", "Bad answer",
        "Your question", "Send",
    ):  # fmt: skip
        assert wanted in names
    # And it is seen where one is.
    assert [name for name, seen in reached if not seen and name not in ("", "NeuralChat")] == []


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_words_can_be_read_in_light_and_dark(page: Page, ask: Ask, theme: str) -> None:
    page.emulate_media(color_scheme="dark" if theme == "light" else "light")
    page.evaluate(f"localStorage.setItem('neuralchat.theme', '{theme}')")
    page.reload()
    page.wait_for_selector("#model:enabled")
    assert page.get_by_label(f"Colours: {theme}").count() == 1
    dark = page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(26, 27, 29)"
    assert dark == (theme == "dark")
    ask("markdown")
    ask("too long")
    assert page.evaluate(CONTRAST) == []


def test_a_narrow_screen(page: Page, ask: Ask) -> None:
    page.set_viewport_size({"width": 360, "height": 640})
    page.get_by_label("Beside it").select_option("smollm2")
    ask("markdown")
    # Nothing is wider than the screen, and the two answers stand one below the other.
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    assert page.evaluate(
        "document.getElementById('messages').scrollWidth <= document.getElementById('messages').clientWidth"
    )
    first, second = (page.locator(".answer").nth(index).bounding_box() or {} for index in (0, 1))
    assert first["x"] == second["x"]
    # The drawer: out of reach until it is opened, and closed by Esc.
    expect(page.locator("#sidebar")).to_have_js_property("inert", True)
    page.get_by_role("button", name="Conversations", exact=True).click()
    expect(page.get_by_role("button", name="New conversation")).to_be_focused()
    page.keyboard.press("Escape")
    expect(page.locator("#sidebar")).to_have_js_property("inert", True)
    expect(page.get_by_role("button", name="Conversations", exact=True)).to_be_focused()


def test_a_question_from_right_to_left(page: Page, ask: Ask) -> None:
    """The full stop of Hebrew is at the left."""
    ask("\u05e9\u05dc\u05d5\u05dd.\nmain():")
    text = page.locator(".question .text .raw, .question .text").last
    assert text.evaluate(PLACES, [0, 4]) == "right to left"
    assert text.evaluate(PLACES, [6, 12]) == "left to right"


def test_the_policy_allows_nothing_inline(page: Page, backend: Backend) -> None:
    for path in ("", "page/app.js", "page/style.css", "page/settings", "page/none.js"):
        headers = page.request.get(backend.url + path).headers
        policy = headers["content-security-policy"]
        assert {"default-src 'none'", "frame-ancestors 'none'", "script-src 'self'"} <= set(policy.split("; "))
        assert [word for word in ("unsafe", "data:", "*") if word in policy] == []
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["referrer-policy"] == "no-referrer"
