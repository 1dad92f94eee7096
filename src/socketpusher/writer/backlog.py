"""What the writer has to send, as an object that is fed and asked: no sockets, no clocks.

It keeps every line from the moment the host hands it over until the consumer has read it, in two parts:

    batches:   settled and gone | in flight: on the socket, maybe unread | waiting
                                              ^ may be sent again           ^ next to be written

The loop asks `offer()` for the bytes to write next, says with `wrote()` how many the socket took, says with `unread()`
what the kernel knows of the reader, and with `disconnected()` that the connection is gone. Then everything that the
consumer had not read waits again, from the start of its first line: a line is only ever received whole.

Positions are bytes since the start of the connection. Lines have the numbers of `socketpusher.channel.batch`.
"""

from collections import deque
from collections.abc import Iterator

from ..channel.batch import Batch


class _Piece:
    """A batch and where it lies on the connection."""

    __slots__ = ("batch", "done", "lines", "read", "read_lines", "start")

    def __init__(self, batch: Batch) -> None:
        self.batch = batch
        self.start = 0  # the position of its first byte, once writing it has begun
        self.done = 0  # how many of its bytes are written
        self.lines = 0  # how many of its lines are wholly written
        self.read = 0  # how many of its bytes the consumer has read
        self.read_lines = 0  # how many lines end in those

    @property
    def unwritten(self) -> int:
        """The number of its first line that is not wholly written."""
        return self.batch.first + self.lines

    @property
    def end(self) -> int:
        """The position behind its last byte."""
        return self.start + len(self.batch.data)


