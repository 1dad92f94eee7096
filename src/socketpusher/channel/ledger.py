"""The numbers that host and writer share, in memory that both map: reading one costs no round trip.

Each cell has one process that writes it, so no lock is needed; a cell is 8 aligned bytes, which the processors that
CPython runs on store and load as one. The memory has no name in the file system, so nothing is left of it when the
last process that maps it is gone, however that ends.
"""

import mmap
import os
import tempfile
import weakref
from collections.abc import Callable, Iterator
from multiprocessing import reduction

RANGES = 4096
"""How many ranges of dropped lines the host may leave unread.

The writer adds one for a batch, and the host reads them each time it hands over a batch, so that many batches would
have to be in the pipe. If they were, the writer would wait with dropping.
"""

_CELLS = 16
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
    """The shared numbers. Lines are counted in the numbers that `batch.Batch` gives them.

    Args:
        extra: How many more cells there shall be, in `extra`: where a writer leaves what the next one needs.
        fd: The file to map; by default a new one.

    Written by the host while a writer runs:
        flush_target: The writer reports as soon as every line below it is on the socket.
        close_target: The number after the last line there will be, once `close_deadline` is set.
        close_deadline: When the writer gives up what it still has, in nanoseconds of `time.monotonic_ns`; 0 while open.

    Written by the writer:
        received_offset: Up to where it has taken the stream of all lines, in bytes.
        received: The number after the last line that it has taken.
        unsent: The lowest number of a line that is not on the socket.
        settled: Every line below was read by a consumer, as far as can be known, or dropped.
        high_water: The number after the highest line that was ever put on a socket.
        sent: How many lines are on the socket, or were read from it.
        dropped: How many lines the writer dropped.
        resent: How many lines were put on a socket again.
        connections: How many connections there were.
        connected: 1 while connected, else 0.
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
    _ranges_written = _Cell(13)
    _ranges_read = _Cell(14)

    def __init__(self, extra: int = 0, fd: int | None = None) -> None:
        size = _SIZE + 8 * extra
        self._fd = anonymous_file(size) if fd is None else fd
        self._close_fd = weakref.finalize(self, os.close, self._fd)  # also if the start of a pusher fails half way
        self._close_fd.atexit = False
        self._map = mmap.mmap(self._fd, size)
        self._extra = extra
        self._view = memoryview(self._map).cast("q")
        self.extra = self._view[_CELLS + 2 * RANGES :]
        self.cells: memoryview[int] | list[int] = self._view

    def __reduce__(self) -> tuple[Callable[..., "Ledger"], tuple[int, object]]:
        return _attach, (self._extra, reduction.DupFd(self._fd))  # works while a child is being started, only

    def can_drop(self) -> bool:
        """Whether there is room for another range of dropped lines. For the writer."""
        return self._ranges_written - self._ranges_read < RANGES

    def drop(self, first: int, end: int) -> None:
        """Say that the lines `first` to `end - 1` were dropped. For the writer, after `can_drop`."""
        written = self._ranges_written
        cell = _CELLS + 2 * (written % RANGES)
        self.cells[cell] = first
        self.cells[cell + 1] = end
        self._ranges_written = written + 1  # last, for a writer that is killed here must not leave half a range
        self.dropped += end - first

    def take_dropped(self) -> Iterator[tuple[int, int]]:
        """The ranges that were dropped since the last call. For the host."""
        while (read := self._ranges_read) < self._ranges_written:
            cell = _CELLS + 2 * (read % RANGES)
            yield self.cells[cell], self.cells[cell + 1]
            self._ranges_read = read + 1

    def close(self) -> None:
        """Let go of the memory. The numbers stay readable as they are."""
        self.cells = self._view[:_CELLS].tolist()
        self.extra.release()
        self._view.release()
        self._map.close()
        self._close_fd()


def _attach(extra: int, dup: object) -> Ledger:
    return Ledger(extra, dup.detach())  # type: ignore[attr-defined]


def anonymous_file(size: int) -> int:
    """The descriptor of a file of zeros in memory, without a name. Whoever asks closes it."""
    if hasattr(os, "memfd_create"):
        fd = os.memfd_create("socketpusher")
    else:
        with tempfile.TemporaryFile() as file:
            fd = os.dup(file.fileno())
    os.ftruncate(fd, size)
    return fd
