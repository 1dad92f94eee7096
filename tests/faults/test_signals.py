"""Pushers that are closed from signal handlers and other threads, at any moment."""

import os
import socket
import threading
import time
from collections.abc import Iterator

import pytest

from socketpusher import Bus, Event, PusherConfig, SocketPusher
from support import producer_script
from support.consumer import Consumer
from support.hostile import HELPERS, writers_of
from support.profile import scaled
from support.waiting import is_running, wait_for


@pytest.mark.parametrize("name", ["SIGALRM", "SIGTERM"])
@pytest.mark.parametrize("between", ["pass", "time.sleep(0)", "pusher.flush(1)"])
def test_close_in_a_signal_handler_keeps_its_deadline_while_the_same_thread_emits(
    consumer: Consumer, name: str, between: str
) -> None:
    """What lies between two events decides how often an `emit` finds nothing on its way, and hands over by itself."""
    lines = f"""{HELPERS}
import faulthandler, random
def on_signal(*_):
    global took
    began = now()
    pusher.close(1)
    took = now() - began
signal.signal(signal.{name}, on_signal)
sent = 0
for attempt in range({scaled(6)}):
    took = None
    pusher = SocketPusher(bus, config)
    pusher.start()
    if "{name}" == "SIGALRM":
        signal.setitimer(signal.ITIMER_REAL, random.uniform(0.0005, 0.02))
    else:
        threading.Timer(random.uniform(0.0005, 0.02), os.kill, (os.getpid(), signal.SIGTERM)).start()
    faulthandler.dump_traceback_later(20, exit=True)
    while took is None:
        emit(1)
        try:
            {between}
        except RuntimeError:
            pass  # closed meanwhile
    faulthandler.cancel_dump_traceback_later()
    assert took < 3, took
    assert books()[3] == 0
    sent += pusher.stats().sent
print("done", sent, flush=True)
os._exit(0)
"""
    code, output, errors = producer_script.run(lines, consumer.path, timeout=120)
    assert (code, output[:5]) == (0, "done "), errors
    wait_for(lambda: consumer.torn() == [b""] * len(consumer.connections) and len(consumer.connections) == scaled(6))
    assert len(consumer.lines()) >= int(output.split()[1])


def test_interrupts_at_any_moment_of_start_leave_nothing_behind(consumer: Consumer) -> None:
    lines = f"""{HELPERS}
import random
for attempt in range({scaled(40)}):
    pusher = SocketPusher(bus, config)
    signal.setitimer(signal.ITIMER_REAL, random.uniform(0.0001, 0.15))
    signal.signal(signal.SIGALRM, signal.default_int_handler)
    try:
        pusher.start()
        emit(1)
        while signal.getitimer(signal.ITIMER_REAL)[0]:
            time.sleep(0.001)
    except KeyboardInterrupt:
        pass
    signal.signal(signal.SIGALRM, signal.SIG_IGN)
    pusher.close(1)
    assert not pusher.connected
    assert pusher.stats().writer_pid is None
emit(1)
until(lambda: not writers(), "the end of every writer")
until(lambda: threading.active_count() == 1, "the end of every thread")
print("done", flush=True)
"""
    code, output, errors = producer_script.run(lines, consumer.path, timeout=120)
    assert (code, output) == (0, "done\n"), errors


def test_a_host_that_waits_for_a_signal_gets_it(consumer: Consumer) -> None:
    """A thread that does not hold it back would get it, and the default of most signals ends the process."""
    lines = f"""{HELPERS}
pusher.start()
emit(1)
signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR1])
for _ in range(20):
    os.kill(os.getpid(), signal.SIGUSR1)
    assert signal.sigtimedwait([signal.SIGUSR1], 10).si_signo == signal.SIGUSR1
pusher.close()
print("done")
"""
    code, output, errors = producer_script.run(lines, consumer.path)
    assert (code, output) == (0, "done\n"), errors


# Closing while `start` waits


@pytest.fixture
def busy_listener(socket_path: str) -> Iterator[str]:
    """It never accepts, and its queue is full, so whoever connects has to wait."""
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(socket_path)
    listener.listen(0)
    waiting = []
    while True:
        client = socket.socket(socket.AF_UNIX)
        client.setblocking(False)
        waiting.append(client)
        try:
            client.connect(socket_path)
        except BlockingIOError:
            break
    yield socket_path
    for client in waiting:
        client.close()
    listener.close()
    os.unlink(socket_path)


