"""What a pusher promises beyond the specification's own tests."""

import gc
import math
import os
import pathlib
import re
import signal
import socket
import stat
import sys
import threading
import time
from dataclasses import dataclass

import pytest

from socketpusher import Bus, Event, Graph, PusherConfig, SocketPusher, wire
from support.consumer import Consumer
from support.leftovers import writers
from support.waiting import comes_to_rest, cpu_ticks, is_running, stop, wait_for

QUICK = {"reconnect_backoff": 0.01, "max_reconnect_backoff": 0.05}


def voluntary_switches(pid: int) -> int:
    status = pathlib.Path(f"/proc/{pid}/status").read_text()
    return int(status.split("voluntary_ctxt_switches:")[1].split()[0])


def test_a_payload_is_what_it_was_at_the_moment_of_emit(bus: Bus, consumer: Consumer) -> None:
    payload = {"state": "before", "inner": [1]}
    with SocketPusher(bus, PusherConfig(socket_path=consumer.path)):
        bus.emit(Event("x", payload=payload))
        payload["state"] = "after"
        payload["inner"].append(2)  # type: ignore[attr-defined]
    wait_for(lambda: len(consumer.events()) == 1)
    assert consumer.events()[0].payload == {"state": "before", "inner": [1]}


def test_any_object_with_subscribe_is_a_bus(consumer: Consumer) -> None:
    class Other:
        """As in Go: what `subscribe` returns is nothing."""

        def subscribe(self, handler):
            self.handler = handler

    other = Other()
    with SocketPusher(other, PusherConfig(socket_path=consumer.path)) as pusher:
        other.handler(Event("x", task=1))
    other.handler(Event("x", task=2))  # it can't be unsubscribed, so it must take no harm
    assert consumer.wait_for_tasks(1) == [1]
    assert (pusher.stats().emitted, pusher.stats().dropped) == (1, 0)


def test_a_bus_whose_subscribe_raises_leaves_nothing(consumer: Consumer) -> None:
    class Broken:
        def subscribe(self, handler):
            raise ZeroDivisionError

    pusher = SocketPusher(Broken(), PusherConfig(socket_path=consumer.path))
    with pytest.raises(ZeroDivisionError):
        pusher.start()
    assert pusher.stats().writer_pid is None


def test_what_could_not_be_encoded_is_counted_and_logged_once(
    bus: Bus, consumer: Consumer, caplog: pytest.LogCaptureFixture
) -> None:
    cycle: list[object] = []
    cycle.append(cycle)
    with SocketPusher(bus, PusherConfig(socket_path=consumer.path, max_line_bytes=2000)) as pusher:
        bus.emit(Event("x", payload=cycle))
        bus.emit(Event("x", payload="y" * 2000))
        bus.emit(Event("x", payload={1}))  # converted, which is no loss
        assert pusher.stats().placeholders == 2
        wait_for(lambda: "replaced by a placeholder, <list: contains itself>" in caplog.text)
    assert caplog.text.count("replaced by a placeholder") == 1
    wait_for(lambda: len(consumer.events()) == 3)
    assert consumer.events()[0].payload == ["<list: contains itself>"]
    assert consumer.events()[1].payload.startswith("<payload left out")


# Large graphs


def test_of_a_graph_that_does_not_fit_a_line_the_units_arrive_and_where_they_stand(
    bus: Bus, consumer: Consumer
) -> None:
    graph = {f"unit-{number:05}": [f"unit-{number - 1:05}"] if number % 100 else [] for number in range(10_000)}
    pusher = SocketPusher(bus, PusherConfig(socket_path=consumer.path))
    pusher.set_graph(Graph(graph, {"unit-00007": 3}), 4)
    with pusher:
        bus.emit(Event("orch.started"))
        bus.emit(Event("unit.started", "unit-00007"))
        consumer.wait_for_tasks(2)
        consumer.go_away()
        consumer.come_back()
        wait_for(lambda: len(consumer.connections) == 2 and len(consumer.events()) == 6)
    first, started, begun, again, *retained = consumer.events()
    assert {key: len(value) for key, value in first.payload.items()} == {"nodes": 10_000, "edges": 0, "levels": 100}
    at_first, at_last = ({node["id"]: node for node in event.payload["nodes"]} for event in (first, again))
    assert at_first["unit-00007"] == {"id": "unit-00007", "level": 7, "tasks": 3}
    assert at_first["unit-00100"] == {"id": "unit-00100", "level": 0}
    assert started.payload == {"unit_count": 10_000, "parallelism": 4, "graph": first.payload}
    assert at_last["unit-00007"] == {"id": "unit-00007", "level": 7, "status": "in_progress", "tasks": 3}
    assert retained == [started, begun]


