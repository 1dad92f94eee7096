"""The lines of one pusher on disk, in a SQLite database, from the first unread line on.

Rows are batches, in order. Rows before `_next`, where `load` continues, are in the backlog as well. A row without
numbers has the lines that are sent in the place of dropped ones. `observed` has the lines that give the state of the
run before the first row, so that another process knows it.

Each change is one transaction, so a process may be killed at any time. SQLite writes ahead (WAL) and syncs at
checkpoints: what was written survives the process, and the database survives a power failure, perhaps without its last
rows. SQLite's lock keeps other processes from reading it.
"""

import json
import os
import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any
from zlib import crc32

from ..channel.batch import Batch, whole_lines
from ..channel.spool_directory import SpoolError
from ..run_state import Digest

CHECKPOINT_PAGES = 4096
"""The size of the log at which it is written into the database, in pages of 4 KiB. Each time costs two syncs."""

LARGEST_ROW = 1 << 20
"""Batches are joined up to this size, in bytes."""

OBSERVED_BYTES = 1 << 20
"""After this many new bytes `observed` is reduced to the lines that still matter."""

_FORMAT = 0x73700002  # "sp", and the version of what follows
_TABLES = """
CREATE TABLE about (graph TEXT, parallelism TEXT, read INTEGER, crc INTEGER);
CREATE TABLE batches (place INTEGER PRIMARY KEY, first INTEGER, "end" INTEGER, starts INTEGER, crc INTEGER, data BLOB);
CREATE TABLE observed (place INTEGER PRIMARY KEY, crc INTEGER, lines BLOB);
"""


def fault_point(step: str) -> None:
    """Called before each step of a change. Tests kill the process here."""


@contextmanager
def _as_spool_errors() -> Iterator[None]:
    try:
        yield
    except (sqlite3.Error, OSError, *_WRONG) as error:
        raise _spool_error(error) from error


# Raised by a value that this module has not written:
_WRONG = (ValueError, TypeError, ArithmeticError, AttributeError, LookupError)


def _row_crc(first: int, end: int, starts: int, data: bytes) -> int:
    return crc32(data, crc32(b"%d %d %d" % (first, end, starts)))


def _damaged(text: str) -> sqlite3.DatabaseError:
    error = sqlite3.DatabaseError(text)
    error.sqlite_errorcode = sqlite3.SQLITE_NOTADB
    return error


def _spool_error(error: Exception) -> SpoolError:
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF
    damaged = isinstance(error, _WRONG) or code in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)
    return SpoolError(str(error), damaged)


