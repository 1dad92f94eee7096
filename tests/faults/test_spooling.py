"""With a spool nothing is lost: consumers that are away, hosts and writers that are killed, disks that fail."""

import json
import os
import random
import re
import signal
import socket
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing, suppress
from itertools import islice
from pathlib import Path

import pytest

from socketpusher import Bus, Event, SocketPusher, wire
from socketpusher.channel.spool_directory import databases
from socketpusher.writer.spool import Spool
from support import cli, producer_script
from support.consumer import Consumer
from support.profile import scaled
from support.spooling import drain, leave, pusher_with
from support.waiting import is_running, stop, wait_for

# How a host begins in which the pusher has the spool.
SPOOLING = """
config = PusherConfig(os.environ["SOCKET"], spool=os.environ["SPOOL"], event_ids=True, reconnect_backoff=0.01)
pusher = SocketPusher(bus, config)
"""


@pytest.fixture
def spool(tmp_path: Path) -> Path:
    return tmp_path / "spool"


def wait_until_received(pusher: SocketPusher) -> None:
    """Until the writer has all, so that none is dropped on the way to it."""
    supervisor = pusher._supervisor
    assert supervisor is not None
    wait_for(lambda: supervisor.ledger.received == supervisor.outbox.accepted())


def close_is_quick(pusher: SocketPusher) -> None:
    begin = time.monotonic()
    pusher.close(60)
    assert time.monotonic() - begin < 30


def test_a_run_needs_no_consumer(socket_path: str, spool: Path, bus: Bus) -> None:
    pusher = pusher_with(socket_path, spool, bus, buffer_size=10)
    pusher.start(wait=False)
    for number in range(5000):
        bus.emit(Event("x", task=number))
    wait_for(lambda: pusher.stats().spooled == 5000)
    assert pusher.stats().pending == 5000
    close_is_quick(pusher)
    stats = pusher.stats()
    assert (stats.emitted, stats.sent, stats.dropped, stats.pending, stats.spooled) == (5000, 0, 0, 5000, 5000)
    consumer = Consumer(socket_path)
    drain(socket_path, spool)
    assert consumer.wait_for_tasks(5000) == list(range(5000))
    consumer.go_away()


def test_spools_of_earlier_pushers_come_first_each_with_its_run(socket_path: str, spool: Path, bus: Bus) -> None:
    leave(socket_path, spool, range(100))
    leave(socket_path, spool, range(100, 120))
    consumer = Consumer(socket_path)
    pusher = pusher_with(socket_path, spool, bus)
    pusher.set_graph({"unit 120": []}, 1)
    pusher.start()
    for number in range(120, 130):
        bus.emit(Event("x", task=number))
    assert pusher.flush(30)
    pusher.close()
    assert consumer.wait_for_tasks(130) == list(range(130))
    graphs = [event.payload["nodes"][0]["id"] for event in consumer.events() if event.type == "graph"]
    assert list(dict.fromkeys(graphs)) == ["unit 0", "unit 100", "unit 120"]
    kinds = [event.type for event in consumer.events()]
    assert kinds[:2] == ["graph", "x"]
    ids = [json.loads(line).get("id", "") for line in consumer.lines()]
    sessions = [id.partition("-")[0] for id in ids if id]
    assert [sessions.count(session) for session in dict.fromkeys(sessions)] == [100, 20, 10]
    assert os.listdir(spool) == []
    consumer.go_away()


def test_a_consumer_that_comes_in_the_middle_gets_everything_in_order(socket_path: str, spool: Path, bus: Bus) -> None:
    pusher = pusher_with(socket_path, spool, bus, buffer_size=50)
    pusher.start(wait=False)
    consumer = None
    for number in range(20_000):
        bus.emit(Event("x", task=number))
        if number == 10_000:
            wait_for(lambda: pusher.stats().spooled > 9000)
            consumer = Consumer(socket_path)
    assert consumer is not None
    assert pusher.flush(60)
    stats = pusher.stats()
    assert (stats.sent, stats.dropped, stats.pending, stats.spooled) == (20_000, 0, 0, 0)
    pusher.close()
    assert consumer.wait_for_tasks(20_000) == list(range(20_000))
    assert os.listdir(spool) == []
    consumer.go_away()


