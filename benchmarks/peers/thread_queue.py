"""`queue.Queue` and a thread with one `send` per event: what most people write first.

Best settings: the line is encoded at `emit`, so that the thread needs the GIL only to take and send it; without a limit
the queue is a `SimpleQueue`, which is written in C; at the limit `put_nowait` drops.
"""

import queue
import threading
from datetime import UTC, datetime
from typing import Any

from socketpusher import Event
from socketpusher.wire import encode

from ._line_sender import LineSender

NAME = "thread, one send per event"
DISTRIBUTION = "orjson"
DELIVERS = True


class Peer:
    """A queue and a thread."""

    def __init__(self, path: str, buffer_size: int | None) -> None:
        self._queue: Any = queue.Queue(buffer_size) if buffer_size else queue.SimpleQueue()
        self._sender = LineSender(path)
        self._thread = threading.Thread(target=self._send, daemon=True)
        self._thread.start()

    def emit(self, kind: str, unit: str, task: int, payload: dict[str, Any]) -> None:
        """Make the event and accept it."""
        try:
            self._queue.put_nowait(encode(Event(kind, unit, task, None, payload, "", datetime.now(UTC))))
        except queue.Full:
            pass

    def _send(self) -> None:
        while (line := self._queue.get()) is not None:
            self._sender.send(line)
        self._sender.close()

    def close(self) -> None:
        """Deliver the waiting events, and end."""
        self._queue.put(None)
        self._thread.join()
