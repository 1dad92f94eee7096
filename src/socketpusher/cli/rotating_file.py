"""A file that lines are appended to, and that makes way for a new one when it is full or moved."""

import errno
import fcntl
import os
import select
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress

LEAVE_TIMEOUT = 1.0
"""How long a rotation waits for another process to see that it must leave the new file, in seconds."""

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class RotatingFile:
    """Appends lines to a file. The file before it is `PATH.1`, the one before that `PATH.2`, and so on.

    No line is split over two files, and no two lines are joined: an incomplete last line, such as a killed process
    leaves, is ended first. A path that is a symbolic link stands for its target. The file is locked, so that no other
    process records to it. A rotation keeps the lock of the file before, now `PATH.1`, until it has that of the new one;
    another process that gets the new one first sees this and leaves.

    Args:
        path: The file.
        max_bytes: A line that would make the file longer goes into a new one; a line that is longer by itself is alone
            in its file.
        keep: How many old files are kept, at least 1.

    Raises:
        OSError: The file can't be opened, is not a regular file, or is in use.
    """

    def __init__(self, path: str, max_bytes: int, keep: int) -> None:
        self._path = os.path.realpath(path)
        self._max_bytes = max_bytes
        self._keep = keep
        self._file = -1
        with explained("record to a file", self._path):
            self._open()
            try:
                self._check_rotation()
            except BaseException:
                self.close()
                raise

    def _check_rotation(self) -> None:
        """Raise `OSError` if another process is rotating the file."""
        with suppress(FileNotFoundError, PermissionError):
            before = os.open(f"{self._path}.1", os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
            try:
                _lock(before)
            finally:
                os.close(before)

    def _open(self, patience: float = 0.0) -> None:
        if os.path.exists(self._path) and not os.path.isfile(self._path):  # a device would be renamed
            raise OSError(errno.EINVAL, "it is not a regular file; choose another one")
        before = self._file
        self._file = os.open(self._path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o666)
        try:
            _lock(self._file, patience)
            self._size = os.fstat(self._file).st_size
            if self._size and os.pread(self._file, 1, self._size - 1) != b"\n":
                self._append(b"\n")
        except BaseException:
            self.close()
            raise
        finally:
            if before >= 0:
                os.close(before)

    def _reopen_if_moved(self) -> None:  # logrotate moves it
        status = os.fstat(self._file)
        try:
            moved = not os.path.samestat(status, os.stat(self._path))
        except FileNotFoundError:
            moved = True
        if moved:
            self._open()
        else:
            self._size = status.st_size  # something may have truncated it

    def write(self, lines: Sequence[bytes]) -> None:
        """Append lines, each with its newline, to the file that is at the path now; a missing one is created.

        Raises:
            OSError: They could not all be written. None of them is in the file then, only in files that they filled.
        """
        start = 0
        with explained("record to a file", self._path):
            self._reopen_if_moved()
            while start < len(lines):
                if (end := self._fitting(lines, start)) > start:
                    self._append(b"".join(lines[start:end]))
                    start = end
                else:
                    self._rotate()

    def _fitting(self, lines: Sequence[bytes], start: int) -> int:
        """Return the index of the first line that does not fit into the file as it is."""
        size = self._size
        for index in range(start, len(lines)):
            size += len(lines[index])
            if size > self._max_bytes and size > len(lines[index]):
                return index
        return len(lines)

    def _append(self, data: bytes) -> None:
        write_whole(self._file, data)
        self._size += len(data)

    def _rotate(self) -> None:
        free = next((n for n in range(1, self._keep) if not os.path.lexists(f"{self._path}.{n}")), self._keep)
        for number in range(free - 1, 0, -1):
            os.replace(f"{self._path}.{number}", f"{self._path}.{number + 1}")
        if os.path.lexists(self._path):
            os.replace(self._path, f"{self._path}.1")
        self._open(LEAVE_TIMEOUT)

    def close(self) -> None:
        """Close the file."""
        file, self._file = self._file, -1
        if file >= 0:
            os.close(file)


@contextmanager
def explained(what: str, file: str | None = None) -> Iterator[None]:
    """Let an `OSError` say what can't be done, and what to do if the disk is full."""
    try:
        yield
    except OSError as error:
        text = f"can't {what}: {error.strerror}"
        if error.errno in _FULL:
            text += "; make room or choose another file; pushers send again what is missing"
        raise OSError(error.errno, text, file) from None


def write_whole(file: int, data: bytes) -> None:
    """Write all of the data. If that fails, take back the part that was appended to a file, unless more came after."""
    done = 0
    try:
        while done < len(data):
            try:
                done += os.write(file, memoryview(data)[done:])
            except BlockingIOError:  # a full pipe that another of its processes has made non-blocking
                writable = select.poll()
                writable.register(file, select.POLLOUT)
                writable.poll()
    except OSError:
        with suppress(OSError):  # of a pipe
            if (end := os.lseek(file, 0, os.SEEK_CUR)) == os.fstat(file).st_size:
                os.ftruncate(file, os.lseek(file, end - done, os.SEEK_SET))
        raise


def _lock(file: int, patience: float = 0.0) -> None:
    deadline = time.monotonic() + patience
    while True:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            if time.monotonic() >= deadline:
                advice = "another process records to it; end that one or choose another file"
                raise OSError(errno.EBUSY, advice) from None
        except OSError:
            return  # this file system has no locks
        time.sleep(0.001)
