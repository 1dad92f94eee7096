"""What the writer does: move lines from the queue to the socket, and survive everything at both ends.

It sleeps in one place, `_wait`, where the queue, the socket, the host's wake-up calls and the host's death end the
sleep. Whatever came through the queue is in the backlog when `_wait` returns, also while it backs off: tenacity's
`sleep` is `_wait` too. When there is nothing more to do, `_wait` raises `_Finished`.
"""

import errno
import logging
import os
import select
import time
import traceback

from tenacity import Retrying, retry_if_exception_type, wait_exponential

from ..channel.messages import ORPHAN_DEADLINE, Assignment, Report
from ..channel.queue import Inlet
from .backlog import Backlog
from .connection import Connection
from .preface import Handshake

GRACE = 0.010
"""How long the socket may refuse what it is offered before more than `buffer_size` waiting events are too many, s."""

PAUSE_BYTES = 8 << 20
"""With more than `buffer_size` events and this many bytes waiting, the queue is left to fill up. A consumer that keeps
reading, but more slowly than events come, would otherwise grow the writer without bound."""

WRITE_BYTES = 65536
"""What a write is offered. A consumer that dies may get as much again, and larger writes were not faster (events of
100 kB: 301 to 346 MB/s with 64 KiB, 314 to 352 MB/s with 256 KiB)."""

WRITES_PER_TURN = 16
"""How many writes follow each other before the queue gets its turn: 1 MiB, as much as one read of the queue takes."""

FIRST_LOOK = 0.020
"""When the kernel is asked for the first time whether the last write was read, in seconds; each time doubles it."""


class _Finished(Exception):  # noqa: N818 - not an error
    """Everything is sent, or the deadline is over."""


