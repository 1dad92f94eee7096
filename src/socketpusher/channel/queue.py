"""Both ends of the `multiprocessing.Queue` between host and writer, and how a batch is framed in its pipe.

The standard library's `put` hands an object to a feeder thread, which needs the GIL to begin and again after each
write. Beside CPU-bound threads that is 5 ms and more each time. So here `put` writes into the pipe itself, without
giving up the GIL and without waiting. Its `get` waits inside a message, however long the host is stopped; so the writer
reads the pipe without waiting, too.

A frame is 28 bytes, big endian, and the lines: their size in bytes, where they end in the stream of all lines in bytes,
the number of the first line, and the number after the last one.

All private names of multiprocessing that this package uses stand in this file: a queue's `_reader` and `_writer`.
"""

import fcntl
import os
import struct
from collections.abc import Iterator
from contextlib import suppress
from itertools import repeat
from multiprocessing import get_context
from multiprocessing.queues import Queue

from .batch import Batch
from .descriptors import Descriptor, write_now

PIPE_BYTES = 1 << 20
"""The size of the queue's pipe where it can be set, in bytes: what Linux lets any user ask for (pipe(7))."""

JOINED_BYTES = 64 << 10
"""A batch up to this size is written together with the head of its frame, so that the reader wakes once."""

READ_BYTES = 256 << 10
"""How much is read at once, in bytes. A larger batch is read straight into the memory that it stays in."""

_HEAD = struct.Struct("!IQQQ")


class Frame:
    """A batch on its way into a pipe.

    Args:
        batch: The lines.
        offset: Where they end in the stream of all lines, in bytes.
    """

    __slots__ = ("batch", "offset", "pieces", "taken")

    def __init__(self, batch: Batch, offset: int) -> None:
        head = _HEAD.pack(len(batch.data), offset, batch.first, batch.end)
        self.batch = batch
        self.offset = offset
        self.pieces = (head + batch.data,) if len(batch.data) <= JOINED_BYTES else (head, batch.data)
        self.taken: tuple[list[int], ...] = tuple([] for _ in self.pieces)  # what each write took of each piece


class BatchQueue(Queue):  # type: ignore[type-arg]  # at run time it takes none
    """The host's end. It is made in the "fork" context, so its semaphores have no names and nobody tracks them."""

    def __init__(self) -> None:
        try:
            super().__init__(ctx=get_context("fork"))
        except OSError as error:
            for end in ("_reader", "_writer"):
                if end in vars(self):
                    vars(self)[end].close()
            reason = f"can't make a multiprocessing.Queue: {error.strerror}; it needs room in a writable /dev/shm"
            raise OSError(error.errno, reason) from error
        # Taken out of the queue, which would close whatever file of the host has their numbers later. The reader stays
        # open here as well: a pipe without a reader raises SIGPIPE, and that ends a host that has its default.
        self.reader = Descriptor(os.dup(self._reader.fileno()))  # type: ignore[attr-defined]
        self.writer = Descriptor(os.dup(self._writer.fileno()))  # type: ignore[attr-defined]
        self._reader.close()  # type: ignore[attr-defined]
        self._writer.close()  # type: ignore[attr-defined]
        os.set_blocking(self.writer.fileno(), False)
        self._turn: object = None  # whose turn it is to write
        if hasattr(fcntl, "F_SETPIPE_SZ"):  # Linux
            with suppress(OSError):  # the user's pipes take too much memory already
                fcntl.fcntl(self.writer.fileno(), fcntl.F_SETPIPE_SZ, PIPE_BYTES)

    def put(self, frame: Frame, block: bool = False, timeout: float | None = None) -> bool:  # type: ignore[override]
        """Write what the pipe takes of a frame now. To be called with the same frame until it is in as a whole.

        A signal handler may interrupt this, call `put` itself, and return: then it has been its turn, and this returns.

        Returns:
            Whether it is in as a whole.
        """
        self._turn = turn = object()
        for piece, taken in zip(frame.pieces, frame.taken, strict=True):
            while (written := sum(map(max, taken, repeat(0)))) < len(piece):
                if not self.writer.intact():
                    return False
                write = write_now(self.writer.fileno(), piece, written)
                # CPython looks for signals behind calls and backward jumps. There is none from here to the write.
                if self._turn is not turn:
                    return False
                try:
                    taken.extend(write)
                except OSError:
                    return False
                if taken[-1] <= 0:
                    return False
        return True

    def close(self) -> None:
        """Close both ends of the pipe. A writer reads what is in it, and then its end."""
        self._turn = None  # whoever was about to write finds that it is not its turn
        self.reader.close()
        self.writer.close()


class QueueReader:
    """The writer's end.

    Args:
        fd: The pipe, of which this process must be the only one that reads.
    """

    def __init__(self, fd: int) -> None:
        self._fd = fd
        os.set_blocking(fd, False)
        self._buffer = bytearray(READ_BYTES)
        self._start = self._stop = 0  # where in the buffer lies what is read and not handed out
        self._large: tuple[int, int, int, bytearray, int] | None = None  # a batch of which a part is read
        self.drained = False  # whether the last read found nothing
        self.ended = False  # whether no more can come: every process that could write is gone

    def fileno(self) -> int:
        """The descriptor, for polling."""
        return self._fd

    def read(self) -> Iterator[tuple[int, Batch]]:
        """What one read of the pipe completes: batches, and where each ends in the stream of all lines, in bytes."""
        large = self._large
        target = memoryview(self._buffer)[self._stop :] if large is None else memoryview(large[3])[large[4] :]
        try:
            count = os.readv(self._fd, [target])
        except BlockingIOError:
            self.drained = True
            return
        finally:
            target.release()
        self.drained = self.ended = count == 0
        if large is None:
            self._stop += count
            yield from self._cut()
        elif large[4] + count == len(large[3]):
            self._large = None
            yield large[0], Batch(large[1], large[2], large[3])  # type: ignore[arg-type]  # read as bytes are
        else:
            self._large = (*large[:4], large[4] + count)

    def _cut(self) -> Iterator[tuple[int, Batch]]:
        """The batches that are whole in the buffer; one that does not fit gets memory of its own."""
        buffer = self._buffer
        with memoryview(buffer) as view:
            while self._stop - self._start >= _HEAD.size:
                size, offset, first, end = _HEAD.unpack_from(buffer, self._start)
                begin = self._start + _HEAD.size
                if begin + size > self._stop:
                    if begin + size - self._start > len(buffer) // 2:
                        data = bytearray(size)
                        data[: self._stop - begin] = view[begin : self._stop]
                        self._large = (offset, first, end, data, self._stop - begin)
                        self._start = self._stop
                    break
                self._start = begin + size
                yield offset, Batch(first, end, bytes(view[begin : self._start]))
            rest = self._stop - self._start
            buffer[:rest] = bytes(view[self._start : self._stop])
        self._start, self._stop = 0, rest
