"""An event as one line for people: aligned, coloured where that can be seen, and harmless to a terminal."""

import os
import sys
import unicodedata
from collections.abc import Callable

import orjson

from ..events import Event
from .output import printable as printable  # listen and relay still import it from here

TYPE_WIDTH = 22
"""Room for the longest known event type."""

UNIT_WIDTH = 32
"""The column of units grows with the longest one seen, up to so many columns."""

PAYLOAD_CHARACTERS = 160
"""Of a payload that is longer as JSON only the beginning is shown."""

_GREEN = ("completed", "merged", "ok", "approved", "committed")
_RED = ("failed", "fail", "conflict")
_YELLOW = ("blocked", "retry", "backpressure")

Paint = Callable[[str, str], str]
"""Gives a text a style, such as "red" or "dim"."""


def _plain(text: str, style: str) -> str:
    return text


class EventFormatter:
    """Makes lines of events.

    Args:
        colorize: Gives a text a style; by default none.
    """

    def __init__(self, colorize: Paint = _plain) -> None:
        self._paint = colorize
        self._unit_width = 8

    def line(self, event: Event) -> str:
        """The event as a line, without a newline."""
        kind, unit = printable(event.type), printable(event.unit)
        self._unit_width = max(self._unit_width, min(_columns(unit), UNIT_WIDTH))
        time = f"{event.time.astimezone():%H:%M:%S.%f}"[:-3] if event.time is not None else ""
        details = [
            f"task {event.task}" if event.task is not None else "",
            f"pr {event.pr}" if event.pr is not None else "",
            _payload(event.payload),
            self._paint(printable(event.error), "red") if event.error else "",
        ]
        style = _style(event.type)
        return " ".join(
            [
                self._paint(time, "dim"),
                self._paint(kind, style) + _padding(kind, TYPE_WIDTH),
                unit + _padding(unit, self._unit_width),
                *filter(None, details),
            ]
        ).rstrip()


def paint_for_terminal() -> Paint:
    """What colours the lines: rich, if it is there and standard output is a terminal that shows colours."""
    if not sys.stdout.isatty() or os.environ.get("NO_COLOR"):
        return _plain
    try:
        from rich.color import ColorSystem
        from rich.console import Console
        from rich.style import Style
    except ImportError:  # optional, the extra `terminal`
        return _plain
    if Console().color_system is None:
        return _plain
    styles = {name: Style.parse(name) for name in ("dim", "red", "green", "yellow")}

    def colorize(text: str, style: str) -> str:
        return styles[style].render(text, color_system=ColorSystem.STANDARD) if style else text

    return colorize


def _style(kind: str) -> str:
    what = kind.rpartition(".")[2]
    return "red" if what in _RED else "green" if what in _GREEN else "yellow" if what in _YELLOW else ""


def _payload(payload: object) -> str:
    if payload is None:
        return ""
    shown = printable(orjson.dumps(payload).decode())
    return shown if len(shown) <= PAYLOAD_CHARACTERS else shown[: PAYLOAD_CHARACTERS - 3] + "..."


def _padding(text: str, width: int) -> str:
    return " " * (width - _columns(text))


def _columns(text: str) -> int:
    """How wide the text is in a terminal."""
    if text.isascii():
        return len(text)
    return sum(0 if unicodedata.combining(c) else 2 if unicodedata.east_asian_width(c) in "WF" else 1 for c in text)
