"""Finds the sub-command, runs it, and turns the ways it may end into exit codes and sentences."""

import argparse
import os
import signal
import sys
import types
from collections.abc import Sequence

from .. import __version__
from . import demo, doctor, drain, listen, relay, replay, send, trace, watch

_COMMANDS = (listen, watch, send, replay, trace, drain, relay, doctor, demo)
"""Each adds its parser with `add_to`, which names the function that runs it."""

_EXAMPLES = """\
examples:
  socketpusher listen                        print the events that are sent to the default socket
  socketpusher listen /tmp/run.sock          print those that are sent to another one
  socketpusher listen | jq 'select(.type == "unit.failed")'
  socketpusher watch                         see the runs that are sent to it, live
  socketpusher send --type unit.started --unit app
  socketpusher replay run.ndjson --speed 10   send again what listen > run.ndjson has kept
  socketpusher trace run.ndjson --svg r.svg   draw when what ran in it, and for how long
  socketpusher drain /var/spool/myapp        send what waits in a spool
  socketpusher relay --to nats://localhost    publish what is sent to it to NATS JetStream
  socketpusher doctor                        find out why nothing arrives
  socketpusher demo                          see the pusher at work, and what it costs, in a minute
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command.

    Args:
        argv: The arguments after the command's name; by default those of this process.

    Returns:
        The exit code.

    Raises:
        SystemExit: The command line was not understood, or asked for help or the version; or SIGTERM or SIGHUP came.
    """
    try:
        return _run(_parser().parse_args(argv))
    except KeyboardInterrupt:
        return 128 + signal.SIGINT


def _run(arguments: argparse.Namespace) -> int:
    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is signal.SIG_DFL:  # else, under nohup for example, it is to be ignored
            signal.signal(number, _leave)
    try:
        code: int = arguments.run(arguments)
        sys.stdout.flush()
        return code
    except BrokenPipeError:
        _discard_output()
        return 128 + signal.SIGPIPE
    except (OSError, ValueError) as error:
        print(f"socketpusher {arguments.command}: {_sentence(error)}", file=sys.stderr)
        return 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="socketpusher",
        description="The events of a busy Python program, as they come, through a Unix socket.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"socketpusher {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for command in _COMMANDS:
        command.add_to(commands)
    return parser


def _leave(number: int, frame: types.FrameType | None) -> None:
    """End on a signal as on an exception, so that everything is put away."""
    raise SystemExit(128 + number)


def _discard_output() -> None:
    """What is still buffered for a reader that is gone would make the interpreter complain at its end."""
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, sys.stdout.fileno())
    os.close(null)


def _sentence(error: OSError | ValueError) -> str:
    if isinstance(error, OSError) and error.strerror:
        return error.strerror + (f": {error.filename}" if error.filename else "")
    return str(error)
