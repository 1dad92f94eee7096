"""The numbers that host and writer share, in memory that both map: reading one costs no round trip.

Only one process writes each cell, so no lock is needed. A cell is 8 aligned bytes, which the processors that CPython
runs on store and load atomically. The memory is anonymous, so it disappears with the last process that maps it.
"""

import mmap
import sys
from collections.abc import Iterator

from .descriptors import Descriptor, memory_file

RANGES = 4096
"""How many ranges of dropped lines the table holds. The writer adds at most one for each batch that it receives. When
the host has not read the table and it is full, the writer postpones dropping."""

_abandoned: list[object] = []  # maps that can't be closed, see `Ledger.close`

_CELLS = 21
_SIZE = 8 * (_CELLS + 2 * RANGES)


class _Cell:
    """An attribute of a ledger that lives in the shared memory."""

    def __init__(self, index: int) -> None:
        self._index = index

    def __get__(self, ledger: "Ledger", owner: object = None) -> int:
        return ledger.cells[self._index]

    def __set__(self, ledger: "Ledger", value: int) -> None:
        ledger.cells[self._index] = value


class Ledger:
    """The shared numbers. Line numbers are those of `batch.Batch`.

    Args:
        file: The file to map; by default a new one.

    Written by the host while a writer runs:
        flush_target: The writer reports when every line below this number is on the socket.
        close_target: The number after the last line, once `close_deadline` is set.
        close_deadline: When the writer gives up what is left, in nanoseconds of `time.monotonic_ns`; 0 while open.

    Written by the writer:
        received_offset: How much of the stream of all lines it has received, in bytes.
        received: The number after the last line that it has received.
        unsent: The lowest number of a line that is not on the socket.
        settled: Every line below this number was read by a consumer, as far as is known, or dropped, or is on disk.
        high_water: The number after the highest line that was ever put on a socket.
        sent: The number of lines that are on the socket or were read from it.
        dropped: The number of lines that the writer dropped.
        resent: The number of lines that were put on a socket again.
        connections: The number of connections so far.
        connected: 1 while connected, else 0.
        journal: The current file of the journal and its length, see `journal.Journal`.
        read: Every line below this number was read by a consumer, as far as is known, or dropped.
        stored: The number of lines that are on disk and not read.
        spooled: The number of these lines that are not on the socket.
        inherited: The number of lines of earlier pushers that are on disk and not read.
        inherited_read: The number of lines of earlier pushers that were read.
    """

    flush_target = _Cell(0)
    close_target = _Cell(1)
    close_deadline = _Cell(2)
    received_offset = _Cell(3)
    received = _Cell(4)
    unsent = _Cell(5)
    settled = _Cell(6)
    high_water = _Cell(7)
    sent = _Cell(8)
    dropped = _Cell(9)
    resent = _Cell(10)
    connections = _Cell(11)
    connected = _Cell(12)
    journal = _Cell(13)
    read = _Cell(14)
    stored = _Cell(15)
    spooled = _Cell(16)
    inherited = _Cell(17)
    inherited_read = _Cell(20)
    _ranges_written = _Cell(18)
    _ranges_read = _Cell(19)

    def __init__(self, file: Descriptor | None = None) -> None:
        self.file = memory_file(size=_SIZE) if file is None else file
        # Before 3.13 a map has a descriptor of its own, and closes it even if the number stands for another file.
        keep_no_descriptor = {"trackfd": False} if sys.version_info >= (3, 13) else {}
        self._map = mmap.mmap(self.file.fileno(), _SIZE, **keep_no_descriptor)
        self._view = memoryview(self._map).cast("q")
        self.cells: memoryview[int] | list[int] = self._view

    def can_drop(self) -> bool:
        """Whether there is room for another range of dropped lines. For the writer."""
        return self._ranges_written - self._ranges_read < RANGES

    def drop(self, first: int, end: int) -> None:
        """Note that the lines `first` to `end - 1` were dropped. For the writer, after `can_drop`."""
        written = self._ranges_written
        cell = _CELLS + 2 * (written % RANGES)
        self.cells[cell] = first
        self.cells[cell + 1] = end
        self._ranges_written = written + 1  # last: a writer that is killed here must not leave half a range
        self.dropped += end - first

    def take_dropped(self) -> Iterator[tuple[int, int]]:
        """The ranges that were dropped since the last call. For the host."""
        while (read := self._ranges_read) < self._ranges_written:
            cell = _CELLS + 2 * (read % RANGES)
            yield self.cells[cell], self.cells[cell + 1]
            self._ranges_read = read + 1

    def close(self) -> None:
        """Unmap the memory. The numbers stay readable."""
        if isinstance(self.cells, list):
            return
        self.cells = self._view[:_CELLS].tolist()
        if sys.version_info < (3, 13) and not self.file.intact():  # then the map's descriptor may be another file, too
            _abandoned.append((self._map, self._view))
            return
        self._view.release()
        self._map.close()
        self.file.close()
