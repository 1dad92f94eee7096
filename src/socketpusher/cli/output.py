"""What the commands write for their user, beside the data."""

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
    text = str(message)
    for advice, option in _OPTIONS:
        text = advice.sub(option, text)
    if sys.stderr is not None:
        print(printable(text), file=sys.stderr, flush=True)


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