def test_a_consumer_that_reads_slowly_costs_no_event(consumer: Consumer, spool: Path, bus: Bus) -> None:
    pusher = pusher_with(consumer.path, spool, bus, buffer_size=10)
    pusher.start()
    consumer.stall()
    for number in range(3000):
        bus.emit(Event("x", task=number, payload="x" * 2000))
    wait_for(lambda: pusher.stats().spooled > 2000)
    consumer.go_on()
    assert pusher.flush(60)
    pusher.close()
    assert (pusher.stats().sent, pusher.stats().dropped) == (3000, 0)
    assert list(dict.fromkeys(consumer.wait_for_tasks(3000))) == list(range(3000))


def test_what_close_could_not_deliver_waits_and_comes_once(consumer: Consumer, spool: Path, bus: Bus) -> None:
    pusher = pusher_with(consumer.path, spool, bus)
    pusher.start()
    consumer.stall()
    for number in range(1000):
        bus.emit(Event("x", task=number, payload="x" * 1000))
    pusher.close(0.2)
    stats = pusher.stats()
    assert stats.emitted == 1000 == stats.sent + stats.spooled
    assert (stats.dropped, stats.pending) == (0, stats.spooled)
    consumer.go_away()
    consumer.come_back()
    drain(consumer.path, spool)
    assert sorted({*consumer.wait_for_tasks(1000)}) == list(range(1000))


def test_what_is_in_the_socket_when_close_gives_up_waits_on_the_disk_too(
    socket_path: str, spool: Path, bus: Bus
) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(socket_path)
        listener.listen()
        pusher = pusher_with(socket_path, spool, bus)
        pusher.start()
        for number in range(5):
            bus.emit(Event("x", task=number))
        assert pusher.flush(30)
        pusher.close(0.05)
    stats = pusher.stats()
    assert (stats.emitted, stats.sent, stats.dropped, stats.pending, stats.spooled) == (5, 0, 0, 5, 5)
    os.unlink(socket_path)
    consumer = Consumer(socket_path)
    drain(socket_path, spool)
    assert consumer.wait_for_tasks(5) == list(range(5))
    consumer.go_away()


def test_what_was_read_when_close_gives_up_is_not_on_the_disk(consumer: Consumer, spool: Path, bus: Bus) -> None:
    for turn in range(5):
        pusher = pusher_with(consumer.path, spool, bus)
        pusher.start()
        bus.emit(Event("x", task=turn))
        consumer.wait_for_tasks(turn + 1)
        pusher.close(0)
        assert (pusher.stats().sent, pusher.stats().spooled) == (1, 0)
        assert os.listdir(spool) == []


@pytest.mark.parametrize("who", ["writer", "host", "both"])
def test_a_kill_loses_no_event_that_the_writer_had(socket_path: str, spool: Path, who: str) -> None:
    lines = f"""
pusher.start(wait=False)
for number in range(3000):
    bus.emit(Event("x", task=number))
while pusher._supervisor.ledger.stored < 3000:
    time.sleep(0.001)
writer = pusher.stats().writer_pid
print(writer, flush=True)
if {who != "host"}:
    os.kill(writer, signal.SIGKILL)
if {who != "writer"}:
    os.kill(os.getpid(), signal.SIGKILL)
while pusher.stats().writer_restarts < 1:
    time.sleep(0.001)
for number in range(3000, 3100):
    bus.emit(Event("x", task=number))
pusher.close()
stats = pusher.stats()
assert (stats.emitted, stats.spooled, stats.dropped, stats.sent) == (3100, 3100, 0, 0), stats
"""
    code, output, errors = producer_script.run(SPOOLING + lines, socket_path, env={"SPOOL": str(spool)})
    assert code == (0 if who == "writer" else -9), errors
    wait_for(lambda: not is_running(output))
    consumer = Consumer(socket_path)
    drain(socket_path, spool)
    count = 3100 if who == "writer" else 3000
    assert consumer.wait_for_tasks(count) == list(range(count))
    consumer.go_away()


