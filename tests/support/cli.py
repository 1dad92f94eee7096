"""The command `socketpusher`, as users run it."""

import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

COMMAND = [sys.executable, "-m", "socketpusher"]
INSTALLED = os.path.join(os.path.dirname(sys.executable), "socketpusher")


def run(*arguments: str, **options) -> "subprocess.CompletedProcess[str]":
    return subprocess.run([*COMMAND, *arguments], capture_output=True, text=True, timeout=60, **options)


@contextmanager
def running(*arguments: str, **options) -> "Iterator[subprocess.Popen[bytes]]":
    """A command with pipes, unless the options say otherwise; it is killed at the end, or after half a minute."""
    options = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **options}
    with subprocess.Popen([*COMMAND, *arguments], **options) as process:
        deadline = threading.Timer(30, process.kill)  # which ends a read that waits for its output
        deadline.start()
        try:
            yield process
        finally:
            deadline.cancel()
            deadline.join()
            process.kill()


@contextmanager
def listening(path: str, *arguments: str, **options) -> "Iterator[subprocess.Popen[bytes]]":
    """`socketpusher listen`, once it is bound."""
    with running("listen", path, *arguments, **{"stdin": None, **options}) as process:
        assert process.stderr is not None
        assert process.stderr.readline() == f"listening on {path}\n".encode()
        yield process


def send(path: str, data: bytes) -> None:
    with socket.socket(socket.AF_UNIX) as sender:
        sender.connect(path)
        sender.sendall(data)
