"""The odd ends: consumers, paths and machines that misbehave."""

import os
import resource
import shutil
import socket
import subprocess
import sys
import threading
import time

import pytest

from socketpusher import Bus, Event, PusherConfig, SocketPusher, wire
from support import producer_script
from support.consumer import Consumer
from support.waiting import comes_to_rest, stop, wait_for

QUICK = {"reconnect_backoff": 0.01, "max_reconnect_backoff": 0.05}


@pytest.fixture
def listener(socket_path: str):
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(socket_path)
    listener.listen()
    yield listener
    listener.close()
    if os.path.exists(socket_path):
        os.unlink(socket_path)


# Consumers


def test_a_consumer_that_accepts_and_closes_for_ever_does_not_spin_the_writer_and_loses_nothing(
    bus: Bus, listener: socket.socket
) -> None:
    """Each connection takes the handshake and nothing more; the backoff must go on growing."""
    config = PusherConfig(socket_path=listener.getsockname(), reconnect_backoff=0.02, max_reconnect_backoff=10)
    pusher = SocketPusher(bus, config)
    pusher.set_graph({"a": []}, 1)
    with pusher:
        bus.emit(Event("x", task=1))
        times = []
        for _ in range(6):
            listener.accept()[0].close()
            times.append(time.monotonic())
        # 0.02, 0.04, 0.08, 0.16, 0.32: at the least, together
        assert times[-1] - times[0] >= 0.6
        last, _ = listener.accept()
        received = b""
        while b'"task":1' not in received:
            received += last.recv(65536)
        assert pusher.flush(30)
    last.close()


def test_a_consumer_that_reads_a_byte_at_a_time_gets_whole_lines(bus: Bus, listener: socket.socket) -> None:
    with SocketPusher(bus, PusherConfig(socket_path=listener.getsockname())) as pusher:
        connection, _ = listener.accept()
        for number in range(20):
            bus.emit(Event("x", task=number))
        received = b""
        while received.count(b"\n") < 20:
            received += connection.recv(1)
        assert pusher.flush(30)
    assert [wire.decode(line).task for line in received.splitlines()] == list(range(20))
    connection.close()


def test_a_consumer_that_talks_is_not_listened_to(bus: Bus, listener: socket.socket) -> None:
    with SocketPusher(bus, PusherConfig(socket_path=listener.getsockname())) as pusher:
        connection, _ = listener.accept()
        talking = threading.Thread(target=connection.sendall, args=(b"hello\n" * 1_000_000,))
        talking.start()
        bus.emit(Event("x", task=1))
        assert connection.recv(65536).endswith(b"\n")
        talking.join()  # everything was taken, so it never waited for good
        bus.emit(Event("x", task=2))
        assert b'"task":2' in connection.recv(65536)
        assert pusher.stats().reconnects == 0
    connection.close()


def test_a_consumer_that_half_closes_goes_on_receiving_and_costs_nothing(bus: Bus, listener: socket.socket) -> None:
    with SocketPusher(bus, PusherConfig(socket_path=listener.getsockname(), **QUICK)) as pusher:
        connection, _ = listener.accept()
        connection.shutdown(socket.SHUT_WR)
        bus.emit(Event("x", task=1))
        assert b'"task":1' in connection.recv(65536)
        comes_to_rest(pusher.stats().writer_pid)
        assert (pusher.connected, pusher.stats().reconnects) == (True, 0)
        connection.close()
        wait_for(lambda: pusher.stats().reconnects == 1)


def test_the_next_consumer_is_listened_to_again_after_one_that_half_closed(bus: Bus, listener: socket.socket) -> None:
    with SocketPusher(bus, PusherConfig(socket_path=listener.getsockname(), **QUICK)) as pusher:
        first, _ = listener.accept()
        first.shutdown(socket.SHUT_WR)
        bus.emit(Event("x"))
        assert first.recv(65536)
        first.close()
        second, _ = listener.accept()
        second.settimeout(30)
        second.sendall(b"x" * 4_000_000)  # which a socket nobody reads does not take
        assert pusher.stats().reconnects == 1
        second.close()


