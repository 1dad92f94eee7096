"""The hot path: from the bus handler into the queue's pipe, many lines at a time, at once.

    emit -> lines -(at most every 2 ms: by the thread that emits)------> queue -> the writer
                 \\-(the rest, within 20 ms: by the pusher's thread)--/
                                    copies of what is not settled: unsettled

A thread that gives up the GIL to a CPU-bound one gets it back after the switch interval, 5 ms. So the thread that emits
writes into the pipe itself, by a call that keeps the GIL and can't wait.

The handler runs in any thread, in signal handlers, and in finalizers that the garbage collector calls at any
allocation. A signal handler may raise between any two bytecodes, also behind a call that has returned. Hence the rules:
what is moved or written is moved or written and noted in one call of C; whoever comes next finds at each step what is
done and what is not, and goes on; the lock is never waited for by a thread that can be interrupted while it holds it.
"""

import itertools
import logging
import secrets
import threading
import traceback
from bisect import bisect_right
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from enum import Enum
from itertools import repeat, starmap

from ..channel.batch import Batch
from ..channel.clock import now
from ..channel.ledger import Ledger
from ..channel.queue import BatchQueue, Frame
from ..config import PusherConfig
from ..events import Event
from ..run_state import Digest, is_relevant
from ..signal_errors import raised_by_signal_handler
from ..wire import RETAINED_BYTES, encode
from .forked import ForkChannel, ForkedOutlet

PUT_INTERVAL = 0.002
"""The shortest time between two writes of threads that emit, in seconds. Measured 20 microseconds apart beside a
CPU-bound thread: with 1 ms p50 falls from 1.2 to 0.7 ms, and the schedule takes 1 % longer."""

IN_FLIGHT_BYTES = 8 << 20
"""How much may be on its way from the host to the writer, in bytes. It fills only when the writer does not read."""

ID_BYTES = 64
"""Room on a line for the key `id`: 12 hexadecimal digits, up to 20 decimal ones, and what JSON puts around them."""

BATCH_BYTES = 1 << 20
"""After how many bytes a batch is full, about. A host that is killed loses the one that it is handing over."""

KEPT_BATCHES, KEPT_BYTES = 256, 4 << 20
"""After so many more batches, or bytes, the pusher's thread looks which of them are settled."""


HELD_LINES = 4096
"""After so many more held lines, or half of the bytes that are left to them, the pusher's thread looks which of them
still matter. They may be as many bytes as may be on their way."""


class Mode(Enum):
    """What becomes of the next event."""

    OPEN = "it is taken"
    REFUSING = "too much is on its way to the writer: it is dropped, or held, unless there is room again"
    ENDED = "the pusher has ended by itself: it is dropped"
    SEALED = "the pusher is closed: it is ignored"


class Counter:
    """Counts from any thread, signal handler or finalizer: one call of C, which nothing can interrupt."""

    def __init__(self) -> None:
        self._count = itertools.count()

    def add(self, number: int = 1) -> None:
        """Count so many."""
        for _ in range(number):
            next(self._count)

    def value(self) -> int:
        """How many were counted."""
        return int(repr(self._count)[6:-1])  # "count(3)"; asking for it otherwise would count


class _LineAfterGap(bytes):
    """A line that was accepted when others before it had been dropped: `dropped` so far."""

    dropped = 0


class _UnsettledBatch:
    """A batch that is kept until it is settled. The last one is open: lines are taken, then joined, then in the queue.

    Args:
        first: The number of its first line.
        offset: Where it begins in the stream of all lines, in bytes without ids.
    """

    __slots__ = ("first", "frame", "lines", "offset")

    def __init__(self, first: int, offset: int) -> None:
        self.first = first
        self.offset = offset
        self.lines: list[bytes] = []
        self.frame: Frame | None = None  # once they are joined

    @property
    def end(self) -> int:
        """The number after its last line."""
        return self.first + len(self.lines) if self.frame is None else self.frame.batch.end


