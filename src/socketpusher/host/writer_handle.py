"""One writer process and the host's ends of what connects it: made together, ended together.

The process is started by a plain exec, not by multiprocessing. What it must know is in memory files and pipes, which go
to it with one message through a socket that is its standard input. So nothing is inherited by number, no size blocks,
and nothing has a name. It is nobody's child, see `writer/main.py`; that it has ended is told by a descriptor.
"""

import errno
import os
import signal
import socket
import sys
from collections import deque
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from importlib.util import find_spec

from ..channel.clock import Deadline, now
from ..channel.descriptors import (
    Descriptor,
    above_standard,
    drain,
    hung_up,
    memory_file,
    pipe,
    process_descriptor,
    wait,
    wake,
)
from ..channel.ledger import Ledger
from ..channel.messages import Report, Reports, WriterSpec
from ..channel.queue import BatchQueue
from ..writer import main as script

HELD_SIGNALS = {signal.SIGINT, signal.SIGTERM, signal.SIGHUP}
"""Signals that a terminal or a service manager sends to the host's whole process group. The host decides what they
mean; the writer leaves when the host tells it to, or is gone. They are held back until it ignores them."""

KILL_TIMEOUT = 5.0
"""How long a process may take to end once it was killed, in seconds: one that the kernel can't interrupt takes long."""


def _packages() -> list[str]:
    """Where the packages are that a writer needs: absolute paths."""
    specs = map(find_spec, ("socketpusher", "orjson", "tenacity"))
    files = [os.path.abspath(spec.origin) for spec in specs if spec is not None and spec.origin is not None]
    return list(dict.fromkeys(os.path.dirname(os.path.dirname(file)) for file in files))


SEARCH_PATH = _packages()  # now, for the host may change its directory, and a relative entry would mean another one

_FROZEN_ARGUMENT = "socketpusher-writer"
_frozen_support: list[None] = []  # not empty once `freeze_support` was called


def freeze_support() -> None:
    """Let a frozen program (PyInstaller, cx_Freeze, Nuitka) run a writer process; elsewhere this does nothing.

    To be called first thing in the main module, under `if __name__ == "__main__":`. The writer process of a frozen
    program is the program itself: there this call does the writer's work and never returns.
    """
    _frozen_support.append(None)
    if sys.argv[1:2] == [_FROZEN_ARGUMENT]:
        script.main()
        os._exit(0)


