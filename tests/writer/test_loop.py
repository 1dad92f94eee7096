"""The writer's loop, in this process: what it does with what waits, and with faults of its own parts."""

import os
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path

import pytest

from socketpusher import Bus, Event, PusherConfig, SocketPusher
from socketpusher.channel.batch import Batch
from socketpusher.channel.descriptors import drain, pipe, wake
from socketpusher.channel.journal import Journal, Kind, Record, journal_files
from socketpusher.channel.ledger import Ledger
from socketpusher.channel.messages import ORPHAN_TIMEOUT, WriterSpec
from socketpusher.channel.queue import Frame, QueueReader
from socketpusher.channel.spool_directory import Claim, SpoolError, claim_new, is_in_use
from socketpusher.writer.backlog import Backlog
from socketpusher.writer.loop import (
    BLOCKED_GRACE,
    DISK_PAUSE,
    LONGEST_UNREAD_POLL,
    SPOOL_AFTER,
    State,
    Writer,
    _WriterDone,
)
from socketpusher.writer.preface import Preface
from socketpusher.writer.session import Session
from socketpusher.writer.spool import Spool
from support.consumer import Consumer


class Loop:
    """A writer and the host's ends of what connects it."""

    def __init__(self, records: Sequence[Record] = (), claim: Claim | None = None, **config) -> None:
        self.files = [*pipe(), *pipe(), *pipe()]
        queue, self.queue, self.wakeups, self.waker, self.reports, reports = self.files
        self.ledger = Ledger()
        given = {"socket_path": "/nowhere/s", **config}
        if claim is not None:
            given["spool"] = claim.directory
        spec = WriterSpec([], "/", given, 1, 0, 0, 0, 0, 0)
        reader = QueueReader(queue.fileno())
        self.files += (files := journal_files())
        journal = Journal(self.ledger, files)
        journal.append(list(records))  # of an earlier writer
        ends = self.wakeups.fileno(), reports.fileno()
        self.writer = Writer(spec, None, reader, *ends, self.ledger, journal, None, claim)
        self._journal = journal
        self.end = self.offset = 0

    def another(self, spec: WriterSpec, claim: Claim) -> Writer:
        """A writer that takes the place of one that died."""
        reader = QueueReader(self.files[0].fileno())
        ends = self.wakeups.fileno(), self.files[5].fileno()
        return Writer(spec, None, reader, *ends, self.ledger, self._journal, None, claim)

    def put(self, *lines: bytes) -> None:
        """What the host puts into the queue, and the writer takes in at once."""
        data = b"".join(line + b"\n" for line in lines)
        self.offset += len(data)
        frame = Frame(Batch(self.end, self.end + len(lines), data), self.offset)
        self.end += len(lines)
        rest = b"".join(frame.pieces())
        while rest:
            rest = rest[os.write(self.queue.fileno(), rest[:60_000]) :]
            self.writer._read_queue()
        while self.ledger.received < self.end:
            self.writer._read_queue()

    def blocked_for(self, seconds: float) -> None:
        self.writer._connection = object()  # type: ignore[assignment]
        self.writer._state = State.BLOCKED
        self.writer._idle_since = time.monotonic() - seconds

    def close(self) -> None:
        if self.writer._own.spool is not None:
            self.writer._own.spool.close()
        self.ledger.close()
        for file in self.files:
            file.close()


@pytest.fixture
def loops() -> Iterator[list[Loop]]:
    made: list[Loop] = []
    yield made
    for loop in made:
        loop.close()


def test_a_consumer_that_takes_nothing_is_given_time_before_anything_is_dropped(loops: list[Loop]) -> None:
    loops.append(loop := Loop(buffer_size=5))
    loop.put(*[b"x"] * 50)
    loop.blocked_for(0.0)
    loop.writer._enforce_bounds()
    assert loop.writer._own.backlog.waiting == 50
    loop.writer._idle_since -= BLOCKED_GRACE
    loop.writer._enforce_bounds()
    assert (loop.writer._own.backlog.waiting, loop.ledger.dropped) == (5, 45)
    assert b"5 events are waiting, so the newest are dropped" in (drain(loop.reports) or b"")


