"""The tests that the specification names, with real sockets and real processes."""

import itertools
import os
import time

import pytest

from socketpusher import Bus, Event, EventType, Graph, PusherConfig, PusherStats, SocketPusher, default_socket_path
from support.consumer import Consumer
from support.leftovers import writers
from support.waiting import wait_for


def test_socket_pusher_new(bus: Bus) -> None:
    config = SocketPusher(bus).config
    assert config == PusherConfig()
    assert config.socket_path == default_socket_path()
    assert (config.buffer_size, config.write_timeout) == (1000, 5.0)
    assert (config.reconnect_backoff, config.max_reconnect_backoff) == (0.1, 5.0)


@pytest.mark.parametrize("value", [0, -1])
def test_socket_pusher_new_takes_zero_and_negative_for_the_default(bus: Bus, value: int) -> None:
    given = PusherConfig(
        buffer_size=value,
        write_timeout=value,
        reconnect_backoff=value,
        max_reconnect_backoff=value,
        max_line_bytes=value,
    )
    assert SocketPusher(bus, given).config == PusherConfig()


def test_socket_pusher_new_keeps_what_is_given(bus: Bus) -> None:
    given = PusherConfig(
        socket_path="/x", buffer_size=7, write_timeout=1, reconnect_backoff=0.5, max_reconnect_backoff=2
    )
    config = SocketPusher(bus, given).config
    assert (config.socket_path, config.buffer_size, config.write_timeout) == ("/x", 7, 1.0)
    assert (config.reconnect_backoff, config.max_reconnect_backoff) == (0.5, 2.0)
    assert isinstance(config.write_timeout, float)


def test_socket_pusher_new_refuses_what_it_can_not_use(bus: Bus) -> None:
    with pytest.raises(TypeError, match="subscribe"):
        SocketPusher(object())  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="PusherConfig"):
        SocketPusher(bus, {"buffer_size": 3})  # type: ignore[arg-type]


def test_socket_pusher_set_graph(bus: Bus, consumer: Consumer) -> None:
    pusher = SocketPusher(bus, PusherConfig(socket_path=consumer.path))
    pusher.set_graph(Graph({"app": ["setup"], "setup": []}, tasks={"app": 3}), parallelism=2)
    with pusher:
        bus.emit(Event(EventType.ORCH_STARTED))
        bus.emit(Event(EventType.ORCH_STARTED, payload={"unit_count": 9, "label": "x"}, error="e"))
        bus.emit(Event(EventType.ORCH_STARTED, payload={"graph": "mine"}))
        bus.emit(Event("x", payload={"type": "orch.started"}))
    wait_for(lambda: len(consumer.lines()) == 5)
    graph, started, own_count, own_graph, _ = consumer.events()
    assert graph.type == "graph"
    assert graph.payload == {
        "nodes": [
            {"id": "setup", "label": "setup", "level": 0, "status": "pending", "tasks": 0, "completed_tasks": 0},
            {
                "id": "app",
                "label": "app",
                "level": 1,
                "status": "pending",
                "tasks": 3,
                "completed_tasks": 0,
                "depends_on": ["setup"],
            },
        ],
        "edges": [{"from": "setup", "to": "app"}],
        "levels": [["setup"], ["app"]],
    }
    backwards = graph.payload | {"edges": [{"from": "app", "to": "setup"}]}
    assert started.payload == {"unit_count": 2, "parallelism": 2, "graph": backwards}
    assert own_count.payload == {"unit_count": 9, "parallelism": 2, "label": "x", "graph": backwards}
    assert own_count.error == "e"
    assert own_graph.payload == {"graph": "mine"}


def test_socket_pusher_set_graph_after_start_is_an_error(bus: Bus, consumer: Consumer) -> None:
    pusher = SocketPusher(bus, PusherConfig(socket_path=consumer.path))
    with pytest.raises(TypeError, match="parallelism"):
        pusher.set_graph({}, 1.5)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="between 0 and"):
        pusher.set_graph({}, -1)
    with pusher, pytest.raises(RuntimeError, match="after start"):
        pusher.set_graph({}, 1)


def test_socket_pusher_connected(bus: Bus, consumer: Consumer) -> None:
    pusher = SocketPusher(bus, PusherConfig(socket_path=consumer.path, reconnect_backoff=0.01))
    assert not pusher.connected
    with pusher:
        assert pusher.connected
        consumer.go_away()
        wait_for(lambda: not pusher.connected)  # though no event flows
        consumer.come_back()
        wait_for(lambda: pusher.connected)
        assert pusher.stats().reconnects == 1
    assert not pusher.connected


