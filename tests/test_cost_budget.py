"""What the speed comes from, in counts that do not depend on the machine; the times are in `benchmarks/`."""

import sys
from pathlib import Path

import pytest

from socketpusher import Bus, Event, PusherConfig, SocketPusher
from socketpusher.writer.backlog import Backlog
from socketpusher.writer.loop import WRITE_BYTES
from support.consumer import Consumer

EVENTS = 50_000


def system_calls_that_write() -> int:
    """How many this process has made, its feeder thread included."""
    return int(Path("/proc/self/io").read_text().split("syscw:")[1].split()[0])


@pytest.mark.skipif(sys.platform != "linux", reason="counted by /proc")
def test_a_burst_makes_few_batches_and_few_system_calls(bus: Bus, consumer: Consumer) -> None:
    """A put for each event would make two writes for each; one for all that waits makes few per thousand."""
    batches = 0
    with SocketPusher(bus, PusherConfig(socket_path=consumer.path, buffer_size=1 << 40)) as pusher:
        outbox = pusher._supervisor.outbox
        drain = outbox.drain

        def counting(token):
            nonlocal batches
            batches += 1
            return drain(token)

        outbox.drain = counting
        before = system_calls_that_write()
        for number in range(EVENTS):
            bus.emit(Event("task.completed", unit="app", task=number, payload={"file": "x" * 80}))
        assert pusher.flush(60)
        writes = system_calls_that_write() - before
        assert pusher.stats().sent == EVENTS
    assert batches < EVENTS / 100
    # Of a batch: its length and its bytes; of the flush, one; and what the consumer in this process logs, none.
    assert writes < EVENTS / 50


def test_emitting_makes_no_system_call_of_its_own(bus: Bus, consumer: Consumer) -> None:
    """With the mark set, as it is while the feeder thread has something to do, an event is appended and that is all."""
    with SocketPusher(bus, PusherConfig(socket_path=consumer.path)) as pusher:
        token = pusher._supervisor.outbox._token
        while not token.mark(False):
            pass
        before = system_calls_that_write()
        puts = len(token.queue._buffer)
        for number in range(500):
            bus.emit(Event("x", task=number))
        assert system_calls_that_write() == before
        assert len(token.queue._buffer) == puts
        token.taken()
        bus.emit(Event("x", task=500))
        assert consumer.wait_for_tasks(501) == list(range(501))


def test_bytes_are_offered_without_a_copy() -> None:
    """What the backlog offers are views of the batches that came out of the queue."""
    from socketpusher.channel.batch import Batch

    data = b"x" * 99 + b"\n"
    backlog = Backlog()
    batches = [Batch(n, n + 1, data * 1) for n in range(5)]
    for batch in batches:
        backlog.append(batch)
    backlog.connected(b"")
    for view, batch in zip(backlog.offer(WRITE_BYTES), batches, strict=True):
        assert view.obj is batch.data
