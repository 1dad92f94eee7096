"""faster-fifo to a bridging process, which writes the lines.

A ring of shared memory behind a lock; `put` copies into it from the emitting thread, as documented: there is no feeder
thread. At its best here: the line is encoded at `emit` and goes through as it is (`dumps` and `loads` that do nothing,
no pickle); the bridge takes as many as there are with `get_many` and writes them with one send. `put_many` would have
the host collect events before it puts them, which is another design. The limit is `maxsize`; the ring has 1000 bytes
an event, or 256 MB without a limit. `put_nowait` drops at the limit.
"""

import multiprocessing
import queue
from datetime import UTC, datetime
from typing import Any

import faster_fifo

from socketpusher import Event
from socketpusher.wire import encode

from ._outlet import LineSender

NAME = "faster-fifo"
DISTRIBUTION = "faster-fifo"
DELIVERS = True

_EVENT_BYTES = 1000


def _as_it_is(line: bytes) -> bytes:
    return line


def _bridge(path: str, events: Any) -> None:
    line_sender = LineSender(path)
    while True:
        try:
            lines = events.get_many(block=True, timeout=60.0, max_messages_to_get=10_000)
        except queue.Empty:
            continue
        line_sender.send(b"".join(lines))
        if not lines[-1]:
            break
    line_sender.close()


class Peer:
    """A ring and the process that empties it."""

    def __init__(self, path: str, buffer_size: int | None) -> None:
        size = buffer_size * _EVENT_BYTES if buffer_size else 256 << 20
        self._queue = faster_fifo.Queue(size, buffer_size or 10**9, loads=_as_it_is, dumps=_as_it_is)
        self._process = multiprocessing.get_context("spawn").Process(
            target=_bridge, args=(path, self._queue), daemon=True
        )
        self._process.start()

    def emit(self, kind: str, unit: str, task: int, payload: dict[str, Any]) -> None:
        """Build the event and take it."""
        try:
            self._queue.put_nowait(encode(Event(kind, unit, task, None, payload, "", datetime.now(UTC))))
        except queue.Full:
            pass

    def close(self) -> None:
        """Deliver what waits, and end."""
        self._queue.put(b"", timeout=60.0)
        self._process.join()
