"""loguru with `enqueue=True` and a sink on the Unix socket.

Best settings: the line is encoded at `emit` and passed raw (`opt(raw=True)`), without loguru's formatting; no traceback
decoration. loguru's queue is a `multiprocessing.SimpleQueue`, a pipe that a thread of the host reads. It has no limit
to set, and when the pipe is full (64 KiB) the caller waits. So it loses nothing and may block, and `buffer_size` is not
used.
"""

from datetime import UTC, datetime
from typing import Any

from loguru import logger

from socketpusher import Event
from socketpusher.wire import encode

from ._line_sender import LineSender

NAME = "loguru, enqueue=True"
DISTRIBUTION = "loguru"
DELIVERS = True


class Peer:
    """loguru's one logger, with one sink."""

    def __init__(self, path: str, buffer_size: int | None) -> None:
        self._sender = LineSender(path)
        logger.remove()
        logger.add(self._sink, enqueue=True, format="{message}", level="INFO", backtrace=False, diagnose=False)
        self._info = logger.opt(raw=True).info

    def _sink(self, message: str) -> None:
        self._sender.send(message.encode())

    def emit(self, kind: str, unit: str, task: int, payload: dict[str, Any]) -> None:
        """Make the event and accept it."""
        self._info(encode(Event(kind, unit, task, None, payload, "", datetime.now(UTC))).decode())

    def close(self) -> None:
        """Deliver the waiting events, and end."""
        logger.remove()  # sends the waiting lines
        self._sender.close()