def test_what_is_on_the_disk_is_not_flushed_while_there_is_no_writer(
    socket_path: str, spool: Path, bus: Bus, monkeypatch: pytest.MonkeyPatch
) -> None:
    pusher = pusher_with(socket_path, spool, bus)
    pusher.start(wait=False)
    for number in range(100):
        bus.emit(Event("x", task=number))
    wait_for(lambda: pusher.stats().spooled == 100)
    monkeypatch.setattr(sys, "executable", "/nowhere/python")  # so that no other one can be started
    writer = pusher.stats().writer_pid
    assert writer is not None
    os.kill(writer, signal.SIGKILL)
    wait_for(lambda: pusher.stats().writer_restarts == 1)
    assert not pusher.flush(0.1)
    assert (pusher.stats().sent, pusher.stats().spooled) == (0, 100)
    monkeypatch.undo()
    consumer = Consumer(socket_path)
    assert pusher.flush(30)
    pusher.close()
    assert consumer.wait_for_tasks(100) == list(range(100))
    consumer.go_away()


def test_what_is_in_the_socket_and_on_the_disk_waits_while_there_is_no_writer(
    consumer: Consumer, spool: Path, bus: Bus, monkeypatch: pytest.MonkeyPatch
) -> None:
    pusher = pusher_with(consumer.path, spool, bus)
    pusher.start()
    consumer.stall()
    for number in range(1000):
        bus.emit(Event("x", task=number, payload="x" * 1000))
    wait_for(lambda: pusher._supervisor.ledger.stored > 900)
    assert pusher.stats().spooled < pusher._supervisor.ledger.stored
    monkeypatch.setattr(sys, "executable", "/nowhere/python")
    writer = pusher.stats().writer_pid
    assert writer is not None
    os.kill(writer, signal.SIGKILL)
    wait_for(lambda: pusher.stats().writer_restarts == 1)
    stats = pusher.stats()
    assert stats.emitted == 1000 == stats.sent + stats.spooled
    assert stats.spooled == pusher._supervisor.ledger.stored
    consumer.go_on()
    monkeypatch.undo()
    pusher.close()


def test_a_writer_whose_host_is_killed_puts_what_it_has_on_the_disk_at_once(socket_path: str, spool: Path) -> None:
    lines = """
pusher.start(wait=False)
for number in range(5000):
    bus.emit(Event("x", task=number))
print(pusher.stats().writer_pid, flush=True)
while pusher._supervisor.outbox.has_waiting():
    time.sleep(0.001)
os.kill(os.getpid(), signal.SIGKILL)
"""
    _, output, _ = producer_script.run(SPOOLING + lines, socket_path, env={"SPOOL": str(spool)})
    begin = time.monotonic()
    wait_for(lambda: not is_running(output))
    assert time.monotonic() - begin < 4  # not the 5 s that it has without a spool
    consumer = Consumer(socket_path)
    drain(socket_path, spool)
    tasks = consumer.tasks()
    assert tasks == list(range(len(tasks)))
    assert len(tasks) > 4000
    consumer.go_away()


def test_the_next_pusher_waits_for_a_writer_that_still_has_the_spool(socket_path: str, spool: Path, bus: Bus) -> None:
    lines = """
pusher.start(wait=False)
bus.emit(Event("x", task=0))
while pusher._supervisor.ledger.stored < 1:
    time.sleep(0.001)
print(pusher.stats().writer_pid, flush=True)
sys.stdin.read()
"""
    host = producer_script.start(SPOOLING + lines, socket_path, env={"SPOOL": str(spool)}, stdin=subprocess.PIPE)
    assert host.stdout is not None
    writer = int(host.stdout.readline())
    stop(writer)
    host.kill()
    host.communicate()
    consumer = Consumer(socket_path)
    pusher = pusher_with(socket_path, spool, bus)
    pusher.start()
    bus.emit(Event("x", task=1))
    assert pusher.flush(30)
    assert consumer.wait_for_tasks(1) == [1]
    os.kill(writer, signal.SIGKILL)  # or it would send that itself, now that there is a consumer
    assert consumer.wait_for_tasks(2) == [1, 0]
    pusher.close()
    consumer.go_away()


