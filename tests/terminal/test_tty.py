"""Ctrl-Z and `fg`: the terminal is the shell's meanwhile, and the screen is drawn again."""

import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from socketpusher import Event
from support.terminal import Terminal
from support.watching import COMMAND, connected

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
    sys.stdin.readline()
    os.tcsetpgrp(0, job)
    os.killpg(job, signal.SIGCONT)
"""
"""A shell's job control, as far as Ctrl-Z and `fg` need it; a line is `fg`."""


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