class Spool:
    """The open database of one pusher. No other process can read it until it is closed.

    Args:
        path: The path of the database. It is created if it is missing or incomplete.
        graph: For a new database, the payload of the `graph` event, or None.
        parallelism: For a new database, how many units may run at a time.

    Raises:
        SpoolError: It can't be created or read.
    """

    def __init__(self, path: str, graph: Any = None, parallelism: Any = 0) -> None:
        with _as_spool_errors():
            flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
            os.close(os.open(path, flags, 0o600))  # SQLite would create it with the mode of the umask
            # Another program may lock it for long, and meanwhile nothing else is done: whoever opens it tries again.
            self._database = sqlite3.connect(path, isolation_level=None, timeout=0.0)
            try:
                self._open(graph, parallelism)
            except BaseException:
                self._database.close()
                raise

    def _open(self, graph: Any, parallelism: Any) -> None:
        execute = self._database.execute
        execute("PRAGMA locking_mode = EXCLUSIVE")  # so that the log needs no shared memory, which NFS lacks
        execute("PRAGMA journal_mode = WAL")
        execute("PRAGMA synchronous = NORMAL")
        execute(f"PRAGMA wal_autocheckpoint = {CHECKPOINT_PAGES}")
        execute(f"PRAGMA journal_size_limit = {CHECKPOINT_PAGES << 12}")
        ((format_,),) = execute("PRAGMA application_id")
        if format_ == 0 and not execute("SELECT * FROM sqlite_master").fetchall():
            with self._transaction("make"):
                for statement in _TABLES.split(";"):
                    execute(statement)
                given = json.dumps(graph), json.dumps(parallelism)
                self._about_crc = crc32("".join(given).encode())
                execute("INSERT INTO about VALUES (?, ?, 0, ?)", (*given, self._crc_of(0)))
                execute(f"PRAGMA application_id = {_FORMAT}")
        elif format_ != _FORMAT:
            raise _damaged("it is not a spool of this version")
        ((graph, parallelism, self.read, crc),) = execute("SELECT * FROM about")
        self._about_crc = crc32((graph + parallelism).encode())
        if self._crc_of(self.read) != crc:
            raise _damaged("its first table was changed")
        self.graph, self.parallelism = json.loads(graph), json.loads(parallelism)
        first, last, lines, self.end = execute(
            'SELECT min(place), max(place), total("end" - first), max("end") FROM batches'
        ).fetchone()
        self._next = first or 1  # the place of the first row that is not in the backlog
        self._after = (last or 0) + 1
        self.end = max(self.end or 0, self.read)
        partly = execute('SELECT total(? - first) FROM batches WHERE first < ? AND "end" > ?', (self.read,) * 3)
        self.count = int(lines) - int(partly.fetchone()[0])
        odd = execute('SELECT count(*) FROM batches WHERE NOT (0 <= first AND first <= "end" AND "end" < 1 << 60)')
        if self.count < 0 or odd.fetchone() != (0,):
            raise _damaged("its batches have numbers that no pusher gives")
        self.not_loaded = self.count
        self._observed_bytes = 0

    def _crc_of(self, read: int) -> int:
        return crc32(b"%d" % read, self._about_crc)

    @contextmanager
    def _transaction(self, name: str) -> Iterator[None]:
        fault_point(f"{name}: begin")
        self._database.execute("BEGIN IMMEDIATE")
        try:
            yield
            fault_point(f"{name}: commit")
            self._database.execute("COMMIT")
        except BaseException:
            if self._database.in_transaction:
                self._database.execute("ROLLBACK")
            raise
        fault_point(f"{name}: done")

    @property
    def size(self) -> int:
        """The size of the database without its log, in bytes."""
        ((pages,),) = self._database.execute("PRAGMA page_count")
        return int(pages) << 12

    def limit(self, size: int) -> None:
        """Set the largest size of the database, in bytes. Beyond it `append` fails as on a full disk."""
        with _as_spool_errors():
            self._database.execute(f"PRAGMA max_page_count = {max(1, size >> 12)}")

    def append(
        self, batches: Iterable[Batch], starts: bytes, loaded: bool, before: tuple[int, bytes] | None = None
    ) -> None:
        """Append lines.

        Args:
            batches: The lines. A batch whose first and end are the same has the lines that are sent in place of a gap.
            starts: The start of a line that begins a run; `starting` finds these lines.
            loaded: Whether the backlog already has these lines and all before them.
            before: If nothing waits here yet, the number up to which lines were read, and the lines that give the state
                of the run.
        """
        joined = enumerate((batch for batch in _joined(batches) if batch.data), self._after)
        rows = []
        for place, (first, end, data) in joined:
            start = int(Batch(first, end, data).has_line(starts))
            rows.append((place, first, end, start, _row_crc(first, end, start, data), data))
        with _as_spool_errors(), self._transaction("append"):
            execute = self._database.execute
            if before is not None:
                execute("DELETE FROM batches")
                self._set_read(before[0])
                self._replace_observed(before[1])
            self._database.executemany("INSERT INTO batches VALUES (?, ?, ?, ?, ?, ?)", rows)
        if before is not None:
            self.read = self.end = before[0]
            self._next = self._after
            self.count = self.not_loaded = 0
        count = sum(row[2] - row[1] for row in rows)
        self.count += count
        self.end = max([self.end, *(row[2] for row in rows)])
        self._after += len(rows)
        if loaded:
            self._next = self._after
        else:
            self.not_loaded += count

    def load(self, limit: int) -> list[Batch]:
        """The next lines for the backlog: at most `limit` bytes, but at least one row if there is one left."""
        batches: list[Batch] = []
        try:
            rows = self._database.execute("SELECT * FROM batches WHERE place >= ? ORDER BY place", (self._next,))
            for place, first, end, starts, crc, data in rows:
                if _row_crc(first, end, starts, data) != crc:  # SQLite does not check the content
                    raise _damaged("a row was changed")
                if batches and limit < len(data):
                    break
                limit -= len(data)
                batch = Batch(first, end, data)
                if first < self.read:  # its first lines were read
                    batch = batch.lines(self.read, end)
                self._next = place + 1
                self.not_loaded -= batch.end - batch.first
                batches.append(batch)
        except (sqlite3.Error, *_WRONG) as error:
            if not batches:  # otherwise the next call raises it
                raise _spool_error(error) from error
        return batches

    @property
    def all_loaded(self) -> bool:
        """Whether the backlog has all rows."""
        return self._next >= self._after

    def settle(self, read: int, observed: bytes = b"") -> None:
        """Remove the lines below `read`, which were read.

        Args:
            read: The number after a line or gap that was loaded.
            observed: Those of them that change the state of the run.
        """
        if read <= self.read and not observed:
            return
        span = {"read": read, "before": self.read, "next": self._next}
        with _as_spool_errors(), self._transaction("settle"):
            execute = self._database.execute
            ((count,),) = execute(
                'SELECT total(min("end", :read) - max(first, :before)) FROM batches '
                'WHERE place < :next AND first < :read AND "end" > :before',
                span,
            )
            execute('DELETE FROM batches WHERE place < :next AND "end" <= :read', span)
            self._set_read(read)
            if self._observed_bytes + len(observed) > OBSERVED_BYTES:
                before = b"".join(self._observed())
                self._replace_observed(b"".join(Digest(whole_lines(before + observed)).lines()))
                self._observed_bytes = 0
            elif observed:
                execute("INSERT INTO observed (crc, lines) VALUES (?, ?)", (crc32(observed), observed))
                self._observed_bytes += len(observed)
        self.read = max(self.read, read)
        self.count -= int(count)

    def observed(self) -> list[bytes]:
        """The lines that give the state of the run before the first row."""
        with _as_spool_errors():
            return self._observed()

    def _observed(self) -> list[bytes]:
        rows = self._database.execute("SELECT crc, lines FROM observed ORDER BY place").fetchall()
        if any(crc32(lines) != crc for crc, lines in rows):
            raise _damaged("a row was changed")
        return [lines for _, lines in rows]

    def _replace_observed(self, lines: bytes) -> None:
        self._database.execute("DELETE FROM observed")
        self._database.execute("INSERT INTO observed (crc, lines) VALUES (?, ?)", (crc32(lines), lines))
        self._observed_bytes = 0

    def _set_read(self, read: int) -> None:
        self._database.execute("UPDATE about SET read = ?, crc = ?", (read, self._crc_of(read)))

    def starting(self) -> Iterator[bytes]:
        """The data of the rows with a line that begins a run."""
        with _as_spool_errors():
            for (data,) in self._database.execute("SELECT data FROM batches WHERE starts ORDER BY place"):
                yield data

    def close(self) -> None:
        """Close the database. Its content stays."""
        self._database.close()


def _joined(batches: Iterable[Batch]) -> Iterator[Batch]:
    """Join batches into fewer and larger ones, because many small rows take longer."""
    joined: list[Batch] = []
    size = 0
    for batch in batches:
        follows = (
            joined and joined[-1].end == batch.first and batch.first < batch.end and joined[0].first < joined[0].end
        )
        if joined and not (follows and size + len(batch.data) <= LARGEST_ROW):
            yield _one(joined)
            joined, size = [], 0
        joined.append(batch)
        size += len(batch.data)
    if joined:
        yield _one(joined)


def _one(batches: list[Batch]) -> Batch:
    if len(batches) == 1:
        return batches[0]
    return Batch(batches[0].first, batches[-1].end, b"".join(batch.data for batch in batches))
