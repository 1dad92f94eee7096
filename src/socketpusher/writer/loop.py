"""What the writer does: move lines from the queue to the socket, and survive everything at both ends.

    DISCONNECTED: it backs off between two attempts to connect; more than the bounds drops at once.
    CONNECTED:    the socket takes what it is offered; nothing is dropped, the queue is left to fill up instead.
    BLOCKED:      the socket takes nothing; more than the bounds drops after `BLOCKED_GRACE`.

It sleeps in one place, `_wait`, where the queue, the socket, the host's wake-up calls and the host's end end the sleep.
Whatever came through the queue is in the backlog when `_wait` returns, also while it backs off: tenacity's `sleep` is
`_wait` too. When there is nothing more to do, `_wait` raises `_Finished`.

A fault of its own ends it; the host starts another one with all that is not settled. Only the preface is guarded, for
what a payload holds would end each of them.
"""

import errno
import logging
import os
import select
import time
import traceback
from collections.abc import Callable
from enum import Enum
from functools import partial
from typing import TypeVar

from tenacity import Retrying, retry_if_exception_type, wait_exponential

from ..channel.clock import LONGEST_WAIT
from ..channel.journal import Journal, Kind, Record
from ..channel.ledger import Ledger
from ..channel.messages import ORPHAN_TIMEOUT, Report, WriterSpec
from ..channel.queue import QueueReader
from ..config import PusherConfig
from ..graph import GraphPayload
from .backlog import Backlog
from .connection import IOV_MAX, Connection
from .preface import Preface

BLOCKED_GRACE = 0.5
"""How long a consumer may take nothing, in seconds, before more than the bounds is dropped. One that only reads was off
the CPU for over 10 ms beside two busy loops on two cores; a page that draws, or a collector that runs, takes longer."""

IN_FLIGHT_BYTES = 8 << 20
"""What of `buffer_bytes` is for lines on their way from the host, in bytes. The rest is for those that wait here, and
for the copies that the host keeps of them."""

LEAST_BYTES = 1 << 20
"""What may wait here in any case, in bytes."""

WRITE_BYTES = 65536
"""What a write is offered. A consumer that dies may get as much again, and larger writes were not faster (events of
100 kB: 301 to 346 MB/s with 64 KiB, 314 to 352 MB/s with 256 KiB)."""

WRITES_PER_TURN = 16
"""How many writes follow each other before the queue gets its turn: 1 MiB, as much as one read of the queue takes."""

FIRST_UNREAD_POLL = 0.020
"""When the kernel is asked for the first time whether the last write was read, in seconds; each time doubles it."""

T = TypeVar("T")


class State(Enum):
    """How it is with the consumer; the table is on top of this file."""

    DISCONNECTED = 0
    CONNECTED = 1
    BLOCKED = 2


class _Finished(Exception):  # noqa: N818 - not an error
    """Everything is sent, or the deadline is over."""


