"""Batches of numbered lines, which the host sends to the writer. Both keep them until they are settled.

Every line that the outbox accepts gets the next number, from 0. A batch is a range of lines with consecutive numbers. A
line is settled (AMQP's word) when its consumer has read it, as far as the kernel shows, or when it was dropped.
"""

from collections.abc import Iterator
from itertools import islice
from typing import NamedTuple

SPARSE_BYTES = 4096
"""If lines are longer than this on average, in bytes, searching from newline to newline is faster than counting: 40 and
250 microseconds for a megabyte."""


def whole_lines(data: bytes) -> list[bytes]:
    """Split data into lines, with their newlines."""
    return [line + b"\n" for line in data.split(b"\n")[:-1]]


class Batch(NamedTuple):
    """Whole lines with the numbers `first` to `end - 1`, joined in `data`."""

    first: int
    end: int
    data: bytes

    def count_lines(self, start: int, stop: int) -> int:
        """How many lines end in the bytes from `start` to `stop`."""
        if self._is_sparse():
            return sum(1 for _ in self._line_ends(start, stop))
        return self.data.count(b"\n", start, stop)

    def has_line(self, prefix: bytes) -> bool:
        """Whether a line begins with `prefix`."""
        if self.data.startswith(prefix):
            return True
        if self._is_sparse():
            return any(self.data.startswith(prefix, end) for end in self._line_ends(0, len(self.data)))
        return b"\n" + prefix in self.data

    def _is_sparse(self) -> bool:
        return len(self.data) > SPARSE_BYTES * (self.end - self.first)

    def _line_ends(self, start: int, stop: int) -> Iterator[int]:
        while end := self.data.find(b"\n", start, stop) + 1:
            yield end
            start = end

    def lines(self, first: int, end: int) -> "Batch":
        """The lines `first` to `end - 1`, which must be in the batch."""
        if (first, end) == (self.first, self.end):
            return self
        return Batch(first, end, bytes(self.data[self._start_of(first) : self._start_of(end)]))

    def sizes(self, backwards: bool = False) -> Iterator[int]:
        """The sizes of the lines in bytes, from the first or from the last one on."""
        at, data = (len(self.data) if backwards else 0), self.data
        for _ in range(self.end - self.first):
            other = data.rfind(b"\n", 0, at - 1) + 1 if backwards else data.find(b"\n", at) + 1
            yield abs(other - at)
            at = other

    def _start_of(self, number: int) -> int:
        """Where a line begins, in bytes. The last lines are found from the end."""
        before, after = number - self.first, self.end - number
        if before <= after:
            return sum(islice(self.sizes(), before))
        return len(self.data) - sum(islice(self.sizes(backwards=True), after))

    def without(self, first: int, end: int) -> "list[Batch]":
        """The batch without the lines `first` to `end - 1`: zero, one or two batches."""
        parts = []
        if self.first < first:
            parts.append(self.lines(self.first, min(first, self.end)))
        if end < self.end:
            parts.append(self.lines(max(end, self.first), self.end))
        return parts
