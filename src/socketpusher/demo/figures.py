"""What the demo measures, and the table that it ends with."""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import BinaryIO, NamedTuple

from ..pusher import PusherStats


@dataclass(frozen=True, slots=True)
class Timing:
    """What a schedule took, in seconds: on the clock, and of the processors by the scheduler's process."""

    wall: float
    cpu: float


@dataclass(frozen=True, slots=True)
class Kill:
    """The end of a display: when, in seconds since the epoch, and after how many events of that schedule."""

    moment: float
    event: int


@dataclass
class Figures:
    """What was measured in the scheduler's process.

    Args:
        alone: Of the schedules without a pusher.
        watched: Of those with one, the first left out, which warms up.
        emitted: Events in all schedules with a pusher, as the scheduler counts them.
        failed: Tasks that failed in one schedule.
        books: Of each pusher, after its end.
        kill: Of the display.
    """

    alone: list[Timing] = field(default_factory=list)
    watched: list[Timing] = field(default_factory=list)
    emitted: int = 0
    failed: int = 0
    books: list[PusherStats] = field(default_factory=list)
    kill: Kill | None = None


class Note(NamedTuple):
    """An event that a display has received.

    Args:
        id: The event's id.
        emitted: When it was emitted, in seconds since the epoch.
        received: When a display had it, likewise.
    """

    id: str
    emitted: float
    received: float


def line_of(note: Note) -> bytes:
    """The note as a line of a file."""
    return f"{note.id} {note.emitted!r} {note.received!r}\n".encode()


def notes_in(file: BinaryIO) -> list[Note]:
    """The notes in a file. What a display was killed over is no line yet, and left out."""
    file.seek(0)
    whole, _, _ = file.read().rpartition(b"\n")
    fields = (line.decode().split() for line in whole.splitlines())
    return [Note(id, float(emitted), float(received)) for id, emitted, received in fields]


def table(figures: Figures, displays: Sequence[Sequence[Note]]) -> str:
    """The figures in lines of text.

    Args:
        figures: What the scheduler's process measured.
        displays: What each display noted, one after the other.
    """
    received = [note for notes in displays for note in notes]
    distinct = {note.id for note in received}
    waited, others = _latencies(displays)
    sent = sum(stats.sent for stats in figures.books)
    dropped = sum(stats.dropped for stats in figures.books)
    rows = [
        ("events emitted", f"{figures.emitted:,}", f"in {count_of(len(figures.books), 'schedule')} with the pusher"),
        ("events received", f"{len(distinct):,}", "by the display, told by their ids"),
        ("events missing", f"{figures.emitted - len(distinct):,}", ""),
        ("pusher's books", f"{sent:,}", f"sent, {dropped:,} dropped"),
        ("tasks failed", f"{figures.failed:,}", "in each: files that do not compile"),
        ("", "", ""),
        *_losses(figures, displays, len(received) - len(distinct), waited),
        (
            "latency, median",
            _milliseconds(_percentile(others, 50)),
            "from emit to receipt" + (", of the others" if figures.kill else ""),
        ),
        ("latency, 99th percentile", _milliseconds(_percentile(others, 99)), ""),
        ("latency, maximum", _milliseconds(_percentile(others, 100)), ""),
        ("", "", ""),
        *_comparison("time", [timing.wall for timing in figures.alone], [timing.wall for timing in figures.watched]),
        *_comparison("CPU*", [timing.cpu for timing in figures.alone], [timing.cpu for timing in figures.watched]),
    ]
    lines = [f"{name:<30}{value:>10}   {remark}".rstrip() for name, value, remark in rows]
    return "\n".join([*lines, "* of the scheduler's process, with the pusher's threads in it"])


def _losses(
    figures: Figures, displays: Sequence[Sequence[Note]], twice: int, waited: Sequence[float]
) -> list[tuple[str, str, str]]:
    """What it cost that the display was killed."""
    kill = figures.kill
    if kill is None:
        return []
    after = [note.received for notes in displays[1:] for note in notes]
    away = _milliseconds(min(after) - kill.moment) if after else "for good"
    of = figures.emitted // len(figures.books)
    return [
        (
            "display killed, and restarted",
            f"{len(displays) - 1}",
            f"at event {kill.event:,} of {of:,}",
        ),
        ("display away", away, "from its death to the next receipt"),
        ("events that waited for it", f"{len(waited):,}", f"for {_milliseconds(_percentile(waited, 100))} at most"),
        ("events that came twice", f"{twice:,}", "to the killed one and to the next"),
        ("", "", ""),
    ]


def _latencies(displays: Sequence[Sequence[Note]]) -> tuple[list[float], list[float]]:
    """How long each event was on its way, sorted: of those that had to wait for another display, and of the others."""
    waited: list[float] = []
    others: list[float] = []
    known: set[str] = set()
    for number, notes in enumerate(displays):
        began = notes[0].received if number and notes else float("-inf")
        for note in notes:
            if note.id not in known:
                known.add(note.id)
                (waited if note.emitted < began else others).append(note.received - note.emitted)
    return sorted(waited), sorted(others)


def _comparison(what: str, alone: Sequence[float], watched: Sequence[float]) -> list[tuple[str, str, str]]:
    before, after = statistics.median(alone), statistics.median(watched)
    more = after - before
    spread = max(max(alone) - min(alone), max(watched) - min(watched))
    remark = f"{more / before:+.1%}"
    if len(alone) > 1 and abs(more) <= spread:
        remark += f", within the spread of {spread:.3f} s"
    return [
        (f"schedule without pusher, {what}", f"{before:.3f} s", _runs(alone)),
        (f"schedule with pusher, {what}", f"{after:.3f} s", _runs(watched)),
        ("difference", f"{more:+.3f} s", remark),
    ]


def _runs(seconds: Sequence[float]) -> str:
    return f"median of {len(seconds)}, {min(seconds):.3f} to {max(seconds):.3f} s"


def _percentile(ordered: Sequence[float], percent: int) -> float:
    """The smallest value that so many percent do not exceed; NaN of nothing."""
    if not ordered:
        return float("nan")
    return ordered[max(0, -(-len(ordered) * percent // 100) - 1)]


def _milliseconds(seconds: float) -> str:
    return f"{seconds * 1000:.1f} ms"


def count_of(count: int, noun: str) -> str:
    """The count with the noun in its number: "1 file", "2 files"."""
    return f"{count:,} {noun}" + ("" if count == 1 else "s")
