"""The loop of the writer: it moves lines from the queue to the socket, and handles every failure at both ends.

    DISCONNECTED: it waits between attempts to connect; lines over the bounds are dropped immediately.
    CONNECTED:    the socket accepts lines; nothing is dropped, and the queue fills up instead.
    BLOCKED:      the socket accepts nothing; lines over the bounds are dropped after `BLOCKED_GRACE`.

It sleeps only in `_wait`, until something happens on the queue or the socket, or the host wakes it or ends. When
`_wait` returns, all lines that have come through the queue are in the backlog, even during a backoff, because
tenacity's `sleep` calls `_wait`. When there is nothing more to do, `_wait` raises `_WriterDone`.

With a spool, waiting lines go to disk instead of being dropped: immediately while there is no consumer, and after
`SPOOL_AFTER` while it is slow. Lines that earlier pushers have left there are sent first, each with their own preface.

An unexpected error ends the writer, and the host starts another one with all lines that are not settled. Only errors of
the preface and the disk are caught: an error of the preface, which a payload can cause, would end each new writer, too.
"""

import errno
import logging
import os
import select
import time
import traceback
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from enum import Enum
from functools import partial
from typing import TYPE_CHECKING, TypeVar

from tenacity import Retrying, retry_if_exception_type, wait_exponential

from ..channel.clock import LONGEST_WAIT
from ..channel.journal import Journal, Kind, Record
from ..channel.ledger import Ledger
from ..channel.messages import IN_FLIGHT_BYTES, ORPHAN_TIMEOUT, Report, WriterSpec
from ..channel.queue import QueueReader
from ..channel.spool_directory import Claim, SpoolError, bytes_of_others, claim_inherited
from ..config import PusherConfig
from ..graph import GraphPayload
from .backlog import Backlog
from .connection import IOV_MAX, Connection
from .preface import Preface
from .session import Session, open_spool

BLOCKED_GRACE = 0.5
"""How long a consumer may read nothing before lines over the bounds are dropped, in seconds. A consumer that only reads
was off the CPU for over 10 ms beside two busy loops on two cores; one that draws or collects garbage takes longer."""

MIN_BUFFER_BYTES = 1 << 20
"""How much may always wait here, in bytes, even with a small `buffer_bytes`."""

WRITE_BYTES = 65536
"""The most bytes of one write. If a consumer dies, up to that much may be sent again. Larger writes were not faster
(events of 100 kB: 301 to 346 MB/s with 64 KiB, 314 to 352 MB/s with 256 KiB)."""

WRITES_PER_TURN = 16
"""How many writes are made before the queue is read again: 1 MiB, as much as the queue's pipe holds."""

SPOOL_AFTER = 0.5
"""How long lines wait for a slow consumer before they go to disk, in seconds. With 0.1 a burst of 100,000 events with a
consumer that reads arrived at 0.86 times the rate without a spool."""

DISK_PAUSE = 1.0
"""The pause before a failed disk is tried again, and between two updates of its quota, in seconds."""

AT_ONCE = 1.0
"""A consumer of another user that hangs up this soon without having read anything refuses this user, in seconds."""

REST_TIMEOUT = 2.0
"""How long after the deadline of `close` the writer waits for lines that the host has not put into the queue, if it can
store them, in seconds. The host gives it 5 s for everything."""

REOPEN_TIMEOUT = 5.0
"""How long a restarted writer tries to open its predecessor's spool, in seconds."""

LAST_CHECK_PAUSE = 10.0
"""The pause between two checks for spools of earlier pushers doubles until it reaches this, in seconds; then the checks
end. They are repeated because the writer of a killed host may still be storing its lines."""

MAX_CLAIMS = 64
"""How many spools of earlier pushers are claimed at once: each needs a descriptor."""

FIRST_UNREAD_POLL, LONGEST_UNREAD_POLL = 0.020, 1.0
"""The pauses before the kernel is asked whether the last write was read, in seconds: the first, doubling up to the
longest."""

if TYPE_CHECKING:
    from .spool import Spool

T = TypeVar("T")


