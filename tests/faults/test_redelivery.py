"""Consumers come and go: what one had not read goes to the next, which is first told where the run stands."""

import os
import random
import signal
import threading
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from socketpusher import Bus, Event, Graph, PusherConfig, SocketPusher
from socketpusher.channel.batch import Batch
from socketpusher.run_state import RunState, event_on
from socketpusher.wire import decode, encode
from socketpusher.writer.preface import Preface
from support.consumer import Consumer
from support.waiting import stop, wait_for

QUICK = {"reconnect_backoff": 0.005, "max_reconnect_backoff": 0.02}


def numbers(lines: list[bytes]) -> list[int]:
    """The n of each id."""
    return [int(line.rpartition(b"-")[2].rstrip(b'"}')) for line in lines]


def test_a_consumer_that_restarts_under_load_misses_nothing(bus: Bus, consumer: Consumer) -> None:
    config = PusherConfig(socket_path=consumer.path, buffer_size=1 << 40, event_ids=True, **QUICK)
    with SocketPusher(bus, config) as pusher:
        emitted = 0
        for turn in range(8):
            for _ in range(3000):
                bus.emit(Event("x", task=emitted))
                emitted += 1
            if turn % 2:
                consumer.stall()
            consumer.go_away()
            consumer.come_back()
        assert pusher.flush(60)
        stats = pusher.stats()
        assert (stats.sent, stats.dropped, stats.pending) == (emitted, 0, 0)
    wait_for(lambda: set(numbers(consumer.lines())) == set(range(1, emitted + 1)), timeout=60)
    repeated = len(consumer.lines()) - emitted
    assert repeated <= pusher.stats().resent  # also of what was sent again after the flush
    first = -1
    for pieces in consumer.connections:
        read = numbers(b"".join(pieces).split(b"\n")[:-1])
        if read:  # without a gap and without a repetition, and behind where the one before began
            assert read == list(range(read[0], read[0] + len(read)))
            assert read[0] >= first
            first = read[0]


def test_what_was_read_is_not_sent_again(bus: Bus, consumer: Consumer) -> None:
    config = PusherConfig(socket_path=consumer.path, **QUICK)
    with SocketPusher(bus, config) as pusher:
        for turn in range(5):
            for number in range(200):
                bus.emit(Event("x", task=turn * 200 + number))
            consumer.wait_for_tasks((turn + 1) * 200)
            consumer.go_away()
            consumer.come_back()
            wait_for(lambda turn=turn: pusher.connected and pusher.stats().reconnects == turn + 1)
        assert pusher.stats().resent == 0
    assert consumer.tasks() == list(range(1000))


def test_what_was_not_read_is_sent_again_first_and_counted(bus: Bus, consumer: Consumer) -> None:
    consumer.stall()
    with SocketPusher(bus, PusherConfig(socket_path=consumer.path, **QUICK)) as pusher:
        bus.emit(Event("x", task=0))  # one read that has begun may still end
        assert pusher.flush(30)
        for number in range(1, 101):
            bus.emit(Event("x", task=number))
        assert pusher.flush(30)
        assert pusher.stats().sent == 101
        consumer.die_unread()
        wait_for(lambda: not pusher.connected)
        wait_for(lambda: pusher.stats().pending >= 99)
        bus.emit(Event("x", task=101))
        consumer.go_away()
        consumer.come_back()
        assert pusher.flush(30)
        stats = pusher.stats()
        assert (stats.sent, stats.dropped) == (102, 0)
        assert stats.resent >= 99
    tasks = [task for task in consumer.tasks() if task is not None]
    wait_for(lambda: set(consumer.tasks()) == set(range(102)))
    assert tasks == sorted(tasks)


