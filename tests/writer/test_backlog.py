"""The backlog against a model: whatever is written, cut, read, lost and dropped, lines stay whole and in order."""

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from socketpusher.channel.batch import Batch
from socketpusher.writer.backlog import Backlog, _Gap


def line(number: int) -> bytes:
    return b"%d" % number + b"." * (number * 7 % 23) + b"\n"


def batch(first: int, end: int) -> Batch:
    return Batch(first, end, b"".join(line(number) for number in range(first, end)))


class BacklogMachine(RuleBasedStateMachine):
    """A consumer that reads some of what the socket took, goes away at any byte, and is followed by another.

    The kernel's account of memory is modelled by writes: each takes its bytes and some more, and counts until its last
    byte is read.
    """

    def __init__(self) -> None:
        super().__init__()
        self.backlog = Backlog()
        self.next = 0
        self.dropped: set[int] = set()
        self.read_whole: list[int] = []  # numbers of lines that consumers have read to the end, in order
        self.connected = False
        self.stream = b""  # what this connection carried
        self.read = 0  # how much of it was read
        self.writes: list[tuple[int, int]] = []  # end, memory
        self.preface = b""
        self.carried: set[int] = set()  # lines that were wholly written at least once

    def numbers(self, stream: bytes) -> list[int]:
        lines = stream.split(b"\n")[:-1]
        return [int(text.rstrip(b".")) for text in lines if text != b"graph"]

    def unread_memory(self) -> int:
        return sum(memory for end, memory in self.writes if end > self.read)

    @rule(count=st.integers(1, 6))
    def append(self, count: int) -> None:
        self.backlog.append(batch(self.next, self.next + count))
        self.next += count

    @precondition(lambda self: not self.connected)
    @rule(preface=st.sampled_from([b"", b"graph\n"]))
    def connect(self, preface: bytes) -> None:
        self.backlog.connection_made(preface)
        self.connected, self.stream, self.read, self.writes = True, b"", 0, []
        self.preface = preface

    @precondition(lambda self: self.connected and not self.backlog.empty)
    @rule(most=st.integers(1, 80), data=st.data(), overhead=st.integers(0, 50), tell=st.booleans())
    def write(self, most: int, data: st.DataObject, overhead: int, tell: bool) -> None:
        offered = b"".join(self.backlog.data_to_send(most))
        assert 1 <= len(offered) <= most
        count = data.draw(st.integers(1, len(offered)))
        self.stream += offered[:count]
        self.writes.append((len(self.stream), count + overhead))
        self.backlog.data_sent(count, count + overhead)
        self.carried |= set(self.numbers(self.stream))
        if tell:
            self.backlog.peer_unread(self.unread_memory())

    @precondition(lambda self: self.connected)
    @rule(data=st.data())
    def consume(self, data: st.DataObject) -> None:
        self.read = data.draw(st.integers(self.read, len(self.stream)))

    @precondition(lambda self: self.connected)
    @rule()
    def look(self) -> None:
        self.backlog.peer_unread(self.unread_memory())

    @precondition(lambda self: self.connected)
    @rule()
    def disconnect(self) -> None:
        before = self.backlog.sent
        self.backlog.connection_lost(all_read=self.read == len(self.stream))
        self.connected = False
        self.read_whole += self.numbers(self.stream[: self.read])
        again = before - self.backlog.sent
        assert again >= 0
        if self.read == len(self.stream):
            assert again == 0  # nothing that was read as a whole is sent twice

    @rule(keep=st.integers(0, 8), keep_bytes=st.integers(0, 200), newest=st.booleans())
    def drop(self, keep: int, keep_bytes: int, newest: bool) -> None:
        begun = self.numbers_begun()
        drop = self.backlog.drop_newest if newest else self.backlog.drop_oldest
        for first, end, _ in drop(keep, keep_bytes):
            gone = set(range(first, end))
            assert gone and not gone & self.dropped
            assert not gone & begun, "a line that is half on the socket was dropped"
            self.dropped |= gone
        assert self.backlog.waiting <= max(keep, 1)
        assert self.backlog.waiting_bytes <= keep_bytes or self.backlog.waiting <= 1

    def numbers_begun(self) -> set[int]:
        """The line that this connection carries a part of."""
        tail = self.stream.rpartition(b"\n")[2] if self.connected else b""
        text = tail.rstrip(b".")
        return {self.backlog.unsent} if text and not self.preface.startswith(tail) else set()

    @invariant()
    def the_stream_is_whole_lines_in_order(self) -> None:
        numbers = self.numbers(self.stream)
        assert numbers == sorted(set(numbers))
        expected = self.preface + b"".join(line(number) for number in numbers)
        assert self.stream.startswith(expected[: len(self.stream)])
        if len(self.stream) > len(expected):  # the rest begins a line
            assert b"\n" not in self.stream[len(expected) :]

    @invariant()
    def the_books_add_up(self) -> None:
        assert self.backlog.sent + self.backlog.waiting + len(self.dropped) == self.next
        assert self.backlog.high_water == max(self.carried, default=-1) + 1
        assert self.backlog.waiting_bytes == sum(len(view) for view in self.backlog.data_to_send(1 << 30)) - len(
            self.backlog._preface
        )

    @invariant()
    def settled_means_read_or_dropped(self) -> None:
        known = set(self.read_whole) | set(self.numbers(self.stream[: self.read])) | self.dropped
        assert set(range(self.backlog.settled)) <= known

    def teardown(self) -> None:
        """Whatever has happened: a last consumer that reads everything has, with those before it, seen every line."""
        if self.connected:
            self.disconnect()
        self.connect(b"graph\n")
        while not self.backlog.empty:
            offered = b"".join(self.backlog.data_to_send(13))
            self.backlog.data_sent(len(offered), len(offered))
            self.stream += offered
        self.backlog.peer_unread(0)
        last = self.numbers(self.stream)
        assert set(self.read_whole) | set(last) | self.dropped == set(range(self.next))
        assert last == sorted(set(last))
        assert self.backlog.unsent == self.next
        assert self.backlog.waiting == 0


