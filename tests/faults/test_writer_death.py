"""The writer process dies, or is stopped."""

import itertools
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest

from socketpusher import Bus, Event, Graph, PusherConfig, SocketPusher
from socketpusher import pusher as pusher_module
from socketpusher.host import writer_handle
from socketpusher.host.writer_handle import WriterHandle
from support import producer_script
from support.consumer import Consumer
from support.hostile import HELPERS
from support.waiting import is_running, stop, wait_for

QUICK = {"reconnect_backoff": 0.01, "max_reconnect_backoff": 0.05}


def kill_writer(pusher: SocketPusher) -> None:
    pid = pusher.stats().writer_pid
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    wait_for(lambda: pusher.stats().writer_pid not in (pid, None))


def test_nothing_is_lost_when_the_writer_is_killed_under_load(bus: Bus, consumer: Consumer) -> None:
    config = PusherConfig(socket_path=consumer.path, buffer_size=1 << 40, event_ids=True, **QUICK)
    with SocketPusher(bus, config) as pusher:
        emitted = 0
        for _ in range(5):
            for _ in range(20_000):
                bus.emit(Event("x", task=emitted))
                emitted += 1
            kill_writer(pusher)
        assert pusher.flush(60)
        stats = pusher.stats()
        assert (stats.emitted, stats.sent, stats.dropped, stats.pending) == (emitted, emitted, 0, 0)
        assert stats.writer_restarts == 5
    wait_for(lambda: len(set(consumer.tasks())) == emitted, timeout=60)
    # Within a connection no event is missing and none comes twice; between two, some may have come twice.
    for pieces in consumer.connections:
        ids = [int(line.rpartition(b"-")[2][:-2]) for line in b"".join(pieces).split(b"\n")[:-1]]
        assert ids == list(range(ids[0], ids[0] + len(ids))) if ids else True


def test_a_flush_while_another_writer_starts_waits_for_it(
    bus: Bus, consumer: Consumer, monkeypatch: pytest.MonkeyPatch
) -> None:
    begin, flushed = WriterHandle.__init__, []

    def flush_and_begin(*arguments) -> None:
        # Who flushes now, and a child that another thread forks now, see no writer.
        flushed.append(pusher.flush(0))
        if not os.fork():
            os._exit(0)
        os.wait()
        begin(*arguments)

    with SocketPusher(bus, PusherConfig(socket_path=consumer.path, **QUICK)) as pusher:
        monkeypatch.setattr(WriterHandle, "__init__", flush_and_begin)
        kill_writer(pusher)
        bus.emit(Event("x", task=1))
        assert pusher.flush(30)
    assert flushed == [True]
    assert consumer.wait_for_tasks(1) == [1]


def test_what_an_absent_consumer_waits_for_survives_the_writer(bus: Bus, socket_path: str) -> None:
    pusher = SocketPusher(bus, PusherConfig(socket_path=socket_path, buffer_size=100, **QUICK))
    pusher.start(wait=False)
    for number in range(5000):
        bus.emit(Event("x", task=number))
    wait_for(lambda: pusher.stats().pending == 100)
    before = pusher.stats()
    kill_writer(pusher)
    kill_writer(pusher)
    after = pusher.stats()
    assert (after.emitted, after.sent, after.dropped, after.pending) == (5000, 0, before.dropped, 100)
    consumer = Consumer(socket_path)
    assert pusher.flush(30)
    assert consumer.wait_for_tasks(100) == list(range(100))
    assert pusher.stats().resent == 0  # none of them was ever on a socket
    pusher.close()
    assert (pusher.stats().sent, pusher.stats().dropped) == (100, 4900)
    consumer.go_away()


def test_what_a_stalled_consumer_has_not_read_comes_again_from_the_next_writer(bus: Bus, consumer: Consumer) -> None:
    consumer.stall()
    with SocketPusher(bus, PusherConfig(socket_path=consumer.path, buffer_size=1 << 40, **QUICK)) as pusher:
        for number in range(5000):
            bus.emit(Event("x", task=number, payload="x" * 100))
        wait_for(lambda: pusher.stats().sent > 0 and pusher.stats().pending > 0)
        kill_writer(pusher)
        consumer.go_on()
        assert pusher.flush(30)
        assert pusher.stats().sent == 5000
        assert pusher.stats().resent > 0
    wait_for(lambda: len(set(consumer.tasks())) == 5000)
    last = b"".join(consumer.connections[-1]).split(b"\n")[:-1]
    assert len(last) == 5000  # for it had read nothing when the first writer died


