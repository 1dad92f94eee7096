"""A terminal for tests: what a user sees of a command, and what a user presses."""

import fcntl
import os
import pty
import re
import select
import struct
import subprocess
import termios
import time
from collections.abc import Callable

import pyte


class Terminal:
    """A terminal with the command in it, and what a user sees there."""

    def __init__(self, *command: str, width: int = 80, height: int = 24, **variables: str) -> None:
        self.written = b""
        self.screen = pyte.Screen(width, height)
        self._stream = pyte.ByteStream(self.screen)
        self._fd, inside = pty.openpty()
        self._resize(width, height)
        self.settings_at_the_start = self.settings()
        self.process = subprocess.Popen(
            command,
            stdin=inside,
            stdout=inside,
            stderr=inside,
            start_new_session=True,
            preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
            env={**os.environ, **variables},
        )
        os.close(inside)

    def _resize(self, width: int, height: int) -> None:
        fcntl.ioctl(self._fd, termios.TIOCSWINSZ, struct.pack("HHHH", height, width, 0, 0))

    def settings(self) -> list:
        """How the terminal treats what is typed: whether it echoes, whether keys come at once."""
        return termios.tcgetattr(self._fd)

    def resize(self, width: int, height: int) -> None:
        self.screen.resize(height, width)
        self._resize(width, height)

    def read(self, timeout: float) -> bool:
        """Take in what is there, or comes in time. Returns whether anything did."""
        if not select.select([self._fd], [], [], timeout)[0]:
            return False
        try:
            data = os.read(self._fd, 65536)
        except OSError:
            return False  # all who had the terminal have ended
        self.written += data
        self._stream.feed(data)
        return True

    def lines(self) -> list[str]:
        return [line.rstrip() for line in self.screen.display]

    def text(self) -> str:
        return "\n".join(self.lines())

    def shows(self, *texts: str) -> None:
        """Wait until all of these are on the screen at once."""
        self.wait_for(lambda: all(text in self.text() for text in texts), texts)

    def matches(self, *patterns: str) -> None:
        """Wait until all of these regular expressions are found on the screen at once; ^ and $ are a line's."""
        self.wait_for(lambda: all(re.search(pattern, self.text(), re.MULTILINE) for pattern in patterns), patterns)

    def wait_for(self, condition: Callable[[], object], what: object = "") -> None:
        deadline = time.monotonic() + 60
        ended = False
        while not condition():
            if time.monotonic() > deadline or ended:
                raise AssertionError(f"never shown: {what}; but:\n{self.text()}")
            ended = not self.read(0.1) and self.process.poll() is not None

    def press(self, keys: bytes) -> None:
        os.write(self._fd, keys)

    def ends(self) -> int:
        """The exit code, once everything it has written is taken in, which the kernel may pass on after its end."""
        self.wait_for(lambda: self.process.poll() is not None, "its end")
        while self.read(10):  # until the terminal is closed
            pass
        return self.process.returncode

    def hang_up(self) -> None:
        os.close(self._fd)
        self._fd = -1

    def __enter__(self) -> "Terminal":
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        if self._fd >= 0:
            os.close(self._fd)
