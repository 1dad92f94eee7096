"""What the parsers of several commands have in common."""

import argparse
import re
import textwrap
from collections.abc import Iterable
from typing import Any

from ..config import default_socket_path


class HelpFormatter(argparse.HelpFormatter):
    """Fills paragraphs to the width of the terminal, keeps those with indented lines, and does not repeat all options.

    argparse either rewraps everything or nothing, and breaks lines inside the names of options.
    """

    def add_usage(self, usage: Any, actions: Iterable[argparse.Action], *rest: Any, **named: Any) -> None:
        """Add the usage line."""
        arguments = [action for action in actions if not action.option_strings]
        if len(arguments) < len(list(actions)):
            arguments.insert(0, argparse.Action(["options"], "", nargs=0))
        super().add_usage(usage, arguments, *rest, **named)

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        paragraphs = text.strip("\n").split("\n\n")
        return "\n\n".join(part if "\n " in part else "\n".join(self._split_lines(part, width)) for part in paragraphs)

    def _split_lines(self, text: str, width: int) -> list[str]:
        return textwrap.wrap(" ".join(text.split()), width, break_on_hyphens=False)


def add_path(parser: argparse.ArgumentParser, what: str) -> None:
    """Add the optional argument PATH; `what` says in the help what is done there."""
    parser.add_argument(
        "path",
        nargs="?",
        type=path,
        metavar="PATH",
        help=f"{what} (default: {default_socket_path()})".replace("%", "%%"),
    )


def add_consumer(
    parser: argparse.ArgumentParser, at_end: str = "; at the end for another one, if it disconnected (default: 5)"
) -> None:
    """Add PATH, and the options that say which consumer may be there and how long to wait for one.

    Args:
        parser: Where to add them.
        at_end: How long the command waits for another consumer; for the help.
    """
    add_path(parser, "where the consumer listens")
    parser.add_argument("--wait", action="store_true", help="wait for a consumer if nobody listens there yet")
    parser.add_argument(
        "--timeout",
        type=seconds,
        metavar="SECONDS",
        help="how long to wait for a consumer: at the start with --wait (default: without limit)" + at_end,
    )
    add_allowed_users(parser)


def add_allowed_users(
    parser: argparse.ArgumentParser, what: str = "also send to a consumer that runs as this user"
) -> None:
    """Add the option that allows another user at the other end; `what` says in the help what it may do."""
    parser.add_argument(
        "--allow-uid",
        action="append",
        default=[],
        type=int,
        metavar="UID",
        help=f"{what}; may be given more than once",
    )


def add_allowed_senders(parser: argparse.ArgumentParser) -> None:
    """Add the same option for a command that listens."""
    add_allowed_users(
        parser, "let this user send, too; programs of that user must allow yours: PusherConfig(allow_uids=...)"
    )


def path(text: str) -> str:
    """Return a path, as an argument's type. A URL is refused, and not repeated, since a password may be in it."""
    if "://" in text:
        raise argparse.ArgumentTypeError("this is a URL, not a path; --from takes one, or --to of relay")
    return text


def seconds(text: str) -> float:
    """Return a number of seconds from 0 on, as an argument's type."""
    try:
        number = float(text)
    except ValueError:
        number = -1.0
    if not 0 <= number < float("inf"):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of seconds")
    return number


def positive(text: str) -> int:
    """Return a whole number from 1 on, as an argument's type."""
    if not text.isdecimal() or not 1 <= int(text) < 2**63:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 1 on that fits 64 bits")
    return int(text)


def size(text: str) -> int:
    """Return a number of bytes, such as 4096, 100K, 100M or 1G (powers of 1024), as an argument's type."""
    match = re.fullmatch(r"([0-9]{1,20})([KMG]?)", text.upper())
    number = int(match[1]) << {"": 0, "K": 10, "M": 20, "G": 30}[match[2]] if match else 0
    if not 1 <= number < 2**63:
        raise argparse.ArgumentTypeError(f"{text!r} is not a size such as 4096, 100K, 100M or 1G")
    return number
