"""What `send`, `replay` and `drain` share: events of a file, to a socket, no faster than its consumer reads them."""

import argparse
import logging
import os
import time
from collections.abc import Iterator
from contextlib import suppress
from datetime import UTC, datetime
from errno import ETIMEDOUT
from typing import Any, BinaryIO

from .. import wire
from ..config import MAX_LINE_BYTES, PusherConfig
from ..events import Bus, Event
from ..host.supervisor import Supervisor
from ..pusher import SocketPusher
from ..terminal.text import plural
from .lines import numbered_lines
from .output import status

FLUSH_EVENTS, FLUSH_BYTES = 500, 1 << 20
"""After this many events or bytes, wait for the consumer. Nothing is dropped: 1000 events may wait in the writer, and
8 MiB may be on their way to it."""

CONSUMER_STALL_TIMEOUT = 86_400.0  # how long a consumer may pause before its connection is given up, in seconds
NEW_CONSUMER_TIMEOUT = 5.0  # how long to wait for another one at the end, unless --timeout is given, in seconds
SIGNAL_FLUSH_TIMEOUT = 1.0  # how long sending may take after a signal, in seconds
REFUSAL_TIMEOUT = 1.0  # how long a consumer of another user is given to refuse this one, in seconds
NAMED_LINES = 10  # how many lines that are not events are named on standard error
LOST = "lost the consumer at {}; waiting for another one, Ctrl-C gives up"

_LONGEST_LINE = MAX_LINE_BYTES - wire.RETAINED_BYTES


class EventLines:
    """The events in a file of lines, which may be compressed by gzip. Reports what is no event; skips blank lines.

    Args:
        file: Where the lines are read from, each as soon as it is there.
        name: What reports call the file.
        timeless: Whether a line needs no time; it then gets the present one.
    """

    def __init__(self, file: BinaryIO, name: str, *, timeless: bool = False) -> None:
        self._file = file
        self._name = name
        self._timeless = timeless
        self.skipped = 0  # lines that are no events

    def __iter__(self) -> Iterator[tuple[bytes, Event]]:
        """Yield the line of each event, byte for byte but for whitespace around it, and the event.

        Raises:
            OSError: The file can't be read.
        """
        for number, line in numbered_lines(self._file, self._name):
            try:
                yield self._read(line)
            except wire.DecodeError as error:
                self.skipped += 1
                if self.skipped <= NAMED_LINES:
                    more = "; further ones are only counted" if self.skipped == NAMED_LINES else ""
                    status(f"line {number} of {self._name} is skipped: {error}{more}")

    def summary(self) -> str:
        """Return how many lines were skipped, as the end of a sentence."""
        return f"; {plural(self.skipped, 'line')} skipped" if self.skipped else ""

    def _read(self, line: bytes) -> tuple[bytes, Event]:
        fields = wire.parse(line)
        if self._timeless and "time" not in fields:
            fields["time"] = f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%S.%fZ}"
            line = b'%b,"time":"%b"}' % (line[:-1], fields["time"].encode())
        return line, wire.event_of(fields)


def start_pusher(arguments: argparse.Namespace, **settings: Any) -> SocketPusher:
    """Start a pusher, and connect to the consumer that the options of `add_consumer` describe.

    Args:
        arguments: Those options.
        settings: More fields of the `PusherConfig`.

    Raises:
        OSError: The consumer can't be connected to, or there is none in time.
    """
    if logging.lastResort is not None:  # which writes the library's log: the commands report the rest themselves
        logging.lastResort.setLevel(logging.ERROR)
    if arguments.path is not None:
        settings["socket_path"] = arguments.path
    config = PusherConfig(
        write_timeout=CONSUMER_STALL_TIMEOUT, max_reconnect_backoff=1.0, allow_uids=arguments.allow_uid, **settings
    )
    pusher = SocketPusher(Bus(), config)
    pusher._verbatim = True
    pusher.start(wait=not arguments.wait)
    try:
        if arguments.wait:
            _wait_for_consumer(pusher, arguments.timeout)
    except BaseException:
        pusher.close(0)
        raise
    return pusher


