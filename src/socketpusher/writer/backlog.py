"""The lines that the writer has to send, as an object without sockets and clocks.

It keeps every line from the moment the host hands it over until the consumer has read it, in two parts:

    batches:   settled and forgotten | in flight: on the socket, maybe unread | waiting
                                                   ^ may be sent again           ^ next to be written

The loop asks `data_to_send()` for the bytes to write next. It reports with `data_sent()` how many the socket took, with
`peer_unread()` how much the kernel holds unread, and with `connection_lost()` the end of the connection. Then all lines
that the consumer had not wholly read wait again, so that every line is received whole.

Dropped lines leave a gap. Those of them that give the state of the run, the last one of each type for each unit, are
sent in their place and are not counted. So a drop loses history, but never leaves a display wrong.

Positions are bytes since the start of the connection. Lines have the numbers of `socketpusher.channel.batch`.
"""

from collections import deque
from collections.abc import Container, Iterable, Iterator, Sequence
from itertools import chain, islice
from typing import NamedTuple

from ..channel.batch import Batch, whole_lines
from ..run_state import Digest, relevant_lines


class _BatchCursor:
    """A batch and its position on the connection."""

    __slots__ = ("batch", "read_bytes", "read_lines", "resolved_bytes", "start", "written_bytes", "written_lines")

    def __init__(self, batch: Batch) -> None:
        self.batch = batch
        self.start = 0  # the position of its first byte, once the first byte is written
        self.written_bytes = 0  # written bytes
        self.written_lines = 0  # lines that are wholly written
        self.read_bytes = 0  # bytes that the consumer has read
        self.read_lines = 0  # lines that end in these bytes
        self.resolved_bytes = 0  # bytes that `take_resolved` has returned, or will

    @property
    def unwritten(self) -> int:
        """The number of its first line that is not wholly written."""
        return self.batch.first + self.written_lines

    @property
    def end(self) -> int:
        """The position after its last byte."""
        return self.start + len(self.batch.data)

    def count_lines(self, start: int, stop: int) -> int:
        """The number of counted lines that end in its bytes from `start` to `stop`."""
        return self.batch.count_lines(start, stop)


class Resolved(NamedTuple):
    """Lines that were read, or need not be sent because the next preface includes them."""

    data: bytes
    of_gap: bool  # whether they take the place of dropped lines
    end: int  # the number after the last of them


GAP_BYTES = 1 << 20
"""How large a gap may become before lines that no longer matter are removed from it, in bytes."""


class _Gap(_BatchCursor):
    """The place where lines were dropped, and the lines that are sent there.

    Args:
        number: The number after the last dropped line.
        lines: Those of the dropped lines that change the state of the run.
        graph_units: The units that are in a graph.
    """

    __slots__ = ("_graph_units", "_lines", "_prune_at", "_size")

    def __init__(self, number: int, lines: Iterable[bytes], graph_units: Container[str] | None) -> None:
        super().__init__(Batch(number, number, b""))
        self._graph_units = graph_units
        self._lines = deque(lines)
        self._size = sum(map(len, self._lines))
        self._prune_at = GAP_BYTES

    def join(self, number: int, before: Sequence[bytes] = (), after: Sequence[bytes] = ()) -> None:
        """Extend the gap: lines directly before or after it were dropped as well."""
        self._lines.extendleft(reversed(before))
        self._lines.extend(after)
        self._size += sum(map(len, before)) + sum(map(len, after))
        self.batch = Batch(number, number, b"")
        if self._size > self._prune_at:
            self._prune()

    def _prune(self) -> None:
        """Keep only the lines that still matter."""
        self._lines = deque(Digest(self._lines, graph_units=self._graph_units).lines())
        self._size = sum(map(len, self._lines))
        self._prune_at = max(GAP_BYTES, 2 * self._size)

    @property
    def closed(self) -> bool:
        """Whether it was offered to the socket. Then further dropped lines make another gap, because a blocked socket
        is offered the same lines again and again, and joining 30,000 lines takes 100 ms each time."""
        return bool(self.batch.data)

    def to_send(self) -> Batch:
        """The lines to send, as a batch without numbers. This closes the gap."""
        if not self.closed:
            self.batch = self.batch._replace(data=self.data())
            self._lines.clear()
        return self.batch

    def data(self) -> bytes:
        """The same lines, without closing the gap."""
        if not self.closed:
            self._prune()
        return self.batch.data or b"".join(self._lines)

    def rewind(self) -> None:
        """Let the lines that were not read wait again."""
        if not self.written_bytes:  # nothing of it was written, and it may not be closed
            return
        self.batch = self.batch._replace(data=self.batch.data[self.resolved_bytes :])
        self.written_bytes = self.read_bytes = self.resolved_bytes = 0

    def count_lines(self, start: int, stop: int) -> int:
        """0, because these lines were counted as dropped."""
        return 0


