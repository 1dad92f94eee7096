"""Starts the processes of a demo, and ends them all, also at a Ctrl-C at any moment."""

import ctypes
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from glob import glob
from typing import Any, TypeAlias, cast

Process: TypeAlias = "subprocess.Popen[bytes]"

_SIGNALS = {signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT}


class Processes:
    """Processes that end with the demo, even if it is killed. They never see its Ctrl-C.

    Args:
        directory: A temporary directory for their files.
    """

    def __init__(self, directory: str) -> None:
        self.directory = directory
        self._prctl = ctypes.CDLL(None).prctl
        self.started: list[Process] = []

    def start(self, *command: str, **options: Any) -> Process:
        """Start a command. Its standard streams are /dev/null unless the options, those of `Popen`, say otherwise."""
        options = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.DEVNULL) | options
        # Unbuffered, or `select` would not know of a line that was read together with the one before.
        process = subprocess.Popen(command, bufsize=0, preexec_fn=self._prepare, **options)
        self.started.append(cast(Process, process))
        return self.started[-1]

    def start_python(self, module: str, *arguments: str, **options: Any) -> Process:
        """Start a Python module as `start` does."""
        return self.start(sys.executable, "-m", module, *arguments, **options)

    def start_watch(self, *arguments: str, plain: bool) -> Process:
        """Start `socketpusher watch` on the terminal of the demo; `plain` means lines instead of a screen."""
        environment = {**os.environ, "TERM": "dumb"} if plain else None
        return self.start_python("socketpusher", "watch", *arguments, stdout=None, stderr=None, env=environment)

    def _prepare(self) -> None:
        """In the new process, before the command: block nothing but Ctrl-C, and end when the demo has ended."""
        signal.pthread_sigmask(signal.SIG_SETMASK, {signal.SIGINT})
        self._prctl(1, signal.SIGTERM)  # PR_SET_PDEATHSIG of prctl(2)


@contextmanager
def running_processes() -> Iterator[Processes]:
    """Processes, which are ended at the end of the block.

    Signals are blocked in the block, except where it waits (see `interruptible`): none can come between the start of a
    process and the line that remembers it.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
    try:
        with tempfile.TemporaryDirectory(prefix="sp-", ignore_cleanup_errors=True) as directory:
            processes = Processes(directory)
            try:
                yield processes
            finally:
                for process in reversed(processes.started):
                    end(process)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextmanager
def interruptible() -> Iterator[None]:
    """Let signals in while the block waits."""
    try:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)


def wait_until(condition: Callable[[], bool], timeout: float = 5.0) -> None:
    """Wait until the condition holds, for so many seconds at most."""
    deadline = time.monotonic() + timeout
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.01)


def sleeps(process: Process) -> bool:
    """Whether no thread of a process has anything to do, for a quarter of a second: it draws ten times a second."""
    for _ in range(12):
        for stat in glob(f"/proc/{process.pid}/task/*/stat"):
            with suppress(OSError), open(stat, "rb") as file:
                if file.read().rpartition(b")")[2].split()[0] not in b"SZ":
                    return False
        time.sleep(0.02)
    return True


def count_sockets(process: Process) -> int:
    """How many sockets a process has: one to listen at, or for its loop, and one for each connection."""
    return sum("/socket:" in os.path.realpath(file) for file in glob(f"/proc/{process.pid}/fd/*"))


def end(process: Process) -> None:
    """Send a process SIGTERM and wait for its end; kill it if that takes over 10 seconds."""
    with process:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:  # it is stopped, or waits for a reader of its output
            process.kill()
