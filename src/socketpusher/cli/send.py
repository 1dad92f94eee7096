"""`socketpusher send`: events from standard input, or one from the command line, to a socket."""

import argparse
import io
from typing import Any, BinaryIO

from .arguments import add_consumer, positive
from .output import status

SUMMARY = "send events from a shell script"
DESCRIPTION = """\
Sends events to the consumer that listens on a Unix socket, so that a shell script, or a program in another language,
can be watched. It sends one event that --type and the other options describe. Without --type it sends each line of
standard input: a JSON object with "type" and, where they apply, "time", "unit", "task", "pr", "payload" and "error".
Lines are sent as they are; one without a time gets the present one. Input may be compressed by gzip.

Watch shows each sender as a run. To show a whole script as one run, write its events as lines into one send.

Each line is sent immediately. A slow consumer slows down reading. If it disconnects, the command waits for another one;
at the end of the input, for at most 5 s. Lines that are not events are skipped and counted; the first ten are named.
The exit code is 0 if everything was sent, else 1.
"""

EXAMPLES = """\
examples:
  socketpusher send --type unit.started --unit app --payload '{"total_tasks":3}'
  socketpusher send /tmp/run.sock --type unit.failed --unit app --error 'exit 2'
  socketpusher send --wait < run.ndjson
  seq 3 | jq -c '{type: "tick", task: .}' | socketpusher send /tmp/run.sock
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    add_consumer(parser)
    parser.add_argument("--type", help="what happened; sends one event and does not read standard input")
    parser.add_argument("--unit", help="what it happened to")
    parser.add_argument("--task", type=positive, metavar="N", help="the task inside the unit, from 1")
    parser.add_argument("--pr", type=positive, metavar="N", help="the number of a pull request")
    parser.add_argument("--payload", type=_json, metavar="JSON", help="anything else")
    parser.add_argument("--error", help="what went wrong")


def _json(text: str) -> Any:
    import orjson

    from ..wire import json_error

    try:
        orjson.loads(text)
    except orjson.JSONDecodeError as error:
        raise argparse.ArgumentTypeError(f"it is not JSON: {json_error(error)}: {text!r}") from None
    return orjson.Fragment(text.replace("\n", " "))  # as it is, with numbers of any size


def run(arguments: argparse.Namespace) -> int:
    """Send everything to the end of the input. Returns the exit code."""
    from ..events import Event
    from ..wire import encode
    from .flow_control import EventLines, FlowControlledPusher
    from .lines import standard_input

    described = {key: getattr(arguments, key) for key in ("unit", "task", "pr", "payload", "error")}
    described = {key: value for key, value in described.items() if value is not None}
    if arguments.type == "":
        arguments.parser.error("--type is empty; give a type such as unit.started")
    if arguments.type is not None:
        file: BinaryIO = io.BufferedReader(io.BytesIO(encode(Event(arguments.type, **described))))
    elif described:
        arguments.parser.error(f"--{next(iter(described))} describes an event, which needs a --type")
    else:
        file = standard_input()
    lines = EventLines(file, "standard input", timeless=True)
    pusher = FlowControlledPusher(arguments)
    try:
        with pusher:
            if file.isatty():
                status("reading events from the terminal, one JSON object a line; Ctrl-D ends")
            for line, _ in lines:
                pusher.send(line)
    finally:
        status(pusher.summary() + lines.summary())
    return 0 if pusher.complete and not lines.skipped else 1
