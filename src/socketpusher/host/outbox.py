"""The hot path: it takes events from the bus handler and writes them into the queue's pipe, many lines at a time.

    emit -> lines -(at most every 2 ms: by the thread that emits)------> queue -> the writer
                 \\-(the rest, within 20 ms: by the pusher's thread)--/
                                    copies of what is not settled: unsettled

A thread that gives up the GIL to a CPU-bound one gets it back after the switch interval, 5 ms. So the thread that emits
writes into the pipe itself, with a call that keeps the GIL and never waits.

The handler runs in any thread, in signal handlers, and in finalizers that the garbage collector calls at any
allocation. A signal handler may raise between any two bytecodes, even right after a call has returned. Hence the rules:
one call of C both moves (or writes) something and notes it; the next caller sees at each step what is done, and goes
on; a thread that could be interrupted while it holds the lock never waits for it.
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
from ..channel.messages import IN_FLIGHT_BYTES
from ..channel.queue import BatchQueue, Frame
from ..config import PusherConfig
from ..events import Event
from ..run_state import Digest, is_relevant
from ..signal_errors import raised_by_signal_handler
from ..wire import RETAINED_BYTES, encode
from .forked import ForkChannel, ForkedOutlet

PUT_INTERVAL = 0.002
"""The shortest time between two writes of threads that emit, in seconds. Measured with an event every 20 microseconds
beside a CPU-bound thread: with 1 ms p50 falls from 1.2 to 0.7 ms, and the schedule takes 1 % longer."""

ID_BYTES = 64
"""Room on a line for the key `id`, in bytes: 12 hexadecimal digits, up to 20 decimal ones, and the JSON around them."""

BATCH_BYTES = 1 << 20
"""About the largest size of a batch, in bytes. A host that is killed loses the batch that it is writing."""

SETTLE_BATCHES, SETTLE_BYTES = 256, 4 << 20
"""After this many new batches, or bytes, the pusher's thread forgets the settled ones."""

HELD_LINES = 4096
"""After this many new held lines, or half of the bytes left for them, the pusher's thread drops those that no longer
matter. At most `in_flight_limit` bytes are held."""


class Mode(Enum):
    """What happens to the next event."""

    OPEN = "it is accepted"
    REFUSING = "too much is on its way to the writer: it is dropped, or held, unless there is room again"
    ENDED = "the pusher has ended by itself: it is dropped"
    SEALED = "the pusher is closed: it is ignored"


class Counter:
    """Counts in any thread, signal handler or finalizer: each step is one call of C, which nothing can interrupt."""

    def __init__(self) -> None:
        self._count = itertools.count()

    def add(self, number: int = 1) -> None:
        """Add `number`."""
        for _ in range(number):
            next(self._count)

    def value(self) -> int:
        """The sum so far."""
        return int(repr(self._count)[6:-1])  # "count(3)"; `next` would change it


class _LineAfterGap(bytes):
    """A line that follows dropped ones."""

    dropped = 0  # how many were dropped before it


