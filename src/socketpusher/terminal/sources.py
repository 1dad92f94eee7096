"""Where events come from: the senders of a socket, a stream of JetStream, a recording."""

import codecs
import gzip
import io
import math
import os
import time
import zlib
from typing import TYPE_CHECKING, Any

from .. import wire
from ..events import Event, EventType
from ..listener.listener import Listener
from ..listener.problems import FrequentProblem, Sender
from ..listener.splitter import LineSplitter
from .view import RunView

if TYPE_CHECKING:
    from ..jetstream.subjects import Source
    from ..jetstream.subscription import Subscription

QUIET_PERIOD, LONGEST_BURST = 0.3, 1.0
"""In seconds: a sender has told where its run stands when it was quiet, or has been connected, for so long."""

MAX_LIVE_SOURCES = 1024
"""Of more sources in a stream whose run has not ended, those that were silent for longest count as disconnected."""

POLL, AT_REST = 0.2, 60.0
"""In seconds: how often a recording is looked at, because the standard library has no inotify; and when one that has
not grown counts as not being written any more."""

_ENDS = frozenset((str(EventType.ORCH_COMPLETED), str(EventType.ORCH_FAILED)))
_CHUNK = 1 << 20
_GZIP = b"\x1f\x8b"


class EventSource:
    """Where a view gets its events from. All times are of `time.monotonic`.

    Args:
        where: What it reads, for people.
        problems: The sentences to report; `watch` takes them out.
    """

    noun, connected, disconnected = "sender", "connected", "no sender"  # what the screen calls its sources
    lasting = False  # whether a source has the same title whenever it connects
    announcement = "listening on"
    remedy = "start a sender"  # what to do if nothing comes

    def __init__(self, where: str, problems: list[str]) -> None:
        self.where = where
        self.problems = problems
        self.readable: Any = None  # is readable when `take` has something to do
        self.due = math.inf  # when `take` has something to do, whatever is readable
        self.told = math.inf  # when it has told where the run stands
        self.alone_since: float | None = time.monotonic()  # since when no sender is connected, or None
        self.behind = False  # whether what comes is the past
        self.pending = 0  # how many events are known to be still to come

    def take(self, view: RunView) -> None:
        """Hand over what has come."""
        raise NotImplementedError

    def finish(self, view: RunView) -> None:
        """Hand over what is left. Called once, at the end."""


class SocketSource(EventSource):
    """The senders that connect to a listener.

    Args:
        listener: What they connect to.
        problems: The list that the listener's problems go to.
    """

    def __init__(self, listener: Listener[Event], problems: list[str]) -> None:
        super().__init__(listener.path, problems)
        self.readable = self._listener = listener
        self._known: set[Sender] = set()
        self._burst_ends = math.inf

    def take(self, view: RunView) -> None:
        """Hand over what one read brings, and which senders have connected and disconnected since."""
        events = self._listener.read()
        sender, connected = self._listener.sender, set(self._listener.senders)
        heard = connected | {sender} if events and sender is not None else connected
        for new in heard - self._known:
            view.source_connected(new, "a sender" if new.pid is None else f"pid {new.pid}")
        for event in events:
            view.feed(sender, event)
        for old in (self._known | heard) - connected:
            view.source_disconnected(old, time.time())
        self._known = connected
        self._note_time(bool(events), bool(view.runs.events))

    def _note_time(self, heard: bool, ever_heard: bool) -> None:
        now = time.monotonic()
        if self._known:
            self.alone_since = None
            self._burst_ends = min(self._burst_ends, now + LONGEST_BURST)
            self.told = min(now + QUIET_PERIOD if heard else self.told, self._burst_ends)
        else:
            self.alone_since = self.alone_since or now
            self._burst_ends = math.inf
            self.told = now if ever_heard else math.inf


class StreamSource(EventSource):
    """The hosts whose events are in a stream.

    Args:
        subscription: What brings the events.
        problems: The list that the subscription's problems go to.
    """

    lasting = True
    announcement = "following"
    remedy = "check that the server can be reached"

    def __init__(self, subscription: "Subscription[Event]", problems: list[str]) -> None:
        super().__init__(subscription.title, problems)
        self.readable = self._subscription = subscription
        self.behind = True
        self._live: dict[Source, None] = {}  # whose run has not ended, the one that was silent for longest first

    def take(self, view: RunView) -> None:
        """Hand over what has come of one source."""
        live = self._live
        for event in self._subscription.read():
            source = self._subscription.source
            assert source is not None  # for there is an event
            if source not in live:
                view.source_connected(source, str(source))
            live.pop(source, None)
            live[source] = None
            view.feed(source, event)
            if event.type in _ENDS:
                del live[source]
                view.source_disconnected(source, event.time.timestamp() if event.time else time.time())
        while len(live) > MAX_LIVE_SOURCES:
            silent = next(iter(live))
            del live[silent]
            view.source_disconnected(silent, time.time())
        self.pending, self.alone_since = self._subscription.pending, self._subscription.silent_since
        if self._subscription.caught_up:
            self.behind, self.told = False, 0.0