class Outbox:
    """What was emitted and is not yet in the queue, and copies of what is not yet settled.

    Args:
        ledger: The numbers shared with the writer.
        config: The limits, and whether events have ids.
        wake: Makes the pusher's thread look around; it must not wait.
        say: Writes into the log: a level, a message, its arguments. It must not wait.
    """

    def __init__(
        self, ledger: Ledger, config: PusherConfig, wake: Callable[[], None], say: Callable[..., None]
    ) -> None:
        self._ledger = ledger
        self._session = f"{secrets.token_hex(6)}-".encode() if config.event_ids else b""
        self._max_line_bytes = config.max_line_bytes - RETAINED_BYTES - (ID_BYTES if config.event_ids else 0)
        self.in_flight_limit = max(1, min(IN_FLIGHT_BYTES, config.buffer_bytes // 8))
        self._wake = wake
        self._say = say
        self._lines: deque[bytes] = deque()  # accepted, not yet in a batch
        # Not accepted yet: what says where the run stands waits while other events are refused. Any thread appends.
        self.held: deque[bytes] = deque()
        self._sorting = 0  # how many of them the pusher's thread has taken out to look which still matter
        self._held_bytes = 0
        self._look_at_held = HELD_LINES  # when the thread looks through them: a number, and below it bytes
        self._look_at_held_bytes = self.in_flight_limit // 2
        self.mode = Mode.OPEN
        # Two numbers that only bound memory: an interrupt, or a thread switch without a GIL, may cost them a line.
        self._accepted_bytes = 0
        self._accept_limit = self.in_flight_limit
        self._dropped = Counter()  # not accepted
        self.dropped_before_refusing = 0
        self._placeholders = Counter()
        self.first_placeholder = ""  # for the log
        self._write_at = 0.0  # when a thread that emits writes again
        self.asleep = True  # whether the pusher's thread has to be woken for what is left behind
        self._outlet: ForkedOutlet | None = None  # in a forked child
        # What follows is changed under the lock.
        self._lock = threading.Lock()
        self._owner = 0  # the thread that emits and holds it; 0 if it is free, or the pusher's thread has it
        self._turn: object = None  # whose turn it is: a signal handler takes it from what it has interrupted
        self._queue: BatchQueue | None = None  # of the present writer
        self._again: deque[Frame] = deque()  # what earlier writers had not settled, and is not yet in this queue
        self._kept = deque([_UnsettledBatch(0, 0)])  # ascending, without overlap; only the last one is open
        self._look_at = (KEPT_BATCHES, KEPT_BYTES)  # when the thread looks what is settled: a number, an offset
        self._dropped_by_writer = 0
        self._passed_over = 0  # dropped events before the last line in a batch, whose ids were passed over

    # The hot path

    def push(self, event: Event) -> None:
        """The bus handler: take the event, as it is now. It never waits and never raises."""
        try:
            line = encode(event, self._max_line_bytes, self._on_placeholder)
        except Exception as error:
            self._dropped.add()
            self._accept_limit = -1  # so that the next line is told of the gap
            if raised_by_signal_handler(error):
                raise
            with suppress(Exception):  # the type's own `__repr__` may raise
                kind = f"{getattr(event, 'type', type(event))!r}"
                self._say(logging.ERROR, "an event of type %s was dropped\n%s", kind, traceback.format_exc())
            return
        self.accept(line)

    def accept(self, line: bytes) -> None:
        """Take a line, or count it as dropped."""
        if self._accepted_bytes > self._accept_limit:
            admitted = self._admit()
            if self._session:
                line = _LineAfterGap(line)
                line.dropped = self._dropped.value()
            if not admitted:
                self._refuse(line)
                return
        self._lines.append(line)
        size = len(line)
        self._accepted_bytes += size  # behind `append`: an interrupt between them costs the bound a line, for good
        moment = now()
        if moment >= self._write_at:
            self._write(moment)
        elif self.asleep:
            self._wake_thread()

    def _write(self, moment: float) -> None:
        """Put what waits into the queue, unless somebody is about to."""
        if self._outlet is not None:
            self._outlet.put()
            return
        me = threading.get_ident()
        if not self._lock.locked():
            self._write_at = moment + PUT_INTERVAL
            with self._lock:
                try:
                    self._owner = me
                    all_written = self._put()
                except BaseException:
                    self._wake()  # or what is in hand would wait for the next event
                    raise
                finally:
                    self._owner = 0
            kept, offset = self._look_at
            if all_written and len(self._kept) < kept and self._kept[-1].offset < offset:
                return
        if self.asleep:
            self._wake_thread()

    def _wake_thread(self) -> None:
        self.asleep = False
        try:
            self._wake()
        except BaseException:  # of a signal handler: perhaps it sleeps on
            self.asleep = True
            raise

    def _admit(self) -> bool:
        """Whether there is room for a line, now that the writer may have got further."""
        if self.mode in (Mode.OPEN, Mode.REFUSING):
            taken = self._ledger.received_offset if self._outlet is None else self._outlet.bytes
            # Once it has refused, half must be free, or it would change its mind with each read of the writer.
            limit = self.in_flight_limit if self.mode is Mode.OPEN else self.in_flight_limit // 2
            if self.holds():
                if self.asleep:
                    self._wake_thread()  # which takes the held ones first
            elif self._accepted_bytes <= taken + limit:
                self._accept_limit = taken + self.in_flight_limit
                if self.mode is Mode.REFUSING:
                    self.mode = Mode.OPEN
                    self._wake_thread()
                return True
            if self.mode is Mode.OPEN:
                self.dropped_before_refusing = self._dropped.value()
                self.mode = Mode.REFUSING
                self._wake_thread()  # which writes the log, for that may take time
        self._accept_limit = -1  # so that the next line looks again, and is told of the gap
        return False

    def _refuse(self, line: bytes) -> None:
        """Drop the line, or hold it if it says where the run stands: a drop costs history, never truth."""
        may_hold = self._outlet is None and self._held_bytes < self.in_flight_limit
        if may_hold and self.mode in (Mode.OPEN, Mode.REFUSING) and is_relevant(line):
            size = len(line)
            self.held.append(line)
            self._held_bytes += size
            if self.mode is Mode.OPEN:  # since a moment: what this thread emits next has to come behind it
                self.mode = Mode.REFUSING
                self._accept_limit = -1
                self._wake_thread()
            elif self.asleep or self._has_many_held(size):
                self._wake_thread()  # nothing else tells it when there is room
        elif self.mode is not Mode.SEALED:
            self._dropped.add()

    def _has_many_held(self, size: int) -> bool:
        """Whether a line of this size was the one with which the held ones are to be looked through."""
        if self._held_bytes - size <= self._look_at_held_bytes < self._held_bytes:
            return True
        return len(self.held) > self._look_at_held and len(self.held) % HELD_LINES == 0

    def _on_placeholder(self, placeholder: str) -> None:
        self._placeholders.add()
        if not self.first_placeholder:
            self.first_placeholder = placeholder
            self._wake_thread()

    # Under the lock

    def _put(self) -> bool:
        """Put into the queue what it takes at once; whether nothing is left.

        Before each step that changes anything: whether a signal handler has done it meanwhile, see `BatchQueue.put`.
        """
        self._turn = turn = object()
        while (queue := self._queue) is not None:
            if self._again:
                if not queue.put(self._again[0]) or self._turn is not turn:
                    return False
                self._again.popleft()
                continue
            batch = self._kept[-1]
            if batch.frame is None:
                if not batch.lines:
                    lines = starmap(self._lines.popleft, repeat((), self._batch_length()))
                    if self._turn is not turn:
                        return False
                    batch.lines.extend(lines)
                if not batch.lines:
                    return True
                frame = self._joined(batch)
                if self._turn is not turn:
                    return False
                batch.frame = frame
            if not queue.put(batch.frame):
                return False
            following = _UnsettledBatch(batch.end, batch.frame.offset)
            if self._turn is not turn:
                return False
            self._kept.append(following)
            batch.lines = []
        return True

    def _batch_length(self) -> int:
        """How many of the waiting lines make a batch: all, or as many as are some `BATCH_BYTES` on average."""
        count, size = len(self._lines), self._accepted_bytes - self._kept[-1].offset
        return count if size <= BATCH_BYTES else max(1, count * BATCH_BYTES // size)

    def _joined(self, batch: _UnsettledBatch) -> Frame:
        lines = batch.lines
        offset = batch.offset + sum(map(len, lines))
        if self._session:
            lines = self._with_ids(batch)
        return Frame(Batch(batch.first, batch.end, b"".join(lines)), offset)

    def _with_ids(self, batch: _UnsettledBatch) -> list[bytes]:
        numbered = []
        for place, line in enumerate(batch.lines, batch.first + 1):
            if isinstance(line, _LineAfterGap):
                self._passed_over = max(self._passed_over, line.dropped)  # two threads may come in another order
            numbered.append(b'%b,"id":"%b%d"}\n' % (line[:-2], self._session, place + self._passed_over))
        return numbered

    # Called by the pusher's thread, which no signal handler interrupts

    def put_rest(self) -> bool | None:
        """Put what was left behind, and forget what is settled.

        Returns:
            Whether nothing is left; None if another thread has the lock, and perhaps for long: a signal handler that
            interrupted it may wait for this thread.
        """
        if not self._lock.acquire(blocking=False):
            return None
        try:
            all_written = self._put()
            self._forget_settled()
            return all_written
        finally:
            self._lock.release()

    def take_held(self, at_once: bool = False) -> None:
        """Accept what is held, if there is room or it must be; forget what of it does not matter any more."""
        if len(self.held) > self._look_at_held or self._held_bytes > self._look_at_held_bytes:
            self._sorting = len(self.held)  # first, for what is emitted meanwhile has to come behind them
            lines = list(starmap(self.held.popleft, repeat((), self._sorting)))
            matter = Digest(lines, again=False).lines()
            self._dropped.add(len(lines) - len(matter))
            self.held.extendleft(reversed(matter))
            self._sorting = 0
            self._look_at_held = 2 * len(matter) + HELD_LINES
            self._held_bytes = size = sum(map(len, matter))
            self._look_at_held_bytes = size + max(0, self.in_flight_limit - size) // 2
        room = self._ledger.received_offset + self.in_flight_limit // 2
        while self.held and (at_once or self._accepted_bytes <= room):
            self._accepted_bytes += sum(map(len, list(self.held)))
            self._lines.extend(starmap(self.held.popleft, repeat((), len(self.held))))
            self._held_bytes, self._look_at_held = 0, HELD_LINES
            self._look_at_held_bytes = self.in_flight_limit // 2
            if self.mode is Mode.REFUSING:
                self.mode = Mode.OPEN

    def interrupted(self) -> bool:
        """Whether the caller is a signal handler that has interrupted `_put` in its own thread."""
        return self._owner == threading.get_ident()

    def put_if_interrupted(self) -> None:
        """In such a signal handler, do what nobody else can."""
        if self.interrupted():
            self._put()

    def attach(self, queue: BatchQueue) -> bool:
        """From now on fill this queue: first with what earlier writers have not settled. False as `put_rest`'s None."""
        if not self._lock.acquire(blocking=False):
            return False
        try:
            offset = self._kept[-1].offset
            again = [Frame(kept.frame.batch, kept.frame.offset) for kept in self._kept if kept.frame is not None]
            # What is missing below its end was settled.
            again.append(Frame(Batch(self._kept[-1].first, self._kept[-1].first, b""), offset))
            self._again = deque(again)
            self._queue = queue
            return True
        finally:
            self._lock.release()

    def detach(self) -> bool:
        """Let go of the queue of a writer that is gone, and make the ledger true: the writer may have died between two
        of its entries. False as `put_rest`'s None."""
        if not self._lock.acquire(blocking=False):
            return False
        try:
            self._queue = None
            ledger = self._ledger
            self._close_open_batch()
            self._forget_settled()
            self._drop_lines(0, ledger.settled)
            first, end = self._kept[0].first, self._kept[-1].first
            ledger.received = ledger.unsent = ledger.settled = first
            if ledger.stored:  # lines on the disk come before those that are kept here
                ledger.unsent = ledger.read
            ledger.dropped = self._dropped_by_writer
            waiting = sum(kept.end - kept.first for kept in self._kept if kept.frame is not None)
            ledger.sent = end - self._dropped_by_writer - waiting - ledger.stored
            ledger.spooled = ledger.stored
            return True
        finally:
            self._lock.release()

    def _close_open_batch(self) -> None:
        """Let a batch that is in the queue, if only in part, be one of those that wait to be settled."""
        last = self._kept[-1]
        if last.frame is not None:
            self._kept.append(_UnsettledBatch(last.end, last.frame.offset))

    def _forget_settled(self) -> None:
        settled = self._ledger.settled
        while len(self._kept) > 1 and self._kept[0].end <= settled:
            self._kept.popleft()
        for first, end in self._ledger.take_dropped():
            self._drop_lines(first, end)
            self._dropped_by_writer += end - first
        self._look_at = (len(self._kept) + KEPT_BATCHES, self._kept[-1].offset + KEPT_BYTES)

    def _drop_lines(self, first: int, end: int) -> None:
        """Forget the lines numbered `first` to `end - 1`, none of which is in the open batch."""
        start = stop = bisect_right(self._kept, first, key=lambda kept: kept.end)
        parts: list[_UnsettledBatch] = []
        while stop < len(self._kept) - 1 and self._kept[stop].first < end:
            kept = self._kept[stop]
            assert kept.frame is not None
            for part in kept.frame.batch.without(first, end):
                parts.append(_UnsettledBatch(part.first, kept.offset))
                parts[-1].frame = Frame(part, kept.frame.offset)
            stop += 1
        for _ in range(stop - start):
            del self._kept[start]
        for left in reversed(parts):
            self._kept.insert(start, left)

    def clear(self) -> None:
        """Let go of every line that waits; the numbers stay as they are. To be called last, in any thread."""
        self._turn = None  # a thread that waits for the GIL in the middle of `_put` finds that it is not its turn
        end = self.accepted()
        self._queue = None
        self._again = deque()
        self._kept = deque([_UnsettledBatch(end, self._accepted_bytes)])
        self._lines = deque()  # not cleared: that thread may be about to move lines
        self._dropped.add(len(self.held))
        self.held = deque()

    # Called by any thread

    def accept_from_child(self, lines: list[bytes], lost: int) -> None:
        """Take over what a forked child has emitted, and count what was lost on the way."""
        self._dropped.add(lost)
        if lost:
            self._accept_limit = -1
        for line in lines:
            self.accept(line)

    def waits(self) -> bool:
        """Whether a line is in no batch yet."""
        return bool(self._lines)

    def holds(self) -> bool:
        """Whether a line is held."""
        return bool(self._sorting or self.held)

    def stop_accepting(self, mode: Mode = Mode.SEALED) -> None:
        """Take no more events."""
        self.mode = mode
        self._accept_limit = -1

    def accepted(self) -> int:
        """The number after the last line accepted."""
        while True:  # until nobody has moved lines between two looks
            last = self._kept[-1]
            end = last.end
            count = end + len(self._lines)
            if self._kept[-1] is last and last.end == end:
                return count

    def dropped(self) -> int:
        """How many events were dropped on this side."""
        return self._dropped.value()

    def emitted(self) -> int:
        """How many events there were: accepted, held or dropped."""
        return self.accepted() + len(self.held) + self._dropped.value()

    def placeholders(self) -> int:
        """How many placeholders were sent for something that could not be encoded."""
        return self._placeholders.value()

    def reset_in_child(self, channel: ForkChannel, on_lost: Callable[[], None]) -> ForkedOutlet:
        """In a forked child: what the host had is the host's, and the lock may be held for ever."""
        self._lines, self.held = deque(), deque()
        self._dropped, self._placeholders = Counter(), Counter()
        self._lock = threading.Lock()
        self._accepted_bytes = 0
        self._accept_limit = -1 if self.mode is Mode.SEALED else self.in_flight_limit
        self._queue, self._again, self._kept = None, deque(), deque([_UnsettledBatch(0, 0)])
        self._wake = lambda: None
        self._write_at = 0.0
        self._outlet = ForkedOutlet(channel, self._lines, on_lost)
        return self._outlet