def _wait_for_consumer(pusher: SocketPusher, timeout: float | None) -> None:
    path, began, reason = pusher.config.socket_path, time.monotonic(), ""
    while not pusher.connected:
        check_refusal(pusher)
        waited = time.monotonic() - began
        if timeout is not None and waited >= timeout:
            raise OSError(ETIMEDOUT, f"no consumer in {timeout:g} s{reason}; start one", path)
        failure = supervisor_of(pusher).connect_error
        if waited > 0.5 and failure is not None and reason != (reason := f": {failure.strerror}"):
            status(f"waiting for a consumer at {path}{reason}; Ctrl-C gives up")
        time.sleep(0.02)


def supervisor_of(pusher: SocketPusher) -> Supervisor:
    """Return what knows why a pusher is not connected, and takes lines that are encoded already."""
    assert pusher._supervisor is not None  # it was started
    return pusher._supervisor


def check_refusal(pusher: SocketPusher) -> None:
    """Close the pusher and raise `OSError` if the consumer has refused this user."""
    failure = supervisor_of(pusher).connect_error
    if isinstance(failure, ConnectionAbortedError) and not pusher.connected:
        pusher.close(0)  # another attempt would count what it writes as sent
        raise OSError(failure.errno, failure.strerror, pusher.config.socket_path)


class FlowControlledPusher:
    """A pusher that drops nothing, because its user waits for the consumer. Close it by leaving its `with` block.

    Args:
        arguments: The options of `add_consumer`.

    Raises:
        OSError: The consumer can't be connected to.
    """

    def __init__(self, arguments: argparse.Namespace) -> None:
        self._timeout = NEW_CONSUMER_TIMEOUT if arguments.timeout is None else arguments.timeout
        self._events = self._bytes = 0  # sent since the last flush
        self._placeholders = 0
        self._pusher = start_pusher(arguments)
        supervisor = supervisor_of(self._pusher)
        self._accept, self._ledger = supervisor.outbox.accept, supervisor.ledger

    def send(self, line: bytes) -> None:
        """Send the line of an event as it is, or with a placeholder as its payload if it is too long.

        Args:
            line: Without a newline.
        """
        data = line + b"\n"
        if len(wire.as_sent(data)) > _LONGEST_LINE:
            data = wire.shortened(data, _LONGEST_LINE, self._count_placeholder)
        self._accept(data)
        self._events += 1
        self._bytes += len(data)
        if self._events >= FLUSH_EVENTS or self._bytes >= FLUSH_BYTES:
            self._flush(None)
            self._events = self._bytes = 0

    def _count_placeholder(self, placeholder: str) -> None:
        self._placeholders += 1

    def _flush(self, timeout: float | None) -> None:
        """Wait until everything is sent: without a consumer for at most `timeout` seconds, or without a limit."""
        lost: float | None = None  # since when there is no consumer
        while not self._pusher.flush(0.5):
            now = time.monotonic()
            check_refusal(self._pusher)
            if self._pusher.connected:
                lost = None
            elif lost is None:
                lost = now
                status(LOST.format(self._pusher.config.socket_path))
            elif timeout is not None and now - lost > timeout:
                return

    def _wait_for_refusal(self) -> None:
        """A consumer accepts the connection before it refuses another user: wait until it has read everything."""
        deadline = time.monotonic() + REFUSAL_TIMEOUT
        with suppress(FileNotFoundError):
            other = os.stat(self._pusher.config.socket_path).st_uid != os.geteuid()
            while other and self._ledger.settled < self._ledger.received and time.monotonic() < deadline:
                check_refusal(self._pusher)
                time.sleep(0.01)

    def summary(self) -> str:
        """Return what became of the events, as a sentence without its end."""
        stats = self._pusher.stats()
        text = f"sent {plural(stats.sent, 'event')} to {self._pusher.config.socket_path}"
        if stats.dropped:
            text += f", {stats.dropped:,} could not be sent"
        if self._placeholders:
            text += f", {self._placeholders:,} with a placeholder for what was too long"
        return text

    @property
    def complete(self) -> bool:
        """Whether everything is sent."""
        return self._pusher.stats().dropped == 0

    def __enter__(self) -> "FlowControlledPusher":
        return self

    def __exit__(self, kind: type[BaseException] | None, *exc_info: object) -> None:
        try:
            if kind is None:
                self._flush(self._timeout)
                self._wait_for_refusal()
        finally:
            self._pusher.close(SIGNAL_FLUSH_TIMEOUT)
