"""How events get out of a forked child, where the host takes them in slowly or not at all."""

import threading
import time
from collections import deque

import pytest

from socketpusher.host.forked import ForkedToken
from support.waiting import wait_for


class Door:
    """Refuses so many times, then takes."""

    def __init__(self, refusals: int) -> None:
        self.refusals = refusals
        self.taken: list[bytes] = []

    def send(self, lines: bytes) -> None:
        if self.refusals:
            self.refusals -= 1
            raise BlockingIOError
        self.taken.append(lines)

    def wait(self, seconds: float) -> None:
        pass


def token_with(door: Door, *lines: bytes) -> ForkedToken:
    return ForkedToken(door, deque(lines))  # type: ignore[arg-type]


def test_what_the_host_can_not_take_in_yet_is_left_to_a_thread() -> None:
    door = Door(refusals=3)
    token = token_with(door, b"a\n")
    token.mark(False)
    token.put()
    wait_for(lambda: door.taken == [b"a\n"])
    wait_for(lambda: token.mark(False))  # and the next event finds it free


def test_what_is_left_when_no_thread_can_be_started_is_handed_over_at_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    def start(self) -> None:
        raise RuntimeError("can't start new thread at interpreter shutdown")

    door = Door(refusals=2)
    token = token_with(door, b"a\n")
    token.mark(False)
    with monkeypatch.context() as patched:
        patched.setattr(threading.Thread, "start", start)
        token.put()
    assert door.taken == []
    assert token.finish(time.monotonic() + 30)
    assert door.taken == [b"a\n"]


def test_a_line_that_is_appended_while_the_mark_is_set_is_not_forgotten() -> None:
    door = Door(refusals=0)
    lines = deque([b"a\n"])
    token = ForkedToken(door, lines)  # type: ignore[arg-type]
    unmark = token._unmark

    def appended_meanwhile() -> None:
        token._unmark = unmark
        lines.append(b"b\n")
        unmark()

    token._unmark = appended_meanwhile
    token.mark(False)
    token.put()
    assert door.taken == [b"a\n", b"b\n"]


def test_the_end_of_a_child_waits_no_longer_than_its_deadline() -> None:
    token = token_with(Door(refusals=1 << 30), b"a\n")
    start = time.monotonic()
    assert not token.finish(start + 0.1)
    assert time.monotonic() - start < 10


def test_lines_that_a_thread_is_just_sending_are_not_yet_handed_over() -> None:
    """They are in neither the outbox nor the host; a child that ended now would take them with it."""
    begun, may_end = threading.Event(), threading.Event()

    class SlowDoor(Door):
        def send(self, lines: bytes) -> None:
            begun.set()
            may_end.wait(30)
            super().send(lines)

    door = SlowDoor(refusals=0)
    token = token_with(door, b"a\n")
    token.mark(False)
    sender = threading.Thread(target=token.put)
    sender.start()
    begun.wait(30)
    assert not token.finish(time.monotonic() + 0.1)
    may_end.set()
    assert token.finish(time.monotonic() + 30)
    assert (door.taken, token.handed_over) == ([b"a\n"], 1)
    sender.join()
