"""One writer process and the host's ends of its queue and pipes. They are made together and closed together.

The process is started by a plain exec, not by multiprocessing. It gets memory files and pipes in one message through a
socket that is its standard input. So nothing is inherited by number, no size blocks, and nothing has a name. The writer
is not a child of the host, see `writer/main.py`; a descriptor reports its end.
"""

import errno
import multiprocessing.synchronize  # noqa: F401 - a queue would import it later, when a host may fork
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

BLOCKED_SIGNALS = {signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT}
"""Signals that a terminal or a service manager sends to the whole process group of the host. The writer ignores them
and ends only with the host, or at its request. They are blocked until the writer ignores them."""

KILL_TIMEOUT = 5.0
"""How long a killed process may take to end, in seconds: one in an uninterruptible system call takes long."""


def _packages() -> list[str]:
    """The absolute paths of the directories with the packages that a writer needs."""
    specs = map(find_spec, ("socketpusher", "orjson", "tenacity"))
    files = [os.path.abspath(spec.origin) for spec in specs if spec is not None and spec.origin is not None]
    return list(dict.fromkeys(os.path.dirname(os.path.dirname(file)) for file in files))


SEARCH_PATH = _packages()  # now: after a `chdir` of the host a relative entry of `sys.path` means another directory

_FROZEN_ARGUMENT = "socketpusher-writer"
_frozen_support: list[None] = []  # not empty once `freeze_support` was called


def freeze_support() -> None:
    """Let a frozen program (PyInstaller, cx_Freeze, Nuitka) run a writer process; in other programs, do nothing.

    Call it first in the main module, under `if __name__ == "__main__":`. The writer process of a frozen program runs
    the program itself: in that process this call does the writer's work and never returns.
    """
    _frozen_support.append(None)
    if sys.argv[1:2] == [_FROZEN_ARGUMENT]:
        script.main()
        os._exit(0)


