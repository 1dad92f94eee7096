"""The lines of one pusher, from their arrival until the consumer has read them.

    queue -> backlog -> socket                              while little waits
    queue -> tail -> spool -> backlog -> socket             once something is on disk

The disk has every line from the first unread one on, except those that it has not taken yet, which are in the tail. The
backlog has the first of the lines on disk, as many as may wait in memory.
"""

from typing import TYPE_CHECKING, Any

from ..channel.batch import Batch
from ..config import PusherConfig
from .backlog import Backlog
from .preface import STARTED, Preface

if TYPE_CHECKING:
    from .spool import Spool

LOAD_BYTES = 1 << 20
"""How much is read from disk at once, in bytes. More is read when less than this waits in memory."""


def open_spool(path: str, graph: Any = None, parallelism: Any = 0) -> "Spool":
    """Open a `Spool`. The module is imported here, because SQLite takes time and memory."""
    from .spool import Spool

    return Spool(path, graph, parallelism)


class Session:
    """The lines of a pusher, and the preface that a consumer gets before them.

    Args:
        preface: The preface.
        backlog: The lines in memory.
        spool: The lines on disk; None if there are none.
    """

    def __init__(self, preface: Preface, backlog: Backlog, spool: "Spool | None") -> None:
        self.preface = preface
        self.backlog = backlog
        self.spool = spool
        self.tail = Backlog(backlog.received)
        self._observed = b""  # lines that were read and change the state of the run, not yet noted on disk

    @classmethod
    def of_spool(cls, spool: "Spool", config: PusherConfig) -> "Session":
        """The session of an earlier pusher."""
        preface = Preface(spool.graph, spool.parallelism, config.max_line_bytes)
        preface.recover(spool.observed(), ())
        return cls(preface, Backlog(spool.read, graph_units=preface.graph_units), spool)

    @property
    def spooling(self) -> bool:
        """Whether unread lines are on disk."""
        return self.spool is not None and self.backlog.settled < self.spool.end

    @property
    def intake(self) -> Backlog:
        """Where new lines wait."""
        return self.tail if self.spooling else self.backlog

    @property
    def waiting_bytes(self) -> int:
        """The size of the lines that wait in memory, in bytes."""
        return self.backlog.waiting_bytes + self.tail.waiting_bytes

    @property
    def safe(self) -> int:
        """Every line below this number was read, or dropped, or is on disk."""
        if self.spool is None or not self.spooling:
            return self.backlog.settled
        return self.tail.received if self.tail.empty else self.spool.end

    @property
    def unsent(self) -> int:
        """The lowest number of a line that is not on the socket."""
        if self.spool is None or not self.spooling or self.backlog.waiting or not self.spool.all_loaded:
            return self.backlog.unsent
        return self.tail.unsent

    @property
    def empty(self) -> bool:
        """Whether there is nothing to write."""
        return self.backlog.empty and (self.spool is None or self.spool.all_loaded) and not self.tail.waiting

    @property
    def finished(self) -> bool:
        """Whether the consumer has read everything."""
        return self.empty and not self.backlog.in_flight

    def receive(self, batch: Batch) -> int:
        """Add lines from the host. Returns how many of them an earlier writer has put on disk already."""
        self._rejoin()
        parts = [batch]
        if self.spool is not None and batch.first < self.spool.end:
            parts = batch.without(0, self.spool.end)
        for part in parts:
            self.intake.append(part)
        return batch.end - batch.first - sum(part.end - part.first for part in parts)

    def store(self, keep: int, keep_bytes: int) -> None:
        """Put on disk the lines that are only in memory, including those in flight.

        Args:
            keep: If no more lines than this wait in memory, the backlog keeps them as well.
            keep_bytes: The same limit in bytes.

        Raises:
            SpoolError: They can't be stored; then nothing is changed.
        """
        assert self.spool is not None
        self._rejoin()
        if not self.spooling:
            before = self.backlog.settled, self.preface.digest()
            self.spool.append(self.backlog.unread(), STARTED, loaded=True, before=before)
            self._observed = b""
            self.tail = Backlog(self.backlog.received, graph_units=self.preface.graph_units)
            self.tail.expect_gaps_of(self.backlog)
        elif self.tail.waiting or not self.tail.empty:
            batches = self.tail.unread()
            loaded = self.spool.all_loaded and not self.backlog.exceeds(keep, keep_bytes)
            self.spool.append(batches, STARTED, loaded)
            self.tail.discard_waiting()
            if loaded:
                self._load(batches)

    def load(self) -> None:
        """Load more lines from disk into the backlog, if few are left in it.

        Raises:
            SpoolError: The disk can't be read.
        """
        if self.spool is not None and not self.spool.all_loaded and self.backlog.waiting_bytes < LOAD_BYTES:
            self._load(self.spool.load(LOAD_BYTES))

    def _load(self, batches: list[Batch]) -> None:
        for batch in batches:
            if batch.first < batch.end:
                self.backlog.append(batch)
            else:
                self.backlog.append_gap(batch.end, batch.data)

    def observe(self, lines: bytes) -> None:
        """Note lines that were read and change the state of the run."""
        if self.spool is not None:
            self._observed += lines

    def settle(self) -> None:
        """Remove the lines that were read from disk.

        Raises:
            SpoolError: They can't be removed; they may be sent again to another consumer.
        """
        if self.spool is None:
            return
        self._rejoin()
        if self.spool.read < self.spool.end and (self.spool.read < self.backlog.settled or self._observed):
            self.spool.settle(min(self.backlog.settled, self.spool.end), self._observed)
        self._observed = b""

    def give_up_spool(self) -> None:
        """Close the spool and go on without it."""
        if self.spool is not None:
            self.spool.close()
            self.spool = None
        self._rejoin()

    def _rejoin(self) -> None:
        """Move the tail into the backlog when no unread lines are on disk."""
        if not self.spooling:
            self._load(self.tail.unread())
            self.backlog.expect_gaps_of(self.tail)
            self.tail.discard_waiting()
            self.backlog.received = max(self.backlog.received, self.tail.received)
