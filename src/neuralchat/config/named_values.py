"""name=value, or a JSON object -> names and values."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any


def parse_named_values(value: Any) -> dict[str, Any]:
    """Names and values that are given as a mapping, as a JSON object, or as name=value, several with commas.

    >>> parse_named_values("enable_thinking=false, date_string=26 July")
    {'enable_thinking': False, 'date_string': '26 July'}
    """
    if isinstance(value, Mapping):
        return dict(value)
    text = (value or "").strip()
    if text.startswith("{"):
        return json.loads(text)
    pairs = [part.partition("=") for part in text.split(",") if part.strip()]
    if bad := [name for name, sign, _ in pairs if not (sign and name.strip().isidentifier())]:
        raise ValueError(f"expected name=value or a JSON object, found {bad[0].strip()!r}")
    return {name.strip(): json_or_text(text.strip()) for name, _, text in pairs}


def json_or_text(text: str) -> Any:
    words = {"True": True, "False": False, "None": None}
    try:
        return words[text] if text in words else json.loads(text)
    except ValueError:
        return text
