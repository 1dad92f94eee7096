"""Runs the files of tests/interop/recipes, with other paths."""

import os
import shutil
import signal
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

RECIPES = Path(__file__).parents[1] / "interop" / "recipes"

SOCKET = "/tmp/events.sock"
OUTPUT = "/tmp/events.ndjson"
"""The paths in the recipes."""


def program(name: str) -> str:
    """Where a program is; the test is skipped where it is missing."""
    # Daemons are in directories that a user's PATH may lack.
    found = shutil.which(name, path=f"{os.environ['PATH']}:/usr/sbin:/sbin")
    if found is None:
        pytest.skip(f"{name} is not installed")
    return found


def openbsd_nc() -> None:
    """Skip the test where nc is none of those that know Unix sockets and `-k`."""
    usage = subprocess.run([program("nc"), "-h"], capture_output=True, text=True, timeout=30)
    if "OpenBSD" not in usage.stdout + usage.stderr:
        pytest.skip("nc is not OpenBSD's, which is in Debian's package netcat-openbsd")


@dataclass(frozen=True)
class Recipe:
    """How a recipe is run.

    Args:
        files: Its files. Without a command, the only one is a shell script.
        command: A shell command that runs the files, in their directory; {program} is `needs[0]`.
        needs: The programs that must be installed.
    """

    files: tuple[str, ...]
    command: str = ""
    needs: tuple[str, ...] = ()

    @contextmanager
    def running(self, socket_path: str, place: Path) -> "Iterator[Running]":
        """The recipe at work, with its socket and its output elsewhere, until it is ended."""
        found = [program(name) for name in self.needs]
        for name in self.files:
            text = (RECIPES / name).read_text()
            (place / name).write_text(text.replace(SOCKET, socket_path).replace(OUTPUT, str(place / "output")))
        command = self.command.format(program=found[0]) or f". ./{self.files[0]}"
        with (place / "output").open("ab") as output, (place / "errors").open("ab") as errors:
            process = subprocess.Popen(
                ["sh", "-c", command], stdout=output, stderr=errors, cwd=place, start_new_session=True
            )
        running = Running(process, place / "output", place / "errors")
        try:
            yield running
        finally:
            running.end(signal.SIGKILL)


@dataclass(frozen=True)
class Running:
    """A consumer at work: its process, which leads a group, and its output so far."""

    process: "subprocess.Popen[bytes]"
    output: Path
    errors: Path

    def lines(self, understand: Callable[[bytes], object] = bytes) -> list[object]:
        """Each whole line of its output."""
        return [understand(line) for line in self.output.read_bytes().split(b"\n")[:-1]]

    def end(self, number: signal.Signals) -> None:
        """Send it a signal, and wait for its end."""
        if self.process.poll() is None:
            os.killpg(self.process.pid, number)
        self.process.wait(30)
