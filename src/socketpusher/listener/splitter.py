"""Cuts a stream of bytes into lines. Pure."""

from collections.abc import Callable

from ..config import MAX_LINE_BYTES

SHOWN = 1024
"""How much of a line that is too long is shown to `on_long`, in bytes."""


class LineSplitter:
    """What one sender sends, cut into lines. It holds one line at most, and none over 1,048,576 bytes.

    Args:
        on_long: Called with the first 1,024 bytes of a line that is longer, as soon as that is known.
    """

    def __init__(self, on_long: Callable[[bytes], object]) -> None:
        self._on_long = on_long
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
            shown = bytes(self._begun[:SHOWN])
            self._skipping = True
            self._begun.clear()
            self._on_long(shown)
