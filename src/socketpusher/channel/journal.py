"""The lines from which the next writer learns the state of the run, in memory that outlives a writer.

A record is a head of 13 bytes, big endian, and lines. The head has its kind, a line number of `batch`, and the size of
the lines in bytes. Records are appended. When there are many, the writer rewrites the journal in the other file, with
those that still matter. One store into the ledger selects the file and its length, so a writer may die at any time.
"""

import os
import struct
from collections.abc import Iterator
from enum import IntEnum
from typing import NamedTuple

from .descriptors import Descriptor, memory_file
from .ledger import Ledger

MIN_LIMIT = 1 << 20
"""A shorter file is never rewritten, in bytes."""

_HEAD = struct.Struct("!BQI")


class Kind(IntEnum):
    """What happened to the lines of a record."""

    READ = 1
    """They were read, or given up before all others. Their numbers are below the record's."""
    DROPPED = 2
    """They were dropped just before the line with the record's number."""


class Record(NamedTuple):
    """Lines and their place."""

    kind: Kind
    number: int
    lines: bytes


class Journal:
    """The records, in one of two files.

    Args:
        ledger: Its `journal` selects the file and its length.
        files: The files.
    """

    def __init__(self, ledger: Ledger, files: tuple[Descriptor, Descriptor]) -> None:
        self._ledger = ledger
        self._files = files
        self._limit = MIN_LIMIT

    def records(self) -> Iterator[Record]:
        """All records, including those of earlier writers."""
        size, which = divmod(self._ledger.journal, 2)
        data = os.pread(self._files[which].fileno(), size, 0)
        start = 0
        while start < len(data):
            kind, number, length = _HEAD.unpack_from(data, start)
            start += _HEAD.size + length
            yield Record(Kind(kind), number, data[start - length : start])

    def append(self, records: list[Record]) -> None:
        """Append records. Raises `OSError` if there is no room; then nothing is changed."""
        end, which = divmod(self._ledger.journal, 2)
        self._ledger.journal = 2 * self._write(records, which, end) + which

    @property
    def is_long(self) -> bool:
        """Whether it is time to call `rewrite`."""
        return self._ledger.journal // 2 > self._limit

    def rewrite(self, records: list[Record]) -> None:
        """Replace all records by these. Raises as `append`."""
        which = 1 - self._ledger.journal % 2
        end = self._write(records, which, 0)
        self._ledger.journal = 2 * end + which
        self._limit = max(MIN_LIMIT, 2 * end)
        os.ftruncate(self._files[1 - which].fileno(), 0)

    def _write(self, records: list[Record], which: int, end: int) -> int:
        parts = (_HEAD.pack(record.kind, record.number, len(record.lines)) + record.lines for record in records)
        data = memoryview(b"".join(parts))
        while data:
            count = os.pwrite(self._files[which].fileno(), data, end)
            data = data[count:]
            end += count
        return end


def journal_files() -> tuple[Descriptor, Descriptor]:
    """Make the two anonymous files of a journal."""
    return memory_file(), memory_file()
