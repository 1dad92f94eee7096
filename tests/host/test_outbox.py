"""The outbox where races would have to be waited for: a queue that only keeps, and a ledger that is written by hand."""

import logging

import pytest
from hypothesis import given
from hypothesis import strategies as st

from socketpusher import Event, PusherConfig
from socketpusher.channel.clock import now
from socketpusher.channel.ledger import Ledger
from socketpusher.channel.queue import Frame
from socketpusher.host.forked import ForkChannel
from socketpusher.host.outbox import HELD_LINES, Mode, Outbox
from socketpusher.run_state import Digest
from socketpusher.wire import decode, retained

logger = logging.getLogger("socketpusher")


class Queue:
    """Keeps what is put, unless it is full."""

    def __init__(self) -> None:
        self.frames: list[Frame] = []
        self.full = False

    def put(self, frame: Frame) -> bool:
        if not self.full:
            self.frames.append(frame)
        return not self.full

    def lines(self) -> list[bytes]:
        return [line for frame in self.frames for line in frame.batch.data.splitlines()]


@pytest.fixture
def queue() -> Queue:
    return Queue()


@pytest.fixture
def outbox(ledger: Ledger, queue: Queue) -> Outbox:
    outbox = Outbox(ledger, PusherConfig(), lambda: None, logger.log)
    assert outbox.attach(queue)  # type: ignore[arg-type]
    return outbox


def test_the_ledger_is_corrected_when_a_writer_died_between_two_updates(ledger: Ledger, outbox: Outbox) -> None:
    """It had sent lines 0 to 2 and dropped line 3; it had entered that 0 was read and what it dropped, no more."""
    outbox._write_at = float("inf")  # one batch, however busy the machine is
    for number in range(4):
        outbox.push(Event("x", task=number))
    assert outbox.put_rest()
    ledger.received, ledger.unsent, ledger.settled, ledger.sent = 4, 3, 1, 0
    ledger.drop(3, 4)
    ledger.dropped = 0
    assert outbox.detach()
    assert (ledger.received, ledger.unsent, ledger.sent, ledger.dropped) == (1, 1, 1, 1)
    queue = Queue()
    assert outbox.attach(queue)  # type: ignore[arg-type]
    assert outbox.put_rest()
    assert [(frame.batch.first, frame.batch.end) for frame in queue.frames] == [(1, 3), (4, 4)]


def test_events_emitted_without_a_writer_go_to_the_next_one(outbox: Outbox, queue: Queue) -> None:
    outbox.push(Event("x", task=1))
    assert outbox.detach()
    outbox.push(Event("x", task=2))
    assert len(queue.frames) == 2  # the first tells where the numbers begin
    other = Queue()
    assert outbox.attach(other)  # type: ignore[arg-type]
    outbox.push(Event("x", task=3))
    assert outbox.put_rest()
    assert [line[-2:-1] for line in other.lines()] == [b"1", b"2", b"3"]