TestBacklog = BacklogMachine.TestCase


def test_lines_sent_again_are_counted() -> None:
    backlog = Backlog()
    backlog.append(batch(0, 10))
    backlog.connection_made(b"")
    backlog.data_sent(sum(len(line(number)) for number in range(10)), 1000)
    backlog.connection_lost(all_read=False)
    assert (backlog.sent, backlog.waiting, backlog.resent) == (0, 10, 0)
    backlog.connection_made(b"")
    backlog.data_sent(sum(len(view) for view in backlog.data_to_send(1 << 20)), 1000)
    assert (backlog.sent, backlog.waiting, backlog.resent) == (10, 0, 10)


def test_a_new_writer_counts_what_the_old_one_had_sent_as_sent_again() -> None:
    backlog = Backlog(start=5, high_water=8)
    backlog.append(batch(5, 10))
    backlog.connection_made(b"")
    backlog.data_sent(sum(len(view) for view in backlog.data_to_send(1 << 20)), 1000)
    assert (backlog.sent, backlog.resent) == (5, 3)


def event_line(kind: str, unit: str = "") -> bytes:
    return b'{"type":"%b","time":"2026-01-01T00:00:00Z","unit":"%b"}\n' % (kind.encode(), unit.encode())


def test_irrelevant_dropped_lines_leave_nothing_to_write() -> None:
    """A task of no unit has a type that changes units, and changes none."""
    backlog = Backlog()
    for number in range(4):
        backlog.append(Batch(number, number + 1, event_line("task.started")))
    assert len(list(backlog.drop_newest(1, 1 << 20))) == 3
    backlog.connection_made(b"")
    backlog.data_sent(sum(map(len, backlog.data_to_send(1 << 20))), 1)
    assert (backlog.empty, backlog.unsent) == (True, 4)


def test_a_blocked_socket_is_offered_the_same_lines_without_joining_them_again() -> None:
    backlog = Backlog()
    backlog.connection_made(b"")
    offered = []
    for number in range(6):
        backlog.append(Batch(number, number + 1, event_line("unit.queued", f"u{number}")))
        list(backlog.drop_oldest(1, 1 << 20))
        offered.append(backlog.data_to_send(1)[0].obj)
    assert all(data is offered[1] for data in offered[1:])
    told = b"".join(backlog.data_to_send(1 << 20))
    assert [told.count(b'"u%d"' % number) for number in range(6)] == [1] * 6  # and nothing is lost on the way
    assert sorted(told.splitlines()) == told.splitlines()


def test_lines_of_a_gap_are_kept_for_the_next_writer_until_they_are_read() -> None:
    backlog = Backlog()
    for number in range(2):
        backlog.append(Batch(number, number + 1, event_line("unit.queued", f"u{number}")))
    list(backlog.drop_newest(1, 1 << 20))
    backlog.connection_made(b"")
    backlog.data_sent(sum(map(len, backlog.data_to_send(1 << 20))), 1)
    assert [number for number, _ in backlog.gaps()] == [2]
    backlog.peer_unread(0)
    assert backlog.gaps() == []


