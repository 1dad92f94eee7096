"""`socketpusher replay`: a recorded stream of events, again, at its own pace or another."""

import argparse
import math

from .arguments import Commands, add_command, add_path

_DESCRIPTION = """\
Sends the events of a recording, such as `socketpusher listen > FILE` makes, to whoever listens on a Unix socket, as far
apart as their times are, and with these times. Pauses are kept, however long they are; one of over 10 s is announced on
standard error. Where the recording's clock goes back by more than a second, the event follows at once and the pace goes
on from there; the end tells how often that was.

Nothing is dropped: a consumer that is slow delays the events, which then follow closer until they are on time again,
and while it is gone another one is waited for, but at the end for 5 s only. Lines that are no events are reported and
skipped. The exit code is 0 if everything was sent, else 1.
"""

_EXAMPLES = """\
examples:
  socketpusher replay run.ndjson
  socketpusher replay run.ndjson /tmp/run.sock --speed 10
  socketpusher replay run.ndjson --speed max                as fast as the consumer takes it
  cat run.ndjson.2 run.ndjson.1 run.ndjson | socketpusher replay - --speed max
"""


def add_to(commands: Commands) -> None:
    """Add the sub-command."""
    parser = add_command(commands, "replay", "send a recorded stream again", _DESCRIPTION, _EXAMPLES)
    parser.add_argument("file", metavar="FILE", help="the recording, or - for standard input")
    add_path(parser, "where the consumer listens")
    parser.add_argument(
        "--speed",
        type=_speed,
        default=1.0,
        metavar="N",
        help="10 is ten times faster, 0.5 half as fast; 0 or max is as fast as the consumer takes it (default: 1)",
    )
    parser.set_defaults(run=run)


def _speed(text: str) -> float:
    try:
        speed = 0.0 if text == "max" else float(text)
    except ValueError:
        speed = -1.0
    if not math.isfinite(speed) or speed < 0:
        raise argparse.ArgumentTypeError(f"{text!r} is neither a number from 0 on nor max")
    return speed


def run(arguments: argparse.Namespace) -> int:
    """Run it to the end of the recording. Returns the exit code."""
    from .replaying import replay

    return replay(arguments.file, arguments.path, arguments.speed)