def test_two_hosts_share_a_directory(socket_path: str, spool: Path, bus: Bus) -> None:
    pushers = [(other := Bus(), pusher_with(socket_path, spool, other)) for _ in range(2)]
    for _, pusher in pushers:
        pusher.start(wait=False)
    for number in range(1000):
        for which, (other, _) in enumerate(pushers):
            other.emit(Event("x", unit=str(which), task=number))
    for _, pusher in pushers:
        wait_for(lambda pusher=pusher: pusher.stats().spooled == 1000)
    assert len(databases(str(spool))) == 2
    pushers[0][1].close()
    consumer = Consumer(socket_path)
    assert pushers[1][1].flush(30)
    pushers[1][1].close()  # it was there before the other was left, and looks again
    if os.listdir(spool):
        drain(socket_path, spool)
    consumer.wait_for_tasks(2000)
    for which in range(2):
        assert [event.task for event in consumer.events() if event.unit == str(which)] == list(range(1000))
    consumer.go_away()


def test_an_empty_spool_does_not_delay_close(socket_path: str, spool: Path) -> None:
    """As of writers that were killed while they made it."""
    leave(socket_path, spool, range(10))
    for number in range(2, 5):
        Spool(f"{spool}/0000000{number}-0123456789ab.db").close()
    leave(socket_path, spool, range(10, 20))
    consumer = Consumer(socket_path)
    drain(socket_path, spool)
    assert consumer.wait_for_tasks(20) == list(range(20))
    consumer.go_away()


@pytest.mark.parametrize("seed", range(scaled(2)))
def test_emitted_killed_anywhere_restarted_and_drained(socket_path: str, spool: Path, seed: int) -> None:
    """What consumers got is what the writers had, in order per session; repeated is only what was unread."""
    choices = random.Random(seed)
    emitted: dict[int, int] = {}
    story: list[object] = []
    consumer = Consumer(socket_path)
    lines = """
run, count, pause = map(int, os.environ["RUN"].split())
pusher.start(wait=False)
print(pusher.stats().writer_pid, flush=True)
for number in range(count):
    bus.emit(Event("x", unit=str(run), task=number, payload="x" * 300))
    if number % 50 == 0:
        time.sleep(pause / 1000)
        print(pusher._supervisor.ledger.settled, flush=True)
pusher.close(0.5)
print(pusher._supervisor.ledger.settled, flush=True)
"""
    away = False
    for run in range(8):
        environment = {"SPOOL": str(spool), "RUN": f"{run} {choices.randrange(1000, 6000)} {choices.randrange(4)}"}
        host = producer_script.start(SPOOLING + lines, socket_path, env=environment)
        assert host.stdout is not None
        writer = int(host.stdout.readline())
        victims = choices.choice([[], [writer], [host.pid], [writer, host.pid], [host.pid, writer]])
        for _ in range(choices.randrange(30)):
            host.stdout.readline()
        if choices.random() < 0.6:
            consumer.come_back() if away else consumer.die_unread()
            away = not away
        story.append((run, "away" if away else "there", [("host", "writer")[pid == writer] for pid in victims]))
        for pid in victims:
            os.kill(pid, signal.SIGKILL)
        output, errors = host.communicate(timeout=60)
        wait_for(lambda writer=writer: not is_running(writer))
        emitted[run] = max(map(int, output.split()), default=0)
        assert "Traceback" not in errors, errors
    if away:
        consumer.come_back()
    drain(socket_path, spool)

    def missing() -> dict[int, tuple[int, int]]:
        arrived = {run: len({task for _, task in got(consumer, run)}) for run in emitted}
        return {run: (arrived[run], count) for run, count in emitted.items() if arrived[run] < count}

    deadline = time.monotonic() + 30
    while missing() and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not missing(), story
    for run, count in emitted.items():
        tasks = [task for _, task in got(consumer, run)]
        assert sorted(set(tasks)) == list(range(len(set(tasks))))
        assert len(set(tasks)) >= count
        for pieces in consumer.connections:
            there = [event.task for event in decoded(pieces) if event.unit == str(run)]
            assert there == sorted(set(there)), "twice, or out of order, on one connection"
    consumer.go_away()


