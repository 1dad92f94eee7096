"""`socketpusher trace`: a recording as a timeline, for Perfetto or as a picture."""

import argparse
import gzip
import sys
import zlib
from contextlib import ExitStack
from typing import TYPE_CHECKING, BinaryIO, cast

from ..wire import DecodeError, parse
from .arguments import Commands, add_command
from .event_format import printable
from .nats_options import add_stream_source, subscribed

if TYPE_CHECKING:
    from ..timeline.model import Timeline

_DESCRIPTION = """\
Turns a recording of events, such as `socketpusher listen > FILE` makes, into a timeline in the Trace Event format. Open
it at https://ui.perfetto.dev or in chrome://tracing: each unit is a slice, its tasks are slices inside it, and each
worker is a track. Units without a worker share as few lanes as possible. Slices have the categories failed, retry,
unfinished and critical, and arrows show the critical path: the dependencies that took longest together. Log records
and other events are instants.

Each run is a process. Times are in microseconds since the first run started. The recording may be compressed by gzip,
begin in the middle of a run, and repeat events. What has not ended when the recording ends is cut there and marked as
unfinished. Lines that are not events are reported and skipped.

With --from it reads what the stream has stored so far. With --svg it draws a picture of the timeline, and writes the
trace only if -o is given too.
"""

_EXAMPLES = """\
examples:
  socketpusher trace run.ndjson -o trace.json
  socketpusher trace run.ndjson --svg run.svg
  zcat run.ndjson.*.gz | socketpusher trace | gzip > trace.json.gz
  socketpusher trace --from nats://localhost --host build-7 -o trace.json
"""


def add_to(commands: Commands) -> None:
    """Add the sub-command."""
    parser = add_command(commands, "trace", "show a recording as a timeline", _DESCRIPTION, _EXAMPLES)
    parser.add_argument("path", nargs="?", metavar="RECORDING", help="a file, or - for standard input (default: -)")
    parser.add_argument("-o", "--output", metavar="FILE", help="where to write the trace (default: standard output)")
    parser.add_argument("--svg", metavar="FILE", help="draw a picture into this file")
    add_stream_source(parser)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Read everything, then write. Returns the exit code."""
    from ..timeline.model import Timeline
    from ..timeline.svg import svg_lines
    from ..timeline.trace_events import trace_lines

    timeline = Timeline()
    if arguments.url is not None or arguments.host is not None or arguments.session is not None:
        _read_stream(arguments, timeline)
    else:
        name = "standard input" if arguments.path in (None, "-") else arguments.path
        with open(0 if name == "standard input" else name, "rb") as file:
            _read(file, name, timeline)
    if not (runs := timeline.runs()):
        raise ValueError("nothing to write: there are no events; record some with: socketpusher listen > FILE")
    with ExitStack() as opened:
        if arguments.svg is not None:
            picture = opened.enter_context(open(arguments.svg, "w", encoding="utf-8"))
            picture.writelines(f"{line}\n" for line in svg_lines(runs))
        if arguments.output is not None:
            opened.enter_context(open(arguments.output, "wb")).writelines(trace_lines(runs))
        elif arguments.svg is None:
            sys.stdout.buffer.writelines(trace_lines(runs))
    return 0


def _read(file: BinaryIO, name: str, timeline: "Timeline") -> None:
    compressed = file.peek(2)[:2] == b"\x1f\x8b"  # type: ignore[attr-defined]  # files opened for reading have it
    lines = cast(BinaryIO, gzip.GzipFile(fileobj=file)) if compressed else file
    try:
        for number, line in enumerate(lines, 1):
            if line.strip():
                _feed(timeline, line, f"line {number} of {name}")
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        _report(f"{name} is damaged, so the rest of it is missing: {error}")


def _read_stream(arguments: argparse.Namespace, timeline: "Timeline") -> None:
    if arguments.path is not None:
        arguments.error("give a RECORDING or --from, not both")
    subscription = subscribed(arguments, _report, raw=True)
    assert subscription is not None  # --from was given, or this is not reached
    with subscription:
        while not subscription.caught_up:
            for line in subscription.read():
                _feed(timeline, line, "an event of the stream", str(subscription.source))


def _feed(timeline: "Timeline", line: bytes, what: str, host: str = "") -> None:
    try:
        timeline.feed(parse(line), host)
    except DecodeError as error:
        _report(f"{what} is skipped: {error}")


def _report(problem: object) -> None:
    print(printable(str(problem)), file=sys.stderr, flush=True)
