"""What the speed comes from, in counts that do not depend on the machine; the times are in `benchmarks/`."""

import sys
import threading
from pathlib import Path

import pytest

from socketpusher import Bus, Event, PusherConfig, SocketPusher
from socketpusher.writer.backlog import Backlog
from socketpusher.writer.loop import WRITE_BYTES
from support.consumer import Consumer
from support.waiting import wait_for

EVENTS = 50_000


def system_calls_that_write(of: str = "self") -> int:
    """How many this process has made, or this thread: "thread-self"."""
    return int(Path(f"/proc/{of}/io").read_text().split("syscw:")[1].split()[0])


@pytest.mark.skipif(sys.platform != "linux", reason="counted by /proc")
def test_a_burst_makes_few_batches_and_few_system_calls(bus: Bus, consumer: Consumer) -> None:
    """A put for each event would make two writes for each; one for all that waits makes few per thousand."""
    with SocketPusher(bus, PusherConfig(socket_path=consumer.path, buffer_size=1 << 40)) as pusher:
        before = system_calls_that_write()
        for number in range(EVENTS):
            bus.emit(Event("task.completed", unit="app", task=number, payload={"file": "x" * 80}))
        assert pusher.flush(60)
        writes = system_calls_that_write() - before
        assert pusher.stats().sent == EVENTS
    assert writes < EVENTS / 50


def test_emitting_makes_no_system_call_of_its_own(bus: Bus, consumer: Consumer) -> None:
    """Between two writes of the thread that emits, an event is appended and that is all."""
    with SocketPusher(bus, PusherConfig(socket_path=consumer.path)) as pusher:
        outbox = pusher._supervisor.outbox
        outbox._write_at, outbox._wake_thread = float("inf"), lambda: None
        before = system_calls_that_write("thread-self")  # the pusher's own thread may write meanwhile
        for number in range(500):
            bus.emit(Event("x", task=number))
        assert system_calls_that_write("thread-self") == before
        outbox._write_at = 0.0
        bus.emit(Event("x", task=500))
        assert consumer.wait_for_tasks(501) == list(range(501))


def test_ten_more_events_start_no_thread(bus: Bus, consumer: Consumer) -> None:
    def ours() -> list[str]:  # the consumer has threads, too
        return [thread.name for thread in threading.enumerate() if thread.name.startswith("socketpusher")]

    with SocketPusher(bus, PusherConfig(socket_path=consumer.path)) as pusher:
        wait_for(lambda: ours() == ["socketpusher"])  # one that logs may just be ending
        for number in range(10):
            bus.emit(Event("x", task=number))
        assert pusher.flush(30)
        assert ours() == ["socketpusher"]


def test_bytes_are_offered_without_a_copy() -> None:
    """What the backlog offers are views of the batches that came out of the queue."""
    from socketpusher.channel.batch import Batch

    data = b"x" * 99 + b"\n"
    backlog = Backlog()
    batches = [Batch(n, n + 1, data * 1) for n in range(5)]
    for batch in batches:
        backlog.append(batch)
    backlog.connection_made(b"")
    for view, batch in zip(backlog.data_to_send(WRITE_BYTES), batches, strict=True):
        assert view.obj is batch.data