@pytest.mark.parametrize("overflow", ["drop_newest", "drop_oldest"])
def test_with_ids_every_gap_is_a_counted_loss(bus: Bus, consumer: Consumer, overflow: str) -> None:
    consumer.stall()
    config = PusherConfig(socket_path=consumer.path, buffer_size=50, event_ids=True, overflow=overflow)
    with SocketPusher(bus, config) as pusher:
        for number in range(20_000):
            bus.emit(Event("x", task=number))
        wait_for(lambda: pusher.stats().pending <= 50)
        consumer.go_on()
        assert pusher.flush(30)
        bus.emit(Event("x", task=20_000))
        assert pusher.flush(30)
        stats = pusher.stats()
        assert stats.dropped > 0
    wait_for(lambda: len(consumer.lines()) == stats.sent)
    received = numbers(consumer.lines())
    assert received == [event.task + 1 for event in consumer.events() if event.task is not None]
    assert received == sorted(set(received))
    assert received[-1] == 20_001
    assert 20_001 - len(received) == stats.dropped
    if overflow == "drop_oldest":  # what a live display wants; of the 50 that waited one was half on the socket
        assert received[-50:] == list(range(20_001 - 49, 20_002))
    else:
        assert received[:-1] == list(range(1, len(received)))
    sessions = {line.rpartition(b'"id":"')[2].partition(b"-")[0] for line in consumer.lines()}
    assert len(sessions) == 1


def test_ids_count_what_the_host_dropped_too(bus: Bus, consumer: Consumer, monkeypatch: pytest.MonkeyPatch) -> None:
    import os
    import signal

    monkeypatch.setattr("socketpusher.host.outbox.IN_FLIGHT_BYTES", 100_000)
    config = PusherConfig(socket_path=consumer.path, event_ids=True, buffer_size=1 << 40)
    with SocketPusher(bus, config) as pusher:
        pid = pusher.stats().writer_pid
        assert pid is not None
        bus.emit(Event("x", task=1))
        consumer.wait_for_tasks(1)
        stop(pid)
        for number in range(2, 5001):
            bus.emit(Event("x", task=number, payload="x" * 100))
        dropped = pusher.stats().dropped
        assert dropped > 0
        os.kill(pid, signal.SIGCONT)
        assert pusher.flush(30)
        for number in range(5001, 5011):
            bus.emit(Event("x", task=number))
        assert pusher.flush(30)
        assert pusher.stats().dropped == dropped
    wait_for(lambda: len(consumer.lines()) == 5010 - dropped)
    received = numbers(consumer.lines())
    assert received == [event.task for event in consumer.events()]  # the id is the place in the order of emits
    assert received[-10:] == list(range(5001, 5011))


# Where the run stands

UNITS = ["a", "b", "c", "d"]
GRAPH = Graph({"a": [], "b": ["a"], "c": ["a"], "d": ["b", "c"]}, tasks={"a": 3, "b": 2, "c": 1, "d": 4})


@st.composite
def runs(draw: st.DrawFn) -> list[Event]:
    """The events of a run, with units in any state at any time, and other events between them."""
    steps = st.one_of(
        st.builds(
            Event,
            type=st.sampled_from(["unit.queued", "unit.started", "unit.completed", "unit.failed", "unit.blocked"]),
            unit=st.sampled_from([*UNITS, "unknown"]),
            payload=st.sampled_from([None, {"total_tasks": 7, "completed_tasks": 1}, "odd"]),
        ),
        st.builds(Event, type=st.just("task.completed"), unit=st.sampled_from(UNITS), task=st.integers(1, 9)),
        st.builds(Event, type=st.sampled_from(["task.started", "other"]), unit=st.sampled_from(UNITS)),
    )
    events = draw(st.lists(steps, max_size=25))
    started = Event("orch.started", payload=draw(st.sampled_from([None, {"label": "x"}])))
    return [*draw(st.lists(steps, max_size=2)), started, *events]


