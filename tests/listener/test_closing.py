"""Closing a listener ends its iteration, whoever closes it and when; and what a closed one says."""

import asyncio
import os
import random
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable

import pytest

from socketpusher import Event, listen
from socketpusher.listener.listener import Listener
from support.senders import line, send, sender_to
from support.waiting import wait_for


def test_a_closed_listener_yields_nothing_more(socket_path: str) -> None:
    listener = listen(socket_path, raw=True)
    send(socket_path, line(1) + line(2))
    assert next(listener) == line(1)
    listener.close()
    listener.close()
    assert list(listener) == []


def test_closing_in_the_loop_ends_it_although_events_are_in_memory(socket_path: str) -> None:
    received = []
    listener = listen(socket_path, raw=True)
    send(socket_path, line(1) + line(2) + line(3))
    for item in listener:
        received.append(item)
        listener.close()
    assert received == [line(1)]


def in_a_loop(listener: Listener[bytes]) -> list[bytes]:
    return list(listener)


def by_next(listener: Listener[bytes]) -> list[bytes]:
    return list(iter(lambda: next(listener, b""), b""))


def by_read(listener: Listener[bytes]) -> list[bytes]:
    items = []
    try:
        while True:
            items += listener.read()
    except ValueError as error:
        assert "the listener is closed" in str(error)
    return items


def by_hold(listener: Listener[bytes]) -> list[bytes]:
    items = []
    try:
        while True:
            items += listener.read(hold=True)
            listener.release()
    except ValueError as error:
        assert "the listener is closed" in str(error)
    return items


async def _all(listener: Listener[bytes]) -> list[bytes]:
    return [item async for item in listener]


def in_asyncio(listener: Listener[bytes]) -> list[bytes]:
    return asyncio.run(_all(listener))


FORMS = [in_a_loop, by_next, by_read, by_hold, in_asyncio]
Form = Callable[[Listener[bytes]], list[bytes]]


@pytest.mark.parametrize("form", FORMS)
def test_closing_from_another_thread_wakes_who_waits_and_disconnects_senders(socket_path: str, form: Form) -> None:
    listener = listen(socket_path, raw=True)
    items: list[bytes] = []
    reading = threading.Thread(target=lambda: items.extend(form(listener)))
    reading.start()
    with sender_to(socket_path) as sender:
        sender.sendall(line("line") + b"half of a")
        wait_for(lambda: listener.sender and _sleeps(reading.ident))
        listener.close()
        reading.join()
        assert not os.path.exists(socket_path)
        try:
            assert sender.recv(1) == b""
        except ConnectionResetError:
            pass
    assert items == [line("line")]
    assert listener.senders == ()


def _sleeps(thread: int | None) -> bool:
    frame = sys._current_frames().get(thread or 0)
    return frame is not None and frame.f_code.co_name == "select"


class Flood:
    """Sends whole lines over several connections until the listener is closed."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._threads = [threading.Thread(target=self._send) for _ in range(3)]
        for thread in self._threads:
            thread.start()

    def _send(self) -> None:
        try:
            while True:
                with socket.socket(socket.AF_UNIX) as sender:
                    sender.connect(self._path)
                    for _ in range(random.randrange(1, 50)):
                        sender.sendall(line("x" * random.randrange(2000)) * random.randrange(1, 5))
        except OSError:
            pass

    def join(self) -> None:
        for thread in self._threads:
            thread.join()


def close_soon(listener: Listener[bytes], by: str) -> None:
    time.sleep(random.random() * 0.02)  # the moment is what is tried
    if by == "signal":
        os.kill(os.getpid(), signal.SIGUSR1)
    else:
        listener.close()


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("by", ["signal", "thread"])
def test_closing_at_any_moment_ends_the_iteration_without_an_error(socket_path: str, form: Form, by: str) -> None:
    problems: list[object] = []
    for _ in range(15):
        listener = listen(socket_path, raw=True, on_problem=problems.append)
        flood = Flood(socket_path)
        before = signal.signal(signal.SIGUSR1, lambda number, frame, listener=listener: listener.close())
        try:
            closing = threading.Thread(target=close_soon, args=(listener, by))
            closing.start()
            items = form(listener)
            closing.join()
            flood.join()
        finally:
            signal.signal(signal.SIGUSR1, before)
        assert {item[:9] for item in items} <= {b'{"type":"'}
        assert not os.path.exists(socket_path)
    assert problems == []


@pytest.mark.parametrize("use", [lambda one: one.read(), lambda one: one.fileno(), lambda one: one.release()])
@pytest.mark.parametrize("used", [False, True])
def test_a_closed_listener_says_so(socket_path: str, use: Callable[[Listener[Event]], object], used: bool) -> None:
    listener = listen(socket_path)
    if used:
        listener.fileno()
    listener.close()
    with pytest.raises(ValueError, match="the listener is closed; make a new one"):
        use(listener)
    with pytest.raises(StopIteration):
        next(listener)
    assert "closed" in repr(listener)


def test_a_listener_that_holds_something_closes(socket_path: str) -> None:
    listener = listen(socket_path)
    with sender_to(socket_path) as sender:
        sender.sendall(line(1))
        while not listener.read(hold=True):
            listener.release()
        listener.fileno()
        listener.close()
        with pytest.raises(ConnectionResetError):  # so a pusher knows that it was not read
            sender.recv(1)


def test_a_signal_that_closes_wakes_an_event_loop_that_sleeps(socket_path: str) -> None:
    listener = listen(socket_path, raw=True)
    before = signal.signal(signal.SIGUSR1, lambda number, frame: listener.close())
    main = threading.get_ident()
    closing = threading.Thread(target=lambda: (wait_for(lambda: _sleeps(main)), os.kill(os.getpid(), signal.SIGUSR1)))
    try:
        closing.start()
        assert in_asyncio(listener) == []
        closing.join()
    finally:
        signal.signal(signal.SIGUSR1, before)


def test_a_socket_file_that_can_not_be_removed_does_not_leave_half_a_listener(
    socket_path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    listener = listen(socket_path, raw=True)
    with sender_to(socket_path) as sender:
        sender.sendall(line(1))
        assert next(listener) == line(1)

        def refuse(path: str) -> None:
            raise PermissionError(13, "Permission denied", path)

        with monkeypatch.context() as patched:
            patched.setattr("os.unlink", refuse)
            with pytest.raises(PermissionError):
                listener.close()
        assert sender.recv(1) == b""
    assert list(listener) == []
    listener.close()  # now it can
    assert not os.path.exists(socket_path)