class RecordingSource(EventSource):
    """A file of events, such as `socketpusher listen --to` writes, and the older files of its rotation, oldest first.

    Follows it like `tail -F`: to its end, then what is appended, then the file that takes its place.

    Args:
        path: The file. If it is compressed with gzip, it is not followed.

    Raises:
        OSError: It can't be read.
    """

    noun, connected, disconnected = "recording", "following", "nothing new"
    lasting = True
    announcement = "reading"
    remedy = "start what writes it"

    def __init__(self, path: str) -> None:
        super().__init__(path, [])
        self.due = 0.0
        self.alone_since = None
        self.behind = True
        self._splitter = LineSplitter(lambda line: self._skip("it is too long"))
        self._last = 0.0  # the time of the last event, in seconds since the epoch
        self._live = False  # whether the view knows it as connected
        self._damaged = False  # whether it can't be decompressed any further
        names = self._names()
        self._number = len(names) - 1  # of the open file, when it was last found
        self._file: io.BufferedReader | gzip.GzipFile = _opened(names[-1] if self._number else path)

    def take(self, view: RunView) -> None:
        """Hand over the next piece."""
        successor = self._successor()  # before the read: nothing is appended to a file after it was renamed
        data = self._read()
        if data:
            self._feed(view, self._splitter.feed(data))
        elif successor is not None:
            self._switch_to(successor, view)
        else:
            self.behind, self.told, self.due = False, 0.0, time.monotonic() + POLL
            if self._live and time.time() - os.fstat(self._file.fileno()).st_mtime > AT_REST:
                self.finish(view)
                self._live = False
                view.source_disconnected(self, self._last)
            if not self._live:
                self.alone_since = self.alone_since or time.monotonic()
            return
        self.due, self.alone_since = 0.0, None

    def _switch_to(self, successor: str, view: RunView) -> None:
        try:
            file = _opened(successor)
        except FileNotFoundError:  # a rotation is under way
            return
        if self._successor() == successor:  # no rotation while it was opened
            self.finish(view)
            self._file, file = file, self._file
        file.close()

    def finish(self, view: RunView) -> None:
        """Hand over the last line, if it has no newline yet."""
        self._feed(view, self._splitter.feed(b"\n"))

    def _feed(self, view: RunView, lines: list[bytes]) -> None:
        for line in lines:
            try:
                event = wire.decode(line)
            except wire.DecodeError as error:
                if line.strip():
                    self._skip(error)
                continue
            if not self._live:
                self._live = True
                view.source_connected(self, os.path.basename(self.where))
            view.feed(self, event)
            self._last = event.time.timestamp() if event.time else self._last

    def _skip(self, why: object) -> None:
        self.problems.append(FrequentProblem(f"skipped a line in {self.where}: {why}"))

    def _read(self) -> bytes:
        try:
            mark = codecs.BOM_UTF8 if self._file.tell() == 0 else b""
            return b"" if self._damaged else self._file.read1(_CHUNK).removeprefix(mark)
        except (EOFError, gzip.BadGzipFile, zlib.error) as error:
            self._damaged = True
            self.problems.append(f"{self.where} can't be read to its end: {error}")
            return b""

    def _successor(self) -> str | None:
        """The file that follows the open one, if that was renamed or removed."""
        if isinstance(self._file, gzip.GzipFile):
            return None
        here = os.fstat(self._file.fileno())
        names = self._names()
        number = next((number for number, name in enumerate(names) if _is(name, here)), None)
        if number == 0:
            self._number = 0
            return names[0] if here.st_size < self._file.tell() else None  # it was emptied
        if number is None:  # it was removed: if it was rotated, the oldest one follows it
            name = names[-1] if self._number else names[0]
        else:
            self._number = number
            name = names[number - 1]
        return name if os.path.exists(name) else None

    def _names(self) -> list[str]:
        """The file and the older ones, newest first."""
        path = os.path.realpath(self.where)  # a rotation is beside the file, not beside a link to it
        names = [path]
        while os.path.isfile(f"{path}.{len(names)}"):
            names.append(f"{path}.{len(names)}")
        return names

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def _is(path: str, status: os.stat_result) -> bool:
    try:
        return os.path.samestat(os.stat(path), status)
    except FileNotFoundError:
        return False


def _opened(path: str) -> io.BufferedReader | gzip.GzipFile:
    try:
        file = open(path, "rb")  # noqa: SIM115 - closed by the source
    except OSError as error:
        raise OSError(error.errno, f"can't read the recording: {error.strerror}", path) from None
    if os.pread(file.fileno(), 2, 0) != _GZIP:
        return file
    file.close()
    return gzip.GzipFile(path)
