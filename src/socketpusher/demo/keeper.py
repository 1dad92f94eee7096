"""Keeps the demo's display: starts its process, kills it, starts another one, and leaves nothing of them behind."""

import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from typing import BinaryIO

from .figures import Note, notes_in

_FAREWELL = 2.0
"""How long a display may take to end, in seconds."""

_RESTORE = "\x1b[?1049l\x1b[?25h"
"""What a display that was killed could not tell the terminal: out of the alternate screen, and show the cursor."""


class Keeper:
    """The display, whichever process that is at the moment.

    Args:
        directory: Where the socket is to be.
        plain: Whether the display prints lines, instead of drawing on the terminal.
    """

    def __init__(self, directory: str, plain: bool) -> None:
        self.path = os.path.join(directory, "demo.sock")
        self._plain = plain
        self._said = ""  # what it shows last
        self._notes: list[BinaryIO] = []  # of each display; without a name, so that they go with their last user
        self._opened = ExitStack()  # holds these, and our end of the display's standard input
        self._start()

    def _start(self) -> None:
        notes = tempfile.TemporaryFile()  # noqa: SIM115 - closed with the others
        self._opened.callback(notes.close)
        options = ["--plain"] if self._plain else []
        command = [sys.executable, "-m", "socketpusher.demo.display", self.path, str(notes.fileno()), *options]
        ours, theirs = socket.socketpair()
        self._opened.enter_context(ours)
        with theirs:
            self._process = subprocess.Popen(command, stdin=theirs.fileno(), pass_fds=[notes.fileno()])
        self._line = ours
        self._notes.append(notes)

    def wait_until_ready(self) -> None:
        """Wait until the display listens.

        Raises:
            OSError: It can't, or has ended.
        """
        answer = b""
        while not answer.endswith(b"\n"):
            try:
                part = self._line.recv(4096)
            except ConnectionResetError:
                part = b""
            if not part:
                raise self._ended()
            answer += part
        if answer != b"ready\n":
            raise OSError(answer.decode().rstrip())

    def say(self, text: str) -> None:
        """Have it show a line of text."""
        self._said = text
        try:
            self._line.sendall(f"{text}\n".encode())
        except (BrokenPipeError, ConnectionResetError):
            raise self._ended() from None

    def runs(self) -> bool:
        """Whether it has not ended."""
        return self._process.poll() is None

    def replace(self) -> float | None:
        """Kill the display as it is, and start another one, which will be ready later.

        Returns:
            When it was killed, in seconds since the epoch; None if it had ended by itself.
        """
        moment = time.time()
        self._process.kill()
        if self._process.wait() != -signal.SIGKILL:
            return None
        self._restore_terminal()
        print(f"  the display, process {self._process.pid}, is killed; another one is started", flush=True)
        self._line.close()
        self._start()
        if not self._plain:
            self.say(self._said)
        return moment

    def finish(self) -> list[list[Note]]:
        """Have the display take what is left, and end.

        Returns:
            What each display has noted.

        Raises:
            OSError: It failed, or had ended.
        """
        with suppress(OSError):  # it has ended, and its exit code says how
            self._line.shutdown(socket.SHUT_WR)
        if self._process.wait():
            raise self._ended()
        return [notes_in(file) for file in self._notes]

    def close(self) -> None:
        """End the display, whatever it does."""
        self._line.close()
        try:
            self._process.wait(_FAREWELL)
        except subprocess.TimeoutExpired:  # it is stopped, or waits for whoever should read its output
            self._process.kill()
            self._process.wait()
        self._opened.close()
        if self._process.returncode < 0:
            self._restore_terminal()

    def _restore_terminal(self) -> None:
        if not self._plain:
            with suppress(OSError):  # the terminal is gone
                sys.stdout.write(_RESTORE)
                sys.stdout.flush()

    def _ended(self) -> OSError:
        code = self._process.wait()
        if code == 128 + signal.SIGPIPE:
            return BrokenPipeError()
        return ChildProcessError(f"the demo's display ended too early, with exit code {code}; start the demo again")


@contextmanager
def kept_display(plain: bool) -> Iterator[Keeper]:
    """A display that listens, until the end of the block.

    A Ctrl-C that came while it is started or ended would leave something, so signals wait meanwhile. The process
    inherits that, so they never reach it; it ends when our end of its standard input is closed.
    """
    with signals(signal.SIG_BLOCK), tempfile.TemporaryDirectory(prefix="sp-", ignore_cleanup_errors=True) as directory:
        keeper = Keeper(directory, plain)
        try:
            with signals(signal.SIG_UNBLOCK):
                keeper.wait_until_ready()
                yield keeper
        finally:
            keeper.close()


@contextmanager
def signals(how: int) -> Iterator[None]:
    """Block or unblock, in this thread, the signals that end the demo."""
    before = signal.pthread_sigmask(how, {signal.SIGINT, signal.SIGTERM, signal.SIGHUP})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