class Writer:
    """One run of the writer process.

    Args:
        spec: What it begins with.
        graph: The payload of the `graph` event, or None.
        queue: Where lines come from.
        wakeups: Readable when the ledger is to be looked at, and at its end when the host is gone.
        reports: Where a `Report` goes.
        ledger: The numbers that it shares with the host.
        host: Readable when the host has ended; None where there is no such thing.
    """

    def __init__(
        self,
        spec: WriterSpec,
        graph: GraphPayload | None,
        queue: QueueReader,
        wakeups: int,
        reports: int,
        ledger: Ledger,
        journal: Journal,
        host: int | None,
    ) -> None:
        self._config = config = PusherConfig(**spec.config)
        self._path = str(config.socket_path)
        self._bytes = max(LEAST_BYTES, (config.buffer_bytes - IN_FLIGHT_BYTES) // 2)
        self._ledger = ledger
        self._reports = reports
        self._wakeups = wakeups
        self._queue = queue
        self._preface = Preface(graph, spec.parallelism, config.max_line_bytes)
        self._said: dict[int, str] = {}  # what was reported last of the preface, by level
        self._journal = journal
        dropped: list[tuple[int, bytes]] = self._guarded(partial(self._recovered, spec.received), otherwise=[])
        self._backlog = Backlog(spec.received, spec.high_water, dropped, self._preface.named)
        self._spec = spec  # for what earlier writers had counted
        self._connections = spec.connections

        self._state = State.DISCONNECTED
        self._connection: Connection | None = None
        self._blocked_since = 0.0  # when the socket began to take nothing
        self._idle_since = 0.0  # when the consumer has taken or read something last
        self._half_closed = False  # whether the consumer will send nothing more, so that there is nothing to discard
        self._unread_poll_pause = FIRST_UNREAD_POLL  # until the kernel is asked again what is unread
        self._unread_poll_at: float | None = None  # when it is asked
        self._closing = False  # whether the host has set a deadline, or is gone
        self._orphan = False  # whether the host is gone
        self._dropped_before = 0  # what the ledger counted as dropped when the present episode began
        self._dropping = False  # whether events are being dropped
        self._flushed = 0  # the last `flush_target` that was reported

        self._poll = select.poll()
        for fd in (queue.fileno(), wakeups, host):
            if fd is not None:
                self._poll.register(fd, select.POLLIN)
        self._host = host
        self._reading = True  # whether the queue is being polled

    def run(self) -> None:
        """Serve consumer after consumer until the host has said that it ends, or has ended."""
        pause, longest = self._config.reconnect_backoff, self._config.max_reconnect_backoff
        try:
            while True:
                # A connection that took an event returns, and the backoff starts anew; any other raises.
                Retrying(
                    wait=wait_exponential(multiplier=pause, max=longest),
                    retry=retry_if_exception_type(OSError),
                    sleep=self._back_off,
                )(self._serve)
        except _Finished:
            self._report(Report(done=True))
        finally:
            self._ledger.connected = 0
            if self._connection is not None:
                self._connection.close()

    # One connection

    def _serve(self) -> None:
        """Connect and write until the connection is lost.

        Raises:
            OSError: It could not be made, or was lost soon and before the consumer had read an event.
            _Finished: There is nothing more to do.
        """
        try:
            connection = Connection(self._path, {os.geteuid(), 0, *self._config.allow_uids})
        except OSError as error:
            self._report(Report(failure=(error.errno or 0, error.strerror or str(error))))
            raise
        self._connected(connection)
        settled, since = self._backlog.settled, time.monotonic()
        try:
            while True:
                self._write(connection)
                self._wait(self._next_turn())
        except OSError as error:
            self._lost(connection, error)
            lasted = time.monotonic() - since > self._config.max_reconnect_backoff
            if self._backlog.settled == settled and not lasted:
                raise

    def _connected(self, connection: Connection) -> None:
        self._backlog.resolve_gaps()
        self._observe_resolved()
        self._backlog.connection_made(self._guarded(self._preface.lines, otherwise=b""))
        self._say_untold()
        self._connection = connection
        self._state = State.CONNECTED
        self._half_closed = False
        self._poll.register(connection, select.POLLIN)
        self._connections += 1
        self._ledger.connected = 1
        self._ledger.connections = self._connections
        self._report(Report(f"connected to {self._path}", logging.DEBUG))

    def _lost(self, connection: Connection, error: OSError) -> None:
        self._backlog.connection_lost(all_read=connection.all_was_read(error))
        self._poll.unregister(connection)
        connection.close()
        self._connection = None
        self._state = State.DISCONNECTED
        self._unread_poll_at = None
        self._ledger.connected = 0
        self._publish()
        self._report(Report(f"lost the consumer at {self._path}: {error}", logging.INFO))

    def _write(self, connection: Connection) -> None:
        """Offer what waits to the socket until it takes no more or it is the queue's turn."""
        backlog = self._backlog
        for _ in range(WRITES_PER_TURN):
            if backlog.empty:
                break
            try:
                count, memory = connection.write(backlog.data_to_send(WRITE_BYTES, IOV_MAX))
            except BlockingIOError:
                self._on_blocked(connection)
                break
            self._state = State.CONNECTED
            backlog.data_sent(count, memory)
            backlog.peer_unread(connection.last_unread)
            self._unread_poll_pause = FIRST_UNREAD_POLL
        self._unread_poll_at = time.monotonic() + self._unread_poll_pause if backlog.in_flight else None
        self._enforce_bounds()
        self._publish()
        if self._blocked_for() >= self._config.write_timeout:
            raise TimeoutError(f"it accepted no byte for {self._config.write_timeout:g} s")

    def _on_blocked(self, connection: Connection) -> None:
        """The socket takes nothing. It does not until a quarter of its buffer is free, though the consumer may read."""
        now, before = time.monotonic(), connection.last_unread
        if self._state is State.CONNECTED:
            self._state = State.BLOCKED
            self._blocked_since = self._idle_since = now
        if connection.unread_memory() < before:
            self._idle_since = now
            self._backlog.peer_unread(connection.last_unread)

    def _blocked_for(self) -> float:
        """How long the socket has taken nothing, in seconds; 0 if it takes what it is offered."""
        return time.monotonic() - self._blocked_since if self._state is State.BLOCKED else 0.0

    def _idle_for(self) -> float:
        """How long the consumer has not even read, in seconds; 0 if the socket takes what it is offered."""
        return time.monotonic() - self._idle_since if self._state is State.BLOCKED else 0.0

    def _next_turn(self) -> float | None:
        """When the loop must go on at the latest though nothing happens; None for never."""
        if self._state is not State.BLOCKED:
            return self._unread_poll_at if self._backlog.empty else 0.0
        give_up = self._blocked_since + self._config.write_timeout
        grace = self._idle_since + BLOCKED_GRACE
        return grace if time.monotonic() < grace < give_up else give_up

    def _enforce_bounds(self) -> None:
        """Drop what is over the bounds if the consumer takes nothing, and say so once per episode."""
        backlog, ledger, config = self._backlog, self._ledger, self._config
        if backlog.is_over(config.buffer_size, self._bytes):
            if self._connection is not None and self._idle_for() < BLOCKED_GRACE:
                return
            if not self._dropping:
                self._dropping = True
                self._dropped_before = ledger.dropped
                by_count = backlog.waiting > config.buffer_size
                what = f"{config.buffer_size} events" if by_count else f"{self._bytes >> 20} MiB"
                which = config.overflow.removeprefix("drop_")
                text = f"the consumer at {self._path} does not keep up: with {what} waiting, the {which} are dropped"
                self._report(Report(text, logging.WARNING))
            drop = backlog.drop_newest if config.overflow == "drop_newest" else backlog.drop_oldest
            ranges = drop(config.buffer_size, self._bytes)
            while ledger.can_drop() and (dropped := next(ranges, None)):
                first, end, told = dropped
                if told:
                    self._guarded(partial(self._journal.append, [Record(Kind.DROPPED, end, told)]), otherwise=None)
                ledger.drop(first, end)
        elif self._dropping and not backlog.is_over(config.buffer_size // 2, self._bytes // 2):
            self._dropping = False
            count = ledger.dropped - self._dropped_before
            text = f"the consumer at {self._path} keeps up again; {count} events dropped"
            self._report(Report(text, logging.WARNING))

    # The one place where the writer sleeps

    def _back_off(self, seconds: float) -> None:
        """tenacity's sleep: it ends early when the host begins to close."""
        until = time.monotonic() + seconds
        closing = self._closing
        while time.monotonic() < until and self._closing == closing:
            self._wait(until)
            self._enforce_bounds()
            self._publish()

    def _wait(self, until: float | None) -> None:
        """Sleep until something happens, and take in what did.

        Args:
            until: The time, of `time.monotonic`, to sleep to at the latest; None for ever.

        Raises:
            OSError: The connection is lost.
            _Finished: There is nothing more to do.
        """
        self._check_finished()
        self._update_interest()
        deadline = self._ledger.close_deadline / 1e9 or None
        ends = [moment for moment in (until, deadline) if moment is not None]
        timeout = min(max(0.0, min(ends) - time.monotonic()), LONGEST_WAIT) * 1000 if ends else None
        lost: OSError | None = None
        for fd, happened in self._poll.poll(timeout):
            if fd == self._queue.fileno():
                self._take_in()
            elif fd == self._wakeups:
                self._on_wakeup()
            elif fd == self._host:
                self._on_host_gone()
            else:
                lost = self._on_socket(happened)
        if lost is not None:
            raise lost
        if self._unread_poll_at is not None and self._connection is not None and self._backlog.empty:
            self._poll_unread(self._connection, self._unread_poll_at)

    def _update_interest(self) -> None:
        if self._connection is not None:
            waits = select.POLLOUT if self._state is State.BLOCKED else 0
            self._poll.modify(self._connection, waits | (0 if self._half_closed else select.POLLIN))
        reading = self._backlog.waiting_bytes <= self._bytes and not self._queue.ended
        if reading and not self._reading:
            self._poll.register(self._queue, select.POLLIN)
        elif self._reading and not reading:
            self._poll.unregister(self._queue)
        self._reading = reading

    def _take_in(self) -> None:
        for offset, batch in self._queue.read():
            self._backlog.append(self._guarded(partial(self._preface.fill_in_graph, batch), otherwise=batch))
            self._ledger.received = batch.end
            self._ledger.received_offset = max(offset, self._ledger.received_offset)
        self._say_untold()
        if self._queue.ended:
            self._on_host_gone()

    def _on_socket(self, happened: int) -> OSError | None:
        if happened & (select.POLLHUP | select.POLLERR | select.POLLNVAL):
            return BrokenPipeError(errno.EPIPE, "it closed the connection")
        if happened & select.POLLIN and self._connection is not None:
            try:
                self._half_closed = not self._connection.discard_input()
            except OSError as error:
                return error
        return None

    def _on_wakeup(self) -> None:
        try:
            if not os.read(self._wakeups, 4096):
                self._on_host_gone()
        except BlockingIOError:
            pass
        self._closing = self._closing or self._ledger.close_deadline > 0
        self._publish()

    def _on_host_gone(self) -> None:
        if self._orphan:
            return
        self._orphan = self._closing = True
        for fd in (self._wakeups, self._host):
            if fd is not None:
                self._poll.unregister(fd)
        if not self._ledger.close_deadline:
            self._ledger.close_deadline = time.monotonic_ns() + int(ORPHAN_TIMEOUT * 1e9)

    def _poll_unread(self, connection: Connection, at: float) -> None:
        """Ask the kernel again, ever more seldom, whether the last write was read; nothing else would tell."""
        if time.monotonic() >= at:
            self._backlog.peer_unread(connection.unread_memory())
            self._unread_poll_pause *= 2
            self._unread_poll_at = time.monotonic() + self._unread_poll_pause if self._backlog.in_flight else None
            self._publish()

    def _check_finished(self) -> None:
        if not self._closing:
            return
        if time.monotonic_ns() >= self._ledger.close_deadline:
            raise _Finished
        if self._orphan and self._reading:
            self._take_in()
        complete = self._queue.drained if self._orphan else self._ledger.received >= self._ledger.close_target
        if complete and self._backlog.empty:  # a consumer that came late is told where the run stands
            raise _Finished

    # The preface, and what the host is told

    def _guarded(self, step: Callable[[], T], otherwise: T) -> T:
        """What a step of telling where the run stands comes to, or something else if it fails: reported once."""
        try:
            return step()
        except Exception:
            self._report_once(
                f"where the run stands can't be told to consumers:\n{traceback.format_exc()}", logging.ERROR
            )
            return otherwise

    def _report_once(self, text: str, level: int) -> None:
        if self._said.get(level) != text:
            self._said[level] = text
            self._report(Report(text, level))

    def _say_untold(self) -> None:
        if untold := self._preface.untold:
            advice = "raise max_line_bytes if the consumer takes longer lines, or give units shorter names"
            self._report_once(f"the graph is not told to consumers: its {untold}; {advice}", logging.WARNING)

    def _recovered(self, start: int) -> list[tuple[int, bytes]]:
        """What earlier writers have left: it is observed, or returned if it belongs to gaps behind the line `start`."""
        observed, dropped = [], []
        for record in sorted(self._journal.records(), key=lambda record: record.number):
            if record.number <= start:
                observed.append(record.lines)
            elif record.kind is Kind.DROPPED:
                dropped.append((record.number, record.lines))
        self._preface.recover(observed, dropped)
        return dropped

    def _observe_resolved(self) -> None:
        records = []
        for lines, of_gap, number in self._backlog.take_resolved():
            told = self._guarded(partial(self._preface.observe, lines), otherwise=b"")
            if told and not of_gap:  # those are in the journal
                records.append(Record(Kind.READ, number, told))
        if records:
            self._guarded(partial(self._journal.append, records), otherwise=None)

    def _shorten_journal(self) -> None:
        gaps = [Record(Kind.DROPPED, number, lines) for number, lines in self._backlog.gaps()]
        self._journal.begin_anew([Record(Kind.READ, self._ledger.settled, self._preface.digest()), *gaps])

    def _publish(self) -> None:
        ledger, backlog = self._ledger, self._backlog
        self._observe_resolved()
        ledger.settled = backlog.settled
        if self._journal.is_long:  # also without a consumer; behind `settled`, or the next writer would skip the record
            self._guarded(self._shorten_journal, otherwise=None)
        ledger.high_water = backlog.high_water
        ledger.resent = self._spec.resent + backlog.resent
        ledger.sent = self._spec.sent + backlog.sent
        ledger.unsent = backlog.unsent  # last, for whoever flushes waits for it, and then asks for the others
        self._flushed = min(self._flushed, backlog.unsent)  # what was taken back may be waited for again
        if self._flushed < ledger.flush_target <= backlog.unsent:
            self._flushed = ledger.flush_target
            self._report(Report())

    def _report(self, report: Report) -> None:
        try:
            os.write(self._reports, report.encode())
        except OSError:
            pass  # a host that does not listen will find everything but the words in the ledger
