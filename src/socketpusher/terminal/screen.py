"""The runs on a terminal's screen, drawn by rich. Fed like `RunTracker`, and drawn when its owner gives it the time."""

import os
import sys
import time
import types
from collections import deque
from collections.abc import Hashable

from rich.console import Console
from rich.live import Live
from rich.segment import Segment, Segments

from ..events import Event
from .page import BAD, BOLD, BUSY, DIM, GOOD, PLAIN, Line, clipped, clock, elapsed, page, printable, summary, text_of
from .tracker import RunTracker

REDRAW = 0.1
"""The screen is drawn so many seconds apart at least: drawing takes milliseconds, in which no event is taken in."""

_IDLE = 1.0  # the clocks on the screen go on by so many seconds, if nothing else changes
_RATE_SPAN = 3.0  # the rate is that of so many seconds


class Screen:
    """The whole of the terminal that standard output is, from `__enter__` to `__exit__`.

    What was on the terminal before comes back at the end, and below it the runs are summed up in a few lines.

    Args:
        where: What the events come through, to be shown.
        runs: What is known of the runs.
    """

    def __init__(self, where: str, runs: RunTracker) -> None:
        self.runs = runs
        self._where = where
        self._note = ""
        self._problems = 0
        self._problem = ""  # the last one
        self._rate = _Rate()
        self._changed = True
        self._drawn = 0.0  # when, of `time.monotonic`
        # Told that it is a terminal, for rich would believe the environment rather than its owner.
        self._console = Console(file=sys.stdout, force_terminal=True, force_interactive=True, legacy_windows=False)
        self._live = Live(
            console=self._console, screen=True, auto_refresh=False, redirect_stdout=False, redirect_stderr=False
        )

    def __enter__(self) -> "Screen":
        try:
            self._live.start()
        except BaseException:
            self._live.stop()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: types.TracebackType | None,
    ) -> None:
        self._live.stop()
        width = _size()[0]
        for line in summary(self.runs, time.time(), width):
            print(text_of(line))
        sys.stdout.flush()

    def source_connected(self, source: Hashable, title: str) -> None:
        """A source is connected."""
        self.runs.source_connected(source, title)
        self._changed = True

    def source_disconnected(self, source: Hashable, now: float) -> None:
        """A source is gone; `now` is in seconds since the epoch."""
        self.runs.source_disconnected(source, now)
        self._changed = True

    def feed(self, source: Hashable, event: Event) -> None:
        """Take an event in."""
        self.runs.feed(source, event)
        self._changed = True

    def say(self, note: str) -> None:
        """Show a line of text until the next one; "" shows none."""
        self._note = note
        self._changed = True

    def problem(self, sentence: str) -> None:
        """Count a problem, and show it until the next one."""
        self._problems += 1
        self._problem = sentence
        self._changed = True

    def refresh(self) -> float:
        """Draw if it is time to. Returns in how many seconds it will be, if nothing comes meanwhile."""
        now = time.monotonic()
        size = _size()
        if size != tuple(self._console.size):
            self._changed = True
        due = self._drawn + (REDRAW if self._changed else _IDLE)
        if now < due:
            return due - now
        self._changed = False
        self._rate.sample(now, self.runs.events)
        self._console.size = size
        self._live.update(self._segments(*size), refresh=True)
        self._drawn = time.monotonic()
        return _IDLE

    def _segments(self, width: int, height: int) -> Segments:
        segments = []
        for line in self._lines(time.time(), width, height):
            segments += [Segment(text, self._console.get_style(style) if style else None) for text, style in line]
            segments.append(Segment.line())
        return Segments(segments[:-1])

    def _lines(self, now: float, width: int, height: int) -> list[Line]:
        lines = [clipped(self._header(now), width)]
        if self._note:
            lines.append(clipped([(printable(self._note), BOLD)], width))
        if self._problems:
            counted = f"{self._problems:,} problem" + ("s, the last: " if self._problems > 1 else ": ")
            lines.append(clipped([(counted + printable(self._problem), BAD)], width))
        return [*lines, *page(self.runs, now, width, height - len(lines))][:height]

    def _header(self, now: float) -> Line:
        runs = self.runs
        if sources := len(runs.sources):
            line: Line = [(f"connected: {sources} sender" + ("s" if sources > 1 else ""), GOOD)]
        elif runs.gone is None:
            line = [("waiting for a sender", BUSY)]
        else:
            line = [(f"gone since {clock(runs.gone)}, {elapsed(now - runs.gone)} ago", BUSY)]
        line.append((f"  {runs.events:,} event" + ("" if runs.events == 1 else "s"), PLAIN))
        line.append((f"  {self._rate.value:,.0f}/s", PLAIN))
        return [*line, (f"  {printable(self._where)}", DIM)]


class _Rate:
    """How fast a count rises."""

    def __init__(self) -> None:
        self.value = 0.0  # per second
        self._samples: deque[tuple[float, int]] = deque()

    def sample(self, now: float, count: int) -> None:
        """The count at a time, of `time.monotonic`."""
        samples = self._samples
        samples.append((now, count))
        while len(samples) > 2 and samples[1][0] <= now - _RATE_SPAN:
            samples.popleft()
        first, base = samples[0]
        if now > first:
            self.value = (count - base) / (now - first)


def _size() -> tuple[int, int]:
    """The width and the height of the terminal; of one that has none, as over a serial line, the usual ones."""
    try:
        width, height = os.get_terminal_size(sys.stdout.fileno())
    except OSError:
        width = height = 0
    return width or 80, height or 24
