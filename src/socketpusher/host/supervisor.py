"""The host's thread that owns the writer process: starts it, listens to it, replaces it if it dies, ends it.

Whatever the writer reports is logged here, in the host, where logging is set up. Callers that wait for something wait
for `changed`, which every report and every end of a writer notifies; nothing polls.
"""

import errno
import logging
import os
import threading
import time
import weakref
from collections.abc import Callable
from contextlib import ExitStack
from multiprocessing import process, util
from multiprocessing.connection import wait
from typing import Any

from ..channel.ledger import Ledger
from ..channel.messages import Report
from ..config import PusherConfig
from ..graph import GraphPayload
from ..run_state import cells_needed
from ..writer.process import CONTEXT, signals_blocked
from .forked import ForkedToken, SideDoor
from .outbox import Outbox
from .writer_handle import Lifeline, nudge

logger = logging.getLogger("socketpusher")


STEADY = 5.0
"""A writer that lived so long, in seconds, was all right: the next one is started without a pause."""

FIRST_PAUSE, LONGEST_PAUSE = 0.1, 5.0
"""The pause before the next writer if the last one died young, in seconds; it doubles while they keep dying."""


_open: "weakref.WeakSet[Supervisor]" = weakref.WeakSet()


def _after_fork() -> None:
    for supervisor in list(_open):
        supervisor.after_fork()


os.register_at_fork(after_in_child=_after_fork)