def test_a_consumer_that_reads_but_slowly_grows_neither_side_without_bound(bus: Bus, listener: socket.socket) -> None:
    """It takes something within every grace, so nothing is dropped in the writer, which reads no more than 8 MiB."""
    with SocketPusher(bus, PusherConfig(socket_path=listener.getsockname(), buffer_size=1)) as pusher:
        connection, _ = listener.accept()
        stop = threading.Event()

        def read() -> None:
            while not stop.wait(0.002):
                connection.recv(65536)

        reader = threading.Thread(target=read)
        reader.start()
        for _ in range(1000):  # 500 MB
            bus.emit(Event("x", payload="x" * 500_000))
            time.sleep(0.0005)
        with open(f"/proc/{pusher.stats().writer_pid}/status") as file:
            peak = int(file.read().split("VmHWM:")[1].split()[0]) / 1024
        stop.set()
        reader.join()
        connection.close()
        pusher.close(0)
    assert peak < 100  # MiB


def test_many_large_events_within_buffer_size_all_wait(bus: Bus, socket_path: str) -> None:
    """25 MB: `buffer_size` counts events, and what it allows is taken in, however large."""
    pusher = SocketPusher(bus, PusherConfig(socket_path=socket_path, **QUICK))
    pusher.start(wait=False)
    for number in range(250):
        bus.emit(Event("x", task=number, payload="x" * 100_000))
        wait_for(lambda number=number: pusher._supervisor.ledger.received > number)
    consumer = Consumer(socket_path)
    assert pusher.flush(30)
    pusher.close()
    assert consumer.wait_for_tasks(250) == list(range(250))
    consumer.go_away()


def test_a_consumer_that_reads_an_event_and_goes_is_followed_without_a_pause(bus: Bus, listener: socket.socket) -> None:
    config = PusherConfig(socket_path=listener.getsockname(), reconnect_backoff=3600, max_reconnect_backoff=3600)
    pusher = SocketPusher(bus, config)
    pusher.start()
    for number in range(4):
        bus.emit(Event("x", task=number))
        connection, _ = listener.accept()  # an hour would be too long
        assert connection.recv(65536).endswith(b"\n")
        connection.close()
    pusher.close(0)


def test_a_connection_that_was_quiet_but_lasted_is_followed_without_a_pause(bus: Bus, listener: socket.socket) -> None:
    config = PusherConfig(socket_path=listener.getsockname(), reconnect_backoff=0.3, max_reconnect_backoff=0.3)
    with SocketPusher(bus, config):
        quick = 0
        for lasting in (0.0, 0.5, 0.5):
            connection, _ = listener.accept()
            threading.Event().wait(lasting)  # how long it lasts is what matters
            connection.close()
            start = time.monotonic()
            listener.settimeout(30)
            listener.accept()[0].close()
            quick += time.monotonic() - start < 0.25
        assert quick >= 1  # the first never is; the machine may be busy at one of the others


def test_a_stalled_consumer_is_checked_with_longer_and_longer_pauses(bus: Bus, consumer: Consumer) -> None:
    consumer.stall()
    with SocketPusher(bus, PusherConfig(socket_path=consumer.path)) as pusher:
        for number in range(3):
            bus.emit(Event("x", task=number))
            assert pusher.flush(30)
        pid = pusher.stats().writer_pid
        before = switches(pid)
        threading.Event().wait(1.5)  # 20 ms, doubled again and again: 6 looks, where a steady one made 75
        assert switches(pid) - before <= 15
        consumer.go_on()


def switches(pid: int | None) -> int:
    with open(f"/proc/{pid}/status") as file:
        return int(file.read().split("voluntary_ctxt_switches:")[1].split()[0])


def test_a_consumer_that_dies_without_having_accepted_has_read_nothing(bus: Bus, listener: socket.socket) -> None:
    path = listener.getsockname()
    with SocketPusher(bus, PusherConfig(socket_path=path, **QUICK)) as pusher:
        for number in range(10):
            bus.emit(Event("x", task=number))
        assert pusher.flush(30)  # into the queue of a listener that never accepts
        listener.close()
        os.unlink(path)
        consumer = Consumer(path)
        assert consumer.wait_for_tasks(10) == list(range(10))
        assert pusher.flush(30)
        assert pusher.stats().resent == 10
    consumer.go_away()