def test_an_event_that_can_not_be_taken_is_dropped_counted_and_leaves_a_gap(
    outbox: Outbox, queue: Queue, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def out_of_memory(*args) -> bytes:
        raise MemoryError

    outbox._session = b"s-"
    outbox.push(Event("x", task=1))
    with monkeypatch.context() as patched:
        patched.setattr("socketpusher.host.outbox.encode", out_of_memory)
        outbox.push(Event("x", task=2))
    outbox.push(Event("x", task=3))
    assert (outbox.dropped(), outbox.accepted()) == (1, 2)
    assert "an event of type 'x' was dropped" in caplog.text
    assert outbox.put_rest()
    assert [line.rpartition(b"-")[2] for line in queue.lines()] == [b'1"}', b'3"}']


def test_ids_rise_though_two_threads_met_at_the_end_of_a_gap_in_another_order(outbox: Outbox, queue: Queue) -> None:
    """The one that saw fewer dropped events comes behind the one that saw more."""
    from socketpusher.host.outbox import _LineAfterGap

    outbox._session = b"s-"
    for dropped in 0, 3, 2, 3:
        line = _LineAfterGap(b'{"type":"x"}\n')
        line.dropped = dropped
        outbox._lines.append(line)
    assert outbox.put_rest()
    assert [line.rpartition(b"-")[2] for line in queue.lines()] == [b'1"}', b'5"}', b'6"}', b'7"}']


def test_a_batch_is_bounded(outbox: Outbox, queue: Queue, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("socketpusher.host.outbox.BATCH_BYTES", 130)
    assert outbox.put_rest()
    outbox._write_at = float("inf")
    for number in range(5):
        outbox.push(Event("x", task=number))
    assert outbox.put_rest()
    assert [(frame.batch.first, frame.batch.end) for frame in queue.frames[1:]] == [(0, 2), (2, 4), (4, 5)]


def test_a_full_queue_makes_the_outbox_refuse_and_room_makes_it_accept_again(
    ledger: Ledger, outbox: Outbox, queue: Queue
) -> None:
    queue.full = True
    outbox.in_flight_limit = outbox._accept_limit = 100
    for number in range(9):
        outbox.push(Event("x", task=number))
    assert outbox.mode is Mode.REFUSING
    accepted, dropped = outbox.accepted(), outbox.dropped()
    assert (accepted + dropped, dropped > 0) == (9, True)
    queue.full = False
    assert outbox.put_rest()
    ledger.received_offset = queue.frames[-1].offset
    outbox.push(Event("x", task=9))
    assert (outbox.mode, outbox.accepted()) == (Mode.OPEN, accepted + 1)


def test_an_outbox_that_has_refused_accepts_again_when_half_of_its_room_is_free(
    ledger: Ledger, outbox: Outbox, queue: Queue
) -> None:
    line = b"x" * 9 + b"\n"
    outbox.in_flight_limit = outbox._accept_limit = 100
    while outbox.mode is Mode.OPEN:
        outbox.accept(line)
    accepted = outbox.accepted()
    ledger.received_offset = 10 * accepted - 60
    outbox.accept(line)
    assert (outbox.mode, outbox.accepted()) == (Mode.REFUSING, accepted)
    ledger.received_offset += 10
    outbox.accept(line)
    assert (outbox.mode, outbox.accepted()) == (Mode.OPEN, accepted + 1)


def test_a_line_larger_than_all_limits_is_taken_when_nothing_waits(outbox: Outbox, queue: Queue) -> None:
    outbox.in_flight_limit = outbox._accept_limit = 1
    outbox.accept(b"x" * 20_000_000 + b"\n")
    assert (outbox.accepted(), outbox.dropped()) == (1, 0)


@given(
    st.lists(
        st.one_of(
            st.tuples(st.just("add"), st.integers(1, 8), st.just(0)),
            st.tuples(st.sampled_from(["drop", "settle"]), st.integers(0, 40), st.integers(1, 10)),
        )
    )
)
def test_lines_that_are_neither_settled_nor_dropped_are_kept(steps: list[tuple[str, int, int]]) -> None:
    ledger = Ledger()
    outbox = Outbox(ledger, PusherConfig(), lambda: None, logger.log)
    outbox.attach(Queue())  # type: ignore[arg-type]
    model: set[int] = set()
    end = 0
    for what, a, b in steps:
        if what == "add":
            outbox._lines.extend(b"%d\n" % number for number in range(end, end + a))
            model |= set(range(end, end + a))
            end += a
        elif what == "drop":
            first, last = min(a, end), min(a + b, end)
            ledger.drop(first, last)
            model -= set(range(first, last))
        else:
            ledger.settled = max(ledger.settled, min(a, end))
        assert outbox.put_rest()
        kept = [int(n) for k in outbox._unsettled if k.frame is not None for n in k.frame.batch.data.split()]
        assert kept == sorted(kept)
        assert set(kept) <= model
        assert all(number < ledger.settled for number in model - set(kept))
    assert outbox.detach()
    queue = Queue()
    assert outbox.attach(queue)  # type: ignore[arg-type]
    assert outbox.put_rest()
    assert [int(line) for line in queue.lines()] == sorted(n for n in model if n >= ledger.settled)
    ledger.close()


def test_an_earlier_emit_does_not_count_as_interrupted(outbox: Outbox) -> None:
    """The pusher's thread has the lock; two that write at once would tear lines."""
    outbox.push(Event("x"))
    with outbox._lock:
        assert not outbox.interrupted()


def test_a_batch_that_is_in_the_queue_in_part_is_finished_before_the_next(outbox: Outbox, ledger: Ledger) -> None:
    """Also when the thread hears of dropped lines meanwhile."""

    class Pipe(Queue):
        def put(self, frame: Frame) -> bool:
            self.frames.append(frame)
            return not self.full

    pipe = Pipe()
    assert outbox.attach(pipe)  # type: ignore[arg-type]
    outbox.push(Event("x", task=0))
    assert outbox.put_rest()
    pipe.full = True
    outbox.push(Event("x", task=1))
    assert not outbox.put_rest()
    begun = pipe.frames[-1]
    ledger.drop(0, 1)
    assert not outbox.put_rest()
    outbox.push(Event("x", task=2))
    assert not outbox.put_rest()
    assert all(frame is begun for frame in pipe.frames[-2:])


def test_an_interrupt_while_the_thread_is_woken_does_not_let_it_sleep_on(
    ledger: Ledger, queue: Queue, monkeypatch: pytest.MonkeyPatch
) -> None:
    interrupts = [KeyboardInterrupt()]
    woken = []

    def wake() -> None:
        if interrupts:
            raise interrupts.pop()
        woken.append(None)

    outbox = Outbox(ledger, PusherConfig(), wake, logger.log)
    assert outbox.attach(queue)  # type: ignore[arg-type]
    monkeypatch.setattr("socketpusher.host.outbox.PUT_INTERVAL", 1000.0)
    outbox.push(Event("x", task=0))  # this one is put, the next ones are left behind
    with pytest.raises(KeyboardInterrupt):
        outbox.push(Event("x", task=1))
    outbox.push(Event("x", task=2))
    assert woken


def test_an_interrupted_put_wakes_the_thread_which_puts_the_rest(
    ledger: Ledger, queue: Queue, monkeypatch: pytest.MonkeyPatch
) -> None:
    woken: list[None] = []

    def put(frame: Frame) -> bool:
        raise KeyboardInterrupt

    outbox = Outbox(ledger, PusherConfig(), lambda: woken.append(None), logger.log)
    assert outbox.attach(queue)  # type: ignore[arg-type]
    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(queue, "put", put)
        outbox.push(Event("x"))
    assert woken
    assert outbox.put_rest()
    assert len(queue.lines()) == 1


@pytest.mark.parametrize("held", [True, False])
def test_an_emit_that_goes_on_in_a_forked_child_does_not_wait_for_the_lock_of_the_host(
    outbox: Outbox, held: bool
) -> None:
    """A signal handler forks just before the emit takes it; the pusher's thread may have it."""

    class LockOfTheHost:
        held = False

        def acquire(self, blocking: bool = True) -> bool:
            assert not blocking, "nobody gives it back in the child"
            outbox.reset_in_child(None, lambda error: None)  # type: ignore[arg-type]
            self.held = not held
            return self.held

        def release(self) -> None:
            assert self.held

    outbox._lock = LockOfTheHost()  # type: ignore[assignment]
    outbox._write(now())
    assert outbox.accepted() == 0
    assert not outbox._lock.locked()


@pytest.mark.parametrize("step", ["_batch_length", "_make_frame", "_queue"])
def test_an_emit_that_was_held_up_until_the_pusher_had_closed_changes_nothing(
    outbox: Outbox, queue: Queue, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    """It waited for the GIL in the middle of `_put`, and `close` did not wait for it."""
    outbox._write_at = float("inf")  # nothing is written before, however busy the machine is
    for number in range(3):
        outbox.push(Event("x", task=number))
    outbox.push(Event("x", task=3))
    owner, name = (queue, "put") if step == "_queue" else (outbox, step)
    real = getattr(owner, name)
    counts = []

    def held_up(*arguments: object) -> object:
        result = real(*arguments)
        if not counts:
            outbox.push(Event("x", task=4))  # of another thread
            outbox.stop_accepting()
            counts.append(outbox.accepted())
            outbox.clear()
        return result

    monkeypatch.setattr(owner, name, held_up)
    outbox._write(now())
    assert counts == [5]
    assert outbox.accepted() == 5


def refusing(outbox: Outbox, queue: Queue) -> None:
    queue.full = True
    while outbox.mode is not Mode.REFUSING:
        outbox.push(Event("x", payload="x" * 100_000))


def test_lines_that_change_the_state_of_the_run_are_held_while_others_are_refused(
    ledger: Ledger, outbox: Outbox, queue: Queue
) -> None:
    refusing(outbox, queue)
    accepted, dropped = outbox.accepted(), outbox.dropped()
    for event in (Event("unit.started", "a"), Event("x"), Event("unit.completed", "a"), Event("y")):
        outbox.push(event)
    assert (outbox.accepted(), len(outbox.held), outbox.dropped()) == (accepted, 2, dropped + 2)
    assert outbox.emitted() == accepted + dropped + 4
    outbox.accept_held()
    assert len(outbox.held) == 2  # there is no room yet
    queue.full = False
    ledger.received_offset = outbox._accepted_bytes
    outbox.push(Event("z"))  # has to come behind what is held
    assert outbox.dropped() == dropped + 3
    outbox.accept_held()
    outbox.push(Event("last"))
    assert outbox.put_rest()
    assert [line[9:20] for line in queue.lines()[-3:]] == [b"unit.starte", b"unit.comple", b'last","time']
    assert outbox.emitted() == accepted + dropped + 6
    assert outbox._accepted_bytes == outbox._unsettled[-1].offset


@pytest.mark.parametrize("event_ids", [False, True])
def test_only_held_lines_that_still_matter_are_kept(ledger: Ledger, queue: Queue, event_ids: bool) -> None:
    outbox = Outbox(ledger, PusherConfig(event_ids=event_ids), lambda: None, logger.log)
    assert outbox.attach(queue)  # type: ignore[arg-type]
    refusing(outbox, queue)
    dropped = outbox.dropped()
    for number in range(HELD_LINES + 10):
        outbox.push(Event("task.started", "a", task=number))
    outbox.accept_held()
    assert [line[-3:-2] for line in outbox.held] == [b"5"]
    assert outbox.dropped() == dropped + HELD_LINES + 9


def test_the_graph_for_a_held_run_is_kept(outbox: Outbox, queue: Queue) -> None:
    refusing(outbox, queue)
    graph = {"nodes": [{"id": "a"}]}
    for payload in ({"graph": {}}, {"graph": graph}, {"parallelism": 2}, None):
        outbox.push(Event("orch.started", payload=payload))
        outbox.push(Event("unit.started", "a"))
    for number in range(HELD_LINES):
        outbox.push(Event("task.started", "a", task=number))
    outbox.accept_held()
    events = list(map(decode, outbox.held))
    assert [event.payload for event in events[:-2]] == [{"graph": graph}, {"parallelism": 2}, None]
    assert [event.type for event in events[-2:]] == ["unit.started", "task.started"]


def test_held_lines_are_bounded_in_bytes(outbox: Outbox, queue: Queue) -> None:
    refusing(outbox, queue)
    for number in range(200):
        outbox.push(Event("unit.failed", f"u{number}", error="e" * 100_000))
    held = sum(map(len, outbox.held))
    assert outbox.in_flight_limit < held < outbox.in_flight_limit + 200_000
    assert outbox.emitted() == outbox.accepted() + len(outbox.held) + outbox.dropped()


def test_held_lines_are_sent_when_the_pusher_closes(outbox: Outbox, queue: Queue) -> None:
    refusing(outbox, queue)
    outbox.push(Event("orch.completed"))
    accepted = outbox.accepted()
    outbox.stop_accepting()
    outbox.accept_held(at_once=True)
    assert (outbox.accepted(), len(outbox.held), outbox.mode) == (accepted + 1, 0, Mode.SEALED)


def test_a_line_that_is_refused_while_room_is_found_comes_before_the_next_of_its_thread(
    ledger: Ledger, outbox: Outbox, queue: Queue
) -> None:
    """Between its refusal and its place among the held ones the pusher's thread has taken those."""
    refusing(outbox, queue)
    queue.full = False
    ledger.received_offset = outbox._accepted_bytes
    outbox.mode = Mode.OPEN
    outbox._refuse(b'{"type":"unit.started","time":"2026-01-01T00:00:00Z","unit":"a"}\n')
    outbox.push(Event("unit.completed", "a"))
    outbox.accept_held()
    assert outbox.put_rest()
    assert [line[9:20] for line in queue.lines()[-2:]] == [b"unit.starte", b"unit.comple"]


def test_a_held_line_wakes_a_thread_that_sleeps_because_nothing_else_waits(ledger: Ledger, queue: Queue) -> None:
    """If the host emits nothing more, nobody else would find that there is room."""
    woken = []
    outbox = Outbox(ledger, PusherConfig(), lambda: woken.append(1), logger.log)
    assert outbox.attach(queue)  # type: ignore[arg-type]
    refusing(outbox, queue)
    outbox.asleep = True
    woken.clear()
    outbox.push(Event("unit.completed", "a"))
    assert (len(outbox.held), woken, outbox.asleep) == (1, [1], False)


def test_lines_emitted_while_held_ones_are_pruned_come_after_them(
    ledger: Ledger, outbox: Outbox, queue: Queue, monkeypatch: pytest.MonkeyPatch
) -> None:
    refusing(outbox, queue)
    for number in range(HELD_LINES + 1):
        outbox.push(Event("task.started", "a", task=number))
    queue.full = False

    class Meanwhile(Digest):
        def __init__(self, *arguments: object, **named: object) -> None:
            ledger.received_offset = outbox._accepted_bytes  # there is room now
            assert outbox.has_held()  # or a flush would not wait for them
            outbox.push(Event("unit.completed", "a"))
            super().__init__(*arguments, **named)  # type: ignore[arg-type]

    monkeypatch.setattr("socketpusher.host.outbox.Digest", Meanwhile)
    outbox.accept_held()
    assert outbox.put_rest()
    assert [line[9:20] for line in queue.lines()[-2:]] == [b"task.starte", b"unit.comple"]


def test_lines_still_held_when_the_pusher_ends_stay_counted(outbox: Outbox, queue: Queue) -> None:
    """It ends between two writers, or by itself."""
    refusing(outbox, queue)
    outbox.push(Event("unit.completed", "a"))
    emitted = outbox.emitted()
    outbox.stop_accepting(Mode.ENDED)
    outbox.clear()
    assert outbox.emitted() == emitted


def test_long_lines_of_one_unit_leave_room_for_its_end(ledger: Ledger, queue: Queue) -> None:
    """Fewer of them than `HELD_LINES` are more bytes than may be held."""
    woken = []
    outbox = Outbox(ledger, PusherConfig(), lambda: woken.append(1), logger.log)
    assert outbox.attach(queue)  # type: ignore[arg-type]
    refusing(outbox, queue)
    outbox.asleep = False  # it waits for the pipe
    woken.clear()
    for number in range(3 * outbox.in_flight_limit // 10_000):
        outbox.push(Event("unit.progress", "a", payload={"done": number, "message": "m" * 10_000}))
        if woken:
            woken.clear()
            outbox.accept_held()
    outbox.push(Event("unit.completed", "a"))
    assert outbox.held[-1][9:23] == b"unit.completed"


def test_a_line_fits_when_it_is_repeated(ledger: Ledger, queue: Queue) -> None:
    outbox = Outbox(ledger, PusherConfig(max_line_bytes=1024), lambda: None, logger.log)
    assert outbox.attach(queue)  # type: ignore[arg-type]
    for size in range(900, 1024):
        outbox.push(Event("unit.failed", "a", payload="x" * size))
    assert outbox.put_rest()
    assert max(len(retained(line + b"\n")) for line in queue.lines()) == 1024


def test_a_child_that_is_forked_while_held_lines_are_pruned_has_none(outbox: Outbox) -> None:
    outbox._pruning = 5
    channel = ForkChannel()
    outbox.reset_in_child(channel, lambda error: None)
    assert not outbox.has_held()
    channel.close()


def test_an_emit_that_finds_the_lock_taken_at_the_last_moment_does_not_wait(outbox: Outbox) -> None:
    """Its holder may be interrupted by a signal handler that waits for this thread."""

    class Taken:
        def locked(self) -> bool:
            return False

        def acquire(self, blocking: bool = True) -> bool:
            assert not blocking
            return False

        def __enter__(self) -> None:
            raise AssertionError("this would wait")

        def __exit__(self, *exc_info: object) -> None:
            pass

    outbox._lock = Taken()  # type: ignore[assignment]
    outbox.push(Event("x"))
    assert outbox.has_waiting()
