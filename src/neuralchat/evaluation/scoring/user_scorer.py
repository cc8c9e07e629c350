"""FILE.py:FUNCTION -> a scorer that calls it. The one place that runs code of a user, who has asked for just that."""

from __future__ import annotations

import importlib.util
import inspect
import math
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from neuralchat.errors import ArgumentsError, NeuralChatError
from neuralchat.evaluation.answers import Answered
from neuralchat.evaluation.items import Item
from neuralchat.evaluation.scoring.scorers import Scorer, asked_of


class UserScorer:
    """`named`: PATH.py:FUNCTION, called as FUNCTION(question, answer, expected) once for each answer. It returns a
    number, of which the mean is taken, or True or False; where it does that for all answers, they are counted.

    `failure`: why there are no scores of it, None where there are.
    """

    def __init__(self, named: str) -> None:
        """Raises ArgumentsError where there is no such function, or it cannot be called so."""
        path, _, name = named.rpartition(":")
        if not path.endswith(".py") or not name.isidentifier():
            raise ArgumentsError(f"--run_code {named}: name a file and a function of it, as scoring.py:my_score")
        self.named, self.name = named, name
        self.function = function_of(path, name)
        self.failure: NeuralChatError | None = None

    def scorers(self, answered: Iterable[tuple[Item, Answered]]) -> list[Scorer]:
        """One, which knows the scores of these answers; none where the function fails on any of them."""
        known: dict[tuple[str, str, str], float] = {}
        counted = True
        for item, answer in answered:
            if not asked_of(item) or (key := key_of(item, answer)) in known:
                continue
            try:
                found = self.function(*key)
            except (Exception, SystemExit) as error:
                self.failure = self.refused(f"it failed on {item.source}: {type(error).__name__}: {error}")
                return []
            if (number := number_of(found)) is None:
                self.failure = self.refused(
                    f"it gave {found!r:.60} for {item.source}; it must return a number, or True or False"
                )
                return []
            # numpy has a bool of its own.
            counted = counted and str(found) in ("True", "False")
            known[key] = number
        return [Scorer("run_code", self.name, asked_of, lambda i, a: known[key_of(i, a)], share=counted)]

    def refused(self, what: str) -> ArgumentsError:
        return ArgumentsError(f"--run_code {self.named}: {what}. There are no scores of it")


def key_of(item: Item, answer: Answered) -> tuple[str, str, str]:
    """What decides a score."""
    return item.question, answer.text, item.expected


def number_of(found: Any) -> float | None:
    """Also of numpy's and torch's numbers; None for what is none, or not finite.

    >>> number_of(True), number_of(0.5), number_of("1"), number_of(None), number_of(float("nan"))
    (1.0, 0.5, None, None, None)
    """
    if isinstance(found, str | bytes):
        return None
    try:
        number = float(found)
    except (TypeError, ValueError, OverflowError):
        return None
    return number if math.isfinite(number) else None


def function_of(path: str, name: str) -> Callable[..., Any]:
    if not Path(path).is_file():
        raise ArgumentsError(f"--run_code: the file {path} does not exist")
    spec = importlib.util.spec_from_file_location("scorer_of_the_user", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        raise ArgumentsError(f"--run_code: {path} cannot be run: {type(error).__name__}: {error}") from error
    function = getattr(module, name, None)
    if not callable(function):
        raise ArgumentsError(f"--run_code: {path} has no function {name}")
    if (taken := other_parameters(function)) is not None:
        raise ArgumentsError(
            f"--run_code: {name} of {path} takes {taken}; it is called as {name}(question, answer, expected)"
        )
    return function


def other_parameters(function: Callable[..., Any]) -> str | None:
    """What a function takes that cannot be called with three values; None where it can, or where that is not known.

    >>> other_parameters(lambda question, answer, *others: 1), other_parameters(lambda answer: 1)
    (None, '(answer)')
    """
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):
        return None
    try:
        signature.bind("question", "answer", "expected")
    except TypeError:
        return str(signature)
    return None
