"""Text for a terminal: made harmless, measured in columns, cut, and filled up. Pure.

A line is a list of spans; a span is a text and the name of its style. Text from outside goes through `printable` once.
"""

import math
import time
import unicodedata
from collections.abc import Iterator
from typing import TypeAlias

Span: TypeAlias = tuple[str, str]
Line: TypeAlias = list[Span]

PLAIN, DIM, BOLD, GOOD, BUSY, BAD, SELECTED = "", "dim", "bold", "green", "yellow", "red", "reverse"

_JOINER, _EMOJI_STYLE = "\u200d", "\ufe0f"
_SKIN_TONES = "\U0001f3fb\U0001f3fc\U0001f3fd\U0001f3fe\U0001f3ff"


def printable(text: str) -> str:
    """The text with everything replaced by U+FFFD that a terminal might obey, or not show; emoji stay joined."""
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() or char == _JOINER else "\ufffd" for char in text)


def width(text: str) -> int:
    """How many columns of a terminal a printable text takes."""
    return len(text) if text.isascii() else sum(map(_width, _graphemes(text)))


def _graphemes(text: str) -> Iterator[str]:
    """The characters as a reader sees them: each with its marks, emoji that are joined as one."""
    start = 0
    for end in range(1, len(text)):
        if not _belong_together(text[end - 1], text[end]):
            yield text[start:end]
            start = end
    if text:
        yield text[start:]


def _belong_together(before: str, char: str) -> bool:
    category = unicodedata.category(char)
    if category in ("Mn", "Me") or char == _JOINER or char in _SKIN_TONES:
        return True
    return before == _JOINER and category == "So"  # after a letter it would join nothing


def _width(grapheme: str) -> int:
    first = grapheme[0]
    if _EMOJI_STYLE in grapheme or unicodedata.east_asian_width(first) in "WF":
        return 2
    return 0 if unicodedata.category(first) in ("Mn", "Me", "Cf") else 1


def cut(text: str, columns: float) -> str:
    """As much of a printable text as fits, ending in "…" if that is not all."""
    if columns == math.inf:
        return text
    end = 8 * int(columns)  # marks that take no column could go on for ever
    if width(text[: end + 1]) <= columns:
        return text[:end]
    return text[: _fitting(text, columns - 1)] + "…" * min(int(columns), 1)


def wrap(text: str, columns: int) -> list[str]:
    """A printable text in lines of this many columns at most."""
    lines = []
    while text:
        end = max(1, _fitting(text, columns))
        lines.append(text[:end])
        text = text[end:]
    return lines


def _fitting(text: str, columns: float) -> int:
    """How many characters of a text fit."""
    end = 0
    for grapheme in _graphemes(text[: 8 * int(max(1, columns))]):
        columns -= _width(grapheme)
        if columns < 0:
            break
        end += len(grapheme)
    return end


def fit(text: str, columns: int) -> str:
    """The text made printable, cut and filled up with spaces to exactly this many columns."""
    shown = cut(printable(text), columns)
    return shown + " " * (columns - width(shown))


def clip(line: Line, columns: float) -> Line:
    """The line cut to a width."""
    kept: Line = []
    for text, style in line:
        shown = cut(text, columns)
        kept.append((shown, style))
        columns -= width(shown)
        if shown != text:
            break
    return kept


def text_of(line: Line) -> str:
    """The line without styles, and without spaces at its end."""
    return "".join(text for text, _ in line).rstrip()


def plural(count: int, noun: str) -> str:
    """A number of things, such as "1 event" or "2,000 events"."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def elapsed(seconds: float) -> str:
    """A time span, such as "0:07" or "2:03:04"; never below 0."""
    minutes, rest = divmod(max(0, int(seconds)), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def clock(moment: float) -> str:
    """The local time of day, given in seconds since the epoch."""
    try:
        return time.strftime("%H:%M:%S", time.localtime(moment))
    except (OverflowError, ValueError, OSError):  # the year 9999 of a sender, in a time zone that ends before
        return "-"