def decoded(pieces: list[bytes]) -> list[Event]:
    return [wire.decode(line) for line in b"".join(pieces).split(b"\n")[:-1]]


def got(consumer: Consumer, run: int) -> list[tuple[str, int]]:
    return [(event.unit, event.task or 0) for event in consumer.events() if event.unit == str(run)]


# The disk


def test_what_exceeds_the_quota_is_dropped_and_counted(socket_path: str, spool: Path, bus: Bus, caplog) -> None:
    pusher = pusher_with(socket_path, spool, bus, spool_bytes=300_000, buffer_size=20)
    pusher.start(wait=False)
    for number in range(600):
        bus.emit(Event("x", task=number, payload="x" * 2000))
        if number % 100 == 99:
            wait_until_received(pusher)
    wait_for(lambda: pusher.stats().dropped > 0)
    pusher.close(0.5)
    stats = pusher.stats()
    assert stats.emitted == 600 == stats.sent + stats.dropped + stats.spooled
    assert 50 < stats.spooled < 200
    assert caplog.text.count("does not work: database or disk is full") == 1
    consumer = Consumer(socket_path)
    drain(socket_path, spool)
    tasks = consumer.wait_for_tasks(stats.spooled)
    assert tasks == sorted(set(tasks))
    assert len(tasks) == stats.spooled
    consumer.go_away()


def test_lines_that_wait_for_a_full_spool_follow_those_in_it(socket_path: str, spool: Path, bus: Bus) -> None:
    pusher = pusher_with(socket_path, spool, bus, spool_bytes=300_000, buffer_size=20)
    pusher.start(wait=False)
    for number in range(600):
        bus.emit(Event("x", task=number, payload="x" * 2000))
        if number % 100 == 99:
            wait_until_received(pusher)
    wait_for(lambda: pusher.stats().dropped > 0)
    consumer = Consumer(socket_path)
    assert pusher.flush(30)
    for number in range(600, 650):
        bus.emit(Event("x", task=number))
        assert pusher.flush(30)
    stats = pusher.stats()
    assert (stats.emitted, stats.sent + stats.dropped, stats.pending) == (650, 650, 0)
    pusher.close()
    tasks = consumer.wait_for_tasks(stats.sent)
    assert len(tasks) == stats.sent
    assert tasks == sorted({*tasks})
    assert tasks[-50:] == list(range(600, 650))
    consumer.go_away()


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    disk = tmp_path / "disk"
    disk.mkdir()
    if os.geteuid() != 0 or subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m,mode=700", "none", disk]).returncode:
        pytest.skip("only root can mount a small disk, and not in every container")
    yield disk
    subprocess.run(["umount", disk], check=True)


def test_a_full_disk_drops_and_counts(socket_path: str, small_disk: Path, bus: Bus, caplog) -> None:
    pusher = pusher_with(socket_path, small_disk, bus, buffer_size=20)
    pusher.start(wait=False)
    for number in range(3000):
        bus.emit(Event("x", task=number, payload="x" * 2000))
        if number % 100 == 99:
            wait_until_received(pusher)
    pusher.close(0.5)
    stats = pusher.stats()
    assert stats.emitted == 3000 == stats.sent + stats.dropped + stats.spooled
    assert stats.dropped > 1000 < 3000 - stats.spooled
    assert caplog.text.count("does not work") >= 1
    consumer = Consumer(socket_path)
    drain(socket_path, small_disk)
    tasks = consumer.wait_for_tasks(stats.spooled)
    assert tasks == sorted(set(tasks))
    consumer.go_away()


