"""`socketpusher listen`: the events that are sent to a socket, on standard output or in a file.

It serves several consumers through the recording: each reads the file at its own pace, from the start of the run. A
second socket would need a buffer, would drop, and would have to tell a late consumer where the run stands.
"""

import argparse
import os
import select
import signal
import stat
import sys
import types
from collections.abc import Callable
from contextlib import ExitStack
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any

from .arguments import add_allowed_senders, add_path, positive, size
from .nats_options import Patience, add_stream_source, subscribed
from .output import status
from .rotating_file import RotatingFile, explained, write_whole

if TYPE_CHECKING:
    from ..events import Event
    from ..jetstream.subscription import Subscription
    from ..listener.listener import Listener
    from ..listener.problems import ProblemLog

DAY = 86_400.0
"""How long it waits at once, in seconds; `poll` takes no more than 24 of them."""

SUMMARY = "print or record the events sent to a socket"
DESCRIPTION = """\
Listens on a Unix socket and prints each event as the line that was sent, byte for byte. With --format pretty it prints
one aligned line for people instead, with the local time, and shortens long payloads and errors. Lines that are not
events are reported on standard error. Any number of programs may send, one after the other or at once. Ctrl-C ends it.

Only you and root can use the socket file, unless you give --allow-uid. It is removed at the end.

A PATTERN is one of the shell: *, ?, [abc]. If you give several, one must match.

With --to, lines are appended to FILE. Before FILE would grow over --max-bytes, it is renamed to FILE.1, FILE.1 to
FILE.2, and so on; the last --keep of them are kept. If FILE is moved or removed, for example by logrotate, a new one is
created before the next line; SIGHUP does the same at once.

A line leaves the socket only when it is printed or in the file: if the disk is full or the command is killed, pushers
send the line again to the next listener.

To record and watch the same run, record it with --to and watch the recording: see below. A watcher can start late, stop
or be slow without any effect on the recording.
"""

EXAMPLES = """\
examples:
  socketpusher listen                      on the default socket
  socketpusher listen /tmp/run.sock
  socketpusher listen --format pretty --type '*.failed' --type '*.blocked'
  socketpusher listen --unit 'app*' > run.ndjson
  socketpusher listen --to run.ndjson --max-bytes 10M --keep 3
  socketpusher listen --from nats://localhost --host build-7
  socketpusher listen --from nats://localhost --since 2h --type '*.failed'
  socketpusher listen | jq -r '[.time, .type, .unit] | @tsv'

record a run, watch it, and pass it on to another listener, in three terminals:
  socketpusher listen --to run.ndjson
  socketpusher watch run.ndjson
  tail -n +1 -F run.ndjson | socketpusher send /tmp/other.sock

A Python program sends its events with:
  bus = Bus()
  with SocketPusher(bus, PusherConfig(socket_path="/tmp/run.sock")):
      bus.emit(Event("unit.started", unit="app"))
"""

