"""A handler of the standard library's `logging` that emits log records as events."""

import logging
import threading
from datetime import UTC, datetime

from ..events import Bus, Event
from ..signal_errors import raised_by_signal_handler

OWN_LOGGER = "socketpusher"

_formatter = logging.Formatter()


class BusHandler(logging.Handler):
    """Emits each log record as an event `log.<level>`, such as `log.warning`, with the time of the record.

    The payload is `{"logger", "message", "file", "line"}`; `error` is the traceback, if the record has an exception;
    `unit` is the record's attribute `unit`, if it has one, as from `logger.info("...", extra={"unit": "app"})`. The
    message is formatted immediately, so arguments may change later. As every handler, it reports errors to standard
    error.

    Two kinds of records are ignored, because they would cause new ones without end: records of the logger
    "socketpusher", which reports dropped events, and records that are written while this thread emits another one.

    Args:
        bus: Where to emit the events.
        level: Records below this level are ignored.

    Example:
        >>> logging.getLogger().addHandler(BusHandler(bus, level=logging.INFO))  # doctest: +SKIP

        In `logging.config.dictConfig`:

        >>> {"handlers": {"bus": {"()": "socketpusher.sources.logs.BusHandler", "bus": bus}}}  # doctest: +SKIP
    """

    def __init__(self, bus: Bus, level: int | str = logging.NOTSET) -> None:
        super().__init__(level)
        self._bus = bus
        self._thread = threading.local()  # has an attribute `emitting` while it emits

    def emit(self, record: logging.LogRecord) -> None:
        """Emit the record. Called by `logging`."""
        if record.name.partition(".")[0] == OWN_LOGGER or hasattr(self._thread, "emitting"):
            return
        self._thread.emitting = True
        try:
            self._bus.emit_raw(_event(record))
        except Exception as error:
            if raised_by_signal_handler(error):
                raise
            self.handleError(record)
        finally:
            del self._thread.emitting


def _event(record: logging.LogRecord) -> Event:
    unit = getattr(record, "unit", None)
    return Event(
        type=f"log.{record.levelname.lower()}",
        unit="" if unit is None else unit,
        payload={
            "logger": record.name,
            "message": record.getMessage(),
            "file": record.pathname,
            "line": record.lineno,
        },
        error=_traceback(record),
        time=datetime.fromtimestamp(record.created, UTC),
    )


def _traceback(record: logging.LogRecord) -> str:
    if record.exc_info:
        return _formatter.formatException(record.exc_info) if record.exc_info[0] is not None else ""
    return record.exc_text or ""  # all that a record of another process has, see SocketHandler.makePickle
