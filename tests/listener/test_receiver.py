"""A listener without asyncio: reading, holding, waiting in a loop of one's own; and more senders than descriptors."""

import contextlib
import itertools
import select
import signal
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from socketpusher import Bus, Event, PusherConfig, SocketPusher, listen
from socketpusher.listener.listener import Listener
from support.interrupts import Interrupt, Point, raising, watching
from support.senders import line, send, sender_to, take, unread
from support.waiting import wait_for


def test_what_one_read_brought_is_handed_out_before_the_next(socket_path: str) -> None:
    with listen(socket_path, raw=True) as listener, sender_to(socket_path) as sender:
        sender.sendall(line(1) + line(2))
        assert next(listener) == line(1)
        sender.sendall(line(3))
        assert listener.read() == [line(2)]
        assert next(listener) == line(3)


def test_a_loop_of_ones_own_can_wait_for_the_listener(socket_path: str) -> None:
    with listen(socket_path, raw=True) as listener:
        assert select.select([listener], [], [], 0)[0] == []
        send(socket_path, line("line"))
        lines: list[bytes] = []
        while select.select([listener], [], [], 0)[0]:
            lines += listener.read()
        assert lines == [line("line")]


@pytest.mark.parametrize("hold", [False, True])
def test_a_connection_that_was_given_up_is_read_to_its_end_first(socket_path: str, hold: bool) -> None:
    """Its pusher sends the same events again on the next one. With a watcher that was stopped, there may be several."""
    old_lines = [line(n, f',"payload":"{"x" * 1000}"') for n in range(70)]
    with listen(socket_path, raw=True) as listener, sender_to(socket_path) as old, sender_to(socket_path) as new:
        for sender in (old, new):
            sender.sendall(line("first"))
            assert next(listener) == line("first")
        new.sendall(line("new"))
        old.sendall(b"".join(old_lines))
        old.close()
        got: list[bytes] = []
        while len(got) <= len(old_lines):
            got += listener.read(hold=hold)
            if hold:
                listener.release()
        assert got == [*old_lines, line("new")]


def test_what_is_held_stays_in_the_socket_until_it_is_released(socket_path: str) -> None:
    with listen(socket_path) as listener, sender_to(socket_path) as sender:
        sender.sendall(line(1) + line(2)[:10])
        assert _held(listener) == ["1"]
        sender.sendall(line(2)[10:])
        assert select.select([listener], [], [], 0)[0] == []
        assert unread(sender)
        listener.release()
        assert _held(listener) == ["2"]
        listener.release()
        assert not unread(sender)
        sender.sendall(line(3))
        assert next(listener).type == "3"
        sender.sendall(line(4))
        assert _held(listener) == ["4"]


def _held(listener: Listener[Event]) -> list[str]:
    while not (events := listener.read(hold=True)):
        listener.release()
    return [event.type for event in events]


def test_what_a_killed_listener_has_held_comes_to_the_next_one_and_no_more(socket_path: str, bus: Bus) -> None:
    command = [sys.executable, "-c", HOLD_AND_DIE, socket_path]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as killed:
        assert killed.stdout.readline() == "listening\n"
        with SocketPusher(bus, PusherConfig(socket_path=socket_path)) as pusher:
            bus.emit(Event("released"))
            assert killed.stdout.readline() == "released\n"
            wait_for(lambda: pusher._supervisor.ledger.read == 1)  # or it would come twice
            bus.emit(Event("held"))
            assert killed.stdout.readline() == "held\n"
            killed.wait(30)
            with listen(socket_path) as listener:
                bus.emit(Event("last"))
                assert [event.type for event in take(listener, 2)] == ["held", "last"]