class Writer:
    """One run of the writer process."""

    def __init__(self, assignment: Assignment) -> None:
        config = assignment.config
        self._config = config
        self._path = str(config.socket_path)
        self._ledger = assignment.ledger
        self._reports = assignment.reports
        self._wakeups = assignment.wakeups
        self._inlet = Inlet(assignment.queue)
        self._handshake = Handshake(
            assignment.graph, assignment.parallelism, config.max_line_bytes, self._ledger.extra, assignment.started
        )
        self._backlog = Backlog(self._ledger.received, self._ledger.high_water)
        self._earlier_sent = self._ledger.sent  # by writers before this one
        self._earlier_resent = self._ledger.resent

        self._connection: Connection | None = None
        self._refused_since: float | None = None  # when the socket began to take nothing; None while it takes
        self._half_closed = False  # whether the consumer will send nothing more, so that there is nothing to discard
        self._look_pause = FIRST_LOOK  # until the kernel is asked again what is unread
        self._look_at: float | None = None  # when it is asked
        self._closing = False  # whether the host has set a deadline, or is gone
        self._dropped_before = 0  # what the ledger counted as dropped when the present episode began
        self._dropping = False  # whether events are being dropped
        self._flushed = 0  # the last `flush_target` that was reported

        os.set_blocking(self._reports.fileno(), False)
        os.set_blocking(self._wakeups.fileno(), False)
        self._poll = select.poll()
        self._poll.register(self._inlet, select.POLLIN)
        self._poll.register(self._wakeups, select.POLLIN)
        self._reading = True  # whether the queue is being polled
        self._host = _watch(assignment.host_pid)
        if self._host is not None:
            self._poll.register(self._host, select.POLLIN)
        self._orphan = False
        if os.getppid() != assignment.host_pid:
            self._on_host_gone()

    def run(self) -> None:
        """Serve consumer after consumer until the host has said that it ends, or has ended."""
        try:
            while True:
                # A connection that took an event returns, and the backoff starts anew; any other raises.
                Retrying(
                    wait=wait_exponential(
                        multiplier=self._config.reconnect_backoff, max=self._config.max_reconnect_backoff
                    ),
                    retry=retry_if_exception_type(OSError),
                    sleep=self._back_off,
                )(self._serve)
        except _Finished:
            pass
        except Exception:
            self._report(Report(f"the writer process failed:\n{traceback.format_exc()[-3000:]}", logging.ERROR))
            raise
        finally:
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
        self._note_gone()
        self._backlog.connected(self._handshake.preface())
        self._connection = connection
        self._half_closed = False
        self._poll.register(connection, select.POLLIN)
        self._ledger.connected = 1
        self._ledger.connections += 1
        self._report(Report(f"connected to {self._path}", logging.DEBUG))
        settled, since = self._backlog.settled, time.monotonic()
        try:
            while True:
                self._write()
                self._wait(self._next_look())
        except OSError as error:
            self._lost(connection, error)
            lasted = time.monotonic() - since > self._config.max_reconnect_backoff
            if self._backlog.settled == settled and not lasted:
                raise

    def _lost(self, connection: Connection, error: OSError) -> None:
        self._backlog.disconnected(all_read=connection.all_was_read(error))
        self._poll.unregister(connection)
        connection.close()
        self._connection = None
        self._refused_since = self._look_at = None
        self._ledger.connected = 0
        self._publish()
        self._report(Report(f"lost the consumer at {self._path}: {error}", logging.INFO))

    def _write(self) -> None:
        """Offer what waits to the socket until it takes no more or it is the queue's turn."""
        connection = self._connected()
        for _ in range(WRITES_PER_TURN):
            if self._backlog.empty:
                break
            try:
                count, memory = connection.write(self._backlog.offer(WRITE_BYTES))
            except BlockingIOError:
                self._refused_since = self._refused_since or time.monotonic()
                break
            self._refused_since = None
            self._backlog.wrote(count, memory)
            self._backlog.unread(connection.unread_memory())
            self._look_pause = FIRST_LOOK
        self._look_at = time.monotonic() + self._look_pause if self._backlog.in_flight else None
        self._keep_bound()
        self._publish()
        if self._refused_since is not None and time.monotonic() - self._refused_since >= self._config.write_timeout:
            raise TimeoutError(f"it accepted no byte for {self._config.write_timeout:g} s")

    def _connected(self) -> Connection:
        assert self._connection is not None
        return self._connection

    def _next_look(self) -> float | None:
        """When the loop must go on at the latest though nothing happens; None for never."""
        if self._refused_since is None:
            return self._look_at if self._backlog.empty else 0.0
        now = time.monotonic()
        give_up = self._refused_since + self._config.write_timeout
        grace = self._refused_since + GRACE
        return grace if now < grace < give_up else give_up

    def _keep_bound(self) -> None:
        """Drop what is over `buffer_size` if the consumer takes nothing, and say so once per episode."""
        over = self._backlog.waiting > self._config.buffer_size
        if over and self._takes_nothing():
            if not self._dropping:
                self._dropping = True
                self._dropped_before = self._ledger.dropped
                self._report(
                    Report(
                        f"the consumer at {self._path} does not keep up: with {self._config.buffer_size} events "
                        f"waiting, the {self._config.overflow.removeprefix('drop_')} are dropped",
                        logging.WARNING,
                    )
                )
            drop = self._backlog.drop_newest if self._config.overflow == "drop_newest" else self._backlog.drop_oldest
            ranges = drop(self._config.buffer_size)
            while self._ledger.can_drop() and (dropped := next(ranges, None)):
                self._ledger.drop(*dropped)
        elif self._dropping and self._backlog.waiting <= self._config.buffer_size // 2:
            self._dropping = False
            count = self._ledger.dropped - self._dropped_before
            self._report(
                Report(f"the consumer at {self._path} keeps up again; {count} events dropped", logging.WARNING)
            )

    def _takes_nothing(self) -> bool:
        if self._connection is None:
            return True
        return self._refused_since is not None and time.monotonic() - self._refused_since >= GRACE

    # The one place where the writer sleeps

    def _back_off(self, seconds: float) -> None:
        """tenacity's sleep: it ends early when the host begins to close."""
        until = time.monotonic() + seconds
        closing = self._closing
        while time.monotonic() < until and self._closing == closing:
            self._wait(until)
            self._keep_bound()
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
        self._poll_what_matters()
        deadline = self._ledger.close_deadline / 1e9 or None
        ends = [moment for moment in (until, deadline) if moment is not None]
        timeout = max(0.0, min(ends) - time.monotonic()) * 1000 if ends else None
        lost: OSError | None = None
        for fd, happened in self._poll.poll(timeout):
            if fd == self._inlet.fileno():
                self._take_in()
            elif fd == self._wakeups.fileno():
                self._on_wakeup()
            elif fd == self._host:
                self._on_host_gone()
            else:
                lost = self._on_socket(happened)
        if lost is not None:
            raise lost
        self._look()

    def _poll_what_matters(self) -> None:
        if self._connection is not None:
            waits = select.POLLOUT if self._refused_since is not None else 0
            self._poll.modify(self._connection, waits | (0 if self._half_closed else select.POLLIN))
        paused = self._backlog.waiting > self._config.buffer_size and self._backlog.waiting_bytes > PAUSE_BYTES
        reading = not paused and not self._inlet.ended
        if reading and not self._reading:
            self._poll.register(self._inlet, select.POLLIN)
        elif self._reading and not reading:
            self._poll.unregister(self._inlet)
        self._reading = reading

    def _take_in(self) -> None:
        for message in self._inlet.read():
            if message:
                offset, batch = message
                self._backlog.append(self._handshake.completed(batch))
                self._ledger.received = batch.end
                self._ledger.received_offset = max(offset, self._ledger.received_offset)
        if self._inlet.ended:
            self._on_host_gone()

    def _on_socket(self, happened: int) -> OSError | None:
        if happened & (select.POLLHUP | select.POLLERR | select.POLLNVAL):
            return BrokenPipeError(errno.EPIPE, "it closed the connection")
        if happened & select.POLLIN:
            try:
                self._half_closed = not self._connected().discard_input()
            except OSError as error:
                return error
        return None

    def _on_wakeup(self) -> None:
        try:
            if not os.read(self._wakeups.fileno(), 4096):
                self._on_host_gone()
        except BlockingIOError:
            pass
        self._closing = self._closing or self._ledger.close_deadline > 0
        self._publish()

    def _on_host_gone(self) -> None:
        if self._orphan:
            return
        self._orphan = self._closing = True
        for fd in (self._wakeups.fileno(), self._host):
            if fd is not None:
                self._poll.unregister(fd)
        if not self._ledger.close_deadline:
            self._ledger.close_deadline = time.monotonic_ns() + int(ORPHAN_DEADLINE * 1e9)

    def _look(self) -> None:
        """Ask the kernel again, ever more seldom, whether the last write was read; nothing else would tell."""
        if self._look_at is not None and self._connection is not None and time.monotonic() >= self._look_at:
            self._backlog.unread(self._connection.unread_memory())
            self._look_pause *= 2
            self._look_at = time.monotonic() + self._look_pause if self._backlog.in_flight else None
            self._publish()

    def _check_finished(self) -> None:
        if not self._closing:
            return
        if time.monotonic_ns() >= self._ledger.close_deadline:
            raise _Finished
        if self._orphan and self._reading:
            self._take_in()
        complete = self._inlet.drained if self._orphan else self._ledger.received >= self._ledger.close_target
        if complete and self._backlog.waiting == 0:
            raise _Finished

    # What the host is told

    def _note_gone(self) -> None:
        for batch in self._backlog.take_gone():
            self._handshake.left(batch)

    def _publish(self) -> None:
        ledger, backlog = self._ledger, self._backlog
        self._note_gone()
        ledger.unsent = backlog.unsent
        ledger.settled = backlog.settled
        ledger.high_water = backlog.high_water
        ledger.resent = self._earlier_resent + backlog.resent
        ledger.sent = self._earlier_sent + backlog.sent
        if self._flushed < ledger.flush_target <= backlog.unsent:
            self._flushed = ledger.flush_target
            self._report(Report())

    def _report(self, report: Report) -> None:
        try:
            self._reports.send(report)
        except (BlockingIOError, BrokenPipeError):
            pass  # a host that does not listen will find everything but the words in the ledger


def _watch(pid: int) -> int | None:
    """A descriptor that becomes readable when the process ends, or None where there is no such thing."""
    if not hasattr(os, "pidfd_open"):
        return None
    try:
        return os.pidfd_open(pid)
    except OSError:  # an old kernel, a sandbox, or the process is gone already
        return None
