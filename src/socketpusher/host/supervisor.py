"""The pusher's thread in the host: it starts the writer process, reads its reports, restarts it, and ends it.

It is also the backstop of the outbox: it puts lines that the emitting threads have left. Only `close` ends it. It never
waits for a lock that a thread of the host may hold, because a signal handler that has interrupted such a thread may
wait for this one.

It sleeps in one place, `_sleep`. Callers wait for `changes`, which every report and every end of a writer notifies.
"""

import _thread
import dataclasses
import errno
import logging
import os
import signal
import sys
import threading
import traceback
import weakref
from collections.abc import Callable
from functools import partial
from multiprocessing import util
from operator import call
from typing import Any

from ..channel.clock import Deadline, now
from ..channel.descriptors import Descriptor, above_standard, drain, memory_file, pipe, process_descriptor, wait, wake
from ..channel.journal import journal_files
from ..channel.ledger import Ledger
from ..channel.messages import Report, WriterSpec
from ..channel.spool_directory import Claim, claim_new
from ..config import PusherConfig
from ..conversion import to_json
from ..graph import GraphPayload
from ..unix_socket import SUN_PATH_MAX
from .changes import Changes
from .forked import ForkChannel, ForkedOutlet
from .log import Log
from .outbox import Mode, Outbox
from .writer_handle import SEARCH_PATH, WriterHandle

BACKSTOP_INTERVAL = 0.020
"""How long a line may wait in the outbox, and the shortest time between two wake-ups for one, in seconds. A wake-up for
each line slows a schedule with an event every 20 microseconds by 30 %."""

MIN_UPTIME = 5.0
"""If a writer ran longer than this, in seconds, the next one is started without a pause."""

FIRST_PAUSE, LONGEST_PAUSE = 0.1, 5.0
"""The pauses before a retry, in seconds: the first, doubling up to the longest."""

MARGIN = 1.0
"""How long after its deadline a caller of `close` waits for the thread before it cleans up itself, in seconds."""

STORE_TIMEOUT = 5.0
"""How long after its deadline a writer may take to put the remaining lines into the spool, in seconds: 64 MiB take half
a second here."""

HANDLER_INTERVAL = 0.010
"""How often a waiting signal handler does the work of the thread that it has interrupted, in seconds."""

MAX_RECEIVES = 8
"""How often `close` receives from forked children, which may go on sending: 8 MiB, more than their socket holds."""

THREAD_END_TIMEOUT = 0.1
"""How long `close` waits for the end of the thread when that has nothing more to do, in seconds."""

_live_supervisors: "weakref.WeakSet[Supervisor]" = weakref.WeakSet()


def _after_fork() -> None:
    for supervisor in list(_live_supervisors):
        supervisor.after_fork()


os.register_at_fork(after_in_child=_after_fork)


