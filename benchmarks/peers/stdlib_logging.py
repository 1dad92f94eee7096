"""The standard library: a `QueueHandler`, a `QueueListener`, and a `SocketHandler` on the Unix socket.

Best settings: the record has the event as a plain dict, and orjson encodes it in the listener's thread (a
`SocketHandler` with the port None connects to a Unix socket; `makePickle` is overridden to write lines instead of
pickles); unused fields of records are turned off, see "Optimization" in the logging HOWTO; at the limit `QueueHandler`
drops, and `logging.raiseExceptions` is off, so it does not report each drop. Without a limit the queue is a
`SimpleQueue`.
"""

import logging
import queue
from datetime import UTC, datetime
from logging.handlers import QueueHandler, QueueListener, SocketHandler
from typing import Any

import orjson

NAME = "logging QueueListener"
DISTRIBUTION = "orjson"
DELIVERS = True

_OPTIONS = orjson.OPT_UTC_Z | orjson.OPT_APPEND_NEWLINE


class _LineHandler(SocketHandler):
    """Writes the event of each record as a line."""

    def makePickle(self, record: logging.LogRecord) -> bytes:  # noqa: N802 - the standard library's name
        return orjson.dumps(record.event, None, _OPTIONS)  # type: ignore[attr-defined]


class Peer:
    """A logger with a queue."""

    def __init__(self, path: str, buffer_size: int | None) -> None:
        logging.raiseExceptions = False
        logging.logThreads = logging.logProcesses = logging.logMultiprocessing = False
        logging._srcfile = None  # type: ignore[attr-defined]
        waiting: Any = queue.Queue(buffer_size) if buffer_size else queue.SimpleQueue()
        self._handler = _LineHandler(path, None)
        self._listener = QueueListener(waiting, self._handler)
        self._listener.start()
        self._logger = logging.getLogger("benchmarks.events")
        self._logger.propagate = False
        self._logger.setLevel(logging.INFO)
        self._queue = waiting
        self._logger.addHandler(QueueHandler(waiting))

    def emit(self, kind: str, unit: str, task: int, payload: dict[str, Any]) -> None:
        """Make the event and accept it."""
        event = {"type": kind, "time": datetime.now(UTC), "unit": unit, "task": task, "payload": payload}
        self._logger.info(kind, extra={"event": event})

    def close(self) -> None:
        """Deliver the waiting events, and end."""
        # Not `stop`: it puts the sentinel without waiting, and raises if the queue is full.
        self._queue.put(self._listener._sentinel)  # type: ignore[attr-defined]
        self._listener._thread.join()  # type: ignore[attr-defined]
        self._handler.close()
