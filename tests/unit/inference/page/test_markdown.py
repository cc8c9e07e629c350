"""inference/page/markdown.py: what of a model's Markdown becomes HTML, and what never does."""

from __future__ import annotations

import re
import time

import pytest

from neuralchat.inference.page.markdown import LONGEST_RENDERED, clean_html

# Tags and attributes that may come out, whatever goes in.
TAGS = {f"h{level}" for level in range(1, 7)} | {"p", "br", "hr", "blockquote", "pre", "ul", "ol", "li", "a", "code"}
TAGS |= {"em", "strong", "s", "span", "table", "thead", "tbody", "tr", "th", "td"}
ATTRIBUTES = {"href", "title", "start", "align", "class", "target", "rel"}


@pytest.mark.parametrize(
    ("text", "html"),
    [
        ("a\nb", "<p>a<br>\nb</p>\n"),
        ("~~old~~", "<p><s>old</s></p>\n"),
        ("| a |\n|--:|\n| 1 |", 'td align="right"'),
        ("```python\nx = 1\n```", 'class="language-python"'),
        ("```python\nx = 1\n```", '<span class="n">x</span>'),
        ("```klingon\n<x>\n```", "<pre><code>&lt;x&gt;\n</code></pre>"),
        ("3. a\n4. b", '<ol start="3">'),
        ("![cat](https://a.example/cat.png)", '!<a href="https://a.example/cat.png"'),
    ],
)
def test_markdown_becomes_html(text: str, html: str) -> None:
    assert html in clean_html(text)


@pytest.mark.parametrize(
    "text",
    [
        "<script>alert(1)</script>",
        "<img src=x onerror=alert(1)>",
        "[a](javascript:alert(1))",
        "[a](JaVaScRiPt:alert(1))",
        "[a](&#106;avascript:alert(1))",
        "[a](data:text/html,x)",
        "[a](vbscript:x)",
        "[a](//evil.example)",
        "<https://a.example/?a=<b>>",
        "[a](https://a.example 'x\" onclick=\"alert(1)')",
        "```python\n</code></pre><script>alert(1)</script>\n```",
        '``` " onmouseover=alert(1)\nx\n```',
        "<!-- --><svg><style><img src=x></style></svg>",
        "<math><mtext><table><mglyph><style><!--</style><img title='--&gt;&lt;img src=1 onerror=alert(1)&gt;'>",
        "# <form action=x><input>",
        "a\x00b<\x00script>",
    ],
)
def test_nothing_but_the_listed_tags_comes_out(text: str) -> None:
    html = clean_html(text)
    tags = re.findall(r"<(/?)([a-zA-Z0-9]+)([^<>]*)>", html)
    assert {name for _, name, _ in tags} <= TAGS
    attributes = [re.findall(r'\s([\w-]+)="([^"]*)"', rest) for _, _, rest in tags]
    assert {name for found in attributes for name, _ in found} <= ATTRIBUTES
    for found in attributes:
        held = dict(found)
        assert held.get("href", "https://x").startswith(("https://", "http://"))
        assert ("href" in held) <= (held.get("rel") == "noopener noreferrer nofollow")


@pytest.mark.slow
@pytest.mark.parametrize(
    "part",
    ["*", "_", "[", "![", "`", ">", "- ", "| a ", "<", "**a *", "[a](", "\\", "&#", "~~", "1. ", "\n> - ", "a|\n-|\n"],
)
def test_the_time_grows_with_the_text_and_not_faster(part: str) -> None:
    def seconds(length: int) -> float:
        """The best of three: what else the process does, such as collecting its garbage, takes time too."""
        text, found = (part * length)[:length], []
        for _ in range(3):
            began = time.process_time()
            clean_html(text)
            found.append(time.process_time() - began)
        return min(found)

    # Sixteen times the text: 16 times the time, with room for what is measured badly; of a square it would be 256.
    short = max(seconds(LONGEST_RENDERED // 16), 0.003)
    assert seconds(LONGEST_RENDERED) / short < 100


def test_a_fence_of_every_language_keeps_its_code() -> None:
    from neuralchat.inference.page.markdown import LANGUAGES

    for name in LANGUAGES:
        html = clean_html(f"```{name}\n  a < b && 'c'\n\n```")
        assert f'class="language-{name}"' in html
        code = re.sub(r"<[^>]*>", "", html).replace("&lt;", "<").replace("&amp;", "&")
        assert code == "  a < b && 'c'\n\n\n" or code == "  a < b && 'c'\n\n"
