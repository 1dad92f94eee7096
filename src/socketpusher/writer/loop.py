"""What the writer does: move lines from the queue to the socket, and survive everything at both ends.

    DISCONNECTED: it backs off between two attempts to connect; more than the bounds drops at once.
    CONNECTED:    the socket takes what it is offered; nothing is dropped, the queue is left to fill up instead.
    BLOCKED:      the socket takes nothing; more than the bounds drops after `BLOCKED_GRACE`.

It sleeps in one place, `_wait`, where the queue, the socket, the host's wake-up calls and the host's end end the sleep.
Whatever came through the queue is in the backlog when `_wait` returns, also while it backs off: tenacity's `sleep` is
`_wait` too. When there is nothing more to do, `_wait` raises `_WriterDone`.

With a spool, what waits goes to the disk instead: at once while there is no consumer, and after `SPOOL_AFTER` while it
is slow. What earlier pushers have left there is sent first, each with its own preface.

A fault of its own ends it; the host starts another one with all that is not settled. Only the preface is guarded, for
what a payload holds would end each of them, and what the disk does.
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
from ..channel.messages import ORPHAN_TIMEOUT, Report, WriterSpec
from ..channel.queue import QueueReader
from ..channel.spool_directory import Claim, SpoolError, bytes_of_others, claim_inherited
from ..config import PusherConfig
from ..graph import GraphPayload
from .backlog import Backlog
from .connection import IOV_MAX, Connection
from .preface import Preface
from .session import Session, open_spool

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

SPOOL_AFTER = 0.5
"""How long lines wait for a consumer that reads before they go to the disk, in seconds. With 0.1 a burst of 100,000
events beside a consumer that reads arrived at 0.86 times the rate that it has without a spool."""

DISK_PAUSE = 1.0
"""How long a disk that has failed is left alone, and how often its quota is worked out, in seconds."""

AT_ONCE = 1.0
"""A consumer of another user that hangs up this soon without having read anything refuses this user, in seconds."""

REOPEN_TIMEOUT = 5.0
"""How long a writer that takes another one's place tries to read what that has on the disk, in seconds."""

LAST_LOOK = 10.0
"""For so long the writer looks for what earlier pushers have left, in seconds, ever more seldom: one whose host was
killed may just be putting it there."""

MOST_LEFT = 64
"""So many spools of earlier pushers are taken at once: each has a descriptor."""

FIRST_UNREAD_POLL = 0.020
"""When the kernel is asked for the first time whether the last write was read, in seconds; each time doubles it."""

if TYPE_CHECKING:
    from .spool import Spool

T = TypeVar("T")


class State(Enum):
    """How it is with the consumer; the table is on top of this file."""

    DISCONNECTED = 0
    CONNECTED = 1
    BLOCKED = 2