def test_a_disk_that_stays_full_is_read_and_let_go_of(socket_path: str, small_disk: Path, bus: Bus) -> None:
    """Taking rows off needs room. What comes meanwhile is not held up, and nothing that was read comes again."""
    pusher = pusher_with(socket_path, small_disk, bus, buffer_size=20)
    pusher.start(wait=False)
    numbers = iter(range(10**6))
    while pusher.stats().dropped < 50:
        for number in islice(numbers, 100):
            bus.emit(Event("x", task=number, payload="x" * 2000))
        wait_until_received(pusher)
    (filler := small_disk / "filler").touch()
    with suppress(OSError), filler.open("wb") as file:
        while True:
            file.write(bytes(4096))
            file.flush()
    wait_for(lambda: pusher.stats().pending - pusher.stats().spooled <= 20)  # what is too much is dropped by now
    before = pusher.stats().dropped
    consumer = Consumer(socket_path)
    read = consumer.wait_for_tasks(pusher.stats().emitted - before, timeout=60)
    for number in islice(numbers, 10):
        bus.emit(Event("x", task=number))
        assert pusher.flush(30)
    pusher.close()
    stats = pusher.stats()
    assert (stats.emitted, stats.sent + stats.dropped, stats.spooled) == (number + 1, number + 1, 0)
    assert stats.dropped == before
    assert consumer.wait_for_tasks(len(read) + 10) == [*read, *range(number - 9, number + 1)]
    assert os.listdir(small_disk) == ["filler"]
    consumer.go_away()


def started_without_a_disk(pusher: SocketPusher, spool: Path) -> Path:
    """A directory is in the place of its database."""
    pusher.start(wait=False)
    (lock,) = os.listdir(spool)
    in_the_way = spool / lock.replace(".lock", ".db")
    in_the_way.mkdir()
    return in_the_way


def test_a_disk_that_does_not_work_costs_no_event_that_may_wait_in_memory(
    socket_path: str, spool: Path, bus: Bus, caplog
) -> None:
    pusher = pusher_with(socket_path, spool, bus)
    in_the_way = started_without_a_disk(pusher, spool)
    for number in range(500):
        bus.emit(Event("x", task=number))
    wait_for(lambda: "does not work: " in caplog.text)
    consumer = Consumer(socket_path)
    assert pusher.flush(30)
    pusher.close()
    assert consumer.wait_for_tasks(500) == list(range(500))
    consumer.go_away()
    in_the_way.rmdir()


def test_a_disk_that_works_again_takes_what_waits_in_memory(socket_path: str, spool: Path, bus: Bus) -> None:
    pusher = pusher_with(socket_path, spool, bus, buffer_size=10)
    in_the_way = started_without_a_disk(pusher, spool)
    for number in range(100):
        bus.emit(Event("x", task=number))
    wait_for(lambda: pusher.stats().dropped == 90)
    in_the_way.rmdir()
    wait_for(lambda: pusher.stats().spooled == 10)
    bus.emit(Event("x", task=100))
    wait_for(lambda: pusher.stats().spooled == 11)
    pusher.close()
    consumer = Consumer(socket_path)
    drain(socket_path, spool)
    assert consumer.wait_for_tasks(11) == [*range(10), 100]
    consumer.go_away()


def started_and_robbed(pusher: SocketPusher, bus: Bus, spool: Path, count: int) -> None:
    """So many events are on the disk when somebody removes the directory."""
    pusher.start(wait=False)
    for number in range(count):
        bus.emit(Event("x", task=number))
    wait_for(lambda: pusher.stats().spooled == count)
    subprocess.run(["rm", "-r", spool], check=True)


def test_a_directory_that_was_removed_costs_only_what_was_in_it_and_that_is_counted(
    socket_path: str, spool: Path, bus: Bus, caplog
) -> None:
    pusher = pusher_with(socket_path, spool, bus)
    started_and_robbed(pusher, bus, spool, 500)
    pusher.close(0.5)
    stats = pusher.stats()
    assert (stats.emitted, stats.sent, stats.dropped, stats.pending, stats.spooled) == (500, 0, 500, 0, 0)
    assert "was removed; 500 events are lost" in caplog.text


