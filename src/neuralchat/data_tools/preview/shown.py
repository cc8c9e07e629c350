"""What a preview shows, whoever draws it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from neuralchat.data_tools.preview.rows import TokenRow


@dataclass(frozen=True)
class Shown:
    """Rows under a title. `figures`: (name, value) of them. `weight`: of each time that a token is learned, in the loss
    of its step; None where the step is not known.
    """

    title: str
    rows: Sequence[TokenRow]
    figures: Sequence[tuple[str, str]] = field(default_factory=list)
    weight: float | None = None


@dataclass(frozen=True)
class Preview:
    """`title`: of the whole. `figures`: (name, value) of all that is trained on."""

    title: str
    figures: Sequence[tuple[str, str]]
    shown: Sequence[Shown]
