"""The minimal consumer: everything that senders write to a Unix socket, in one thread that sleeps until it comes.

Two things are not obvious. The socket file must at no moment be open to other users, so its mode is set before it
exists (`_bind`). And two listeners that start at once may not take each other's socket for a stale one, so whoever
looks at a path and binds it holds a lock on the directory meanwhile (`_locked`).
"""

import errno
import fcntl
import logging
import os
import selectors
import socket
import stat
import sys
import types
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Generic, Literal, TypeVar, overload

from ..config import MAX_LINE_BYTES, SUN_PATH_MAX, default_socket_path
from ..events import Event
from ..wire import DecodeError, decode

logger = logging.getLogger("socketpusher")

READ_BYTES = 256 << 10
"""How much one read takes from a sender at most; what it brings is handed out before the next one."""

_ADVICE = {
    errno.EADDRINUSE: "end the process that listens there, or choose another path",
    errno.ENOTSOCK: "remove it if it is not needed, or choose another path",
    errno.EACCES: "choose a path in a directory that this user may write to",
    errno.EROFS: "choose a path on a file system that can be written to",
    errno.ENOENT: "create the directory, or choose another path",
    errno.EEXIST: "a part of the path is not a directory; choose another path",
    errno.ENOTDIR: "a part of the path is not a directory; choose another path",
    errno.ENAMETOOLONG: "choose a shorter path, or one relative to the working directory",
}

_T = TypeVar("_T", bound=Event | bytes)


@overload
def listen(path: str | os.PathLike[str] | None = None, *, raw: Literal[False] = False) -> "Listener[Event]": ...
@overload
def listen(path: str | os.PathLike[str] | None = None, *, raw: Literal[True]) -> "Listener[bytes]": ...


def listen(path: str | os.PathLike[str] | None = None, *, raw: bool = False) -> "Listener[Any]":
    """Listen on a Unix socket for what senders write, from any number of them.

    The socket file can be used by this user only, and a missing directory is created likewise. A socket file that
    nobody listens on any more is replaced.

    Args:
        path: Where to listen; by default `default_socket_path()`.
        raw: Whether to yield lines as bytes, with their newline, instead of events.

    Returns:
        An iterator that waits for the next event, and goes on when senders come and go, until it is closed.

    Raises:
        OSError: The path is in use (`EADDRINUSE`), is something else than a socket (`ENOTSOCK`), is too long for a
            Unix socket (`ENAMETOOLONG`), or can't be created.
        ValueError: The path is empty or holds a NUL.

    Example:
        >>> with listen() as events:  # doctest: +SKIP
        ...     for event in events:
        ...         print(event.type, event.unit)
    """
    target = default_socket_path() if path is None else os.fspath(path)
    return Listener(target, _with_newline) if raw else Listener(target, decode)


class Listener(Generic[_T]):
    """What `listen` returns: an iterator over events or lines, and a context manager that closes it.

    A line that is not an event, or is longer than 1,048,576 bytes, is skipped with a warning in the log. A line whose
    sender was gone before its newline came is not yielded.

    Args:
        path: Where to listen.
        convert: Makes of a line, without its newline, what is yielded.
    """

    def __init__(self, path: str, convert: Callable[[bytes], _T]) -> None:
        self._path = path
        self._convert = convert
        self._lines: Iterator[bytes] = iter(())  # of the last read, not yet handed out
        self._ready: Iterator[tuple[selectors.SelectorKey, int]] = iter(())  # of the last wait, not yet looked at
        self._closed = False
        self._file = os.path.abspath(path)  # what `close` removes, also from another working directory
        self._selector = selectors.DefaultSelector()  # a sender is registered with its `Lines` as data
        try:
            self._socket, self._identity = _listening_socket(path)
        except BaseException:
            self._selector.close()
            raise
        self._selector.register(self._socket, selectors.EVENT_READ)

    @property
    def path(self) -> str:
        """Where it listens."""
        return self._path

    def fileno(self) -> int:
        """A descriptor that is readable while `read` would not wait, for a loop that waits for other things too."""
        return self._selector.fileno()  # epoll and kqueue have one

    def read(self) -> list[_T]:
        """Wait until a sender comes, sends or goes, and return what one read brought, which may be nothing."""
        items = []
        for line in list(self._lines) or self._read():
            try:
                items.append(self._convert(line))
            except DecodeError as error:
                self._skip(error)
        return items

    def __iter__(self) -> "Listener[_T]":
        return self

    def __next__(self) -> _T:
        while not self._closed:
            for line in self._lines:
                try:
                    return self._convert(line)
                except DecodeError as error:
                    self._skip(error)
            self._lines = iter(self._read())
        raise StopIteration

    def _skip(self, error: DecodeError) -> None:
        logger.warning("skipped what a sender at %s wrote: %s", self._path, error)

    def _read(self) -> list[bytes]:
        for key, _ in self._ready:
            if key.data is None:
                self._accept()
            else:
                return self._receive(key)
        self._ready = iter(self._selector.select())
        return []

    def _accept(self) -> None:
        try:
            sender, _ = self._socket.accept()
        except (BlockingIOError, ConnectionAbortedError):
            return  # it is gone already
        sender.setblocking(False)
        self._selector.register(sender, selectors.EVENT_READ, Lines(self._path))

    def _receive(self, key: selectors.SelectorKey) -> list[bytes]:
        sender: socket.socket = key.fileobj  # type: ignore[assignment]
        lines: Lines = key.data
        try:
            data = sender.recv(READ_BYTES)
        except BlockingIOError:
            return []
        except OSError as error:
            logger.debug("lost a sender at %s: %s", self._path, error)
            data = b""
        if not data:
            self._selector.unregister(sender)
            sender.close()
        return lines.feed(data)

    def close(self) -> None:
        """Stop listening and remove the socket file, unless somebody has put another one in its place."""
        if self._closed:
            return
        self._closed = True
        self._lines = iter(())
        _remove(self._file, self._identity)  # before it goes stale, for then another listener may take it over
        for key in list(self._selector.get_map().values()):
            key.fileobj.close()  # type: ignore[union-attr]
        self._selector.close()

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


