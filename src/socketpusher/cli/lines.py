"""The lines of a recording, which may be compressed by gzip, or come through standard input."""

import codecs
import gzip
import sys
import zlib
from collections.abc import Iterator
from errno import EBADF, EIO
from itertools import count
from typing import BinaryIO, cast

LONGEST_LINE = 64 << 20
"""The longest line, in bytes. Of a longer one only the beginning is read, which is no event."""


def standard_input() -> BinaryIO:
    """Return standard input, for bytes. Raises `OSError` if it is closed."""
    if sys.stdin is None:
        raise OSError(EBADF, "can't read standard input: it is closed; give it a file with <, or a pipe")
    return sys.stdin.buffer


def numbered_lines(file: BinaryIO, name: str) -> Iterator[tuple[int, bytes]]:
    """Yield each line with its number, from 1, as soon as it is there; blank ones not.

    Args:
        file: Where the lines are read from.
        name: What an error calls it.

    Raises:
        OSError: The file can't be read.
    """
    start = file.peek(2)[:2]  # type: ignore[attr-defined]  # files opened for reading have it
    try:
        opened = cast(BinaryIO, gzip.GzipFile(fileobj=file)) if start == b"\x1f\x8b" else file
        for number in count(1):
            line = rest = opened.readline(LONGEST_LINE)
            while len(rest) == LONGEST_LINE and not rest.endswith(b"\n"):
                rest = opened.readline(LONGEST_LINE)
            if not line:
                return
            if line := line.removeprefix(codecs.BOM_UTF8 if number == 1 else b"").strip(b" \t\r\n"):
                yield number, line
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise OSError(EIO, f"can't read {name} to its end, it is damaged: {error}") from None
