"""`listen`: the events that senders write to a Unix socket, for a thread or for asyncio.

A `Receiver` brings the bytes, one read at a time. It has a descriptor that is readable when it has something to do: a
thread waits in it, asyncio waits for that descriptor. What was not read stays in the kernel, which makes the senders of
a slow reader wait. Here are decoding, repetitions, problems and closing.
"""

import logging
import os
import threading
from collections import deque
from collections.abc import AsyncIterator, Callable, Collection, Iterator
from contextlib import contextmanager
from operator import length_hint
from typing import TYPE_CHECKING, Any, Generic, Literal, TypeVar, overload

from ..config import checked_uids, default_socket_path
from ..events import Event
from ..wire import DecodeError, EventId, event_of, is_retained, parse
from .problems import Gap, Problem, ProblemLog, Sender, SkippedLine
from .receiver import Receiver
from .sequences import SequenceTracker
from .socketfile import SocketFile

if TYPE_CHECKING:
    import asyncio

logger = logging.getLogger("socketpusher")

_T = TypeVar("_T", Event, bytes)


@overload
def listen(
    path: str | os.PathLike[str] | None = None,
    *,
    raw: Literal[False] = False,
    allow_uids: Collection[int] = (),
    on_problem: Callable[[Problem], object] | None = None,
) -> "Listener[Event]": ...
@overload
def listen(
    path: str | os.PathLike[str] | None = None,
    *,
    raw: Literal[True],
    allow_uids: Collection[int] = (),
    on_problem: Callable[[Problem], object] | None = None,
) -> "Listener[bytes]": ...


def listen(
    path: str | os.PathLike[str] | None = None,
    *,
    raw: bool = False,
    allow_uids: Collection[int] = (),
    on_problem: Callable[[Problem], object] | None = None,
) -> "Listener[Any]":
    """Listen on a Unix socket for the events of any number of senders.

    Only this user and root can use the socket file, and a missing directory is created with the same restriction. A
    socket file that nobody listens on any more is replaced.

    Args:
        path: Where to listen; by default `default_socket_path()`.
        raw: Whether to yield the line of each event, as bytes with its newline, instead of the event.
        allow_uids: Users who may send, besides this process's own user and root. The mode of the socket file is 0666
            then, so its directory decides who can connect; the listener disconnects other users. The pushers of these
            users need this process's user in the `allow_uids` of their `PusherConfig`.
        on_problem: Called with a `SkippedLine` for each line that is not an event, is longer than 1,048,576 bytes, or
            lacks its end because the sender disconnected; with a `Gap` if numbers are missing in the ids of the
            events; and with a `RefusedSender` for each sender of another user. If it raises, the exception comes out
            of the iteration, which can be continued after that line. By default a warning is logged for the first of
            many problems in a row, and another one that counts the rest.

    Returns:
        An iterator for `for` and `async for`. It waits for the next event, and goes on when senders disconnect, until
        it is closed.

    Raises:
        OSError: The path is in use (`EADDRINUSE`), is not a socket (`ENOTSOCK`), is too long for a Unix socket
            (`ENAMETOOLONG`), or can't be created; or another process has locked its directory for 5 s (`ETIMEDOUT`).
        ValueError: The path is empty or contains a NUL.
        TypeError: `allow_uids` contains something else than ints.

    Example:
        >>> with listen() as events:  # doctest: +SKIP
        ...     for event in events:
        ...         print(event.type, event.unit)
    """
    target = default_socket_path() if path is None else os.fspath(path)
    return Listener(target, raw, checked_uids(allow_uids), on_problem or ProblemLog(logger.warning))


