"""`socketpusher watch`: the runs that are sent to a socket, live in the terminal."""

import argparse
import sys

from ..terminal.watch import print_once, print_stream_once, watch, watch_stream
from .arguments import Commands, add_command, add_path
from .nats_options import add_stream_source, subscribed

_DESCRIPTION = """\
Listens on a Unix socket and shows the runs that are sent to it: levels and units, what runs and for how long, what
failed and why, the last events. Senders may come and go. Ctrl-C ends it, and leaves a summary on the terminal. Where
standard output is no terminal, every change that matters is a line: time, run, type of the event, unit, error.

With --once it waits for a sender until that has told where its run stands, prints that, and ends. The sender has told
when it was quiet for 0.3 s, or connected for 1 s. A pusher that has long looked for a consumer in vain tries again
every 5 s, unless told otherwise.

With --from it shows the runs that socketpusher relay has put into a stream of NATS JetStream, of any number of hosts:
what the stream has kept of them, then what follows; with --once where they stand when that is read. A run that has
completed or failed counts as gone.
"""

_EXAMPLES = """\
examples:
  socketpusher watch                         where a pusher sends to unless told otherwise
  socketpusher watch /tmp/run.sock
  socketpusher watch --once                  where the run stands now
  socketpusher watch --from nats://localhost
  socketpusher watch | grep --line-buffered ' unit.failed '
"""


def add_to(commands: Commands) -> None:
    """Add the sub-command."""
    parser = add_command(
        commands, "watch", "see the runs that are sent to a socket or a stream, live", _DESCRIPTION, _EXAMPLES
    )
    add_path(parser, "where to listen")
    parser.add_argument("--once", action="store_true", help="print where the run of the next sender stands, and end")
    add_stream_source(parser)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Run it until a signal comes, or once. Returns the exit code."""
    sys.stdout.reconfigure(errors="replace")  # type: ignore[union-attr]  # names may hold what its encoding has not
    problems: list[str] = []
    subscription = subscribed(arguments, problems.append)
    if subscription is None:
        print_once(arguments.path) if arguments.once else watch(arguments.path)
        return 0
    with subscription:
        if arguments.once:
            print_stream_once(subscription, problems)
        else:
            watch_stream(subscription, problems)
    return 0
