"""Takes the terminal for a full screen (alternate screen, no cursor, each key at once), and gives it back."""

import codecs
import errno
import os
import re
import select
import signal
import sys
import termios
import tty
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

ESCAPE_PAUSE = 0.05
"""How long the rest of an escape sequence may take, in seconds; after that it is the key Esc."""

_ENTER = "\x1b[?1049h\x1b[?25l\x1b[?7l"  # the other screen, no cursor, and a line that is too long does not wrap
_LEAVE = "\x1b[?7h\x1b[?25h\x1b[?1049l"
_KEY = re.compile(r"\x1b\[[0-9;?]*[A-Za-z~]|\x1bO.|.", re.DOTALL)
_UNFINISHED = re.compile(rb"\x1b(?:\[[0-9;?]*|O)?\Z")
_INTERRUPTS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT, signal.SIGTSTP)
_KEYBOARD = 0


class FullScreen:
    """The terminal of standard input and output; it is changed between `enter` and `leave`."""

    def __init__(self) -> None:
        self.has_keys = os.isatty(_KEYBOARD)
        self._before: list[Any] | None = None  # the settings of the terminal, while they are changed
        self._entered = False
        self._decoder = codecs.getincrementaldecoder("utf-8")("ignore")

    def enter(self) -> None:
        """Take the terminal. Called again after another program may have changed it."""
        while True:
            try:
                with uninterrupted():
                    self._entered = True
                    if self.has_keys:
                        self._before = self._before or termios.tcgetattr(_KEYBOARD)
                        tty.setcbreak(_KEYBOARD, termios.TCSANOW)
                    self.write(_ENTER)
                    return
            except termios.error as error:
                if error.args[0] != errno.EINTR:  # in the background it stops, until the shell's `fg`
                    raise OSError(*error.args) from None

    def leave(self) -> None:
        """Restore the terminal, as far as it is still there. Settings are left alone while another program owns it."""
        with uninterrupted(), suppress(OSError, termios.error):
            entered, self._entered = self._entered, False
            before, self._before = self._before, None
            if before is not None and os.tcgetpgrp(_KEYBOARD) == os.getpgrp():
                termios.tcsetattr(_KEYBOARD, termios.TCSANOW, before)
            if entered:
                self.write(_LEAVE)

    def suspend(self) -> None:
        """Restore the terminal, stop as Ctrl-Z stops a program, and take the terminal again after the shell's `fg`."""
        self.leave()
        handler = signal.signal(signal.SIGTSTP, signal.SIG_DFL)
        signal.raise_signal(signal.SIGTSTP)  # returns when the process is continued
        signal.signal(signal.SIGTSTP, handler)
        self.enter()

    def write(self, text: str) -> None:
        """Write to the terminal at once."""
        sys.stdout.write(text)
        sys.stdout.flush()

    def read_keys(self) -> list[str] | None:
        """The keys that were pressed, special ones as the escape sequences of a VT100; None if there is no keyboard."""
        data = more = _pressed()
        while more and _UNFINISHED.search(data) and select.select([_KEYBOARD], [], [], ESCAPE_PAUSE)[0]:
            more = _pressed()
            data += more
        return _KEY.findall(self._decoder.decode(data)) if data else None


def _pressed() -> bytes:
    try:
        return os.read(_KEYBOARD, 4096)
    except OSError:  # the terminal is closed
        return b""


@contextmanager
def uninterrupted() -> Iterator[None]:
    """Hold back the signals that end a command, so that what is taken is also known to be taken."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _INTERRUPTS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextmanager
def signals_caught() -> Iterator[int]:
    """Yields a descriptor with a byte, its number, for each signal that has a handler.

    Whoever sleeps must wait for it too: a signal that comes right before the call that sleeps does not interrupt it.
    """
    inside, outside = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        signal.set_wakeup_fd(outside, warn_on_full_buffer=False)
        yield inside
    finally:
        signal.set_wakeup_fd(-1)
        os.close(inside)
        os.close(outside)


@contextmanager
def terminal_signals() -> Iterator[int]:
    """Yields a descriptor as `signals_caught`, also for the signals that matter to a screen: resize, Ctrl-Z, `fg`."""
    numbers = [n for n in (signal.SIGWINCH, signal.SIGTSTP, signal.SIGCONT) if signal.getsignal(n) == signal.SIG_DFL]
    with signals_caught() as inside:
        try:
            for number in numbers:
                signal.signal(number, lambda number, frame: None)
            yield inside
        finally:
            for number in numbers:
                signal.signal(number, signal.SIG_DFL)
