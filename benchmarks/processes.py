"""Starts every process and makes every file of a run, and removes them, however the run ends."""

import json
import os
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from typing import Any

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
LIMIT = 120.0
"""How long one measurement may take, in seconds."""


class MeasurementError(RuntimeError):
    """A process of a measurement ended without its figures; the message has its standard error."""


class Child:
    """A process in its own session, which is ended as a whole.

    Args:
        command: The arguments for the current interpreter.
        errors: The file for its standard error.
        source: A directory that it and its children import from first, or "".
    """

    def __init__(self, command: list[str], errors: str, source: str = "") -> None:
        self._errors = errors
        paths = os.pathsep.join(filter(None, (source, os.environ.get("PYTHONPATH"))))
        with open(errors, "wb") as file:
            self.process = subprocess.Popen(
                [sys.executable, *command],
                cwd=ROOT,
                env=os.environ | {"PYTHONPATH": paths},
                stdout=subprocess.PIPE,
                stderr=file,
                start_new_session=True,
            )

    def line(self, timeout: float = LIMIT) -> str:
        """The next line that it prints.

        Raises:
            MeasurementError: It ended, or printed nothing for `timeout` seconds.
        """
        stream = self.process.stdout
        assert stream is not None
        if not select.select([stream], [], [], timeout)[0] or not (line := stream.readline()):
            with open(self._errors, errors="replace") as file:
                raise MeasurementError(
                    f"{' '.join(self.process.args[1:4])}: {file.read()[-1500:] or 'no answer in time'}"
                )
        return str(line, "utf-8").strip()

    def end(self, patience: float = 0.0) -> None:
        """End the process and its children; `patience` is how long it may take to end by itself, in seconds."""
        if patience:
            self._wait(patience)
        # SIGTERM first: multiprocessing's resource tracker ignores it, and so has time to remove the semaphores of the
        # others.
        self._signal(signal.SIGTERM)
        deadline = time.monotonic() + 2.0
        while self._group_lives() and time.monotonic() < deadline:
            time.sleep(0.005)
        self._signal(signal.SIGKILL)
        self.process.wait()
        if self.process.stdout is not None:
            self.process.stdout.close()

    def _wait(self, seconds: float) -> None:
        try:
            self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            pass

    def _group_lives(self) -> bool:
        self.process.poll()  # a zombie of ours would count as alive
        return self._signal(0) and not _only_zombies(self.process.pid)

    def _signal(self, number: int) -> bool:
        try:
            os.killpg(self.process.pid, number)
        except (ProcessLookupError, PermissionError):  # macOS says the latter of a group of zombies
            return False
        return True


def _only_zombies(group: int) -> bool:
    """Whether all processes of a group have ended. In a container, orphans may be reaped late."""
    for name in os.listdir("/proc") if os.path.isdir("/proc/self") else ["self"]:
        try:
            with open(f"/proc/{name}/stat") as file:
                state, _, found = file.read().rpartition(")")[2].split()[:3]
        except OSError:
            continue  # not a process, or it has ended
        if int(found) == group and state != "Z":
            return False
    return os.path.isdir("/proc/self")


class Processes:
    """A temporary directory with the sockets, and the processes that meet there. A context manager."""

    def __init__(self) -> None:
        self._directory = ""
        self._numbers = count()

    def __enter__(self) -> "Processes":
        self._directory = tempfile.mkdtemp(prefix="socketpusher-benchmark-")
        return self

    def __exit__(self, *_: object) -> None:
        shutil.rmtree(self._directory, ignore_errors=True)

    def path(self, name: str) -> str:
        """A new path in the directory of the run."""
        return os.path.join(self._directory, f"{next(self._numbers)}-{name}")

    @contextmanager
    def run(self, *command: str, source: str = "") -> Iterator[Child]:
        """Run a process, and end it when the block ends."""
        child = Child(list(command), self.path("errors"), source)
        try:
            yield child
        finally:
            child.end()

    @contextmanager
    def consumer(self, mode: str) -> Iterator[tuple[str, Child | None]]:
        """Run a consumer. Yields its socket path and process; with the mode "none" only a path where nobody listens."""
        path = self.path("socket")
        if mode == "none":
            yield path, None
            return
        with self.run("-m", "benchmarks.consumer", path, mode) as child:
            child.line()  # ready
            yield path, child

    def host(self, peer: str, scenario: str, path: str, options: dict[str, Any], source: str = "") -> dict[str, Any]:
        """Run a host to its end. Returns its figures."""
        with self.run("-m", "benchmarks.host", peer, scenario, path, json.dumps(options), source=source) as child:
            figures: dict[str, Any] = json.loads(child.line())
            child.process.wait(LIMIT)
        return figures
