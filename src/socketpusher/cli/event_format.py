"""An event as one line for people: aligned, coloured where that can be seen, and harmless to a terminal."""

import os
import sys

from ..conversion import to_json
from ..events import Event
from ..terminal.text import width
from .output import printable

TYPE_WIDTH = 23
"""Room for the longest known event type."""

UNIT_WIDTH = 32
"""The column of units grows with the longest one seen, up to this many columns."""

MAX_CHARACTERS = 400
"""The middle of a longer text is left out: the last line of a traceback says most."""

_COLORS = {
    "green": ("completed", "merged", "ok", "approved", "committed"),
    "red": ("failed", "fail", "conflict"),
    "yellow": ("blocked", "retry", "backpressure"),
}
_JOINER = "\u200d"  # keeps an emoji of several characters together, and is harmless
_CODES = {"dim": 2, "red": 31, "green": 32, "yellow": 33}


class EventFormatter:
    """Makes lines of events.

    Args:
        colors: Whether the lines are coloured, by ANSI's escape sequences.
    """

    def __init__(self, colors: bool = False) -> None:
        self._colors = colors
        self._unit_width = 8

    def line(self, event: Event) -> str:
        """Return the event as a line, without a newline."""
        kind, unit = _shown(event.type), _shown(event.unit)
        self._unit_width = max(self._unit_width, min(width(unit), UNIT_WIDTH))
        try:
            time = f"{event.time.astimezone():%H:%M:%S.%f}"[:-3] if event.time is not None else ""
        except (OverflowError, ValueError, OSError):  # in the year 1 or 9999, with this time zone
            time = "-"
        last = event.type.rpartition(".")[2]
        color = next((color for color, words in _COLORS.items() if last in words), "")
        words = [
            self._paint(time, "dim"),
            self._paint(kind, color) + " " * (TYPE_WIDTH - width(kind)),
            unit + " " * (self._unit_width - width(unit)),
            f"task {event.task}" if event.task is not None else "",
            f"pr {event.pr}" if event.pr is not None else "",
            _shown(to_json(event.payload).decode()) if event.payload is not None else "",
            self._paint(_shown(event.error), "red") if event.error else "",
        ]
        return " ".join(words[:3] + list(filter(None, words[3:]))).rstrip()

    def _paint(self, text: str, color: str) -> str:
        return f"\x1b[{_CODES[color]}m{text}\x1b[0m" if self._colors and color and text else text


def shows_colors() -> bool:
    """Whether standard output is to be coloured: see no-color.org and force-color.org."""
    if os.environ.get("NO_COLOR"):
        return False
    return bool(os.environ.get("FORCE_COLOR")) or (sys.stdout.isatty() and os.environ.get("TERM", "dumb") != "dumb")


def _shown(text: str) -> str:
    text = _JOINER.join(map(printable, text.split(_JOINER)))
    if (excess := len(text) - MAX_CHARACTERS) <= 0:
        return text
    half = MAX_CHARACTERS // 2
    return f"{text[:half]} ... {excess:,} characters left out ... {text[-half:]}"
