"""The hot path: from the bus handler into the `multiprocessing.Queue`, many lines at a time.

A put for each event would cost a scheduler that is busy almost all of them: `Queue.put` hands the object to a feeder
thread, whose every write releases the GIL, and a thread that gave up the GIL to a CPU-bound one gets it back after the
switch interval, 5 ms. So the handler appends the encoded line to a deque, and puts a token into the queue only if none
is outstanding. When the feeder thread pickles the token, its `__reduce__` first marks it as taken and then drains the
deque into one batch. Append before testing the mark, clear the mark before draining: no line is forgotten, and beside
a CPU-bound scheduler one put carries all that was emitted in 10 ms. `benchmarks/coalescing.py` has the figures.

The handler runs in any thread, in signal handlers, in finalizers that the garbage collector calls at any allocation,
the feeder thread's included. So it takes no lock that it would have to wait for; the mark is a lock that is only tried.
"""

import logging
import secrets
import threading
from collections import deque
from collections.abc import Callable
from multiprocessing.queues import Queue
from typing import Any

from ..channel.batch import Batch, Retained
from ..channel.ledger import Ledger
from ..channel.messages import Message
from ..config import PusherConfig
from ..events import Event, EventType
from ..wire import encode
from .forked import ForkedToken, SideDoor

logger = logging.getLogger("socketpusher")

HOST_BYTES = 8 << 20
"""How much may be on its way from the host to the writer, in bytes. It fills only when the writer does not read."""

ID_BYTES = 64
"""Room on a line for the key `id`: 12 hexadecimal digits, up to 20 decimal ones, and what JSON puts around them."""

BATCH_BYTES = 1 << 20
"""After how many bytes a batch is full. The writer holds a batch three times for a moment, and a host that is killed
loses the one that it is handing over. Larger ones were not faster (0.5 million events/s in a burst)."""

STARTED = b'{"type":"%b"' % EventType.ORCH_STARTED.encode()


class Tally:
    """Counts from any thread, signal handler or finalizer, without a lock that anyone would wait for."""

    def __init__(self) -> None:
        self._marks: deque[None] = deque()
        self._folded = 0
        self._folding = threading.Lock()

    def add(self) -> None:
        """Count one."""
        self._marks.append(None)
        if len(self._marks) > 1000:
            self._fold()

    def value(self) -> int:
        """How many were counted."""
        self._fold()
        return self._folded + len(self._marks)

    def _fold(self) -> None:
        if self._folding.acquire(blocking=False):
            try:
                for _ in range(len(self._marks)):
                    self._marks.popleft()
                    self._folded += 1
            finally:
                self._folding.release()


class _AfterGap(bytes):
    """A line that was accepted when others before it had been dropped: `dropped` so far."""

    dropped: int

    def __new__(cls, line: bytes, dropped: int) -> "_AfterGap":
        self = super().__new__(cls, line)
        self.dropped = dropped
        return self


class _Token:
    """Stands in a queue for all that waits in the outbox. There is at most one outstanding in a queue."""

    __slots__ = ("feeder", "mark", "outbox", "queue", "taken")

    def __init__(self, outbox: "Outbox", queue: "Queue[Any]") -> None:
        lock = threading.Lock()
        self.mark = lock.acquire  # tried, never waited for: held while the token is outstanding
        self.taken = lock.release
        self.outbox = outbox
        self.queue = queue
        self.feeder = 0  # the queue's feeder thread, once it has been seen

    def put(self) -> None:
        """Into the queue, by whoever has set the mark."""
        if threading.get_ident() == self.feeder:
            # A finalizer that emits has interrupted the feeder thread, perhaps where it holds the queue's lock, for
            # which `put` would wait. Somebody else has to.
            self.taken()
            self.outbox.wake()
            return
        try:
            self.queue.put(self, block=False)
        except Exception:  # closed, for its writer is gone; the next queue begins with what waits
            self.taken()

    def __reduce__(self) -> tuple[type[tuple[Any, ...]], tuple[Message]]:
        self.feeder = threading.get_ident()
        return tuple, (self.outbox.drain(self),)