def test_lines_that_come_again_are_not_sent_as_a_gap_before() -> None:
    """A writer that dies between journal and ledger has not dropped anything, for the host keeps its copies."""
    started, completed = (b'{"type":"unit.%b","unit":"a"}\n' % kind for kind in (b"started", b"completed"))
    backlog = Backlog(dropped=[(1, started)])
    backlog.append(Batch(0, 2, started + completed))
    backlog.append(Batch(2, 2, b""))
    backlog.connection_made(b"")
    assert b"".join(backlog.data_to_send(1 << 20)) == started + completed


def test_a_gap_survives_a_connection_that_is_lost_before_it_is_written() -> None:
    failed = b'{"type":"unit.failed","unit":"a"}\n'
    backlog = Backlog()
    backlog.connection_made(b"graph\n")
    backlog.append(Batch(0, 2, failed + b"x\n"))
    assert [dropped[:2] for dropped in backlog.drop_oldest(1, 1000)] == [(0, 1)]
    backlog.connection_lost(all_read=False)
    backlog.resolve_gaps()
    assert [resolved.data for resolved in backlog.take_resolved()] == [failed[:-2] + b',"retained":true}\n']


def test_a_gap_does_not_grow_with_the_number_of_dropped_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("socketpusher.writer.backlog.GAP_BYTES", 1000)
    backlog = Backlog()
    backlog.append(Batch(0, 1, b"x\n"))
    for number in range(1, 1000):
        backlog.append(Batch(number, number + 1, b'{"type":"task.started","unit":"a","task":%d}\n' % number))
        list(backlog.drop_newest(1, 1000))
    (gap,) = (gap for gap in backlog._waiting if isinstance(gap, _Gap))
    assert sum(map(len, gap._lines)) < 1100
    assert backlog.gaps() == [(1000, b'{"type":"task.started","unit":"a","task":999,"retained":true}\n')]


def test_unread_lines_before_a_gap_that_are_dropped_come_first_in_it() -> None:
    queued, started, failed = (b'{"type":"unit.%b","unit":"a"}\n' % kind for kind in (b"queued", b"started", b"failed"))
    backlog = Backlog()
    backlog.append(Batch(0, 1, queued))
    backlog.connection_made(b"")
    backlog.data_sent(len(queued), 1000)
    backlog.append(Batch(1, 4, started + failed + b"x\n"))
    list(backlog.drop_oldest(1, 1000))
    backlog.connection_lost(all_read=False)
    list(backlog.drop_oldest(1, 1000))
    retained = [line[:-2] + b',"retained":true}\n' for line in (queued, started, failed)]
    assert backlog.gaps() == [(3, b"".join(retained))]


def test_the_lines_of_a_gap_are_sent_again_if_they_were_not_read() -> None:
    queued, failed = (b'{"type":"unit.%b","unit":"a"}\n' % kind for kind in (b"queued", b"failed"))
    backlog = Backlog()
    backlog.append(Batch(0, 1, queued))
    backlog.connection_made(b"")
    backlog.data_sent(len(queued), 1000)
    backlog.append(Batch(1, 3, failed + b"x\n"))
    list(backlog.drop_oldest(1, 1000))
    told = failed[:-2] + b',"retained":true}\n'
    assert b"".join(backlog.data_to_send(1 << 20)) == told + b"x\n"
    backlog.data_sent(len(told) + 2, 1000)
    assert backlog.gaps() == [(2, told)]
    backlog.connection_lost(all_read=False)
    backlog.connection_made(b"")
    assert b"".join(backlog.data_to_send(1 << 20)) == queued + told + b"x\n"


def test_gaps_whose_place_has_not_come_stay_in_the_journal() -> None:
    assert Backlog(dropped=[(5, b"told\n")]).gaps() == [(5, b"told\n")]


def test_a_gap_is_settled_only_when_it_was_read() -> None:
    """With a spool its row leaves the disk then."""
    backlog = Backlog()
    backlog.append(Batch(0, 2, b"a\nb\n"))
    backlog.append_gap(5, b'{"type":"unit.completed","time":"t","unit":"u"}\n')
    backlog.connection_made(b"")
    backlog.data_sent(4, 4)
    backlog.peer_unread(0)
    assert backlog.settled == 2
    (told,) = backlog.data_to_send(1 << 20)
    backlog.data_sent(len(told), len(told))
    assert backlog.settled == 2
    backlog.peer_unread(0)
    assert backlog.settled == 5