HOLD_AND_DIE = """
import os, signal, sys
from socketpusher import listen
listener = listen(sys.argv[1])
print("listening", flush=True)
for _ in range(2):
    while not (events := listener.read(hold=True)):
        listener.release()
    if events[0].type == "released":
        listener.release()
    print(events[0].type, flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_ctrl_c_ends_the_wait_at_once_and_the_listener_goes_on(socket_path: str) -> None:
    main = threading.get_ident()
    with listen(socket_path, raw=True) as listener:
        interrupt = threading.Thread(
            target=lambda: (wait_for(lambda: _sleeps(main)), signal.pthread_kill(main, signal.SIGINT))
        )
        interrupt.start()
        with pytest.raises(KeyboardInterrupt):
            next(listener)
        interrupt.join()
        send(socket_path, line("later"))
        assert next(listener) == line("later")


def _sleeps(thread: int) -> bool:
    frame = sys._current_frames()[thread]
    return frame.f_code.co_name == "select"


def is_readable(listener: Listener[bytes]) -> bool:
    return select.select([listener], [], [], 0)[0] == [listener]


@pytest.mark.parametrize("asked", ["before", "meanwhile"])
def test_the_descriptor_is_readable_while_events_are_in_memory(socket_path: str, asked: str) -> None:
    with listen(socket_path, raw=True) as listener, sender_to(socket_path) as sender:
        if asked == "before":
            listener.fileno()
        sender.sendall(b"".join(map(line, range(5))))
        for number in range(5):
            assert next(listener) == line(number)
            assert is_readable(listener) == (number < 4)
        sender.sendall(b"".join(map(line, range(5))))
        for received in listener:
            if received == line(1):
                break
        assert is_readable(listener)
        assert listener.read() == [line(2), line(3), line(4)]
        assert not is_readable(listener)


def test_the_descriptor_is_readable_while_an_iterator_has_events_in_memory(socket_path: str) -> None:
    with listen(socket_path, raw=True) as listener, sender_to(socket_path) as sender:
        listener.fileno()
        lines = iter(listener)
        for count in (3, 2, 1):
            sender.sendall(b"".join(map(line, range(count))))
            for number in range(count):
                assert next(lines) == line(number)
                assert is_readable(listener) == (number < count - 1)


def test_read_does_not_wait_while_the_descriptor_is_readable(socket_path: str) -> None:
    def raises(problem: object) -> None:
        raise LookupError(str(problem))

    with listen(socket_path, raw=True, on_problem=raises) as listener, sender_to(socket_path) as sender:
        lines = iter(listener)  # it does not know that somebody asks for the descriptor
        sender.sendall(line(1) + line(2))
        assert next(lines) == line(1)
        assert is_readable(listener)
        assert next(lines) == line(2)
        while is_readable(listener):
            assert listener.read() == []
        sender.sendall(line(3) + b"no event\n")
        assert next(listener) == line(3)
        with pytest.raises(LookupError):
            next(listener)
        while is_readable(listener):
            assert listener.read() == []


def test_a_read_before_the_release_is_refused(socket_path: str) -> None:
    with listen(socket_path) as listener, sender_to(socket_path) as sender:
        sender.sendall(line(1))
        assert _held(listener) == ["1"]
        for read in (lambda: listener.read(hold=True), listener.read, lambda: next(listener)):
            with pytest.raises(RuntimeError, match=r"call release\(\) first"):
                read()
        assert unread(sender)
        listener.release()
        listener.release()
        sender.sendall(line(2))
        assert _held(listener) == ["2"]


def test_a_second_thread_is_refused_and_the_first_one_goes_on(socket_path: str) -> None:
    received: list[bytes] = []
    with listen(socket_path, raw=True) as listener:
        first = threading.Thread(target=lambda: received.append(next(listener)))
        first.start()
        wait_for(lambda: _sleeps(first.ident))
        for use in (lambda: next(listener), lambda: list(listener), listener.read, listener.release):
            with pytest.raises(RuntimeError, match=r"another thread reads from the listener at .*; only one"):
                use()
        send(socket_path, line("line"))
        first.join()
        assert received == [line("line")]
        send(socket_path, line("next"))
        assert next(listener) == line("next")


class UnlockedUntilNow:
    """A lock that another thread acquires between `locked` and the next call."""

    def __init__(self, lock: Any) -> None:
        self._lock = lock
        self.acquire, self.release = lock.acquire, lock.release

    def locked(self) -> bool:
        return False

    def __enter__(self) -> None:
        self._lock.acquire()

    def __exit__(self, *exc_info: object) -> None:
        self._lock.release()


def test_of_two_threads_that_begin_at_once_one_is_refused_and_does_not_wait(socket_path: str) -> None:
    with ThreadPoolExecutor() as pool, listen(socket_path, raw=True) as listener:
        lock, listener._receiving = listener._receiving, UnlockedUntilNow(listener._receiving)
        with lock:
            error = pool.submit(next, listener).exception(timeout=30)
        assert isinstance(error, RuntimeError)


def test_an_exception_of_a_signal_handler_does_not_lock_the_listener(socket_path: str) -> None:
    with listen(socket_path, raw=True) as listener, watching():
        listener.fileno()
        for n in itertools.count(1):
            point = Point(n, raising(Interrupt))
            with contextlib.suppress(Interrupt), point:
                listener.release()  # as `read` takes its turn, without what an interrupt leaves of an `accept`
            assert not listener._receiving.locked(), point.place
            if not point.reached:
                break
        assert n > 5


def test_senders_wait_while_no_descriptor_is_left(socket_path: str) -> None:
    command = [sys.executable, "-c", FEW_DESCRIPTORS, socket_path]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as listening:
        assert listening.stdout.readline() == "listening\n"
        senders = {f"{number}\n": sender_to(socket_path) for number in range(60)}
        for number, sender in senders.items():
            sender.sendall(line(number.strip()))
        warning = listening.stderr.readline()
        for _ in range(60):
            senders.pop(listening.stdout.readline()).close()  # which makes room for another one
        assert listening.communicate()[1] == ""
    assert warning.startswith(f"can't accept another sender at {socket_path} yet: Too many open files; raise the limit")


FEW_DESCRIPTORS = """
import resource, sys
from socketpusher import listen
with listen(sys.argv[1]) as listener:
    resource.setrlimit(resource.RLIMIT_NOFILE, (30, 30))
    print("listening", flush=True)
    for count, event in enumerate(listener, 1):
        print(event.type, flush=True)
        if count == 60:
            break