def test_connected_and_the_pid_are_true_throughout_and_the_log_says_what_happened(
    bus: Bus, consumer: Consumer, caplog: pytest.LogCaptureFixture
) -> None:
    with SocketPusher(bus, PusherConfig(socket_path=consumer.path, **QUICK)) as pusher:
        first = pusher.stats().writer_pid
        consumer.stop_listening()
        assert first is not None
        os.kill(first, signal.SIGKILL)
        wait_for(lambda: pusher.stats().writer_pid not in (first, None))
        assert not pusher.connected
        consumer.listen()
        wait_for(lambda: pusher.connected)
        assert pusher.stats().writer_restarts == 1
        assert "the writer process died after" in caplog.text
        assert not is_running(first)


def test_pauses_grow_while_writers_keep_dying(bus: Bus, consumer: Consumer) -> None:
    with SocketPusher(bus, PusherConfig(socket_path=consumer.path, **QUICK)) as pusher:
        births = [time.monotonic()]
        for _ in range(4):
            kill_writer(pusher)
            births.append(time.monotonic())
        pauses = [later - earlier for earlier, later in itertools.pairwise(births)]
        for pause, least in zip(pauses, [0.1, 0.2, 0.4, 0.8], strict=True):
            assert pause >= least
        pid = pusher.stats().writer_pid
        assert pid is not None
        os.kill(pid, signal.SIGKILL)
        wait_for(lambda: pusher.stats().writer_pid is None)
        start = time.monotonic()
        pusher.close(timeout=0.3)  # the pause would be longer
        assert time.monotonic() - start < 1.5


def test_a_stopped_writer_costs_the_host_bounded_bytes_and_close_its_deadline(
    bus: Bus, consumer: Consumer, caplog: pytest.LogCaptureFixture
) -> None:
    pusher = SocketPusher(bus, PusherConfig(socket_path=consumer.path))
    pusher.start()
    pid = pusher.stats().writer_pid
    assert pid is not None
    stop(pid)
    for number in range(30_000):
        bus.emit(Event("x", task=number, payload="x" * 1000))
    stats = pusher.stats()
    assert stats.emitted == 30_000
    assert 7_000 < stats.pending < 9_000  # 8 MiB of such events, and what the pipe holds
    assert stats.dropped == 30_000 - stats.pending
    wait_for(lambda: "the writer process is falling behind" in caplog.text)
    assert caplog.text.count("is falling behind") == 1
    assert not pusher.flush(0.1)
    start = time.monotonic()
    pusher.close(timeout=0.2)
    assert time.monotonic() - start < 10
    assert not is_running(pid)
    assert pusher.stats().pending == 0


