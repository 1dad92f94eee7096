"""What the parsers of several sub-commands have in common."""

import argparse
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
