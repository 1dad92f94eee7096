"""`socketpusher listen`: the events that are sent to a socket, on standard output or in a file."""

import argparse
import select
import signal
import sys
from collections.abc import Callable
from contextlib import ExitStack
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING

from ..events import Event
from ..listener.listener import Listener, listen
from ..listener.problems import Problem
from ..wire import decode
from .arguments import Commands, add_command, add_path, positive, size
from .event_format import EventFormatter, paint_for_terminal, printable
from .nats_options import add_stream_source, subscribed
from .rotating_file import RotatingFile

if TYPE_CHECKING:
    from ..jetstream.subscription import Subscription

_DESCRIPTION = """\
Listens on a Unix socket and prints every event that is sent to it: byte for byte as it came, or with --format pretty as
one aligned line for people, with the local time of day and long payloads cut. Lines that are no events are reported on
standard error. Senders may come and go; Ctrl-C ends it. The socket file can be used by you only, and is removed at the
end.

A PATTERN is one of the shell: *, ?, [abc]. Of several patterns one must match.

With --to the lines go to a file, which is appended to. When the next line would make it larger than --max-bytes, FILE
becomes FILE.1, FILE.1 becomes FILE.2 and so on, and what is older than --keep files is deleted. Nothing that was
read from a sender is lost to Ctrl-C or SIGTERM then.
"""

_EXAMPLES = """\
examples:
  socketpusher listen                        where a pusher sends to unless told otherwise
  socketpusher listen /tmp/run.sock
  socketpusher listen --format pretty --type '*.failed' --type '*.blocked'
  socketpusher listen --unit 'app*' > run.ndjson
  socketpusher listen --to run.ndjson --max-bytes 10M --keep 3
  socketpusher listen --from nats://localhost --host build-7 --type '*.failed'
  socketpusher listen | jq -r '[.time, .type, .unit] | @tsv'

A program sends its events there with:
  bus = Bus()
  with SocketPusher(bus, PusherConfig(socket_path="/tmp/run.sock")):
      bus.emit(Event("unit.started", unit="app"))
"""


def add_to(commands: Commands) -> None:
    """Add the sub-command."""
    parser = add_command(commands, "listen", "print or record what is sent to a socket", _DESCRIPTION, _EXAMPLES)
    add_path(parser, "where to listen")
    for what in ("type", "unit"):
        parser.add_argument(
            f"--{what}",
            action="append",
            metavar="PATTERN",
            help=f"only events whose {what} matches; may be given more than once",
        )
    parser.add_argument("--format", choices=("json", "pretty"), default="json", help="default: %(default)s")
    parser.add_argument("--to", metavar="FILE", help="append to a file instead of printing")
    parser.add_argument(
        "--max-bytes",
        type=size,
        default="100M",
        metavar="SIZE",
        help="how large FILE may become, in bytes or with K, M or G (default: %(default)s)",
    )
    parser.add_argument(
        "--keep", type=positive, default=5, metavar="N", help="how many old files to keep (default: %(default)s)"
    )
    add_stream_source(parser)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Run it until a signal comes. Returns the exit code."""
    chosen = _choice(arguments)
    with ExitStack() as opened:
        record = None
        if arguments.to is not None:
            record = opened.enter_context(RotatingFile(arguments.to, arguments.max_bytes, arguments.keep))
        source: Listener[bytes] | Subscription[bytes]
        if (subscription := subscribed(arguments, _report, raw=True)) is not None:
            source = opened.enter_context(subscription)
            _report(f"following {subscription.title}")
        else:
            source = listener = opened.enter_context(listen(arguments.path, raw=True, on_problem=_report))
            _report(f"listening on {listener.path}")
        if record is None:
            _print(source, chosen)
        else:
            _record(source, chosen, record)
    return 0


def _report(problem: Problem | str) -> None:
    print(printable(str(problem)), file=sys.stderr, flush=True)


def _print(source: "Listener[bytes] | Subscription[bytes]", chosen: Callable[[list[bytes]], list[bytes]]) -> None:
    output = sys.stdout.buffer
    while True:
        output.writelines(chosen(source.read()))
        output.flush()


def _record(
    source: "Listener[bytes] | Subscription[bytes]", chosen: Callable[[list[bytes]], list[bytes]], record: RotatingFile
) -> None:
    arrivals = select.poll()
    arrivals.register(source, select.POLLIN)
    while True:
        arrivals.poll()
        # What has been read is nowhere else, so a signal waits until it is written.
        before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM, signal.SIGHUP})
        try:
            record.write(chosen(source.read()))
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _choice(arguments: argparse.Namespace) -> Callable[[list[bytes]], list[bytes]]:
    """What makes of the lines that come those that are put out."""
    if arguments.type is None and arguments.unit is None and arguments.format == "json":
        return lambda lines: lines

    def wanted(event: Event) -> bool:
        return _matches(event.type, arguments.type) and _matches(event.unit, arguments.unit)

    if arguments.format == "json":
        return lambda lines: [line for line in lines if wanted(decode(line))]
    pretty = EventFormatter() if arguments.to is not None else EventFormatter(paint_for_terminal())
    encoding = "utf-8" if arguments.to is not None else sys.stdout.encoding

    def pretty_lines(lines: list[bytes]) -> list[bytes]:
        events = filter(wanted, map(decode, lines))
        return [f"{pretty.line(event)}\n".encode(encoding, "backslashreplace") for event in events]

    return pretty_lines


def _matches(text: str, patterns: list[str] | None) -> bool:
    return patterns is None or any(fnmatchcase(text, pattern) for pattern in patterns)
