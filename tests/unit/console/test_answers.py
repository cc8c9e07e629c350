"""console/answers.py and answer_drawing.py: an answer on a terminal, and what of Markdown is drawn."""

from __future__ import annotations

import io
import re

import pytest
from support.terminals.screens import Terminal

from neuralchat.console.answer_drawing import DrawnAnswer, DrawnMarkdown, draw_beside
from neuralchat.console.answers import answer_display, show_beside, whole_blocks
from neuralchat.console.drawing import Screen

TEXT = """\
# Badges

A lost badge is **blocked**,
says [the desk](https://desk.example).

1. Go there.
2. Wait.

```python
def reset(badge):

    return badge
```

| Day | Open |
|---|---|
| Mon | 17:00 |

<b>bold</b> and <script>alert(1)</script> ![cat](https://a.example/cat.png) &lt;
"""


def plain(written: str) -> str:
    return re.sub(r"\x1b\[[\d;?]*[A-Za-z]", "", written)


@pytest.mark.parametrize("size", [1, 7, 10_000])
def test_blocks_are_drawn_once_each_as_they_end(size: int) -> None:
    terminal = Terminal()
    answer = DrawnAnswer(terminal, width=90)
    for start in range(0, len(TEXT), size):
        answer.add(TEXT[start : start + size])
    answer.end(" [cut at --max_new_tokens]")
    shown = [line for line in terminal.lines() if line]
    assert shown.count("[cut at --max_new_tokens]") == 1
    text = "\n".join(shown)
    for words in (
        "Badges",
        "A lost badge is blocked,\nsays the desk (https://desk.example).",
        "1 Go there.",
        "2 Wait.",
    ):
        assert text.count(words) == 1, text
    assert text.count("def reset(badge):") == 1
    assert "17:00" in text
    # What rich would leave out.
    assert "<b>bold</b> and <script>alert(1)</script> !cat (https://a.example/cat.png) <" in text


def test_what_is_being_written_is_seen_before_its_block_ends() -> None:
    terminal = Terminal()
    answer = DrawnAnswer(terminal, width=70, height=10)
    answer.drawn_at = -1.0
    answer.add("The first words")
    assert "The first words" in terminal.lines()
    # Of more lines than the screen has, the last are shown until the block ends, and then all of them.
    answer.drawn_at = -1.0
    answer.add("".join(f"\nline {number}" for number in range(30)))
    assert "line 29" in terminal.lines()
    assert len([line for line in terminal.lines() if line]) <= 10
    answer.end()
    assert [line for line in terminal.lines() if line] == ["The first words", *(f"line {n}" for n in range(30))]


def test_an_answer_cannot_command_the_terminal() -> None:
    terminal = Terminal()
    answer = DrawnAnswer(terminal, width=70)
    answer.add("a\x1b[2Jb\x07 \u202ec\n\n`\x1b]0;title\x07`\n\n[x\x1b[1m](https://a.example/\x1b[1m)")
    answer.end()
    written = terminal.getvalue()
    assert "\x1b[2J" not in written
    assert "\x07" not in written
    assert "\x1b]" not in written
    assert "\u202e" not in written
    assert "a\\x1b[2Jb\\x07 \\u202ec" in plain(written)


def test_a_terminal_of_one_line_height_and_few_columns() -> None:
    terminal = Terminal()
    answer = DrawnAnswer(terminal, width=8, height=1)
    for word in ("some ", "words ", "that ", "wrap\n\n", "and ", "more"):
        answer.drawn_at = -1.0
        answer.add(word)
    answer.end()
    assert "".join(terminal.lines()).replace(" ", "") == "somewordsthatwrapandmore"


def test_elsewhere_words_come_as_they_are(capsys: pytest.CaptureFixture[str]) -> None:
    answer = answer_display()
    answer.add("**a** ")
    answer.add("b\n\nc")
    answer.end("")
    show_beside({"tuned": "**a**", "base": "b"})
    assert capsys.readouterr().out == "**a** b\n\nc\ntuned: **a**\nbase: b\n"


def test_two_answers_stand_beside_each_other(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    terminal = Terminal()
    draw_beside(terminal, {"runs/a": "The tuned one.", "base": "The base one."})
    lines = terminal.lines()
    assert any("runs/a" in line and "base" in line for line in lines)
    assert any("The tuned one." in line and "The base one." in line for line in lines)


@pytest.mark.parametrize(
    ("text", "blocks"),
    [
        ("", ""),
        ("a", ""),
        ("a\n\n", "a\n\n"),
        ("a\n \nb\n\nc", "a\n \nb\n\n"),
        ("```\na\n\nb\n", ""),
        ("```\na\n\nb\n```\nc", "```\na\n\nb\n```\n"),
        ("~~~~\n```\n\n~~~\n\n~~~~\n", "~~~~\n```\n\n~~~\n\n~~~~\n"),
        ("a\u2028\n\nb", "a\u2028\n\n"),
    ],
)
def test_whole_blocks(text: str, blocks: str) -> None:
    assert whole_blocks(text) == blocks


def test_markdown_loses_no_words() -> None:
    stream = io.StringIO()
    Screen(stream, width=200).print(
        DrawnMarkdown("<div>\na\n</div>\n\n<!-- b --> c <br> d &amp; `<e>` <https://f.example>")
    )
    shown = plain(stream.getvalue())
    for words in ("<div>", "a", "</div>", "<!-- b -->", "<br> d & <e>", "https://f.example"):
        assert words in shown