@pytest.mark.parametrize(("name", "wire_name"), [("caf\udce9", "caf\\udce9"), ("\ud83d\ude00", "\\ud83d\\ude00")])
def test_a_name_with_surrogates_is_the_same_in_the_graph_and_in_events(
    bus: Bus, consumer: Consumer, name: str, wire_name: str
) -> None:
    pusher = SocketPusher(bus, PusherConfig(socket_path=consumer.path))
    pusher.set_graph({name: [], "b": [name]}, 2)
    with pusher:
        bus.emit(Event("orch.started"))
        bus.emit(Event("unit.failed", name))
        consumer.wait_for_tasks(2)
        consumer.go_away()
        consumer.come_back()
        wait_for(lambda: len(consumer.events()) == 6)
    graph, started = consumer.events()[3:5]
    statuses = {node["id"]: node["status"] for node in graph.payload["nodes"]}
    assert statuses == {wire_name: "failed", "b": "pending"}
    assert graph.payload["edges"] == [{"from": wire_name, "to": "b"}]
    assert started.payload["graph"]["edges"] == [{"from": "b", "to": wire_name}]


@pytest.mark.parametrize("number", [-1, 2**63, 10**5000], ids=["negative", "large", "huge"])
def test_a_number_of_units_or_tasks_that_can_not_be_written_is_refused(bus: Bus, number: int) -> None:
    with pytest.raises(ValueError, match="parallelism must be between 0 and"):
        SocketPusher(bus).set_graph({"a": []}, number)
    with pytest.raises(ValueError, match="the number of tasks of unit 'a' must be between 0 and"):
        Graph({"a": []}, tasks={"a": number})


