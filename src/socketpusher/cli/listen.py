"""`socketpusher listen`: every line that is sent to a socket, on standard output."""

import argparse
import sys

from ..consumers.listener import listen
from .arguments import Commands, add_command, add_path

_DESCRIPTION = """\
Listens on a Unix socket and prints every line that is sent to it, unmodified. Senders may come and go; Ctrl-C ends it.
The socket file can be used by you only, and is removed at the end.
"""

_EXAMPLES = """\
examples:
  socketpusher listen                        where a pusher sends to unless told otherwise
  socketpusher listen /tmp/run.sock
  socketpusher listen > run.ndjson           keep a run
  socketpusher listen | jq -r '[.time, .type, .unit] | @tsv'

A program sends its events there with:
  bus = Bus()
  with SocketPusher(bus, PusherConfig(socket_path="/tmp/run.sock")):
      bus.emit(Event("unit.started", unit="app"))
"""


def add_to(commands: Commands) -> None:
    """Add the sub-command."""
    parser = add_command(commands, "listen", "print every line that is sent to a socket", _DESCRIPTION, _EXAMPLES)
    add_path(parser, "where to listen")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Run it until a signal comes. Returns the exit code."""
    output = sys.stdout.buffer
    with listen(arguments.path, raw=True) as listener:
        print(f"listening on {listener.path}", file=sys.stderr, flush=True)
        while True:
            output.writelines(listener.read())
            output.flush()