class _UnsettledBatch:
    """A batch that is kept until it is settled. The last one is open: it gets lines, then a frame, then is put.

    Args:
        first: The number of its first line.
        offset: The offset of its first line in the stream of all lines, in bytes without ids.
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
    """The events that are not in the queue yet, and copies of those that are not settled yet.

    Args:
        ledger: The numbers shared with the writer.
        config: The limits, and whether events have ids.
        wake: Wakes the pusher's thread; it must not wait.
        log: Writes a log record (level, message, arguments); it must not wait.
    """

    def __init__(
        self, ledger: Ledger, config: PusherConfig, wake: Callable[[], None], log: Callable[..., None]
    ) -> None:
        self._ledger = ledger
        self._session = f"{secrets.token_hex(6)}-".encode() if config.event_ids else b""
        self._max_line_bytes = config.max_line_bytes - RETAINED_BYTES - (ID_BYTES if config.event_ids else 0)
        self.in_flight_limit = max(1, min(IN_FLIGHT_BYTES, config.buffer_bytes // 8))
        self._wake = wake
        self._log = log
        self._lines: deque[bytes] = deque()  # accepted, not yet in a batch
        # Lines that change the state of the run, not accepted yet: they wait while other events are refused. Any thread
        # appends.
        self.held: deque[bytes] = deque()
        self._pruning = 0  # how many of them the pusher's thread has taken out to find those that still matter
        self._held_bytes = 0
        self._prune_held_at_lines = HELD_LINES  # the thread does that at more lines, or bytes
        self._prune_held_at_bytes = self.in_flight_limit // 2
        self.mode = Mode.OPEN
        # These two only bound memory: an interrupt, or a thread switch without a GIL, may make them wrong by a line.
        self._accepted_bytes = 0
        self._accept_limit = self.in_flight_limit
        self._dropped = Counter()  # not accepted
        self.dropped_before_refusing = 0
        self._placeholders = Counter()
        self.first_placeholder = ""  # for the log
        self._write_at = 0.0  # when a thread that emits may write again
        self.asleep = True  # whether the pusher's thread has to be woken for lines that are not written
        self._outlet: ForkedOutlet | None = None  # in a forked child
        # What follows is changed under the lock.
        self._lock = threading.Lock()
        self._owner = 0  # the emitting thread that holds the lock; 0 if it is free or the pusher's thread holds it
        self._turn: object = None  # identifies the last call of `_put`, which may be a signal handler's
        self._queue: BatchQueue | None = None  # of the current writer
        self._resend: deque[Frame] = deque()  # not settled by earlier writers, and not yet in this queue
        self._unsettled = deque([_UnsettledBatch(0, 0)])  # ascending, without overlap; only the last one is open
        self._settle_at = (SETTLE_BATCHES, SETTLE_BYTES)  # the thread forgets settled batches at this count, or offset
        self._dropped_by_writer = 0
        self._dropped_ids = 0  # dropped events before the last line in a batch; their ids are not used

    # The hot path

    def push(self, event: Event) -> None:
        """The bus handler: encode and accept the event. It never waits, and raises nothing of its own."""
        try:
            line = encode(event, self._max_line_bytes, self._on_placeholder)
        except Exception as error:
            self._dropped.add()
            self._accept_limit = -1  # so that the next line gets an id after the gap
            if raised_by_signal_handler(error):
                raise
            with suppress(Exception):  # the type's own `__repr__` may raise
                kind = f"{getattr(event, 'type', type(event))!r}"
                self._log(logging.ERROR, "an event of type %s was dropped\n%s", kind, traceback.format_exc())
            return
        self.accept(line)

    def accept(self, line: bytes) -> None:
        """Accept a line, or hold it, or count it as dropped."""
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
        self._accepted_bytes += size  # after `append`: an interrupt between them makes the bound wrong by this line
        moment = now()
        if moment >= self._write_at:
            self._write(moment)
        elif self.asleep:
            self._wake_thread()

    def _write(self, moment: float) -> None:
        """Put the waiting lines into the queue, unless another thread is doing it."""
        if self._outlet is not None:
            self._outlet.put()
            return
        me, lock = threading.get_ident(), self._lock  # a child that is forked meanwhile has another one
        all_written = False
        taken: list[bool] = []  # one call of C acquires the lock and notes it here; nothing interrupts its release
        try:
            taken.extend(map(lock.acquire, (False,)))
            if taken[0]:
                self._write_at = moment + PUT_INTERVAL
                self._owner = me
                all_written = self._put()
        except BaseException:
            self._wake()  # otherwise the lines would wait for the next event
            raise
        finally:
            if taken and taken[0]:
                self._owner = 0
                lock.release()
        count, offset = self._settle_at
        if all_written and len(self._unsettled) < count and self._unsettled[-1].offset < offset:
            return
        if self.asleep:
            self._wake_thread()

    def _wake_thread(self) -> None:
        self.asleep = False
        try:
            self._wake()
        except BaseException:  # of a signal handler: the thread may not have been woken
            self.asleep = True
            raise

    def _admit(self) -> bool:
        """Whether there is room for a line, as far as the writer has read now."""
        if self.mode in (Mode.OPEN, Mode.REFUSING):
            taken = self._ledger.received_offset if self._outlet is None else self._outlet.bytes
            # After a refusal half must be free, so that the mode does not change with each read of the writer.
            limit = self.in_flight_limit if self.mode is Mode.OPEN else self.in_flight_limit // 2
            if self.has_held():
                if self.asleep:
                    self._wake_thread()  # it accepts the held lines first
            elif self._accepted_bytes <= taken + limit:
                self._accept_limit = taken + self.in_flight_limit
                if self.mode is Mode.REFUSING:
                    self.mode = Mode.OPEN
                    self._wake_thread()
                return True
            if self.mode is Mode.OPEN:
                self.dropped_before_refusing = self._dropped.value()
                self.mode = Mode.REFUSING
                self._wake_thread()  # it writes the log, which may take time
        self._accept_limit = -1  # so that the next line checks again, and gets an id after the gap
        return False

    def _refuse(self, line: bytes) -> None:
        """Drop the line, or hold it if it changes the state of the run, which a drop must not make wrong."""
        may_hold = self._outlet is None and self._held_bytes < self.in_flight_limit
        if may_hold and self.mode in (Mode.OPEN, Mode.REFUSING) and is_relevant(line):
            size = len(line)
            self.held.append(line)
            self._held_bytes += size
            if self.mode is Mode.OPEN:  # it was just opened, but the next line of this thread must come after this one
                self.mode = Mode.REFUSING
                self._accept_limit = -1
                self._wake_thread()
            elif self.asleep or self._must_prune_held(size):
                self._wake_thread()  # it has to check for room, which nothing reports
        elif self.mode is not Mode.SEALED:
            self._dropped.add()

    def _must_prune_held(self, size: int) -> bool:
        """Whether the pusher's thread has to look through the held lines, now that one of this size was added."""
        if self._held_bytes - size <= self._prune_held_at_bytes < self._held_bytes:
            return True
        return len(self.held) > self._prune_held_at_lines and len(self.held) % HELD_LINES == 0

    def _on_placeholder(self, placeholder: str) -> None:
        self._placeholders.add()
        if not self.first_placeholder:
            self.first_placeholder = placeholder
            self._wake_thread()

    # Under the lock

    def _put(self) -> bool:
        """Put into the queue what it takes without waiting. Returns whether nothing is left.

        Before each change it checks whether a signal handler has called this meanwhile, see `BatchQueue.put`.
        """
        self._turn = turn = object()
        while (queue := self._queue) is not None:
            if self._resend:
                if not queue.put(self._resend[0]) or self._turn is not turn:
                    return False
                self._resend.popleft()
                continue
            batch = self._unsettled[-1]
            if batch.frame is None:
                if not batch.lines:
                    lines = starmap(self._lines.popleft, repeat((), self._batch_length()))
                    if self._turn is not turn:
                        return False
                    batch.lines.extend(lines)
                if not batch.lines:
                    return True
                frame = self._make_frame(batch)
                if self._turn is not turn:
                    return False
                batch.frame = frame
            if not queue.put(batch.frame):
                return False
            following = _UnsettledBatch(batch.end, batch.frame.offset)
            if self._turn is not turn:
                return False
            self._unsettled.append(following)
            batch.lines = []
        return True

    def _batch_length(self) -> int:
        """How many of the waiting lines make a batch: all, or about `BATCH_BYTES` on average."""
        count, size = len(self._lines), self._accepted_bytes - self._unsettled[-1].offset
        return count if size <= BATCH_BYTES else max(1, count * BATCH_BYTES // size)

    def _make_frame(self, batch: _UnsettledBatch) -> Frame:
        lines = batch.lines
        offset = batch.offset + sum(map(len, lines))
        if self._session:
            lines = self._with_ids(batch)
        return Frame(Batch(batch.first, batch.end, b"".join(lines)), offset)

    def _with_ids(self, batch: _UnsettledBatch) -> list[bytes]:
        numbered = []
        for place, line in enumerate(batch.lines, batch.first + 1):
            if isinstance(line, _LineAfterGap):
                self._dropped_ids = max(self._dropped_ids, line.dropped)  # two threads may append in another order
            numbered.append(b'%b,"id":"%b%d"}\n' % (line[:-2], self._session, place + self._dropped_ids))
        return numbered

    # Called by the pusher's thread, which no signal handler interrupts

    def put_rest(self) -> bool | None:
        """Put the lines that threads that emit have left, and forget what is settled.

        Returns:
            Whether nothing is left. None if another thread has the lock: this must not wait for it, because a signal
            handler that has interrupted that thread may wait for this one.
        """
        if not self._lock.acquire(blocking=False):
            return None
        try:
            all_written = self._put()
            self._forget_settled()
            return all_written
        finally:
            self._lock.release()

    def accept_held(self, at_once: bool = False) -> None:
        """Accept the held lines if there is room, or `at_once`; drop those that no longer matter."""
        if len(self.held) > self._prune_held_at_lines or self._held_bytes > self._prune_held_at_bytes:
            self._pruning = len(self.held)  # first, because lines that are emitted meanwhile must come after them
            lines = list(starmap(self.held.popleft, repeat((), self._pruning)))
            matter = Digest(lines, retain=False).lines()
            self._dropped.add(len(lines) - len(matter))
            self.held.extendleft(reversed(matter))
            self._pruning = 0
            self._prune_held_at_lines = 2 * len(matter) + HELD_LINES
            self._held_bytes = size = sum(map(len, matter))
            self._prune_held_at_bytes = size + max(0, self.in_flight_limit - size) // 2
        room = self._ledger.received_offset + self.in_flight_limit // 2
        while self.held and (at_once or self._accepted_bytes <= room):
            self._accepted_bytes += sum(map(len, list(self.held)))
            self._lines.extend(starmap(self.held.popleft, repeat((), len(self.held))))
            self._held_bytes, self._prune_held_at_lines = 0, HELD_LINES
            self._prune_held_at_bytes = self.in_flight_limit // 2
            if self.mode is Mode.REFUSING:
                self.mode = Mode.OPEN

    def interrupted(self) -> bool:
        """Whether the caller is a signal handler that has interrupted `_put` in its own thread."""
        return self._owner == threading.get_ident()

    def put_if_interrupted(self) -> None:
        """In such a signal handler, put the waiting lines: no other thread can take the lock."""
        if self.interrupted():
            self._put()

    def attach(self, queue: BatchQueue) -> bool:
        """Fill this queue from now on, first with what earlier writers have not settled.

        Returns:
            Whether it is done; False if another thread has the lock, as `put_rest`'s None.
        """
        if not self._lock.acquire(blocking=False):
            return False
        try:
            offset = self._unsettled[-1].offset
            resend = [
                Frame(batch.frame.batch, batch.frame.offset) for batch in self._unsettled if batch.frame is not None
            ]
            # This empty batch tells the writer that lines below its end which it was not given are settled.
            resend.append(Frame(Batch(self._unsettled[-1].first, self._unsettled[-1].first, b""), offset))
            self._resend = deque(resend)
            self._queue = queue
            return True
        finally:
            self._lock.release()

    def detach(self) -> bool:
        """Forget the queue of a writer that has ended, and correct the ledger, which it may have left half updated.

        Returns:
            As `attach`.
        """
        if not self._lock.acquire(blocking=False):
            return False
        try:
            self._queue = None
            ledger = self._ledger
            self._close_open_batch()
            self._forget_settled()
            self._drop_lines(0, ledger.settled)
            first, end = self._unsettled[0].first, self._unsettled[-1].first
            ledger.received = ledger.unsent = ledger.settled = first
            if ledger.stored:  # lines on the disk come before those that are kept here
                ledger.unsent = ledger.read
            ledger.dropped = self._dropped_by_writer
            waiting = sum(batch.end - batch.first for batch in self._unsettled if batch.frame is not None)
            ledger.sent = end - self._dropped_by_writer - waiting - ledger.stored
            ledger.spooled = ledger.stored
            return True
        finally:
            self._lock.release()

    def _close_open_batch(self) -> None:
        """Close the open batch if a part of it is in the queue, so that it waits to be settled."""
        last = self._unsettled[-1]
        if last.frame is not None:
            self._unsettled.append(_UnsettledBatch(last.end, last.frame.offset))

    def _forget_settled(self) -> None:
        settled = self._ledger.settled
        while len(self._unsettled) > 1 and self._unsettled[0].end <= settled:
            self._unsettled.popleft()
        for first, end in self._ledger.take_dropped():
            self._drop_lines(first, end)
            self._dropped_by_writer += end - first
        self._settle_at = (len(self._unsettled) + SETTLE_BATCHES, self._unsettled[-1].offset + SETTLE_BYTES)

    def _drop_lines(self, first: int, end: int) -> None:
        """Forget the lines `first` to `end - 1`. None of them is in the open batch."""
        start = stop = bisect_right(self._unsettled, first, key=lambda batch: batch.end)
        parts: list[_UnsettledBatch] = []
        while stop < len(self._unsettled) - 1 and self._unsettled[stop].first < end:
            batch = self._unsettled[stop]
            assert batch.frame is not None
            for part in batch.frame.batch.without(first, end):
                parts.append(_UnsettledBatch(part.first, batch.offset))
                parts[-1].frame = Frame(part, batch.frame.offset)
            stop += 1
        for _ in range(stop - start):
            del self._unsettled[start]
        for kept in reversed(parts):
            self._unsettled.insert(start, kept)

    def clear(self) -> None:
        """Forget every waiting line; the counters stay as they are. Called last, in any thread."""
        self._turn = None  # stops a thread that waits for the GIL in the middle of `_put`
        end = self.accepted()
        self._queue = None
        self._resend = deque()
        self._unsettled = deque([_UnsettledBatch(end, self._accepted_bytes)])
        self._lines = deque()  # not cleared, because that thread may be about to move lines
        self._dropped.add(len(self.held))
        self.held = deque()

    # Called by any thread

    def accept_from_child(self, lines: list[bytes], lost: int) -> None:
        """Accept lines that a forked child has emitted, and count lost ones as dropped."""
        self._dropped.add(lost)
        if lost:
            self._accept_limit = -1
        for line in lines:
            self.accept(line)

    def has_waiting(self) -> bool:
        """Whether a line waits that is in no batch yet."""
        return bool(self._lines)

    def has_held(self) -> bool:
        """Whether a line is held."""
        return bool(self._pruning or self.held)

    def stop_accepting(self, mode: Mode = Mode.SEALED) -> None:
        """Accept no more events."""
        self.mode = mode
        self._accept_limit = -1

    def accepted(self) -> int:
        """The number after the last line accepted."""
        while True:  # until no thread has moved lines meanwhile
            last = self._unsettled[-1]
            end = last.end
            count = end + len(self._lines)
            if self._unsettled[-1] is last and last.end == end:
                return count

    def dropped(self) -> int:
        """The number of events dropped in this process."""
        return self._dropped.value()

    def emitted(self) -> int:
        """The number of events: accepted, held or dropped."""
        return self.accepted() + len(self.held) + self._dropped.value()

    def placeholders(self) -> int:
        """The number of placeholders sent for something that could not be encoded."""
        return self._placeholders.value()

    def reset_in_child(self, channel: ForkChannel, on_lost: Callable[[OSError], None]) -> ForkedOutlet:
        """Reset this copy in a forked child: its lines belong to the host, and its lock may be held for ever."""
        self._lines, self.held = deque(), deque()
        self._dropped, self._placeholders = Counter(), Counter()
        self._lock = threading.Lock()
        self._accepted_bytes = self._pruning = 0
        self._accept_limit = -1 if self.mode is Mode.SEALED else self.in_flight_limit
        self._queue, self._resend, self._unsettled = None, deque(), deque([_UnsettledBatch(0, 0)])
        self._wake = lambda: None
        self._write_at = 0.0
        self._outlet = ForkedOutlet(channel, self._lines, on_lost)
        return self._outlet
