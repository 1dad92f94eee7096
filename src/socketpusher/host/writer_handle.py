"""One writer process and the host's ends of what connects it: made together, ended together."""

import errno
import fcntl
import os
import time
from contextlib import ExitStack, suppress
from multiprocessing import util
from multiprocessing.connection import Connection as Pipe
from multiprocessing.queues import Queue
from typing import Any

from ..channel.ledger import Ledger
from ..channel.messages import Assignment, Message
from ..config import PusherConfig
from ..graph import GraphPayload
from ..writer.process import CONTEXT, WriterProcess

PIPE_BYTES = 1 << 20
"""The size of the queue's pipe where it can be set, in bytes: what Linux lets any user ask for (pipe(7)). A feeder
thread that has to wait for the writer has to wait for the GIL too."""


class Lifeline:
    """A writer process, once it is started.

    Args:
        config, ledger, graph, parallelism, started, directory: See `Assignment`.
    """

    def __init__(
        self,
        config: PusherConfig,
        ledger: Ledger,
        graph: GraphPayload | None,
        parallelism: int,
        started: bytes,
        directory: str,
    ) -> None:
        self.wakeups: Pipe[Any, Any] | None = None  # wakes the writer; from the middle of `start` on
        self._given = (ledger, config, graph, parallelism, started, directory, os.getpid())
        self._opened = ExitStack()  # what `end` has to undo

    def start(self) -> None:
        """Start the process.

        Raises:
            OSError: The system has no process, descriptor or memory left; nothing is left behind then.
        """
        with ExitStack() as opened, ExitStack() as given_away:
            self.queue = _new_queue()
            locks = (self.queue._rlock, self.queue._wlock, self.queue._sem)  # type: ignore[attr-defined]
            self._names = [(lock._semlock.name,) for lock in locks]  # of its semaphores, while they have any
            opened.callback(self._close_queue)
            # The writer's ends must be the only ones, or the death of the one process would not end the pipe.
            given_away.callback(self.queue._reader.close)  # type: ignore[attr-defined]
            wakeups, waker = CONTEXT.Pipe(duplex=False)
            given_away.callback(wakeups.close)
            opened.callback(waker.close)
            self.reports, reports = CONTEXT.Pipe(duplex=False)
            given_away.callback(reports.close)
            opened.callback(self.reports.close)
            os.set_blocking(waker.fileno(), False)
            self.wakeups = waker  # before the process, so that no writer misses what it should look at
            self.process = WriterProcess(Assignment(self.queue, wakeups, reports, *self._given))
            opened.callback(self._end_process)
            self.process.start()
            self.began = time.monotonic()
            self._opened = opened.pop_all()

    def forget_names(self) -> None:
        """Remove the names of the queue's semaphores once the writer has opened them, or never will.

        multiprocessing keeps them, in /dev/shm, as long as the queue; its resource tracker removes them, with a
        warning, after a host that is killed, and nobody does if the tracker is killed as well. What runs here is the
        clean-up that multiprocessing itself would run later.
        """
        if not self._names:
            return
        for finalizer in list(util._finalizer_registry.values()):  # type: ignore[attr-defined]
            if getattr(finalizer, "_args", None) in self._names:
                finalizer()
        self._names = []

    def end(self) -> None:
        """Kill the process if it still runs, and let go of everything."""
        self._opened.close()

    def _end_process(self) -> None:
        if self.process.pid is not None:
            self.process.kill()
            self.process.join()
            self.process.close()

    def _close_queue(self) -> None:
        self.forget_names()
        self.queue.close()
        if self.queue._thread is None:  # type: ignore[attr-defined]  # else the feeder thread closes it
            self.queue._writer.close()  # type: ignore[attr-defined]


def _new_queue() -> "Queue[Message]":
    try:
        queue: Queue[Message] = CONTEXT.Queue()
    except OSError as error:
        if error.errno in (errno.EMFILE, errno.ENFILE):
            raise
        reason = (
            f"can't make a multiprocessing.Queue: {error.strerror}; its semaphores need room in a writable /dev/shm"
        )
        raise OSError(error.errno, reason) from error
    if hasattr(fcntl, "F_SETPIPE_SZ"):
        with suppress(OSError):  # the user's pipes take too much memory already
            fcntl.fcntl(queue._writer.fileno(), fcntl.F_SETPIPE_SZ, PIPE_BYTES)  # type: ignore[attr-defined]
    queue.cancel_join_thread()  # at its end the interpreter must not wait for a writer that reads nothing
    queue._ignore_epipe = True  # type: ignore[attr-defined]  # a writer that dies ends the feeder thread
    return queue


def nudge(pipe: "Pipe[Any, Any] | None") -> None:
    """Wake whoever sleeps at the other end of a pipe that does not block, if there is one."""
    if pipe is None:
        return
    try:
        os.write(pipe.fileno(), b"w")
    except OSError:
        pass  # it is as awake as it can be, or gone
