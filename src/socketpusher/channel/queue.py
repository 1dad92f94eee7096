"""Both ends of the `multiprocessing.Queue` between host and writer, and how a batch is framed in its pipe.

The standard library's `put` hands an object to a feeder thread, which needs the GIL to start and again after each
write. Beside CPU-bound threads that takes 5 ms and more each time. So here `put` writes into the pipe itself, without
giving up the GIL and without waiting. The standard library's `get` would wait in the middle of a message if the host is
stopped, so the writer reads the pipe without waiting, too.

A frame is a head of 28 bytes, big endian, and the lines. The head has their size in bytes, their end offset in the
stream of all lines in bytes, the number of the first line, and the number after the last one.

Only this file uses private names of multiprocessing: `_reader` and `_writer` of a queue.
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
"""The size of the queue's pipe where it can be set, in bytes: the most that Linux allows every user (pipe(7))."""

JOINED_BYTES = 64 << 10
"""The largest batch that is written together with its head, in bytes: the reader then wakes once."""

READ_BYTES = 256 << 10
"""How much is read at once, in bytes. A larger batch is read into a buffer of its own."""

_HEAD = struct.Struct("!IQQQ")


class Frame:
    """A batch that is being written into a pipe.

    Args:
        batch: The lines.
        offset: Their end offset in the stream of all lines, in bytes.
    """

    __slots__ = ("batch", "offset", "rest")

    def __init__(self, batch: Batch, offset: int) -> None:
        self.batch = batch
        self.offset = offset
        # While it is being written: its pieces, each with the bytes of each write. None before, empty afterwards.
        self.rest: tuple[tuple[bytes, list[int]], ...] | None = None

    def pieces(self) -> tuple[bytes, ...]:
        """What is written for it."""
        data = self.batch.data
        head = _HEAD.pack(len(data), self.offset, self.batch.first, self.batch.end)
        return (head + data,) if len(data) <= JOINED_BYTES else (head, data)


class BatchQueue(Queue):  # type: ignore[type-arg]  # not generic at run time
    """The host's end. It is made in the "fork" context, so its semaphores have no names, and nothing tracks them."""

    def __init__(self) -> None:
        try:
            super().__init__(ctx=get_context("fork"))
        except OSError as error:
            for end in ("_reader", "_writer"):
                if end in vars(self):
                    vars(self)[end].close()
            reason = f"can't make a multiprocessing.Queue: {error.strerror}; it needs room in a writable /dev/shm"
            raise OSError(error.errno, reason) from error
        # Taken out of the queue, which would later close a file of the host with the same number. The reader stays open
        # here as well: a write to a pipe without a reader raises SIGPIPE, which by default ends the host.
        self.reader = Descriptor(os.dup(self._reader.fileno()))  # type: ignore[attr-defined]
        self.writer = Descriptor(os.dup(self._writer.fileno()))  # type: ignore[attr-defined]
        self._reader.close()  # type: ignore[attr-defined]
        self._writer.close()  # type: ignore[attr-defined]
        os.set_blocking(self.writer.fileno(), False)
        self._turn: object = None  # identifies the last call of `put`, which may be a signal handler's
        if hasattr(fcntl, "F_SETPIPE_SZ"):  # Linux
            with suppress(OSError):  # the user's pipes use too much memory already
                fcntl.fcntl(self.writer.fileno(), fcntl.F_SETPIPE_SZ, PIPE_BYTES)

    def put(self, frame: Frame, block: bool = False, timeout: float | None = None) -> bool:  # type: ignore[override]
        """Write as much of a frame as the pipe takes now. Call it with the same frame until it is written.

        A signal handler may interrupt this and call `put` itself. Then this call writes no more and returns False.

        Returns:
            Whether the whole frame is written.
        """
        self._turn = turn = object()
        if frame.rest is None:
            rest = tuple((piece, list[int]()) for piece in frame.pieces())
            if self._turn is not turn:
                return False
            frame.rest = rest
        for piece, taken in frame.rest:
            while (written := sum(map(max, taken, repeat(0)))) < len(piece):
                if not self.writer.intact():
                    return False
                write = write_now(self.writer.fileno(), piece, written)
                # CPython checks for signals after calls and backward jumps. There is none from here to the write.
                if self._turn is not turn:
                    return False
                try:
                    taken.extend(write)
                except OSError:
                    return False
                if taken[-1] <= 0:
                    with suppress(ValueError):
                        taken.remove(-1)  # or a full pipe would make the list longer and longer
                    return False
        frame.rest = ()
        return True

    def close(self) -> None:
        """Close both ends of the pipe. A writer reads what is in it, and then its end."""
        self._turn = None  # so that an interrupted `put` writes no more
        self.reader.close()
        self.writer.close()


class QueueReader:
    """The writer's end.

    Args:
        fd: The pipe; no other process may read it.
    """

    def __init__(self, fd: int) -> None:
        self._fd = fd
        os.set_blocking(fd, False)
        self._buffer = bytearray(READ_BYTES)
        self._start = self._stop = 0  # the part of the buffer that is read and not yielded yet
        self._large: tuple[int, int, int, bytearray, int] | None = None  # a large batch that is read in part
        self.drained = False  # whether the last read found nothing
        self.ended = False  # whether no process can write any more

    def fileno(self) -> int:
        """The descriptor, for polling."""
        return self._fd

    def read(self) -> Iterator[tuple[int, Batch]]:
        """Read the pipe once. Yields each complete batch after its end offset in the stream of all lines, in bytes."""
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
            yield large[0], Batch(large[1], large[2], large[3])  # type: ignore[arg-type]  # used like bytes
        else:
            self._large = (*large[:4], large[4] + count)

    def _cut(self) -> Iterator[tuple[int, Batch]]:
        """Yield the complete batches in the buffer. A batch that does not fit gets a buffer of its own."""
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