class Lines:
    """Cuts what one sender sends into lines. It holds one line at most, and none over 1,048,576 bytes.

    Args:
        path: Where the sender sends it, for the log.
    """

    def __init__(self, path: str) -> None:
        self._path = path
        self._begun = bytearray()  # the line whose newline has not come
        self._skipping = False  # whether that line is too long

    def feed(self, data: bytes) -> list[bytes]:
        """The lines that `data` completes, without their newlines."""
        first, *lines = data.split(b"\n")
        self._continue(first)
        if lines:
            completed = [] if self._skipping else [bytes(self._begun)]
            self._begun.clear()
            self._skipping = False
            self._continue(lines.pop())
            lines[:0] = completed
        return lines

    def _continue(self, data: bytes) -> None:
        if self._skipping:
            return
        self._begun += data
        if len(self._begun) >= MAX_LINE_BYTES:  # its newline counts too
            logger.warning("skipped a line of a sender at %s, for it is over %d bytes", self._path, MAX_LINE_BYTES)
            self._skipping = True
            self._begun.clear()


def _with_newline(line: bytes) -> bytes:
    return line + b"\n"


def _listening_socket(path: str) -> tuple[socket.socket, tuple[int, int]]:
    """A socket that listens at `path`, and what tells its file from another one at the same path."""
    if not path or "\0" in path:
        raise ValueError(f"can't listen at {path!r}, which names no file; leave it out for {default_socket_path()}")
    listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        listening.setblocking(False)
        size = len(os.fsencode(path))
        if size > SUN_PATH_MAX:
            raise OSError(errno.ENAMETOOLONG, f"the path has {size} bytes, a Unix socket takes {SUN_PATH_MAX}")
        directory = os.path.dirname(path) or os.curdir
        if not os.path.isdir(directory):
            os.makedirs(directory, 0o700, exist_ok=True)
        with _locked(directory):
            _remove_stale(path)
            _bind(listening, path)
            listening.listen(socket.SOMAXCONN)
            return listening, _identity(os.lstat(path))
    except OSError as error:
        listening.close()
        raise _explained(error, path) from None
    except BaseException:
        listening.close()
        raise


@contextmanager
def _locked(directory: str) -> Iterator[None]:
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        yield
    finally:
        os.close(fd)


def _remove_stale(path: str) -> None:
    """Make room at `path`, or raise the `OSError` that says why there can be none."""
    try:
        found = os.lstat(path)
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(found.st_mode):
        raise OSError(errno.ENOTSOCK, "there is something that is not a socket")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)
        try:
            probe.connect(path)
        except ConnectionRefusedError:
            _remove(path, _identity(found))
            return
        except FileNotFoundError:
            return  # its listener has just closed
        except PermissionError:
            raise
        except OSError:
            pass  # its queue is full, or it is of another type: somebody listens
    raise OSError(errno.EADDRINUSE, "somebody listens there already")


def _bind(listening: socket.socket, path: str) -> None:
    """Bind with a file that has mode 0600 from its first moment on."""
    if sys.platform == "linux":
        # bind gives the file the mode of the socket's own inode (unix_bind in net/unix/af_unix.c).
        os.fchmod(listening.fileno(), 0o600)
        listening.bind(path)
        return
    # The umask is the whole process's: what another thread creates at this moment is narrower than it expects.
    umask = os.umask(0o177)
    try:
        listening.bind(path)
    finally:
        os.umask(umask)


def _identity(status: os.stat_result) -> tuple[int, int]:
    return status.st_dev, status.st_ino


def _remove(path: str, identity: tuple[int, int]) -> None:
    try:
        if _identity(os.lstat(path)) == identity:
            os.unlink(path)
    except FileNotFoundError:
        pass  # somebody has removed it already


def _explained(error: OSError, path: str) -> OSError:
    """The same error, saying what was tried, on what, why it failed and what to do."""
    code = error.errno or errno.EIO
    advice = _ADVICE.get(code)
    return OSError(code, f"can't listen: {error.strerror}" + (f"; {advice}" if advice else ""), path)
