"""`listen`: everything that senders write to a Unix socket, for a thread or for asyncio.

Two drivers move the bytes: `ThreadDriver` for a thread that sleeps until something arrives, and `AsyncioDriver` on
asyncio's own Unix server. Both read from a sender only after its last bytes were consumed, and leave the rest to the
kernel, which makes the senders of a slow reader wait. Everything else is here, once: decoding, repetitions, problems.
"""

import logging
import os
import types
from collections import deque
from collections.abc import AsyncIterator, Callable, Collection, Iterator
from typing import TYPE_CHECKING, Any, Generic, Literal, TypeVar, overload

from ..config import checked_uids, default_socket_path
from ..events import Event
from ..wire import DecodeError, event_of, is_retained, parse
from .problems import Gap, Problem, Sender, SkippedLine
from .sequences import SequenceTracker
from .socketfile import SocketFile
from .threads import Arrival, SenderRegistry, ThreadDriver

if TYPE_CHECKING:
    from .aio import AsyncioDriver

logger = logging.getLogger("socketpusher")

_T = TypeVar("_T", Event, bytes)


def _log(problem: Problem) -> None:
    logger.warning("%s", problem)


@overload
def listen(
    path: str | os.PathLike[str] | None = None,
    *,
    raw: Literal[False] = False,
    allow_uids: Collection[int] = (),
    on_problem: Callable[[Problem], object] = _log,
) -> "Listener[Event]": ...
@overload
def listen(
    path: str | os.PathLike[str] | None = None,
    *,
    raw: Literal[True],
    allow_uids: Collection[int] = (),
    on_problem: Callable[[Problem], object] = _log,
) -> "Listener[bytes]": ...


def listen(
    path: str | os.PathLike[str] | None = None,
    *,
    raw: bool = False,
    allow_uids: Collection[int] = (),
    on_problem: Callable[[Problem], object] = _log,
) -> "Listener[Any]":
    """Listen on a Unix socket for what senders write, from any number of them.

    The socket file can be used by this user and root only, and a missing directory is created likewise. A socket file
    that nobody listens on any more is replaced.

    Args:
        path: Where to listen; by default `default_socket_path()`.
        raw: Whether to yield the lines of the events, as bytes with their newline, instead of the events.
        allow_uids: Users, besides this process's own and root, that may send. The socket file is open to all then
            (0666), as far as its directory is, and others are hung up on. Their pushers need this user's id in the
            `allow_uids` of their own `PusherConfig`.
        on_problem: Called with a `SkippedLine` for each line that is not an event or is longer than 1,048,576 bytes,
            a `Gap` for numbers that are missing in the ids of the events, and a `RefusedSender` for each sender of
            another user. An exception that it raises comes out of the iteration, which may be continued after the
            line in question. By default a warning is logged.

    Returns:
        An iterator, for `for` and for `async for`, that waits for the next event, and goes on when senders come and go,
        until it is closed.

    Raises:
        OSError: The path is in use (`EADDRINUSE`), is something else than a socket (`ENOTSOCK`), is too long for a
            Unix socket (`ENAMETOOLONG`), or can't be created.
        ValueError: The path is empty or holds a NUL.
        TypeError: `allow_uids` holds something else than ints.

    Example:
        >>> with listen() as events:  # doctest: +SKIP
        ...     for event in events:
        ...         print(event.type, event.unit)
    """
    target = default_socket_path() if path is None else os.fspath(path)
    return Listener(target, raw, checked_uids(allow_uids), on_problem)


