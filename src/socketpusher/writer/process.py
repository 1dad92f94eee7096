"""Starting the writer process.

It is spawned, not forked, for the host has threads and open files; and it does not import the host's main module, as
`multiprocessing` would have it do: that costs the import again, in time and memory, and fails for a script without an
`if __name__ == "__main__"` guard.
"""

import ctypes
import multiprocessing
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from multiprocessing import resource_tracker, spawn
from multiprocessing.context import SpawnProcess
from typing import Any

from ..channel.messages import Assignment

CONTEXT = multiprocessing.get_context("spawn")

_HANDLED_BY_HOST = {signal.SIGINT, signal.SIGTERM, signal.SIGHUP}
"""Signals that a terminal or a service manager sends to the host's whole process group. The host decides what they
mean; the writer leaves when the host tells it to, or is gone."""

_starting = threading.Lock()


class WriterProcess(SpawnProcess):
    """The child process. `start` it, and `kill` it if it does not end by itself."""

    def __init__(self, assignment: Assignment) -> None:
        super().__init__(name="socketpusher-writer", daemon=True)
        self._assignment: Assignment | None = assignment

    def start(self) -> None:
        """Start the process.

        Raises:
            OSError: The system can't start another process.
        """
        with _starting, signals_blocked(), _main_module_left_alone():
            super().start()
        self._assignment = None

    def run(self) -> None:
        """What the child does."""
        from .loop import Writer  # not at the top, for the host has no use for tenacity, which takes 40 ms to import

        assert self._assignment is not None
        _let_go_of_streams()
        _keep_memory_flat()
        with suppress(OSError):  # it is gone; a path that is not relative does not need it
            os.chdir(self._assignment.directory)
        Writer(self._assignment).run()


def _let_go_of_streams() -> None:
    """Whoever reads the host's output through a pipe waits for its end, and must not wait for the writer.

    Nor for multiprocessing's resource tracker, which has the host's streams open and lives as long as somebody may
    have something for it to do; the writer has nothing.
    """
    tracker = resource_tracker._resource_tracker
    if tracker._fd is not None:  # type: ignore[attr-defined]
        os.close(tracker._fd)  # type: ignore[attr-defined]
        tracker._fd = None  # type: ignore[attr-defined]
    null = os.open(os.devnull, os.O_RDWR)
    for fd in (0, 1, 2):
        os.dup2(null, fd)
    os.close(null)


def _keep_memory_flat() -> None:
    """Let every large block be mapped and unmapped by itself, as at the beginning, with glibc.

    Its malloc takes the size of the largest block ever freed as the new limit (mallopt(3), M_MMAP_THRESHOLD), so that
    batches of every size end up in one heap with holes: over five million events the writer grew from 34 to 50 MiB, and
    with the limit fixed from 24 to 24.
    """
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).mallopt(-3, 256 << 10)


@contextmanager
def signals_blocked() -> Iterator[None]:
    """Hold back the signals that are the host's affair from this thread, and for ever from children that it starts.

    They inherit its mask, so the signals never reach them, not even while they begin.
    """
    resource_tracker.ensure_running()  # its start would let SIGINT and SIGTERM through again
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _HANDLED_BY_HOST)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextmanager
def _main_module_left_alone() -> Iterator[None]:
    """Leave the main module out of what a child that this thread starts is told.

    `spawn.get_preparation_data` is where the standard library decides. Other threads may start processes of their own
    meanwhile, and get what they expect.
    """
    original = spawn.get_preparation_data
    thread = threading.get_ident()

    def without_main_module(name: str) -> dict[str, Any]:
        data = original(name)
        if threading.get_ident() == thread:
            data.pop("init_main_from_name", None)
            data.pop("init_main_from_path", None)
        return data

    spawn.get_preparation_data = without_main_module
    try:
        yield
    finally:
        spawn.get_preparation_data = original
