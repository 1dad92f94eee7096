"""What the commands write for their user, beside the data."""

import sys


def status(text: object) -> None:
    """Write a line to standard error, unless that is closed: `print` would then write into the data."""
    if sys.stderr is not None:
        print(printable(str(text)), file=sys.stderr, flush=True)


def plural(number: int, noun: str) -> str:
    """A number of things, such as "1 event" or "2,000 events"."""
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


def printable(text: str) -> str:
    """The text with an escape in place of each character that a terminal would obey or not show."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
