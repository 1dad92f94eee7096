"""Ctrl-Z and `fg`: the terminal is the shell's meanwhile, and the screen is drawn again."""

import errno
import os
import signal
import sys
import termios
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from socketpusher import Event
from socketpusher.terminal import tty
from socketpusher.terminal.tty import FullScreen
from support.terminal import Terminal
from support.watching import COMMAND, connected, terminal

SHELL = """
import os, signal, sys, termios
signal.signal(signal.SIGTTOU, signal.SIG_IGN)
job = os.fork()
if job == 0:
    os.setpgid(0, 0)
    os.tcsetpgrp(0, os.getpgrp())
    signal.signal(signal.SIGTTOU, signal.SIG_DFL)
    os.execv(sys.argv[1], sys.argv[1:])
settings = termios.tcgetattr(0)
while True:
    _, status = os.waitpid(job, os.WUNTRACED)
    if not os.WIFSTOPPED(status):
        sys.exit(os.waitstatus_to_exitcode(status))
    os.tcsetpgrp(0, os.getpgrp())
    as_before = "as before" if termios.tcgetattr(0) == settings else "changed"
    termios.tcsetattr(0, termios.TCSANOW, settings)
    print(f"stopped {job}, terminal {as_before}", flush=True)
    if sys.stdin.readline() == "fg\\n":
        os.tcsetpgrp(0, job)
    os.killpg(job, signal.SIGCONT)
"""
"""A shell's job control, as far as Ctrl-Z, `fg` and `bg` need it; a line is one of the last two."""


@contextmanager
def job(path: str) -> Iterator[Terminal]:
    with Terminal(sys.executable, "-c", SHELL, *COMMAND, path) as watcher:
        watcher.shows("waiting for a sender")
        yield watcher
        watcher.press(b"q")
        assert watcher.ends() == 0


@pytest.mark.parametrize("times", [1, 2])
def test_ctrl_z_gives_the_terminal_back_and_fg_draws_the_screen_again(socket_path: str, times: int) -> None:
    with job(socket_path) as watcher, connected(socket_path) as send:
        for number in range(times):
            watcher.shows("? help")
            watcher.press(b"\x1a")
            watcher.wait_for(lambda number=number: watcher.written.count(b"stopped ") > number)
            assert b"terminal as before" in watcher.written.rpartition(b"stopped ")[2]
            before_it = watcher.written.rpartition(b"stopped ")[0]
            assert before_it.rindex(b"\x1b[?1049l") > before_it.rindex(b"\x1b[?1049h")
            assert before_it.rindex(b"\x1b[?25h") > before_it.rindex(b"\x1b[?25l")
            send(Event("unit.started", f"unit-{number}"))
            watcher.press(b"fg\n")
            watcher.shows(f"▸ unit-{number}", "connected: 1 sender")
        after_it = watcher.written.rpartition(b"stopped ")[2]
        assert b"\x1b[?1049h" in after_it
        assert b"\x1b[?25l" in after_it


def test_in_the_background_it_stops_until_fg_gives_it_the_terminal(socket_path: str) -> None:
    with job(socket_path) as watcher, connected(socket_path) as send:
        watcher.press(b"\x1a")
        watcher.wait_for(lambda: watcher.written.count(b"stopped ") == 1)
        watcher.press(b"bg\n")
        watcher.wait_for(lambda: watcher.written.count(b"stopped ") == 2)
        send(Event("unit.started", "app"))
        watcher.press(b"fg\n")
        watcher.shows("▸ app", "connected: 1 sender")


def test_in_the_background_it_can_be_ended(socket_path: str) -> None:
    with Terminal(sys.executable, "-c", SHELL, *COMMAND, socket_path) as watcher:
        watcher.shows("waiting for a sender")
        watcher.press(b"\x1a")
        watcher.wait_for(lambda: watcher.written.count(b"stopped ") == 1)
        watcher.press(b"bg\n")
        watcher.wait_for(lambda: watcher.written.count(b"stopped ") == 2)  # because it tries to take the terminal
        os.kill(_child(watcher.process.pid), signal.SIGTERM)
        watcher.press(b"bg\n")
        assert watcher.ends() == 128 + signal.SIGTERM


def test_ctrl_backslash_gives_the_terminal_back_too(socket_path: str) -> None:
    with terminal(socket_path) as watcher:
        watcher.shows("waiting for a sender")
        watcher.press(b"\x1c")
        assert watcher.ends() == 128 + signal.SIGQUIT
        assert b"\x1b[?25h\x1b[?1049l" in watcher.written


def test_a_terminal_that_is_not_there_any_more_is_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    def closed(descriptor: int) -> None:
        raise termios.error(errno.EIO, "Input/output error")

    screen = FullScreen()
    screen.has_keys = True
    monkeypatch.setattr(termios, "tcgetattr", closed)
    with pytest.raises(OSError, match="Input/output error"):
        screen.enter()


@pytest.mark.parametrize(
    "parts", [(b"\x1b", b"[B"), (b"a\x1b[1;", b"5C"), (b"\x1bO", b"P"), ("é".encode()[:1], b"\xa9")]
)
def test_a_key_that_comes_in_two_reads_is_one(parts: tuple[bytes, bytes], monkeypatch: pytest.MonkeyPatch) -> None:
    keyboard, press = os.pipe()
    monkeypatch.setattr(tty, "_KEYBOARD", keyboard)
    monkeypatch.setattr(tty, "ESCAPE_PAUSE", 30.0)
    screen = tty.FullScreen()
    rest = threading.Timer(0.05, os.write, (press, parts[1]))
    os.write(press, parts[0])
    rest.start()
    pressed = b"".join(parts).decode().removeprefix("a")
    keys: list[str] = []
    while pressed not in keys:
        keys += screen.read_keys() or []
    assert keys in ([pressed], ["a", pressed])
    rest.join()
    os.write(press, b"\x1b")
    os.close(press)  # as a terminal that is closed
    assert screen.read_keys() == ["\x1b"]
    assert screen.read_keys() is None
    os.close(keyboard)


def test_keys_come_at_once_after_a_stop_that_nothing_could_be_done_about(socket_path: str) -> None:
    with job(socket_path) as watcher, connected(socket_path) as send:
        send(Event("unit.started", "app"))
        watcher.shows("▸ app")
        pid = _child(watcher.process.pid)
        os.kill(pid, signal.SIGSTOP)
        watcher.wait_for(lambda: b"stopped " in watcher.written)
        watcher.press(b"fg\n")
        watcher.wait_for(lambda: watcher.written.rpartition(b"stopped ")[2].count(b"\x1b[?1049h") > 0)
        watcher.press(b"?")
        watcher.shows("q or Ctrl-C")
        watcher.press(b"?")


def _child(pid: int) -> int:
    with open(f"/proc/{pid}/task/{pid}/children") as children:
        return int(children.read().split()[0])
