"""What the writer has to send, as an object that is fed and asked: no sockets, no clocks.

It keeps every line from the moment the host hands it over until the consumer has read it, in two parts:

    batches:   settled and gone | in flight: on the socket, maybe unread | waiting
                                              ^ may be sent again           ^ next to be written

The loop asks `data_to_send()` for the bytes to write next. It says with `data_sent()` how many the socket took, with
`peer_unread()` what the kernel knows of the reader, and with `connection_lost()` that the connection is gone. Then
everything that the consumer had not read waits again, from the start of its first line: a line is only ever received
whole.

Lines that are dropped leave a gap. What they said of where the run stands is told in their place, in lines that are not
counted: of each unit the last one of each type. So a drop costs history, and never leaves a display that is wrong.

Positions are bytes since the start of the connection. Lines have the numbers of `socketpusher.channel.batch`.
"""

from collections import deque
from collections.abc import Container, Iterable, Iterator, Sequence
from itertools import chain, islice
from typing import NamedTuple

from ..channel.batch import Batch, whole_lines
from ..run_state import Digest, relevant_lines


class _BatchCursor:
    """A batch and where it lies on the connection."""

    __slots__ = ("batch", "done", "lines", "read", "read_lines", "resolved", "start")

    def __init__(self, batch: Batch) -> None:
        self.batch = batch
        self.start = 0  # the position of its first byte, once writing it has begun
        self.done = 0  # how many of its bytes are written
        self.lines = 0  # how many of its lines are wholly written
        self.read = 0  # how many of its bytes the consumer has read
        self.read_lines = 0  # how many lines end in those
        self.resolved = 0  # how many of its bytes `take_resolved` has told of

    @property
    def unwritten(self) -> int:
        """The number of its first line that is not wholly written."""
        return self.batch.first + self.lines

    @property
    def end(self) -> int:
        """The position behind its last byte."""
        return self.start + len(self.batch.data)

    def count_lines(self, start: int, stop: int) -> int:
        """How many numbered lines end in its bytes from `start` to `stop`."""
        return self.batch.count_lines(start, stop)


class Resolved(NamedTuple):
    """Lines that were read, or need not be sent, for the next consumer is told them before all others."""

    data: bytes
    of_gap: bool  # they were told in the place of dropped ones
    end: int  # the number after the last of them


GAP_BYTES = 1 << 20
"""How much may be kept of a gap, in bytes, before it is looked through for what still matters."""


class _Gap(_BatchCursor):
    """Where lines were dropped, and what is told in their place.

    Args:
        number: The number after the last of them.
        lines: Those of them that say where the run stands.
        named: The units that graphs name.
    """

    __slots__ = ("_lines", "_look_at", "_named", "_size")

    def __init__(self, number: int, lines: Iterable[bytes], named: Container[str] | None) -> None:
        super().__init__(Batch(number, number, b""))
        self._named = named
        self._lines = deque(lines)
        self._size = sum(map(len, self._lines))
        self._look_at = GAP_BYTES

    def join(self, number: int, before: Sequence[bytes] = (), behind: Sequence[bytes] = ()) -> None:
        """Lines beside it were dropped as well."""
        self._lines.extendleft(reversed(before))
        self._lines.extend(behind)
        self._size += sum(map(len, before)) + sum(map(len, behind))
        self.batch = Batch(number, number, b"")
        if self._size > self._look_at:
            self._look_through()

    def _look_through(self) -> None:
        """Keep what still matters."""
        self._lines = deque(Digest(self._lines, named=self._named).lines())
        self._size = sum(map(len, self._lines))
        self._look_at = max(GAP_BYTES, 2 * self._size)

    @property
    def closed(self) -> bool:
        """Whether it was offered to the socket. Lines that are dropped then make another gap: a socket that takes
        nothing is offered the same again and again, and putting 30,000 lines together takes 100 ms each time."""
        return bool(self.batch.data)

    def told(self) -> Batch:
        """The lines to tell, as a batch without numbers. No others can join them from now on."""
        if not self.closed:
            self.batch = self.batch._replace(data=self.data())
            self._lines.clear()
        return self.batch

    def data(self) -> bytes:
        """The same lines, but others can join them."""
        if not self.closed:
            self._look_through()
        return self.batch.data or b"".join(self._lines)

    def rewind(self) -> None:
        """What was not read is to be told again."""
        if not self.done:  # nothing of it is on the socket, and what is told may not have been put together
            return
        rest = self.batch.data[self.resolved :]
        self.batch = self.batch._replace(data=rest)
        self.done = self.read = self.resolved = 0

    def count_lines(self, start: int, stop: int) -> int:
        """None, for they were counted as dropped."""
        return 0


