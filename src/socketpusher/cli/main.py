"""Finds the command, runs it, and turns every way it may end into an exit code and a sentence.

Why argparse: the core depends on orjson and tenacity only, so click or typer would have to be an extra, and then some
installs had no command. They would also make each start slower, and save few lines.
"""

import argparse
import io
import os
import signal
import sys
import types
from collections.abc import Sequence
from importlib import import_module

from .. import __version__
from .arguments import HelpFormatter
from .output import sentence, status

IMPORT_PAUSE = 0.01
"""How long a signal waits for an import to end before it tries again, in seconds."""

COMMANDS = ("listen", "watch", "send", "replay", "trace", "drain", "relay", "doctor", "demo", "completion")
"""Each is a module with texts for the help, `add_arguments`, and `run`, which returns the exit code."""

_EXAMPLES = """\
examples:
  socketpusher listen                 print the events of the default socket
  socketpusher listen /tmp/run.sock   print those of another one
  socketpusher listen | jq 'select(.type == "unit.failed")'
  socketpusher watch                  watch the runs
  socketpusher send --type unit.started --unit app
  socketpusher replay run.ndjson --speed 10
  socketpusher trace run.ndjson --svg run.svg
  socketpusher drain /var/spool/myapp
  socketpusher relay --to nats://localhost
  socketpusher doctor                 find out why no events arrive
  socketpusher demo                   see it work on this machine
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command.

    Args:
        argv: The arguments after the command's name; by default those of this process.

    Returns:
        The exit code.

    Raises:
        SystemExit: The command line is wrong, or asks for help or the version; or SIGTERM or SIGHUP came.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    if words[:1] == ["help"]:
        words = [*words[1:], "--help"]
    _fill_closed_streams()
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # its encoding may lack what names have
    try:
        try:
            return _run(words)
        finally:
            if signal.getsignal(signal.SIGALRM) is not signal.SIG_DFL:
                signal.setitimer(signal.ITIMER_REAL, 0.0)  # of `_leave`, which would kill the interpreter at its end
            sys.stdout.flush()
    except KeyboardInterrupt:
        return 128 + signal.SIGINT
    except BrokenPipeError:
        _discard_output()
        return 128 + signal.SIGPIPE
    except (OSError, ValueError) as error:
        _discard_output()
        status(f"socketpusher {''.join(words[:1])}: {sentence(error)}")
        return 1


def _run(words: list[str]) -> int:
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT):
        if signal.getsignal(number) in (signal.SIG_DFL, signal.default_int_handler):  # under nohup SIGHUP stays ignored
            signal.signal(number, _leave)
    name = words[0] if words else ""
    parser = build_parser((name,) if name in COMMANDS else COMMANDS)
    if not words:
        parser.print_help(sys.stderr)
        return 2
    if name not in COMMANDS and not name.startswith("-"):
        from difflib import get_close_matches

        close = get_close_matches(name, COMMANDS, 1)
        advice = f"did you mean {close[0]}?" if close else f"the commands are {', '.join(COMMANDS)}"
        parser.error(f"there is no command {name!r}; {advice}")
    arguments = parser.parse_args(words)
    code: int = arguments.run(arguments)
    return code


def build_parser(names: Sequence[str]) -> argparse.ArgumentParser:
    """Return the parser with these commands: the one that runs, so that no other is imported, or all for the help."""
    parser = argparse.ArgumentParser(
        prog="socketpusher",
        description="Carries the events of a busy Python program to other processes, through a Unix socket.",
        epilog=_EXAMPLES,
        formatter_class=HelpFormatter,
    )
    parser.add_argument("-V", "--version", action="version", version=f"socketpusher {__version__}")
    commands = parser.add_subparsers(
        title="commands", dest="command", required=True, metavar="COMMAND", prog="socketpusher"
    )
    for name in names:
        module = import_module(f".{name}", __package__)
        command = commands.add_parser(
            name,
            help=module.SUMMARY,
            description=module.DESCRIPTION,
            epilog=module.EXAMPLES,
            formatter_class=HelpFormatter,
        )
        module.add_arguments(command)
        command.set_defaults(run=module.run, parser=command)
    return parser


def _leave(number: int, frame: types.FrameType | None) -> None:
    """End on a signal as on an exception, so that everything is cleaned up.

    In the middle of an import the exception could be ignored, or crash an extension module: then the signal is sent
    again, to whatever handles it by then.
    """
    at = frame
    while at is not None and at.f_code is not main.__code__:
        if at.f_code.co_filename.startswith("<frozen importlib"):
            signal.signal(signal.SIGALRM, lambda *_: signal.raise_signal(number))
            signal.setitimer(signal.ITIMER_REAL, IMPORT_PAUSE)
            return
        at = at.f_back
    signal.setitimer(signal.ITIMER_REAL, 0.0)
    if number == signal.SIGINT:
        raise KeyboardInterrupt
    raise SystemExit(128 + number)


def _fill_closed_streams() -> None:
    """Open each closed standard stream on the null device, before another file takes its number.

    Standard output can't be written to then, so that a command which does says that it is closed.
    """
    for name, flags in (("stdin", os.O_RDONLY), ("stdout", os.O_RDONLY), ("stderr", os.O_WRONLY)):
        if getattr(sys, name) is None:
            number = os.open(os.devnull, flags)
            os.set_inheritable(number, True)
            if name != "stdin":  # which stays None: it is not an empty one
                setattr(sys, name, open(number, "w"))  # noqa: SIM115 - as long as the process


def _discard_output() -> None:
    """Drop the output that can't be written: the interpreter would complain about it at its end."""
    try:
        sys.stdout.flush()
    except OSError:
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, sys.stdout.fileno())
        os.close(null)
