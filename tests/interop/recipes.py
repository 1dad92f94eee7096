"""The recipes of the README's section "Other consumers", which are run as they are printed, with other paths."""

import os
import re
import shutil
import signal
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

SECTION = (
    (Path(__file__).parents[2] / "README.md").read_text().partition("\n## Other consumers\n")[2].partition("\n## ")[0]
)

SOCKET = "/tmp/events.sock"
OUTPUT = "/tmp/events.ndjson"
"""The paths that the recipes are printed with."""


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
        name: What its paragraph begins with in bold, and its first block follows.
        files: What its blocks are saved as; of a recipe without files the block is a shell command.
        command: What runs the files, in their directory: a shell command, of which {program} is `needs[0]`.
        needs: The programs that must be there.
    """

    name: str
    files: tuple[str, ...] = ()
    command: str = ""
    needs: tuple[str, ...] = ()

    def printed(self) -> list[str]:
        """Its blocks as the README prints them."""
        paragraphs = SECTION.partition(f"\n**{self.name}**")[2].partition("\n**")[0]
        blocks = re.findall(r"```\w*\n(.*?)```", paragraphs, re.DOTALL)
        assert len(blocks) == max(1, len(self.files))
        return blocks

    @contextmanager
    def running(self, socket_path: str, place: Path) -> "Iterator[Running]":
        """The recipe at work, with its socket and its output elsewhere, until SIGTERM ends it."""
        found = [program(name) for name in self.needs]
        blocks = [block.replace(SOCKET, socket_path).replace(OUTPUT, str(place / "output")) for block in self.printed()]
        for name, block in zip(self.files, blocks, strict=False):
            (place / name).write_text(block)
        command = self.command.format(program=found[0]) if self.files else blocks[0]
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
    """A consumer at work: its process, which leads a group, and what it has put out so far."""

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
