"""loguru with `enqueue=True` and a sink on the Unix socket.

At its best here: the line is encoded at `emit` and handed over raw (`opt(raw=True)`), which spares loguru its
formatting; no traceback decoration. loguru's queue is a `multiprocessing.SimpleQueue`, a pipe, read by a thread of the
host: it has no limit to set, and when the pipe is full (64 KiB) the caller waits. So it loses nothing and may block;
`buffer_size` has no meaning for it.
"""

from datetime import UTC, datetime
from typing import Any

from loguru import logger

from socketpusher import Event
from socketpusher.wire import encode

from ._outlet import LineSender

NAME = "loguru, enqueue=True"
DISTRIBUTION = "loguru"
DELIVERS = True


class Peer:
    """loguru's one logger, with one sink."""

    def __init__(self, path: str, buffer_size: int | None) -> None:
        self._outlet = LineSender(path)
        logger.remove()
        logger.add(self._sink, enqueue=True, format="{message}", level="INFO", backtrace=False, diagnose=False)
        self._info = logger.opt(raw=True).info

    def _sink(self, message: str) -> None:
        self._outlet.send(message.encode())

    def emit(self, kind: str, unit: str, task: int, payload: dict[str, Any]) -> None:
        """Build the event and take it."""
        self._info(encode(Event(kind, unit, task, None, payload, "", datetime.now(UTC))).decode())

    def close(self) -> None:
        """Deliver what waits, and end."""
        logger.remove()  # which sends what waits
        self._outlet.close()
