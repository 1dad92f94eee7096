"""`socketpusher trace`: a recording as a timeline, for Perfetto or as a picture."""

import argparse
import sys
from contextlib import nullcontext
from typing import TYPE_CHECKING, BinaryIO

from ..listener.problems import FrequentProblem
from .arguments import path
from .lines import numbered_lines, standard_input
from .nats_options import Patience, add_stream_source, subscribed
from .output import sentence, status

if TYPE_CHECKING:
    from ..jetstream.subscription import Subscription
    from ..timeline.model import Timeline

SUMMARY = "show a recording as a timeline"
DESCRIPTION = """\
Turns a recording of events, such as `socketpusher listen > FILE` makes, into a timeline in the Trace Event format. Open
it at https://ui.perfetto.dev or in chrome://tracing: each unit is a slice, its tasks are slices inside it, and each
worker is a track. Units whose worker is unknown share as few tracks as possible, lane 1, lane 2, and so on. Slices have
the categories failed, retry, unfinished and critical, and arrows show the critical path: the dependencies that took
longest together. Log records and other events are instants.

Each run is a process. Times are in microseconds since the first run started. The recording may be compressed by gzip,
begin in the middle of a run, and repeat events. What has not ended when the recording ends is cut there and marked as
unfinished. Lines that are not events are reported and skipped; the exit code is then 1.

With --from it reads what the stream has stored so far; --since and --last begin in the middle of it. With --svg it
draws a picture of the timeline, and writes the trace only if -o is given too.
"""

EXAMPLES = """\
examples:
  socketpusher trace run.ndjson -o trace.json
  socketpusher trace run.ndjson --svg run.svg
  cat run.ndjson.1 run.ndjson | socketpusher trace | gzip > trace.json.gz
  socketpusher trace --from nats://localhost --host build-7 -o trace.json
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    parser.add_argument(
        "path", nargs="?", type=path, metavar="FILE", help="the recording, or - for standard input (default: -)"
    )
    parser.add_argument("-o", "--output", metavar="FILE", help="where to write the trace (default: standard output)")
    parser.add_argument("--svg", metavar="FILE", help="draw a picture into this file")
    add_stream_source(
        parser,
        "what is stored there so far",
        "with --from: give up when the stream can't be read for so long (default: 10)",
    )


def run(arguments: argparse.Namespace) -> int:
    """Read everything, then write. Returns the exit code."""
    from ..timeline.model import Timeline
    from ..timeline.svg import svg_lines
    from ..timeline.trace_events import trace_lines

    reader = _Reader(Timeline())
    subscription = subscribed(arguments, reader.report, raw=True)
    patience = Patience(arguments, subscription, 10.0)
    if subscription is not None:
        name = "the stream"
        with subscription:
            reader.read_stream(subscription, patience)
    else:
        from_input = arguments.path in (None, "-")
        name = "standard input" if from_input else arguments.path
        with nullcontext(standard_input()) if from_input else open(name, "rb") as file:
            reader.read(file, name)
    if not (runs := reader.timeline.runs()):
        raise ValueError(f"there are no events in {name}; record some with: socketpusher listen > FILE")
    if arguments.svg is not None:
        with open(arguments.svg, "w", encoding="utf-8") as picture:
            picture.writelines(f"{line}\n" for line in svg_lines(runs))
    if arguments.output is not None:
        with open(arguments.output, "wb") as trace:
            trace.writelines(trace_lines(runs))
    elif arguments.svg is None:
        sys.stdout.buffer.writelines(trace_lines(runs))
    return 0 if reader.complete else 1


class _Reader:
    """Feeds a timeline with lines, and reports those that are not events."""

    def __init__(self, timeline: "Timeline") -> None:
        self.timeline = timeline
        self.complete = True  # whether everything could be read

    def read(self, file: BinaryIO, name: str) -> None:
        try:
            for number, line in numbered_lines(file, name):
                self._feed(line, f"line {number} of {name}")
        except OSError as error:
            self._lack(sentence(error))

    def read_stream(self, subscription: "Subscription[bytes]", patience: Patience) -> None:
        while not subscription.caught_up:
            for line in subscription.read(patience.left()):
                self._feed(line, "an event in the stream", str(subscription.source))

    def _feed(self, line: bytes, what: str, source: str = "") -> None:
        try:
            self.timeline.feed(line, source)
        except ValueError as error:
            self._lack(f"{what} is skipped: {error}")

    def report(self, problem: str) -> None:
        """Report what the subscription says: that events are missing, or how its connection is."""
        self.complete = self.complete and not isinstance(problem, FrequentProblem)
        status(problem)

    def _lack(self, what: str) -> None:
        self.complete = False
        status(what)
