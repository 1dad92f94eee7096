"""The command `socketpusher`.

Exit codes: 0 as wished, 1 for a failure, 2 for a command line that is not understood, and 128 + n where signal n ended
it: 130 for Ctrl-C, 141 for a reader of the output that is gone (`| head`), 143 for SIGTERM.
"""

import argparse
import os
import signal
import sys
import types
from collections.abc import Sequence

from . import __version__
from .config import default_socket_path
from .consumers.listener import listen
from .demo import DEFAULT_ROUNDS, demonstrate

_EXAMPLES = """\
examples:
  socketpusher listen                        print the events that are sent to the default socket
  socketpusher listen /tmp/run.sock          print those that are sent to another one
  socketpusher listen | jq 'select(.type == "unit.failed")'
  socketpusher demo                          see the pusher at work, and what it costs, in half a minute
"""

_LISTEN = """\
Listens on a Unix socket and prints every line that is sent to it, unmodified. Senders may come and go; Ctrl-C ends it.
The socket file can be used by you only, and is removed at the end.
"""

_LISTEN_EXAMPLES = """\
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

_DEMO = """\
Runs a scheduler that computes without pause: it reads, parses and compiles the modules of the Python standard library,
each after those it imports. The events of the scheduler go through a SocketPusher to a listener in another process,
which shows them as they come. The same schedule runs without a pusher too, in turn, so the table at the end tells what
the pusher cost, how long an event took, and how many were lost. All figures are measured in the run that you see.
"""

_DEMO_EXAMPLES = """\
examples:
  socketpusher demo
  socketpusher demo --package json --package email
  socketpusher demo --package numpy          an installed package; it is read, not imported
  socketpusher demo --plain | tee demo.txt   lines instead of bars
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
    arguments = _parser().parse_args(argv)
    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is signal.SIG_DFL:  # else, under nohup for example, it is to be ignored
            signal.signal(number, _leave)
    try:
        if arguments.command == "listen":
            _listen(arguments.path)
        else:
            demonstrate(arguments.package, rounds=arguments.rounds, plain=arguments.plain)
        sys.stdout.flush()
        return 0
    except KeyboardInterrupt:
        return 128 + signal.SIGINT
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
    listening = commands.add_parser(
        "listen",
        help="print every line that is sent to a socket",
        description=_LISTEN,
        epilog=_LISTEN_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    listening.add_argument(
        "path", nargs="?", metavar="PATH", help=f"where to listen (default: {default_socket_path()})".replace("%", "%%")
    )
    demo = commands.add_parser(
        "demo",
        help="watch a scheduler that never sleeps, and measure what watching costs",
        description=_DEMO,
        epilog=_DEMO_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    demo.add_argument(
        "--package",
        action="append",
        default=[],
        metavar="NAME",
        help="a package or module to work on instead of the standard library; may be given more than once",
    )
    demo.add_argument(
        "--rounds",
        type=_positive,
        default=DEFAULT_ROUNDS,
        metavar="N",
        help="how many schedules to measure with the pusher, and as many without (default: %(default)s)",
    )
    demo.add_argument("--plain", action="store_true", help="print lines, no progress bars, also to a terminal")
    return parser


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number from 1 on")
    return int(text)


def _listen(path: str | None) -> None:
    output = sys.stdout.buffer
    with listen(path, raw=True) as listener:
        print(f"listening on {listener.path}", file=sys.stderr, flush=True)
        while True:
            output.writelines(listener.read())
            output.flush()


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