class _WriterDone(Exception):  # noqa: N818 - not an error
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
        self._bytes = max(LEAST_BYTES, (config.buffer_bytes - IN_FLIGHT_BYTES) // 2)
        self._ledger = ledger
        self._reports = reports
        self._wakeups = wakeups
        self._queue = queue
        self._spec = spec  # for what earlier writers had counted
        self._said: dict[int, str] = {}  # what was reported last of the preface, by level
        self._journal = journal
        self._graph = graph
        self._claim = claim
        self._disk_troubles: dict[str, str] = {}  # what was reported last of each database
        self._store_again_at = self._load_again_at = self._settle_again_at = 0.0  # when what has failed is tried again
        self._safe = 0  # the host has forgotten every line below
        self._quota_at = 0.0  # when it is worked out again how much may be there
        self._waiting_since: float | None = None  # since when something of our own waits
        self._own = self._current = self._begin_own(graph, spec)  # what comes in, and what is on the socket
        self._left: deque[tuple[Claim, int]] = deque()  # what earlier pushers have left: spools, and how many lines
        self._left_claim: Claim | None = None  # the one of them that is on the socket
        self._left_count = 0
        self._look_pause = 0.1  # until it is looked for again
        self._look_again_at = None if claim is None else time.monotonic()
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

    def _begin_own(self, graph: GraphPayload | None, spec: WriterSpec) -> Session:
        """The lines of our host: what earlier writers have left of them, and what will come."""
        preface = Preface(graph, spec.parallelism, self._config.max_line_bytes)
        spool = None
        if self._claim is not None and os.path.exists(self._claim.database):  # of a writer that died
            spool = self._reopened(self._claim, graph, spec.parallelism)
        stored = spool.count if spool is not None else 0
        self._sent_before = spec.sent + self._ledger.stored - stored
        if lost := self._ledger.stored if spool is None else 0:
            self._sent_before -= lost
            self._ledger.stored = self._ledger.spooled = 0  # first, or another writer would count them again
            self._ledger.drop(spec.received - lost, spec.received)
        unread = spool if spool is not None and spool.read < spool.end else None
        start, end = (spec.received, spec.received) if unread is None else (unread.read, unread.end)
        gaps: list[tuple[int, bytes]] = self._guarded(partial(self._recover, preface, start, end), otherwise=[])
        if unread is None:
            return Session(preface, Backlog(start, spec.high_water, gaps, preface.named), spool)
        self._guarded(lambda: preface.pass_over(b"".join(unread.starting())), otherwise=None)
        session = Session(preface, Backlog(start, spec.high_water, named=preface.named), spool)
        session.tail = Backlog(end, 0, gaps, preface.named)
        return session

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
        except _WriterDone:
            if self._claim is not None:
                self._leave(self._claim)
            self._report(Report(done=True))
        finally:
            self._ledger.connected = 0
            if self._connection is not None:
                self._connection.close()

    def _leave(self, claim: Claim) -> None:
        """Put what was not read onto the disk, where the next pusher finds it."""
        backlog = self._current.backlog
        if self._connection is not None:
            with suppress(OSError):
                backlog.peer_unread(self._connection.unread_memory())
            backlog.connection_lost(all_read=False)
        self._read_queue()
        while not (self._queue.drained or self._queue.ended):
            self._read_queue()
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
            self._say_of_disk(claim.database, text)
            self._ledger.stored = self._ledger.spooled = 0

    # One connection

    def _serve(self) -> None:
        """Connect and write until the connection is lost.

        Raises:
            OSError: It could not be made, or was lost soon and before the consumer had read an event.
            _WriterDone: There is nothing more to do.
        """
        self._look_for_inherited()
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
                self._wait(self._next_turn())
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
        """Tell a consumer to which nothing is in flight where a run stands, and go on with its lines."""
        self._current = session
        session.backlog.resolve_gaps()
        self._observe_resolved()
        session.backlog.connection_made(self._guarded(session.preface.lines, otherwise=b""))
        self._report_untold()

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
        """Offer what waits to the socket until it takes no more or it is the queue's turn."""
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
        elif self._unread_poll_at is None:  # else a turn in which nothing is written would put it off
            self._unread_poll_at = time.monotonic() + self._unread_poll_pause
        self._keep_bounds()
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
            self._current.backlog.peer_unread(connection.last_unread)

    def _blocked_for(self) -> float:
        """How long the socket has taken nothing, in seconds; 0 if it takes what it is offered."""
        return time.monotonic() - self._blocked_since if self._state is State.BLOCKED else 0.0

    def _idle_for(self) -> float:
        """How long the consumer has not even read, in seconds; 0 if the socket takes what it is offered."""
        return time.monotonic() - self._idle_since if self._state is State.BLOCKED else 0.0

    def _next_turn(self) -> float | None:
        """When the loop must go on at the latest though nothing happens; None for never."""
        moments = [self._disk_turn(), self._look_again_at if not self._left else None]
        if self._state is not State.BLOCKED:
            if not self._current.backlog.empty:
                return 0.0
            moments.append(self._unread_poll_at)
        else:
            give_up = self._blocked_since + self._config.write_timeout
            grace = self._idle_since + BLOCKED_GRACE
            moments.append(grace if time.monotonic() < grace < give_up else give_up)
        return min((moment for moment in moments if moment is not None), default=None)

    def _keep_bounds(self) -> None:
        """Put onto the disk what must not wait in memory, or drop it; and say how things stand."""
        self._store()
        self._enforce_bounds()
        self._publish()

    def _enforce_bounds(self) -> None:
        """Drop what is over the bounds if the consumer takes nothing, and say so once per episode."""
        backlog, ledger, config = self._own.last, self._ledger, self._config
        if backlog.is_over(config.buffer_size, self._bytes):
            if self._connection is not None and self._idle_for() < BLOCKED_GRACE:
                return
            self._store(at_once=True)
            backlog = self._own.last
            if not backlog.is_over(config.buffer_size, self._bytes):
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
            self._keep_bounds()

    def _wait(self, until: float | None) -> None:
        """Sleep until something happens, and take in what did.

        Args:
            until: The time, of `time.monotonic`, to sleep to at the latest; None for ever.

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
        reading = self._own.waiting_bytes <= self._bytes and not self._queue.ended
        if reading and not self._reading:
            self._poll.register(self._queue, select.POLLIN)
        elif self._reading and not reading:
            self._poll.unregister(self._queue)
        self._reading = reading

    def _read_queue(self) -> None:
        for offset, batch in self._queue.read():
            filled = self._guarded(partial(self._own.preface.fill_in_graph, batch), otherwise=batch)
            self._sent_before += self._own.receive(filled)
            self._ledger.received = batch.end
            self._ledger.received_offset = max(offset, self._ledger.received_offset)
        self._report_untold()
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
        if not self._ledger.close_deadline:
            self._ledger.close_deadline = time.monotonic_ns() + int(ORPHAN_TIMEOUT * 1e9)

    def _poll_unread(self, connection: Connection, at: float) -> None:
        """Ask the kernel again, ever more seldom, whether the last write was read; nothing else would tell."""
        if time.monotonic() >= at:
            backlog = self._current.backlog
            backlog.peer_unread(connection.unread_memory())
            self._unread_poll_pause *= 2
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
            if self._own.last.empty:  # the next pusher sends it
                raise _WriterDone
        # A consumer that came late is told where the run stands.
        elif self._current is self._own and (self._own.empty if self._claim is None else self._own.over):
            raise _WriterDone

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

    def _report_untold(self) -> None:
        if untold := self._current.preface.untold or self._own.preface.untold:
            advice = "raise max_line_bytes if the consumer takes longer lines, or give units shorter names"
            self._report_once(f"the graph is not told to consumers: its {untold}; {advice}", logging.WARNING)

    def _recover(self, preface: Preface, start: int, end: int) -> list[tuple[int, bytes]]:
        """Let the preface know what earlier writers have left.

        Args:
            preface: It.
            start: The number of the first line that was not read.
            end: The number after the last one that is on the disk, with the gaps between them.

        Returns:
            The gaps behind that line: the number after the last line of each, and what is told there.
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
            told = self._guarded(partial(session.preface.observe, lines), otherwise=b"")
            observed += told
            if told and not of_gap and session is self._own:  # those are in the journal
                records.append(Record(Kind.READ, number, told))
        if records:
            self._guarded(partial(self._journal.append, records), otherwise=None)
        session.observe(observed)
        if session.spool is not None and time.monotonic() >= self._settle_again_at:
            try:
                session.settle()
            except SpoolError as error:
                self._settle_again_at = time.monotonic() + DISK_PAUSE
                self._on_disk_trouble(session, error)

    def _shorten_journal(self) -> None:
        session = self._own
        gaps = [*session.backlog.gaps(), *session.tail.gaps()]
        dropped = [Record(Kind.DROPPED, number, lines) for number, lines in gaps]
        self._journal.begin_anew([Record(Kind.READ, session.backlog.settled, session.preface.digest()), *dropped])

    # The disk

    def _opened(self, claim: Claim, graph: GraphPayload | None = None, parallelism: int = 0) -> "Spool | None":
        """The spool of another process; None if it can't be read, and then that is reported."""
        try:
            return open_spool(claim.database, graph, parallelism)
        except SpoolError as error:
            self._report_unreadable(claim, error)
            return None

    def _reopened(self, claim: Claim, graph: GraphPayload | None, parallelism: int) -> "Spool | None":
        """The spool of an earlier writer. A disk that fails gets time, for without it what is there is lost."""
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
        """Say that a database can't be read, and get it out of the way if that will not change; whether it is."""
        text = f"the spool {claim.database} can't be read: {error}{more}"
        aside = False
        if error.damaged:
            try:
                text += f"; it was put aside as {claim.put_aside()}, from which sqlite3's .recover may get events back"
                aside = True
            except OSError as failure:
                text += f"; it can't be put aside: {failure.strerror}"
        self._say_of_disk(claim.database, text)
        return aside

    def _say_of_disk(self, database: str, text: str) -> None:
        if self._disk_troubles.get(database) != text:
            self._disk_troubles[database] = text
            self._report(Report(text, logging.ERROR))

    def _on_disk_trouble(self, session: Session, error: SpoolError) -> None:
        """Say so once, and go on: without a database that is damaged, or that nothing is left in."""
        claim = self._claim if session is self._own else self._left_claim
        assert claim is not None
        if not error.damaged:
            advice = "events wait in memory, and more than may wait there are dropped"
            self._say_of_disk(claim.database, f"the spool {claim.database} does not work: {error}; {advice}")
            if session is self._own and session.spool is not None and not session.spooling:
                session.give_up_spool()  # what can't be taken off the disk was read, and would be sent again
                claim.remove_database()
            return
        lost, end = (session.spool.not_loaded, session.spool.end) if session.spool is not None else (0, 0)
        session.give_up_spool()
        aside = self._report_unreadable(claim, error, f"; {lost} events are lost" if lost else "")
        if session is not self._own:
            self._left_count -= lost
            return
        if lost:
            self._ledger.drop(end - lost, end)
        if aside:  # what waits in memory was safe, and is to be so again
            self._store_again_at = 0.0
            self._store(at_once=True)

    def _store(self, at_once: bool = False) -> None:
        """Put onto the disk what waits in memory only, if it has to.

        Args:
            at_once: Whether it has to in any case.
        """
        claim, own, now = self._claim, self._own, time.monotonic()
        if not own.backlog.waiting:
            self._waiting_since = None
        elif self._waiting_since is None:
            self._waiting_since = now
        if claim is None or now < self._store_again_at or own.last.empty:
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
            own.store(self._config.buffer_size, self._bytes)
            self._disk_troubles.pop(claim.database, None)
        except (SpoolError, OSError) as error:
            self._store_again_at = now + DISK_PAUSE
            self._on_disk_trouble(own, error if isinstance(error, SpoolError) else SpoolError(str(error)))

    def _must_store(self, now: float) -> bool:
        """Whether what waits can't wait in memory: nobody reads it, or too slowly."""
        if self._waiting_since is None:
            return False
        if self._current is not self._own or self._connection is None:
            return True
        return now - self._waiting_since > SPOOL_AFTER or self._own.backlog.waiting_bytes > self._bytes

    def _load(self) -> None:
        if self._current.spool is not None and time.monotonic() >= self._load_again_at:
            try:
                self._current.load()
            except SpoolError as error:
                self._load_again_at = time.monotonic() + DISK_PAUSE
                self._on_disk_trouble(self._current, error)

    def _disk_turn(self) -> float | None:
        """When the disk is to be used, if nothing else happens; None for never."""
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

    # What earlier pushers have left

    def _look_for_inherited(self) -> None:
        """Take what nobody has any more."""
        now = time.monotonic()
        if self._claim is None or self._look_again_at is None or now < self._look_again_at or self._left:
            return
        self._look_again_at = now + self._look_pause if self._look_pause < LAST_LOOK else None
        self._look_pause *= 2
        try:
            for claim in claim_inherited(self._claim.directory, MOST_LEFT):
                if (spool := self._opened(claim)) is not None:
                    self._left.append((claim, spool.count))
                    spool.close()
                else:
                    self._skip_spool(claim)
        except OSError as error:
            directory = self._claim.directory
            self._say_of_disk(directory, f"the spool directory {directory} can't be read: {error.strerror}")
        self._publish_inherited()

    def _publish_inherited(self) -> None:
        inherited = sum(count for _, count in self._left)
        if self._current is not self._own and self._current.spool is not None:
            inherited += self._current.spool.count
        self._ledger.inherited = inherited

    def _next_inherited(self) -> Session:
        """The next spool that an earlier pusher has left; if there is none, our own lines."""
        while self._left:
            claim, self._left_count = self._left.popleft()
            self._left_claim = claim
            if (spool := self._opened(claim)) is not None:
                try:
                    return Session.of_spool(spool, self._config)
                except Exception as error:  # whatever is in it, the writer goes on
                    spool.close()
                    known = error if isinstance(error, SpoolError) else SpoolError(repr(error), damaged=True)
                    self._report_unreadable(claim, known)
            self._skip_spool(claim)
        return self._own

    def _skip_spool(self, claim: Claim) -> None:
        """Let another pusher have a spool that can't be read now, or remove what is left of one that was put aside."""
        if os.path.exists(claim.database):
            claim.lock.close()
        else:
            claim.remove()

    def _next_session(self) -> None:
        """When the consumer has read all that an earlier pusher has left, go on with the next; or begin with that."""
        self._look_for_inherited()
        while self._current.over and (self._current is not self._own or self._left):  # one may have nothing at all
            session, claim = self._current, self._left_claim
            if session is not self._own and claim is not None:
                self._observe_resolved()
                if session.spool is not None:
                    session.spool.close()
                claim.remove()
                text = f"sent {self._left_count} events that an earlier pusher left in {claim.directory}"
                self._report(Report(text, logging.INFO))
                self._look_again_at = time.monotonic()  # there may be more than were taken at once
            self._begin(self._next_inherited())

    def _publish(self) -> None:
        ledger, own = self._ledger, self._own
        backlog, spool = own.backlog, own.spool
        self._observe_resolved()
        ledger.read = backlog.settled
        self._safe = max(self._safe, own.safe)
        if spool is not None and own.spooling:
            ledger.stored, ledger.spooled = spool.count, spool.not_loaded + backlog.waiting
        else:  # of a database that was damaged some lines may be left, which the host has forgotten
            ledger.stored, ledger.spooled = backlog.unread_below(self._safe), 0
        ledger.settled = own.safe
        if self._journal.is_long:  # also without a consumer; behind `settled`, or the next writer would skip the record
            self._guarded(self._shorten_journal, otherwise=None)
        ledger.high_water = backlog.high_water
        ledger.resent = self._spec.resent + backlog.resent
        ledger.sent = max(0, self._sent_before + backlog.sent)
        self._publish_inherited()
        ledger.unsent = own.unsent  # last, for whoever flushes waits for it, and then asks for the others
        self._flushed = min(self._flushed, own.unsent)  # what was taken back may be waited for again
        if self._flushed < ledger.flush_target <= own.unsent:
            self._flushed = ledger.flush_target
            self._report(Report())

    def _report_failure(self, error: OSError) -> None:
        self._report(Report(failure=(error.errno or 0, error.strerror or str(error))))

    def _report(self, report: Report) -> None:
        try:
            os.write(self._reports, report.encode())
        except OSError:
            pass  # a host that does not listen will find everything but the words in the ledger
