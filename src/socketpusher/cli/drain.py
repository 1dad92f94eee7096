"""`socketpusher drain`: what pushers have left in a spool, to a socket."""

import argparse

from .arguments import Commands, add_command, add_path

_DESCRIPTION = """\
Sends what pushers have left in a spool, the directory of PusherConfig(spool=DIRECTORY), to whoever listens on a Unix
socket: the oldest run first, each with its graph and where it stood, the events in their order and with their ids. What
the consumer has read leaves the disk.

It ends when nothing is left but what another program has; Ctrl-C ends it earlier, and loses nothing. There must be a
consumer when it starts; if that goes away another one is waited for. The exit code is 0 if everything was sent, else 1.
"""

_EXAMPLES = """\
examples:
  socketpusher drain /var/spool/myapp
  socketpusher drain /var/spool/myapp /tmp/run.sock
  socketpusher doctor --spool /var/spool/myapp        what waits there
"""


def add_to(commands: Commands) -> None:
    """Add the sub-command."""
    parser = add_command(commands, "drain", "send what waits in a spool", _DESCRIPTION, _EXAMPLES)
    parser.add_argument("directory", metavar="DIRECTORY", help="the directory that PusherConfig has as its spool")
    add_path(parser, "where the consumer listens")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Run it until nothing is left. Returns the exit code."""
    from .draining import drain

    return drain(arguments.directory, arguments.path)