class Supervisor:
    """Keeps a writer running from `start` to `close`."""

    def __init__(self, config: PusherConfig, graph: GraphPayload | None, parallelism: int) -> None:
        self._config = config
        self._graph = graph
        self._parallelism = parallelism
        self._directory = os.getcwd()  # which a relative path of the socket is relative to, wherever the host goes
        with ExitStack() as opened:
            self.ledger = Ledger(cells_needed(graph) if graph is not None else 0)
            opened.callback(self.ledger.close)
            self._wakeups, self._waker = CONTEXT.Pipe(duplex=False)
            opened.callback(self._wakeups.close)
            opened.callback(self._waker.close)
            os.set_blocking(self._waker.fileno(), False)
            self._door = SideDoor()
            opened.callback(self._door.close)
            self._opened = opened.pop_all()
        self.outbox = Outbox(self.ledger, config, self.wake)

        self.forked: ForkedToken | None = None  # in a child of the host, what carries its events

        self.changed = threading.Condition()  # notified whenever something below or in the ledger may have changed
        self.failure: OSError | None = None  # why the last attempt to connect failed
        self.writer_restarts = 0
        self.writer_pid: int | None = None  # None while none runs
        self.ended = False  # whether there is and will be no writer

        self._deadline: float | None = None  # when closing must be over, of `time.monotonic`; None while open
        self._flushing = threading.Lock()  # held by the thread whose `flush_target` is in the ledger
        self._refusing: int | None = None  # what the log says of `outbox.refusing`
        self._note_logged = False  # whether the log tells of `outbox.first_note`
        self._lifeline: Lifeline | None = None  # None between two writers
        self._thread = threading.Thread(target=self._supervise, name="socketpusher-supervisor", daemon=True)

    def start(self) -> None:
        """Start the writer and the thread. If it raises, `abandon` what was begun.

        Raises:
            OSError: The system can't start another process.
            RuntimeError: It can't start another thread.
        """
        with signals_blocked():  # a Ctrl-C comes when everything that was begun has an owner
            self._start_writer()
            self._thread.start()
            _open.add(self)
            util.register_after_fork(self, Supervisor._after_multiprocessing_fork)

    def abandon(self) -> None:
        """End at once, however far `start` came."""
        if self._thread.ident is None:
            self._release()
        else:
            self.close(time.monotonic())

    def wake(self) -> None:
        """Make the thread look around. It does not wait and may be called from anywhere."""
        nudge(self._waker)

    def wake_writer(self) -> None:
        """Make the writer look at the ledger."""
        if (lifeline := self._lifeline) is not None:
            nudge(lifeline.wakeups)

    def wait_until(self, condition: Callable[[], bool], deadline: float) -> bool:
        """Wait until the condition holds or the deadline is over; whether it holds then."""
        with self.changed:
            return self.changed.wait_for(condition, max(0.0, deadline - time.monotonic()))

    def flush(self, deadline: float) -> bool:
        """Wait until no line accepted so far waits any more; whether that is so at the deadline."""
        if self.forked is not None:
            return self.forked.finish(deadline)
        target = self.outbox.accepted()
        if not self._flushing.acquire(timeout=max(0.0, deadline - time.monotonic())):
            return self.ledger.unsent >= target
        try:
            self.ledger.flush_target = target
            self.wake_writer()  # behind the store, so that the writer has seen it or this process sees `unsent`
            self.wait_until(lambda: self.ledger.unsent >= target or self.ended, deadline)
            return self.ledger.unsent >= target
        finally:
            self._flushing.release()

    def begin_close(self, deadline: float) -> None:
        """Let the writer send what waits, until the deadline. It does not wait."""
        self._deadline = deadline
        self.wake()

    def close(self, deadline: float) -> None:
        """The same, and wait for it. Afterwards no process, thread, file or pipe is left."""
        if self.forked is not None:  # the writer is the host's
            self.outbox.seal()
            self.forked.finish(deadline)
            return
        self.begin_close(deadline)
        self._thread.join()

    def after_fork(self) -> None:
        """In a child of the host: there is no thread here, and the writer is not ours to end."""
        if (writer := getattr(self._lifeline, "process", None)) is not None:  # it has none at first
            process._children.discard(writer)  # type: ignore[attr-defined]
        self.changed = threading.Condition()
        self._door.stay_outside()
        self.forked = self.outbox.begin_anew(self._door)

    def _after_multiprocessing_fork(self) -> None:
        """multiprocessing's own children forget, behind `after_fork`, what shall be done at their end."""
        if self.forked is not None:
            self.forked.finish_at_exit()

    # The thread

    def _supervise(self) -> None:
        pause = 0.0
        try:
            while not self._attend():
                steady = self._bury() > STEADY
                pause = 0.0 if steady else min(max(2 * pause, FIRST_PAUSE), LONGEST_PAUSE)
                if not self._replace(pause):
                    break
        except Exception:
            logger.exception("the pusher ends: its supervisor failed")
        finally:
            self._release()

    def _replace(self, pause: float) -> bool:
        """Start another writer, after a pause, in seconds; False if the deadline came first."""
        while True:
            until = time.monotonic() + pause
            while (now := time.monotonic()) < until:
                if self._deadline is not None and now >= self._deadline:
                    return False
                if wait([self._wakeups], min(until, self._deadline or until) - now):
                    self._on_wakeup()
            try:
                self._start_writer()
                return True
            except OSError as error:  # no process, descriptor or memory left
                pause = min(max(2 * pause, FIRST_PAUSE), LONGEST_PAUSE)
                logger.warning("can't start another writer process: %s; trying again in %.1f s", error, pause)

    def _attend(self) -> bool:
        """Attend to the writer until it is gone; whether no other is needed."""
        lifeline = self._lifeline
        assert lifeline is not None
        told = False
        sources: list[Any] = [lifeline.process.sentinel, lifeline.reports, self._wakeups, self._door.fileno()]
        while True:
            if self._deadline is not None and not told:
                told = True
                self._tell_to_end(lifeline, self._deadline)
            timeout = None if self._deadline is None else self._deadline - time.monotonic()
            if timeout is not None and timeout <= 0:
                return True
            ready = wait(sources, timeout)
            if self._wakeups in ready:
                self._on_wakeup()
            if self._door.fileno() in ready:
                self.outbox.adopt(self._door.receive())
            if lifeline.reports in ready:
                if not self._on_report(lifeline):
                    sources.remove(lifeline.reports)
            elif lifeline.process.sentinel in ready:  # its last report is read
                lifeline.process.join()  # its pipes end a moment before it does
                return told and lifeline.process.exitcode == 0

    def _tell_to_end(self, lifeline: Lifeline, deadline: float) -> None:
        self.outbox.adopt(self._door.receive())
        self.ledger.close_target = self.outbox.seal()
        self.ledger.close_deadline = int(deadline * 1e9)
        nudge(lifeline.wakeups)

    def _on_wakeup(self) -> None:
        os.read(self._wakeups.fileno(), 4096)
        self.outbox.feed()
        refusing = self.outbox.refusing
        if refusing is not None and self._refusing is None:
            logger.warning("the writer process does not keep up: with 8 MiB on their way to it, new events are dropped")
        elif refusing is None and self._refusing is not None:
            dropped = self.outbox.dropped() - self._refusing
            logger.warning("the writer process keeps up again; %d events dropped", dropped)
        self._refusing = refusing
        if self.outbox.first_note and not self._note_logged:
            self._note_logged = True
            logger.warning(
                "a part of an event can't be sent and is replaced by a note, %s; stats().noted counts them",
                self.outbox.first_note,
            )

    def _on_report(self, lifeline: Lifeline) -> bool:
        """Take a report in; whether more may come."""
        try:
            report: Report = lifeline.reports.recv()
        except (EOFError, OSError):
            return False
        lifeline.forget_names()
        if report.level:
            logger.log(report.level, "%s", report.text)
        if report.failure != (0, ""):
            self._on_failure(OSError(*report.failure))
        self._notify()
        return True

    def _on_failure(self, failure: OSError) -> None:
        """An attempt to connect failed; the log says so once, until it fails for another reason."""
        if self.failure is None or failure.args != self.failure.args:
            absent = isinstance(failure, FileNotFoundError | ConnectionRefusedError)
            level = logging.INFO if absent else logging.WARNING
            logger.log(level, "not connected to %s: %s", self._config.socket_path, failure.strerror)
        self.failure = failure

    def _bury(self) -> float:
        """Take note of the death of the writer. Returns how long it lived, in seconds."""
        lifeline, self._lifeline = self._lifeline, None
        assert lifeline is not None
        self.outbox.detach()
        code = lifeline.process.exitcode
        lived = time.monotonic() - lifeline.began
        lifeline.end()
        self.writer_pid = None
        self.writer_restarts += 1
        self.ledger.connected = 0
        self.failure = ChildProcessError(errno.ECHILD, f"the writer process died with exit code {code}")
        self._notify()
        logger.error("the writer process died with exit code %s after %.1f s; starting another", code, lived)
        return lived

    def _start_writer(self) -> None:
        # It has an owner before it has a process, so that a Ctrl-C between the two leaves nothing.
        self._lifeline = lifeline = Lifeline(
            self._config, self.ledger, self._graph, self._parallelism, self.outbox.started, self._directory
        )
        lifeline.start()
        self.writer_pid = lifeline.process.pid
        self.outbox.attach(lifeline.queue)

    def _release(self) -> None:
        """Let go of everything that `__init__` and `start` took."""
        _open.discard(self)
        if self._deadline is not None:  # else this is a failure, and what is emitted from now on counts as dropped
            self.outbox.seal()
        if self._lifeline is not None:
            self._lifeline.end()
            self._lifeline = None
        self.outbox.detach()
        self.writer_pid = None
        self.ledger.connected = 0
        undelivered = self.outbox.accepted() - self.ledger.sent - self.ledger.dropped
        self._opened.close()
        self.outbox.clear()
        if undelivered:
            logger.warning(
                "closed with %d events not sent to %s: the time was over", undelivered, self._config.socket_path
            )
        self.ended = True
        self._notify()

    def _notify(self) -> None:
        with self.changed:
            self.changed.notify_all()
