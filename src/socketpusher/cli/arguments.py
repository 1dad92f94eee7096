"""What the parsers of several commands have in common."""

import argparse
import re
import textwrap
from collections.abc import Iterable
from typing import Any, TypeAlias

from ..config import default_socket_path

Commands: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"
"""What `argparse` gives to add commands to."""


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


def add_command(
    commands: Commands, name: str, summary: str, description: str, examples: str
) -> argparse.ArgumentParser:
    """Add a command whose help teaches by examples."""
    return commands.add_parser(
        name, help=summary, description=description, epilog=examples, formatter_class=HelpFormatter
    )


def add_path(parser: argparse.ArgumentParser, what: str) -> None:
    """Add the optional argument PATH; `what` says in the help what is done there."""
    parser.add_argument(
        "path", nargs="?", metavar="PATH", help=f"{what} (default: {default_socket_path()})".replace("%", "%%")
    )


def positive(text: str) -> int:
    """Return a whole number, at least 1, as an argument's type."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of at least 1")
    return int(text)


def size(text: str) -> int:
    """Return a number of bytes, such as 4096, 100K, 100M or 1G (powers of 1024), as an argument's type."""
    match = re.fullmatch(r"([0-9]+)([KMG]?)", text.upper())
    if match is None or int(match[1]) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a size such as 4096, 100K, 100M or 1G")
    return int(match[1]) << {"": 0, "K": 10, "M": 20, "G": 30}[match[2]]


def add_allowed_senders(parser: argparse.ArgumentParser) -> None:
    """Add the option that lets other users send."""
    parser.add_argument(
        "--allow-uid",
        action="append",
        default=[],
        type=int,
        metavar="UID",
        help="let this user send, too (id -u prints the number); may be given more than once. Programs of that user "
        "must allow yours: PusherConfig(allow_uids=...)",
    )
