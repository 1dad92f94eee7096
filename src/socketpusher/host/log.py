"""The log of the supervisor's thread, which no logging handler can block or end.

A handler may block, raise, or wait for the pusher itself (`logging.shutdown` closes handlers while it holds their
locks). So records are queued, and a thread of their own writes them.
"""

import logging
import threading
from collections import deque
from contextlib import suppress
from typing import Any

from ..signal_errors import raised_by_signal_handler

logger = logging.getLogger("socketpusher")

FLUSH_TIMEOUT = 0.5
"""How long `flush` waits for the thread that writes, in seconds."""


class Log:
    """A queue of log records, and the thread that writes them."""

    def __init__(self) -> None:
        self._records: deque[tuple[int, str, tuple[Any, ...]]] = deque()
        self._thread: threading.Thread | None = None

    def write(self, level: int, message: str, *arguments: object) -> None:
        """Queue a record to be written soon. This never waits and never raises."""
        with suppress(Exception):  # a filter of the host's may raise
            if not logger.isEnabledFor(level):
                return
            self._records.append((level, message, arguments))
            if self._thread is None or not self._thread.is_alive():
                self._thread = threading.Thread(target=self._run, name="socketpusher-log", daemon=True)
                self._thread.start()  # raises while the interpreter exits; then `flush` writes the record

    def flush(self) -> None:
        """Wait until everything is written, or for `FLUSH_TIMEOUT` if a handler blocks."""
        thread = self._thread
        if thread is threading.current_thread():
            return
        if thread is not None and thread.is_alive():
            thread.join(FLUSH_TIMEOUT)
        if thread is None or not thread.is_alive():
            self._write_records()

    def _run(self) -> None:
        me = threading.current_thread()
        while True:
            self._write_records()
            if self._thread is me:
                self._thread = None  # a record that comes from now on starts another thread, or is found here
            if self._thread is not None or not self._records:
                return
            self._thread = me

    def _write_records(self) -> None:
        while self._records:
            try:
                level, message, arguments = self._records.popleft()
                logger.log(level, message, *arguments)
            except (Exception, SystemExit) as error:  # of a logging handler; it must not end the caller of `close`
                if raised_by_signal_handler(error):
                    raise