def picture(lines: list[bytes]) -> dict[str, tuple[str, int, int]]:
    """What a display that knows nothing of socketpusher draws: from the last `orch.started` or `graph` on."""
    state: RunState | None = None
    for line in lines:
        event = event_on(line)
        if event["type"] in ("graph", "orch.started"):
            state = RunState(event["payload"] if event["type"] == "graph" else event["payload"]["graph"])
        elif state is not None:
            state.apply(event)
    assert state is not None
    return {node["id"]: tuple(state.unit_state(node["id"])) for node in state.payload()["nodes"]}


@given(runs(), st.data())
def test_a_consumer_that_starts_in_the_middle_ends_with_the_same_picture(run: list[Event], data: st.DataObject) -> None:
    """The preface, fed as the writer does it: what was read first, then the preface, then the rest."""
    preface = Preface(GRAPH.payload(), 2, 1 << 20)
    lines = [preface.fill_in_graph(Batch(n, n + 1, encode(event))).data for n, event in enumerate(run)]
    restart = data.draw(st.integers(0, len(run)))
    from_the_start = [*preface.lines().splitlines(), *lines]
    for line in lines[:restart]:
        preface.observe(line)
    if data.draw(st.booleans()):  # another writer takes over
        before, preface = preface, Preface(GRAPH.payload(), 2, 1 << 20)
        preface.observe(before.digest())
    opening = preface.lines().splitlines()
    assert decode(opening[0]).type == "graph"
    if any(event.type == "orch.started" for event in run[:restart]):
        assert decode(opening[1]).type == "orch.started"
    assert picture([*opening, *lines[restart:]]) == picture(from_the_start)


def test_a_display_that_restarts_under_load_ends_with_the_same_picture(bus: Bus, consumer: Consumer) -> None:
    """The same through real sockets: `choo web` reads `orch.started` and ignores `graph`."""
    random.seed(7)
    pusher = SocketPusher(bus, PusherConfig(socket_path=consumer.path, buffer_size=1 << 40, **QUICK))
    pusher.set_graph(GRAPH, parallelism=2)
    with pusher:
        bus.emit(Event("unit.started", "a"))  # before the run: forgotten when it starts
        bus.emit(Event("orch.started"))
        for turn in range(6):
            for _ in range(300):
                kind = random.choice(["unit.queued", "unit.started", "unit.completed", "unit.failed", "task.completed"])
                bus.emit(Event(kind, random.choice(UNITS), task=random.randint(1, 9) if kind[0] == "t" else None))
            if turn < 5:
                consumer.go_away()
                consumer.come_back()
        bus.emit(Event("last"))
        assert pusher.flush(60)
    wait_for(lambda: b'"last"' in consumer.lines()[-1])
    last = b"".join(consumer.connections[-1]).split(b"\n")[:-1]
    assert decode(last[0]).type == "graph"
    truth: dict[str, str] = {}
    completed = dict.fromkeys(UNITS, 0)
    statuses = {"queued": "ready", "started": "in_progress", "completed": "complete", "failed": "failed"}
    seen = {id: line for line in consumer.lines() if (id := line.split(b'"time":"')[1][:40])}  # each event once
    for event in sorted(map(decode, seen.values()), key=lambda event: str(event.time)):
        if event.type == "orch.started":
            truth, completed = dict.fromkeys(UNITS, "pending"), dict.fromkeys(UNITS, 0)
        elif event.type == "task.completed":
            completed[event.unit] = max(completed[event.unit], event.task or 0)
        elif event.type.startswith("unit."):
            truth[event.unit] = statuses[event.type[5:]]
            completed[event.unit] *= event.type != "unit.started"  # which begins anew
    assert {u: (s, c) for u, (s, _, c) in picture(last).items()} == {u: (truth[u], completed[u]) for u in UNITS}


