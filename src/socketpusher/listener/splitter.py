"""Cuts a stream of bytes into lines. Pure."""

from collections.abc import Callable

from ..config import MAX_LINE_BYTES

EXCERPT_BYTES = 1024
"""How much of a line is reported that is too long or has no end, in bytes."""


class LineSplitter:
    """Cuts the bytes of one sender into lines. It keeps at most one line, and at most 1,048,575 bytes of it.

    Args:
        on_long: Called with the first 1,024 bytes of a line that is longer, as soon as that is known.
    """

    def __init__(self, on_long: Callable[[bytes], object]) -> None:
        self._on_long = on_long
        self._begun = bytearray()  # the line whose newline has not come
        self._skipping = False  # whether that line is too long

    @property
    def unfinished(self) -> bytes:
        """The first 1,024 bytes of the line whose newline has not come; empty if it was reported as too long."""
        return bytes(self._begun[:EXCERPT_BYTES])

    def feed(self, data: bytes) -> list[bytes]:
        """Return the lines that `data` completes, without their newlines."""
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
            excerpt = self.unfinished
            self._skipping = True
            self._begun.clear()
            self._on_long(excerpt)
