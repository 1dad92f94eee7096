"""The parts of the page of one run: its title, its bar, its levels, what failed, what runs. Pure.

Each section knows how many lines it wants, and renders itself into as many as it gets.
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import islice
from typing import NamedTuple

from .text import BAD, BOLD, BUSY, DIM, GOOD, PLAIN, Line, Span, clip, clock, elapsed, fit, plural, printable, width
from .tracker import NO_LEVEL, Level, Run, Unit

MARKS: Mapping[str, Span] = {
    "pending": ("·", DIM),
    "ready": ("○", DIM),
    "in_progress": ("▸", BUSY),
    "complete": ("✓", GOOD),
    "failed": ("✗", BAD),
    "blocked": ("■", BAD),
}
UNIT_COLUMNS = 40  # of a unit in a table, at least
_LEVEL_COLUMNS = 66
_NAME_COLUMNS = 24  # of a unit beside the reason of its failure, at most
_FULL_WIDTH = 80  # what tables take where lines may be of any length


class Section(NamedTuple):
    """A part of the page of a run.

    Args:
        heading: What stands above it, or "".
        urgency: Which section gets its lines first: the one with the lowest.
        share: The part of the height that it may take before others have what they want.
        rows: How many lines it wants.
        render: Makes that many lines, or fewer.
    """

    heading: str
    urgency: int
    share: float
    rows: int
    render: Callable[[int], list[Line]]


def sections(run: Run, now: float, columns: float) -> list[Section]:
    """The sections of a run, from top to bottom.

    Args:
        run: The run.
        now: The time, in seconds since the epoch.
        columns: The width; infinite where lines may be of any length.
    """
    running = list(run.by_status["in_progress"].values())
    return [
        _levels(run, columns),
        _failures(run, columns),
        _table("running", running, run.clock(now), columns),
        _counts(run),
    ]


def all_units(run: Run, now: float, columns: float) -> Section:
    """Every unit that has neither failed nor is blocked, instead of those that run and the counts of the others."""
    order = ("in_progress", "ready", "pending", "complete")
    units = [unit for status in order for unit in run.by_status[status].values()]
    return _table("units", units, run.clock(now), columns)


def head(run: Run, now: float, columns: float, height: float = math.inf) -> list[Line]:
    """How the run stands: its title, its bar, and why it failed, in at most `height` lines."""
    told = ((run.reason, BAD), (run.no_graph and f"no graph: {run.no_graph}", BUSY))
    lines = [title(run, now), *([(f"  {printable(text)}", style)] for text, style in told if text)]
    if run.units:
        lines.insert(1, _progress(run, now, columns))
    return lines[: int(min(height, len(lines)))]


def title(run: Run, now: float) -> Line:
    """How the run stands, in one line."""
    counts = (
        (run.count("failed"), "failed", BAD),
        (run.count("blocked"), "blocked", BAD),
        (run.count("in_progress"), "running", BUSY),
    )
    told = [(f"{run.count('complete'):,}/{run.total:,} units", PLAIN)] if run.units else []
    told += [(f"{count:,} {what}", style) for count, what, style in counts if count]
    if run.failed_tasks:
        told.append((plural(run.failed_tasks, "failed task"), BAD))
    if run.gone is not None and not run.outcome:
        told.append((f"disconnected at {clock(run.gone)}", BUSY))
    return [
        (printable(run.title), BOLD),
        ("  ", PLAIN),
        _state(run, now),
        *((f"  {text}", style) for text, style in told),
    ]


def _state(run: Run, now: float) -> Span:
    if run.outcome:
        known = run.started is not None and run.ended is not None
        took = f" in {elapsed((run.ended or 0) - (run.started or 0))}" if known else ""
        return run.outcome + took, GOOD if run.outcome == "completed" else BAD
    if run.started is not None:
        return f"running {elapsed(run.clock(now) - run.started)}", BUSY
    return ("no start seen", DIM) if run.units else (plural(run.events, "event"), PLAIN)


def _progress(run: Run, now: float, columns: float) -> Line:
    """How much of the run is done, and how long the rest will take at the rate so far."""
    statuses = {status: run.count(status) for status in run.by_status}
    tasks = f"  {run.completed_tasks:,}/{run.tasks:,} tasks" if run.tasks else ""
    eta = run.eta(now)
    left = "" if run.outcome else f"  ETA {'-' if eta is None else elapsed(eta)}"
    told = f"{tasks}  {100 * statuses['complete'] // run.total}%{left}"
    return [("  ", PLAIN), *_bar(statuses, run.total, int(min(columns, 120)) - len(told) - 3), (told, PLAIN)]


def _bar(statuses: Mapping[str, int], total: int, columns: int) -> Line:
    parts = (
        (statuses["complete"], "━", GOOD),
        (statuses["failed"] + statuses["blocked"], "x", BAD),
        (statuses["in_progress"], "╌", BUSY),
    )
    rest = total - sum(count for count, _, _ in parts)
    spans: Line = []
    left = max(1, columns)
    for place, (count, mark, style) in enumerate(parts, 1):
        # Even one unit in a thousand shows if there is room, and what is not complete never looks complete.
        others = sum(other > 0 for other, _, _ in parts[place:]) + (rest > 0)
        cells = max(0, min(left - others, max(1, columns * count // total) if count else 0))
        spans.append((mark * cells, style))
        left -= cells
    return [*spans, ("·" * left, DIM)]


def _levels(run: Run, columns: float) -> Section:
    beside = _beside(columns, _LEVEL_COLUMNS)
    levels = list(run.levels.values())

    def render(rows: int) -> list[Line]:
        room = rows * beside
        if len(levels) <= room:
            return _table_of_levels(levels, beside, columns)
        if rows < 2:
            return [_not_shown(levels)]
        nearest = sorted(levels, key=_distance_to_front(levels))
        shown, hidden = nearest[: room - beside], nearest[room - beside :]
        shown.sort(key=lambda level: level.number)
        return [*_table_of_levels(shown, beside, columns), _not_shown(hidden)]

    return Section("levels", 3, 0.4, math.ceil(len(levels) / beside), render)


def _distance_to_front(levels: Sequence[Level]) -> Callable[[Level], tuple[float, int]]:
    """Sorts levels for a page that has no room for all: those with units at work first, then their neighbours."""
    working = [level.number for level in levels if level.statuses["in_progress"]]
    front = working or [max((level.number for level in levels if level.statuses["complete"]), default=0)]
    return lambda level: (min(abs(level.number - number) for number in front), -level.statuses["in_progress"])


def _not_shown(levels: Iterable[Level]) -> Line:
    counts = {"complete": 0, "not all complete": 0, "not begun": 0}
    for level in levels:
        counts["complete" if level.complete else "not begun" if level.untouched else "not all complete"] += 1
    return [(f"  {plural(sum(counts.values()), 'level')} more: {_listed(counts)}", DIM)]


def _table_of_levels(levels: Sequence[Level], beside: int, columns: float) -> list[Line]:
    texts = [_texts(level) for level in levels]
    widths = [max(map(len, column), default=0) for column in zip(*texts, strict=True)]
    room = _FULL_WIDTH if columns == math.inf else int(columns) // beside
    entries = [
        [
            (f"  {name:<{widths[0]}}  ", PLAIN),
            *_bar(level.statuses, level.units, max(4, min(30, room - sum(widths) - 10))),
            (f"  {units:>{widths[1]}}  {tasks:>{widths[2]}}  ", PLAIN),
            (failed, BAD),
        ]
        for level, (name, units, tasks, failed) in zip(levels, texts, strict=True)
    ]
    return in_columns(entries, beside, columns)


def _texts(level: Level) -> tuple[str, str, str, str]:
    return (
        "units" if level.number == NO_LEVEL else f"level {level.number}",
        f"{level.statuses['complete']:,}/{level.units:,} units",
        f"{level.completed_tasks:,}/{level.tasks:,} tasks" if level.tasks else "",
        _listed({status: level.statuses[status] for status in ("failed", "blocked")}),
    )


def _failures(run: Run, columns: float) -> Section:
    failed, blocked = run.by_status["failed"], run.by_status["blocked"]
    found = len(failed) + len(blocked)

    def render(rows: int) -> list[Line]:
        room = rows if found <= rows or rows == 1 else rows - 1
        units = list(islice(reversed(failed.values()), room))
        units += islice(reversed(blocked.values()), room - len(units))
        widest = max((width(printable(unit.name)) for unit in units), default=0)
        lines = [_failure(unit, widest if columns == math.inf else min(widest, _NAME_COLUMNS)) for unit in units]
        return lines + [_more(found - room)] * (room < min(found, rows))

    return Section("failed and blocked" if blocked else "failed", 0, 0.3, found, render)


def _failure(unit: Unit, name_columns: int) -> Line:
    mark, style = MARKS[unit.status]
    why = unit.reason or f"{unit.status}, without a reason"
    worker = [(f"  on {printable(unit.worker)}", DIM)] if unit.worker else []
    return [(f"  {mark} ", style), (fit(unit.name, name_columns), PLAIN), (f"  {printable(why)}", style), *worker]


def _table(heading: str, units: Sequence[Unit], now: float, columns: float) -> Section:
    beside = _beside(columns, UNIT_COLUMNS)

    def render(rows: int) -> list[Line]:
        room = rows * beside
        if len(units) > room and rows > 1:
            room -= beside
        names = [unit_name(unit) for unit in units[:room]]
        space = max(map(width, names), default=0) if columns == math.inf else int(columns) // beside - 24
        entries = [_unit(unit, name, now, max(4, space)) for unit, name in zip(units, names, strict=False)]
        lines = in_columns(entries, beside, columns)
        return lines + [_more(len(units) - room)] * (len(lines) < rows and room < len(units))

    return Section(heading, 1, 0.3, math.ceil(len(units) / beside), render)


def _unit(unit: Unit, name: str, now: float, name_columns: int) -> Line:
    mark, style = MARKS[unit.status]
    return [(f"  {mark} ", style), (fit(name, name_columns), PLAIN), (f" {work(unit, now)}", PLAIN)]


def unit_name(unit: Unit) -> str:
    """What a unit is called, and who runs it."""
    return printable(f"{unit.name} on {unit.worker}" if unit.worker else unit.name)


def work(unit: Unit, now: float) -> str:
    """How many tasks of a unit are done, and how long it has run, in 18 columns."""
    tasks = f"{unit.completed_tasks:,}/{unit.tasks:,}" if unit.tasks else ""
    until = now if unit.status == "in_progress" else unit.ended
    unknown = "-" if unit.status == "in_progress" else ""
    took = unknown if unit.started is None or until is None else elapsed(until - unit.started)
    return f"{tasks:>9} {took:>8}"


def _counts(run: Run) -> Section:
    counts = {status: run.count(status) for status in ("complete", "ready", "pending")}
    return Section("", 2, 0.0, int(any(counts.values())), lambda rows: [[(f"  {_listed(counts)}", DIM)]])


def _more(count: int) -> Line:
    return [(f"  and {count:,} more", DIM)]


def _listed(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{count:,} {what}" for what, count in counts.items() if count)


def _beside(columns: float, entry_columns: int) -> int:
    """How many entries of a table fit beside each other."""
    return 1 if columns == math.inf else max(1, int(columns) // entry_columns)


def in_columns(entries: Sequence[Line], beside: int, columns: float) -> list[Line]:
    """Entries beside each other, read from top to bottom first."""
    if columns == math.inf:
        return list(entries)
    height, room = math.ceil(len(entries) / beside), int(columns) // beside
    rows = [[clip(entry, room) for entry in entries[row::height]] for row in range(height)]
    return [[span for entry in row for span in _filled(entry, room)] for row in rows]


def _filled(line: Line, columns: int) -> Line:
    return [*line, (" " * (columns - sum(width(text) for text, _ in line)), PLAIN)]