def test_a_full_outbox_has_room_again_when_the_next_writer_has_taken_over(
    bus: Bus, consumer: Consumer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All of it was in the pipe of the writer that died, so no batch that follows tells how far the next one is."""
    monkeypatch.setattr("socketpusher.host.outbox.IN_FLIGHT_BYTES", 50_000)
    config = PusherConfig(socket_path=consumer.path, buffer_size=1 << 40, **QUICK)
    with SocketPusher(bus, config) as pusher:
        outbox = pusher._supervisor.outbox
        outbox._accept_limit = 50_000
        pid = pusher.stats().writer_pid
        assert pid is not None
        stop(pid)
        for number in range(1000):
            bus.emit(Event("x", task=number, payload="x" * 100))
        dropped = pusher.stats().dropped
        assert dropped > 0
        wait_for(lambda: not outbox._lines)
        os.kill(pid, signal.SIGKILL)
        assert pusher.flush(30)
        bus.emit(Event("x", task=1000, payload="x" * 100))  # as large as the first that had no room
        assert pusher.flush(30)
        assert pusher.stats().dropped == dropped
    wait_for(lambda: 1000 in consumer.tasks())


def test_refusing_is_logged_once_when_it_begins_and_once_with_its_count(
    bus: Bus, consumer: Consumer, caplog: pytest.LogCaptureFixture
) -> None:
    with SocketPusher(bus, PusherConfig(socket_path=consumer.path, buffer_size=1 << 40)) as pusher:
        pid = pusher.stats().writer_pid
        assert pid is not None
        stop(pid)
        for number in range(20_000):
            bus.emit(Event("x", task=number, payload="x" * 1000))
        os.kill(pid, signal.SIGCONT)
        assert pusher.flush(30)
        bus.emit(Event("x", task=-1))  # what tells that there is room again
        wait_for(lambda: "has caught up" in caplog.text)
        dropped = pusher.stats().dropped
        assert dropped > 10_000
    assert caplog.text.count("the writer process is falling behind") == 1
    assert f"the writer process has caught up; {dropped} events were dropped" in caplog.text


def test_a_writer_that_was_stopped_goes_on_where_it_was(bus: Bus, consumer: Consumer) -> None:
    with SocketPusher(bus, PusherConfig(socket_path=consumer.path)) as pusher:
        pid = pusher.stats().writer_pid
        assert pid is not None
        stop(pid)
        for number in range(500):
            bus.emit(Event("x", task=number))
        assert pusher.stats().pending == 500
        os.kill(pid, signal.SIGCONT)
        assert pusher.flush(30)
    assert consumer.wait_for_tasks(500) == list(range(500))


def test_a_dead_writer_holds_up_neither_flush_nor_close(bus: Bus, socket_path: str) -> None:
    pusher = SocketPusher(bus, PusherConfig(socket_path=socket_path))
    pusher.start(wait=False)
    bus.emit(Event("x"))
    pid = pusher.stats().writer_pid
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    start = time.monotonic()
    assert not pusher.flush(0.1)
    pusher.close(0.1)
    assert time.monotonic() - start < 10
    stats = pusher.stats()
    assert (stats.emitted, stats.dropped, stats.pending) == (1, 1, 0)


def test_a_writer_that_dies_while_the_pusher_closes_is_followed_by_one_that_sends_the_rest(
    bus: Bus, consumer: Consumer
) -> None:
    consumer.stall()
    pusher = SocketPusher(bus, PusherConfig(socket_path=consumer.path, buffer_size=1000, **QUICK))
    pusher.start()
    supervisor, pid = pusher._supervisor, pusher.stats().writer_pid
    assert supervisor is not None
    assert pid is not None
    for number in range(1000):
        bus.emit(Event("x", task=number, payload="x" * 1000))  # more than the socket takes
    closing = threading.Thread(target=pusher.close, args=(60,))
    closing.start()
    wait_for(lambda: supervisor.ledger.close_deadline)
    os.kill(pid, signal.SIGKILL)
    wait_for(lambda: not is_running(pid))
    consumer.go_on()
    closing.join()
    assert (pusher.stats().sent, pusher.stats().dropped) == (1000, 0)


def test_the_next_writer_knows_the_state_of_the_units(bus: Bus, consumer: Consumer) -> None:
    pusher = SocketPusher(bus, PusherConfig(socket_path=consumer.path, **QUICK))
    pusher.set_graph(Graph({"a": [], "b": ["a"]}, tasks={"a": 2}), 1)
    with pusher:
        bus.emit(Event("orch.started", payload={"label": "run 7"}))
        bus.emit(Event("unit.started", "a"))
        bus.emit(Event("task.completed", "a", task=1))
        started = consumer.wait_for_tasks(3) and consumer.events()[1]
        supervisor = pusher._supervisor
        wait_for(lambda: supervisor.ledger.settled == 3)
        kill_writer(pusher)
        wait_for(lambda: len(consumer.connections) == 2 and len(consumer.lines()) == 8)
        graph, again, *units = consumer.events()[4:]
        assert graph.type == "graph"
        assert [(node["status"], node["completed_tasks"]) for node in graph.payload["nodes"]] == [
            ("in_progress", 1),
            ("pending", 0),
        ]
        assert (again.type, again.time) == ("orch.started", started.time)
        assert again.payload == started.payload
        assert [(event.type, event.task) for event in units] == [("unit.started", None), ("task.completed", 1)]


def test_a_writer_that_is_killed_with_a_full_pipe_leaves_no_trace_in_the_log(
    bus: Bus, consumer: Consumer, capfd: pytest.CaptureFixture[str]
) -> None:
    with SocketPusher(bus, PusherConfig(socket_path=consumer.path)) as pusher:
        pid = pusher.stats().writer_pid
        assert pid is not None
        stop(pid)
        for _ in range(5000):
            bus.emit(Event("x", payload="x" * 1000))  # more than the pipe takes
        kill_writer(pusher)
    assert "Traceback" not in capfd.readouterr().err


def test_a_writer_that_is_killed_does_not_end_a_host_with_the_default_of_sigpipe(consumer: Consumer) -> None:
    lines = f"""{HELPERS}
signal.signal(signal.SIGPIPE, signal.SIG_DFL)
pusher.start()
outbox, writer = pusher._supervisor.outbox, pusher._supervisor._writer
detach, outbox.detach = outbox.detach, lambda: False  # the thread has not noticed yet
os.kill(writer.pid, signal.SIGKILL)
until(lambda: not running(writer.pid), "the end of the writer")
outbox._write_at = 0.0  # it is put at once
emit(1)
writer.wake()
outbox.detach = detach
assert pusher.flush(30)
print(pusher.stats().writer_restarts)
"""
    code, output, errors = producer_script.run(lines, consumer.path)
    assert (code, output) == (0, "1\n"), errors
    assert consumer.wait_for_tasks(1) == [0]


def test_a_writer_that_died_is_noticed_though_a_forked_child_holds_its_pipe(
    bus: Bus, consumer: Consumer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A child that was forked while the pusher's thread started the writer has inherited what was open there."""
    inherited = []

    def spawn(command: list[str], files: int, output: int, real: Callable[..., int] = writer_handle._spawn) -> int:
        inherited.append(os.dup(output))
        return real(command, files, output)

    monkeypatch.setattr(writer_handle, "_spawn", spawn)
    try:
        with SocketPusher(bus, PusherConfig(socket_path=consumer.path)) as pusher:
            pid = pusher.stats().writer_pid
            assert pid is not None
            os.kill(pid, signal.SIGKILL)
            bus.emit(Event("x", task=1))
            assert consumer.wait_for_tasks(1) == [1]
            assert pusher.stats().writer_restarts == 1
    finally:
        for fd in inherited:
            os.close(fd)


def test_an_interpreter_that_hangs_is_killed_where_there_are_no_process_descriptors(
    bus: Bus, socket_path: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wrapper = tmp_path / "python"
    wrapper.write_text(f"#!/bin/sh\necho $$ > {tmp_path}/pid\nexec sleep 300\n")
    wrapper.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(wrapper))
    monkeypatch.delattr(os, "pidfd_open", raising=False)
    monkeypatch.setattr(pusher_module, "BEGIN_TIMEOUT", 1.0)
    with pytest.raises(TimeoutError):
        SocketPusher(bus, PusherConfig(socket_path=socket_path)).start(1, wait=False)
    pid = (tmp_path / "pid").read_text()
    try:
        wait_for(lambda: not is_running(pid))
    finally:
        with suppress(ProcessLookupError):
            os.kill(int(pid), signal.SIGKILL)


def test_what_is_held_when_the_pusher_closes_is_sent(bus: Bus, consumer: Consumer) -> None:
    with SocketPusher(bus, PusherConfig(socket_path=consumer.path, **QUICK)) as pusher:
        supervisor, writer = pusher._supervisor, pusher.stats().writer_pid
        assert supervisor is not None and writer is not None
        stop(writer)
        while not pusher.stats().dropped:
            bus.emit(Event("log", payload="x" * 100_000))
        bus.emit(Event("unit.completed", "a"))
        assert supervisor.outbox.has_held()
        closing = threading.Thread(target=pusher.close, args=(60,))
        closing.start()
        wait_for(lambda: supervisor.ledger.close_target > 0)
        os.kill(writer, signal.SIGCONT)
        closing.join()
        stats = pusher.stats()
        assert stats.emitted == stats.sent + stats.dropped
    wait_for(lambda: consumer.lines()[-1].startswith(b'{"type":"unit.completed"'))
