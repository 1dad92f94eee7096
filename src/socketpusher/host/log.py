"""The log of a pusher's thread, written in such a way that no logging handler can hold or end that thread.

A handler may block, raise, or wait for the pusher itself (`logging.shutdown` closes handlers while it holds their
locks). So records are queued, and a thread that lives only for them writes them.
"""

import logging
import threading
from collections import deque
from contextlib import suppress
from typing import Any

from ..signal_errors import raised_by_signal_handler

logger = logging.getLogger("socketpusher")

PATIENCE = 0.5
"""How long `flush` waits for the thread that is writing, in seconds."""


class Log:
    """What a pusher has to say."""

    def __init__(self) -> None:
        self._records: deque[tuple[int, str, tuple[Any, ...]]] = deque()
        self._thread: threading.Thread | None = None

    def write(self, level: int, message: str, *arguments: object) -> None:
        """Write a record soon. It never waits and never raises."""
        with suppress(Exception):  # a filter or a level of the host's may raise
            if not logger.isEnabledFor(level):
                return
            self._records.append((level, message, arguments))
            if self._thread is None or not self._thread.is_alive():
                self._thread = threading.Thread(target=self._write_records, name="socketpusher-log", daemon=True)
                self._thread.start()  # raises while the interpreter ends; `flush` comes then

    def flush(self) -> None:
        """Wait until everything is written, unless that is held up; what no thread could be started for is written."""
        if (thread := self._thread) is not None and thread is not threading.current_thread():
            if thread.is_alive():
                thread.join(PATIENCE)
            if not thread.is_alive():
                self._write_records()

    def _write_records(self) -> None:
        while self._records:
            try:
                level, message, arguments = self._records.popleft()
                logger.log(level, message, *arguments)
            except (Exception, SystemExit) as error:  # of a handler of logging, which may not end the caller of `close`
                if raised_by_signal_handler(error):
                    raise