class Listener(Generic[_T]):
    """What `listen` returns: an iterator over events or lines, and a context manager that closes it.

    An event that comes twice, told by its id (see `PusherConfig.event_ids`), is yielded once. A line whose sender was
    gone before its newline came is not yielded. Memory is bounded: 64 KiB and the begin of one line a sender.

    Args:
        path: Where to listen.
        raw: Whether to yield lines.
        allow_uids: Who may send, besides this user and root.
        on_problem: Is told of what is not yielded.
    """

    def __init__(
        self, path: str, raw: bool, allow_uids: Collection[int], on_problem: Callable[[Problem], object]
    ) -> None:
        self._path = path
        self._raw = raw
        self._on_problem = on_problem
        self._problems: deque[Problem] = deque(maxlen=1024)  # not yet told of, for the drivers may not raise
        self._sessions = SequenceTracker()
        self._lines: Iterator[bytes] = iter(())  # of the last read, not yet handed out
        self._sender: Sender | None = None  # of these
        self._closed = False
        self._file = SocketFile(path, shared=bool(allow_uids))
        self._registry = SenderRegistry({os.geteuid(), 0, *allow_uids}, self._problems.append)
        self._selecting: ThreadDriver | None = None  # from the first use on, if that is one of a thread
        self._serving: AsyncioDriver | None = None  # the same, if it is one of asyncio

    @property
    def path(self) -> str:
        """Where it listens."""
        return self._path

    @property
    def sender(self) -> Sender | None:
        """Where that came from which was yielded or read last, or None before that."""
        return self._sender

    @property
    def senders(self) -> tuple[Sender, ...]:
        """The connections that are open."""
        return tuple(self._registry.senders)

    def fileno(self) -> int:
        """A descriptor that is readable while `read` would not wait, for a loop that waits for other things too."""
        return self._thread_driver().fileno()

    def read(self, *, hold: bool = False) -> list[_T]:
        """Wait until a sender comes, sends or goes, and return what one read brought, which may be nothing.

        Args:
            hold: Whether what it returns stays in the socket until `release`, which must come before the next `read`.
                If this process is killed before that, the pusher sends it to the next listener, for the kernel says
                that it was not read.
        """
        lines = list(self._lines)
        self._lines = iter(lines)
        if not lines:
            self._receive(self._thread_driver().wait(hold))
        return list(self._decode_pending())

    def release(self) -> None:
        """Let go of what `read` has held: it is dealt with."""
        self._thread_driver().release()

    def __iter__(self) -> Iterator[_T]:
        while not self._closed:
            yield from self._decode_pending()
            if not self._closed:
                self._receive(self._thread_driver().wait())

    def __next__(self) -> _T:
        for item in self:
            return item
        raise StopIteration

    async def __aiter__(self) -> AsyncIterator[_T]:
        while not self._closed:
            for item in self._decode_pending():
                yield item
            if not self._closed:
                self._receive(await (await self._asyncio_driver()).wait())

    def _receive(self, arrival: Arrival | None) -> None:
        if arrival is not None:
            self._sender, lines = arrival
            self._lines = iter(lines)

    def _decode_pending(self) -> Iterator[_T]:
        """What the lines that have come are yielded as. If it is not run to its end, another one goes on."""
        while self._problems:
            self._on_problem(self._problems.popleft())
        raw, is_new = self._raw, self._is_new
        for line in self._lines:
            try:
                wire = parse(line)
                event = event_of(wire)
            except DecodeError as error:
                self._on_problem(SkippedLine(self._current_sender(), str(error), line))
            else:
                if "id" not in wire or is_new(wire["id"], is_retained(wire)):
                    yield line + b"\n" if raw else event  # type: ignore[misc]  # as `listen` promises

    def _is_new(self, id: object, retained: bool) -> bool:
        if not isinstance(id, str):
            return True
        missed = self._sessions.take(id, retained)
        if missed:
            self._on_problem(Gap(self._current_sender(), id.rpartition("-")[0], missed.start, missed.stop - 1))
        return missed is not None

    def _current_sender(self) -> Sender:
        assert self._sender is not None  # there is a line, so somebody has sent it
        return self._sender

    def _thread_driver(self) -> ThreadDriver:
        if self._serving is not None:
            raise RuntimeError(f"the listener at {self._path} belongs to asyncio; use it with async for only")
        if self._selecting is None:
            self._selecting = ThreadDriver(self._file.socket, self._registry)
        return self._selecting

    async def _asyncio_driver(self) -> "AsyncioDriver":
        if self._selecting is not None:
            raise RuntimeError(f"the listener at {self._path} is read without asyncio; make a new one for async for")
        if self._serving is None:
            from .aio import AsyncioDriver

            self._serving = AsyncioDriver(self._registry)
            await self._serving.start(self._file.socket)
        return self._serving

    def close(self) -> None:
        """Stop listening and remove the socket file, unless somebody has put another one in its place.

        What has not been read is lost to this listener; pushers send it to the next one. In asyncio it is called by
        the loop's own thread, before the loop ends.
        """
        if self._closed:
            return
        self._closed = True
        self._lines = iter(())
        self._file.remove()  # before it goes stale, for then another listener may take it over
        for driver in (self._selecting, self._serving):
            if driver is not None:
                driver.close()
        self._file.socket.close()

    def __enter__(self) -> "Listener[_T]":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: types.TracebackType | None,
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<Listener at {self._path}, {'closed' if self._closed else 'open'}>"
