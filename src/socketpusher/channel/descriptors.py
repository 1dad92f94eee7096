"""Descriptors that are ours in a process that is not.

A host closes descriptors that it does not know (a daemon closes them all), and opens files of its own on the same
numbers. So every descriptor of ours remembers which file it is, and is neither written nor closed when it is another.
None is 0 to 2, for whatever a host has closed there it may open again.

`write_now` writes without giving up the GIL: beside CPU-bound threads it takes 5 ms and more to get it back. Only a
descriptor that does not block may be written so.
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
except (ImportError, OSError, AttributeError):  # built without libffi, or without a C library that can be asked
    _libc = None

_STAT_BYTES = 512  # more than any struct stat; it begins with the device and the inode
_HAS_FSTAT = _libc is not None and hasattr(_libc, "fstat")  # exported by glibc since 2.33, and by musl


def write_now(fd: int, data: bytes, offset: int = 0) -> Iterator[int]:
    """A write of `data` from `offset` on, to a descriptor that does not block.

    Returns:
        An iterator of C. It writes when it is asked for its one item: how many bytes were taken, or -1 for none. So
        `list.extend` writes and takes note of it in one call, in which no signal handler can come.
    """
    # `starmap` hands its tuple on. `map` would make one, and then the garbage collector may run finalizers before 3.12.
    if _libc is None:
        return starmap(os.write, ((fd, memoryview(data)[offset:]),))
    start: Any = data if not offset else (ctypes.cast(data, ctypes.c_void_p).value or 0) + offset  # type: ignore[arg-type]
    return starmap(_write, ((fd, start, len(data) - offset),))


def _identity(fd: int) -> object:
    """Which file a descriptor refers to; None if it is closed. Without giving up the GIL where that is possible."""
    if _HAS_FSTAT:
        stat = ctypes.create_string_buffer(_STAT_BYTES)
        return stat.raw[:16] if _libc.fstat(fd, stat) == 0 else None
    try:
        status = os.fstat(fd)
    except OSError:
        return None
    return status.st_dev, status.st_ino


class Descriptor:
    """An open file of ours. It is closed by `close`, or when nobody refers to it any more.

    Args:
        fd: The descriptor, which is given away.
    """

    __slots__ = ("_fd", "_identity")

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._identity = _identity(fd)

    def fileno(self) -> int:
        """The number; -1 once it is closed."""
        return self._fd

    def intact(self) -> bool:
        """Whether the number still stands for the file that it stood for."""
        return self._identity is not None and _identity(self._fd) == self._identity

    def close(self) -> None:
        """Close the file, unless somebody else has. Calling it again does nothing."""
        if self._fd >= 0 and self.intact():
            with suppress(OSError):
                os.close(self._fd)
        self._fd = -1

    __del__ = close


@contextmanager
def above_standard() -> Iterator[None]:
    """Descriptors that are made here are above 2, whatever the host has closed."""
    held = []
    try:
        with suppress(OSError):  # there is no /dev/null, or no descriptor left
            while (fd := os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)) <= 2:
                held.append(fd)
            os.close(fd)
        yield
    finally:
        for fd in held:
            os.close(fd)


def pipe() -> tuple[Descriptor, Descriptor]:
    """A pipe of which neither end blocks: what is read, and what is written."""
    reader, writer = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK) if hasattr(os, "pipe2") else os.pipe()
    ends = Descriptor(reader), Descriptor(writer)
    for end in ends:
        os.set_blocking(end.fileno(), False)
    return ends


def wake(end: Descriptor) -> None:
    """Wake whoever polls the other end of a pipe."""
    if end.intact():
        with suppress(OSError):
            list(write_now(end.fileno(), b"w"))


def drain(end: Descriptor) -> bytes | None:
    """What a pipe holds, up to 64 KiB; b"" at its end; None if it is empty, or was closed by somebody else."""
    buffer = bytearray(65536)
    try:
        return bytes(buffer[: os.readv(end.fileno(), [buffer])]) if end.intact() else None
    except BlockingIOError:  # of `readv`, for eventlet makes `read` wait
        return None


def memory_file(content: bytes = b"", size: int = 0) -> Descriptor:
    """A file in memory that has no name: nothing of it is left when its last user is gone."""
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
    """Everything in a file, from its start."""
    size = os.fstat(fd).st_size
    parts: list[bytes] = []
    offset = 0
    while offset < size and (part := os.pread(fd, size - offset, offset)):
        parts.append(part)
        offset += len(part)
    return b"".join(parts)


def process_descriptor(pid: int) -> Descriptor | None:
    """What becomes readable when the process ends; None where there is no such thing, or no such process."""
    if not hasattr(os, "pidfd_open"):
        return None
    try:
        with above_standard():
            return Descriptor(os.pidfd_open(pid))
    except OSError:
        return None


def wait(readable: list[int], writable: list[int], seconds: float | None) -> set[int]:
    """Sleep until one of the descriptors can be read or written, is closed, or so many seconds have passed."""
    timeout = None if seconds is None else max(0.0, seconds)
    if not hasattr(select, "poll"):  # eventlet takes it away
        ready = select.select(readable, writable, [], timeout)
        return {*ready[0], *ready[1]}
    poll = select.poll()
    for fd in readable:
        poll.register(fd, select.POLLIN)
    for fd in writable:
        poll.register(fd, select.POLLOUT)
    return {fd for fd, _ in poll.poll(None if timeout is None else timeout * 1000)}


def hung_up(end: Descriptor) -> bool:
    """Whether nobody has the other end of a pipe any more, though there may be something to read."""
    if not hasattr(select, "poll"):
        return False
    poll = select.poll()
    poll.register(end.fileno(), 0)
    return bool(poll.poll(0))


@contextmanager
def borrowed(end: Descriptor, kind: int) -> Iterator[socket.socket]:
    """A descriptor as a Unix socket, for as long as the block: a socket object would close whatever has its number."""
    borrower = socket.socket(socket.AF_UNIX, kind, fileno=end.fileno())
    borrower.setblocking(False)  # gevent would wait by itself
    try:
        yield borrower
    finally:
        borrower.detach()
