"""A function that reports pieces of text through a callback -> an iterator of the pieces.

transformers' generate calls a streamer; whoever reads an answer wants a loop. The function runs in a thread of its own
that takes turns with the reader: it computes only while the reader waits for the next piece. So an answer that nobody
reads on costs nothing, and what the reader does between two pieces (draw random numbers, say) is not disturbed.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Generator
from contextlib import AbstractContextManager, nullcontext

Produce = Callable[[Callable[[str], None]], None]


class StoppedByReaderError(Exception):
    """Raised inside the function when the reader wants no more."""


class TurnTaker:
    """Runs `produce(on_text)` piece by piece. `during()` is a context that holds while it runs, and only then."""

    def __init__(self, produce: Produce, during: Callable[[], AbstractContextManager[object]]) -> None:
        self.produce = produce
        self.during = during
        self.pieces: list[str] = []
        self.error: BaseException | None = None
        self.stopped = self.done = False
        self.readers_turn, self.producers_turn = threading.Semaphore(0), threading.Semaphore(0)
        # Nobody waits for it when the program ends.
        self.thread = threading.Thread(target=self.run, name="neuralchat-answer", daemon=True)

    def run(self) -> None:
        self.producers_turn.acquire()
        try:
            if not self.stopped:
                self.produce(self.hand_over)
        except StoppedByReaderError:
            pass
        except BaseException as error:  # it is raised again where the reader is
            self.error = error
        finally:
            self.done = True
            self.readers_turn.release()

    def hand_over(self, piece: str) -> None:
        if piece:
            self.pieces.append(piece)
        # A token without text is a place to stop as well.
        self.readers_turn.release()
        self.producers_turn.acquire()
        if self.stopped:
            raise StoppedByReaderError

    def give_turn(self) -> None:
        """Let the function go on until it has handed something over, or has ended."""
        with self.during():
            try:
                self.producers_turn.release()
                self.readers_turn.acquire()
            except BaseException:
                # Ctrl-C reaches the reader: the function ends before the context does.
                self.stop()
                raise

    def read(self) -> Generator[str, None, None]:
        """The pieces. Closing the iterator, or an error of the reader's, stops the function before its next token."""
        self.thread.start()
        try:
            while not self.done:
                self.give_turn()
                yield from self.taken()
            if self.error is not None:
                raise self.error
        finally:
            self.stop()

    def taken(self) -> list[str]:
        pieces, self.pieces = self.pieces, []
        return pieces

    def stop(self) -> None:
        self.stopped = True
        self.producers_turn.release()
        self.thread.join()


def pieces_of(
    produce: Produce, during: Callable[[], AbstractContextManager[object]] = nullcontext
) -> Generator[str, None, None]:
    """
    >>> list(pieces_of(lambda on_text: [on_text(word) for word in ("a", "b")]))
    ['a', 'b']
    """
    return TurnTaker(produce, during).read()