class Listener(Generic[_T]):
    """What `listen` returns: an iterator over events or lines, and a context manager that closes it.

    Events that arrive again, as their ids show (see `PusherConfig.event_ids`), are yielded once. A listener needs at
    most 64 KiB of memory, and one unfinished line per sender. Only one thread may iterate or read at a time.

    Args:
        path: Where to listen.
        raw: Whether to yield lines.
        allow_uids: Who may send, besides this user and root.
        on_problem: Called with each problem. A `ProblemLog` is also asked to report the end of each episode.
    """

    def __init__(
        self, path: str, raw: bool, allow_uids: Collection[int], on_problem: Callable[[Problem], object]
    ) -> None:
        self._path = path
        self._raw = raw
        self._on_problem = on_problem
        self._log = on_problem if isinstance(on_problem, ProblemLog) else ProblemLog(str)  # which stays empty
        self._problems: deque[Problem] = deque(maxlen=1024)  # not reported yet; a receiver must not raise
        self._sequences = SequenceTracker()
        self._lines: Iterator[bytes] = iter(())  # what is left of the last read
        self._decoded: deque[_T] = deque()  # what `read` had decoded of it when `on_problem` raised
        self._sender: Sender | None = None  # who sent these lines
        self._closed = False
        self._file = SocketFile(path, shared=bool(allow_uids))
        self._uids = {os.geteuid(), 0, *allow_uids}
        self._receiver: Receiver | None = None  # from the first use on
        self._receiving = threading.Lock()  # held while a thread or a task waits in the receiver
        self._loop: asyncio.AbstractEventLoop | None = None  # the one that the first use was in
        self._turn: asyncio.Lock | None = None  # held by the task of that loop that waits
        self._fileno_used = False

    @property
    def path(self) -> str:
        """Where it listens."""
        return self._path

    @property
    def sender(self) -> Sender | None:
        """The sender of what was yielded or read last; None before the first event."""
        return self._sender

    @property
    def senders(self) -> tuple[Sender, ...]:
        """The open connections."""
        return () if self._closed or self._receiver is None else self._receiver.senders

    def fileno(self) -> int:
        """Return a descriptor that is readable while `read` would not wait, for a select loop of your own."""
        self._check_open()
        self._fileno_used = True
        fd = self._receiver_for().fileno()
        self._show_pending()
        return fd

    def read(self, *, hold: bool = False) -> list[_T]:
        """Wait until a sender connects, sends or disconnects, and return the events of one read, which may be none.

        Args:
            hold: Whether the data stays in the socket until `release`, which must be called before the next read. If
                this process is killed before that, the pusher sends the data to the next listener, because the kernel
                reports it as unread.

        Raises:
            RuntimeError: Another thread iterates or reads, or `release` was not called.
            ValueError: The listener is closed.
        """
        self._check_open()
        self._read_unless_pending(hold)
        items: list[_T] = []
        try:
            items.extend(self._decode_pending())
        except BaseException:  # of `on_problem`, or of a signal handler
            self._decoded.extend(items)
            raise
        return items

    def release(self) -> None:
        """Remove what `read` has held from the socket: it is dealt with.

        Raises:
            ValueError: The listener is closed, so the pusher sends the data again.
        """
        self._check_open()
        with self._alone():
            if not self._closed:
                self._receiver_for().release()

    def __iter__(self) -> Iterator[_T]:
        while not self._closed:
            yield from self._decode_pending() if not self._fileno_used else self._decode_and_show_pending()
            if not self._closed:
                self._read_unless_pending()

    def __next__(self) -> _T:
        for item in self:
            return item
        raise StopIteration

    async def __aiter__(self) -> AsyncIterator[_T]:
        import asyncio  # here, because a program without asyncio should not spend time and memory on it

        self._turn = self._turn or asyncio.Lock()
        while not self._closed:
            for item in self._decode_pending():
                yield item
            async with self._turn:  # another task may iterate, too
                with self._alone():
                    if not self._closed and not self._is_pending():
                        receiver = self._receiver_for(asyncio.get_running_loop())
                        await self._wait_in_loop(receiver)
                        self._receive(receiver, hold=False, timeout=0)
        self.close()  # if another thread has begun to, the loop may end before that thread gets further

    async def _wait_in_loop(self, receiver: Receiver) -> None:
        import asyncio

        loop, woken = asyncio.get_running_loop(), asyncio.Event()
        loop.add_reader(receiver.fileno(), woken.set)
        try:
            async with asyncio.timeout(receiver.limited(self._log.remaining())):
                await woken.wait()
        except TimeoutError:
            pass
        finally:
            loop.remove_reader(receiver.fileno())

    def _read_unless_pending(self, hold: bool = False) -> None:
        with self._alone():
            if not self._closed and not self._is_pending():
                self._receive(self._receiver_for(), hold, self._log.remaining())

    def _receive(self, receiver: Receiver, hold: bool, timeout: float | None) -> None:
        try:
            chunk = receiver.wait(hold, timeout)
        except OSError:
            if not self._closed:
                raise
            return
        if chunk is not None:
            self._sender, lines = chunk
            self._lines = iter(lines)

    def _decode_pending(self) -> Iterator[_T]:
        """Decode the lines of the last read. If this is abandoned, the next call continues with the following line."""
        self._log.end_episode()
        while self._problems:
            self._on_problem(self._problems.popleft())
        while self._decoded:
            yield self._decoded.popleft()
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

    def _decode_and_show_pending(self) -> Iterator[_T]:
        for item in self._decode_pending():
            self._show_pending()
            yield item

    def _is_pending(self) -> bool:
        """Whether something of the last read is left."""
        return bool(self._decoded) or length_hint(self._lines) > 0

    def _show_pending(self) -> None:
        self._receiver_for().set_pending(self._is_pending())

    def _is_new(self, id: object, retained: bool) -> bool:
        event_id = EventId.parse(id)
        if event_id is None:
            return True
        missed = self._sequences.observe(event_id, retained)
        if missed:
            self._on_problem(Gap(self._current_sender(), event_id.session, missed.start, missed.stop - 1))
        return missed is not None

    def _current_sender(self) -> Sender:
        assert self._sender is not None  # somebody has sent the line
        return self._sender

    def _check_open(self) -> None:
        if self._closed:
            raise ValueError(f"can't read from {self._path}: the listener is closed; make a new one with listen()")

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Keep other threads out of the receiver, and close it at the end if `close` was called meanwhile."""
        taken: list[bool] = []  # one call of C acquires the lock and notes it here, whatever a signal handler raises
        try:
            taken.extend(map(self._receiving.acquire, (False,)))
            if True not in taken and not self._closed:  # the receiver of a closed one is not used any more
                why = "only one may do so at a time"
                raise RuntimeError(f"another thread reads from the listener at {self._path}; {why}")
            yield
        finally:
            if True in taken:
                self._receiving.release()
            if self._closed:
                self._close_receiver()

    def _receiver_for(self, loop: "asyncio.AbstractEventLoop | None" = None) -> Receiver:
        """Return the receiver for a loop, or for a thread without one; it was first used there, or never."""
        if self._receiver is None:
            self._receiver, self._loop = Receiver(self._file.socket, self._uids, self._problems.append), loop
        if loop is self._loop:
            return self._receiver
        if loop is None:
            raise RuntimeError(f"the listener at {self._path} belongs to asyncio; use it with async for only")
        if self._loop is None:
            raise RuntimeError(f"the listener at {self._path} is read without asyncio; make a new one for async for")
        raise RuntimeError("a listener serves the event loop that it was first used in; make a new one")

    def close(self) -> None:
        """Stop listening and remove the socket file, unless another one has taken its place.

        The iteration ends, also if another thread or a signal handler calls this. What was not read is lost to this
        listener; pushers send it to the next one. In asyncio, close the listener before the loop ends.

        Raises:
            OSError: The socket file can't be removed. The listener is closed all the same.
        """
        self._closed = True
        deque(self._lines, maxlen=0)  # so that an iteration that has begun ends
        try:
            self._file.remove()  # before nobody listens on it, or the next listener might take it over
        finally:
            self._file.wake()
            self._close_receiver()
            self._log.end_episode(at_once=True)

    def _close_receiver(self) -> None:
        if not self._receiving.locked():  # else whoever holds it comes here when it has woken up
            with self._receiving:
                if self._receiver is not None:
                    self._receiver.close()
                self._file.socket.close()

    def __enter__(self) -> "Listener[_T]":
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<Listener at {self._path}, {'closed' if self._closed else 'open'}>"