def test_without_a_consumer_the_bounds_hold_at_once(loops: list[Loop]) -> None:
    loops.append(loop := Loop(buffer_size=5))
    loop.put(*[b"x"] * 50)
    loop.writer._enforce_bounds()
    assert (loop.writer._own.backlog.waiting, loop.ledger.dropped) == (5, 45)


def test_a_consumer_has_caught_up_when_half_of_the_bounds_is_free(loops: list[Loop]) -> None:
    loops.append(loop := Loop(buffer_size=10))
    loop.put(*[b"x"] * 11)
    loop.writer._enforce_bounds()
    assert b"no consumer is connected at" in (drain(loop.reports) or b"")
    backlog = loop.writer._own.backlog
    backlog.connection_made(b"")
    backlog.data_sent(len(b"x\n" * 4), memory=0)
    loop.writer._enforce_bounds()
    assert (backlog.waiting, drain(loop.reports)) == (6, None)
    backlog.data_sent(len(b"x\n"), memory=0)
    loop.writer._enforce_bounds()
    assert b"has caught up; 1 events were dropped" in (drain(loop.reports) or b"")


@pytest.mark.parametrize("overflow", ["drop_newest", "drop_oldest"])
def test_waiting_lines_are_bounded_in_bytes(loops: list[Loop], overflow: str) -> None:
    loops.append(loop := Loop(buffer_size=1000, buffer_bytes=1, overflow=overflow))
    for _ in range(20):
        loop.put(b"x" * 199_999)
    loop.writer._enforce_bounds()
    assert loop.writer._own.backlog.waiting_bytes == 1_000_000  # of the 1 MiB that may always wait
    assert (loop.writer._own.backlog.waiting, loop.ledger.dropped) == (5, 15)
    assert b"1 MiB are waiting" in (drain(loop.reports) or b"")


def test_the_queue_fills_up_when_too_many_bytes_wait(loops: list[Loop]) -> None:
    loops.append(loop := Loop(buffer_size=1, buffer_bytes=1))
    for _ in range(20):
        loop.put(b"x" * 199_999)
    loop.writer._update_interest()
    assert not loop.writer._reading
    loop.writer._enforce_bounds()
    loop.writer._update_interest()
    assert loop.writer._reading


def test_the_end_of_the_queue_does_not_wake_the_writer_again_and_again(loops: list[Loop]) -> None:
    loops.append(loop := Loop())
    loop.queue.close()
    loop.writer._read_queue()
    loop.writer._update_interest()
    assert loop.writer._poll.poll(0) == []


