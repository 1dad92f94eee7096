"""`socketpusher send`: events from standard input, or one from the command line, to a socket."""

import argparse
import sys
from typing import Any

from .arguments import Commands, add_command, add_path

_DESCRIPTION = """\
Sends events to whoever listens on a Unix socket, so that a shell script, or a program in another language, can be
watched: one event that --type and its companions describe, or without --type each line of standard input, a JSON object
with "type" and, as far as they apply, "time", "unit", "task", "pr", "payload" and "error". An event without a time gets
the present one.

Each line is sent as soon as it is there. While the consumer is slow, input is read no faster than it takes the events,
and while it is gone another one is waited for, but at the end for 5 s only. A line that is not an event is reported and
skipped. The exit code is 0 if everything was sent, else 1.
"""

_EXAMPLES = """\
examples:
  socketpusher send --type unit.started --unit app --payload '{"total_tasks": 3}'
  socketpusher send /tmp/run.sock --type unit.failed --unit app --error 'exit code 2'
  socketpusher send < run.ndjson
  seq 3 | jq -c '{type: "task.completed", unit: "app", task: .}' | socketpusher send /tmp/run.sock
"""


def add_to(commands: Commands) -> None:
    """Add the sub-command."""
    parser = add_command(commands, "send", "send events from a shell script", _DESCRIPTION, _EXAMPLES)
    add_path(parser, "where the consumer listens")
    parser.add_argument("--type", help="what happened; sends one event, and reads no input")
    parser.add_argument("--unit", help="what it happened to")
    parser.add_argument("--task", type=_int64, metavar="N", help="the task inside the unit, from 1")
    parser.add_argument("--pr", type=_int64, metavar="N", help="the number of a pull request")
    parser.add_argument("--payload", type=_json, metavar="JSON", help="anything else")
    parser.add_argument("--error", help="what went wrong")
    parser.set_defaults(run=run, parser=parser)


def _int64(text: str) -> int:
    try:
        number = int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number") from None
    if not -(2**63) <= number < 2**63:
        raise argparse.ArgumentTypeError(f"{text} does not fit 64 bits")
    return number


def _json(text: str) -> Any:
    import orjson

    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError as error:
        raise argparse.ArgumentTypeError(f"it is not JSON: {error}: {text}") from None


def run(arguments: argparse.Namespace) -> int:
    """Run it to the end of the input. Returns the exit code."""
    from ..events import Event
    from .flow_control import EventLines, FlowControlledPusher, count, say

    described = {key: getattr(arguments, key) for key in ("unit", "task", "pr", "payload", "error")}
    described = {key: value for key, value in described.items() if value is not None}
    if arguments.type is None and described:
        arguments.parser.error(f"--{next(iter(described))} describes an event, which needs a --type")
    feeder = FlowControlledPusher(arguments.path)
    lines = EventLines(sys.stdin.buffer, "standard input", timeless=True)
    try:
        with feeder:
            if arguments.type is not None:
                feeder.emit(Event(arguments.type, **described))
            else:
                if sys.stdin.isatty():
                    say("reading events from the terminal, one JSON object a line; Ctrl-D ends")
                for event, size in lines:
                    feeder.emit(event, size)
    finally:
        skipped = f"; {count(lines.skipped, 'line')} skipped" if lines.skipped else ""
        say(feeder.summary() + skipped)
    return 0 if feeder.complete and not lines.skipped else 1
