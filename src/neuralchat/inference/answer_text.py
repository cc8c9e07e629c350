"""Ids of an answer -> its words, all at once or as they come, without what a template writes around them.

While an answer goes on, what is not certain is held back: halves of characters, what may yet be part of the frame, and
what may yet be a stop string.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from neuralchat.data.templates.template import Template
from neuralchat.data.tokens.encoding import encode_runs

# A token that is half of a character is decoded to this.
HALF = "\ufffd"
# So many tokens are decoded again with each new one, at most; and so many before a token decide how it is written.
DECODED_AGAIN, NEIGHBOURS = 64, 8


def decoded(tokenizer: Any, ids: Sequence[int]) -> str:
    """The text of an answer's tokens, spaces as they are."""
    return tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)


@dataclass(frozen=True)
class Frame:
    """What a template writes around the words of an answer, and a model trained with it says.

    `opening_ids`: the same with its special tokens, where it has some: then all that stands before it is reasoning.
    """

    opening: str = ""
    closing: str = ""
    opening_ids: tuple[int, ...] = ()

    def words(self, tokenizer: Any, ids: Sequence[int], *, finished: bool) -> str:
        """The text of an answer's tokens without the frame."""
        if (start := end_of_last(self.opening_ids, ids)) is not None:
            text = decoded(tokenizer, ids[start:])
        else:
            text = decoded(tokenizer, ids).removeprefix(self.opening)
        return text.removesuffix(self.closing) if finished else text

    def certain_words(self, tokenizer: Any, ids: Sequence[int]) -> str:
        """Of an answer that goes on: what may still become part of the frame is held back."""
        if self.opening_ids and end_of_last(self.opening_ids, ids) is None:
            return ""
        if not self.opening_ids and self.opening.startswith(decoded(tokenizer, ids)):
            return ""
        return self.without_closing(self.words(tokenizer, ids, finished=False))

    def without_closing(self, text: str) -> str:
        """A text without its end, where that may be the beginning of the closing."""
        return text[: len(text) - begun(self.closing, text, whole=True)]


NO_FRAME = Frame()


def begun(part: str, text: str, *, whole: bool = False) -> int:
    """How many characters at the end of `text` are the beginning of `part`, or with `whole` all of it.

    >>> begun("###", "a ##"), begun("###", "a ###"), begun("###", "a ###", whole=True)
    (2, 2, 3)
    """
    most = min(len(part) if whole else len(part) - 1, len(text))
    return next((count for count in range(most, 0, -1) if text.endswith(part[:count])), 0)


def end_of_last(part: Sequence[int], ids: Sequence[int]) -> int | None:
    """
    >>> end_of_last([7, 8], [1, 7, 8, 2, 7, 8, 3])
    6
    """
    size = len(part)
    found = (end for end in range(len(ids), size - 1, -1) if list(ids[end - size : end]) == list(part))
    return next(found, None) if size else None


def frame_of(tokenizer: Any, template: Template) -> Frame:
    opening, closing = (encode_runs(tokenizer, [part])[0][0].tolist() for part in template.frame)
    has_special = any(piece.special for piece in template.frame[0])
    return Frame(decoded(tokenizer, opening), decoded(tokenizer, closing), tuple(opening) if has_special else ())


class GrowingText:
    """What `decoded` makes of all ids so far, a token at a time, at a cost that does not grow with their number."""

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer = tokenizer
        self.settled = ""
        self.recent: list[int] = []
        # Characters of the recent tokens' text that are in the settled one: of tokens that are there as neighbours.
        self.overlap = 0

    def add(self, token: int) -> str:
        """The whole text."""
        self.recent.append(token)
        if len(self.recent) > DECODED_AGAIN:
            self.settle()
        return self.settled + self.tail(self.recent, self.overlap)

    def tail(self, ids: Sequence[int], start: int) -> str:
        return decoded(self.tokenizer, ids)[start:]

    def settle(self) -> None:
        """Decode older tokens no more, where the others are written alike without them."""
        ids = self.recent
        neighbours, rest = ids[-2 * NEIGHBOURS : -NEIGHBOURS], ids[-2 * NEIGHBOURS :]
        before = self.tail(ids[:-NEIGHBOURS], self.overlap)
        overlap = len(decoded(self.tokenizer, neighbours))
        whole = self.tail(ids, self.overlap)
        if not before.endswith(HALF) and before + self.tail(rest, overlap) == whole:
            self.settled, self.recent, self.overlap = self.settled + before, rest, overlap


class AnswerText:
    """The words of one answer, token by token. The end token is none of them.

    `stop`: texts at which the answer ends; it is cut right before the one that is whole first, wherever tokens begin
    and end. `stopped_at` is the one that was found. `known` and `given`: characters of the answer that are certain, and
    that were handed out; fewer where they may be the beginning of a stop string.
    """

    def __init__(self, tokenizer: Any, frame: Frame = NO_FRAME, stop: Sequence[str] = ()) -> None:
        self.tokenizer = tokenizer
        self.frame = frame
        self.stop = tuple(stop)
        self.ids: list[int] = []
        self.growing = GrowingText(tokenizer)
        self.opened = not frame.opening_ids
        self.raw = self.text = ""
        self.known = self.given = 0
        self.stopped_at: str | None = None

    def add(self, token: int) -> str:
        """What has become certain with this token; nothing after a stop string."""
        self.ids.append(token)
        self.raw = self.growing.add(token)
        if not self.opened:
            if tuple(self.ids[-len(self.frame.opening_ids) :]) == self.frame.opening_ids:
                self.opened, self.growing, self.raw = True, GrowingText(self.tokenizer), ""
            return ""
        if not self.frame.opening_ids and self.frame.opening.startswith(self.raw):
            return ""
        text = self.frame.without_closing(self.without_opening())
        # A replacement character may be half of a longer one: wait for the rest.
        return "" if text.endswith(HALF) else self.released(text, is_last=False)

    def finish(self, *, finished: bool) -> str:
        """What was still held back. `finished`: an end token came."""
        text = self.without_opening()
        return self.released(text.removesuffix(self.frame.closing) if finished else text, is_last=True)

    def without_opening(self) -> str:
        is_reasoning_over = self.opened and self.frame.opening_ids
        return self.raw if is_reasoning_over else self.raw.removeprefix(self.frame.opening)

    def released(self, text: str, *, is_last: bool) -> str:
        if self.stopped_at is not None:
            return ""
        start, end = self.given, len(text)
        found = [(place + len(stop), place, stop) for stop in self.stop if (place := text.find(stop, start)) >= 0]
        if found:
            _, end, self.stopped_at = min(found)
        elif not is_last:
            end -= max((begun(stop, text[start:]) for stop in self.stop), default=0)
        # Where characters are bytes between pieces, one that fits nothing unmakes those before it, which were given.
        piece = text[start:end]
        self.text += piece
        self.given = len(self.text)
        self.known = self.given if found else max(len(text), self.given)
        return piece
