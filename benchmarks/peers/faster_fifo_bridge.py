"""faster-fifo to a bridge process, which writes the lines.

It is a ring in shared memory with a lock; `put` copies into it from the emitting thread, without a feeder thread. Best
settings: the line is encoded at `emit` and not pickled (`dumps` and `loads` do nothing); the bridge takes all waiting
lines with `get_many` and writes them with one send. With `put_many` the host would have to collect events first, which
is another design. The limit is `maxsize`; the ring has 1000 bytes per event, or 256 MB without a limit. `put_nowait`
drops at the limit.
"""

import multiprocessing
import queue
from datetime import UTC, datetime
from typing import Any

import faster_fifo

from socketpusher import Event
from socketpusher.wire import encode

from ._line_sender import LineSender

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
        """Make the event and accept it."""
        try:
            self._queue.put_nowait(encode(Event(kind, unit, task, None, payload, "", datetime.now(UTC))))
        except queue.Full:
            pass

    def close(self) -> None:
        """Deliver the waiting events, and end."""
        self._queue.put(b"", timeout=60.0)
        self._process.join()