class State(Enum):
    """The state of the connection; the table is at the top of this file."""

    DISCONNECTED = 0
    CONNECTED = 1
    BLOCKED = 2


class _WriterDone(Exception):  # noqa: N818 - not an error
    """Everything is sent or stored, or the deadline is over."""


class Writer:
    """One run of the writer process.

    Args:
        spec: What the host has told it.
        graph: The payload of the `graph` event, or None.
        queue: The queue of lines.
        wakeups: A pipe, readable when the ledger has changed, and at its end when the host has ended.
        reports: The pipe for each `Report`.
        ledger: The numbers that it shares with the host.
        journal: The lines from which the next writer learns the state of the run.
        host: A descriptor, readable when the host has ended; None where the platform has none.
        claim: The spool, if there is one.
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
        claim: Claim | None = None,
    ) -> None:
        self._config = config = PusherConfig(**spec.config)
        self._path = str(config.socket_path)
        self._max_bytes = max(MIN_BUFFER_BYTES, (config.buffer_bytes - IN_FLIGHT_BYTES) // 2)
        self._ledger = ledger
        self._reports = reports
        self._wakeups = wakeups
        self._queue = queue
        self._spec = spec  # for the counters of earlier writers
        self._reported: dict[int, str] = {}  # the last report about the preface, by level
        self._journal = journal
        self._graph = graph
        self._claim = claim
        self._disk_reports: dict[str, str] = {}  # the last report about each database
        self._store_again_at = self._load_again_at = self._settle_again_at = 0.0  # when a failed step is retried
        self._safe = 0  # the host has forgotten every line below
        self._quota_at = 0.0  # when the quota is calculated again
        self._waiting_since: float | None = None  # since when lines of our own wait
        self._own = self._current = self._own_session(graph, spec)  # where lines come in; whose lines are sent
        self._inherited: deque[tuple[Claim, int]] = deque()  # spools of earlier pushers, with their numbers of lines
        self._inherited_claim: Claim | None = None  # the one of them that is being sent
        self._inherited_count = 0  # how many lines of it there were, without those that are lost
        self._inherited_done = ledger.inherited_read  # how many lines of those before it were read
        self._claim_pause = 0.1  # until the next check for them
        self._claim_again_at = None if claim is None else time.monotonic()
        self._connections = spec.connections

        self._state = State.DISCONNECTED
        self._connection: Connection | None = None
        self._blocked_since = 0.0  # since when the socket accepts nothing
        self._idle_since = 0.0  # when the consumer has last read something
        self._half_closed = False  # whether the consumer can send nothing more that must be discarded
        self._unread_poll_pause = FIRST_UNREAD_POLL  # until the kernel is asked again what is unread
        self._unread_poll_at: float | None = None  # when it is asked
        self._closing = False  # whether the host has set a deadline or has ended
        self._orphan = False  # whether the host has ended
        self._dropped_before = 0  # the ledger's count of dropped lines when the current episode began
        self._dropping = False  # whether events are being dropped
        self._flushed = 0  # the last `flush_target` that was reported

        self._poll = select.poll()
        for fd in (queue.fileno(), wakeups, host):
            if fd is not None:
                self._poll.register(fd, select.POLLIN)
        self._host = host
        self._reading = True  # whether the queue is being polled

    def _own_session(self, graph: GraphPayload | None, spec: WriterSpec) -> Session:
        """The session of our own host: the lines that earlier writers have left, and those that will come."""
        preface = Preface(graph, spec.parallelism, self._config.max_line_bytes, spec.verbatim)
        spool = None
        if self._claim is not None and os.path.exists(self._claim.database):  # of a writer that died
            spool = self._reopened(self._claim, graph, spec.parallelism)
        stored = spool.count if spool is not None else 0
        self._sent_by_others = spec.sent + self._ledger.stored - stored
        if lost := self._ledger.stored if spool is None else 0:
            self._sent_by_others -= lost
            self._ledger.stored = self._ledger.spooled = 0  # first, or the next writer would count them again
            self._ledger.drop(spec.received - lost, spec.received)
        unread = spool if spool is not None and spool.read < spool.end else None
        start, end = (spec.received, spec.received) if unread is None else (unread.read, unread.end)
        gaps: list[tuple[int, bytes]] = self._guarded(partial(self._recover, preface, start, end), otherwise=[])
        if unread is None:
            return Session(preface, Backlog(start, spec.high_water, gaps, preface.graph_units), spool)
        self._guarded(lambda: preface.note_incoming(b"".join(unread.starting())), otherwise=None)
        session = Session(preface, Backlog(start, spec.high_water, graph_units=preface.graph_units), spool)
        session.tail = Backlog(end, 0, gaps, preface.graph_units)
        return session

    def run(self) -> None:
        """Serve one consumer after another until the host closes the pusher or has ended."""
        pause, longest = self._config.reconnect_backoff, self._config.max_reconnect_backoff
        try:
            while True:
                # `_serve` returns after a connection that made progress, which resets the backoff; otherwise it raises.
                Retrying(
                    wait=wait_exponential(multiplier=pause, max=longest),
                    retry=retry_if_exception_type(OSError),
                    sleep=self._back_off,
                )(self._serve)
        except _WriterDone:
            if self._claim is not None:
                self._store_remaining(self._claim)
            self._report(Report(done=True))
        finally:
            self._ledger.connected = 0
            if self._connection is not None:
                self._connection.close()

    def _store_remaining(self, claim: Claim) -> None:
        """Put the unread lines on disk, where the next pusher finds them."""
        backlog = self._current.backlog
        if self._connection is not None:
            with suppress(OSError):
                backlog.peer_unread(self._connection.unread_memory())
            backlog.connection_lost(all_read=False)
        self._read_rest()
        self._publish()
        self._store_again_at = self._settle_again_at = 0.0
        self._store(at_once=True)
        self._publish()
        for session in {self._own, self._current}:
            if session.spool is not None:
                session.spool.close()
        if not self._own.spooling:
            claim.remove()
        elif not os.path.exists(claim.database):
            text = f"the spool {claim.database} was removed; {self._ledger.spooled} events are lost"
            self._report_disk_once(claim.database, text)
            self._ledger.stored = self._ledger.spooled = 0

    def _read_rest(self) -> None:
        """Read what the host still has to put into the queue. Beside busy threads it is slow to do so."""
        give_up = time.monotonic() + REST_TIMEOUT
        poll = select.poll()
        poll.register(self._queue, select.POLLIN)
        while not self._queue.ended:
            self._read_queue()
            if self._queue.drained:
                left = give_up - time.monotonic()
                if self._orphan or self._ledger.received >= self._ledger.close_target or left <= 0:
                    break
                poll.poll(min(left, 0.1) * 1000)

    # One connection

    def _serve(self) -> None:
        """Connect and write until the connection is lost.

        Raises:
            OSError: It failed, or was lost soon and before the consumer had read an event.
            _WriterDone: There is nothing more to do.
        """
        self._claim_inherited()
        try:
            connection = Connection(self._path, {os.geteuid(), 0, *self._config.allow_uids})
        except OSError as error:
            self._report_failure(error)
            raise
        self._connection_made(connection)
        session, settled, since = self._current, self._current.backlog.settled, time.monotonic()
        try:
            while True:
                self._write(connection)
                self._next_session()
                self._wait(self._next_step())
        except OSError as error:
            self._connection_lost(connection, error)
            lasted = time.monotonic() - since
            if (
                self._current is session
                and session.backlog.settled == settled
                and lasted <= self._config.max_reconnect_backoff
            ):
                if lasted < AT_ONCE and (refusal := connection.refusal()) is not None:
                    self._report_failure(refusal)
                raise

    def _connection_made(self, connection: Connection) -> None:
        self._begin(self._next_inherited() if self._current is self._own else self._current)
        self._connection = connection
        self._state = State.CONNECTED
        self._half_closed = False
        self._poll.register(connection, select.POLLIN)
        self._connections += 1
        self._ledger.connected = 1
        self._ledger.connections = self._connections
        self._report(Report(f"connected to {self._path}", logging.DEBUG))

    def _begin(self, session: Session) -> None:
        """Send the preface of a session, and then its lines. Nothing may be in flight."""
        self._current = session
        session.backlog.resolve_gaps()
        self._observe_resolved()
        session.backlog.connection_made(self._guarded(session.preface.lines, otherwise=b""))
        self._report_long_graph()

    def _connection_lost(self, connection: Connection, error: OSError) -> None:
        self._current.backlog.connection_lost(all_read=connection.all_was_read(error))
        self._poll.unregister(connection)
        connection.close()
        self._connection = None
        self._state = State.DISCONNECTED
        self._unread_poll_at = None
        self._ledger.connected = 0
        self._publish()
        self._report(Report(f"lost the consumer at {self._path}: {error}", logging.INFO))

    def _write(self, connection: Connection) -> None:
        """Write waiting lines to the socket until it takes no more, or the queue has to be read."""
        backlog = self._current.backlog
        for _ in range(WRITES_PER_TURN):
            self._load()
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
            self._unread_poll_at = None
        if not backlog.in_flight:
            self._unread_poll_at = None
        elif self._unread_poll_at is None:  # a turn that writes nothing must not postpone it
            self._unread_poll_at = time.monotonic() + self._unread_poll_pause
        self._store_or_drop()
        if self._blocked_for() >= self._config.write_timeout:
            raise TimeoutError(f"it accepted no byte for {self._config.write_timeout:g} s")

    def _on_blocked(self, connection: Connection) -> None:
        """Note that the socket is blocked. It is until a quarter of its buffer is free, even if the consumer reads."""
        now, before = time.monotonic(), connection.last_unread
        if self._state is State.CONNECTED:
            self._state = State.BLOCKED
            self._blocked_since = self._idle_since = now
        if connection.unread_memory() < before:
            self._idle_since = now
            self._current.backlog.peer_unread(connection.last_unread)

    def _blocked_for(self) -> float:
        """How long the socket has accepted nothing, in seconds; 0 if it is not blocked."""
        return time.monotonic() - self._blocked_since if self._state is State.BLOCKED else 0.0

    def _idle_for(self) -> float:
        """How long the consumer has read nothing, in seconds; 0 if the socket is not blocked."""
        return time.monotonic() - self._idle_since if self._state is State.BLOCKED else 0.0

    def _next_step(self) -> float | None:
        """When the loop must go on even if nothing happens; None for never."""
        moments = [self._next_disk_step(), self._claim_again_at if not self._inherited else None]
        if self._state is not State.BLOCKED:
            if not self._current.backlog.empty:
                return 0.0
            moments.append(self._unread_poll_at)
        else:
            give_up = self._blocked_since + self._config.write_timeout
            grace = self._idle_since + BLOCKED_GRACE
            moments.append(grace if time.monotonic() < grace < give_up else give_up)
        return min((moment for moment in moments if moment is not None), default=None)

    def _store_or_drop(self) -> None:
        """Store or drop the lines that must not wait in memory, and publish the counters."""
        self._store()
        self._enforce_bounds()
        self._publish()

    def _enforce_bounds(self) -> None:
        """Drop the lines over the bounds if the consumer reads nothing. Report that once per episode."""
        backlog, ledger, config = self._own.intake, self._ledger, self._config
        if backlog.exceeds(config.buffer_size, self._max_bytes):
            if self._connection is not None and self._idle_for() < BLOCKED_GRACE:
                return
            self._store(at_once=True)
            backlog = self._own.intake
            if not backlog.exceeds(config.buffer_size, self._max_bytes):
                return
            if not self._dropping:
                self._dropping = True
                self._dropped_before = ledger.dropped
                by_count = backlog.waiting > config.buffer_size
                what = f"{config.buffer_size} events" if by_count else f"{self._max_bytes >> 20} MiB"
                which = config.overflow.removeprefix("drop_")
                consumer = "no consumer is connected" if self._connection is None else "the consumer is falling behind"
                text = f"{consumer} at {self._path}: {what} are waiting, so the {which} are dropped"
                self._report(Report(text, logging.WARNING))
            drop = backlog.drop_newest if config.overflow == "drop_newest" else backlog.drop_oldest
            ranges = drop(config.buffer_size, self._max_bytes)
            while ledger.can_drop() and (dropped := next(ranges, None)):
                first, end, lines = dropped
                if lines:
                    self._guarded(partial(self._journal.append, [Record(Kind.DROPPED, end, lines)]), otherwise=None)
                ledger.drop(first, end)
        elif self._dropping and not backlog.exceeds(config.buffer_size // 2, self._max_bytes // 2):
            self._dropping = False
            count = ledger.dropped - self._dropped_before
            text = f"the consumer at {self._path} has caught up; {count} events were dropped"
            self._report(Report(text, logging.WARNING))

    # The one place where the writer sleeps

    def _back_off(self, seconds: float) -> None:
        """The sleep of tenacity. It ends early when the host closes the pusher."""
        until = time.monotonic() + seconds
        closing = self._closing
        while time.monotonic() < until and self._closing == closing:
            self._wait(until)
            self._store_or_drop()

    def _wait(self, until: float | None) -> None:
        """Sleep until something happens, and handle it.

        Args:
            until: When to wake at the latest, in seconds of `time.monotonic`; None for never.

        Raises:
            OSError: The connection is lost.
            _WriterDone: There is nothing more to do.
        """
        self._check_finished()
        self._update_interest()
        deadline = self._ledger.close_deadline / 1e9 or None
        ends = [moment for moment in (until, deadline) if moment is not None]
        timeout = min(max(0.0, min(ends) - time.monotonic()), LONGEST_WAIT) * 1000 if ends else None
        lost: OSError | None = None
        for fd, happened in self._poll.poll(timeout):
            if fd == self._queue.fileno():
                self._read_queue()
            elif fd == self._wakeups:
                self._on_wakeup()
            elif fd == self._host:
                self._on_host_exit()
            else:
                lost = self._on_socket(happened)
        if lost is not None:
            raise lost
        if self._unread_poll_at is not None and self._connection is not None and self._current.backlog.empty:
            self._poll_unread(self._connection, self._unread_poll_at)

    def _update_interest(self) -> None:
        if self._connection is not None:
            waits = select.POLLOUT if self._state is State.BLOCKED else 0
            self._poll.modify(self._connection, waits | (0 if self._half_closed else select.POLLIN))
        reading = self._own.waiting_bytes <= self._max_bytes and not self._queue.ended
        if reading and not self._reading:
            self._poll.register(self._queue, select.POLLIN)
        elif self._reading and not reading:
            self._poll.unregister(self._queue)
        self._reading = reading

    def _read_queue(self) -> None:
        for offset, batch in self._queue.read():
            filled = self._guarded(partial(self._own.preface.fill_in_graph, batch), otherwise=batch)
            self._sent_by_others += self._own.receive(filled)
            self._ledger.received = batch.end
            self._ledger.received_offset = max(offset, self._ledger.received_offset)
        self._report_long_graph()
        if self._queue.ended:
            self._on_host_exit()

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
                self._on_host_exit()
        except BlockingIOError:
            pass
        self._closing = self._closing or self._ledger.close_deadline > 0
        self._publish()

    def _on_host_exit(self) -> None:
        if self._orphan:
            return
        self._orphan = self._closing = True
        for fd in (self._wakeups, self._host):
            if fd is not None:
                self._poll.unregister(fd)
        end = time.monotonic_ns() + int(ORPHAN_TIMEOUT * 1e9)
        self._ledger.close_deadline = min(self._ledger.close_deadline or end, end)

    def _poll_unread(self, connection: Connection, at: float) -> None:
        """Ask the kernel whether the last write was read, with longer and longer pauses: no event reports it."""
        if time.monotonic() >= at:
            backlog = self._current.backlog
            backlog.peer_unread(connection.unread_memory())
            self._unread_poll_pause = min(2 * self._unread_poll_pause, LONGEST_UNREAD_POLL)
            self._unread_poll_at = time.monotonic() + self._unread_poll_pause if backlog.in_flight else None
            self._publish()

    def _check_finished(self) -> None:
        if not self._closing:
            return
        if time.monotonic_ns() >= self._ledger.close_deadline:
            raise _WriterDone
        if self._orphan and self._reading:
            self._read_queue()
        complete = self._queue.drained if self._orphan else self._ledger.received >= self._ledger.close_target
        if not complete:
            return
        if self._claim is not None and self._connection is None:
            self._store(at_once=True)
            if self._own.intake.empty:  # the next pusher sends the lines
                raise _WriterDone
        # Not before the preface is sent, so that a late consumer gets the state of the run.
        elif self._current is self._own and (self._own.empty if self._claim is None else self._own.finished):
            raise _WriterDone

    # The preface, and reports about it

    def _guarded(self, step: Callable[[], T], otherwise: T) -> T:
        """The result of a step that handles the state of the run; `otherwise` if it raises, which is reported once."""
        try:
            return step()
        except Exception:
            text = f"can't send the state of the run to consumers:\n{traceback.format_exc()}"
            self._report_once(text, logging.ERROR)
            return otherwise

    def _report_once(self, text: str, level: int) -> None:
        if self._reported.get(level) != text:
            self._reported[level] = text
            self._report(Report(text, level))

    def _report_long_graph(self) -> None:
        if too_long := self._current.preface.too_long or self._own.preface.too_long:
            advice = "raise max_line_bytes if the consumer takes longer lines, or give units shorter names"
            self._report_once(f"the graph is not sent to consumers: its {too_long}; {advice}", logging.WARNING)

    def _recover(self, preface: Preface, start: int, end: int) -> list[tuple[int, bytes]]:
        """Give the preface the lines of earlier writers that are in the journal.

        Args:
            preface: The preface.
            start: The number of the first line that was not read.
            end: The number after the last line on disk. Gaps before it are on disk, too.

        Returns:
            The gaps after it: the number after the last line of each, and the lines that are sent there.
        """
        observed, dropped = [], []
        for record in sorted(self._journal.records(), key=lambda record: record.number):
            if record.number <= start:
                observed.append(record.lines)
            elif record.kind is Kind.DROPPED and record.number > end:
                dropped.append((record.number, record.lines))
        preface.recover(observed, dropped)
        return dropped

    def _observe_resolved(self) -> None:
        records, observed = [], b""
        session = self._current
        for lines, of_gap, number in session.backlog.take_resolved():
            relevant = self._guarded(partial(session.preface.observe, lines), otherwise=b"")
            observed += relevant
            if relevant and not of_gap and session is self._own:  # those of gaps are in the journal already
                records.append(Record(Kind.READ, number, relevant))
        if records:
            self._guarded(partial(self._journal.append, records), otherwise=None)
        session.observe(observed)
        if session.spool is not None and time.monotonic() >= self._settle_again_at:
            try:
                session.settle()
            except SpoolError as error:
                self._settle_again_at = time.monotonic() + DISK_PAUSE
                self._on_disk_error(session, error)

    def _shorten_journal(self) -> None:
        session = self._own
        gaps = [*session.backlog.gaps(), *session.tail.gaps()]
        dropped = [Record(Kind.DROPPED, number, lines) for number, lines in gaps]
        self._journal.rewrite([Record(Kind.READ, session.backlog.settled, session.preface.digest()), *dropped])

    # The disk

    def _opened(self, claim: Claim, graph: GraphPayload | None = None, parallelism: int = 0) -> "Spool | None":
        """Open a spool. Returns None if it can't be read, and reports that."""
        try:
            return open_spool(claim.database, graph, parallelism)
        except SpoolError as error:
            self._report_unreadable(claim, error)
            return None

    def _reopened(self, claim: Claim, graph: GraphPayload | None, parallelism: int) -> "Spool | None":
        """Open the spool of an earlier writer. Retry for a while if the disk fails, because its lines would be lost."""
        give_up = time.monotonic() + REOPEN_TIMEOUT
        while time.monotonic() < give_up:
            try:
                return open_spool(claim.database, graph, parallelism)
            except SpoolError as error:
                if error.damaged:
                    break
                time.sleep(0.05)
        return self._opened(claim, graph, parallelism)

    def _report_unreadable(self, claim: Claim, error: SpoolError, more: str = "") -> bool:
        """Report that a database can't be read, and rename it if it is damaged. Returns whether it was renamed."""
        text = f"the spool {claim.database} can't be read: {error}{more}"
        aside = False
        if error.damaged:
            try:
                text += f"; it was renamed to {claim.put_aside()}; sqlite3's .recover may get events back from it"
                aside = True
            except OSError as failure:
                text += f"; it can't be renamed: {failure.strerror}"
        self._report_disk_once(claim.database, text)
        return aside

    def _report_disk_once(self, database: str, text: str) -> None:
        if self._disk_reports.get(database) != text:
            self._disk_reports[database] = text
            self._report(Report(text, logging.ERROR))

    def _on_disk_error(self, session: Session, error: SpoolError) -> None:
        """Report an error of the disk once, and go on without a database that is damaged or has no unread lines."""
        claim = self._claim if session is self._own else self._inherited_claim
        assert claim is not None
        if not error.damaged:
            advice = "events wait in memory, and those over its bounds are dropped"
            self._report_disk_once(claim.database, f"the spool {claim.database} does not work: {error}; {advice}")
            if session is self._own and session.spool is not None and not session.spooling:
                session.give_up_spool()  # its lines were read; if they stayed on disk, they would be sent again
                claim.remove_database()
            return
        lost, end = (session.spool.not_loaded, session.spool.end) if session.spool is not None else (0, 0)
        session.give_up_spool()
        aside = self._report_unreadable(claim, error, f"; {lost} events are lost" if lost else "")
        if session is not self._own:
            self._inherited_count -= lost
            return
        if lost:
            self._ledger.drop(end - lost, end)
        if aside:  # so that the lines in memory are on disk again
            self._store_again_at = 0.0
            self._store(at_once=True)

    def _store(self, at_once: bool = False) -> None:
        """Put the lines that are only in memory on disk, if `_must_store` says so.

        Args:
            at_once: Whether to do it in any case.
        """
        claim, own, now = self._claim, self._own, time.monotonic()
        if not own.backlog.waiting:
            self._waiting_since = None
        elif self._waiting_since is None:
            self._waiting_since = now
        if claim is None or now < self._store_again_at or own.intake.empty:
            return
        if not (own.spooling or at_once or self._must_store(now)):
            return
        try:
            if own.spool is None:
                own.spool = open_spool(claim.database, self._graph, self._spec.parallelism)
                self._quota_at = 0.0
            if now >= self._quota_at:
                self._quota_at = now + DISK_PAUSE
                own.spool.limit(self._config.spool_bytes - bytes_of_others(claim))
            own.store(self._config.buffer_size, self._max_bytes)
            self._disk_reports.pop(claim.database, None)
        except (SpoolError, OSError) as error:
            self._store_again_at = now + DISK_PAUSE
            self._on_disk_error(own, error if isinstance(error, SpoolError) else SpoolError(str(error)))

    def _must_store(self, now: float) -> bool:
        """Whether waiting lines have to go to disk, because there is no consumer or it is slow."""
        if self._waiting_since is None:
            return False
        if self._current is not self._own or self._connection is None:
            return True
        return now - self._waiting_since > SPOOL_AFTER or self._own.backlog.waiting_bytes > self._max_bytes

    def _load(self) -> None:
        if self._current.spool is not None and time.monotonic() >= self._load_again_at:
            try:
                self._current.load()
            except SpoolError as error:
                self._load_again_at = time.monotonic() + DISK_PAUSE
                self._on_disk_error(self._current, error)

    def _next_disk_step(self) -> float | None:
        """When the disk has to be used even if nothing happens; None for never."""
        if self._claim is None:
            return None
        moments = []
        spool = self._current.spool
        if spool is not None and not spool.all_loaded and self._current.backlog.empty:
            moments.append(self._load_again_at)
        if not self._own.tail.empty:
            moments.append(self._store_again_at)
        elif self._waiting_since is not None and not self._own.spooling:
            moments.append(max(self._store_again_at, self._waiting_since + SPOOL_AFTER))
        return min(moments, default=None)

    # Spools of earlier pushers

    def _claim_inherited(self) -> None:
        """Claim the spools that no process owns any more, if it is time to check for them."""
        now = time.monotonic()
        if self._claim is None or self._claim_again_at is None or now < self._claim_again_at or self._inherited:
            return
        self._claim_again_at = now + self._claim_pause if self._claim_pause < LAST_CHECK_PAUSE else None
        self._claim_pause *= 2
        try:
            for claim in claim_inherited(self._claim.directory):
                if (spool := self._opened(claim)) is None:
                    self._skip_spool(claim)
                    continue
                self._inherited.append((claim, spool.count))
                spool.close()
                if len(self._inherited) == MAX_CLAIMS:
                    break
        except OSError as error:
            directory = self._claim.directory
            self._report_disk_once(directory, f"the spool directory {directory} can't be read: {error.strerror}")
        self._publish_inherited()

    def _publish_inherited(self) -> None:
        inherited, read = sum(count for _, count in self._inherited), self._inherited_done
        if self._current is not self._own and self._current.spool is not None:
            inherited += self._current.spool.count
            read += self._inherited_count - self._current.spool.count
        self._ledger.inherited, self._ledger.inherited_read = inherited, read

    def _next_inherited(self) -> Session:
        """The session of the next spool of an earlier pusher; our own if there is none."""
        while self._inherited:
            claim, self._inherited_count = self._inherited.popleft()
            self._inherited_claim = claim
            if (spool := self._opened(claim)) is not None:
                try:
                    return Session.of_spool(spool, self._config)
                except Exception as error:  # its content must not end the writer
                    spool.close()
                    known = error if isinstance(error, SpoolError) else SpoolError(repr(error), damaged=True)
                    self._report_unreadable(claim, known)
            self._skip_spool(claim)
        return self._own

    def _skip_spool(self, claim: Claim) -> None:
        """Release a spool that can't be read now, for another pusher, or remove the rest of one that was renamed."""
        if os.path.exists(claim.database):
            claim.lock.close()
        else:
            claim.remove()

    def _next_session(self) -> None:
        """Go on with the next session when the consumer has read everything of the current one."""
        self._claim_inherited()
        while self._current.finished and (self._current is not self._own or self._inherited):  # a spool may be empty
            session, claim = self._current, self._inherited_claim
            if session is not self._own and claim is not None:
                self._observe_resolved()
                if session.spool is not None:
                    session.spool.close()
                self._inherited_done += self._inherited_count
                claim.remove()
                text = f"sent {self._inherited_count} events that an earlier pusher left in {claim.directory}"
                self._report(Report(text, logging.INFO))
                self._claim_again_at = time.monotonic()  # there may be more than `MAX_CLAIMS`
            self._begin(self._next_inherited())

    def _publish(self) -> None:
        ledger, own = self._ledger, self._own
        backlog, spool = own.backlog, own.spool
        self._observe_resolved()
        ledger.read = backlog.settled
        self._safe = max(self._safe, own.safe)
        if spool is not None and own.spooling:
            ledger.stored, ledger.spooled = spool.count, spool.not_loaded + backlog.waiting
        else:  # if a database was damaged, lines that the host has forgotten may still be in memory
            ledger.stored, ledger.spooled = backlog.unread_below(self._safe), 0
        ledger.settled = own.safe
        if self._journal.is_long:  # after `settled`, or the next writer would skip the record
            self._guarded(self._shorten_journal, otherwise=None)
        ledger.high_water = backlog.high_water
        ledger.resent = self._spec.resent + backlog.resent
        ledger.sent = max(0, self._sent_by_others + backlog.sent)
        self._publish_inherited()
        ledger.unsent = own.unsent  # last, because `flush` waits for it before it reads the others
        self._flushed = min(self._flushed, own.unsent)  # it may fall, and then be waited for again
        if self._flushed < ledger.flush_target <= own.unsent:
            self._flushed = ledger.flush_target
            self._report(Report())

    def _report_failure(self, error: OSError) -> None:
        self._report(Report(failure=(error.errno or 0, error.strerror or str(error))))

    def _report(self, report: Report) -> None:
        try:
            os.write(self._reports, report.encode())
        except OSError:
            pass  # the report is lost, but all its numbers are in the ledger