class Backlog:
    """The lines that wait and the lines in flight.

    Args:
        start: The number of the first line that will be appended, unless it was dropped.
        high_water: The number after the highest line that an earlier writer put on a socket.
        dropped: The gaps of an earlier writer: the number after the last line of each, and the lines to send there.
        graph_units: The units that are in a graph, see `Digest`.
    """

    def __init__(
        self,
        start: int = 0,
        high_water: int = 0,
        dropped: Iterable[tuple[int, bytes]] = (),
        graph_units: Container[str] | None = None,
    ) -> None:
        self._graph_units = graph_units
        self._dropped = deque(sorted(dropped, key=lambda gap: gap[0]))  # until the lines after them are appended
        self._written: deque[_BatchCursor] = deque()  # wholly written
        self._waiting: deque[_BatchCursor] = deque()  # the first one may be written in part
        self._preface = memoryview(b"")  # the part of the preface that is not written
        self._position = 0  # bytes written on this connection, including the preface
        self._writes: deque[tuple[int, int]] = deque()  # end position and memory of each write that may be unread
        self._memory = 0  # the sum of their memory
        self._read = 0  # the position below which the consumer has read everything

        self._resolved: list[Resolved] = []  # since the last `take_resolved`

        self.waiting = 0  # lines that are not wholly written
        self.waiting_bytes = 0  # their bytes that are not written
        self.received = start  # the number after the last line ever appended
        self.settled = start  # every line below was read or dropped
        self.high_water = high_water  # the number after the highest line ever written
        self.sent = 0  # lines that are wholly written, without those that were found unread and wait again
        self.resent = 0  # lines that were wholly written more than once

    def append(self, batch: Batch) -> None:
        """Append a batch from the host. An empty one means that the missing lines below its end are settled."""
        while self._dropped and self._dropped[0][0] <= batch.end:
            number, lines = self._dropped.popleft()
            if number <= batch.first:  # otherwise the writer died before the drop was counted, and the lines come again
                self._note_dropped(len(self._waiting), number, relevant_lines(lines))
        if batch.data:
            self._waiting.append(_BatchCursor(batch))
        self.waiting += batch.end - batch.first
        self.waiting_bytes += len(batch.data)
        self.received = batch.end

    def append_gap(self, number: int, lines: bytes) -> None:
        """Append a gap: lines up to `number` were dropped there, and `lines` are sent in their place."""
        self._note_dropped(len(self._waiting), number, whole_lines(lines))
        self.received = max(self.received, number)

    def expect_gaps_of(self, other: "Backlog") -> None:
        """Take over the gaps before lines that are still to be appended."""
        if other._dropped:
            self._dropped = deque(sorted((*self._dropped, *other._dropped), key=lambda gap: gap[0]))
            other._dropped.clear()

    def unread(self) -> list[Batch]:
        """All lines that the consumer may not have read, in order. A gap is a batch whose first and end are equal."""
        batches = []
        for cursor in chain(self._written, self._waiting):
            batch = cursor.batch
            if isinstance(cursor, _Gap):
                batch = batch._replace(data=cursor.data()[cursor.resolved_bytes :])
            elif cursor.read_lines:
                batch = batch.lines(batch.first + cursor.read_lines, batch.end)
            batches.append(batch)
        return batches

    def unread_below(self, number: int) -> int:
        """How many lines below `number` the consumer may not have read."""
        if self.settled >= number:
            return 0
        return sum(max(0, min(number, batch.end) - batch.first) for batch in self.unread())

    def discard_waiting(self) -> None:
        """Forget the waiting lines, which are stored elsewhere. Nothing of them may be written."""
        self._waiting.clear()
        self.waiting = self.waiting_bytes = 0
        self.settled = self.received

    @property
    def unsent(self) -> int:
        """The lowest number of a line that is not wholly written."""
        if not self._waiting:
            return self.received
        first = self._waiting[0]
        return first.unwritten - isinstance(first, _Gap)  # a gap counts with the last dropped line

    @property
    def empty(self) -> bool:
        """Whether there is nothing to write."""
        return not self._waiting and not self._preface

    @property
    def in_flight(self) -> bool:
        """Whether lines are on the socket that the consumer may not have read."""
        return bool(self._writes)

    def connection_made(self, preface: bytes) -> None:
        """Begin a connection. Its first lines are `preface`, whole lines without numbers."""
        self._preface = memoryview(preface)
        self._position = self._read = self._memory = 0
        self._writes.clear()

    def data_to_send(self, limit: int, max_buffers: int = 1024) -> list[memoryview]:
        """The bytes to write next: at least one if not `empty`, at most `limit`, in at most `max_buffers` buffers."""
        buffers = []
        if self._preface:
            buffers.append(self._preface[:limit])
            limit -= len(buffers[0])
        for cursor in self._waiting:
            if limit <= 0 or len(buffers) == max_buffers:
                break
            data = cursor.to_send().data if isinstance(cursor, _Gap) else cursor.batch.data
            buffers.append(memoryview(data)[cursor.written_bytes : cursor.written_bytes + limit])
            limit -= len(buffers[-1])
        return buffers

    def data_sent(self, count: int, memory: int) -> None:
        """Note that the socket took the first `count` bytes of `data_to_send`.

        Args:
            count: The number of bytes.
            memory: The increase of the unread memory in the kernel, in bytes, or less if the consumer read meanwhile.
        """
        memory = max(memory, count)
        self._writes.append((self._position + count, memory))
        self._memory += memory
        of_preface = min(count, len(self._preface))
        self._preface = self._preface[of_preface:]
        self._position += of_preface
        count -= of_preface
        while count:
            cursor = self._waiting[0]
            if cursor.written_bytes == 0:
                cursor.start = self._position
            part = min(count, len(cursor.batch.data) - cursor.written_bytes)
            self._count_written(cursor, cursor.count_lines(cursor.written_bytes, cursor.written_bytes + part))
            cursor.written_bytes += part
            self.waiting_bytes -= 0 if isinstance(cursor, _Gap) else part
            self._position += part
            count -= part
            if cursor.written_bytes == len(cursor.batch.data):
                self._written.append(self._waiting.popleft())

    def _count_written(self, cursor: _BatchCursor, lines: int) -> None:
        if not lines:
            return
        first = cursor.unwritten
        end = first + lines
        cursor.written_lines += lines
        self.waiting -= lines
        self.sent += lines
        self.resent += max(0, min(self.high_water, end) - first)
        self.high_water = max(self.high_water, end)

    def peer_unread(self, memory: int) -> None:
        """Note how much memory the kernel holds that the consumer has not read, in bytes; 0 when it has read all.

        If any part of a write may be unread, the whole write counts as unread.
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
            if not isinstance(cursor, _Gap):  # a gap is settled as a whole
                self.settled = max(self.settled, cursor.batch.first + cursor.read_lines)
            break

    def _note_read(self, cursor: _BatchCursor) -> None:
        """Note how much of a cursor was read on this connection."""
        read = min(self._read - cursor.start, cursor.written_bytes)
        if read > cursor.read_bytes:
            cursor.read_lines += cursor.count_lines(cursor.read_bytes, read)
            self._resolve(cursor, cursor.batch.data.rfind(b"\n", cursor.read_bytes, read) + 1)
            cursor.read_bytes = read

    def _resolve(self, cursor: _BatchCursor, end: int) -> None:
        """Note that the lines in the first `end` bytes of a cursor were read."""
        if end > cursor.resolved_bytes:
            whole = end == len(cursor.batch.data)
            number = cursor.batch.end if whole else cursor.batch.first + cursor.read_lines
            data = cursor.batch.data
            read = data if whole and not cursor.resolved_bytes else data[cursor.resolved_bytes : end]
            self._resolved.append(Resolved(read, isinstance(cursor, _Gap), number))
            cursor.resolved_bytes = end

    def connection_lost(self, all_read: bool) -> None:
        """End the connection. Lines that the consumer may not have read wait again.

        Args:
            all_read: Whether the consumer has read every byte; otherwise the last `peer_unread` counts. A line of which
                only a part was read waits again in any case.
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
        """Let the lines of a cursor that were not wholly read wait again."""
        self._note_read(cursor)
        batch = cursor.batch
        if isinstance(cursor, _Gap):
            cursor.rewind()
            return
        first = batch.first + cursor.read_lines
        kept_from = batch.data.rfind(b"\n", 0, cursor.read_bytes) + 1
        again = cursor.unwritten - first
        self.sent -= again
        self.waiting += again
        self.waiting_bytes += cursor.written_bytes - kept_from
        cursor.batch = Batch(first, batch.end, batch.data[kept_from:])
        cursor.written_bytes = cursor.written_lines = cursor.read_bytes = cursor.read_lines = cursor.resolved_bytes = 0

    def resolve_gaps(self) -> None:
        """Without a connection, resolve the gaps before the first waiting line: the preface includes them."""
        while self._waiting and isinstance(gap := self._waiting[0], _Gap):
            self._resolved.append(Resolved(gap.to_send().data, of_gap=True, end=gap.batch.end))
            self._waiting.popleft()

    def take_resolved(self) -> "list[Resolved]":
        """The lines that were wholly read, or need not be sent, since the last call."""
        resolved, self._resolved = self._resolved, []
        return resolved

    def gaps(self) -> list[tuple[int, bytes]]:
        """The gaps that were not read, in the form of the argument `dropped`."""
        unread = [(gap.batch.end, gap.data()) for gap in chain(self._written, self._waiting) if isinstance(gap, _Gap)]
        return [*unread, *self._dropped]

    def exceeds(self, keep: int, keep_bytes: int) -> bool:
        """Whether more than `keep` lines or `keep_bytes` bytes wait. A single line may have any size."""
        return (self.waiting > keep or self.waiting_bytes > keep_bytes) and self.waiting > 1

    def drop_newest(self, keep: int, keep_bytes: int) -> Iterator[tuple[int, int, bytes]]:
        """Drop the newest lines until no more than this waits, or one line. Stops when the caller stops iterating.

        Yields:
            `first`, `end` and `lines`: the lines `first` to `end - 1` were dropped, and `lines` are sent instead.
        """
        while self.exceeds(keep, keep_bytes):  # the first line may be half on the socket, so it stays
            index = len(self._waiting) - 1
            while isinstance(self._waiting[index], _Gap):
                index -= 1
            cursor = self._waiting[index]
            limit = min(self.waiting - 1, cursor.batch.end - cursor.unwritten)
            count = self._excess(cursor.batch.sizes(backwards=True), limit, keep, keep_bytes)
            yield self._drop(index, cursor.batch.end - count, cursor.batch.end)

    def drop_oldest(self, keep: int, keep_bytes: int) -> Iterator[tuple[int, int, bytes]]:
        """Drop the oldest lines of which no byte is written, until no more than this waits, or one line.

        Yields:
            As `drop_newest`.
        """
        while self.exceeds(keep, keep_bytes):
            self._split_after_started_line()
            index = 0
            while isinstance(self._waiting[index], _Gap) or self._waiting[index].written_bytes:
                index += 1
            batch = self._waiting[index].batch
            limit = min(self.waiting - 1, batch.end - batch.first)
            count = self._excess(batch.sizes(), limit, keep, keep_bytes)
            yield self._drop(index, batch.first, batch.first + count)

    def _excess(self, sizes: Iterator[int], limit: int, keep: int, keep_bytes: int) -> int:
        """How many lines of these sizes must be dropped, at most `limit`."""
        count = min(limit, max(0, self.waiting - keep))
        size = sum(islice(sizes, count))
        for more in islice(sizes, limit - count):
            if self.waiting_bytes - size <= keep_bytes:
                break
            size += more
            count += 1
        return count

    def _split_after_started_line(self) -> None:
        """Split the first waiting cursor after its last line of which a byte is written."""
        cursor = self._waiting[0]
        if isinstance(cursor, _Gap):
            return
        batch = cursor.batch
        last_byte = batch.data[cursor.written_bytes - 1 : cursor.written_bytes]
        split = cursor.unwritten + (0 if last_byte in (b"\n", b"") else 1)
        if batch.first < split < batch.end:
            cursor.batch = batch.lines(batch.first, split)
            self._waiting.insert(1, _BatchCursor(batch.lines(split, batch.end)))
        if cursor.written_bytes == len(cursor.batch.data):
            self._written.append(self._waiting.popleft())

    def _drop(self, index: int, first: int, end: int) -> tuple[int, int, bytes]:
        """Remove the lines `first` to `end - 1` from an end of the waiting cursor at `index`."""
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
        relevant = relevant_lines(batch.lines(first, end).data)
        self._note_dropped(place, end, relevant)
        return first, end, b"".join(relevant)

    def _note_dropped(self, place: int, number: int, lines: list[bytes]) -> None:
        """Note a gap at `place`: lines up to `number` were dropped, and `lines` are sent instead."""
        if not lines:
            return
        left = self._waiting[place - 1] if place else None
        right = self._waiting[place] if place < len(self._waiting) else None
        if isinstance(left, _Gap) and not left.closed:
            left.join(number, after=lines)
        elif isinstance(right, _Gap) and not right.closed:
            right.join(right.batch.end, before=lines)
        elif digest := Digest(lines).lines():  # empty if only tasks without a unit were dropped
            self._waiting.insert(place, _Gap(number, digest, self._graph_units))
