"""The runs on a terminal's screen, coloured by rich. It is drawn when its owner gives it the time."""

import os
import signal
import sys
import time
from collections import deque
from contextlib import ExitStack

from rich.console import Console
from rich.text import Text

from ..listener.problems import FrequentProblem, Recovery
from .page import render_screen, render_summary
from .sources import EventSource
from .text import BAD, BOLD, BUSY, DIM, GOOD, PLAIN, Line, clip, clock, elapsed, plural, printable, text_of, width
from .tracker import RunTracker
from .tty import FullScreen, terminal_signals
from .unit_list import HELP, UnitList
from .view import RunView

REDRAW = 0.1
"""The least time between two drawings, in seconds: drawing takes milliseconds, in which no event is taken in."""

_IDLE = 1.0  # how often the clocks on the screen go on if nothing else changes, in seconds
_RATE_SPAN = 3.0  # how long the rate looks back, in seconds


class Screen(RunView):
    """The whole of the terminal that standard output is, from `__enter__` to `__exit__`.

    Afterwards the terminal shows again what it did before, and below it a summary of the runs.

    Args:
        source: What the events come from.
        runs: What is known of the runs.
    """

    def __init__(self, source: EventSource, runs: RunTracker) -> None:
        super().__init__(runs)
        self._source = source
        self._problems = 0
        self._problem = ""  # the last one that is not over
        self._lasting = ""  # the last one that is no trouble which may be over
        self._rate = _Rate()
        self._shown: object = None  # what the screen was drawn of
        self._drawn = 0.0  # when, of `time.monotonic`
        self._list = UnitList()
        self._help = False
        self._tty = FullScreen()
        self._signals = -1  # a descriptor, between `__enter__` and `__exit__`
        # Else rich would believe the environment rather than its caller.
        self._console = Console(file=sys.stdout, force_terminal=True, force_interactive=True, legacy_windows=False)

    def __enter__(self) -> "Screen":
        with ExitStack() as opened:
            self._signals = opened.enter_context(terminal_signals())
            opened.callback(self._tty.leave)
            self._tty.enter()
            self.inputs = {self._signals: self._on_signals}
            if self._tty.has_keys:
                self.inputs[0] = self._on_keys
            self._opened = opened.pop_all()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._opened.close()
        for line in render_summary(self.runs, time.time(), _size()[0]):
            print(text_of(line))
        sys.stdout.flush()

    def _on_signals(self) -> bool:
        for number in os.read(self._signals, 4096):
            if number == signal.SIGTSTP:
                self._tty.suspend()
            elif number == signal.SIGCONT:  # a program that was stopped otherwise finds the shell's terminal
                self._tty.enter()
        self._drawn = 0.0
        return True

    def _on_keys(self) -> bool:
        keys = self._tty.read_keys()
        for key in keys or ():
            self._press(key)
        self._drawn = 0.0
        return keys is not None

    def _press(self, key: str) -> None:
        if self._help:
            self._help = False
        elif self._list.typing or key not in "q?":
            self._list.press(key)
        elif key == "q":
            self.quit = True
        else:
            self._help = True

    def report(self, problems: list[str]) -> None:
        """Count problems, and show the last one until it is over."""
        for problem in problems:
            if isinstance(problem, Recovery):
                self._problem = self._lasting
                continue
            self._problems += 1
            self._problem = problem
            if isinstance(problem, FrequentProblem):
                self._lasting = problem

    def refresh(self) -> float:
        """Draw if it is time to. Returns in how many seconds it will be, if nothing comes meanwhile."""
        now, runs = time.monotonic(), self.runs
        known = runs.events, len(runs.sources), runs.gone, self._problems, self._problem
        due = self._drawn + (_IDLE if known == self._shown else REDRAW)
        if now < due:
            return due - now
        self._shown = known
        self._rate.sample(now, runs.events)
        columns, height = _size()
        lines = self._lines(time.time(), columns, height)
        with self._console.capture() as drawn:
            text = Text("\n").join(Text.assemble(*line) for line in lines)
            self._console.print(text, soft_wrap=True, end="")
        # Behind a full line the cursor stands on its last character, which `\x1b[K` would erase.
        ends = ["" if width(text_of(line)) >= columns else "\x1b[K" for line in lines]
        shown = "\n".join(map(str.__add__, drawn.get().split("\n"), ends))
        self._tty.write("\x1b[H" + shown + ("\n\x1b[J" if len(lines) < height else ""))
        self._drawn = time.monotonic()
        return _IDLE

    def _lines(self, now: float, width: int, height: int) -> list[Line]:
        lines = [self._header(now)]
        if self._problem:
            counted = "1 problem: " if self._problems == 1 else f"{self._problems:,} problems, the last: "
            lines.append([(counted + printable(self._problem), BAD)])
        room = height - len(lines)
        if self._help:
            lines += [[(line, PLAIN)] for line in HELP.splitlines()]
        elif self._list.shown:
            lines += self._list.render(self.runs, now, width, room)
        else:
            lines += render_screen(self.runs, now, width, room)
        return [clip(line, width) for line in lines[:height]]

    def _header(self, now: float) -> Line:
        runs, source = self.runs, self._source
        if runs.sources:
            state = f"{source.connected}: {plural(len(runs.sources), source.noun)}", GOOD
        elif runs.gone is None:
            state = f"waiting for a {source.noun}", BUSY
        else:
            state = f"{source.disconnected} since {clock(runs.gone)}, {elapsed(now - runs.gone)} ago", BUSY
        told = f"  {plural(runs.events, 'event')}  {self._rate.value:,.0f}/s  "
        told += f"{source.pending:,} behind  " if source.pending else ""
        keys = "? help  " if self._tty.has_keys else ""
        return [state, (told, PLAIN), (keys, BOLD), (printable(source.where), DIM)]


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
    """The width and the height of the terminal; the usual ones if it has none, as over a serial line."""
    try:
        width, height = os.get_terminal_size(sys.stdout.fileno())
    except OSError:
        width = height = 0
    return width or 80, height or 24
