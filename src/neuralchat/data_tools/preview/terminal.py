"""a preview -> what a terminal shows of it."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import groupby

from neuralchat.console.tables import Figures, MarkedText, Page, Part, Table
from neuralchat.data_tools.preview.rows import TokenPart
from neuralchat.data_tools.preview.shown import Preview, Shown
from neuralchat.data_tools.preview.token_text import TokenTexts

LEGEND = (
    ("learned", "learned"),
    (", ", ""),
    ("<special>", "special"),
    (" tokens and ", ""),
    ("<learned special>", "learned special"),
    (" ones, ", ""),
    ("held to the base model", "compared"),
)


def terminal_page(preview: Preview, texts: TokenTexts, *, with_ids: bool) -> Page:
    parts: list[Part] = [preview.title, Figures(preview.figures), MarkedText(LEGEND)]
    for shown in preview.shown:
        parts += shown_parts(shown, texts, with_ids=with_ids)
    return Page(parts)


def shown_parts(shown: Shown, texts: TokenTexts, *, with_ids: bool) -> Iterator[Part]:
    yield MarkedText([(f"\n{shown.title}", "title")])
    if shown.figures:
        yield Figures(shown.figures)
    for row in shown.rows:
        yield MarkedText([(row.title, "title")])
        for part in row.parts:
            if part.title:
                yield MarkedText([(f"\n{part.title}", "title")])
            yield token_table(part, texts, shown.weight) if with_ids else marked_text(part, texts)


def marked_text(part: TokenPart, texts: TokenTexts) -> MarkedText:
    runs = groupby(texts.pieces(part.tokens), key=lambda piece: piece.mark)
    return MarkedText([("".join(piece.text for piece in run), mark) for mark, run in runs])


def token_table(part: TokenPart, texts: TokenTexts, weight: float | None) -> Table:
    """Of each token its position, id, text, and its weight in the loss of the step where that is known."""
    rows = []
    for token in part.tokens:
        use = "compared" if token.compared and not token.learned else ""
        if token.learned:
            use = "learned" if weight is None else f"{token.learned * weight:.3g}"
        rows.append((str(token.position), str(token.token_id), repr(texts.name(token.token_id))[1:-1], use))
    return Table(("position", "id", "token", "learned" if weight is None else "weight"), rows)
