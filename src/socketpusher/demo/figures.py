"""What the demo measures, and the table that it ends with."""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime

from ..events import Event
from ..pusher import PusherStats


@dataclass(frozen=True, slots=True)
class Timing:
    """What a schedule took, in seconds: on the clock, and of the processors by the scheduler's process."""

    wall: float
    cpu: float


@dataclass
class Figures:
    """What was measured in the scheduler's process.

    Args:
        alone: Of the schedules without a pusher.
        watched: Of those with one, the first left out, which warms up.
        emitted: Events in all schedules with a pusher, as the scheduler counts them.
        failed: Tasks that failed in one schedule.
        books: Of each pusher, after its end.
    """

    alone: list[Timing] = field(default_factory=list)
    watched: list[Timing] = field(default_factory=list)
    emitted: int = 0
    failed: int = 0
    books: list[PusherStats] = field(default_factory=list)


@dataclass
class Received:
    """What was measured in the listener's process.

    Args:
        events: How many events came, the writer's own `graph` not counted.
        latencies: For each the time from its emission to its receipt, in seconds.
    """

    events: int = 0
    latencies: list[float] = field(default_factory=list)

    def add(self, event: Event) -> None:
        """Count an event that was received just now."""
        now = datetime.now(UTC)
        self.events += 1
        if event.time is not None:
            self.latencies.append((now - event.time).total_seconds())


def table(figures: Figures, received: Received) -> str:
    """The figures in lines of text."""
    latencies = sorted(received.latencies)
    rows = [
        ("events emitted", f"{figures.emitted:,}", f"in {count_of(len(figures.books), 'schedule')} with the pusher"),
        ("events received", f"{received.events:,}", "by the listener"),
        ("events lost", f"{figures.emitted - received.events:,}", ""),
        ("pusher's books: sent", f"{sum(stats.sent for stats in figures.books):,}", ""),
        ("pusher's books: dropped", f"{sum(stats.dropped for stats in figures.books):,}", ""),
        ("tasks failed", f"{figures.failed:,}", "in each schedule: files that do not compile"),
        ("", "", ""),
        ("latency, median", _milliseconds(_percentile(latencies, 50)), "from emit to receipt"),
        ("latency, 99th percentile", _milliseconds(_percentile(latencies, 99)), ""),
        ("latency, maximum", _milliseconds(_percentile(latencies, 100)), ""),
        ("", "", ""),
        *_comparison("time", [timing.wall for timing in figures.alone], [timing.wall for timing in figures.watched]),
        ("", "", ""),
        *_comparison("CPU*", [timing.cpu for timing in figures.alone], [timing.cpu for timing in figures.watched]),
    ]
    lines = [f"{name:<32}{value:>12}   {remark}".rstrip() for name, value, remark in rows]
    return "\n".join([*lines, "", "* of the scheduler's process, with the pusher's threads in it"])


def _comparison(what: str, alone: Sequence[float], watched: Sequence[float]) -> list[tuple[str, str, str]]:
    before, after = statistics.median(alone), statistics.median(watched)
    more = after - before
    spread = max(max(alone) - min(alone), max(watched) - min(watched))
    remark = f"{more / before:+.1%}"
    if len(alone) > 1 and abs(more) <= spread:
        remark += f"; less than schedules of one kind differ, {spread:.3f} s"
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