# Paths


def test_a_path_that_becomes_something_else_is_tried_until_it_is_a_socket(bus: Bus, socket_path: str) -> None:
    """A directory, a file, a dangling link, a link to a socket."""
    pusher = SocketPusher(bus, PusherConfig(socket_path=socket_path, **QUICK))
    os.mkdir(socket_path)
    pusher.start(wait=False)
    bus.emit(Event("x", task=1))
    for make, remove in [
        (lambda: None, os.rmdir),
        (lambda: open(socket_path, "w").close(), os.unlink),
        (lambda: os.symlink(socket_path + ".real", socket_path), os.unlink),
    ]:
        make()
        assert not pusher.flush(0.1)
        assert pusher.stats().writer_restarts == 0
        remove(socket_path)
    consumer = Consumer(socket_path + ".real")
    os.symlink(consumer.path, socket_path)
    assert consumer.wait_for_tasks(1) == [1]
    pusher.close()
    os.unlink(socket_path)
    consumer.go_away()


def test_a_socket_replaced_while_we_are_connected_changes_nothing_until_we_reconnect(
    bus: Bus, consumer: Consumer
) -> None:
    with SocketPusher(bus, PusherConfig(socket_path=consumer.path, **QUICK)) as pusher:
        bus.emit(Event("x", task=1))
        consumer.wait_for_tasks(1)
        consumer.stop_listening()
        other = Consumer(consumer.path)
        bus.emit(Event("x", task=2))
        assert consumer.wait_for_tasks(2) == [1, 2]
        assert other.connections == []
        other.go_away()
        consumer.listen()
        assert pusher.connected


def test_a_relative_path_is_relative_to_where_the_host_started_it(bus: Bus, consumer: Consumer, monkeypatch) -> None:
    """Which is a way to use a path that is too long for a socket."""
    monkeypatch.chdir(os.path.dirname(consumer.path))
    with SocketPusher(bus, PusherConfig(socket_path=os.path.basename(consumer.path), **QUICK)) as pusher:
        os.chdir("/")
        consumer.go_away()
        consumer.come_back()
        bus.emit(Event("x", task=1))
        assert pusher.flush(30)
        consumer.wait_for_tasks(1)
        os.kill(pusher.stats().writer_pid or 0, 9)
        wait_for(lambda: pusher.stats().writer_restarts == 1)
        bus.emit(Event("x", task=2))
        assert pusher.flush(30)
    wait_for(lambda: set(consumer.tasks()) == {1, 2})


# The machine


def test_a_host_without_descriptors_gets_an_error_and_leaves_nothing(bus: Bus, consumer: Consumer) -> None:
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    lowest = os.dup(0)
    os.close(lowest)
    pusher = SocketPusher(bus, PusherConfig(socket_path=consumer.path))
    failed = 0
    for spare in range(60):
        resource.setrlimit(resource.RLIMIT_NOFILE, (lowest + spare, limits[1]))
        try:
            pusher.start()
        except OSError as error:
            failed += 1
            assert error.errno is not None
        else:
            break
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, limits)
        assert pusher.stats().writer_pid is None
    assert failed > 5
    bus.emit(Event("x", task=1))
    pusher.close()
    assert consumer.wait_for_tasks(1) == [1]


def test_a_host_that_runs_out_of_descriptors_later_gets_a_new_writer_when_it_can(bus: Bus, consumer: Consumer) -> None:
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    with SocketPusher(bus, PusherConfig(socket_path=consumer.path, **QUICK)) as pusher:
        pid = pusher.stats().writer_pid
        lowest = os.dup(0)
        os.close(lowest)
        resource.setrlimit(resource.RLIMIT_NOFILE, (lowest, limits[1]))
        try:
            os.kill(pid or 0, 9)
            wait_for(lambda: pusher.stats().writer_pid is None)
            bus.emit(Event("x", task=1))
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, limits)
        assert pusher.flush(30)
    assert consumer.wait_for_tasks(1) == [1]


