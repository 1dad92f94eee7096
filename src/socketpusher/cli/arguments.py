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


def positive(text: str) -> int:
    """A whole number from 1 on, as an argument's type."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number from 1 on")
    return int(text)


def size(text: str) -> int:
    """A number of bytes from 1 on, such as 4096, 100K, 100M or 1G (powers of 1024), as an argument's type."""
    match = re.fullmatch(r"([0-9]+)([KMG]?)", text.upper())
    if match is None or int(match[1]) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a size such as 4096, 100K, 100M or 1G")
    return int(match[1]) << {"": 0, "K": 10, "M": 20, "G": 30}[match[2]]