def test_socket_pusher_start_close(bus: Bus, consumer: Consumer) -> None:
    pusher = SocketPusher(bus, PusherConfig(socket_path=consumer.path))
    assert pusher.stats() == PusherStats()
    pusher.start()
    pid = pusher.stats().writer_pid
    assert pid is not None
    with pytest.raises(RuntimeError, match="started already"):
        pusher.start()
    bus.emit(Event("x"))
    pusher.close()
    pusher.close()
    assert pid not in writers()
    bus.emit(Event("late"))  # nobody is subscribed any more
    assert pusher.stats() == PusherStats(emitted=1, sent=1)
    for use in (pusher.start, pusher.flush):
        with pytest.raises(RuntimeError, match="closed"):
            use()
    with pytest.raises(RuntimeError, match="start"):
        pusher.set_graph({}, 1)


def test_socket_pusher_start_close_without_start(bus: Bus) -> None:
    pusher = SocketPusher(bus)
    with pytest.raises(RuntimeError, match="not started"):
        pusher.flush()
    pusher.close()
    with pytest.raises(RuntimeError, match="closed"):
        pusher.start()


def test_socket_pusher_start_fails_without_a_listener_and_can_be_tried_again(bus: Bus, socket_path: str) -> None:
    handlers = bus._handlers
    pusher = SocketPusher(bus, PusherConfig(socket_path=socket_path))
    with pytest.raises(FileNotFoundError, match=r"start the consumer first.*wait=False") as caught:
        pusher.start()
    assert caught.value.filename == socket_path
    assert bus._handlers == handlers
    assert pusher.stats().writer_pid is None
    consumer = Consumer(socket_path)
    with pusher:
        assert pusher.connected
    consumer.go_away()


def test_socket_pusher_event_forwarding(bus: Bus, consumer: Consumer) -> None:
    with SocketPusher(bus, PusherConfig(socket_path=consumer.path)) as pusher:
        payload = {"n": 0}
        for number in range(500):
            payload["n"] = number
            bus.emit(Event(EventType.TASK_STARTED, unit="app", task=number, payload=payload))
        assert pusher.flush()
        stats = pusher.stats()
        assert (stats.emitted, stats.sent, stats.dropped, stats.pending) == (500, 500, 0, 0)
    consumer.wait_for_tasks(500)
    events = consumer.events()
    assert [(e.task, e.payload["n"], e.unit, e.type) for e in events] == [
        (number, number, "app", "task.started") for number in range(500)
    ]
    times = [event.time for event in events if event.time is not None]
    assert times == sorted(times)


def test_socket_pusher_reconnect(bus: Bus, consumer: Consumer) -> None:
    config = PusherConfig(socket_path=consumer.path, reconnect_backoff=0.01, max_reconnect_backoff=0.1)
    with SocketPusher(bus, config) as pusher:
        for number in range(10):
            bus.emit(Event("x", task=number))
        consumer.wait_for_tasks(10)
        consumer.go_away()
        wait_for(lambda: not pusher.connected)
        for number in range(10, 500):
            bus.emit(Event("x", task=number))
        assert not pusher.flush(timeout=0.05)
        assert pusher.stats().pending == 490
        consumer.come_back()
        assert pusher.flush(timeout=30)
    assert consumer.wait_for_tasks(500) == list(range(500))


def test_socket_pusher_reconnect_doubles_its_pauses_up_to_the_limit(bus: Bus, socket_path: str) -> None:
    """Against a listener that closes what it accepts: each connection is an attempt."""
    import socket

    listener = socket.socket(socket.AF_UNIX)
    listener.bind(socket_path)
    listener.listen()
    times = []
    config = PusherConfig(socket_path=socket_path, reconnect_backoff=0.05, max_reconnect_backoff=0.2)
    with SocketPusher(bus, config):
        for _ in range(6):
            connection, _ = listener.accept()
            connection.close()
            times.append(time.monotonic())
        listener.close()
        os.unlink(socket_path)
    pauses = [later - earlier for earlier, later in itertools.pairwise(times)]
    # A pause can't be shorter than it should be; how much longer it gets is the machine's affair.
    for pause, expected in zip(pauses, [0.05, 0.1, 0.2, 0.2, 0.2], strict=True):
        assert pause >= expected * 0.95
    assert pauses[-1] < 10
