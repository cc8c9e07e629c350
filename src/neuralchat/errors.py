"""The errors a user can meet, each with what arrived, what is allowed and what to do; and notes that are none."""

from __future__ import annotations

import os
import re
import signal
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from neuralchat.secrets import masked

EXIT_USER_ERROR = 2
EXIT_DISTRIBUTED = 4
EXIT_OUT_OF_MEMORY = 5
EXIT_INTERRUPTED = 130


class NeuralChatError(Exception):
    """Base of every error that a user can cause; the command line prints it without a traceback."""

    exit_status = EXIT_USER_ERROR
    # Whether something went wrong: a run that was asked to stop, and did, is no error.
    is_fault = True
    # Another process tells the user of it.
    told = False
    # It came up after the ranks had met, so that it may concern this rank alone.
    joined = False

    def __str__(self) -> str:
        """What a library answers may quote the token that it was given."""
        return masked(super().__str__())

    def __repr__(self) -> str:
        return f"{type(self).__name__}({str(self)!r})"


class ArgumentsError(NeuralChatError):
    """Flags that are unknown, contradict each other or have impossible values.

    `problems`: each for itself, where there may be several and the message is a list of them.
    """

    def __init__(self, message: str = "", *, problems: Sequence[str] = ()) -> None:
        super().__init__(message)
        self.problems = tuple(problems) or (message,)


class DataError(NeuralChatError):
    """Records that cannot be used; all problems of all files at once."""


class TemplateError(NeuralChatError):
    """A conversation that cannot be rendered so that training and chat see the same prompt."""


class TemplateLimitError(TemplateError):
    """A template that takes more time or memory, or writes more, than any conversation needs."""


class ModelError(NeuralChatError):
    """A checkpoint or tokenizer that cannot be loaded or does not fit."""


class AdapterError(NeuralChatError):
    """An adapter method that the model cannot take, or an adapter that does not fit."""


class PackingError(NeuralChatError):
    """Packed and one-by-one training disagree on this model."""


class RunDirectoryError(NeuralChatError):
    """An output directory that cannot be written, or a run directory that is not whole."""


class FetchError(NeuralChatError):
    """A download that failed or whose checksum is wrong."""


class DistributedError(NeuralChatError):
    """Processes that cannot find, reach or understand each other."""

    exit_status = EXIT_DISTRIBUTED
    joined = True


def problem_list(title: str, problems: Sequence[str], *, shown: int = 20, unlisted: int = 0) -> str:
    """One message for many problems: the title, at most `shown` of them, and how many more there are.

    `unlisted` counts problems that were found but not kept.
    """
    lines = [title, *(f"  - {problem}" for problem in problems[:shown])]
    if more := len(problems) - len(problems[:shown]) + unlisted:
        lines.append(f"  ... and {more} more")
    return "\n".join(lines)


class Problems:
    """What several checks found, to be told together.

    >>> problems = Problems()
    >>> with problems.noted():
    ...     raise ArgumentsError("--port must be at least 0, found -1")
    >>> problems.found
    ['--port must be at least 0, found -1']
    """

    def __init__(self) -> None:
        self.found: list[str] = []

    @contextmanager
    def noted(self) -> Iterator[None]:
        """An error within is kept, and what follows goes on."""
        try:
            yield
        except NeuralChatError as error:
            self.found += error.problems if isinstance(error, ArgumentsError) else [str(error)]

    def settle(self, title: str) -> None:
        """Raise ArgumentsError with all that was found, if anything was."""
        if len(self.found) == 1:
            raise ArgumentsError(self.found[0])
        if self.found:
            raise ArgumentsError(problem_list(title, self.found), problems=self.found)


def is_panic(error: BaseException) -> bool:
    """Whether a library written in Rust (tokenizers, safetensors) gave up: such an error is no Exception."""
    return type(error).__name__ == "PanicException"


@contextmanager
def panics_told(what: str) -> Iterator[None]:
    """A panic becomes a ModelError that begins with `what`, such as a tokenizer's name."""
    try:
        yield
    except BaseException as error:
        if not is_panic(error):
            raise
        raise ModelError(
            f"{what} gave up: {error}. A regular expression of its tokenizer.json may take too long; take the "
            "tokenizer from where the model was published."
        ) from None


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error of torch or Python says that memory ran out.

    >>> is_out_of_memory(RuntimeError("DefaultCPUAllocator: can't allocate memory")), is_out_of_memory(ValueError())
    (True, False)
    """
    text = str(error).lower()
    is_torchs = isinstance(error, RuntimeError) and ("can't allocate memory" in text or "out of memory" in text)
    return isinstance(error, MemoryError) or is_torchs or type(error).__name__ == "OutOfMemoryError"


SHORT_WRITE = re.compile(r"\d+ requested and \d+ written")
# safetensors makes errors of its own of what the system refuses, and leaves the system's number in their text.
SYSTEM_ERROR_NUMBER = re.compile(r"\(os error (\d+)\)|\bcode: (\d+),")


def system_error_in(error: BaseException) -> OSError | None:
    """What the system refused, though a library may report it as an error of its own; None for any other error.

    >>> system_error_in(ValueError("no")), system_error_in(FileNotFoundError(2, "gone"))
    (None, FileNotFoundError(2, 'gone'))
    """
    if isinstance(error, OSError):
        return error
    found = SYSTEM_ERROR_NUMBER.search(str(error)) if type(error).__name__ == "SafetensorError" else None
    if found is None:
        return None
    number = int(found[1] or found[2])
    return OSError(number, os.strerror(number))


def system_reason(error: OSError) -> str:
    """Why the system refused something, without the file.

    >>> system_reason(OSError("1024 requested and 0 written"))
    'not all bytes were taken (1024 requested and 0 written): the disk is full, or a limit on the size of files was met'
    """
    reason = error.strerror or str(error) or type(error).__name__
    # numpy says no more of a file that could not be written.
    if error.errno is None and SHORT_WRITE.fullmatch(reason):
        return f"not all bytes were taken ({reason}): the disk is full, or a limit on the size of files was met"
    return reason


def system_error_line(error: OSError) -> str:
    """What the system refused, and of which file.

    >>> system_error_line(FileNotFoundError(2, "No such file or directory", "/x"))
    '/x: No such file or directory'
    """
    reason = system_reason(error)
    return f"{error.filename}: {reason}" if error.filename else reason


@contextmanager
def ended_by_signals() -> Iterator[None]:
    """SIGTERM and SIGHUP end the block as Ctrl-C does, so that nothing of it is left."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(number: int, _frame: Any) -> None:
        raise SystemExit(128 + number)

    before = {}
    for number in (signal.SIGTERM, signal.SIGHUP):
        # Ignored, as by nohup, they stay ignored.
        if signal.getsignal(number) is signal.SIG_DFL:
            before[number] = signal.signal(number, stop)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