class Backlog:
    """The lines that wait and the lines in flight.

    Args:
        start: The number of the first line that will be appended, unless it was dropped.
        high_water: The number after the highest line that an earlier writer put on a socket.
        dropped: What an earlier writer has left of gaps: the number after the last line of each, and lines to tell.
        named: The units that graphs name, see `Digest`.
    """

    def __init__(
        self,
        start: int = 0,
        high_water: int = 0,
        dropped: Iterable[tuple[int, bytes]] = (),
        named: Container[str] | None = None,
    ) -> None:
        self._named = named
        self._dropped = deque(sorted(dropped, key=lambda gap: gap[0]))  # until their place has come
        self._written: deque[_BatchCursor] = deque()  # wholly written
        self._waiting: deque[_BatchCursor] = deque()  # the first one may be written in part
        self._preface = memoryview(b"")  # what is left to write of the lines that open a connection
        self._position = 0  # bytes written on this connection, its preface included
        self._writes: deque[tuple[int, int]] = deque()  # of writes maybe unread: the position behind, memory taken
        self._memory = 0  # their memory, added up
        self._read = 0  # the position below which the consumer has read everything

        self._resolved: list[Resolved] = []  # since `take_resolved` was last asked

        self.waiting = 0  # lines not wholly written
        self.waiting_bytes = 0  # their bytes that are not written
        self.received = start  # the number after the last line ever appended
        self.settled = start  # every line below was read or dropped
        self.high_water = high_water  # the number after the highest line ever written
        self.sent = 0  # lines wholly written, less those that were found unread and wait again
        self.resent = 0  # lines wholly written for the second time or more

    def append(self, batch: Batch) -> None:
        """Take a batch over from the host. An empty one says that whatever is missing below its end is settled."""
        while self._dropped and self._dropped[0][0] <= batch.end:
            number, lines = self._dropped.popleft()
            if number <= batch.first:  # or the writer died before it was counted, and here the lines come again
                self._note_dropped(len(self._waiting), number, relevant_lines(lines))
        if batch.data:
            self._waiting.append(_BatchCursor(batch))
        self.waiting += batch.end - batch.first
        self.waiting_bytes += len(batch.data)
        self.received = batch.end

    def append_gap(self, number: int, lines: bytes) -> None:
        """Let these be told behind all that waits, where lines up to `number` were dropped."""
        self._note_dropped(len(self._waiting), number, whole_lines(lines))
        self.received = max(self.received, number)

    def unread(self) -> list[Batch]:
        """Everything that the consumer is not known to have read, in order; of a gap, where first and end are the same,
        what is told in its place."""
        batches = []
        for cursor in chain(self._written, self._waiting):
            batch = cursor.batch
            if isinstance(cursor, _Gap):
                batch = batch._replace(data=cursor.data()[cursor.resolved :])
            elif cursor.read_lines:
                batch = batch.lines(batch.first + cursor.read_lines, batch.end)
            batches.append(batch)
        return batches

    def unread_below(self, number: int) -> int:
        """How many of the lines below a number the consumer is not known to have read."""
        if self.settled >= number:
            return 0
        return sum(max(0, min(number, batch.end) - batch.first) for batch in self.unread())

    def take_waiting(self) -> None:
        """Forget what waits, of which nothing is written: it is somewhere else."""
        self._waiting.clear()
        self.waiting = self.waiting_bytes = 0
        self.settled = self.received

    @property
    def unsent(self) -> int:
        """The lowest number of a line that is not wholly written."""
        if not self._waiting:
            return self.received
        first = self._waiting[0]
        return first.unwritten - isinstance(first, _Gap)  # whose last line has not been told

    @property
    def empty(self) -> bool:
        """Whether there is nothing to write."""
        return not self._waiting and not self._preface

    @property
    def in_flight(self) -> bool:
        """Whether something is on the socket that the consumer may not have read."""
        return bool(self._writes)

    def connection_made(self, preface: bytes) -> None:
        """A new connection: `preface`, whole lines without numbers, goes first."""
        self._preface = memoryview(preface)
        self._position = self._read = self._memory = 0
        self._writes.clear()

    def data_to_send(self, most: int, most_buffers: int = 1024) -> list[memoryview]:
        """The bytes to write next: at least one if not `empty`, at most `most`, in at most so many buffers."""
        buffers = []
        if self._preface:
            buffers.append(self._preface[:most])
            most -= len(buffers[0])
        for cursor in self._waiting:
            if most <= 0 or len(buffers) == most_buffers:
                break
            data = cursor.told().data if isinstance(cursor, _Gap) else cursor.batch.data
            buffers.append(memoryview(data)[cursor.done : cursor.done + most])
            most -= len(buffers[-1])
        return buffers

    def data_sent(self, count: int, memory: int) -> None:
        """The socket took the first `count` bytes of what was offered.

        Args:
            count: Bytes.
            memory: By how much the kernel's account of unread memory rose, or less if the consumer read meanwhile.
        """
        memory = max(memory, count)
        self._writes.append((self._position + count, memory))
        self._memory += memory
        opening = min(count, len(self._preface))
        self._preface = self._preface[opening:]
        self._position += opening
        count -= opening
        while count:
            cursor = self._waiting[0]
            if cursor.done == 0:
                cursor.start = self._position
            part = min(count, len(cursor.batch.data) - cursor.done)
            self._count_written(cursor, cursor.count_lines(cursor.done, cursor.done + part))
            cursor.done += part
            self.waiting_bytes -= 0 if isinstance(cursor, _Gap) else part
            self._position += part
            count -= part
            if cursor.done == len(cursor.batch.data):
                self._written.append(self._waiting.popleft())

    def _count_written(self, cursor: _BatchCursor, lines: int) -> None:
        if not lines:
            return
        first = cursor.unwritten
        end = first + lines
        cursor.lines += lines
        self.waiting -= lines
        self.sent += lines
        self.resent += max(0, min(self.high_water, end) - first)
        self.high_water = max(self.high_water, end)

    def peer_unread(self, memory: int) -> None:
        """The kernel holds this much memory, in bytes, that the consumer has not read; 0 when it has read all.

        A write whose memory may be among it counts as unread as a whole.
        """
        while self._writes and self._memory - self._writes[0][1] >= memory:
            self._read, written = self._writes.popleft()
            self._memory -= written
        while self._written and self._written[0].end <= self._read:
            cursor = self._written.popleft()
            self.settled = cursor.batch.end
            self._resolve(cursor, len(cursor.batch.data))
        for cursor in self._written or self._waiting:
            self._note_read(cursor)
            if not isinstance(cursor, _Gap):  # which is settled when all of it was told
                self.settled = max(self.settled, cursor.batch.first + cursor.read_lines)
            break

    def _note_read(self, cursor: _BatchCursor) -> None:
        """Take note of what of a cursor was read on this connection."""
        read = min(self._read - cursor.start, cursor.done)
        if read > cursor.read:
            cursor.read_lines += cursor.count_lines(cursor.read, read)
            self._resolve(cursor, cursor.batch.data.rfind(b"\n", cursor.read, read) + 1)
            cursor.read = read

    def _resolve(self, cursor: _BatchCursor, end: int) -> None:
        """The lines that end in the first `end` bytes of a cursor were read."""
        if end > cursor.resolved:
            whole = end == len(cursor.batch.data)
            number = cursor.batch.end if whole else cursor.batch.first + cursor.read_lines
            data = cursor.batch.data
            read = data if whole and not cursor.resolved else data[cursor.resolved : end]
            self._resolved.append(Resolved(read, isinstance(cursor, _Gap), number))
            cursor.resolved = end

    def connection_lost(self, all_read: bool) -> None:
        """The connection is gone.

        Args:
            all_read: Whether the consumer is known to have read every byte; otherwise what the last `peer_unread` left
                open waits again. A line of which it read only a part waits again in any case.
        """
        if all_read:
            self.peer_unread(0)
        self._preface = memoryview(b"")
        if self._waiting:
            self._rewind(self._waiting[0])
        while self._written:
            cursor = self._written.pop()
            self._waiting.appendleft(cursor)
            self._rewind(cursor)

    def _rewind(self, cursor: _BatchCursor) -> None:
        """Let everything of a cursor wait that the consumer has not read, from the start of a line."""
        self._note_read(cursor)
        batch = cursor.batch
        if isinstance(cursor, _Gap):
            cursor.rewind()
            return
        first = batch.first + cursor.read_lines
        kept_from = batch.data.rfind(b"\n", 0, cursor.read) + 1
        again = cursor.unwritten - first
        self.sent -= again
        self.waiting += again
        self.waiting_bytes += cursor.done - kept_from
        cursor.batch = Batch(first, batch.end, batch.data[kept_from:])
        cursor.done = cursor.lines = cursor.read = cursor.read_lines = cursor.resolved = 0

    def resolve_gaps(self) -> None:
        """Without a connection: what would be told before the first line that waits is part of where the run stands."""
        while self._waiting and isinstance(gap := self._waiting[0], _Gap):
            self._resolved.append(Resolved(gap.told().data, of_gap=True, end=gap.batch.end))
            self._waiting.popleft()

    def take_resolved(self) -> "list[Resolved]":
        """What was read since the last call; a line read in part is not among it."""
        gone, self._resolved = self._resolved, []
        return gone

    def gaps(self) -> list[tuple[int, bytes]]:
        """The gaps that were not read: as the argument `dropped`."""
        unread = [(gap.batch.end, gap.data()) for gap in chain(self._written, self._waiting) if isinstance(gap, _Gap)]
        return [*unread, *self._dropped]

    def is_over(self, keep: int, keep_bytes: int) -> bool:
        """Whether more than `keep` lines or `keep_bytes` bytes wait; a single line may be of any size."""
        return (self.waiting > keep or self.waiting_bytes > keep_bytes) and self.waiting > 1

    def drop_newest(self, keep: int, keep_bytes: int) -> Iterator[tuple[int, int, bytes]]:
        """Let go of the newest lines until no more than this waits, or 1 line.

        Yields:
            The numbers `first, end` of a range of lines that is gone, and what is told in their place, until the caller
            asks for no more.
        """
        while self.is_over(keep, keep_bytes):  # the first line may be half on the socket, so it stays
            index = len(self._waiting) - 1
            while isinstance(self._waiting[index], _Gap):
                index -= 1
            cursor = self._waiting[index]
            most = min(self.waiting - 1, cursor.batch.end - cursor.unwritten)
            count = self._excess(reversed(cursor.batch.data.split(b"\n")[:-1]), most, keep, keep_bytes)
            yield self._drop(index, cursor.batch.end - count, cursor.batch.end)

    def drop_oldest(self, keep: int, keep_bytes: int) -> Iterator[tuple[int, int, bytes]]:
        """Let go of the oldest lines that no byte is written of, until no more than this waits, or 1 line.

        Yields:
            As `drop_newest`.
        """
        while self.is_over(keep, keep_bytes):
            self._split_after_started_line()
            index = 0
            while isinstance(self._waiting[index], _Gap) or self._waiting[index].done:
                index += 1
            batch = self._waiting[index].batch
            most = min(self.waiting - 1, batch.end - batch.first)
            count = self._excess(iter(batch.data.split(b"\n")[:-1]), most, keep, keep_bytes)
            yield self._drop(index, batch.first, batch.first + count)

    def _excess(self, lines: Iterator[bytes], most: int, keep: int, keep_bytes: int) -> int:
        """How many of the lines must go, at most so many."""
        count = min(most, max(0, self.waiting - keep))
        size = sum(len(line) + 1 for line in islice(lines, count))
        for line in islice(lines, most - count):
            if self.waiting_bytes - size <= keep_bytes:
                break
            size += len(line) + 1
            count += 1
        return count

    def _split_after_started_line(self) -> None:
        """Split the first waiting cursor behind its last line of which something is written."""
        cursor = self._waiting[0]
        if isinstance(cursor, _Gap):
            return
        batch = cursor.batch
        begun = cursor.unwritten + (0 if batch.data[cursor.done - 1 : cursor.done] in (b"\n", b"") else 1)
        if batch.first < begun < batch.end:
            cursor.batch = batch.lines(batch.first, begun)
            self._waiting.insert(1, _BatchCursor(batch.lines(begun, batch.end)))
        if cursor.done == len(cursor.batch.data):
            self._written.append(self._waiting.popleft())

    def _drop(self, index: int, first: int, end: int) -> tuple[int, int, bytes]:
        """Take the lines `first` to `end - 1`, one end of the waiting cursor at `index`, out of it."""
        cursor = self._waiting[index]
        batch = cursor.batch
        place = index
        if (first, end) == (batch.first, batch.end):
            del self._waiting[index]
            removed = len(batch.data)
        else:
            cursor.batch = batch.lines(batch.first, first) if first > batch.first else batch.lines(end, batch.end)
            removed = len(batch.data) - len(cursor.batch.data)
            place += first > batch.first
        self.waiting -= end - first
        self.waiting_bytes -= removed
        told = relevant_lines(batch.lines(first, end).data)
        self._note_dropped(place, end, told)
        return first, end, b"".join(told)

    def _note_dropped(self, place: int, number: int, lines: list[bytes]) -> None:
        """Let these be told there, where lines up to `number` were dropped."""
        if not lines:
            return
        left = self._waiting[place - 1] if place else None
        right = self._waiting[place] if place < len(self._waiting) else None
        if isinstance(left, _Gap) and not left.closed:
            left.join(number, behind=lines)
        elif isinstance(right, _Gap) and not right.closed:
            right.join(right.batch.end, before=lines)
        elif telling := Digest(lines).lines():  # there may be none: a task of no unit says nothing
            self._waiting.insert(place, _Gap(number, telling, self._named))