# multiprocessing's resource tracker stays, with a descriptor, so it must be there before they are counted.
TRACKED = "from multiprocessing import resource_tracker; resource_tracker.ensure_running()\n"


@pytest.mark.skipif(os.geteuid() != 0 or shutil.which("unshare") is None, reason="needs root for a mount of its own")
@pytest.mark.parametrize("state", ["ro", "size=4k"])
def test_a_missing_shared_memory_is_reported(consumer: Consumer, state: str) -> None:
    """multiprocessing's semaphores need /dev/shm. Tried in a mount namespace, where it can't be written or is full."""
    lines = """
try:
    pusher.start()
except OSError as error:
    print(type(error).__name__, error)
print(threading.active_count(), len(os.listdir("/proc/self/fd")))
"""
    fill = "dd if=/dev/zero of=/dev/shm/full bs=4k count=1 2>/dev/null;" if state != "ro" else ""
    with open(consumer.path + ".py", "w") as file:
        file.write(
            producer_script.PROLOGUE
            + TRACKED
            + "before = len(os.listdir('/proc/self/fd'))\n"
            + lines
            + "print(before)\n"
        )
    command = f"mount -t tmpfs -o {state} none /dev/shm && {fill} exec {sys.executable} {file.name}"
    ended = subprocess.run(
        ["unshare", "-m", "sh", "-c", command],
        env={**os.environ, "SOCKET": consumer.path},
        capture_output=True,
        text=True,
        timeout=60,
    )
    os.unlink(file.name)
    if "unshare" in ended.stderr or "mount" in ended.stderr:
        pytest.skip(f"no mount of its own here: {ended.stderr}")
    first, counts, before = ended.stdout.splitlines()
    assert "/dev/shm" in first
    assert counts == f"1 {before}"
    assert ended.stderr == ""


def test_a_clock_that_is_set_back_changes_only_the_times_of_events(consumer: Consumer) -> None:
    """Every deadline is monotonic; here the wall clock jumps by an hour between any two looks at it."""
    lines = """
import datetime as d, random
from socketpusher import events
class Jumping(d.datetime):
    @classmethod
    def now(cls, tz=None):
        return d.datetime.now(tz) + d.timedelta(hours=random.choice([-1, 0, 1]))
events.datetime = Jumping
wall = time.time
time.time = lambda: wall() + random.choice([-3600, 0, 3600])
start = time.monotonic()
with pusher:
    for number in range(100):
        bus.emit(Event("x", task=number))
        assert number % 10 or pusher.flush(30)
assert time.monotonic() - start < 30
"""
    assert producer_script.run(lines, consumer.path) == (0, "", "")
    assert consumer.wait_for_tasks(100) == list(range(100))


def test_host_and_writer_frozen_for_longer_than_every_timeout_go_on(consumer: Consumer) -> None:
    """As when the machine is suspended, but that the consumer is awake: for longer than the write timeout."""
    lines = """
config = PusherConfig(socket_path=os.environ["SOCKET"], write_timeout=0.1)
pusher = SocketPusher(bus, config)
with pusher:
    for number in range(100):
        bus.emit(Event("x", task=number))
    print(pusher.stats().writer_pid, flush=True)
    sys.stdin.readline()
    for number in range(100, 200):
        bus.emit(Event("x", task=number))
    assert pusher.flush(30)
    assert pusher.stats().reconnects == 0
"""
    import signal

    host = producer_script.start(lines, consumer.path, stdin=subprocess.PIPE)
    assert host.stdout is not None
    writer = int(host.stdout.readline())
    for pid in (host.pid, writer):
        stop(pid)
    threading.Event().wait(0.3)  # the length of the suspension
    for pid in (writer, host.pid):
        os.kill(pid, signal.SIGCONT)
    _, errors = host.communicate("\n", timeout=60)
    assert (host.returncode, errors) == (0, "")
    assert consumer.wait_for_tasks(200) == list(range(200))
