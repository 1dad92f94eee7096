"""How events get out of a forked child, where the host takes them in slowly or not at all."""

import errno
import itertools
import threading
from collections import deque
from collections.abc import Iterator
from contextlib import suppress

import pytest

from socketpusher.channel.clock import Deadline
from socketpusher.host.forked import ForkChannel, ForkedOutlet
from support.interrupts import Interrupt, Point, raising
from support.waiting import wait_for


class Channel:
    """Refuses so many times, then takes."""

    def __init__(self, refusals: int) -> None:
        self.refusals = refusals
        self.taken: list[bytes] = []

    def send(self, lines: bytes, count: int) -> None:
        if self.refusals:
            self.refusals -= 1
            raise BlockingIOError
        self.taken.append(lines)

    def sending(self, lines: bytes, count: int) -> Iterator[None]:
        return map(self.send, (lines,), (count,))

    def wait(self, seconds: float) -> None:
        pass


def outlet_with(channel: Channel, *lines: bytes) -> ForkedOutlet:
    return ForkedOutlet(channel, deque(lines), lambda error: None)  # type: ignore[arg-type]


def test_lines_that_the_host_can_not_receive_yet_are_sent_by_a_thread() -> None:
    channel = Channel(refusals=3)
    outlet = outlet_with(channel, b"a\n")
    outlet.put()
    wait_for(lambda: channel.taken == [b"a\n"])
    wait_for(lambda: not outlet._lock.locked())  # and the next event finds it free


def test_a_line_may_contain_any_byte_but_a_newline() -> None:
    """A Fragment may bring a carriage return, which JSON allows between two values."""
    channel = ForkChannel()
    line = b'{"a":\r[1]}\x0b\x0c\x1c\xc2\x85\n'
    list(channel.sending(line * 2, 2))
    assert list(channel.receive()) == [([line] * 2, 0)]
    channel.close()


def test_lines_are_handed_over_at_exit_if_no_thread_can_be_started(monkeypatch: pytest.MonkeyPatch) -> None:
    def start(self) -> None:
        raise RuntimeError("can't start new thread at interpreter shutdown")

    channel = Channel(refusals=2)
    outlet = outlet_with(channel, b"a\n")
    with monkeypatch.context() as patched:
        patched.setattr(threading.Thread, "start", start)
        outlet.put()
    assert channel.taken == []
    assert outlet.finish(Deadline(30))
    assert channel.taken == [b"a\n"]


def test_a_line_that_is_appended_while_another_thread_sends_is_not_forgotten() -> None:
    lines = deque([b"a\n"])

    class Appending(Channel):
        def send(self, sent: bytes, count: int) -> None:
            super().send(sent, count)
            if sent == b"a\n":
                lines.append(b"b\n")
                outlet.put()  # as a thread that finds the lock held

    channel = Appending(refusals=0)
    outlet = ForkedOutlet(channel, lines, lambda: None)  # type: ignore[arg-type]
    outlet.put()
    assert channel.taken == [b"a\n", b"b\n"]


def test_the_end_of_a_child_waits_no_longer_than_its_deadline() -> None:
    outlet = outlet_with(Channel(refusals=1 << 30), b"a\n")
    assert not outlet.finish(Deadline(0.1))


def test_lines_that_a_thread_is_just_sending_are_not_yet_handed_over() -> None:
    """They are in neither the outbox nor the host; a child that ended now would take them with it."""
    begun, may_end = threading.Event(), threading.Event()

    class SlowChannel(Channel):
        def send(self, lines: bytes, count: int) -> None:
            begun.set()
            may_end.wait(30)
            super().send(lines, count)

    channel = SlowChannel(refusals=0)
    outlet = outlet_with(channel, b"a\n")
    sender = threading.Thread(target=outlet.put)
    sender.start()
    begun.wait(30)
    assert not outlet.finish(Deadline(0.1))
    may_end.set()
    assert outlet.finish(Deadline(30))
    assert (channel.taken, outlet.handed_over) == ([b"a\n"], 1)
    sender.join()


def test_an_interrupt_at_any_point_of_a_finish_does_not_leave_the_lock_held() -> None:
    for n in itertools.count(1):
        outlet = outlet_with(Channel(refusals=1), b"a\n")
        point = Point(n, raising(Interrupt))
        with suppress(Interrupt), point:
            outlet.finish(Deadline(30))
        assert not outlet._lock.locked(), point.place
        if not point.reached:
            return


def test_the_host_receives_no_more_at_once_than_it_has_time_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("socketpusher.host.forked.RECEIVE_BYTES", 10)
    channel = ForkChannel()
    for _ in range(5):
        list(channel.sending(b"12345\n", 1))
    assert [len(list(channel.receive())) for _ in range(4)] == [2, 2, 1, 0]
    channel.close()


def test_why_lines_can_not_be_handed_over_is_told_once() -> None:
    class Broken(Channel):
        def send(self, lines: bytes, count: int) -> None:
            raise OSError(errno.EMFILE, "Too many open files")

    told: list[OSError] = []
    outlet = ForkedOutlet(Broken(0), deque([b"a\n"]), told.append)  # type: ignore[arg-type]
    outlet.put()
    outlet._lines.append(b"b\n")
    outlet.put()
    assert (outlet.lost, outlet.waiting(), [error.errno for error in told]) == (2, 0, [errno.EMFILE])


def test_lines_that_a_full_socket_refuses_still_wait() -> None:
    outlet = outlet_with(Channel(refusals=10**9), b"a\n", b"b\n")
    outlet._hand_over()
    assert (outlet.waiting(), outlet.handed_over) == (2, 0)
