"""A run as Python sees it: what its directory says, read when it is asked for."""

from __future__ import annotations

import html
import os
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from neuralchat.console.tables import Page
from neuralchat.runs.directory import REPORT, checkpoints, read_manifest, read_metrics
from neuralchat.runs.results import RunResults
from neuralchat.runs.summary import summary_of_run

if TYPE_CHECKING:
    from neuralchat.inference.chatbot import Chatbot


class Run:
    """The directory of a finished run. Nothing is read before it is asked for; `Run.load` reads the manifest at once.

    >>> run = Run.load("runs/a")                             # doctest: +SKIP
    >>> run.results.held_out_loss_after                      # doctest: +SKIP
    1.8712
    >>> [line["loss"] for line in run.metrics if "loss" in line]      # doctest: +SKIP
    [2.9, 2.1, 1.9]
    >>> print(run)                                           # doctest: +SKIP
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Run:
        """Raises RunDirectoryError where the directory holds no finished run."""
        run = cls(path)
        assert run.manifest is not None
        return run

    @cached_property
    def manifest(self) -> dict[str, Any]:
        """neuralchat.json, checked. Raises RunDirectoryError, saying what is missing."""
        return read_manifest(self.path)

    @property
    def results(self) -> RunResults:
        return RunResults.from_manifest(self.manifest)

    @property
    def metrics(self) -> list[dict[str, Any]]:
        """The lines of metrics.jsonl: one for each logging step and each evaluation. Read anew each time."""
        return read_metrics(self.path)

    @property
    def arguments(self) -> dict[str, Any]:
        """All our arguments, and those of training that were set or differ from transformers' defaults."""
        return dict(self.manifest.get("arguments") or {})

    @property
    def checkpoints(self) -> list[Path]:
        """Directories checkpoint-N that are still there, oldest step first."""
        return checkpoints(self.path)

    @property
    def report(self) -> Path:
        """The page with curves, data, speed, and answers before and after."""
        return self.path / REPORT

    def chatbot(self, *, trust_remote_code: bool = False) -> Chatbot:
        """The chatbot of this run. Errors are those of `Chatbot.load`."""
        # Imported here, so that looking at a run takes no torch.
        from neuralchat.inference.chatbot import Chatbot

        return Chatbot.load(self.path, trust_remote_code=trust_remote_code)

    def page(self) -> Page:
        """The summary as the terminal draws it."""
        return summary_of_run(self.path, self.manifest)

    def summary(self) -> str:
        """What `neuralchat show` prints."""
        return str(self.page())

    def __str__(self) -> str:
        return self.summary()

    def __repr__(self) -> str:
        return f"Run({str(self.path)!r})"

    def _repr_html_(self) -> str:
        return f"<pre>{html.escape(self.summary())}</pre>"
