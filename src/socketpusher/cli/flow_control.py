"""What `send` and `replay` have in common: events of a file, to a socket, no faster than its consumer reads them."""

import sys
import time
import types
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import BinaryIO

from .. import wire
from ..config import PusherConfig
from ..events import Bus, Event
from ..pusher import SocketPusher
from .output import printable

FLUSH_EVENTS, FLUSH_BYTES = 500, 1 << 20
"""After so many events or bytes the consumer is waited for: well below the 1000 events that may wait in the writer, and
the 8 MiB that may be on their way to it, so that nothing is dropped."""

CONSUMER_STALL_TIMEOUT = 86_400.0
"""A consumer may pause so long, in seconds, before the pusher gives its connection up and sends what it had not read to
the next one."""

NEW_CONSUMER_TIMEOUT = 5.0
"""At the end another consumer is waited for so long, in seconds."""

SIGNAL_FLUSH_TIMEOUT = 1.0
"""After a signal what waits may take so long, in seconds."""


class EventLines:
    """The events in a file of lines. What is no event is reported on standard error.

    Args:
        file: Where the lines are read from, each as soon as it is there.
        name: What the file is called in reports.
        timeless: Whether a line needs no time; it gets the present one then.
    """

    def __init__(self, file: BinaryIO, name: str, *, timeless: bool = False) -> None:
        self._file = file
        self._name = name
        self._timeless = timeless
        self.bytes = 0  # read so far
        self.skipped = 0  # lines that are no events

    def __iter__(self) -> Iterator[tuple[Event, int]]:
        """Each event, and the size of its line in bytes."""
        for number, line in enumerate(self._file, 1):
            self.bytes += len(line)
            try:
                fields = wire.parse(line)
                if self._timeless:
                    fields.setdefault("time", datetime.now(UTC).isoformat())
                event = wire.event_of(fields)
            except wire.DecodeError as error:
                self.skipped += 1
                say(f"line {number} of {self._name} is skipped: {error}")
                continue
            yield event, len(line)


class FlowControlledPusher:
    """A pusher that drops nothing, for its user waits for the consumer. It starts at once.

    Args:
        path: Where the consumer listens; None for the default.

    Raises:
        OSError: The consumer can't be connected to.
    """

    def __init__(self, path: str | None) -> None:
        self._config = (
            PusherConfig(write_timeout=CONSUMER_STALL_TIMEOUT)
            if path is None
            else PusherConfig(path, write_timeout=CONSUMER_STALL_TIMEOUT)
        )
        self._bus = Bus()
        self._pusher = SocketPusher(self._bus, self._config)
        self._events = self._bytes = 0  # emitted since the last flush
        self._pusher.start()

    def emit(self, event: Event, size: int = 0) -> None:
        """Send an event with the time that it has, or with the present one.

        Args:
            event: The event.
            size: How long its line is, in bytes.
        """
        self._bus.emit_raw(event)
        self._events += 1
        self._bytes += size
        if self._events >= FLUSH_EVENTS or self._bytes >= FLUSH_BYTES:
            self._flush(None)
            self._events = self._bytes = 0

    def _flush(self, patience: float | None) -> None:
        """Wait until everything is sent; without a consumer no longer than so many seconds, or without end."""
        gone: float | None = None
        while not self._pusher.flush(0.5):
            now = time.monotonic()
            if self._pusher.connected:
                gone = None
            elif gone is None:
                gone = now
                say(f"the consumer at {self._config.socket_path} is gone; waiting for another one, Ctrl-C gives up")
            elif patience is not None and now - gone > patience:
                return

    def summary(self) -> str:
        """What became of the events, as a sentence without its end."""
        stats = self._pusher.stats()
        text = f"sent {count(stats.sent, 'event')} to {self._config.socket_path}"
        if stats.dropped:
            text += f", {stats.dropped:,} could not be sent"
        if stats.noted:
            text += f", {stats.noted:,} with a note in place of what was too long"
        return text

    @property
    def complete(self) -> bool:
        """Whether everything that was emitted is sent."""
        return self._pusher.stats().dropped == 0

    def __enter__(self) -> "FlowControlledPusher":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: types.TracebackType | None,
    ) -> None:
        try:
            if kind is None:
                self._flush(NEW_CONSUMER_TIMEOUT)
        finally:
            self._pusher.close(SIGNAL_FLUSH_TIMEOUT)


def count(number: int, what: str) -> str:
    """A number of things, such as "1 event" or "2,000 events"."""
    return f"{number:,} {what}" if number == 1 else f"{number:,} {what}s"


def say(text: str) -> None:
    """Tell the user, on standard error, whatever the text was made of."""
    print(printable(text), file=sys.stderr, flush=True)
