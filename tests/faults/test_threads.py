"""Emitting from wherever code can run."""

import collections
import gc
import signal
import threading

import pytest

from socketpusher import Bus, Event, PusherConfig, SocketPusher
from socketpusher.host import outbox as outbox_module
from support.consumer import Consumer
from support.waiting import wait_for

UNLIMITED = 1 << 40


def test_events_of_one_thread_arrive_in_its_order_and_none_is_lost(bus: Bus, consumer: Consumer) -> None:
    threads, each = 8, 2000
    with SocketPusher(bus, PusherConfig(socket_path=consumer.path, buffer_size=UNLIMITED)) as pusher:

        def work(name: str) -> None:
            for number in range(each):
                bus.emit(Event("x", unit=name, task=number))

        workers = [threading.Thread(target=work, args=(str(i),)) for i in range(threads)]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
        assert pusher.flush(30)
        assert pusher.stats().emitted == pusher.stats().sent == threads * each
    consumer.wait_for_tasks(threads * each)
    order: dict[str, list[int | None]] = collections.defaultdict(list)
    for event in consumer.events():
        order[event.unit].append(event.task)
    assert order == {str(i): list(range(each)) for i in range(threads)}


def test_a_signal_handler_may_emit_while_the_same_thread_emits(bus: Bus, consumer: Consumer) -> None:
    """A timer signal every 50 microseconds falls into every part of `emit`, the queue's lock included."""
    signalled = 0

    def on_signal(*_: object) -> None:
        nonlocal signalled
        signalled += 1
        bus.emit(Event("signal", task=signalled))

    with SocketPusher(bus, PusherConfig(socket_path=consumer.path, buffer_size=UNLIMITED)) as pusher:
        before = signal.signal(signal.SIGALRM, on_signal)
        signal.setitimer(signal.ITIMER_REAL, 50e-6, 50e-6)
        try:
            emitted = 0
            while signalled < 2000:
                emitted += 1
                bus.emit(Event("main", task=emitted))
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, before)
        assert pusher.flush(30)
        stats = pusher.stats()
    assert stats.emitted == stats.sent == emitted + signalled
    events = list(consumer.events())
    wait_for(lambda: len(consumer.lines()) == emitted + signalled)
    events = consumer.events()
    assert [e.task for e in events if e.type == "main"] == list(range(1, emitted + 1))
    # A signal may interrupt the handler of the one before.
    assert sorted(e.task for e in events if e.type == "signal") == list(range(1, signalled + 1))


def test_a_finalizer_may_emit_wherever_the_garbage_collector_calls_it(bus: Bus, consumer: Consumer) -> None:
    """The collector runs at almost every allocation, in the pusher's thread too."""
    finalized: collections.Counter[int] = collections.Counter()

    class Emits:
        def __init__(self) -> None:
            self.itself = self  # so that only the collector can end it

        def __del__(self) -> None:
            finalized[threading.get_ident()] += 1
            bus.emit(Event("finalizer"))

    thresholds = gc.get_threshold()
    with SocketPusher(bus, PusherConfig(socket_path=consumer.path, buffer_size=UNLIMITED)) as pusher:
        gc.set_threshold(3, 2, 2)
        try:
            emitted = 0
            while len(finalized) < 2 or emitted < 20_000:
                emitted += 1
                Emits()
                bus.emit(Event("main", task=emitted))
                assert emitted < 1_000_000, f"finalizers ran in {finalized} only"
        finally:
            gc.set_threshold(*thresholds)
        gc.collect()
        assert pusher.flush(30)
        stats = pusher.stats()
    assert stats.emitted == stats.sent == emitted + finalized.total()
    wait_for(lambda: len(consumer.lines()) == stats.sent)


def test_a_finalizer_may_flush_in_the_middle_of_an_emit(bus: Bus, consumer: Consumer) -> None:
    """Then it writes what the emit was about to write, which must not write it again."""
    interrupting = 0

    class Flushes:
        def __init__(self) -> None:
            self.itself = self

        def __del__(self) -> None:
            nonlocal interrupting
            if threading.current_thread() is threading.main_thread():
                interrupting += outbox.interrupted()
                pusher.flush(0)

    thresholds = gc.get_threshold()
    with SocketPusher(bus, PusherConfig(socket_path=consumer.path, buffer_size=UNLIMITED)) as pusher:
        assert pusher._supervisor is not None
        outbox = pusher._supervisor.outbox
        outbox_was, emitted = outbox_module.PUT_INTERVAL, 0
        outbox_module.PUT_INTERVAL = 0.0  # each emit writes
        try:
            while interrupting < 300 and emitted < 100_000:
                gc.set_threshold(0)
                Flushes()
                gc.set_threshold(emitted % 40 + 1, 1000, 1000)
                emitted += 1
                bus.emit(Event("main", task=emitted))
        finally:
            gc.set_threshold(*thresholds)
            outbox_module.PUT_INTERVAL = outbox_was
        assert pusher.flush(30)
        stats = pusher.stats()
    assert (stats.emitted, stats.sent, stats.pending) == (emitted, emitted, 0)
    assert consumer.wait_for_tasks(emitted) == list(range(1, emitted + 1))


def test_a_flush_in_a_signal_handler_that_has_interrupted_an_emit_sends_what_that_had_in_hand(
    bus: Bus, consumer: Consumer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The emit holds the lock of the outbox until the handler returns, so the pusher's thread can't do it."""
    with SocketPusher(bus, PusherConfig(socket_path=consumer.path)) as pusher:
        supervisor = pusher._supervisor
        assert supervisor is not None
        outbox, flushed = supervisor.outbox, []

        def interrupted(batch, real=outbox._make_frame):
            if outbox.interrupted() and not flushed:
                flushed.append(None)
                flushed[0] = pusher.flush(5)
            return real(batch)

        monkeypatch.setattr(outbox, "_make_frame", interrupted)
        wait_for(lambda: bus.emit(Event("x")) or flushed)
        assert flushed == [True]


def test_a_handler_of_the_same_bus_may_emit(bus: Bus, consumer: Consumer) -> None:
    bus.subscribe(lambda event: event.task < 100 and bus.emit(Event("x", task=event.task + 1)))
    with SocketPusher(bus, PusherConfig(socket_path=consumer.path)):
        bus.emit(Event("x", task=0))
    # The handler was subscribed before the pusher, so the innermost event comes first.
    assert consumer.wait_for_tasks(101) == list(range(100, -1, -1))