@pytest.mark.parametrize("step", ["fill_in_graph", "observe", "lines"])
def test_an_error_of_the_preface_is_reported_once_and_lines_are_delivered(
    bus: Bus, consumer: Consumer, loops: list[Loop], monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    def fail(*_) -> bytes:
        raise RecursionError("made to fail")

    monkeypatch.setattr(f"socketpusher.writer.preface.Preface.{step}", fail)
    loops.append(loop := Loop(socket_path=consumer.path, buffer_size=3))
    for number in range(9):
        kind = b"orch.started" if number == 0 else b"x"
        loop.put(b'{"type":"%b","time":"2026-01-01T00:00:00Z","task":%d}' % (kind, number))
    loop.writer._enforce_bounds()
    loop.writer._publish()
    loop.ledger.close_deadline = 2**62
    loop.ledger.close_target = 9
    loop.writer._closing = True
    loop.writer.run()
    assert consumer.wait_for_tasks(3) == [0, 1, 2]
    loop.writer._own.backlog.peer_unread(0)
    loop.writer._publish()
    reports = drain(loop.reports) or b""
    assert reports.count(b"can't send the state of the run") == 1
    assert b"RecursionError: made to fail" in reports


def test_lines_that_come_again_do_not_change_the_state_before(loops: list[Loop]) -> None:
    """Or tasks without a number would count twice: the writer before died before it said that they are settled."""
    task = b'{"type":"task.started","unit":"a"}\n'
    loops.append(loop := Loop([Record(Kind.READ, 1, task)]))
    assert loop.writer._own.preface.lines() == b""
    loop.put(task[:-1])
    loop.writer._own.backlog.connection_made(b"")
    loop.writer._own.backlog.data_sent(len(task), memory=0)
    loop.writer._own.backlog.peer_unread(0)
    loop.writer._publish()
    assert loop.writer._own.preface.lines().count(b"task.started") == 1


def test_more_batches_than_one_write_takes_are_delivered(bus: Bus, socket_path: str) -> None:
    """`sendmsg` fails with more than 1,024 buffers, and takes nothing."""
    pusher = SocketPusher(bus, PusherConfig(socket_path=socket_path, buffer_size=100_000, reconnect_backoff=0.01))
    pusher.start(wait=False)
    with pusher:
        for number in range(3000):
            pusher._supervisor.outbox._write_at = 0.0  # each its own batch
            bus.emit(Event("tick", task=number))
        consumer = Consumer(socket_path)
        assert pusher.flush(30)
    assert consumer.wait_for_tasks(3000) == list(range(3000))
    consumer.go_away()


def test_any_finite_number_is_accepted(bus: Bus, consumer: Consumer) -> None:
    huge = 1e10
    config = PusherConfig(
        socket_path=consumer.path,
        write_timeout=huge,
        reconnect_backoff=0.01,
        max_reconnect_backoff=huge,
        max_line_bytes=16 << 20,
    )
    pusher = SocketPusher(bus, config)
    pusher.start(huge)
    bus.emit(Event("large", payload="x" * (9 << 20)))
    assert pusher.flush(huge)
    pusher.close(huge)
    assert (pusher.stats().sent, pusher.stats().dropped, pusher.stats().writer_restarts) == (1, 0, 0)


def test_a_consumer_that_reads_too_little_for_another_write_is_alive(loops: list[Loop]) -> None:
    """The socket takes nothing before a quarter of its buffer is free."""

    class Reading:
        last_unread = 200_000

        def unread_memory(self) -> int:
            self.last_unread -= 1000
            return self.last_unread

    loops.append(loop := Loop(buffer_size=5))
    loop.put(*[b"x"] * 50)
    loop.writer._connection = connection = Reading()  # type: ignore[assignment]
    loop.writer._state = State.CONNECTED
    loop.writer._on_blocked(connection)  # type: ignore[arg-type]
    loop.writer._idle_since -= BLOCKED_GRACE
    loop.writer._on_blocked(connection)  # type: ignore[arg-type]
    loop.writer._enforce_bounds()
    assert (loop.writer._own.backlog.waiting, loop.ledger.dropped) == (50, 0)


def test_what_a_consumer_reads_while_the_socket_takes_nothing_is_settled(loops: list[Loop]) -> None:
    class Reading:
        last_unread = 2000

        def unread_memory(self) -> int:
            self.last_unread = 1000
            return self.last_unread

    loops.append(loop := Loop())
    loop.put(b"x", b"x", b"x")
    backlog = loop.writer._own.backlog
    backlog.connection_made(b"")
    for _ in range(2):
        backlog.data_sent(len(b"x\n"), memory=1000)
    assert backlog.settled == 0
    loop.writer._on_blocked(Reading())  # type: ignore[arg-type]
    assert backlog.settled == 1


def test_a_wait_may_be_longer_than_poll_takes(loops: list[Loop]) -> None:
    loops.append(loop := Loop())
    wake(loop.waker)
    loop.writer._wait(time.monotonic() + 1e10)
    assert drain(loop.wakeups) is None


def test_all_other_numbers_are_published_before_the_sent_ones(
    loops: list[Loop], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A flush waits for `unsent`, and its caller asks for the others."""
    seen = []
    watched = property(None, lambda ledger, unsent: seen.append((unsent, numbers(ledger))))
    monkeypatch.setattr(Ledger, "unsent", watched, raising=False)  # its own can't be asked for without a ledger
    loops.append(loop := Loop())
    loop.put(b"x")
    loop.writer._own.backlog.connection_made(b"")
    loop.writer._own.backlog.data_sent(len(b"x\n"), memory=0)
    loop.writer._own.backlog.peer_unread(0)
    seen.clear()
    loop.writer._publish()
    assert seen == [(1, (1, 1, 1, 0))]


def numbers(ledger: Ledger) -> tuple[int, int, int, int]:
    return ledger.sent, ledger.settled, ledger.high_water, ledger.resent


@pytest.mark.parametrize("overflow", ["drop_newest", "drop_oldest"])
def test_the_journal_is_bounded_while_there_is_no_consumer(loops: list[Loop], overflow: str) -> None:
    loops.append(loop := Loop(buffer_size=10, overflow=overflow))
    event = b'{"type":"unit.queued","time":"2026-01-01T00:00:00Z","unit":"u","error":"%b"}' % (b"e" * 50_000)
    for _ in range(100):
        loop.put(event)
        loop.writer._enforce_bounds()
        loop.writer._publish()
    assert loop.ledger.dropped == 90
    assert sum(os.fstat(file.fileno()).st_size for file in loop.writer._journal._files) < 2 << 20


def test_a_writer_that_dies_right_after_a_journal_rewrite_leaves_all_of_it(
    loops: list[Loop], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing in it that was read has a number from which on lines come again, or the next writer would skip it."""
    loops.append(loop := Loop())
    rewrite, beyond = Journal.rewrite, []

    def check(journal: Journal, records: list[Record]) -> None:
        rewrite(journal, records)
        beyond.append(records[0].number - loop.ledger.settled)

    monkeypatch.setattr(Journal, "rewrite", check)
    backlog = loop.writer._own.backlog
    backlog.connection_made(b"")
    for _ in range(50):
        loop.put(b'{"type":"unit.queued","time":"2026-01-01T00:00:00Z","unit":"u","error":"%b"}' % (b"e" * 50_000))
        backlog.data_sent(sum(map(len, backlog.data_to_send(1 << 20))), 1)
        backlog.peer_unread(0)
        loop.writer._publish()
    assert set(beyond) == {0}


def test_a_journal_rewrite_has_only_lines_that_the_ledger_has_as_settled(
    loops: list[Loop], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The next writer skips what was read above that."""
    loops.append(loop := Loop())
    loop.put(b'{"type":"unit.started","unit":"a"}', b'{"type":"unit.failed","unit":"a"}')
    backlog = loop.writer._own.backlog
    backlog.connection_made(b"")
    size = sum(map(len, backlog.data_to_send(1 << 20)))
    backlog.data_sent(size, size)
    backlog.peer_unread(0)
    begun: list[tuple[int, int]] = []

    def rewrite(journal: Journal, records: list[Record]) -> None:
        begun.append((records[0].number, loop.ledger.settled))

    monkeypatch.setattr(Journal, "is_long", True)
    monkeypatch.setattr(Journal, "rewrite", rewrite)
    loop.writer._publish()
    assert begun == [(2, 2)]


# The spool


@pytest.fixture
def claim(tmp_path: Path) -> Iterator[Claim]:
    claim = claim_new(str(tmp_path))
    yield claim
    claim.lock.close()


def test_without_a_consumer_new_lines_are_stored_at_once(loops: list[Loop], claim: Claim) -> None:
    loops.append(loop := Loop(claim=claim))
    loop.put(b"x", b"y")
    loop.writer._store_or_drop()
    assert (loop.ledger.stored, loop.ledger.spooled, loop.ledger.settled) == (2, 2, 2)


def test_new_lines_are_stored_at_once_while_an_earlier_spool_is_sent(loops: list[Loop], claim: Claim) -> None:
    loops.append(loop := Loop(claim=claim))
    loop.blocked_for(0.0)
    loop.writer._current = Session(Preface(None, 0, 1 << 20), Backlog(), None)
    loop.put(b"x")
    loop.writer._store_or_drop()
    assert loop.ledger.stored == 1
    loop.writer._current = loop.writer._own


def test_lines_that_wait_for_a_slow_consumer_are_stored_after_a_while(loops: list[Loop], claim: Claim) -> None:
    loops.append(loop := Loop(claim=claim))
    loop.blocked_for(0.0)
    loop.put(b"x")
    loop.writer._store_or_drop()
    assert loop.ledger.stored == 0
    assert loop.writer._waiting_since is not None
    loop.writer._waiting_since -= SPOOL_AFTER
    loop.writer._store_or_drop()
    assert loop.ledger.stored == 1


def test_more_bytes_than_may_wait_in_memory_go_to_the_disk_at_once(loops: list[Loop], claim: Claim) -> None:
    loops.append(loop := Loop(claim=claim, buffer_bytes=1 << 20))
    loop.blocked_for(0.0)
    loop.put(b"x" * (1 << 20))
    loop.writer._store_or_drop()
    assert loop.ledger.stored == 1


def test_nothing_is_dropped_that_can_go_to_the_disk(loops: list[Loop], claim: Claim) -> None:
    loops.append(loop := Loop(claim=claim, buffer_size=2))
    loop.put(*[b"x"] * 10)
    loop.blocked_for(BLOCKED_GRACE)
    loop.writer._waiting_since = time.monotonic()
    loop.writer._enforce_bounds()
    assert (loop.writer._own.spool is not None, loop.ledger.dropped) == (True, 0)


def test_other_files_in_the_directory_count_for_the_quota(loops: list[Loop], claim: Claim, tmp_path: Path) -> None:
    (tmp_path / "of another").write_bytes(bytes(10_000_000))
    loops.append(loop := Loop(claim=claim, buffer_size=5, spool_bytes=10_010_000))
    loop.put(*[b"x" * 2000] * 50)
    loop.writer._store_or_drop()
    assert (loop.ledger.stored, loop.ledger.dropped) == (0, 45)
    (tmp_path / "of another").unlink()
    loop.writer._store_again_at = 0.0
    loop.writer._quota_at -= DISK_PAUSE
    loop.writer._store_or_drop()
    assert loop.ledger.stored == 5


def test_a_failing_disk_is_retried_after_a_pause_and_reported_once(
    loops: list[Loop], claim: Claim, monkeypatch: pytest.MonkeyPatch
) -> None:
    loops.append(loop := Loop(claim=claim))
    tries = 0

    def fail(*_: object) -> None:
        nonlocal tries
        tries += 1
        raise SpoolError("no")

    monkeypatch.setattr("socketpusher.writer.loop.open_spool", fail)
    drain(loop.reports)
    loop.put(b"x")
    for _ in range(5):
        loop.writer._store_or_drop()
    assert tries == 1
    loop.writer._store_again_at -= DISK_PAUSE
    loop.writer._store_or_drop()
    assert tries == 2
    assert (drain(loop.reports) or b"").count(b"does not work: no") == 1
    monkeypatch.undo()
    loop.writer._store_again_at = 0.0
    loop.writer._store_or_drop()
    assert loop.ledger.stored == 1


def test_a_gap_that_is_stored_is_not_sent_again_from_the_journal(loops: list[Loop], claim: Claim) -> None:
    told = b'{"type":"task.completed","time":"t","unit":"a"}\n'
    with closing(Spool(claim.database)) as spool:
        batches = [Batch(0, 2, b"x\ny\n"), Batch(5, 5, told), Batch(5, 6, b"z\n")]
        spool.append(batches, b"{}", loaded=False, before=(0, b""))
    loops.append(loop := Loop([Record(Kind.DROPPED, 5, told), Record(Kind.DROPPED, 8, told)], claim=claim))
    session = loop.writer._own
    session.load()
    assert [number for number, _ in session.backlog.gaps()] == [5]
    assert [number for number, _ in session.tail.gaps()] == [8]


def test_a_damaged_file_in_the_place_of_the_spool_is_put_aside_at_once(
    loops: list[Loop], claim: Claim, tmp_path: Path
) -> None:
    Path(claim.database).write_bytes(b"not a database " * 1000)
    loops.append(loop := Loop(claim=claim))
    Path(claim.database).write_bytes(b"not a database " * 1000)  # and again
    loop.put(b"x")
    loop.writer._store_or_drop()
    assert (loop.ledger.stored, loop.ledger.dropped) == (1, 0)
    assert (tmp_path / f"{claim.name}.db.damaged").exists()


def test_lines_on_a_disk_that_is_missing_are_counted_as_lost_once(loops: list[Loop], claim: Claim) -> None:
    loops.append(loop := Loop(claim=claim))
    loop.ledger.stored = 5
    spec = WriterSpec([], "/", {"socket_path": "/nowhere/s", "spool": claim.directory}, 1, 9, 0, 4, 0, 0, claim.name)
    for _ in range(2):
        writer = loop.another(spec, claim)
    assert (loop.ledger.dropped, loop.ledger.stored) == (5, 0)
    writer._publish()
    assert loop.ledger.sent == 4


def test_after_damage_of_the_spool_the_lines_in_memory_are_stored_again(loops: list[Loop], claim: Claim) -> None:
    loops.append(loop := Loop(claim=claim, buffer_size=3))
    for _ in range(6):
        loop.put(b"x" * 1000)
        loop.writer._store_or_drop()
    spool = loop.writer._own.spool
    assert spool is not None
    assert (loop.ledger.stored, spool.not_loaded) == (6, 2)
    loop.writer._on_disk_error(loop.writer._own, SpoolError("torn", damaged=True))
    assert (loop.ledger.dropped, loop.writer._own.spool is not None) == (2, True)
    loop.writer._publish()
    assert (loop.ledger.stored, loop.ledger.settled) == (4, 6)


def test_lines_that_the_host_has_forgotten_are_counted_while_the_disk_fails(
    loops: list[Loop], claim: Claim, monkeypatch: pytest.MonkeyPatch
) -> None:
    loops.append(loop := Loop(claim=claim))
    loop.put(b"x", b"y")
    loop.writer._store_or_drop()
    assert loop.ledger.settled == 2

    def fail(*_: object) -> None:
        raise SpoolError("no")

    monkeypatch.setattr("socketpusher.writer.loop.open_spool", fail)
    loop.writer._on_disk_error(loop.writer._own, SpoolError("torn", damaged=True))
    loop.put(b"z")
    loop.writer._publish()
    assert (loop.ledger.stored, loop.ledger.spooled) == (2, 0)  # or a host whose writer dies would take them for sent


def without_a_disk(claim: Claim) -> Loop:
    """A writer that has stored a line, keeps one while the disk takes nothing, and has dropped one."""
    loop = Loop(claim=claim, buffer_size=1)
    loop.put(b"x")
    loop.writer._store_or_drop()
    loop.writer._store_again_at = time.monotonic() + 3600
    loop.put(b"y", b"z")
    loop.writer._store_or_drop()
    return loop


def test_a_writer_that_closes_need_not_wait_for_dropped_lines(loops: list[Loop], claim: Claim) -> None:
    loops.append(loop := without_a_disk(claim))
    assert loop.ledger.dropped == 1
    loop.writer._store_again_at = 0.0
    loop.ledger.close_target, loop.ledger.close_deadline = 3, 2**62
    loop.writer._closing = True
    with pytest.raises(_WriterDone):
        loop.writer._check_finished()


def test_a_spool_that_can_not_be_read_now_is_released(
    loops: list[Loop], claim: Claim, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = claim_new(claim.directory)
    Spool(other.database).close()
    other.lock.close()
    loops.append(loop := Loop(claim=claim))

    def fail(*_: object) -> None:
        raise SpoolError("busy")

    monkeypatch.setattr("socketpusher.writer.loop.open_spool", fail)
    for _ in range(3):
        loop.writer._claim_again_at = 0.0
        loop.writer._claim_inherited()
    assert not is_in_use(other.database)
    assert (drain(loop.reports) or b"").count(b"busy") == 1
    monkeypatch.undo()
    loop.writer._claim_again_at = 0.0
    loop.writer._claim_inherited()
    assert [left.name for left, _ in loop.writer._inherited] == [other.name]
    loop.writer._inherited[0][0].lock.close()


def test_spools_that_can_not_be_read_do_not_hide_the_newer_ones(
    loops: list[Loop], claim: Claim, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("socketpusher.writer.loop.MAX_CLAIMS", 2)
    left = [claim_new(claim.directory) for _ in range(6)]
    for other in left:
        Spool(other.database).close()
        other.lock.close()
    for other in left[:3]:
        Path(other.database).unlink()
        Path(other.database).symlink_to(claim.directory)
    loops.append(loop := Loop(claim=claim))
    loop.writer._claim_inherited()
    assert [each.name for each, _ in loop.writer._inherited] == [other.name for other in left[3:5]]
    for each, _ in loop.writer._inherited:
        each.lock.close()


def test_a_writer_sleeps_while_the_disk_takes_nothing_and_the_consumer_has_everything(
    loops: list[Loop], claim: Claim
) -> None:
    loops.append(loop := Loop(claim=claim))
    loop.put(b"x")
    loop.writer._store_or_drop()
    loop.writer._store_again_at = time.monotonic() + 3600
    loop.put(b"y")
    session = loop.writer._own
    session.backlog.connection_made(b"")
    session.backlog.data_sent(2, 2)
    loop.writer._connection = object()  # type: ignore[assignment]
    loop.writer._state = State.CONNECTED
    loop.writer._claim_again_at = None
    assert (session.backlog.empty, session.tail.waiting, session.spooling) == (True, 1, True)
    loop.writer._write(loop.writer._connection)  # type: ignore[arg-type]
    turn = loop.writer._next_step()
    assert turn is not None
    assert turn > time.monotonic()
    loop.writer._write(loop.writer._connection)  # type: ignore[arg-type]
    assert loop.writer._next_step() == turn  # a turn without a write does not put the look at the consumer off
    loop.writer._connection = None


def test_the_next_pusher_knows_lines_that_were_sent_for_a_gap(loops: list[Loop], claim: Claim) -> None:
    told = b'{"type":"task.completed","time":"t","unit":"a","task":1}\n'
    with closing(Spool(claim.database)) as spool:
        batches = [Batch(0, 2, b"x\ny\n"), Batch(5, 5, told), Batch(5, 6, b"z\n")]
        spool.append(batches, b"{}", loaded=False, before=(0, b""))
    loops.append(loop := Loop(claim=claim))
    session = loop.writer._own
    session.load()
    session.backlog.connection_made(b"")
    sent = sum(map(len, session.backlog.data_to_send(1 << 20))) - len(b"z\n")
    session.backlog.data_sent(sent, sent)
    session.backlog.peer_unread(0)
    loop.writer._observe_resolved()
    assert session.spool is not None
    assert b'"unit":"a","task":1' in b"".join(session.spool.observed())


def test_a_flush_after_dropped_lines_ends_while_lines_are_stored(loops: list[Loop], claim: Claim) -> None:
    loops.append(loop := without_a_disk(claim))
    loop.writer._store_again_at = 0.0
    loop.writer._store_or_drop()
    assert (loop.ledger.dropped, loop.ledger.stored) == (1, 2)
    session = loop.writer._own
    session.load()
    session.backlog.connection_made(b"")
    session.backlog.data_sent(4, 4)
    loop.writer._publish()
    assert (session.spooling, loop.ledger.unsent) == (
        True,
        3,
    )  # the last one was dropped, the others are sent


def test_lines_of_an_earlier_writer_survive_a_disk_that_fails_for_a_moment(
    loops: list[Loop], claim: Claim, monkeypatch: pytest.MonkeyPatch
) -> None:
    with closing(Spool(claim.database)) as spool:
        spool.append([Batch(0, 2, b"x\ny\n")], b"{}", loaded=False, before=(0, b""))
    tries = 0

    def fail_at_first(path: str, *given: object) -> Spool:
        nonlocal tries
        tries += 1
        if tries < 3:
            raise SpoolError("disk I/O error")
        return Spool(path)

    monkeypatch.setattr("socketpusher.writer.loop.open_spool", fail_at_first)
    loops.append(loop := Loop(claim=claim))
    loop.writer._publish()
    assert (loop.ledger.stored, loop.ledger.dropped) == (2, 0)


def test_a_disk_that_keeps_failing_is_given_up(
    loops: list[Loop], claim: Claim, monkeypatch: pytest.MonkeyPatch
) -> None:
    Spool(claim.database).close()

    def fail(*_: object) -> None:
        raise SpoolError("disk I/O error")

    monkeypatch.setattr("socketpusher.writer.loop.open_spool", fail)
    monkeypatch.setattr("socketpusher.writer.loop.REOPEN_TIMEOUT", 0.2)
    loops.append(loop := Loop(claim=claim))
    assert loop.writer._own.spool is None
    assert (drain(loop.reports) or b"").count(b"can't be read: disk I/O error") == 1


def test_a_host_that_ends_while_it_closes_leaves_the_writer_no_more_time(loops: list[Loop]) -> None:
    loops.append(loop := Loop())
    loop.ledger.close_deadline = time.monotonic_ns() + int(3600e9)
    loop.writer._on_host_exit()
    assert loop.ledger.close_deadline <= time.monotonic_ns() + int(ORPHAN_TIMEOUT * 1e9)
    loop.ledger.close_deadline = 1
    loop.writer._orphan = False
    for fd in (loop.wakeups.fileno(),):
        loop.writer._poll.register(fd)
    loop.writer._on_host_exit()
    assert loop.ledger.close_deadline == 1


def test_whether_the_last_write_was_read_is_asked_at_least_every_second(loops: list[Loop]) -> None:
    class Unread:
        def unread_memory(self) -> int:
            return 1000

    loops.append(loop := Loop())
    loop.put(b"x")
    loop.writer._own.backlog.connection_made(b"")
    loop.writer._own.backlog.data_sent(2, memory=1000)
    for _ in range(50):
        loop.writer._poll_unread(Unread(), 0.0)  # type: ignore[arg-type]
    assert loop.writer._unread_poll_at is not None
    assert loop.writer._unread_poll_at <= time.monotonic() + LONGEST_UNREAD_POLL


def test_what_the_host_puts_late_is_stored_too(
    loops: list[Loop], claim: Claim, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Beside busy threads the host needs time to put its lines into the pipe, one pipe after another."""
    monkeypatch.setattr("socketpusher.writer.loop.REST_TIMEOUT", 30.0)
    loops.append(loop := Loop(claim=claim))
    loop.put(b"a")
    late = Frame(Batch(1, 2, b"b\n"), 4)
    loop.ledger.close_target = 2
    timer = threading.Timer(0.2, lambda: [os.write(loop.queue.fileno(), piece) for piece in late.pieces()])
    timer.start()
    loop.writer._store_remaining(claim)
    timer.join()
    assert (loop.ledger.received, loop.ledger.stored) == (2, 2)


def test_a_gap_whose_lines_come_later_survives_the_change_to_the_disk_and_back(loops: list[Loop], claim: Claim) -> None:
    """An earlier writer had dropped line 3, while the disk was full."""
    failed = b'{"type":"unit.failed","unit":"a"}\n'
    gap = Record(Kind.DROPPED, 4, failed)
    loops.append(loop := Loop([gap], claim=claim))
    loop.put(b"a")
    loop.writer._store(at_once=True)
    own = loop.writer._own
    assert own.spooling
    assert own.tail.gaps() == [(4, failed)]
    own.backlog.connection_made(b"")
    own.backlog.data_sent(2, memory=0)
    own.backlog.peer_unread(0)
    own.settle()
    own._rejoin()
    assert not own.spooling
    own.receive(Batch(4, 5, b"e\n"))
    assert b"".join(own.backlog.data_to_send(1000)) == failed.replace(b"}\n", b',"retained":true}\n') + b"e\n"
