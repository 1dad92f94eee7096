"""A file that lines are appended to, and that makes way for a new one when it is full. Knows nothing of events."""

import errno
import os
import types
from collections.abc import Sequence


class RotatingFile:
    """Appends lines to a file. The file before it is `PATH.1`, the one before that `PATH.2`, and so on.

    No line is split over two files, and no two lines become one: an incomplete last line of a file that is there
    already, such as a killed process leaves, is ended first. A path that is a symbolic link stands for its target.

    Args:
        path: The file.
        max_bytes: A line that would make the file longer goes into a new one; a line that is longer by itself is alone
            in its file.
        keep: How many old files are kept, from 1 on.

    Raises:
        OSError: The file can't be opened, or is not a regular file.
    """

    def __init__(self, path: str, max_bytes: int, keep: int) -> None:
        self._path = os.path.realpath(path)
        self._max_bytes = max_bytes
        self._keep = keep
        try:
            if os.path.exists(self._path) and not os.path.isfile(self._path):  # a device would be renamed
                raise OSError(errno.EINVAL, "it is not a regular file; choose another one")
            self._file = self._open()
            self._size = os.fstat(self._file).st_size
        except OSError as error:
            raise OSError(error.errno, f"can't record to a file: {error.strerror}", path) from None
        try:
            self._end_last_line()
        except BaseException:
            self.close()
            raise

    def _open(self) -> int:
        return os.open(self._path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o666)

    def _end_last_line(self) -> None:
        if self._size and os.pread(self._file, 1, self._size - 1) != b"\n":
            self.write([b"\n"])

    def write(self, lines: Sequence[bytes]) -> None:
        """Append lines, each with its newline.

        Raises:
            OSError: They could not all be written; it says how many are missing. The file ends in a whole line.
        """
        left = list(lines)
        try:
            while left:
                if (count := self._fitting(left)) == 0:
                    self._rotate()
                else:
                    self._append(left, count)
        except OSError as error:
            missing = "1 line that came is" if len(left) == 1 else f"{len(left)} lines that came are"
            text = f"can't record any more: {error.strerror}; make room or choose another file; {missing} not in it"
            raise OSError(error.errno, text, self._path) from None

    def _fitting(self, lines: list[bytes]) -> int:
        """How many of the lines fit into the file as it is."""
        size = self._size
        for count, line in enumerate(lines):
            size += len(line)
            if size > self._max_bytes and size > len(line):
                return count
        return len(lines)

    def _append(self, left: list[bytes], count: int) -> None:
        """Move so many lines from the list to the file."""
        data = b"".join(left[:count])
        done = 0
        try:
            while done < len(data):
                done += os.write(self._file, memoryview(data)[done:])
        finally:
            whole = data.rfind(b"\n", 0, done) + 1
            if whole < done:  # a disk that is full takes a part first
                os.ftruncate(self._file, self._size + whole)
            self._size += whole
            del left[: data.count(b"\n", 0, whole)]

    def _rotate(self) -> None:
        for number in range(self._keep - 1, 0, -1):
            if os.path.lexists(f"{self._path}.{number}"):
                os.replace(f"{self._path}.{number}", f"{self._path}.{number + 1}")
        os.replace(self._path, f"{self._path}.1")
        full, self._file = self._file, self._open()
        os.close(full)
        self._size = 0

    def close(self) -> None:
        """Close the file."""
        os.close(self._file)

    def __enter__(self) -> "RotatingFile":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: types.TracebackType | None,
    ) -> None:
        self.close()
