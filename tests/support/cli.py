"""The command `socketpusher`, as users run it."""

import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import pytest

COMMAND = [sys.executable, "-m", "socketpusher"]
INSTALLED = os.path.join(os.path.dirname(sys.executable), "socketpusher")

NOBODY = 65534
for_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can act as somebody else")
_AS_NOBODY = f"import os, sys; os.setgroups([]); os.setgid({NOBODY}); os.setuid({NOBODY}); "


def run_as_nobody(*arguments: str) -> "subprocess.CompletedProcess[str]":
    """The command as another user, who must be able to read the interpreter and the package."""
    code = _AS_NOBODY + "from socketpusher.cli import main; sys.exit(main())"
    result = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, timeout=60)
    if "PermissionError" in result.stderr or "ModuleNotFoundError" in result.stderr:
        pytest.skip("another user can't run this interpreter")
    return result


@contextmanager
def hanging_up(path: str) -> Iterator[None]:
    """A consumer of another user that accepts connections and closes them at once, as one does that refuses a user."""
    os.chmod(os.path.dirname(path), 0o777)
    with socket.socket(socket.AF_UNIX) as listener:
        os.seteuid(NOBODY)
        try:
            listener.bind(path)
            listener.listen()
        finally:
            os.seteuid(0)
        os.chmod(path, 0o666)
        thread = threading.Thread(target=_hang_up, args=(listener,))
        thread.start()
        try:
            yield
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            thread.join()
            os.unlink(path)


def _hang_up(listener: socket.socket) -> None:
    with suppress(OSError):  # of the end
        while True:
            listener.accept()[0].close()


def run(*arguments: str, **options) -> "subprocess.CompletedProcess[str]":
    return subprocess.run([*COMMAND, *arguments], capture_output=True, text=True, timeout=60, **options)


@contextmanager
def running(*arguments: str, seconds: float = 30, **options) -> "Iterator[subprocess.Popen[bytes]]":
    """A command with pipes, unless the options say otherwise; it is killed at the end, or after so many seconds."""
    options = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **options}
    with subprocess.Popen([*COMMAND, *arguments], **options) as process:
        deadline = threading.Timer(seconds, process.kill)  # which ends a read that waits for its output
        deadline.start()
        try:
            yield process
        finally:
            deadline.cancel()
            deadline.join()
            process.kill()


@contextmanager
def listening(path: str, *arguments: str, command: str = "listen", **options) -> "Iterator[subprocess.Popen[bytes]]":
    """`socketpusher listen`, or another command that does, once it is bound."""
    with running(command, path, *arguments, **{"stdin": None, **options}) as process:
        assert process.stderr is not None
        assert process.stderr.readline() == f"listening on {path}\n".encode()
        yield process


def send(path: str, data: bytes) -> None:
    with socket.socket(socket.AF_UNIX) as sender:
        sender.connect(path)
        sender.sendall(data)


def run_as_nobody_beside_a_listener(path: str, *arguments: str) -> "subprocess.CompletedProcess[str]":
    """A command of a user who may connect, but whom `socketpusher listen` refuses."""
    os.chmod(os.path.dirname(path), 0o755)
    with listening(path) as process:
        os.chmod(path, 0o666)
        try:
            return run_as_nobody(*arguments)
        finally:
            process.terminate()
            process.wait(30)
