"""What the commands write for their user, beside the data."""

import errno
import os
import re
import sys

from ..terminal.text import plural

# What the library advises to those who call it, and the option that does the same.
_OPTIONS = (
    (re.compile(r"put (\d+) into allow_uids"), r"give --allow-uid \1"),
    (re.compile(r"(?:call )?start\(wait=False\)"), "give --wait"),
)


def status(message: object) -> None:
    """Write a line to standard error, unless that is closed: `print` would then write into the data."""
    if sys.stderr is not None:
        print(printable(with_options(message)), file=sys.stderr, flush=True)


def with_options(message: object) -> str:
    """Return the message with advice for people on a command line."""
    text = str(message)
    for advice, option in _OPTIONS:
        text = advice.sub(option, text)
    return text


def sentence(error: OSError | ValueError) -> str:
    """Return what went wrong, without the number of the error."""
    if not isinstance(error, OSError) or not error.strerror:
        return str(error)
    if error.strerror == os.strerror(errno.EBADF):
        return "standard output is closed"
    return error.strerror + (f": {error.filename}" if error.filename else "")


def size_text(number: int) -> str:
    """Return a number of bytes for people, such as "1 GiB" or "100.5 KiB"."""
    for power, unit in ((30, "GiB"), (20, "MiB"), (10, "KiB")):
        if number >= 1 << power:
            return f"{round(number / (1 << power), 1):g} {unit}"
    return plural(number, "byte")


def printable(text: str) -> str:
    """Return the text with an escape in place of each character that a terminal would obey or not show."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
