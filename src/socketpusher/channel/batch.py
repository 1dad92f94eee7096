"""Batches of encoded lines, numbered: what goes from the host to the writer and what both keep until it is settled.

Every line that the outbox accepts gets the next number, from 0. A batch is a run of lines with consecutive numbers.
"""

from bisect import bisect_right
from typing import NamedTuple


class Batch(NamedTuple):
    """A run of whole lines: numbers `first` to `end - 1`, joined in `data`."""

    first: int
    end: int
    data: bytes

    def lines(self, first: int, end: int) -> "Batch":
        """The part with the numbers `first` to `end - 1`, both inside the batch."""
        if (first, end) == (self.first, self.end):
            return self
        lines = self.data.split(b"\n")[first - self.first : end - self.first]
        return Batch(first, end, b"".join(line + b"\n" for line in lines))


class Retained:
    """The batches handed to a writer of which not every line is settled: what a new writer must be given if it dies.

    Settled is a line that its consumer has read, as far as can be known, or that was dropped.
    """

    def __init__(self) -> None:
        self._batches: list[Batch] = []  # ascending, without overlap

    def __len__(self) -> int:
        return sum(batch.end - batch.first for batch in self._batches)

    def add(self, batch: Batch) -> None:
        """Keep a batch, with higher numbers than all before."""
        self._batches.append(batch)

    def batches(self) -> list[Batch]:
        """What is kept, in order."""
        return list(self._batches)

    def settle(self, end: int) -> None:
        """Forget every line numbered below `end`. A batch that is settled in part stays whole."""
        self._batches = self._batches[self._index(end) :] if self._batches else self._batches

    def drop(self, first: int, end: int) -> None:
        """Forget the lines numbered `first` to `end - 1`."""
        start = self._index(first)
        stop = start
        kept = []
        while stop < len(self._batches) and self._batches[stop].first < end:
            batch = self._batches[stop]
            if batch.first < first:
                kept.append(batch.lines(batch.first, min(first, batch.end)))
            if end < batch.end:
                kept.append(batch.lines(max(end, batch.first), batch.end))
            stop += 1
        self._batches[start:stop] = kept

    def cut(self, end: int) -> None:
        """Forget every line numbered below `end`, also inside a batch."""
        self.drop(0, end)

    def _index(self, number: int) -> int:
        """The index of the first batch that holds `number` or something above it."""
        return bisect_right(self._batches, number, key=lambda batch: batch.end)