def test_a_directory_that_was_removed_does_not_keep_a_consumer_from_getting_all(
    socket_path: str, spool: Path, bus: Bus
) -> None:
    pusher = pusher_with(socket_path, spool, bus, buffer_size=10)
    started_and_robbed(pusher, bus, spool, 5000)
    consumer = Consumer(socket_path)
    assert pusher.flush(30)
    pusher.close()
    assert consumer.wait_for_tasks(5000) == list(range(5000))
    consumer.go_away()


def test_a_damaged_spool_loses_itself_and_not_the_next(socket_path: str, spool: Path, bus: Bus, caplog) -> None:
    for first in (0, 100, 200):
        leave(socket_path, spool, range(first, first + 100))
    damaged = Path(databases(str(spool))[1])
    damaged.write_bytes(b"not a database " * 1000)
    caplog.set_level("INFO", "socketpusher")
    consumer = Consumer(socket_path)
    with pusher_with(socket_path, spool, bus) as pusher:
        bus.emit(Event("x", task=300))
        assert pusher.flush(30)
    assert consumer.wait_for_tasks(201) == [*range(100), *range(200, 301)]
    assert os.listdir(spool) == [f"{damaged.name}.damaged"]
    assert caplog.text.count(f"was renamed to {damaged.name}.damaged") == 1
    assert "sent 100 events that an earlier pusher left" in caplog.text
    consumer.go_away()


def test_a_spool_with_wrong_values_is_put_aside(socket_path: str, spool: Path, bus: Bus, caplog) -> None:
    for first in (0, 100):
        leave(socket_path, spool, range(first, first + 100))
    with closing(sqlite3.connect(databases(str(spool))[0])) as database:
        database.execute("UPDATE batches SET data = NULL")
        database.commit()
    consumer = Consumer(socket_path)
    pusher = pusher_with(socket_path, spool, bus)
    pusher.start()
    bus.emit(Event("x", task=200))
    assert pusher.flush(30)
    assert consumer.wait_for_tasks(101) == list(range(100, 201))
    assert pusher.stats().writer_restarts == 0
    pusher.close()
    assert caplog.text.count("100 events are lost") == 1
    consumer.go_away()


def test_a_spool_that_is_damaged_while_it_is_in_use_is_counted(socket_path: str, spool: Path, bus: Bus, caplog) -> None:
    pusher = pusher_with(socket_path, spool, bus, buffer_size=10)
    pusher.start(wait=False)
    for number in range(2000):
        bus.emit(Event("x", task=number, payload="x" * 1000))
        if number == 1000:
            wait_for(lambda: pusher.stats().spooled > 900)
    wait_for(lambda: pusher.stats().spooled == 2000)
    writer = pusher.stats().writer_pid
    assert writer is not None
    os.kill(writer, signal.SIGKILL)
    (database,) = databases(str(spool))
    for file in (database, f"{database}-wal"):  # the log has what the database has not
        Path(file).write_bytes(b"not a database " * 1000)
    wait_for(lambda: pusher.stats().writer_restarts == 1 and pusher.stats().dropped > 0)
    bus.emit(Event("x", task=2000))
    consumer = Consumer(socket_path)
    assert pusher.flush(30)
    pusher.close()
    stats = pusher.stats()
    assert (stats.emitted, stats.sent + stats.dropped, stats.spooled) == (2001, 2001, 0)
    assert stats.dropped >= 1900
    assert consumer.wait_for_tasks(1)[-1] == 2000
    assert "can't be read" in caplog.text
    consumer.go_away()


@pytest.mark.parametrize("mode", [0o500, 0o755])
def test_a_directory_that_can_not_be_used_is_refused_at_the_start(
    socket_path: str, tmp_path: Path, bus: Bus, mode: int
) -> None:
    if mode == 0o500 and os.geteuid() == 0:
        pytest.skip("root may write anywhere")
    tmp_path.chmod(mode)
    pusher = pusher_with(socket_path, tmp_path, bus)
    with pytest.raises(OSError, match="can't use the spool directory"):
        pusher.start(wait=False)
    tmp_path.chmod(0o700)
    pusher.start(wait=False)
    pusher.close()


