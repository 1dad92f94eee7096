"""How `socketpusher replay` goes through a recording, and shows how far it is."""

import os
import stat
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, BinaryIO, Protocol

from .flow_control import EventLines, FlowControlledPusher, count, say
from .pace import Pace

LONG_PAUSE = 10.0
"""A pause of so many seconds is announced."""

LINE_EVERY, DRAW_EVERY = 5.0, 0.1
"""How often progress is told in lines, and drawn as a bar, in seconds."""


def replay(file_name: str, path: str | None, speed: float) -> int:
    """Send a recording.

    Args:
        file_name: The recording, or "-" for standard input.
        path: Where the consumer listens; None for the default.
        speed: How many seconds of the recording pass in a second; 0 for no pauses.

    Returns:
        The exit code: 0 if everything was sent.

    Raises:
        OSError: The recording can't be read, or the consumer can't be connected to.
    """
    with _opened(file_name) as file:
        lines = EventLines(file, "standard input" if file_name == "-" else file_name)
        pace = Pace(speed)
        feeder = FlowControlledPusher(path)
        began = time.monotonic()
        try:
            with feeder, _progress(_size(file)) as progress:
                _run(lines, feeder, pace if speed else None, progress)
        finally:
            skipped = f"; {count(lines.skipped, 'line')} skipped" if lines.skipped else ""
            set_back = f"; the clock of the recording goes back {count(pace.set_back, 'time')}" if pace.set_back else ""
            say(f"{feeder.summary()} in {time.monotonic() - began:.1f} s{skipped}{set_back}")
    return 0 if feeder.complete and not lines.skipped else 1


@contextmanager
def _opened(file_name: str) -> Iterator[BinaryIO]:
    if file_name == "-":
        yield sys.stdin.buffer
        return
    try:
        file = open(file_name, "rb")  # noqa: SIM115 - closed below; a with statement would explain the wrong errors
    except OSError as error:
        raise OSError(error.errno, f"can't read the recording: {error.strerror}", file_name) from None
    with file:
        yield file


def _size(file: BinaryIO) -> int | None:
    """How many bytes there are to read, or None if that is not known."""
    status = os.fstat(file.fileno())
    return status.st_size if stat.S_ISREG(status.st_mode) else None


def _run(lines: EventLines, feeder: FlowControlledPusher, pace: Pace | None, progress: "Progress") -> None:
    first: float | None = None  # when the first event was sent, of `time.monotonic`
    for sent, (event, size) in enumerate(lines):
        now = time.monotonic()
        first = now if first is None else first
        if pace is not None and event.time is not None:
            due = first + pace.due(event.time)
            if due - now >= LONG_PAUSE:
                say(
                    f"the recording pauses for {timedelta(seconds=round(due - now))}; --speed max would send on at once"
                )
            while (left := due - time.monotonic()) > 0:
                progress.show(sent, lines.bytes - size, left)
                time.sleep(min(left, 1.0))
        feeder.emit(event, size)
        progress.show(sent + 1, lines.bytes, 0.0)


class Progress(Protocol):
    """What shows how far it is."""

    def show(self, events: int, position: int, left: float) -> None:
        """Show it, unless that was done a moment ago.

        Args:
            events: How many are sent.
            position: Their size in the recording, in bytes.
            left: When the next one is due, in seconds.
        """


@contextmanager
def _progress(size: int | None) -> Iterator[Progress]:
    """A bar if standard error is a terminal and rich is there, else a line now and then."""
    if sys.stderr.isatty() and os.environ.get("TERM") != "dumb":
        try:
            import rich.progress  # noqa: F401 - optional, the extra `terminal`
        except ImportError:
            pass
        else:
            with _bar(size) as bar:
                yield bar
            return
    yield _Lines(size)


class _Lines:
    def __init__(self, size: int | None) -> None:
        self._size = size
        self._told = (time.monotonic(), 0)  # when, and how many events that were

    def show(self, events: int, position: int, left: float) -> None:
        now = time.monotonic()
        then, last = self._told
        if now - then >= LINE_EVERY and events > last:
            self._told = (now, events)
            share = f", {position / self._size:.0%}" if self._size else ""
            say(f"sent {count(events, 'event')}{share}")


@contextmanager
def _bar(size: int | None) -> Iterator[Progress]:
    from rich.console import Console
    from rich.progress import BarColumn, TaskProgressColumn, TextColumn
    from rich.progress import Progress as Bars

    columns = [BarColumn(), TaskProgressColumn()] if size else []
    text = TextColumn("{task.description}", markup=False)
    with Bars(*columns, text, console=Console(stderr=True), auto_refresh=False, transient=True) as bars:
        yield _Bar(bars, bars.add_task("", total=size))


class _Bar:
    def __init__(self, bars: Any, task: Any) -> None:
        self._bars = bars
        self._task = task
        self._drawn = -DRAW_EVERY  # when, of `time.monotonic`

    def show(self, events: int, position: int, left: float) -> None:
        now = time.monotonic()
        if now - self._drawn < DRAW_EVERY:
            return
        self._drawn = now
        pause = f", the next one in {timedelta(seconds=round(left))}" if left >= 1 else ""
        self._bars.update(self._task, completed=position, description=f"{count(events, 'event')} sent{pause}")
        self._bars.refresh()
