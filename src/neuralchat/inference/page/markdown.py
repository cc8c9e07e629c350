"""Markdown of a model -> HTML that may stand in the page: rendered without raw HTML, then cleaned by a list of tags."""

from __future__ import annotations

import nh3
from markdown_it import MarkdownIt
from pygments import highlight
from pygments.formatters import HtmlFormatter
from pygments.lexers import get_lexer_by_name
from pygments.token import STANDARD_TYPES

# What models write on a fence -> the name of pygments. Others stay plain, so that no lexer runs that nobody looked at;
# those without a name have a lexer that takes a time that grows with the square of the code, or worse.
LANGUAGES: dict[str, str | None] = {
    **{name: name for name in ("bash", "c", "cpp", "csharp", "css", "diff", "go", "html", "javascript", "json")},
    **{name: name for name in ("kotlin", "php", "python", "r", "ruby", "rust", "sql", "swift", "toml", "typescript")},
    **{name: name for name in ("xml", "yaml")},
    "c++": "cpp", "cs": "csharp", "js": "javascript", "jsx": "javascript", "py": "python", "python3": "python",
    "rb": "ruby", "rs": "rust", "sh": "bash", "shell": "bash", "ts": "typescript", "tsx": "typescript", "yml": "yaml",
    "java": None, "ini": None, "text": None, "console": None, "markdown": None,
}  # fmt: skip
# Colours of longer code would take more time than they are worth.
LONGEST_COLOURED = 6_000
# Characters of one text, and of all texts of a request.
LONGEST_RENDERED = 1 << 15
MOST_RENDERED = 1 << 17

BLOCKS = {"p", "br", "hr", "blockquote", "pre", "h1", "h2", "h3", "h4", "h5", "h6", "ul", "ol", "li"}
WORDS = {"a", "code", "em", "strong", "s", "span"}
TABLES = {"table", "thead", "tbody", "tr", "th", "td"}
COLOURS = HtmlFormatter(nowrap=True)
CLEANER = nh3.Cleaner(
    tags=BLOCKS | WORDS | TABLES,
    attributes={"a": {"href", "title"}, "ol": {"start"}, "th": {"align"}, "td": {"align"}},
    allowed_classes={
        "span": {name for name in STANDARD_TYPES.values() if name},
        "code": {f"language-{name}" for name in LANGUAGES},
    },
    set_tag_attribute_values={"a": {"target": "_blank"}},
    url_schemes={"http", "https"},
    url_relative="deny",
    link_rel="noopener noreferrer nofollow",
)


def coloured(code: str, language: str, _attributes: str) -> str:
    """Spans with pygments' classes; empty where the code is shown as it is."""
    name = LANGUAGES.get(language)
    if name is None or len(code) > LONGEST_COLOURED:
        return ""
    return highlight(code, get_lexer_by_name(name, stripnl=False), COLOURS)


class PageMarkdown(MarkdownIt):
    """A line end is a line end, as chatbots mean it. An image stays a link: the page fetches nothing from elsewhere."""

    def __init__(self) -> None:
        super().__init__("commonmark", {"html": False, "breaks": True, "highlight": coloured})
        self.enable(["table", "strikethrough"]).disable(["image", "html_inline", "html_block"])

    def validateLink(self, url: str) -> bool:  # noqa: N802
        """A link to anything but a page of the web, such as one into this server, stays the text that it is."""
        return url.lower().startswith(("https://", "http://"))


def clean_html(text: str) -> str:
    """
    >>> clean_html("**Yes**, <b>see</b> [here](https://a.example/)")
    '<p><strong>Yes</strong>, &lt;b&gt;see&lt;/b&gt; \
<a href="https://a.example/" target="_blank" rel="noopener noreferrer nofollow">here</a></p>\\n'
    """
    markdown = PageMarkdown()
    tokens = markdown.parse(text)
    for token in tokens:
        # Columns come with a style of their own, which the page's policy does not let through.
        style = str(token.attrs.pop("style", ""))
        if style.startswith("text-align:"):
            token.attrs["align"] = style.removeprefix("text-align:")
        if token.type == "fence":
            language = token.info.strip().partition(" ")[0].lower()
            token.info = language if language in LANGUAGES else ""
    return CLEANER.clean(markdown.renderer.render(tokens, markdown.options, {}))