def test_a_relative_directory_is_that_of_the_start(
    socket_path: str, tmp_path: Path, bus: Bus, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    pusher = pusher_with(socket_path, Path("spool"), bus)
    pusher.start(wait=False)
    os.chdir("/")
    bus.emit(Event("x"))
    wait_for(lambda: pusher.stats().spooled == 1)
    pusher.close()
    assert len(databases(str(tmp_path / "spool"))) == 1


def test_a_forked_child_does_not_keep_the_spool(socket_path: str, spool: Path) -> None:
    lines = """
pusher.start(wait=False)
bus.emit(Event("x", task=0))
if os.fork() == 0:
    os.close(1)
    time.sleep(600)
print(pusher.stats().writer_pid, flush=True)
while pusher._supervisor.ledger.stored < 1:
    time.sleep(0.001)
os.kill(os.getpid(), signal.SIGKILL)
"""
    host = producer_script.start(
        SPOOLING + lines, socket_path, env={"SPOOL": str(spool)}, stderr=subprocess.DEVNULL, start_new_session=True
    )
    try:
        output, _ = host.communicate(timeout=60)
        wait_for(lambda: not is_running(output))
        consumer = Consumer(socket_path)
        drain(socket_path, spool)
        assert consumer.wait_for_tasks(1) == [0]
        consumer.go_away()
    finally:
        os.killpg(host.pid, signal.SIGKILL)


# The commands


def test_a_drain_that_is_killed_loses_nothing_and_repeats_what_was_unread(consumer: Consumer, spool: Path) -> None:
    for first in (0, 20_000):
        leave("/nowhere/s", spool, range(first, first + 20_000))
    for _ in range(3):
        before = len(consumer.lines())
        with cli.running("drain", str(spool), consumer.path) as process:
            wait_for(lambda before=before, ran=process: len(consumer.lines()) > before or ran.poll() is not None)
            consumer.stall()
            writers = writers_of(process.pid)
            for pid in (*writers, process.pid):
                os.kill(pid, signal.SIGKILL)
        wait_for(lambda writers=writers: not any(map(is_running, writers)))
        consumer.go_on()
    drain(consumer.path, spool)
    wait_for(lambda: {*consumer.tasks()} == {*range(40_000)})
    for pieces in consumer.connections:
        there = [event.task for event in decoded(pieces) if event.type == "x"]
        assert there == sorted({*there})
    unread = 208 * 1024 + (1 << 20)  # bytes: the memory of a socket, and a turn of the writer, before it takes note
    repeated = len(consumer.lines()) - 40_000
    assert repeated * len(consumer.lines()[-1]) <= 3 * unread


def writers_of(pid: int) -> list[int]:
    found = []
    for command in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(OSError):
            if f"host={pid}".encode() in command.read_bytes().split(b"\0"):
                found.append(int(command.parent.name))
    return found


def test_doctor_sees_what_waits(consumer: Consumer, spool: Path) -> None:
    def said() -> str:
        return cli.run("doctor", consumer.path, "--spool", str(spool)).stdout

    assert f"warn  spool          the directory {spool} does not exist" in said()
    spool.touch()
    assert re.search(r"FAIL  spool .*it is not a directory; choose a directory", said())
    spool.unlink()
    leave("/nowhere/s", spool, range(50))
    assert re.search(r"warn  spool          .* has events of 1 pusher: [\d.]+ [KM]iB, 0 in use", said())
    assert f"socketpusher drain {spool} {consumer.path}" in said()
    drain(consumer.path, spool)
    assert f"ok    spool          nothing is waiting in {spool}" in said()
    (spool / "00000001-0123456789ab.db.damaged").touch()
    assert "damaged files were put aside in" in (text := said())
    assert "00000001-0123456789ab.db.damaged" in text
    spool.chmod(0o755)
    assert "FAIL  spool" in said()
    spool.chmod(0o700)
