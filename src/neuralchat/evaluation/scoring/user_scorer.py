"""FILE.py:FUNCTION -> a scorer that calls it. The one place that runs code of a user, who has asked for just that."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any

from neuralchat.errors import ArgumentsError
from neuralchat.evaluation.answers import Answered
from neuralchat.evaluation.items import Item
from neuralchat.evaluation.scoring.scorers import Scorer, asked_of


def user_scorer(named: str) -> Scorer:
    """`named`: PATH.py:FUNCTION, called as FUNCTION(question, answer, expected) for each item. What it returns is a
    number, of which the mean is taken, or True or False, which is a number too.

    Raises ArgumentsError where there is no such function.
    """
    path, _, name = named.rpartition(":")
    if not path.endswith(".py") or not name.isidentifier():
        raise ArgumentsError(f"--run_code {named}: name a file and a function of it, as scoring.py:my_score")
    function = function_of(path, name)

    def score(item: Item, answer: Answered) -> float:
        try:
            found = function(item.question, answer.text, item.expected)
        except Exception as error:
            raise ArgumentsError(
                f"--run_code {named}: it failed on {item.source}: {type(error).__name__}: {error}"
            ) from error
        if not isinstance(found, bool | int | float):
            raise ArgumentsError(
                f"--run_code {named}: it gave {type(found).__name__} for {item.source}; "
                "it must return a number, or True or False"
            )
        return float(found)

    return Scorer("run_code", name, asked_of, score)


def function_of(path: str, name: str) -> Callable[..., Any]:
    if not Path(path).is_file():
        raise ArgumentsError(f"--run_code: the file {path} does not exist")
    spec = importlib.util.spec_from_file_location("scorer_of_the_user", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        raise ArgumentsError(f"--run_code: {path} cannot be run: {type(error).__name__}: {error}") from error
    function = getattr(module, name, None)
    if not callable(function):
        raise ArgumentsError(f"--run_code: {path} has no function {name}")
    return function
