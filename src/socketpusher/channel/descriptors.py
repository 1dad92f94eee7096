"""File descriptors of this package in a host's process.

A host may close descriptors that it does not know (a daemon closes all of them), and open its own files under the same
numbers. So a `Descriptor` remembers its file, and is neither written nor closed if its number stands for another file.
None of them is 0 to 2, because a host that has closed one of these may open it again.

`write_now` writes without giving up the GIL: beside CPU-bound threads it takes 5 ms and more to get it back. It needs a
non-blocking descriptor.
"""

import os
import select
import socket
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from itertools import starmap
from typing import Any

_libc: Any = None
try:
    import ctypes

    _libc = ctypes.PyDLL(None)
    _write = _libc.write
    _write.argtypes = (ctypes.c_int, ctypes.c_void_p, ctypes.c_size_t)
    _write.restype = ctypes.c_ssize_t
except (ImportError, OSError, AttributeError):  # a Python without libffi, or no loadable C library
    _libc = None

_STAT_BYTES = 512  # more than any struct stat; it begins with the device and the inode
_HAS_FSTAT = _libc is not None and hasattr(_libc, "fstat")  # exported by glibc since 2.33, and by musl


def write_now(fd: int, data: bytes, offset: int = 0) -> Iterator[int]:
    """Prepare a write of `data` from `offset` on to a non-blocking descriptor.

    Returns:
        An iterator of C. It writes when it is asked for its one item: the number of bytes written, or -1 for none. So
        `list.extend` writes and stores the result in one call, which no signal handler can interrupt.
    """
    # `starmap` passes its tuple on. `map` would create one, and before 3.12 that may run the garbage collector.
    if _libc is None:
        return starmap(os.write, ((fd, memoryview(data)[offset:]),))
    start: Any = data if not offset else (ctypes.cast(data, ctypes.c_void_p).value or 0) + offset  # type: ignore[arg-type]
    return starmap(_write, ((fd, start, len(data) - offset),))


def _identity(fd: int) -> object:
    """The file that a descriptor refers to; None if it is closed. Keeps the GIL where possible."""
    if _HAS_FSTAT:
        stat = ctypes.create_string_buffer(_STAT_BYTES)
        return stat.raw[:16] if _libc.fstat(fd, stat) == 0 else None
    try:
        status = os.fstat(fd)
    except OSError:
        return None
    return status.st_dev, status.st_ino


class Descriptor:
    """An open file of this package. It is closed by `close`, or when the object is deleted.

    Args:
        fd: The descriptor; this object owns it from now on.
    """

    __slots__ = ("_fd", "_identity")

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._identity = _identity(fd)

    def fileno(self) -> int:
        """The number; -1 once it is closed."""
        return self._fd

    def intact(self) -> bool:
        """Whether the number still stands for the same file."""
        return self._identity is not None and _identity(self._fd) == self._identity

    def close(self) -> None:
        """Close the file, unless somebody else has closed it. Calling it again does nothing."""
        if self._fd >= 0 and self.intact():
            with suppress(OSError):
                os.close(self._fd)
        self._fd = -1

    __del__ = close


@contextmanager
def above_standard() -> Iterator[None]:
    """In this context, new descriptors are above 2, even if the host has closed 0, 1 or 2."""
    held = []
    try:
        with suppress(OSError):  # no /dev/null, or no descriptor left
            while (fd := os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)) <= 2:
                held.append(fd)
            os.close(fd)
        yield
    finally:
        for fd in held:
            os.close(fd)


def pipe() -> tuple[Descriptor, Descriptor]:
    """Make a pipe with non-blocking ends. Returns the reading and the writing end."""
    reader, writer = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK) if hasattr(os, "pipe2") else os.pipe()
    ends = Descriptor(reader), Descriptor(writer)
    for end in ends:
        os.set_blocking(end.fileno(), False)
    return ends


def wake(end: Descriptor) -> None:
    """Wake the process that polls the other end of a pipe."""
    if end.intact():
        with suppress(OSError):
            list(write_now(end.fileno(), b"w"))


def drain(end: Descriptor) -> bytes | None:
    """Read up to 64 KiB from a pipe. Returns b"" at its end, None if it is empty or somebody else has closed it."""
    buffer = bytearray(65536)
    try:
        return bytes(buffer[: os.readv(end.fileno(), [buffer])]) if end.intact() else None
    except BlockingIOError:  # of `readv`; with eventlet `read` would wait
        return None


def memory_file(content: bytes = b"", size: int = 0) -> Descriptor:
    """Make an anonymous file in memory, which disappears when its last descriptor is closed."""
    if hasattr(os, "memfd_create"):
        file = Descriptor(os.memfd_create("socketpusher"))
    else:
        with tempfile.TemporaryFile() as temporary:
            file = Descriptor(os.dup(temporary.fileno()))
    os.ftruncate(file.fileno(), max(size, len(content)))
    view = memoryview(content)
    while view:
        view = view[os.write(file.fileno(), view) :]
    return file


def read_whole(fd: int) -> bytes:
    """Read a whole file, from its start."""
    size = os.fstat(fd).st_size
    parts: list[bytes] = []
    offset = 0
    while offset < size and (part := os.pread(fd, size - offset, offset)):
        parts.append(part)
        offset += len(part)
    return b"".join(parts)


def process_descriptor(pid: int) -> Descriptor | None:
    """A pidfd, which becomes readable when the process ends; None if the platform has none, or no such process."""
    if not hasattr(os, "pidfd_open"):
        return None
    try:
        with above_standard():
            return Descriptor(os.pidfd_open(pid))
    except OSError:
        return None


def wait(readable: list[int], writable: list[int], seconds: float | None) -> set[int]:
    """Sleep until a descriptor is readable, writable or closed, or for `seconds`. Returns the ready descriptors."""
    timeout = None if seconds is None else max(0.0, seconds)
    if not hasattr(select, "poll"):  # eventlet removes it
        ready = select.select(readable, writable, [], timeout)
        return {*ready[0], *ready[1]}
    poll = select.poll()
    for fd in readable:
        poll.register(fd, select.POLLIN)
    for fd in writable:
        poll.register(fd, select.POLLOUT)
    return {fd for fd, _ in poll.poll(None if timeout is None else timeout * 1000)}


def hung_up(end: Descriptor) -> bool:
    """Whether the other end of a pipe is closed. There may still be data to read."""
    if not hasattr(select, "poll"):
        return False
    poll = select.poll()
    poll.register(end.fileno(), 0)
    return bool(poll.poll(0))


@contextmanager
def borrowed(end: Descriptor, kind: int) -> Iterator[socket.socket]:
    """A descriptor as a socket object, which does not close it: its number may stand for another file then."""
    borrower = socket.socket(socket.AF_UNIX, kind, fileno=end.fileno())
    borrower.setblocking(False)  # otherwise gevent would wait
    try:
        yield borrower
    finally:
        borrower.detach()
