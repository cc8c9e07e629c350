"""What the program must know of an argument; kept in the metadata of its dataclass field."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection
from typing import Any

METADATA_KEY = "neuralchat"
OF_THE_FIELD: Any = object()
# What people write for yes and no.
TRUE_WORDS = ("true", "t", "yes", "y", "1", "on")
FALSE_WORDS = ("false", "f", "no", "n", "0", "off")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Facts:
    """Everything about one argument but its name, type and default, which the dataclass field itself says."""

    help: str = ""
    # Ours, where the field is another library's and has another default.
    default: Any = OF_THE_FIELD
    # The values that are allowed; a mapping stands for its keys.
    choices: Collection[str] = ()
    # Inclusive lower bound, exclusive upper bound.
    minimum: float | None = None
    below: float | None = None
    # Words that may stand in the place of a number, which is then found out.
    words: Collection[str] = ()
    # What a flag without a value stands for; a switch needs none.
    bare: str | None = None
    # Told to whom leaves the argument out; empty where it may be left out.
    required: str = ""
    # Whether another value gives other weights, or another order of what they are trained on. Paths do not: what they
    # lead to is compared itself.
    changes_result: bool = True
    # Whether it decides which weights there are, of which shape, or what they are added to: a run that goes on keeps
    # it.
    shapes_weights: bool = False
    # Each value is NAME=VALUE. Where `path` is set too, the name is the path; `choices` are those of the names.
    pairs: bool = False
    # Never written to a file.
    secret: bool = False
    # May name a file or directory: a leading ~ is expanded, and --from_run looks it up where the run was started.
    path: bool = False
    # Names, which may also be written with commas between them.
    names: bool = False
    # Part of what a run was, so that --from_run sets it again. Never what runs code, reaches out or is believed: the
    # run may be a stranger's.
    repeated: bool = True
    # Part of the command that goes on with a stopped run.
    resumed: bool = True
    # The default of earlier versions; for an argument that they did not have, the value that stands for what they did.
    earlier: Any = OF_THE_FIELD
    # Why nothing but the default is accepted.
    rejected: str = ""
    # Why another value than the default changes nothing, which is told.
    no_effect: str = ""

    def range_problem(self, value: float) -> str | None:
        """What is wrong with the size of a number.

        >>> Facts(minimum=0, below=1).range_problem(1.5)
        'must be from 0 to below 1, found 1.5'
        """
        low, high = self.minimum, self.below
        # Written so that a value that is no number (nan) is outside.
        if (low is None or value >= low) and (high is None or value < high):
            return None
        if low is not None and high is not None:
            return f"must be from {low:g} to below {high:g}, found {value}"
        if high is not None:
            return f"must be below {high:g}, found {value}"
        return f"must not be negative, found {value}" if low == 0 else f"must be at least {low:g}, found {value}"


def argument(default: Any, help: str, **facts: Any) -> Any:
    """A dataclass field with its facts. A list as default is copied for each instance."""
    metadata, shown = {METADATA_KEY: Facts(help=help, **facts)}, not facts.get("secret", False)
    if isinstance(default, list):
        return dataclasses.field(default_factory=lambda: list(default), metadata=metadata, repr=shown)
    return dataclasses.field(default=default, metadata=metadata, repr=shown)


def harmless(default: Any, help: str, **facts: Any) -> Any:
    """An argument that does not change the result of training."""
    return argument(default, help, changes_result=False, **facts)
