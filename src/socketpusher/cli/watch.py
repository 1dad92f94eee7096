"""`socketpusher watch`: the runs that are sent to a socket, live in the terminal."""

import argparse
import math
import os
import sys
from contextlib import ExitStack
from typing import TYPE_CHECKING

from .arguments import add_allowed_senders, add_path
from .nats_options import add_stream_source, subscribed
from .output import sentence, status, with_options

if TYPE_CHECKING:
    from ..terminal.sources import EventSource

SUMMARY = "see the runs that are sent to a socket or a stream, live"
DESCRIPTION = """\
Shows runs: levels and units, what runs and for how long, what failed and why, the last events. It listens on a Unix
socket, to which pushers connect; or, if PATH is a recording, it reads that and follows it while it grows. Press ? for
the keys, and q or Ctrl-C to quit, which leaves a summary on the terminal. If standard output is no terminal, each
change that matters is a line: time, run, type of the event, unit, reason.

With --once it waits for a sender, prints where its run stands, and ends. A pusher that has found no consumer for some
time tries again every 5 s, unless it is configured otherwise.

With --from it shows the runs that socketpusher relay has put into a stream of NATS JetStream, of any number of hosts:
what the stream has kept of them, then what follows. With --since or --last it does not know earlier events, such as the
graph of a run that had begun, and units that have completed.
"""

EXAMPLES = """\
examples:
  socketpusher watch                   on the default socket
  socketpusher watch /tmp/run.sock
  socketpusher watch run.ndjson        a recording that listen --to makes
  socketpusher watch --once            where the run stands now
  socketpusher watch --from nats://localhost
  socketpusher watch --from nats://localhost --since 2h
  socketpusher watch | grep --line-buffered ' unit.failed '
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    add_path(parser, "where to listen, or a recording to read")
    parser.add_argument("--once", action="store_true", help="print where the runs stand, and end")
    parser.add_argument(
        "--exit-code",
        action="store_true",
        help="end when the run ends; the exit code is 0 if it completed, 1 if it failed, 2 if neither is known",
    )
    add_allowed_senders(parser)
    add_stream_source(
        parser,
        timeout="give up after this time without a sender, or without a stream that can be read; for a recording, "
        "the time begins when it has not grown for a minute (default: never; 10 with --once --from)",
    )


def run(arguments: argparse.Namespace) -> int:
    """Run it until a signal comes, or once. Returns the exit code."""
    from ..terminal.watch import UNKNOWN, watch

    timeout = arguments.timeout
    if timeout is None:
        timeout = 10.0 if arguments.once and arguments.url is not None else math.inf
    with ExitStack() as opened:
        try:
            os.write(sys.stdout.fileno(), b"")  # fails now if it is closed, not at the first event
            source = _source(arguments, opened)
            outcome = watch(source, once=arguments.once, until_end=arguments.exit_code, timeout=timeout)
        except (OSError, ValueError) as error:
            if not arguments.exit_code or isinstance(error, BrokenPipeError):
                raise
            status(f"socketpusher watch: {sentence(error)}")
            return UNKNOWN
    return outcome if arguments.exit_code else 0


def _source(arguments: argparse.Namespace, opened: ExitStack) -> "EventSource":
    from ..listener.listener import listen
    from ..listener.problems import FrequentProblem, Problem
    from ..terminal.sources import RecordingSource, SocketSource, StreamSource
    from ..terminal.tty import uninterrupted

    problems: list[str] = []
    subscription = subscribed(arguments, problems.append)
    if subscription is not None:
        stream = StreamSource(opened.enter_context(subscription), problems)
        chosen = {name: getattr(arguments, name) for name in ("host", "session", "since", "last")}
        stream.where += "".join(f", {what} {name}" for what, name in chosen.items() if name is not None)
        return stream
    if arguments.path is not None and os.path.isfile(arguments.path):
        recording = RecordingSource(arguments.path)
        opened.callback(recording.close)
        return recording

    def on_problem(problem: Problem) -> None:
        problems.append(FrequentProblem(with_options(problem)))

    with uninterrupted():
        listener = opened.enter_context(listen(arguments.path, allow_uids=arguments.allow_uid, on_problem=on_problem))
    return SocketSource(listener, problems)
