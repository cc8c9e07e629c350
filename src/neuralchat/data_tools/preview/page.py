"""a preview -> one self-contained page with no script and no outside resource."""

from __future__ import annotations

from typing import Any

from neuralchat.console.terminal import visible
from neuralchat.data_tools.preview.rows import TokenPart
from neuralchat.data_tools.preview.shown import Preview, Shown
from neuralchat.data_tools.preview.token_text import TextPiece, TokenTexts
from neuralchat.runs.report import page_template
from neuralchat.secrets import without_remembered


def preview_page(preview: Preview, texts: TokenTexts) -> str:
    """The page. All that comes from records and tokenizers is escaped."""
    page = page_template("data_tools/preview/page.html.j2").render(
        title=preview.title,
        figures=preview.figures,
        shown=[shown_of_page(shown, texts) for shown in preview.shown],
    )
    return without_remembered(visible(page))


def shown_of_page(shown: Shown, texts: TokenTexts) -> dict[str, Any]:
    rows = [
        {"title": row.title, "parts": [token_part_of_page(part, texts, shown.weight) for part in row.parts]}
        for row in shown.rows
    ]
    return {"title": shown.title, "figures": shown.figures, "rows": rows}


def token_part_of_page(part: TokenPart, texts: TokenTexts, weight: float | None) -> dict[str, Any]:
    pieces = [(piece.text, piece.mark, hint(piece, weight)) for piece in texts.pieces(part.tokens)]
    return {"title": part.title, "pieces": pieces}


def hint(piece: TextPiece, weight: float | None) -> str:
    """What is shown of a piece where the pointer rests on it."""
    first = piece.tokens[0]
    ids = " ".join(str(token.token_id) for token in piece.tokens)
    told = f"position {first.position}, id {ids}"
    if first.learned:
        return f"{told}, learned" + ("" if weight is None else f", weight {first.learned * weight:.3g}")
    return f"{told}, held to the base model" if first.compared else told