class WriterHandle:
    """A running writer process. The constructor starts it.

    Args:
        spec: What the writer needs to know.
        ledger: The numbers that it shares with the host.
        journal: The two files of the journal.
        graph: The payload of the `graph` event as JSON.
        spool: The lock of the spool, if there is one.
        host: A descriptor that becomes readable when this process ends, where the platform has one.

    Raises:
        OSError: The system has no process, descriptor or memory left, or can't run the interpreter. Nothing is left
            open then.
        RuntimeError: The program is frozen and did not call `freeze_support`.
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
        self.launcher: Descriptor | None = None  # pidfd of the child that starts the writer
        self.process: Descriptor | None = None  # pidfd of the writer, once its pid is known
        self.pid: int | None = None
        self.attached = False  # whether the outbox fills its queue
        self.ready = False  # whether the writer has reported that it is ready
        self.done = False  # whether it has reported that it ends because nothing is left to do
        self.reports_ended = False  # whether no more reports will come: it has ended, or is about to
        self._reports = Reports()
        with above_standard(), ExitStack() as opened:
            self.queue = BatchQueue()
            opened.callback(self.queue.close)
            # The writer's end stays open here as well, because writing to a pipe without a reader raises SIGPIPE.
            self._wakeups, self._waker = pipe()
            self.reports, reporter = pipe()
            for file in self._wakeups, self._waker, self.reports, reporter:
                opened.callback(file.close)
            files = [
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
                socket.send_fds(ours, [b"f"], [file.fileno() for file in files])
                files[0].close()
                self.started_at = now()
                self._launcher_pid = _spawn(command, theirs.fileno(), reporter.fileno())
            opened.pop_all()
            reporter.close()
        self.launcher = process_descriptor(self._launcher_pid)

    def files(self) -> list[Descriptor]:
        """All open descriptors of this handle."""
        held = [self.queue.reader, self.queue.writer, self._wakeups, self._waker, self.reports]
        return held + [file for file in (self.launcher, self.process) if file is not None]

    def sources(self) -> list[int]:
        """The descriptors to wait for: reports, and the end of each process."""
        files = [self.launcher, self.process, None if self.reports_ended else self.reports]
        return [file.fileno() for file in files if file is not None]

    def take_reports(self) -> Iterator[Report]:
        """The reports that have come since the last call."""
        ended = self._process_ended()  # before the read, so that the pipe then holds all reports
        data = drain(self.reports)
        # A child that was forked while this one was started may keep the other end open.
        if data is not None or ended:
            self._reports.feed(data or b"\n")
            self.reports_ended = not data
        for report in self._reports:
            if report.pid:
                self._on_pid(report.pid)
            self.ready = self.ready or report.ready
            self.done = self.done or report.done
            yield report

    def ended(self) -> bool:
        """Whether the process has ended."""
        return self.reports_ended and (self.process is None or self._process_ended())

    def _process_ended(self) -> bool:
        return self.process is not None and bool(wait([self.process.fileno()], [], 0))

    def reap(self) -> None:
        """Reap the launcher if it has ended, unless the host has done so: it may wait for every child."""
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

    def kill_and_close(self) -> None:
        """Kill the process if it still runs, and close everything."""
        self.reap()
        if self._launcher_pid:
            if self.launcher is None:
                os.kill(self._launcher_pid, signal.SIGKILL)  # it is not reaped, so the pid is still its own
            elif self.launcher.intact():
                _kill(self.launcher)
        self._kill_writer()
        deadline = Deadline(KILL_TIMEOUT)
        while self.intact() and not (self.ended() and not self._launcher_pid) and not deadline.over():
            wait(self.sources(), [], deadline.remaining())
            self._kill_writer()  # its pid may have come meanwhile
            self.reap()
        if self.process is not None and self.process.intact():
            with suppress(ChildProcessError):  # reap it if the host adopts orphans (pid 1, subreaper)
                os.waitid(os.P_PIDFD, self.process.fileno(), os.WEXITED | os.WNOHANG)
        self.detach_in_child()

    def _kill_writer(self) -> None:
        """Kill the writer, if its pid is known."""
        deque(self.take_reports(), 0)
        if self.process is not None and self.process.intact():
            _kill(self.process)
        elif self.pid is not None and not self.reports_ended and self.process is None:
            with suppress(ProcessLookupError, PermissionError):
                os.kill(self.pid, signal.SIGKILL)  # its pipe is open, so the pid is still its own

    def intact(self) -> bool:
        """Whether none of its descriptors was closed by somebody else."""
        return all(file.intact() for file in self.files())

    def detach_in_child(self) -> None:
        """Close all descriptors. A writer that still runs sees that its host has closed them."""
        self.queue.close()
        for file in self.files():
            file.close()

    def _on_pid(self, pid: int) -> None:
        self.pid = pid
        self.process = process_descriptor(pid)
        # While its pipe is open the writer lives, and the pid is its own.
        if self.process is not None and hung_up(self.reports):
            self.process.close()
            self.process = None


def _spawn(command: list[str], files: int, output: int) -> int:
    streams = [(os.POSIX_SPAWN_DUP2, fd, number) for number, fd in enumerate((files, output, output))]
    try:
        environment = {**os.environ, **dict.fromkeys(_CLEARED_VARIABLES & os.environ.keys(), "")}
        return os.posix_spawn(command[0], command, environment, file_actions=streams, setsigmask=BLOCKED_SIGNALS)
    except OSError as error:
        reason = f"can't run the writer process with sys.executable, {command[0]!r}: {error.strerror or error}"
        raise OSError(error.errno, reason) from error


def _command() -> list[str]:
    """The command that starts a writer."""
    executable = sys.executable
    if not executable:
        raise FileNotFoundError(
            errno.ENOENT, "can't run the writer process: sys.executable is not set; set it to a Python interpreter"
        )
    name = f"host={os.getpid()}"  # shown in the list of processes
    if not hasattr(sys, "frozen"):
        isolated = [flag for flag, given in _FLAGS.items() if getattr(sys.flags, given)]
        return [executable, "-P", "-S", *isolated, os.path.abspath(script.__file__), name]
    if not _frozen_support:
        raise RuntimeError(
            "can't run the writer process of a frozen program: call socketpusher.freeze_support() first in the main "
            'module, under if __name__ == "__main__":'
        )
    return [executable, _FROZEN_ARGUMENT, name]


# With the first two an interpreter writes text that would be logged as errors. With a relative entry in the third none
# starts in a directory that was removed; the writer gets its search path in the spec.
_CLEARED_VARIABLES = {"PYTHONVERBOSE", "PYTHONPROFILEIMPORTTIME", "PYTHONPATH"}

_FLAGS = {"-E": "ignore_environment", "-s": "no_user_site", "-B": "dont_write_bytecode"}


def _kill(process: Descriptor) -> None:
    with suppress(ProcessLookupError, PermissionError):  # it has ended, or this process has dropped its rights
        signal.pidfd_send_signal(process.fileno(), signal.SIGKILL)
