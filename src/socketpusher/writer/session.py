"""What one pusher has said, from where it comes in to where its consumer has read it.

    comes in -> backlog -> the socket                              while little waits
    comes in -> tail -> spool -> backlog -> the socket             once something is on the disk

On the disk is everything from the first line that was not read to the last that came. The backlog has the first of it,
as much as may wait in memory; the tail what the disk has not taken yet.
"""

from typing import TYPE_CHECKING, Any

from ..channel.batch import Batch
from ..config import PusherConfig
from .backlog import Backlog
from .preface import STARTED, Preface

if TYPE_CHECKING:
    from .spool import Spool

LOAD_BYTES = 1 << 20
"""How much is read from the disk at once, in bytes, and how little is left of it in memory when more is."""


def open_spool(path: str, graph: Any = None, parallelism: Any = 0) -> "Spool":
    """A `Spool`, whose module is imported here: SQLite takes time and memory."""
    from .spool import Spool

    return Spool(path, graph, parallelism)


class Session:
    """The lines of a pusher, and what a consumer is told before them.

    Args:
        preface: What it is told.
        backlog: What waits in memory.
        spool: What waits on the disk; None for one that has nothing there.
    """

    def __init__(self, preface: Preface, backlog: Backlog, spool: "Spool | None") -> None:
        self.preface = preface
        self.backlog = backlog
        self.spool = spool
        self.tail = Backlog(backlog.received)
        self._observed = b""  # what was read says this of where the run stands, and the disk does not know it yet

    @classmethod
    def of_spool(cls, spool: "Spool", config: PusherConfig) -> "Session":
        """That of a pusher that is gone."""
        preface = Preface(spool.graph, spool.parallelism, config.max_line_bytes)
        preface.recover(spool.observed(), ())
        return cls(preface, Backlog(spool.read, named=preface.named), spool)

    @property
    def spooling(self) -> bool:
        """Whether something is on the disk that was not read."""
        return self.spool is not None and self.backlog.settled < self.spool.end

    @property
    def last(self) -> Backlog:
        """Where what comes in waits."""
        return self.tail if self.spooling else self.backlog

    @property
    def waiting_bytes(self) -> int:
        """What waits in memory, in bytes."""
        return self.backlog.waiting_bytes + self.tail.waiting_bytes

    @property
    def safe(self) -> int:
        """Every line below was read, or dropped, or is on the disk."""
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
    def over(self) -> bool:
        """Whether the consumer has read everything."""
        return self.empty and not self.backlog.in_flight

    def receive(self, batch: Batch) -> int:
        """Take lines over from the host. Returns how many of them an earlier writer has put on the disk already."""
        self._rejoin()
        parts = [batch]
        if self.spool is not None and batch.first < self.spool.end:
            parts = batch.without(0, self.spool.end)
        for part in parts:
            self.last.append(part)
        return batch.end - batch.first - sum(part.end - part.first for part in parts)

    def store(self, keep: int, keep_bytes: int) -> None:
        """Put on the disk what is only in memory, with what is in flight.

        Args:
            keep: While not more lines wait in memory, the backlog has them as well.
            keep_bytes: And not more bytes.

        Raises:
            SpoolError: It can't be done, and nothing is changed.
        """
        assert self.spool is not None
        self._rejoin()
        if not self.spooling:
            before = self.backlog.settled, self.preface.digest()
            self.spool.append(self.backlog.unread(), STARTED, loaded=True, before=before)
            self._observed = b""
            self.tail = Backlog(self.backlog.received, named=self.preface.named)
        elif self.tail.waiting or not self.tail.empty:
            batches = self.tail.unread()
            loaded = self.spool.all_loaded and not self.backlog.is_over(keep, keep_bytes)
            self.spool.append(batches, STARTED, loaded)
            self.tail.take_waiting()
            if loaded:
                self._load(batches)

    def load(self) -> None:
        """Let the backlog have more of what is on the disk, if there is little left in it.

        Raises:
            SpoolError: It can't be read.
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
        """These say where the run stands, and were read."""
        if self.spool is not None:
            self._observed += lines

    def settle(self) -> None:
        """Take off the disk what was read.

        Raises:
            SpoolError: It can't be done; it stays there, and may be sent again to another consumer.
        """
        if self.spool is None:
            return
        self._rejoin()
        if self.spool.read < self.spool.end and (self.spool.read < self.backlog.settled or self._observed):
            self.spool.settle(min(self.backlog.settled, self.spool.end), self._observed)
        self._observed = b""

    def give_up_spool(self) -> None:
        """Go on without the disk."""
        if self.spool is not None:
            self.spool.close()
            self.spool = None
        self._rejoin()

    def _rejoin(self) -> None:
        """What the disk has not taken follows what was there."""
        if not self.spooling:
            self._load(self.tail.unread())
            self.tail.take_waiting()
            self.backlog.received = max(self.backlog.received, self.tail.received)
