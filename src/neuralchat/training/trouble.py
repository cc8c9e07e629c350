"""What can go wrong inside an optimizer step, agreed on by all ranks before any weight is changed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum

import torch

from neuralchat.errors import NeuralChatError


class TrainingError(NeuralChatError):
    """Training that cannot go on, such as a loss that is not a number."""

    exit_status = 3


class OutOfMemoryError(NeuralChatError):
    """Memory ran out; a smaller --micro_batch_tokens helps."""

    exit_status = 5


class Kind(IntEnum):
    """Why a step is given up; the places of a vector that ranks add up."""

    STOP = 0
    NONFINITE = 1
    MEMORY = 2


@dataclass(frozen=True)
class Trouble:
    """What this rank met in a step. `sources` name the records of the micro-batch."""

    kind: Kind
    what: str = ""
    sources: Sequence[str] = ()

    def records(self) -> str:
        return f"{', '.join(self.sources[:8])}{' ...' if len(self.sources) > 8 else ''}"


class StepAbandonedError(Exception):
    """A step, or an evaluation, is left before it changed anything; state is that of the last finished step."""

    def __init__(self, kind: Kind, what: str = "") -> None:
        super().__init__(kind.name)
        self.kind = kind
        self.what = what


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error of torch or Python says that memory ran out."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    text = str(error).lower()
    return isinstance(error, RuntimeError) and ("can't allocate memory" in text or "out of memory" in text)


def nonfinite_message(trouble: Trouble, step: int) -> str:
    return (
        f"{trouble.what} at step {step}, before any weight was changed by it; the records are: {trouble.records()}. "
        "Lower --learning_rate, look at these records, or leave such steps out with --on_nonfinite skip."
    )