"""


@pytest.mark.parametrize("form", ["thread", "asyncio", "select"])
def test_accepting_goes_on_by_itself_when_descriptors_are_free_again(socket_path: str, form: str) -> None:
    command = [sys.executable, "-c", NO_DESCRIPTOR, socket_path, form]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert (ended.returncode, ended.stdout) == (0, "line\n")
    assert ended.stderr.count("\n") == 1


NO_DESCRIPTOR = """
import asyncio, os, resource, select, socket, sys, threading
from socketpusher import listen
listener = listen(sys.argv[1])
sender = socket.socket(socket.AF_UNIX)

def take_all_descriptors():
    resource.setrlimit(resource.RLIMIT_NOFILE, (30, 30))
    taken = []
    try:
        while True:
            taken.append(os.dup(0))
    except OSError:
        pass
    threading.Timer(0.3, lambda: [os.close(fd) for fd in taken]).start()
    sender.connect(sys.argv[1])
    sender.sendall(b'{"type":"line","time":"2026-11-23T17:08:00Z"}\\n')

def in_a_loop_of_ones_own():
    select.select([listener], [], [], 0)  # no sender is connected, and nobody calls `read` until it is readable
    take_all_descriptors()
    events = []
    while not events:
        select.select([listener], [], [])
        events = listener.read()
    return events[0]

async def in_asyncio():
    reading = asyncio.ensure_future(anext(aiter(listener)))
    await asyncio.sleep(0)  # it waits from now on
    take_all_descriptors()
    return await reading

if sys.argv[2] == "asyncio":
    event = asyncio.run(in_asyncio())
elif sys.argv[2] == "select":
    event = in_a_loop_of_ones_own()
else:
    listener.fileno()
    take_all_descriptors()
    event = next(listener)
print(event.type)
listener.close()
"""
