"""What the parsers of several sub-commands have in common."""

import argparse
import re
from typing import TypeAlias

from ..config import default_socket_path

Commands: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"
"""What `argparse` gives to add sub-commands to."""


def add_command(
    commands: Commands, name: str, summary: str, description: str, examples: str
) -> argparse.ArgumentParser:
    """Add a sub-command whose help teaches by examples."""
    return commands.add_parser(
        name,
        help=summary,
        description=description,
        epilog=examples,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )


def add_path(parser: argparse.ArgumentParser, what: str) -> None:
    """Add the optional argument PATH; `what` says in the help what is done there."""
    parser.add_argument(
        "path", nargs="?", metavar="PATH", help=f"{what} (default: {default_socket_path()})".replace("%", "%%")
    )


def add_consumer(parser: argparse.ArgumentParser) -> None:
    """Add PATH, and the options that say which consumer may be there and how long to wait for one."""
    add_path(parser, "where the consumer listens")
    parser.add_argument("--wait", action="store_true", help="wait for a consumer if nobody listens there yet")
    parser.add_argument(
        "--timeout",
        type=seconds,
        metavar="SECONDS",
        help="how long to wait for a consumer: with --wait at the start (default: without limit), and if it is lost, "
        "at the end (default: 5)",
    )
    add_allowed_users(parser)


def add_allowed_users(parser: argparse.ArgumentParser) -> None:
    """Add the option that allows a consumer of another user."""
    parser.add_argument(
        "--allow-uid",
        action="append",
        default=[],
        type=int,
        metavar="UID",
        help="also send to a consumer that runs as this user; may be given more than once",
    )


def seconds(text: str) -> float:
    """A number of seconds from 0 on, as an argument's type."""
    try:
        number = float(text)
    except ValueError:
        number = -1.0
    if not 0 <= number < float("inf"):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of seconds")
    return number


def positive(text: str) -> int:
    """A whole number from 1 on, as an argument's type."""
    if not text.isdecimal() or not 1 <= int(text) < 2**63:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 1 on that fits 64 bits")
    return int(text)


def size(text: str) -> int:
    """A number of bytes from 1 on, such as 4096, 100K, 100M or 1G (powers of 1024), as an argument's type."""
    match = re.fullmatch(r"([0-9]+)([KMG]?)", text.upper())
    if match is None or int(match[1]) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a size such as 4096, 100K, 100M or 1G")
    return int(match[1]) << {"": 0, "K": 10, "M": 20, "G": 30}[match[2]]