class Outbox:
    """What was emitted and is not yet on its way to the writer, and copies of what is not yet settled.

    Args:
        ledger: The numbers shared with the writer.
        config: The limit on a line, and whether events have ids.
        wake: Makes the supervisor call `feed`; it must not wait.
    """

    def __init__(self, ledger: Ledger, config: PusherConfig, wake: Callable[[], None]) -> None:
        self._ledger = ledger
        self._session = f"{secrets.token_hex(6)}-".encode() if config.event_ids else b""
        self._max_line_bytes = config.max_line_bytes - (ID_BYTES if config.event_ids else 0)
        self.wake = wake
        # How much of what was accepted is off our hands.
        self._taken_bytes: Callable[[], int] = lambda: ledger.received_offset
        self._lines: deque[bytes] = deque()  # accepted, not yet drained
        self._token: _Token | ForkedToken | None = None  # of the present queue
        self._sealed = False  # whether no more events are taken
        # Two numbers that only bound memory. A thread switch can't fall inside `+=` on a CPython with a GIL; where it
        # could, the bound would be off by a line.
        self._accepted_bytes = 0
        self._allowed_bytes = HOST_BYTES
        self._dropped = Tally()  # refused, as too much was on its way to the writer
        self.refusing: int | None = None  # if the last event was refused, how many were dropped before that began
        self._noted = Tally()  # notes sent in place of something
        self.first_note = ""  # the first of them, for the log
        # Guards what follows. Held by the feeder thread while it drains, and by threads that can wait.
        self._draining = threading.RLock()
        self._drained = 0  # the number after the last line drained
        self._drained_bytes = 0
        self._retained = Retained()
        self._dropped_by_writer = 0
        self._passed_over = 0  # dropped events before the last line drained, whose ids were passed over
        self.started = b""  # the last `orch.started` that was drained, as a line

    # The hot path

    def push(self, event: Event) -> None:
        """The bus handler: take the event, as it is now. It never waits and never raises."""
        try:
            line = encode(event, self._max_line_bytes, self._on_note)
            self._accept(line)
        except Exception:
            self._dropped.add()
            self._allowed_bytes = -1  # so that the next line is told of the gap
            self.refusing = self._dropped.value() - 1 if self.refusing is None else self.refusing
            logger.exception("an event of type %r was dropped", event.type)

    def _accept(self, line: bytes) -> None:
        size = len(line)
        self._accepted_bytes += size
        if self._accepted_bytes > self._allowed_bytes and not (line := self._if_there_is_room(line)):
            return
        self._lines.append(line)
        token = self._token
        if token is not None and token.mark(False):
            token.put()

    def drain(self, token: _Token) -> Message:
        """Take the mark off the token and everything out of the deque. For the feeder thread."""
        with self._draining:
            if token is not self._token:
                return ()  # of the queue of a writer that is dead
            token.taken()
            batch = self._next_batch()
            message: Message = (self._drained_bytes, batch) if batch.data else ()
        if self._lines and token.mark(False):  # a full batch leaves some; the feeder thread holds no lock of the queue
            token.queue.put(token)
        return message

    def _next_batch(self) -> Batch:
        lines: list[bytes] = []
        size = 0
        while self._lines and size < BATCH_BYTES:
            lines.append(self._lines.popleft())
            size += len(lines[-1])
        if self._session:
            lines = self._with_ids(lines)
        batch = Batch(self._drained, self._drained + len(lines), b"".join(lines))
        if STARTED in batch.data:
            self.started = next((line for line in reversed(lines) if line.startswith(STARTED)), self.started)
        self._drained = batch.end
        self._drained_bytes += size
        self._forget_settled()
        if lines:
            self._retained.add(batch)
        return batch

    def _with_ids(self, lines: list[bytes]) -> list[bytes]:
        numbered = []
        for place, line in enumerate(lines, self._drained + 1):
            if isinstance(line, _AfterGap):
                self._passed_over = line.dropped
            numbered.append(b'%b,"id":"%b%d"}\n' % (line[:-2], self._session, place + self._passed_over))
        return numbered

    def _forget_settled(self) -> None:
        self._retained.settle(self._ledger.settled)
        for first, end in self._ledger.take_dropped():
            self._retained.drop(first, end)
            self._dropped_by_writer += end - first

    def _if_there_is_room(self, line: bytes) -> bytes:
        """Look again how far the writer is: the line, or b"" if there is no room for it and it was dropped."""
        if not self._sealed:
            self._allowed_bytes = self._taken_bytes() + HOST_BYTES
            if self._accepted_bytes <= self._allowed_bytes:
                if self.refusing is not None:
                    self.refusing = None
                    self.wake()
                    line = _AfterGap(line, self._dropped.value())
                return line
            if self.refusing is None:
                self.refusing = self._dropped.value()
                self.wake()  # the supervisor writes the log, for that may take time
            self._dropped.add()
            self._allowed_bytes = -1  # so that the next event looks again, however small it is
        self._accepted_bytes -= len(line)
        return b""

    def _on_note(self, note: str) -> None:
        self._noted.add()
        if not self.first_note:
            self.first_note = note
            self.wake()

    # Called by the supervisor and by threads that can wait

    def adopt(self, lines: list[bytes]) -> None:
        """Take over what a forked child has emitted."""
        for line in lines:
            self._accept(line)

    def feed(self) -> None:
        """Put a token for what waits, if none is outstanding."""
        token = self._token
        if self._lines and token is not None and token.mark(False):
            token.put()

    def attach(self, queue: "Queue[Any]") -> None:
        """From now on fill this queue: first with what earlier writers have not settled."""
        token = _Token(self, queue)
        token.mark(False)
        with self._draining:
            self._take_stock()
            for batch in self._retained.batches():
                queue.put((0, batch))
            # Whatever is missing until here was settled; and everything until here is off our hands when this is taken.
            queue.put((self._drained_bytes, Batch(self._drained, self._drained, b"")))
            queue.put(token)
            self._token = token

    def detach(self) -> None:
        """Let go of the queue of a writer that is gone."""
        with self._draining:
            self._token = None

    def clear(self) -> None:
        """Let go of every line; the books stay as they are."""
        with self._draining:
            self._drained += len(self._lines)
            self._lines.clear()
            self._retained = Retained()

    def _take_stock(self) -> None:
        """Make the ledger true after the death of a writer, which may have fallen between two of its entries."""
        self._forget_settled()
        self._retained.cut(self._ledger.settled)
        batches = self._retained.batches()
        self._ledger.received = batches[0].first if batches else self._drained
        self._ledger.unsent = self._ledger.settled = self._ledger.received
        self._ledger.dropped = self._dropped_by_writer
        self._ledger.sent = self._drained - self._dropped_by_writer - len(self._retained)

    def begin_anew(self, door: SideDoor) -> ForkedToken:
        """In a forked child: what the host had is the host's, and every lock may be held for ever."""
        self._lines = deque()
        self._dropped, self._noted = Tally(), Tally()
        self._draining = threading.RLock()
        self._accepted_bytes = self._drained = 0
        self._allowed_bytes = -1 if self._sealed else HOST_BYTES
        self._retained = Retained()
        token = ForkedToken(door, self._lines)
        self._taken_bytes = lambda: token.handed_over_bytes
        self.wake = lambda: None
        self._token = token
        return token

    def seal(self) -> int:
        """Take no more events. Returns the number after the last line accepted."""
        self._sealed = True
        self._allowed_bytes = -1
        return self.accepted()

    def accepted(self) -> int:
        """The number after the last line accepted."""
        with self._draining:
            return self._drained + len(self._lines)

    def dropped(self) -> int:
        """How many events were dropped on this side."""
        return self._dropped.value()

    def noted(self) -> int:
        """How many notes were sent in place of something that could not be encoded."""
        return self._noted.value()