class WriterHandle:
    """A writer process, started.

    Args:
        spec: What it is given.
        ledger: The numbers that it shares with the host.
        journal: The two files of the journal.
        graph: The payload of the `graph` event as JSON.
        spool: The lock of the spool, if there is one.
        host: What tells it that this process has ended, if there is that.

    Raises:
        OSError: The system has no process, descriptor or memory left, or can't run the interpreter; nothing is left
            behind then.
        RuntimeError: The program is frozen, and did not call `freeze_support`.
    """

    def __init__(
        self,
        spec: WriterSpec,
        ledger: Ledger,
        journal: tuple[Descriptor, Descriptor],
        graph: Descriptor,
        spool: Descriptor | None,
        host: Descriptor | None,
    ) -> None:
        command = _command()
        self.launcher: Descriptor | None = None  # the end of the child of this process that starts the writer
        self.process: Descriptor | None = None  # the end of the writer, once it is known
        self.pid: int | None = None
        self.attached = False  # whether the outbox fills its queue
        self.ready = False  # whether the writer has said that it works
        self.done = False  # whether it has said that it ends because nothing is left to do
        self.silent = False  # whether it will say no more: it is gone, or about to be
        self._reports = Reports()
        with above_standard(), ExitStack() as opened:
            self.queue = BatchQueue()
            opened.callback(self.queue.close)
            # The writer's end stays open here as well, for a pipe without a reader raises SIGPIPE.
            self._wakeups, self._waker = pipe()
            self.reports, reporter = pipe()
            for file in self._wakeups, self._waker, self.reports, reporter:
                opened.callback(file.close)
            given = [
                memory_file(spec.encode()),
                self.queue.reader,
                self._wakeups,
                reporter,
                ledger.file,
                *journal,
                graph,
                *(file for file in (spool, host) if file is not None),
            ]
            ours, theirs = socket.socketpair()
            with ours, theirs:
                socket.send_fds(ours, [b"f"], [file.fileno() for file in given])
                given[0].close()
                self.began = now()
                self._launcher_pid = _spawn(command, theirs.fileno(), reporter.fileno())
            opened.pop_all()
            reporter.close()
        self.launcher = process_descriptor(self._launcher_pid)

    def files(self) -> list[Descriptor]:
        """Everything of ours that is open."""
        held = [self.queue.reader, self.queue.writer, self._wakeups, self._waker, self.reports]
        return held + [file for file in (self.launcher, self.process) if file is not None]

    def sources(self) -> list[int]:
        """What to wait for: its reports, and its end."""
        files = [self.launcher, self.process, None if self.silent else self.reports]
        return [file.fileno() for file in files if file is not None]

    def take_reports(self) -> Iterator[Report]:
        """What the writer has said since."""
        gone = self._process_ended()  # before the look into the pipe, which then holds everything
        data = drain(self.reports)
        # A child that was forked while this one was started may hold the other end for as long as it lives.
        if data is not None or gone:
            self._reports.feed(data or b"\n")
            self.silent = not data
        for report in self._reports:
            if report.pid:
                self._on_pid(report.pid)
            self.ready = self.ready or report.ready
            self.done = self.done or report.done
            yield report

    def ended(self) -> bool:
        """Whether the process is gone."""
        return self.silent and (self.process is None or self._process_ended())

    def _process_ended(self) -> bool:
        return self.process is not None and bool(wait([self.process.fileno()], [], 0))

    def reap(self) -> None:
        """Take note of the end of the launcher, unless somebody else has: a host may wait for every child."""
        if self._launcher_pid and (self.launcher is None or wait([self.launcher.fileno()], [], 0)):
            with suppress(ChildProcessError):
                if self.launcher is not None:
                    os.waitid(os.P_PIDFD, self.launcher.fileno(), os.WEXITED | os.WNOHANG)
                elif os.waitpid(self._launcher_pid, os.WNOHANG)[0] == 0:
                    return
            self._launcher_pid = 0
            if self.launcher is not None:
                self.launcher.close()
                self.launcher = None

    def wake(self) -> None:
        """Make the writer look at the ledger."""
        wake(self._waker)

    def end(self) -> None:
        """Kill the process if it still runs, and let go of everything."""
        self.reap()
        if self._launcher_pid:
            if self.launcher is None:
                os.kill(self._launcher_pid, signal.SIGKILL)  # nobody has reaped it, so this is still its number
            elif self.launcher.intact():
                _kill(self.launcher)
        deque(self.take_reports(), 0)
        if self.process is not None and self.process.intact():
            _kill(self.process)
        elif self.pid is not None and not self.silent and self.process is None:
            with suppress(ProcessLookupError, PermissionError):
                os.kill(self.pid, signal.SIGKILL)  # it has not closed its pipe, so this is still its number
        deadline = Deadline(KILL_TIMEOUT)
        while self.intact() and not (self.ended() and not self._launcher_pid) and not deadline.over():
            wait(self.sources(), [], deadline.remaining())
            deque(self.take_reports(), 0)
            self.reap()
        if self.process is not None and self.process.intact():
            with suppress(ChildProcessError):  # it is a child of a host that is process 1, or takes in orphans
                os.waitid(os.P_PIDFD, self.process.fileno(), os.WEXITED | os.WNOHANG)
        self.detach_in_child()

    def intact(self) -> bool:
        """Whether all of its descriptors are still ours."""
        return all(file.intact() for file in self.files())

    def detach_in_child(self) -> None:
        """Close everything of ours. A writer that still runs finds that its host is gone."""
        self.queue.close()
        for file in self.files():
            file.close()

    def _on_pid(self, pid: int) -> None:
        self.pid = pid
        self.process = process_descriptor(pid)
        # While its pipe is open it lives, and its number is its own.
        if self.process is not None and hung_up(self.reports):
            self.process.close()
            self.process = None


def _spawn(command: list[str], files: int, output: int) -> int:
    streams = [(os.POSIX_SPAWN_DUP2, fd, number) for number, fd in enumerate((files, output, output))]
    try:
        environment = {**os.environ, **dict.fromkeys(_NOT_FOR_IT & os.environ.keys(), "")}
        return os.posix_spawn(command[0], command, environment, file_actions=streams, setsigmask=HELD_SIGNALS)
    except OSError as error:
        reason = f"can't run the writer process with sys.executable, {command[0]!r}: {error.strerror or error}"
        raise OSError(error.errno, reason) from error


def _command() -> list[str]:
    """What to run."""
    executable = sys.executable
    if not executable:
        raise FileNotFoundError(
            errno.ENOENT, "can't run the writer process: sys.executable is not set; set it to a Python interpreter"
        )
    name = f"host={os.getpid()}"  # for those who read a list of processes
    if not hasattr(sys, "frozen"):
        isolated = [flag for flag, given in _FLAGS.items() if getattr(sys.flags, given)]
        return [executable, "-P", "-S", *isolated, os.path.abspath(script.__file__), name]
    if not _frozen_support:
        raise RuntimeError(
            "can't run the writer process of a frozen program: call socketpusher.freeze_support() first thing in the "
            'main module, under if __name__ == "__main__":'
        )
    return [executable, _FROZEN_ARGUMENT, name]


# What the first two make an interpreter say would be logged as faults. In a directory that is gone none starts
# with a relative entry in the third; and the writer is told where to find what it needs.
_NOT_FOR_IT = {"PYTHONVERBOSE", "PYTHONPROFILEIMPORTTIME", "PYTHONPATH"}

_FLAGS = {"-E": "ignore_environment", "-s": "no_user_site", "-B": "dont_write_bytecode"}


def _kill(process: Descriptor) -> None:
    with suppress(ProcessLookupError, PermissionError):  # it is gone, or this process has dropped its rights
        signal.pidfd_send_signal(process.fileno(), signal.SIGKILL)