_Choice = Callable[[list[bytes]], list[bytes]]
"""Makes of the lines that were received those that are written."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    add_path(parser, "where to listen")
    for what in ("type", "unit"):
        parser.add_argument(
            f"--{what}",
            action="append",
            metavar="PATTERN",
            help=f"only events whose {what} matches; may be given more than once",
        )
    parser.add_argument("--format", choices=("json", "pretty"), default="json", help="default: %(default)s")
    parser.add_argument("--to", metavar="FILE", help="append to a file instead of printing")
    parser.add_argument(
        "--max-bytes",
        type=size,
        metavar="SIZE",
        help="with --to: how large FILE may become, in bytes or with K, M or G (default: 100M)",
    )
    parser.add_argument("--keep", type=positive, metavar="N", help="with --to: how many old files to keep (default: 5)")
    add_allowed_senders(parser)
    add_stream_source(parser)


def run(arguments: argparse.Namespace) -> int:
    """Run it until a signal comes or the reader of its output has ended. Returns the exit code."""
    from ..listener.listener import listen
    from ..listener.problems import ProblemLog
    from ..terminal.tty import signals_caught, uninterrupted

    if arguments.to is None and (arguments.max_bytes or arguments.keep):
        arguments.parser.error(f"{'--max-bytes' if arguments.max_bytes else '--keep'} needs --to")
    chosen = _choice(arguments)
    problems = ProblemLog(status)
    subscription = subscribed(arguments, problems, raw=True)
    patience = Patience(arguments, subscription)
    with ExitStack() as opened:
        record = None
        if arguments.to is None:
            os.write(sys.stdout.fileno(), b"")  # fails now if it is closed, not at the first event
        else:
            record = RotatingFile(arguments.to, arguments.max_bytes or 100 << 20, arguments.keep or 5)
            opened.callback(record.close)
            opened.callback(signal.signal, signal.SIGHUP, _reopen_on_hangup(record))
        source: Listener[bytes] | Subscription[bytes]
        if subscription is not None:
            source = opened.enter_context(subscription)
            status(f"following {subscription.title}")
        else:
            with uninterrupted():
                listener = listen(arguments.path, raw=True, allow_uids=arguments.allow_uid, on_problem=problems)
                source = opened.enter_context(listener)
            status(f"listening on {listener.path}")
        _copy(source, chosen, record, problems, patience, opened.enter_context(signals_caught()))
    return 0


def _copy(
    source: "Listener[bytes] | Subscription[bytes]",
    chosen: _Choice,
    record: RotatingFile | None,
    problems: "ProblemLog",
    patience: Patience,
    signalled: int,
) -> None:
    from ..listener.listener import Listener

    write, blocked = _print, set[int]()
    output = sys.stdout.fileno()
    ready = select.poll()
    ready.register(source, select.POLLIN)
    ready.register(signalled, select.POLLIN)
    if record is not None:
        write = record.write
    else:
        ready.register(output, 0)  # tells only that its reader has closed it
    if record is not None or stat.S_ISREG(os.fstat(output).st_mode):
        # A signal between the write and the release would make the senders send those lines twice, so it waits; not
        # for a pipe, which may wait for its reader.
        blocked = {signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT}
    while True:
        limits = [min(left, DAY) * 1000 for left in (problems.remaining(), patience.left()) if left is not None]
        found = dict(ready.poll(min(limits, default=None)))
        problems.end_episode()
        if output in found:
            raise BrokenPipeError
        if found.pop(signalled, 0):
            os.read(signalled, 1024)
        if found:
            lines = source.read(hold=True) if isinstance(source, Listener) else source.read()
            before = signal.pthread_sigmask(signal.SIG_BLOCK, blocked)
            try:
                write(chosen(lines))
                if isinstance(source, Listener):
                    source.release()
            finally:
                signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _print(lines: list[bytes]) -> None:
    with explained("write to standard output"):
        write_whole(sys.stdout.fileno(), b"".join(lines))


def _reopen_on_hangup(record: RotatingFile) -> Any:
    """Let SIGHUP reopen the file, unless it means that the terminal was closed. Returns the handler before."""
    leave = signal.getsignal(signal.SIGHUP)
    terminals = list(filter(os.isatty, range(3)))

    def on_hangup(number: int, frame: types.FrameType | None) -> None:
        if callable(leave) and not all(map(os.isatty, terminals)):  # what was a terminal was closed
            leave(number, frame)
        record.write(())  # opens the file at the path

    if callable(leave):  # under nohup it stays ignored
        signal.signal(signal.SIGHUP, on_hangup)
    return leave


def _choice(arguments: argparse.Namespace) -> _Choice:
    """Return what makes of the lines that were received those that are written."""
    if arguments.type is None and arguments.unit is None and arguments.format == "json":
        return lambda lines: lines
    from ..wire import decode

    def wanted(event: "Event") -> bool:
        return _matches(event.type, arguments.type) and _matches(event.unit, arguments.unit)

    if arguments.format == "json":
        return lambda lines: [line for line in lines if wanted(decode(line))]
    from .event_format import EventFormatter, shows_colors

    pretty = EventFormatter(colors=arguments.to is None and shows_colors())
    encoding = "utf-8" if arguments.to is not None else sys.stdout.encoding

    def pretty_lines(lines: list[bytes]) -> list[bytes]:
        events = filter(wanted, map(decode, lines))
        return [f"{pretty.line(event)}\n".encode(encoding, "backslashreplace") for event in events]

    return pretty_lines


def _matches(text: str, patterns: list[str] | None) -> bool:
    return patterns is None or any(fnmatchcase(text, pattern) for pattern in patterns)
