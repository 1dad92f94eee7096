"""What a writer leaves to the next one: the lines that say where the run stands, in memory that outlives it.

A record is 13 bytes, big endian, and lines: its kind, a number of lines as `batch` counts them, and its size in bytes.
Records are appended. When they have become many the writer begins anew in another file, with what still matters. One
store into the ledger says which file holds and up to where, so a writer may die between any two instructions.
"""

import os
import struct
from collections.abc import Iterator
from enum import IntEnum
from typing import NamedTuple

from .descriptors import Descriptor, memory_file
from .ledger import Ledger

LEAST_BYTES = 1 << 20
"""So long may a file become in any case, in bytes."""

_HEAD = struct.Struct("!BQI")


class Kind(IntEnum):
    """What has become of the lines of a record."""

    READ = 1
    """They were read, or given up before all others: they are among those below the number."""
    DROPPED = 2
    """They were dropped: their place is before the line with the number."""


class Record(NamedTuple):
    """Lines, and where they belong."""

    kind: Kind
    number: int
    lines: bytes


class Journal:
    """The records, in one of two files.

    Args:
        ledger: Where it stands which file holds, and up to where.
        files: The files.
    """

    def __init__(self, ledger: Ledger, files: tuple[Descriptor, Descriptor]) -> None:
        self._ledger = ledger
        self._files = files
        self._limit = LEAST_BYTES

    def records(self) -> Iterator[Record]:
        """What was written, by whichever writer."""
        size, which = divmod(self._ledger.journal, 2)
        data = os.pread(self._files[which].fileno(), size, 0)
        start = 0
        while start < len(data):
            kind, number, length = _HEAD.unpack_from(data, start)
            start += _HEAD.size + length
            yield Record(Kind(kind), number, data[start - length : start])

    def append(self, records: list[Record]) -> None:
        """Add records. Raises `OSError` if there is no room; nothing is changed then."""
        end, which = divmod(self._ledger.journal, 2)
        self._ledger.journal = 2 * self._write(records, which, end) + which

    @property
    def is_long(self) -> bool:
        """Whether it is time to begin anew."""
        return self._ledger.journal // 2 > self._limit

    def begin_anew(self, records: list[Record]) -> None:
        """Keep these records only. Raises as `append`."""
        which = 1 - self._ledger.journal % 2
        end = self._write(records, which, 0)
        self._ledger.journal = 2 * end + which
        self._limit = max(LEAST_BYTES, 2 * end)
        os.ftruncate(self._files[1 - which].fileno(), 0)

    def _write(self, records: list[Record], which: int, end: int) -> int:
        heads = (_HEAD.pack(record.kind, record.number, len(record.lines)) for record in records)
        data = memoryview(
            b"".join(part for pair in zip(heads, (r.lines for r in records), strict=True) for part in pair)
        )
        while data:
            count = os.pwrite(self._files[which].fileno(), data, end)
            data = data[count:]
            end += count
        return end


def journal_files() -> tuple[Descriptor, Descriptor]:
    """Files for a journal, which have no names."""
    return memory_file(), memory_file()
