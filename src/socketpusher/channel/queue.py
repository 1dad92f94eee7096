"""The writer's end of the `multiprocessing.Queue`.

`Queue.get` waits inside a message until its last byte is there, however long the host takes: a host that is stopped
or killed while its feeder thread writes would hold the writer, and with it the lines that have already arrived. So the
pipe below the queue is read without waiting, and cut into messages as `multiprocessing.connection` frames them: a
length of 4 bytes, big endian, and that many bytes of pickle.
"""

import os
import pickle
import struct
from collections.abc import Iterator
from multiprocessing.queues import Queue
from typing import Any

READ_BYTES = 1 << 20  # a pipe holds 64 KiB to 1 MiB


class Inlet:
    """Takes messages out of a queue. This process must be the only one that reads it."""

    def __init__(self, queue: "Queue[Any]") -> None:
        self._reader = queue._reader  # type: ignore[attr-defined]
        self._taken = queue._sem.release  # type: ignore[attr-defined]  # as Queue.get does for each message
        queue._writer.close()  # type: ignore[attr-defined]  # else the end of the host would not end the pipe
        os.set_blocking(self._reader.fileno(), False)
        self._bytes = bytearray()
        self.drained = False  # whether the last read found nothing
        self.ended = False  # whether no more can come: every process that could write is gone

    def fileno(self) -> int:
        """The descriptor, for polling."""
        return int(self._reader.fileno())

    def read(self) -> Iterator[Any]:
        """The messages that one read of the pipe completes. They come from the host, so they are trusted."""
        try:
            chunk = os.read(self.fileno(), READ_BYTES)
        except BlockingIOError:
            self.drained = True
            return
        self.drained = self.ended = not chunk
        self._bytes += chunk
        start = 0
        while len(self._bytes) >= start + 4:
            (size,) = struct.unpack_from("!i", self._bytes, start)
            if len(self._bytes) < start + 4 + size:
                break
            with memoryview(self._bytes) as view:
                message = pickle.loads(view[start + 4 : start + 4 + size])
            start += 4 + size
            self._taken()
            yield message
        del self._bytes[:start]