def test_close_in_another_thread_ends_a_start_that_waits(bus: Bus, busy_listener: str) -> None:
    pusher = SocketPusher(bus, PusherConfig(socket_path=busy_listener))
    raised: list[BaseException] = []

    def start() -> None:
        try:
            pusher.start(60)
        except (OSError, RuntimeError) as error:
            raised.append(error)

    starting = threading.Thread(target=start)
    starting.start()
    wait_for(lambda: writers_of(os.getpid()) or not starting.is_alive())
    began = time.monotonic()
    pusher.close(1)
    starting.join(20)
    took = time.monotonic() - began
    starting.join()
    assert len(raised) == 1
    assert took < 20
    assert not writers_of(os.getpid())
    assert not pusher.connected
    with pytest.raises(RuntimeError):
        pusher.start()


@pytest.mark.parametrize("wait", [0.05, 0.3])
def test_close_in_a_signal_handler_ends_a_start_that_waits(busy_listener: str, wait: float) -> None:
    lines = f"""{HELPERS}
def on_signal(*_):
    global began
    began = now()
    pusher.close(1)
signal.signal(signal.SIGALRM, on_signal)
signal.setitimer(signal.ITIMER_REAL, {wait})
try:
    pusher.start(50)
except (OSError, RuntimeError) as error:
    print("raised", now() - began < 11)
until(lambda: not writers() and threading.active_count() == 1, "the end of all that was started")
print(pusher.stats().writer_pid, pusher.connected)
bus.emit(Event("x"))
print(pusher.stats().emitted)
"""
    code, output, errors = producer_script.run(lines, busy_listener)
    assert (code, output) == (0, "raised True\nNone False\n0\n"), errors


def test_close_during_the_start_of_a_consumer_that_comes_at_that_moment_closes(consumer: Consumer) -> None:
    """Whatever `start` has reached: it raises or is closed right behind, and nothing runs afterwards."""
    lines = f"""{HELPERS}
import random
raised = 0
for attempt in range(40):
    pusher = SocketPusher(bus, config)
    closing = threading.Timer(random.uniform(0, 0.15), pusher.close, (1,))
    closing.start()
    try:
        pusher.start()
    except (OSError, RuntimeError):
        raised += 1
    closing.join()
    until(lambda: not writers(), "the end of the writer", 10)
    assert pusher.stats().writer_pid is None and not pusher.connected
print("done", threading.active_count())
"""
    code, output, errors = producer_script.run(lines, consumer.path, timeout=120)
    assert (code, output) == (0, "done 1\n"), errors


def test_every_caller_of_close_returns_only_when_the_writer_has_ended(bus: Bus, consumer: Consumer) -> None:
    pusher = SocketPusher(bus, PusherConfig(socket_path=consumer.path))
    pusher.start()
    consumer.stall()
    pid = pusher.stats().writer_pid
    assert pid is not None
    for _ in range(900):
        bus.emit(Event("x", payload="x" * 3000))  # more than the socket takes
    left: list[bool] = []

    def close() -> None:
        pusher.close(1)
        left.append(is_running(pid))

    threads = [threading.Thread(target=close) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert left == [False] * 3
    assert pusher.stats().pending == 0
    consumer.go_on()


def test_close_in_a_signal_handler_during_close_returns(consumer: Consumer) -> None:
    consumer.stall()
    lines = f"""{HELPERS}
took = None
def on_signal(*_):
    global took
    began = now()
    pusher.close(0.5)
    took = now() - began
signal.signal(signal.SIGALRM, on_signal)
pusher.start()
emit(900, payload="x" * 3000)
signal.setitimer(signal.ITIMER_REAL, 0.2)
began = now()
pusher.close(2)
print(took is not None and took < 12, now() - began < 14, books()[3], writers(), flush=True)
"""
    code, output, errors = producer_script.run(lines, consumer.path)
    consumer.go_on()
    assert (code, output) == (0, "True True 0 []\n"), errors


def test_a_signal_storm_of_emits_and_a_close_from_it_lose_no_count(consumer: Consumer) -> None:
    """Handlers emit at any bytecode of an `emit`; one of them closes."""
    lines = f"""{HELPERS}
count = 0
def on_signal(*_):
    global count
    count += 1
    bus.emit(Event("signal"))
    if count >= 500:
        signal.setitimer(signal.ITIMER_REAL, 0)
        pusher.close(2)
signal.signal(signal.SIGALRM, on_signal)
pusher.start()
signal.setitimer(signal.ITIMER_REAL, 2e-4, 2e-4)
emitted = 0
while count < 500:
    emit(1)
    emitted += 1
print(books()[3], pusher.stats().sent, flush=True)
"""
    code, output, errors = producer_script.run(lines, consumer.path)
    assert (code, output[:2]) == (0, "0 "), errors
    wait_for(lambda: consumer.torn() == [b""])
    assert len(consumer.lines()) == int(output.split()[1])
