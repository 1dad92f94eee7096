"""`socketpusher replay`: a recorded stream of events, again, at its own pace or another."""

import argparse
import math
import os
import stat
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, BinaryIO

from ..terminal.text import plural
from .arguments import add_consumer
from .output import status

if TYPE_CHECKING:
    from .flow_control import EventLines, FlowControlledPusher

SUMMARY = "send a recording again"
DESCRIPTION = """\
Sends a recording, such as `socketpusher listen --to FILE` makes, to the consumer that listens on a Unix socket: the
same lines, with the same pauses between them. A recording may be compressed by gzip. Pauses of 10 s and more are
announced on standard error. Where the recording's clock goes back by more than a second, the next event follows
immediately.

No event is dropped. A slow consumer delays the events, which then follow faster until they are on time again. If it
disconnects, the command waits for another one; at the end, for at most 5 s. Lines that are not events are skipped and
counted; the first ten are named. The exit code is 0 if everything was sent, else 1.

Events that have ids keep them, so a consumer that has seen them already skips them, and a stream of NATS JetStream does
not store them twice. To send them as new events, remove the ids: see the last example.
"""

EXAMPLES = """\
examples:
  socketpusher replay run.ndjson
  socketpusher replay run.ndjson /tmp/run.sock --speed 10
  socketpusher replay run.ndjson --speed max       as fast as the consumer reads
  cat run.ndjson.1 run.ndjson | socketpusher replay - --speed max
  jq -c 'del(.id)' run.ndjson | socketpusher replay -
"""

LONGEST_PAUSE = 1e9
"""The longest pause, in seconds: 30 years. A low `--speed` has no limit."""

LONG_PAUSE = 10.0
"""A pause of this length is announced, in seconds."""

DRAW_INTERVAL = 0.1
"""How often progress is drawn, in seconds."""

DISORDER = timedelta(seconds=1)
"""Concurrent threads and senders record times a little out of order; more means that the clock was set back."""

_RETAINED = b',"retained":true}'

Show = Callable[[int, float], None]
"""Shows how many events were sent, and when the next one is due, in seconds."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    parser.add_argument("file", metavar="FILE", help="the recording, or - for standard input")
    add_consumer(parser)
    parser.add_argument(
        "--speed",
        type=_speed,
        default=1.0,
        metavar="N",
        help="10 is ten times faster, 0.5 half as fast; 0 or max is as fast as the consumer reads (default: 1)",
    )


def _speed(text: str) -> float:
    try:
        speed = 0.0 if text == "max" else float(text)
    except ValueError:
        speed = -1.0
    if not math.isfinite(speed) or speed < 0:
        raise argparse.ArgumentTypeError(f"{text!r} is neither a number from 0 on nor max")
    return speed


def run(arguments: argparse.Namespace) -> int:
    """Send the recording to its end. Returns the exit code."""
    from .flow_control import EventLines, FlowControlledPusher

    with _opened(arguments.file, arguments.path) as file:
        lines = EventLines(file, "standard input" if arguments.file == "-" else arguments.file)
        clock = ReplayClock(arguments.speed or math.inf)
        pusher = FlowControlledPusher(arguments)
        began = time.monotonic()
        try:
            with pusher, _progress(file) as show:
                _send(lines, pusher, clock, show)
        finally:
            set_back = f"; the recording's clock goes back {plural(clock.set_back, 'time')}" if clock.set_back else ""
            status(f"{pusher.summary()} in {time.monotonic() - began:.1f} s{lines.summary()}{set_back}")
    return 0 if pusher.complete and not lines.skipped else 1


def _opened(name: str, path: str | None) -> AbstractContextManager[BinaryIO]:
    from ..unix_socket import is_socket
    from .lines import standard_input

    if name == "-":
        return nullcontext(standard_input())
    try:
        return open(name, "rb")
    except OSError as error:
        reason = error.strerror
        if is_socket(name):
            reason = f"it is a socket; the recording comes first: socketpusher replay {path or 'FILE'} {name}"
        raise OSError(error.errno, f"can't read the recording: {reason}", name) from None


def _send(lines: "EventLines", pusher: "FlowControlledPusher", clock: "ReplayClock", show: Show) -> None:
    first: float | None = None  # when the first event was sent, of `time.monotonic`
    for sent, (line, event) in enumerate(lines):
        assert event.time is not None  # every recorded event has one
        now = time.monotonic()
        first = now if first is None else first
        repeated = line.endswith(_RETAINED)
        due = min(first + clock.due(event.time, repeated), now + LONGEST_PAUSE)
        if due - now >= LONG_PAUSE:
            pause = timedelta(seconds=round(due - now))
            status(f"the recording pauses for {pause}; --speed max skips pauses")
        while (left := due - time.monotonic()) > 0:
            show(sent, left)
            time.sleep(min(left, 1.0))
        pusher.send(line)
        show(sent + 1, 0.0)


class ReplayClock:
    """Tells for each event of a recording, in order, when it is due.

    A pause in the recording is kept, however long. An event that is out of order is due with the one before it. So is
    one whose clock was set back, and the pace goes on from there; and one that was sent again, with its old time.

    Args:
        speed: How many seconds of the recording pass in a second; infinity for no pauses.
    """

    def __init__(self, speed: float) -> None:
        self._speed = speed
        self._from: datetime | None = None  # the time in the recording that is due at `_due`
        self._due = 0.0
        self._latest = datetime.min  # time so far since the clock was last set back
        self.set_back = 0  # how often it was

    def due(self, time: datetime, repeated: bool = False) -> float:
        """Return when the next event is due, in seconds since the first one.

        Args:
            time: Its time in the recording, aware.
            repeated: Whether it was sent again, to tell a new consumer how the run stands.
        """
        if repeated:
            return self._due if self._from is None else self._at(self._from, self._latest)
        if self._from is None:
            self._from = self._latest = time
        elif self._latest - time > DISORDER:
            self.set_back += 1
            self._due = self._at(self._from, self._latest)
            self._from = self._latest = time
        self._latest = max(self._latest, time)
        return self._at(self._from, self._latest)

    def _at(self, start: datetime, time: datetime) -> float:
        return self._due + (time - start).total_seconds() / self._speed


@contextmanager
def _progress(file: BinaryIO) -> Iterator[Show]:
    """A bar, if standard error is a terminal and rich is installed."""
    try:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn
    except ImportError:  # optional, the extra `terminal`
        yield lambda sent, left: None
        return
    found = os.fstat(file.fileno())
    size = found.st_size if stat.S_ISREG(found.st_mode) else None
    columns = [*([BarColumn(), TaskProgressColumn()] if size else []), TextColumn("{task.description}", markup=False)]
    console = Console(stderr=True)
    terminal = sys.stderr.isatty() and console.is_terminal  # rich alone would obey FORCE_COLOR
    with Progress(*columns, console=console, auto_refresh=False, transient=True, disable=not terminal) as bar:
        if terminal:
            console.show_cursor(True)  # Ctrl-Z would leave it hidden
        task = bar.add_task("", total=size)
        drawn = 0.0

        def show(sent: int, left: float) -> None:
            nonlocal drawn
            if (now := time.monotonic()) - drawn >= DRAW_INTERVAL:
                drawn = now
                pause = f", the next one in {timedelta(seconds=round(left))}" if left >= 1 else ""
                position = file.tell() if size else 0
                bar.update(task, completed=position, description=f"{plural(sent, 'event')} sent{pause}", refresh=True)

        yield show
