"""A file that may be packed with gzip or zstd -> a stream of what is in it, unpacked while it is read."""

from __future__ import annotations

import codecs
import gzip
import io
import zlib
from pathlib import Path
from typing import Any, BinaryIO, cast

GZIP, ZSTD = "gzip", "zstd"
PACKED_BEGINNINGS = {b"\x1f\x8b": GZIP, b"\x28\xb5\x2f\xfd": ZSTD}
PACKED_ENDINGS = {".gz": GZIP, ".zst": ZSTD, ".zstd": ZSTD}
# Text is packed to a tenth, the same row again and again to a thousandth; what exceeds both is no record file.
MOST_TIMES_UNPACKED = 200
ALWAYS_UNPACKED_BYTES = 1 << 30
HEAD_BYTES = 32
LFS_POINTER = "is a pointer of Git LFS in the place of the file; get the file with 'git lfs pull'"
WEB_PAGE = "is a web page; download the file itself"
# What stands in the place of a file of any kind.
NOT_THE_FILE = (LFS_POINTER, WEB_PAGE)
# What a file may begin with that is no UTF-8 text; the longer mark comes before the one it begins with.
FOREIGN_BEGINNINGS = (
    (codecs.BOM_UTF32_LE, "is UTF-32 text; save the file as UTF-8"),
    (codecs.BOM_UTF32_BE, "is UTF-32 text; save the file as UTF-8"),
    (codecs.BOM_UTF16_LE, "is UTF-16 text; save the file as UTF-8"),
    (codecs.BOM_UTF16_BE, "is UTF-16 text; save the file as UTF-8"),
    (b"\x1f\x8b", "is packed with gzip twice; unpack it once"),
    (b"\x28\xb5\x2f\xfd", "is packed with zstd twice; unpack it once"),
    (b"PK\x03\x04", "is a zip archive; unpack it first"),
    (b"BZh", "is packed with bzip2; unpack it first"),
    (b"\xfd7zXZ", "is packed with xz; unpack it first"),
    (b"PAR1", "is a parquet file; give it the ending .parquet"),
    (b"version https://git-lfs", LFS_POINTER),
    (b"<!doctype html", WEB_PAGE),
    (b"<html", WEB_PAGE),
)


class PackedError(Exception):
    """A packed file that is damaged, or unpacks to far more than records would; the text tells a user."""


def packing_of(path: Path) -> str | None:
    """ "gzip" or "zstd" by the first bytes, else by the ending; None for a file that is not packed."""
    with path.open("rb") as stream:
        head = stream.read(4)
    found = (kind for beginning, kind in PACKED_BEGINNINGS.items() if head.startswith(beginning))
    return next(found, PACKED_ENDINGS.get(path.suffix.lower()))


def inner_ending(path: Path) -> str:
    """The ending that says what is in the file: .json of a.json and of a.json.gz, in small letters."""
    named = path.with_suffix("") if path.suffix.lower() in PACKED_ENDINGS else path
    return named.suffix.lower()


def open_unpacked(path: Path) -> BinaryIO:
    """A stream of the file's content. Reading it raises PackedError where a packed file is damaged."""
    kind = packing_of(path)
    return cast(BinaryIO, path.open("rb") if kind is None else io.BufferedReader(UnpackedStream(path, kind)))


class UnpackedStream(io.RawIOBase):
    """Unpacks while it is read, and no more than a limit that follows the size of the file."""

    def __init__(self, path: Path, kind: str) -> None:
        self.kind = kind
        self.inner = unpacking(path, kind)
        self.left = max(ALWAYS_UNPACKED_BYTES, MOST_TIMES_UNPACKED * path.stat().st_size)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        try:
            block = self.inner.read(len(buffer))
        except (OSError, EOFError, zlib.error, ValueError) as error:
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            raise PackedError(f"cannot be unpacked, it is damaged or not {self.kind}: {reason}") from error
        self.left -= len(block)
        if self.left < 0:
            raise PackedError(f"unpacks to more than {MOST_TIMES_UNPACKED} times its size; unpack it and look at it")
        buffer[: len(block)] = block
        return len(block)

    def close(self) -> None:
        if not self.closed:
            self.inner.close()
        super().close()


def unpacking(path: Path, kind: str) -> Any:
    if kind == GZIP:
        return gzip.GzipFile(path, mode="rb")
    import pyarrow

    return pyarrow.CompressedInputStream(pyarrow.OSFile(str(path)), ZSTD)


def foreign_content(path: Path) -> str | None:
    """The problem of content whose first bytes are those of another encoding or an archive; None for any other."""
    with open_unpacked(path) as stream:
        head = stream.read(HEAD_BYTES)
    for beginning, what in FOREIGN_BEGINNINGS:
        # The text among them is ASCII, of which a web page may have either case.
        if head.startswith(beginning) or head.lower().startswith(beginning):
            return what
    return "looks like UTF-16 text; save the file as UTF-8" if b"\0" in head[:2] else None