class Backlog:
    """The lines that wait and the lines in flight.

    Args:
        start: The number of the first line that will be appended, unless it was dropped.
        high_water: The number after the highest line that an earlier writer put on a socket.
    """

    def __init__(self, start: int = 0, high_water: int = 0) -> None:
        self._written: deque[_Piece] = deque()  # wholly written
        self._waiting: deque[_Piece] = deque()  # the first one may be written in part
        self._preface = memoryview(b"")  # what is left to write of the lines that open a connection
        self._position = 0  # bytes written on this connection, its preface included
        self._writes: deque[tuple[int, int]] = deque()  # of writes maybe unread: the position behind, memory taken
        self._memory = 0  # their memory, added up
        self._read = 0  # the position below which the consumer has read everything

        self._gone: list[Batch] = []  # lines that were read or dropped, since `take_gone` was last asked

        self.waiting = 0  # lines not wholly written
        self.waiting_bytes = 0  # their bytes that are not written
        self.received = start  # the number after the last line ever appended
        self.settled = start  # every line below was read or dropped
        self.high_water = high_water  # the number after the highest line ever written
        self.sent = 0  # lines wholly written, less those that were found unread and wait again
        self.resent = 0  # lines wholly written for the second time or more

    def append(self, batch: Batch) -> None:
        """Take a batch over from the host. An empty one says that whatever is missing below its end is settled."""
        if batch.data:
            self._waiting.append(_Piece(batch))
        self.waiting += batch.end - batch.first
        self.waiting_bytes += len(batch.data)
        self.received = batch.end

    @property
    def unsent(self) -> int:
        """The lowest number of a line that is not wholly written."""
        return self._waiting[0].unwritten if self._waiting else self.received

    @property
    def empty(self) -> bool:
        """Whether there is nothing to write."""
        return not self._waiting and not self._preface

    @property
    def in_flight(self) -> bool:
        """Whether something is on the socket that the consumer may not have read."""
        return bool(self._writes)

    def connected(self, preface: bytes) -> None:
        """A new connection: `preface`, whole lines without numbers, goes first."""
        self._preface = memoryview(preface)
        self._position = self._read = self._memory = 0
        self._writes.clear()

    def offer(self, most: int) -> list[memoryview]:
        """The bytes to write next: at least one if not `empty`, at most `most`."""
        buffers = []
        if self._preface:
            buffers.append(self._preface[:most])
            most -= len(buffers[0])
        for piece in self._waiting:
            if most <= 0:
                break
            buffers.append(memoryview(piece.batch.data)[piece.done : piece.done + most])
            most -= len(buffers[-1])
        return buffers

    def wrote(self, count: int, memory: int) -> None:
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
            piece = self._waiting[0]
            if piece.done == 0:
                piece.start = self._position
            part = min(count, len(piece.batch.data) - piece.done)
            self._count_written(piece, piece.batch.data.count(b"\n", piece.done, piece.done + part))
            piece.done += part
            self.waiting_bytes -= part
            self._position += part
            count -= part
            if piece.done == len(piece.batch.data):
                self._written.append(self._waiting.popleft())

    def _count_written(self, piece: _Piece, lines: int) -> None:
        if not lines:
            return
        first = piece.unwritten
        end = first + lines
        piece.lines += lines
        self.waiting -= lines
        self.sent += lines
        self.resent += max(0, min(self.high_water, end) - first)
        self.high_water = max(self.high_water, end)

    def unread(self, memory: int) -> None:
        """The kernel holds this much memory, in bytes, that the consumer has not read; 0 when it has read all.

        A write whose memory may be among it counts as unread as a whole.
        """
        while self._writes and self._memory - self._writes[0][1] >= memory:
            self._read, written = self._writes.popleft()
            self._memory -= written
        while self._written and self._written[0].end <= self._read:
            batch = self._written.popleft().batch
            self.settled = batch.end
            self._gone.append(batch)
        for piece in self._written or self._waiting:
            self._note_read(piece)
            self.settled = max(self.settled, piece.batch.first + piece.read_lines)
            break

    def _note_read(self, piece: _Piece) -> None:
        """Take note of what of a piece was read on this connection."""
        read = min(self._read - piece.start, piece.done)
        if read > piece.read:
            piece.read_lines += piece.batch.data.count(b"\n", piece.read, read)
            piece.read = read

    def disconnected(self, all_read: bool) -> None:
        """The connection is gone.

        Args:
            all_read: Whether the consumer is known to have read every byte; otherwise what the last `unread` left open
                waits again. A line of which it read only a part waits again in any case.
        """
        if all_read:
            self.unread(0)
        self._preface = memoryview(b"")
        if self._waiting:
            self._rewind(self._waiting[0])
        while self._written:
            piece = self._written.pop()
            self._waiting.appendleft(piece)
            self._rewind(piece)

    def _rewind(self, piece: _Piece) -> None:
        """Let everything of a piece wait that the consumer has not read, from the start of a line."""
        self._note_read(piece)
        batch = piece.batch
        first = batch.first + piece.read_lines
        kept_from = batch.data.rfind(b"\n", 0, piece.read) + 1
        again = piece.unwritten - first
        self.sent -= again
        self.waiting += again
        self.waiting_bytes += piece.done - kept_from
        if first > batch.first:
            self._gone.append(Batch(batch.first, first, batch.data[:kept_from]))
        piece.batch = Batch(first, batch.end, batch.data[kept_from:])
        piece.done = piece.lines = piece.read = piece.read_lines = 0

    def take_gone(self) -> list[Batch]:
        """The lines that were read or dropped since the last call; a line read in part is not among them."""
        gone, self._gone = self._gone, []
        return gone

    def drop_newest(self, keep: int) -> Iterator[tuple[int, int]]:
        """Let go of the newest lines until `keep` wait, or 1.

        Yields:
            The numbers `first, end` of a range of lines that is gone, until the caller asks for no more.
        """
        while self.waiting > max(keep, 1):  # the first line may be half on the socket, so it stays
            piece = self._waiting[-1]
            count = min(self.waiting - max(keep, 1), piece.batch.end - piece.unwritten)
            yield self._drop(len(self._waiting) - 1, piece.batch.end - count, piece.batch.end)

    def drop_oldest(self, keep: int) -> Iterator[tuple[int, int]]:
        """Let go of the oldest lines that no byte is written of, until `keep` wait, or 1.

        Yields:
            As `drop_newest`.
        """
        while self.waiting > max(keep, 1):
            self._set_begun_lines_apart()
            index = 1 if self._waiting[0].done else 0
            batch = self._waiting[index].batch
            count = min(self.waiting - max(keep, 1), batch.end - batch.first)
            yield self._drop(index, batch.first, batch.first + count)

    def _set_begun_lines_apart(self) -> None:
        """Split the first waiting piece behind its last line of which something is written."""
        piece = self._waiting[0]
        batch = piece.batch
        begun = piece.unwritten + (0 if batch.data[piece.done - 1 : piece.done] in (b"\n", b"") else 1)
        if batch.first < begun < batch.end:
            piece.batch = batch.lines(batch.first, begun)
            self._waiting.insert(1, _Piece(batch.lines(begun, batch.end)))
        if piece.done == len(piece.batch.data):
            self._written.append(self._waiting.popleft())

    def _drop(self, index: int, first: int, end: int) -> tuple[int, int]:
        """Take the lines `first` to `end - 1`, one end of the waiting piece at `index`, out of it."""
        piece = self._waiting[index]
        batch = piece.batch
        if (first, end) == (batch.first, batch.end):
            del self._waiting[index]
            removed = len(batch.data)
        else:
            piece.batch = batch.lines(batch.first, first) if first > batch.first else batch.lines(end, batch.end)
            removed = len(batch.data) - len(piece.batch.data)
        self._gone.append(batch.lines(first, end))
        self.waiting -= end - first
        self.waiting_bytes -= removed
        return first, end