def test_what_is_dropped_while_the_books_are_read_is_not_counted_twice(
    bus: Bus, consumer: Consumer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was sent and not read comes back when the consumer disconnects, and may be dropped then."""
    unread = 0

    class Disconnecting:
        def __getattr__(self, name: str) -> int:
            return getattr(ledger, name) - (unread if name == "sent" else 0)

    def drop() -> int:
        nonlocal unread
        unread = 1
        return dropped() + 1

    with SocketPusher(bus, PusherConfig(socket_path=consumer.path)) as pusher:
        bus.emit(Event("x"))
        assert pusher.flush(10)
        ledger, dropped = pusher._supervisor.ledger, pusher._supervisor.outbox.dropped
        with monkeypatch.context() as patched:
            patched.setattr(pusher._supervisor, "ledger", Disconnecting())
            patched.setattr(pusher._supervisor.outbox, "dropped", drop)
            stats = pusher.stats()
    assert (stats.emitted, stats.sent, stats.dropped, stats.pending) == (1, 0, 1, 0)


def test_a_graph_that_never_fits_is_replaced_by_its_size_and_logged_once(
    bus: Bus, consumer: Consumer, caplog: pytest.LogCaptureFixture
) -> None:
    pusher = SocketPusher(bus, PusherConfig(socket_path=consumer.path, max_line_bytes=2000))
    pusher.set_graph({f"unit-{number}": [] for number in range(200)}, 4)
    with pusher:
        bus.emit(Event("orch.started", payload={"mine": 1}))
        consumer.wait_for_tasks(1)
        consumer.go_away()
        consumer.come_back()
        wait_for(lambda: len(consumer.events()) == 4)
    graph, started = consumer.events()[:2]
    assert caplog.text.count("the graph is not sent to consumers: its 200 units do not fit") == 1
    assert "raise max_line_bytes" in caplog.text
    assert graph.payload.startswith("<payload left out")
    assert started.payload == {"unit_count": 200, "parallelism": 4, "mine": 1}


def test_a_graph_in_orch_started_that_does_not_fit_is_reduced_too(bus: Bus, consumer: Consumer) -> None:
    nodes = [{"id": f"unit-{number}", "label": "x" * 30, "mine": {}} for number in range(30)]
    with SocketPusher(bus, PusherConfig(socket_path=consumer.path, max_line_bytes=2000)) as pusher:
        bus.emit(Event("orch.started", payload={"mine": 1, "graph": {"nodes": nodes}}))
        bus.emit(Event("unit.failed", "unit-3"))
        consumer.wait_for_tasks(2)
        consumer.go_away()
        consumer.come_back()
        wait_for(lambda: len(consumer.events()) == 5)
        assert pusher.stats().placeholders == 0
    started, _, graph, again, failed = consumer.events()
    assert started.payload == {
        "mine": 1,
        "graph": {"nodes": [{"id": n["id"]} for n in nodes], "edges": [], "levels": []},
    }
    assert graph.payload["nodes"][2:4] == [{"id": "unit-2"}, {"id": "unit-3", "status": "failed"}]
    assert (again.payload, failed.unit) == (started.payload, "unit-3")


def test_a_graph_in_orch_started_that_never_fits_is_left_out_and_the_run_starts(
    bus: Bus, consumer: Consumer, caplog: pytest.LogCaptureFixture
) -> None:
    nodes = [{"id": f"unit-{number}", "level": 0} for number in range(300)]
    pusher = SocketPusher(bus, PusherConfig(socket_path=consumer.path, max_line_bytes=2000))
    pusher.set_graph({"of the run before": []}, 1)
    with pusher:
        bus.emit(Event("orch.started", payload={"unit_count": 300, "graph": {"nodes": nodes}}))
        consumer.wait_for_tasks(1)
        assert pusher.stats().placeholders == 1
    payload = consumer.events()[1].payload
    assert payload == {"unit_count": 300, "graph": {"nodes": [], "edges": [], "levels": []}}
    assert "its 300 units do not fit into a line" in caplog.text


# Starting


def test_start_reports_what_is_wrong_with_the_socket(bus: Bus, socket_path: str) -> None:
    directory = os.path.dirname(socket_path)
    pathlib.Path(socket_path).write_text("a file")
    too_long = os.path.join(directory, "x" * 108)
    cases = [
        (directory, OSError, "can't connect"),
        (socket_path, ConnectionRefusedError, "it is not a socket; choose another path"),
        (os.path.join(socket_path, "below"), NotADirectoryError, "not a directory"),
        (too_long, OSError, f"a path of {len(too_long)} bytes, the limit is 107"),
    ]
    for path, error, message in cases:
        for wait in (True, False) if path == too_long else (True,):
            with pytest.raises(error, match=message) as caught:
                SocketPusher(bus, PusherConfig(socket_path=path)).start(wait=wait)
            assert caught.value.filename == path
    os.unlink(socket_path)
    assert bus._handlers == ()


@pytest.mark.skipif(os.geteuid() == 0, reason="root may connect to any socket")
def test_start_reports_a_missing_permission(bus: Bus, consumer: Consumer) -> None:
    os.chmod(consumer.path, stat.S_IRUSR)
    with pytest.raises(PermissionError, match="write permission"):
        SocketPusher(bus, PusherConfig(socket_path=consumer.path)).start()


def test_start_gives_up_on_a_listener_whose_queue_is_full(bus: Bus, socket_path: str) -> None:
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(socket_path)
    listener.listen(0)
    queued = socket.socket(socket.AF_UNIX)
    queued.connect(socket_path)
    pusher = SocketPusher(bus, PusherConfig(socket_path=socket_path, **QUICK))
    for timeout in (0.3, 3, 30):
        with pytest.raises(TimeoutError) as caught:
            pusher.start(timeout=timeout)
        if "did not start in time" not in str(caught.value):  # the machine is busy, and the process not that far
            break
    assert re.search(rf"not connected (in|after) {timeout:g} s", str(caught.value))
    accepted, _ = listener.accept()
    pusher.start(timeout=30)
    pusher.close()
    for each in (accepted, queued, listener):
        each.close()
    os.unlink(socket_path)


@pytest.mark.parametrize("timeout", [float("nan"), float("inf"), "5", None, True])
def test_an_invalid_timeout_is_refused(bus: Bus, timeout: object) -> None:
    for use in (SocketPusher(bus).start, SocketPusher(bus).close):
        with pytest.raises((TypeError, ValueError), match="timeout"):
            use(timeout)  # type: ignore[operator]


def test_a_writer_that_can_not_start_is_reported(bus: Bus, consumer: Consumer, monkeypatch) -> None:
    monkeypatch.setattr(sys, "executable", "/bin/false")
    with pytest.raises(ChildProcessError, match=r"ended before it was ready.*/bin/false"):
        SocketPusher(bus, PusherConfig(socket_path=consumer.path)).start()


def test_a_start_that_fails_when_the_process_runs_ends_the_process(bus: Bus, consumer: Consumer, monkeypatch) -> None:
    def late(*arguments) -> None:
        assert writers()
        raise OSError(24, "too late")

    monkeypatch.setattr("socketpusher.pusher._wait_for_consumer", late)
    with pytest.raises(OSError, match="too late"):
        SocketPusher(bus, PusherConfig(socket_path=consumer.path)).start()


def test_a_start_without_a_thread_raises_and_may_be_repeated(
    bus: Bus, consumer: Consumer, monkeypatch: pytest.MonkeyPatch
) -> None:
    def start(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    pusher = SocketPusher(bus, PusherConfig(socket_path=consumer.path))
    with monkeypatch.context() as patched, pytest.raises(RuntimeError, match="can't start new thread"):
        patched.setattr(threading.Thread, "start", start)
        pusher.start()
    with pusher:
        assert pusher.connected


def test_a_bus_is_unsubscribed_from_once(consumer: Consumer) -> None:
    unsubscribed = []

    class Other:
        def subscribe(self, handler):
            return lambda: unsubscribed.append(1)

    with SocketPusher(Other(), PusherConfig(socket_path=consumer.path)):
        pass
    gc.collect()
    assert unsubscribed == [1]


def test_start_without_waiting_sends_to_a_consumer_that_comes_later(bus: Bus, socket_path: str) -> None:
    pusher = SocketPusher(bus, PusherConfig(socket_path=socket_path, **QUICK))
    pusher.start(wait=False)
    with pusher:
        for number in range(900):
            bus.emit(Event("x", task=number))
        assert not pusher.connected
        consumer = Consumer(socket_path)
        assert pusher.flush(30)
        assert pusher.connected
        assert pusher.stats().reconnects == 0
        assert consumer.wait_for_tasks(900) == list(range(900))
    consumer.go_away()


# Slow consumers


@pytest.mark.parametrize("there", [True, False])
def test_emit_never_blocks_beside_a_consumer_that_never_reads_or_none(bus: Bus, socket_path: str, there: bool) -> None:
    """It is many times what every pipe and buffer takes, so that an emit that waits would wait for ever."""
    consumer = Consumer(socket_path, reading=False) if there else None
    pusher = SocketPusher(bus, PusherConfig(socket_path=socket_path, buffer_size=100, **QUICK))
    pusher.start(wait=there)
    count = 100_000
    for number in range(count):
        bus.emit(Event("x", task=number, payload="x" * 100))
    wait_for(lambda: pusher.stats().pending <= 100)
    stats = pusher.stats()
    assert stats.emitted == count == stats.sent + stats.dropped + stats.pending
    assert stats.dropped >= count - 100 - 3000  # what a socket's buffer takes
    assert not pusher.flush(0.05)
    pusher.close(timeout=0.1)
    assert pusher.stats().pending == 0
    if consumer is not None:
        consumer.go_away()


def test_a_consumer_that_reads_again_gets_what_waited_and_the_books_are_exact(bus: Bus, consumer: Consumer) -> None:
    consumer.stall()
    with SocketPusher(bus, PusherConfig(socket_path=consumer.path, buffer_size=100)) as pusher:
        for number in range(20_000):
            bus.emit(Event("x", task=number))
        wait_for(lambda: pusher.stats().dropped > 0 and pusher.stats().pending <= 100)
        assert pusher.stats().pending == 100
        consumer.go_on()
        assert pusher.flush(30)
        bus.emit(Event("x", task=20_000))
        assert pusher.flush(30)
        stats = pusher.stats()
    tasks = consumer.wait_for_tasks(stats.sent)
    assert len(tasks) == stats.sent == stats.emitted - stats.dropped
    # The newest were dropped: what came is a beginning without gaps, and what was emitted afterwards.
    assert tasks == [*range(stats.sent - 1), 20_000]


def test_dropping_is_logged_once_when_it_begins_and_once_when_it_ends(
    bus: Bus, consumer: Consumer, caplog: pytest.LogCaptureFixture
) -> None:
    consumer.stall()
    with SocketPusher(bus, PusherConfig(socket_path=consumer.path, buffer_size=100)) as pusher:
        for number in range(20_000):
            bus.emit(Event("x", task=number))
        wait_for(lambda: "is falling behind" in caplog.text)
        wait_for(lambda: pusher.stats().pending <= 100)
        consumer.go_on()
        assert pusher.flush(30)
        wait_for(lambda: "has caught up" in caplog.text)
        dropped = pusher.stats().dropped
    assert caplog.text.count("is falling behind") == 1
    assert f"has caught up; {dropped} events were dropped" in caplog.text


def test_a_connection_that_takes_no_byte_is_given_up(bus: Bus, socket_path: str) -> None:
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(socket_path)
    listener.listen()
    config = PusherConfig(socket_path=socket_path, write_timeout=0.5, buffer_size=100_000, **QUICK)
    with SocketPusher(bus, config) as pusher:
        stalled, _ = listener.accept()
        for number in range(5000):
            bus.emit(Event("x", task=number, payload="x" * 100))
        reading, _ = listener.accept()
        received = b""
        while received.count(b"\n") < 5000:
            piece = reading.recv(1 << 20)
            assert piece, "a consumer that reads is given up"
            received += piece
        assert pusher.stats().reconnects == 1
    # It never read a byte, so the next one got everything.
    assert [wire.decode(line).task for line in received.split(b"\n")[:-1]] == list(range(5000))
    for each in (stalled, reading, listener):
        each.close()
    os.unlink(socket_path)


def test_a_consumer_that_reads_in_time_is_not_given_up(bus: Bus, socket_path: str) -> None:
    """It reads a little at a time, and takes longer than the write timeout for all of it."""
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(socket_path)
    listener.listen()
    config = PusherConfig(socket_path=socket_path, write_timeout=1.0, buffer_size=100_000)
    with SocketPusher(bus, config) as pusher:
        connection, _ = listener.accept()
        for number in range(10_000):
            bus.emit(Event("x", task=number, payload="x" * 100))
        received = bytearray()
        start = time.monotonic()
        while received.count(b"\n") < 10_000:
            piece = connection.recv(16384)
            assert piece, "a consumer that reads is given up"
            received += piece
            # Not for its own sake: pacing is what this consumer is.
            threading.Event().wait(0.015)
        assert time.monotonic() - start > 1.0
        assert pusher.stats().reconnects == 0
    assert [wire.decode(line).task for line in bytes(received).split(b"\n")[:-1]] == list(range(10_000))
    connection.close()
    listener.close()
    os.unlink(socket_path)


def test_a_line_that_was_cut_by_a_disconnect_is_sent_again_whole(bus: Bus, socket_path: str) -> None:
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(socket_path)
    listener.listen()
    with SocketPusher(bus, PusherConfig(socket_path=socket_path, **QUICK)):
        first, _ = listener.accept()
        for number in range(10):
            bus.emit(Event("x", task=number, payload="x" * 100_000))
        head = b""
        while len(head) < 350_001:  # three lines and a part of the fourth
            head += first.recv(350_001 - len(head))
        first.close()
        second, _ = listener.accept()
        received = b""
        while received.count(b"\n") == 0 or wire.decode(received.rstrip(b"\n").rpartition(b"\n")[2]).task != 9:
            piece = second.recv(1 << 20)
            assert piece, "a consumer that reads is given up"
            received += piece
            while not received.endswith(b"\n"):
                received += second.recv(1 << 20)
    whole = [wire.decode(line).task for line in head.split(b"\n")[:-1]]
    again = [wire.decode(line).task for line in received.split(b"\n")[:-1]]
    assert whole == [0, 1, 2]
    assert again[0] is not None
    assert again[0] <= 3
    assert again == list(range(again[0], 10))
    for each in (second, listener):
        each.close()
    os.unlink(socket_path)


# Closing


def test_close_interrupts_a_backoff_at_once(bus: Bus, socket_path: str) -> None:
    config = PusherConfig(socket_path=socket_path, reconnect_backoff=3600, max_reconnect_backoff=3600)
    pusher = SocketPusher(bus, config)
    pusher.start(wait=False)
    pusher.close(timeout=600)  # nothing waits, so nothing is waited for
    pusher = SocketPusher(bus, config)
    pusher.start(wait=False)
    bus.emit(Event("x", task=1))
    wait_for(lambda: pusher._supervisor.connect_error is not None)
    consumer = Consumer(socket_path)
    pusher.close(timeout=600)  # one event waits, and now there is somebody to send it to
    assert consumer.wait_for_tasks(1) == [1]
    consumer.go_away()


def test_close_gives_up_at_its_deadline_and_logs_how_much(bus: Bus, consumer: Consumer, caplog) -> None:
    consumer.stall()
    pusher = SocketPusher(bus, PusherConfig(socket_path=consumer.path, buffer_size=50_000))
    pusher.start()
    for number in range(5000):
        bus.emit(Event("x", task=number, payload="x" * 100))
    assert not pusher.flush(0.05)
    pusher.close(timeout=0.1)
    stats = pusher.stats()
    assert (stats.emitted, stats.pending) == (5000, 0)
    assert stats.dropped == 5000 - stats.sent > 0
    assert f"close timed out with {stats.dropped} events unsent to {consumer.path}" in caplog.text
    consumer.go_on()
    assert len(consumer.wait_for_tasks(stats.sent)) == stats.sent


def test_a_close_may_have_any_time_for_what_waits(
    bus: Bus, consumer: Consumer, caplog: pytest.LogCaptureFixture
) -> None:
    consumer.stall()
    with SocketPusher(bus, PusherConfig(socket_path=consumer.path, buffer_size=1000)) as pusher:
        for number in range(1000):
            bus.emit(Event("x", task=number, payload="x" * 1000))
        closing = threading.Thread(target=pusher.close, args=(1e10,))
        closing.start()
        supervisor = pusher._supervisor
        assert supervisor is not None
        wait_for(lambda: supervisor.ledger.close_deadline)
        consumer.go_on()
        wait_for(lambda: not closing.is_alive(), timeout=10)
    assert consumer.wait_for_tasks(1000) == list(range(1000))
    assert caplog.text == ""


def test_close_ends_the_writer_itself_when_the_pushers_thread_is_blocked(
    bus: Bus, consumer: Consumer, monkeypatch: pytest.MonkeyPatch
) -> None:
    pusher = SocketPusher(bus, PusherConfig(socket_path=consumer.path))
    pusher.start()
    may_end = threading.Event()
    monkeypatch.setattr(pusher._supervisor, "_run_once", lambda: may_end.wait(60))
    pid = pusher.stats().writer_pid
    assert pid is not None
    try:
        pusher.close(0)
        assert not is_running(pid)
    finally:
        may_end.set()


def test_an_exception_in_the_with_block_is_the_callers_and_the_events_arrive(bus: Bus, consumer: Consumer) -> None:
    with (
        pytest.raises(ZeroDivisionError),
        SocketPusher(bus, PusherConfig(socket_path=consumer.path)),
    ):
        bus.emit(Event("x", task=1))
        raise ZeroDivisionError
    assert consumer.wait_for_tasks(1) == [1]


# The writer


def test_an_idle_writer_uses_no_cpu_and_wakes_for_nothing(bus: Bus, consumer: Consumer) -> None:
    with SocketPusher(bus, PusherConfig(socket_path=consumer.path)) as pusher:
        bus.emit(Event("x"))
        consumer.wait_for_tasks(1)
        pid = pusher.stats().writer_pid
        assert pid is not None
        # It looks once or twice more whether the line was read; then it is at rest.
        supervisor = pusher._supervisor
        wait_for(lambda: supervisor.ledger.settled == 1)
        comes_to_rest(pid)
        before = (voluntary_switches(pid), cpu_ticks(pid))
        threading.Event().wait(1.0)  # the second over which it must not wake
        assert (voluntary_switches(pid), cpu_ticks(pid)) == before


def test_the_writer_has_nothing_open_but_its_own(bus: Bus, consumer: Consumer) -> None:
    """Not even what the host has left open to its children."""
    with open(consumer.path + ".txt", "w") as file:
        os.set_inheritable(file.fileno(), True)
        with SocketPusher(bus, PusherConfig(socket_path=consumer.path)) as pusher:
            links = {link.readlink() for link in pathlib.Path(f"/proc/{pusher.stats().writer_pid}/fd").iterdir()}
        names = {str(link) for link in links}
        assert file.name not in names
        assert {name for name in names if name.startswith("/") and name not in ("/dev/null", "/dev/urandom")} == {
            "/memfd:socketpusher (deleted)"
        }
    os.unlink(file.name)


def test_a_flush_returns_though_a_later_one_still_waits(bus: Bus, consumer: Consumer) -> None:
    consumer.stall()
    config = PusherConfig(socket_path=consumer.path, buffer_size=1000, write_timeout=60)
    with SocketPusher(bus, config) as pusher:
        supervisor = pusher._supervisor
        pid = pusher.stats().writer_pid
        assert supervisor is not None
        assert pid is not None
        flushed = []
        flushes = [threading.Thread(target=lambda: flushed.append(pusher.flush(60))) for _ in range(2)]
        stop(pid)
        bus.emit(Event("x"))
        flushes[0].start()
        wait_for(lambda: supervisor._flush_targets == [1])
        for _ in range(400):
            bus.emit(Event("x", payload="x" * 1000))  # more than the socket takes, less than the queue
        flushes[1].start()
        wait_for(lambda: supervisor._flush_targets == [1, 401])
        os.kill(pid, signal.SIGCONT)
        try:
            wait_for(lambda: flushed, timeout=10)
            assert pusher.stats().pending > 0
        finally:
            consumer.go_on()
            for flush in flushes:
                flush.join()
        assert flushed == [True, True]


def test_a_line_emitted_just_before_the_pushers_thread_sleeps_is_sent(
    bus: Bus, consumer: Consumer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever emits at that moment finds it awake, and does not wake it."""
    with SocketPusher(bus, PusherConfig(socket_path=consumer.path)) as pusher:
        supervisor = pusher._supervisor
        assert supervisor is not None
        outbox, emitted = supervisor.outbox, []

        def emitted_behind(put_rest=outbox.put_rest):
            all_put = put_rest()
            if all_put and not outbox.asleep and not emitted:
                emitted.append(1)
                outbox._write_at = math.inf  # the line is left behind
                bus.emit(Event("x", task=1))
            return all_put

        monkeypatch.setattr(outbox, "put_rest", emitted_behind)
        supervisor.wake()
        assert consumer.wait_for_tasks(1, timeout=10) == [1]


def test_flush_in_many_threads_returns_to_each(bus: Bus, consumer: Consumer) -> None:
    results: list[bool] = []
    with SocketPusher(bus, PusherConfig(socket_path=consumer.path, buffer_size=1 << 30)) as pusher:

        def work() -> None:
            for _ in range(50):
                bus.emit(Event("x"))
                results.append(pusher.flush(30))

        threads = [threading.Thread(target=work) for _ in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert results == [True] * 300
        assert pusher.stats().sent == 300


def test_a_lasting_error_is_retried_with_longer_pauses_even_if_the_thread_is_woken(
    bus: Bus, consumer: Consumer, monkeypatch: pytest.MonkeyPatch
) -> None:
    turns = []
    with SocketPusher(bus, PusherConfig(socket_path=consumer.path)) as pusher:
        supervisor = pusher._supervisor
        assert supervisor is not None

        def fault() -> None:
            if not turns:
                supervisor.wake()
            turns.append(time.monotonic())
            raise ValueError

        with monkeypatch.context() as patched:
            patched.setattr(supervisor, "_log_outbox_state", fault)
            pusher.flush(0)
            wait_for(lambda: len(turns) >= 6)
        assert turns[5] - turns[0] > 0.5
        bus.emit(Event("x", task=1))
        assert pusher.flush(30)


def test_a_config_may_be_of_a_subclass(bus: Bus, consumer: Consumer) -> None:
    @dataclass(frozen=True)
    class Mine(PusherConfig):
        tag: object = object()

    with SocketPusher(bus, Mine(socket_path=consumer.path)) as pusher:
        bus.emit(Event("x", task=1))
        assert pusher.flush(30)
    assert consumer.wait_for_tasks(1) == [1]


def test_a_flush_does_not_end_before_what_children_have_handed_over_is_accepted(bus: Bus, consumer: Consumer) -> None:
    with SocketPusher(bus, PusherConfig(socket_path=consumer.path)) as pusher:
        supervisor = pusher._supervisor
        supervisor._accepting = True
        assert not pusher.flush(0)
        supervisor._accepting = False
        assert pusher.flush(30)


def test_a_pusher_that_has_ended_has_no_exit_handler(bus: Bus, consumer: Consumer) -> None:
    """It would hold the pusher's memory until the interpreter ends."""
    pusher = SocketPusher(bus, PusherConfig(socket_path=consumer.path))
    pusher.start()
    supervisor = pusher._supervisor
    del pusher
    gc.collect()
    wait_for(lambda: supervisor.ended)
    wait_for(lambda: not supervisor.exit_handler.still_active())
