"""A stream of JSON text -> its values, one at a time, in memory that does not grow with the stream."""

from __future__ import annotations

import codecs
import json
from collections import Counter
from typing import Any, BinaryIO

from neuralchat.data.record_files import rows
from neuralchat.data.record_files.rows import readable, too_large

READ_BYTES = 1 << 20
NUMBER_CHARACTERS = 400
WHITESPACE = " \t\r\n"
# The only ValueError of the decoder that is no syntax error is Python's limit on the digits of an integer.
HUGE_NUMBER = "holds a number of too many digits; write it as text"
REPEATED_SHOWN = 5


class JsonDecoder:
    """Python's decoder, which also collects the keys that occur twice in one object."""

    def __init__(self) -> None:
        self.repeated: list[str] = []
        self.decoder = json.JSONDecoder(object_pairs_hook=self.build)

    def build(self, pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        built = dict(pairs)
        if len(built) != len(pairs):
            counted = Counter(key for key, _ in pairs)
            repeated = sorted(key for key, times in counted.items() if times > 1)
            self.repeated += repeated[: REPEATED_SHOWN - len(self.repeated)]
        return built

    def take_problems(self) -> tuple[str, ...]:
        problems = tuple(f"field '{readable(key)}' is given more than once" for key in self.repeated)
        self.repeated.clear()
        return problems


def not_json(line: int, column: int, why: str) -> str:
    return f"is not JSON at line {line}, column {column}: {why}"


class JsonText:
    """A window on a text that grows at the end and is cut at the front; knows where in the file it is."""

    def __init__(self, stream: BinaryIO) -> None:
        self.stream = stream
        self.decode = codecs.getincrementaldecoder("utf-8-sig")().decode
        self.text = ""
        self.decoder = JsonDecoder()
        self.ended = False
        # Where the window begins, counted from 1.
        self.line = 1
        self.column = 1

    def grow(self) -> None:
        block = self.stream.read(max(READ_BYTES, len(self.text)))
        self.ended = not block
        self.text += self.decode(block, final=self.ended)

    def drop(self, characters: int) -> None:
        self.line, self.column = self.place(characters)
        self.text = self.text[characters:]

    def place(self, position: int) -> tuple[int, int]:
        """(line, column) in the file of a position in the window."""
        lines = self.text.count("\n", 0, position)
        if not lines:
            return self.line, self.column + position
        return self.line + lines, position - self.text.rindex("\n", 0, position)

    def problem(self, position: int, why: str) -> str:
        return not_json(*self.place(position), why)

    def at(self, position: int) -> str:
        """The character at a position; empty at the end of the text."""
        return self.text[position : position + 1]

    def next(self, position: int) -> int:
        """The next position that is not white space; reads on where the window ends, and cuts what is before it."""
        while True:
            while position < len(self.text) and self.text[position] in WHITESPACE:
                position += 1
            if position < len(self.text) or self.ended:
                return position
            self.drop(position)
            position = 0
            self.grow()

    def cut(self, position: int) -> int:
        """Let go of what is before a position, where it is much; the position afterwards."""
        if position <= READ_BYTES:
            return position
        self.drop(position)
        return 0

    def value(self, position: int) -> tuple[Any, int] | str:
        """(value, end position), or what is wrong. Reads on while the value may only be cut by the window."""
        while True:
            try:
                value, end = self.decoder.decoder.raw_decode(self.text, position)
            except json.JSONDecodeError as error:
                cut = error.pos >= len(self.text) - 16 or error.msg.startswith("Unterminated string")
                if not cut or self.ended:
                    return self.problem(error.pos, error.msg)
            except RecursionError:
                return "is nested too deeply"
            except ValueError:
                return HUGE_NUMBER
            else:
                if end - position > rows.MAX_ROW_BYTES:
                    return too_large()
                # A bare number near the window's edge could go on in the next block.
                number = isinstance(value, int | float)
                if end + (NUMBER_CHARACTERS if number else 0) < len(self.text) or self.ended:
                    return value, end
            self.decoder.take_problems()
            if len(self.text) - position > rows.MAX_ROW_BYTES:
                return too_large()
            self.grow()
