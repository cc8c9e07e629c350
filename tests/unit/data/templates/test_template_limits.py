"""data/templates/limits.py: what takes too long, too much memory or yields too much is told, in any thread."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
from jinja2.sandbox import ImmutableSandboxedEnvironment
from support.small_models import make_tokenizer

from neuralchat.data.records import Turn
from neuralchat.data.templates import chat_text, limits
from neuralchat.data.templates.limits import check_rendered_size, time_limit, tried_in_child
from neuralchat.errors import TemplateError

LOOPS = "{% for a in range(99999) %}" * 3 + "{% endfor %}" * 3
DOUBLING = "{% set n = namespace(x='a' * 1000) %}{% for i in range(40) %}{% set n.x = n.x ~ n.x %}{% endfor %}"


def render(source: str) -> str:
    return ImmutableSandboxedEnvironment().from_string(source).render()


def in_thread(work: Callable[[], Any]) -> Any:
    """The outcome of `work` in a thread of its own, an exception as a value."""
    found: list[Any] = []

    def run() -> None:
        try:
            found.append(work())
        except BaseException as error:
            found.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join(60)
    return found[0]


def limited(source: str, seconds: float = 0.3) -> str:
    with time_limit(seconds, "the chat template"):
        return render(source)


def here(work: Callable[[], Any]) -> Any:
    try:
        return work()
    except BaseException as error:
        return error


PLACES = pytest.mark.parametrize("place", [here, in_thread], ids=["main thread", "another thread"])


@PLACES
def test_what_takes_too_long_is_told(place: Callable) -> None:
    before = time.monotonic()
    error = place(lambda: limited(LOOPS))
    assert isinstance(error, TemplateError)
    assert str(error) == "the chat template takes longer than 0.3 s; it is not used"
    # Without the limit it would take days.
    assert time.monotonic() - before < 30


@PLACES
def test_what_takes_too_much_memory_is_told(place: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "MAX_GROWTH_BYTES", 64 << 20)
    error = place(lambda: limited(DOUBLING, 60))
    assert isinstance(error, TemplateError)
    assert "takes more than 64 MiB of memory" in str(error)


@PLACES
def test_what_is_done_in_time_is_left_alone(place: Callable) -> None:
    def often() -> list[str]:
        return [limited("{{ 1 + 1 }}", 5.0) for _ in range(200)]

    assert place(often) == ["2"] * 200
    # Nothing is raised later.
    assert place(lambda: time.sleep(0.5)) is None


@PLACES
def test_the_inner_of_two_limits_does_not_end_the_outer(place: Callable) -> None:
    def nested() -> str:
        with time_limit(30, "the outer"):
            with pytest.raises(TemplateError, match="the inner takes longer"), time_limit(0.2, "the inner"):
                render(LOOPS)
            return render("done")

    assert place(nested) == "done"


def test_who_swallows_exceptions_does_not_swallow_the_limit() -> None:
    def endless() -> None:
        while True:
            try:
                sum(range(1000))
            except Exception:
                continue

    with pytest.raises(TemplateError, match="it takes longer"), time_limit(0.2, "it"):
        endless()


def test_an_alarm_that_was_set_before_rings_meanwhile_and_afterwards() -> None:
    rung: list[float] = []
    before = signal.signal(signal.SIGALRM, lambda *_: rung.append(time.monotonic()))
    try:
        began = time.monotonic()
        signal.setitimer(signal.ITIMER_REAL, 0.1)
        with time_limit(10, "it"):
            time.sleep(0.3)
        assert len(rung) == 1
        assert rung[0] - began < 0.3
        signal.setitimer(signal.ITIMER_REAL, 0.2)
        with time_limit(10, "it"):
            render("{{ 1 }}")
        time.sleep(0.3)
        assert len(rung) == 2
        assert signal.getitimer(signal.ITIMER_REAL) == (0.0, 0.0)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


@pytest.mark.slow
# What no limit within the process can end: single operations, and those that Python does not look up from.
@pytest.mark.parametrize(
    ("source", "match"),
    [
        (LOOPS, "takes longer than 1 s"),
        ("{{ 9 ** (9 ** 9) }}", "takes longer than 1 s|more than 256 MiB"),
        ("{{ 'a' * 20000000000 }}", "takes more than 256 MiB"),
        ("{{ 'a'.ljust(20000000000) }}", "takes more than 256 MiB"),
        # On a machine that is busy the other limit is met first.
        (DOUBLING, "takes longer than 1 s|more than 256 MiB"),
    ],
)
def test_a_child_meets_what_would_end_this_process(source: str, match: str) -> None:
    for place in (here, in_thread):
        error = place(lambda: tried_in_child(lambda: render(source), "it", seconds=1, memory=256 << 20))
        assert isinstance(error, TemplateError), error
        assert match.split("|")[0] in str(error) or match.split("|")[-1] in str(error)


def test_a_child_that_is_content_says_nothing() -> None:
    tried_in_child(lambda: render("{{ 1 }}"), "it")
    # What is wrong otherwise is met again, and told, by who renders it.
    tried_in_child(lambda: render("{{ nothing.x.y }}"), "it")


def test_a_child_writes_nothing(tmp_path: Any, capfd: pytest.CaptureFixture[str]) -> None:
    def work() -> None:
        print("shown", flush=True)
        (tmp_path / "file").write_text("written")

    tried_in_child(work, "it")
    assert capfd.readouterr().out == ""
    assert (tmp_path / "file").stat().st_size == 0 if (tmp_path / "file").exists() else True


def test_a_child_that_dies_is_told() -> None:
    with pytest.raises(TemplateError, match=r"it ends the process that tries it \(status -9\)"):
        tried_in_child(lambda: os.kill(os.getpid(), signal.SIGKILL), "it")


def test_a_text_of_any_length_is_not_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "MAX_RENDERED_CHARACTERS", 10)
    assert check_rendered_size("a" * 10, "it") == "a" * 10
    with pytest.raises(TemplateError, match="it yields 11 characters; at most 10 are allowed"):
        check_rendered_size("a" * 11, "it")


@pytest.mark.parametrize(
    ("source", "match"),
    [
        (LOOPS, "takes longer than 5 s"),
        (DOUBLING, "takes longer than 1 s|more than 1024 MiB of memory"),
        ("{{ 'a' * 20000000000 }}", "takes more than 1024 MiB of memory"),
        ("{% if messages[0]['role'] == 'system' %}" + LOOPS + "{% endif %}a", "takes longer than 5 s"),
    ],
)
def test_a_hostile_chat_template_is_told_before_anything_is_rendered_here(
    source: str, match: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(chat_text, "tried_in_child", partial(tried_in_child, seconds=1))
    tokenizer = make_tokenizer()
    tokenizer.chat_template = source
    with pytest.raises(TemplateError, match=match.replace("5 s", "1 s")):
        chat_text.ChatText(tokenizer)


def test_a_template_that_is_hostile_to_some_texts_only_is_told_when_it_meets_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(chat_text, "RENDER_SECONDS", 0.3)
    tokenizer = make_tokenizer()
    when = "{% if 'now' in messages[0]['content'] %}" + LOOPS + "{% endif %}"
    tokenizer.chat_template = when + tokenizer.chat_template
    text = chat_text.ChatText(tokenizer)
    assert "a fruit" in text.text([Turn("user", "a fruit")])
    with pytest.raises(TemplateError, match="the chat template of this tokenizer takes longer than"):
        text.text([Turn("user", "now")])