def test_after_the_run_a_new_consumer_gets_its_whole_state(bus: Bus, consumer: Consumer) -> None:
    pusher = SocketPusher(bus, PusherConfig(socket_path=consumer.path, **QUICK))
    pusher.set_graph({"a": []}, 1)
    with pusher:
        for event in (Event("orch.started"), Event("unit.completed", "a"), Event("orch.completed")):
            bus.emit(event)
        consumer.wait_for_tasks(3)
        consumer.go_away()
        consumer.come_back()
        wait_for(lambda: len(consumer.connections) == 2 and consumer.connections[-1])
        bus.emit(Event("last"))
        assert pusher.flush(30)
    wait_for(lambda: len(consumer.lines()) == 9)
    first, again = consumer.events()[:4], consumer.events()[4:8]
    assert again[1:] == first[1:]
    assert (again[0].type, again[0].payload["nodes"][0]["status"]) == ("graph", "complete")


def test_repeated_lines_are_marked_and_not_counted(bus: Bus, consumer: Consumer) -> None:
    with SocketPusher(bus, PusherConfig(socket_path=consumer.path, event_ids=True, **QUICK)) as pusher:
        for event in (Event("x"), Event("unit.started", "a"), Event("y")):
            bus.emit(event)
        consumer.wait_for_tasks(3)
        consumer.go_away()
        consumer.come_back()
        wait_for(lambda: len(consumer.lines()) == 4)
        stats = pusher.stats()
        assert (stats.emitted, stats.sent, stats.resent) == (3, 3, 0)
    started, again = (event_on(consumer.lines()[number]) for number in (1, 3))
    assert again == {**started, "retained": True}


def test_a_graph_that_only_orch_started_brings_is_kept_up_to_date_too(bus: Bus, consumer: Consumer) -> None:
    with SocketPusher(bus, PusherConfig(socket_path=consumer.path, **QUICK)) as pusher:
        bus.emit(Event("orch.started", payload={"unit_count": 4, "parallelism": 3, "graph": GRAPH.payload()}))
        bus.emit(Event("unit.completed", "a"))
        consumer.wait_for_tasks(2)
        consumer.go_away()
        consumer.come_back()
        wait_for(lambda: len(consumer.connections) == 2)
        bus.emit(Event("last"))
        assert pusher.flush(30)
    wait_for(lambda: len(consumer.lines()) == 6)
    started, completed, graph, *again, last = consumer.events()
    assert again == [started, completed]
    assert last.type == "last"
    assert [node["status"] for node in graph.payload["nodes"]] == ["complete", "pending", "pending", "pending"]


@given(runs(), st.data())
def test_events_that_come_twice_up_to_the_last_do_not_change_what_is_newest(
    run: list[Event], data: st.DataObject
) -> None:
    again = data.draw(st.integers(0, len(run)))
    preface = Preface(GRAPH.payload(), 2, 1 << 20)
    lines = [preface.fill_in_graph(Batch(n, n + 1, encode(event))).data for n, event in enumerate(run)]
    assert picture([*lines, *lines[again:]]) == picture(lines)


def test_a_flush_returns_when_unread_lines_are_sent_again(bus: Bus, consumer: Consumer) -> None:
    """The same number may be flushed twice: what was on the socket the first time was never read."""
    pusher = SocketPusher(bus, PusherConfig(socket_path=consumer.path, write_timeout=60, **QUICK))
    pusher.set_graph({f"unit-{number:05}": [] for number in range(8000)}, 4)  # more than a socket takes
    with pusher:
        writer = pusher.stats().writer_pid
        assert writer is not None
        wait_for(lambda: len(consumer.lines()) == 1)
        consumer.stall()
        bus.emit(Event("x"))
        consumer.wait_for_tasks(1)  # the read that has begun ends with it
        stop(writer)  # so that the first flush has to be reported
        for number in range(10):
            bus.emit(Event("x", task=number))
        threading.Timer(0.2, os.kill, (writer, signal.SIGCONT)).start()
        assert pusher.flush(60)
        consumer.die_unread()
        wait_for(lambda: pusher.stats().pending > 0)
        consumer.come_back()
        wait_for(lambda: pusher.connected)
        threading.Timer(0.5, consumer.go_on).start()
        begun = time.monotonic()
        assert pusher.flush(30)
        assert time.monotonic() - begun < 15