class Supervisor:
    """Keeps a writer running from `start` to `close`.

    Args:
        config: The settings of the pusher.
        graph: The payload of the `graph` event, or None.
        parallelism: How many units may run at a time.
        verbatim: Whether an `orch.started` without a graph is sent as it is.

    Raises:
        OSError: The socket path is relative, and the working directory was removed.
    """

    def __init__(
        self, config: PusherConfig, graph: GraphPayload | None, parallelism: int, verbatim: bool = False
    ) -> None:
        self._config = config
        self._parallelism = parallelism
        self._verbatim = verbatim
        self._connect_to, self._directory = _stable_path(str(config.socket_path))
        self._spool_directory = os.path.abspath(config.spool) if config.spool is not None else None
        self._margin = MARGIN + (STORE_TIMEOUT if config.spool is not None else 0.0)
        self._graph_json = to_json(graph)
        # The thread opens these, up to `opened`, because no signal handler can interrupt it.
        self.ledger: Ledger
        self.outbox: Outbox
        self._journal: tuple[Descriptor, Descriptor]
        self._graph: Descriptor
        self._host: Descriptor | None
        self._spool: Claim | None
        self._wakeups: Descriptor
        self._waker: Descriptor
        self._fork_channel: ForkChannel
        self.opened = False
        self._files: list[Any] = []  # all of these
        self.subscriptions: list[Any] = []  # the results of `subscribe`
        self.exit_handler: util.Finalize | None = None  # closes the pusher when the interpreter exits

        self.forked: ForkedOutlet | None = None  # in a forked child, what carries its events
        self.changes = Changes()  # of the following attributes, and of the ledger
        self.connect_error: OSError | None = None  # why the last attempt to connect failed
        self.writer_error: Exception | None = None  # why there is no writer
        self.open = False  # whether `start` has succeeded; until then errors are raised, not logged
        self.ready = False  # whether a writer has become ready
        self.writer_restarts = 0
        self.ended = False  # whether there is no writer and will be none

        self._log = Log()
        self._deadlines: list[Deadline] = []  # of the callers of `close`; the earliest one counts
        self._flush_targets: list[int] = []  # of the callers of `flush`
        self._accepting = False  # whether it is accepting lines of forked children
        self._claims: dict[str, object] = {}  # which caller may do what is done only once: see `_claim`
        self._writer: WriterHandle | None = None  # None between two writers
        self._shutdown_request: tuple[object, float] | None = None  # the writer that was asked to end, and the deadline
        self._start_at = 0.0  # when the next writer is started
        self._start_pause = 0.0
        self._refusing_logged = False  # whether the log says that the outbox is refusing
        self._placeholder_logged = False
        self._thread = threading.Thread(target=self._run, name="socketpusher", daemon=True)

    def _open_files(self) -> None:
        with above_standard():
            self._files.append(ledger := Ledger())
            self._files += (journal := journal_files())
            self._files.append(graph := memory_file(self._graph_json))
            self._files.append(fork_channel := ForkChannel())
            self._files += (ends := pipe())
            self._files += [] if (host := process_descriptor(os.getpid())) is None else [host]
            spool = None if self._spool_directory is None else claim_new(self._spool_directory)
            self._files += [] if spool is None else [spool.lock]
        self.ledger, self._journal, self._graph = ledger, journal, graph
        self._fork_channel, self._host, self._spool = fork_channel, host, spool
        self._wakeups, self._waker = ends
        self.outbox = Outbox(ledger, self._config, self.wake, self._log_message)
        self.opened = True

    # For the pusher, in any thread

    def start(self) -> None:
        """Start the thread, which starts the writer.

        Raises:
            RuntimeError: The system can't start another thread.
        """
        _live_supervisors.add(self)
        util.register_after_fork(self, Supervisor._after_multiprocessing_fork)
        self._starter = threading.get_native_id()
        # Called in a thread, because an interrupt in the middle of `Thread.start` leaves it in `threading` for ever.
        _thread.start_new_thread(self._start_thread, ())

    @property
    def connected(self) -> bool:
        """Whether a consumer is connected."""
        if not self.opened or self.ledger.connected == 0:
            return False
        return self.forked is None or self._host is None or not wait([self._host.fileno()], [], 0)

    @property
    def writer_pid(self) -> int | None:
        """The writer's process id; None while none runs."""
        return writer.pid if (writer := self._writer) is not None and not writer.reports_ended else None

    @property
    def closing(self) -> bool:
        """Whether `close` was called."""
        return bool(self._deadlines)

    def wake(self) -> None:
        """Wake the thread. This never waits and may be called from anywhere."""
        if self.opened:
            wake(self._waker)

    def wait_until(self, condition: Callable[[], bool], deadline: Deadline) -> bool:
        """Wait until the condition holds or the deadline is over. Returns whether the condition holds then."""
        interrupted = self.opened and self.outbox.interrupted()

        def helped() -> bool:
            if interrupted:
                self.outbox.put_if_interrupted()
            return condition()

        return self.changes.wait_until(helped, deadline, HANDLER_INTERVAL if interrupted else 3600.0)

    def flush(self, deadline: Deadline) -> bool:
        """Wait until every line accepted so far was sent or dropped. Returns whether that is so at the deadline."""
        if self.forked is not None:
            return self.forked.finish(deadline)
        if not self.wait_until(self._has_accepted_all, deadline):
            return False
        target = self.outbox.accepted()
        self._flush_targets.append(target)
        self.wake()
        self.wait_until(lambda: self.ledger.unsent >= target or self.ended, deadline)
        return self.ledger.unsent >= target

    def request_close(self, deadline: Deadline) -> None:
        """Ask the writer to send what waits until the deadline, and then to end. This never waits."""
        self._deadlines.append(deadline)
        self.wake()

    def close(self, deadline: Deadline) -> None:
        """Send what waits until the deadline, and end. Afterwards no process, thread, file or pipe is left."""
        self.unsubscribe()
        if self.ended:
            if self.opened:  # it may have ended by itself
                self.outbox.stop_accepting()
            self._log.flush()
            self._cancel_exit_handler()
            return
        if self.forked is not None:  # the writer is the host's
            self.outbox.stop_accepting()
            if self.forked.finish(deadline):
                self._detach_in_child()
            return
        self.request_close(deadline)
        if threading.current_thread() is self._thread:
            return
        if self._claim("thread"):  # the thread does not run yet
            self._clean_up()
        elif not self.wait_until(lambda: self.ended, Deadline(deadline.remaining() + self._margin)):
            self._clean_up()  # the thread is blocked
        elif self._thread.is_alive():  # it has done everything, and is about to end
            self._thread.join(THREAD_END_TIMEOUT)
        self._log.flush()

    def unsubscribe(self) -> None:
        """Unsubscribe the handler from the bus."""
        unsubscribers = [unsubscribe for unsubscribe in self.subscriptions if callable(unsubscribe)]
        self.subscriptions.clear()
        for _ in map(call, unsubscribers):
            pass

    def after_fork(self) -> None:
        """Reset this copy in a forked child: it has no thread, and the writer belongs to the host."""
        self._log = Log()  # the host writes the records of its own
        if self.ended or not self.opened:
            self.ended = True
            return
        if (writer := self._writer) is not None:
            writer.detach_in_child()
        if self._spool is not None:
            self._spool.lock.close()  # otherwise this process would hold it
        self._wakeups.close()
        self._waker.close()
        self._fork_channel.detach_in_child()
        self.forked = self.outbox.reset_in_child(self._fork_channel, self._on_lost)

    def _after_multiprocessing_fork(self) -> None:
        """Register the exit handler again: multiprocessing's children clear all finalizers after `after_fork`."""
        if self.forked is not None:
            self.forked.finish_at_exit()

    def _detach_in_child(self) -> None:
        """Close this process's copies of the host's files. Otherwise a chain of daemons would collect them."""
        for file in self._files:
            file.close()
        self.ledger.connected = 0  # only here: the memory is no longer shared
        _live_supervisors.discard(self)
        self.ended = True

    def _on_lost(self, error: OSError) -> None:
        why = f"they can't be handed over: {error.strerror}"
        if isinstance(error, ConnectionError):
            why = "the process with the pusher has ended"
        self._log.write(logging.WARNING, "events of a forked child are dropped: %s", why)

    def _log_message(self, level: int, message: str, *arguments: object) -> None:
        self._log.write(level, message, *arguments)  # `self._log` is another one in a forked child

    def _claim(self, what: str) -> bool:
        """Whether the caller is the first to claim this. One call of C decides."""
        me = object()
        return self._claims.setdefault(what, me) is me

    # The thread

    def _start_thread(self) -> None:
        try:
            self._thread.start()
        except Exception as error:  # the system can't start another thread
            self.writer_error = error
            if self._claim("thread"):
                self._clean_up()

    def _run(self) -> None:
        if not self._claim("thread"):
            return  # closed before the thread ran
        if threading.get_native_id() != self._starter:  # not with gevent, whose threads are not real ones
            # Signals are for the host's threads: one of them may wait for them with sigwait.
            signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
        try:
            self._open_files()
            self._run_loop()
        except Exception as error:  # no descriptor or memory left for the files
            self.writer_error = error
        finally:
            self._clean_up()

    def _run_loop(self) -> None:
        """Run until the pusher is closed. An unexpected error is logged once per episode, and the loop goes on."""
        logged = ""
        pause = 0.0
        while True:
            try:
                if self._run_once():
                    return
                logged, pause = "", 0.0
            except Exception as error:
                if repr(error) != logged:
                    logged = repr(error)
                    text = "the pusher continues after an unexpected error:\n%s"
                    self._log.write(logging.ERROR, text, traceback.format_exc())
                pause = min(max(2 * pause, FIRST_PAUSE), LONGEST_PAUSE)
                if (deadline := self._deadline()) is not None:
                    pause = min(pause, deadline.remaining())
                wait([self._wakeups.fileno()], [], pause)
                drain(self._wakeups)  # otherwise the next pause would end at once

    def _deadline(self) -> Deadline | None:
        return min(self._deadlines, key=lambda deadline: deadline.at, default=None)

    def _run_once(self) -> bool:
        """Do what is due, and sleep until something happens. Returns whether the pusher is finished."""
        deadline = self._deadline()
        if deadline is not None and deadline.over() and not self._is_storing(deadline):
            return True
        if not self._intact():
            self._log.write(logging.ERROR, "the pusher ends: this process has closed descriptors of the pusher")
            return True
        self.outbox.accept_held()
        self._log_outbox_state()
        if (writer := self._writer) is not None and writer.ended():
            if deadline is not None and writer.done:
                return True
            if not self.outbox.detach():
                wait([], [], BACKSTOP_INTERVAL)  # not `_sleep`, which the end of the writer ends at once
                return False
            self._reap_writer(writer)
        if self._writer is None:
            if deadline is not None and self._undelivered() == 0:
                return True
            if now() >= self._start_at:
                self._start_writer()
        if self._writer is not None:
            self._monitor_writer(self._writer, deadline)
        else:
            self._sleep(self._start_at - now(), deadline)
        return False

    def _monitor_writer(self, writer: WriterHandle, deadline: Deadline | None) -> None:
        """Put lines for the writer, forward `close` and `flush` to it, and sleep."""
        if not writer.attached:
            writer.attached = self.outbox.attach(writer.queue)
        waited = self.outbox.has_waiting()
        all_put = self.outbox.put_rest()
        if deadline is not None:
            self._request_shutdown(writer, deadline)
        self._request_flush(writer)
        if all_put is None or not writer.attached or (all_put and (waited or self.outbox.has_held())):
            self._sleep(BACKSTOP_INTERVAL, deadline)
        elif not all_put:
            self._sleep(None, deadline, writable=[writer.queue.writer.fileno()])
        else:
            self.outbox.asleep = True
            self._sleep(0 if self.outbox.has_waiting() or self.outbox.has_held() else None, deadline)
            self.outbox.asleep = False

    def _sleep(self, seconds: float | None, deadline: Deadline | None, writable: list[int] | None = None) -> None:
        if deadline is not None:
            seconds = deadline.remaining() if seconds is None else min(seconds, deadline.remaining())
        writer = self._writer
        readable = [self._wakeups.fileno(), self._fork_channel.fileno()]
        ready = wait(readable + (writer.sources() if writer is not None else []), writable or [], seconds)
        if not self._intact():
            return  # a descriptor's number may stand for another file now
        if self._wakeups.fileno() in ready:
            drain(self._wakeups)
        if self._fork_channel.fileno() in ready:
            self._accept_from_children()
        if writer is not None:
            writer.reap()
            if not writer.reports_ended:
                for report in writer.take_reports():
                    self._on_report(report)
                self.changes.notify()

    def _accept_from_children(self) -> bool:
        """Accept some of the lines that forked children have handed over. Returns whether there were any."""
        found = False
        self._accepting = True
        try:
            for lines, lost in self._fork_channel.receive():
                found = True
                self.outbox.accept_from_child(lines, lost)
            return found
        finally:
            self._accepting = False
            self.changes.notify()

    def _has_accepted_all(self) -> bool:
        """Whether every held line, and every line that forked children have handed over, is accepted."""
        # In this order: what was taken out of the channel is being accepted then.
        return self.ended or not (self._fork_channel.has_data() or self._accepting or self.outbox.has_held())

    def _intact(self) -> bool:
        mine = self._wakeups.intact() and self._waker.intact() and self._fork_channel.intact()
        return mine and (self._writer is None or self._writer.intact())

    def _request_shutdown(self, writer: WriterHandle, deadline: Deadline) -> None:
        if self._shutdown_request == (writer, deadline.at):
            return
        self._shutdown_request = writer, deadline.at
        for _ in range(MAX_RECEIVES):
            if not self._accept_from_children():
                break
        self.outbox.stop_accepting()
        self.outbox.accept_held(at_once=True)
        self.ledger.close_target = self.outbox.accepted()
        self.ledger.close_deadline = deadline.nanoseconds()
        writer.wake()

    def _request_flush(self, writer: WriterHandle) -> None:
        """Ask the writer to report when it reaches the lowest flush target."""
        if not self._flush_targets:
            return
        unsent = self.ledger.unsent
        for target in list(self._flush_targets):
            if target <= unsent:
                self._flush_targets.remove(target)
        if len(self._flush_targets):
            target = min(self._flush_targets)
            if self.ledger.flush_target != target:
                self.ledger.flush_target = target
                writer.wake()  # after storing the target: the writer sees it, or its `unsent` is read here
        self.changes.notify()

    def _log_outbox_state(self) -> None:
        refusing = self.outbox.mode is Mode.REFUSING
        dropped = self.outbox.dropped() - self.outbox.dropped_before_refusing
        if refusing and not self._refusing_logged:
            self._log.write(
                logging.WARNING,
                "the writer process is falling behind: %d bytes are on their way to it, so new events are dropped",
                self.outbox.in_flight_limit,
            )
        elif self._refusing_logged and not refusing:
            self._log.write(logging.WARNING, "the writer process has caught up; %d events were dropped", dropped)
        self._refusing_logged = refusing
        if self.outbox.first_placeholder and not self._placeholder_logged:
            self._placeholder_logged = True
            self._log.write(
                logging.WARNING,
                "a part of an event is replaced by a placeholder, %s; stats().placeholders counts them",
                self.outbox.first_placeholder,
            )

    def _on_report(self, report: Report) -> None:
        if report.ready:
            self.ready = True
            self.writer_error = None
        if report.level:
            self._log.write(report.level, "%s", report.text)
        if report.failure != (0, ""):
            failure = OSError(*report.failure)
            if self.connect_error is None or failure.args != self.connect_error.args:  # logged once per reason
                absent = isinstance(failure, FileNotFoundError | ConnectionRefusedError)
                level = logging.INFO if absent else logging.WARNING
                self._log.write(level, "not connected to %s: %s", self._config.socket_path, failure.strerror)
            self.connect_error = failure

    def _reap_writer(self, writer: WriterHandle) -> None:
        """Clean up after a writer that has ended, and schedule the next one."""
        self._writer = None
        uptime = now() - writer.started_at
        writer.kill_and_close()
        self.ledger.connected = 0
        self.writer_restarts += 1
        self._start_pause = 0.0 if uptime > MIN_UPTIME else min(max(2 * self._start_pause, FIRST_PAUSE), LONGEST_PAUSE)
        self._start_at = now() + self._start_pause
        if writer.ready:
            text = f"the writer process died after {uptime:.1f} s"
        else:
            text = f"the writer process ended before it was ready; it ran sys.executable, {sys.executable!r}"
        self.writer_error = ChildProcessError(errno.ECHILD, text)
        if self.open:
            self._log.write(logging.ERROR, "%s; restarting it", text)
        self.changes.notify()

    def _start_writer(self) -> None:
        ledger = self.ledger
        spec = WriterSpec(
            search_path=SEARCH_PATH,
            directory=self._directory,
            config={
                **{field.name: getattr(self._config, field.name) for field in dataclasses.fields(PusherConfig)},
                "socket_path": self._connect_to,
                "spool": self._spool_directory,
            },
            parallelism=self._parallelism,
            received=ledger.received,
            high_water=ledger.high_water,
            sent=ledger.sent,
            resent=ledger.resent,
            connections=ledger.connections,
            spool="" if self._spool is None else self._spool.name,
            verbatim=self._verbatim,
        )
        lock = None if self._spool is None else self._spool.lock
        try:
            self._writer = WriterHandle(spec, ledger, self._journal, self._graph, lock, self._host)
        except Exception as error:  # no process, descriptor or memory left
            if self.open and (self.writer_error is None or self.writer_error.args != error.args):
                self._log.write(logging.WARNING, "can't start the writer process, retrying: %s", error)
            self.writer_error = error
            self._start_pause = min(max(2 * self._start_pause, FIRST_PAUSE), LONGEST_PAUSE)
            self._start_at = now() + self._start_pause
            self.changes.notify()

    # The end

    def _undelivered(self) -> int:
        """How many events wait and are not in the spool."""
        settled = self.outbox.dropped() + self.ledger.sent + self.ledger.dropped
        return self.outbox.emitted() - settled - self.ledger.spooled

    def _is_storing(self, deadline: Deadline) -> bool:
        """Whether the writer still has time to put the remaining lines into the spool."""
        writer = self._writer
        stores = self._spool is not None and writer is not None and not writer.ended()
        return stores and now() < deadline.at + STORE_TIMEOUT

    def _clean_up(self) -> None:
        """Close everything, even if a step raises."""
        if not self._claim("release"):
            return
        steps: list[Callable[[], object]] = [file.close for file in self._files]
        if self.opened:
            stop_accepting = partial(self.outbox.stop_accepting, Mode.SEALED if self.closing else Mode.ENDED)
            steps = [
                stop_accepting,
                self._end_writer,
                self._log_undelivered,
                self._release_spool,
                *steps,
                self.outbox.clear,
            ]
        for step in steps:
            try:
                step()
            except Exception:
                text = "the pusher's clean-up continues after an unexpected error:\n%s"
                self._log.write(logging.ERROR, text, traceback.format_exc())
        _live_supervisors.discard(self)
        self.ended = True
        self.changes.notify()
        self._log.flush()
        self._cancel_exit_handler()

    def _cancel_exit_handler(self) -> None:
        if self.exit_handler is not None:  # it holds this object
            self.exit_handler.cancel()

    def _end_writer(self) -> None:
        writer, self._writer = self._writer, None
        if writer is not None:
            writer.kill_and_close()
        self.ledger.connected = 0

    def _release_spool(self) -> None:
        """Remove the lock of an empty spool, which a killed writer may have left."""
        if self._spool is not None and not os.path.exists(self._spool.database):
            self._spool.remove()

    def _log_undelivered(self) -> None:
        if undelivered := self._undelivered():
            text = "close timed out with %d events unsent to %s"
            self._log.write(logging.WARNING, text, undelivered, self._config.socket_path)
        if (spooled := self.ledger.spooled) and self._spool_directory is not None:
            text = "%d events wait in the spool; the next pusher with it sends them, or run: socketpusher drain %s %s"
            self._log.write(logging.INFO, text, spooled, self._spool_directory, self._config.socket_path)


def _stable_path(path: str) -> tuple[str, str]:
    """A path that stays valid after a `chdir` of the host, and the working directory that it needs."""
    if os.path.isabs(path):
        return path, "/"
    directory = os.getcwd()
    absolute = os.path.join(directory, path)
    return (absolute, "/") if len(os.fsencode(absolute)) <= SUN_PATH_MAX else (path, directory)
