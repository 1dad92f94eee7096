"""What is known of the runs, laid out as lines of text for a place of any size. Pure; whoever draws it adds colours.

A line is a list of spans, a span is a text and the name of its style. What comes from outside is made harmless here: no
control character gets past `printable`, and no line takes more cells of a terminal than the width allows.
"""

import time
import unicodedata
from collections.abc import Callable, Iterable, Sequence
from itertools import islice
from typing import NamedTuple, TypeAlias

from .tracker import NO_LEVEL, Level, RecentEvent, Run, RunTracker, Unit

Span: TypeAlias = tuple[str, str]
Line: TypeAlias = list[Span]

PLAIN, DIM, BOLD, GOOD, BUSY, BAD = "", "dim", "bold", "green", "yellow", "red"

_MARKS: dict[str, Span] = {
    "pending": ("·", DIM),
    "ready": ("○", DIM),
    "in_progress": ("▸", BUSY),
    "complete": ("✓", GOOD),
    "failed": ("✗", BAD),
    "blocked": ("■", BAD),
}
_UNIT_WIDTH = 40  # of a unit in a table, at least, in cells
_LEVEL_WIDTH = 66
_NAME_WIDTH = 24  # of a unit beside its error, at most
_HEADED = 12  # the height from which on a run's parts have headings, in lines
_EVENTS = 4  # the lines that are kept for the last events, their heading included


def page(runs: RunTracker, now: float, width: int, height: int) -> list[Line]:
    """All runs and the last events, what matters most first.

    Args:
        runs: What is known.
        now: The time, in seconds since the epoch.
        width: How many cells a line may take.
        height: How many lines there may be.
    """
    live = [run for run in runs.runs if run.gone is None] or runs.runs[-1:]
    past = [run for run in reversed(runs.runs) if run not in live]
    room = height - (_EVENTS if height >= _HEADED else 0)
    shown = past[: max(0, (room - len(live)) // 4)]
    room -= len(shown)
    lines: list[Line] = []
    for number, run in enumerate(live):
        lines += run_lines(run, now, width, max(1, (room - len(lines)) // (len(live) - number)))
    lines += [_title(run, now) for run in shown]
    rows = height - len(lines) - 1
    if rows > 0 and runs.tail:
        lines.append(_heading("last events"))
        lines += [_happened(event, len(live) > 1) for event in islice(reversed(runs.tail), rows)][::-1]
    return [clipped(line, width) for line in lines[:height]]


def whole(runs: RunTracker, now: float, width: int) -> list[Line]:
    """Every level, and every unit that runs, failed or is blocked, in as many lines as that takes; others in counts."""
    lines: list[Line] = []
    for run in runs.runs:
        lines.append(_title(run, now))
        for part in _parts(run, now, width):
            lines += part.lines(part.rows)
    return [clipped(line, width) for line in lines]


def summary(runs: RunTracker, now: float, width: int, rows: int = 10) -> list[Line]:
    """A line a run, and in up to `rows` lines what failed in it."""
    lines: list[Line] = []
    for run in runs.runs:
        troubles = _troubles(run)
        lines += [_title(run, now), *troubles.lines(min(troubles.rows, rows))]
    return [clipped(line, width) for line in lines]


def run_lines(run: Run, now: float, width: int, height: int) -> list[Line]:
    """One run, in at most so many lines."""
    room = height - 1
    headings = height >= _HEADED
    parts = _parts(run, now, width)
    if sum(part.rows for part in parts) + _rows_of_others(run, width) + len(parts) * headings <= room:
        parts[2:] = [_everything(run, now, width)]
    wants = [part.rows + (headings and part.heading != "") if part.rows else 0 for part in parts]
    by_urgency = sorted(range(len(parts)), key=lambda number: parts[number].urgency)
    rows = _shares(room, [parts[number].share for number in by_urgency], [wants[number] for number in by_urgency])
    lines = [_title(run, now)]
    for number, part in enumerate(parts):
        fit = rows[by_urgency.index(number)]
        if headings and part.heading and fit > 1:
            lines.append(_heading(part.heading))
            fit -= 1
        if fit:
            lines += part.lines(fit)
    return lines


class _Part(NamedTuple):
    """A part of what is shown of a run.

    Args:
        heading: What stands above it, or "".
        urgency: Whose turn it is to have room, from 0.
        share: The part of the room that it may have before others have what they want.
        rows: How many lines it wants.
        lines: Makes that many lines, or fewer.
    """

    heading: str
    urgency: int
    share: float
    rows: int
    lines: Callable[[int], list[Line]]


def _parts(run: Run, now: float, width: int) -> list[_Part]:
    running = list(run.by_status["in_progress"].values())
    return [_levels(run, width), _troubles(run), _table("running", running, now, width), _rest(run)]


def _shares(room: int, shares: Sequence[float], wants: Sequence[int]) -> list[int]:
    """How many of `room` lines each gets: its share at first, then what is left; both in the order given."""
    got = [0] * len(wants)
    for limits in ([max(1, int(share * room)) for share in shares], wants):
        for number, want in enumerate(wants):
            got[number] += max(0, min(room - sum(got), min(limits[number], want) - got[number]))
    return got


def _levels(run: Run, width: int) -> _Part:
    columns = max(1, width // _LEVEL_WIDTH)
    levels = list(run.levels.values())

    def lines(rows: int) -> list[Line]:
        fit = rows * columns
        if len(levels) <= fit:
            return _table_of_levels(levels, columns, width)
        if rows < 2:
            return [_not_shown(levels)]
        fit -= columns
        shown = sorted(levels, key=_interest)[:fit]
        shown.sort(key=lambda level: level.number)
        numbers = {level.number for level in shown}
        table = _table_of_levels(shown, columns, width)
        return [*table, _not_shown([level for level in levels if level.number not in numbers])]

    return _Part("levels", 3, 0.4, -(-len(levels) // columns), lines)


def _interest(level: Level) -> int:
    """Which levels are shown if not all can be: the lowest first."""
    statuses = level.statuses
    if statuses["in_progress"]:
        return 0
    return 3 if level.complete else 2 if level.untouched else 1 if statuses["pending"] or statuses["ready"] else 2


def _not_shown(levels: Iterable[Level]) -> Line:
    counts = {"complete": 0, "not all complete": 0, "not begun": 0}
    for level in levels:
        counts["complete" if level.complete else "not begun" if level.untouched else "not all complete"] += 1
    return [(f"  {_several(sum(counts.values()), 'level')} more: {_listed(counts)}", DIM)]


def _table_of_levels(levels: Sequence[Level], columns: int, width: int) -> list[Line]:
    texts = [_texts(level) for level in levels]
    widths = [max(map(len, column), default=0) for column in zip(*texts, strict=True)]
    bar = max(4, min(30, width // columns - sum(widths) - 10))
    entries = [
        [
            (f"  {name:<{widths[0]}}  ", PLAIN),
            *_bar(level, bar),
            (f"  {units:>{widths[1]}}  {tasks:>{widths[2]}}  ", PLAIN),
            (failed, BAD),
        ]
        for level, (name, units, tasks, failed) in zip(levels, texts, strict=True)
    ]
    return _in_columns(entries, columns, width)


def _texts(level: Level) -> tuple[str, str, str, str]:
    return (
        "units" if level.number == NO_LEVEL else f"level {level.number}",
        f"{level.statuses['complete']:,}/{level.units:,} units",
        f"{level.completed_tasks:,}/{level.tasks:,} tasks" if level.tasks else "",
        _listed({status: level.statuses[status] for status in ("failed", "blocked")}),
    )


def _bar(level: Level, width: int) -> Line:
    statuses = level.statuses
    of = max(1, level.units)
    bad = statuses["failed"] + statuses["blocked"]
    spans: Line = []
    done = 0
    for count, mark, style in (
        (statuses["complete"], "━", GOOD),
        (bad, "x", BAD),
        (statuses["in_progress"], "╌", BUSY),
    ):
        # What is there shows, be it ever so little, and what is not complete never looks so.
        cells = min(width - sum(len(text) for text, _ in spans), max(1, width * count // of) if count else 0)
        spans.append((mark * cells, style))
        done += cells
    return [*spans, ("·" * (width - done), DIM)]


def _troubles(run: Run) -> _Part:
    failed, blocked = run.by_status["failed"], run.by_status["blocked"]
    found = len(failed) + len(blocked)

    def lines(rows: int) -> list[Line]:
        fit = rows if found <= rows or rows == 1 else rows - 1
        units = list(islice(reversed(failed.values()), fit))
        units += islice(reversed(blocked.values()), fit - len(units))
        widest = max((cells(printable(unit.name)) for unit in units), default=0)
        shown = [_trouble(unit, min(widest, _NAME_WIDTH)) for unit in units]
        if fit < min(found, rows):
            shown.append([(f"  and {found - fit:,} more", DIM)])
        return shown

    return _Part("failed and blocked" if blocked else "failed", 0, 0.3, found, lines)


def _trouble(unit: Unit, width: int) -> Line:
    mark, style = _MARKS[unit.status]
    why = unit.error or f"{unit.status}; why was not told"
    worker = [(f"  on {printable(unit.worker)}", DIM)] if unit.worker else []
    return [(f"  {mark} ", style), (fitted(unit.name, width), PLAIN), (f"  {printable(why)}", style), *worker]


def _table(heading: str, units: Sequence[Unit], now: float, width: int) -> _Part:
    columns = max(1, width // _UNIT_WIDTH)

    def lines(rows: int) -> list[Line]:
        fit = rows * columns
        if len(units) > fit and rows > 1:
            fit -= columns
        shown = _in_columns([_unit(unit, now, width // columns) for unit in units[:fit]], columns, width)
        if len(shown) < rows and fit < len(units):
            shown.append([(f"  and {len(units) - fit:,} more", DIM)])
        return shown

    return _Part(heading, 1, 0.3, -(-len(units) // columns), lines)


def _everything(run: Run, now: float, width: int) -> _Part:
    order = ("in_progress", "ready", "pending", "complete")
    return _table("units", [unit for status in order for unit in run.by_status[status].values()], now, width)


def _rows_of_others(run: Run, width: int) -> int:
    others = len(run.units) - run.count("failed") - run.count("blocked") - run.count("in_progress")
    return -(-others // max(1, width // _UNIT_WIDTH))


def _unit(unit: Unit, now: float, width: int) -> Line:
    mark, style = _MARKS[unit.status]
    tasks = f"{unit.completed_tasks:,}/{unit.tasks:,}" if unit.tasks else ""
    if unit.status == "in_progress":
        took = "-" if unit.started is None else elapsed(now - unit.started)
    else:
        took = "" if unit.started is None or unit.ended is None else elapsed(unit.ended - unit.started)
    right = f" {tasks:>9} {took:>8}"
    name = f"{unit.name} on {unit.worker}" if unit.worker else unit.name
    return [(f"  {mark} ", style), (fitted(name, max(4, width - 5 - len(right))), PLAIN), (right, PLAIN)]


def _rest(run: Run) -> _Part:
    counts = {status: run.count(status) for status in ("complete", "ready", "pending")}
    rows = 1 if any(counts.values()) else 0
    return _Part("", 2, 0.0, rows, lambda rows: [[(f"  {_listed(counts)}", DIM)]])


def _title(run: Run, now: float) -> Line:
    line: Line = [(printable(run.title), BOLD), ("  ", PLAIN), _state(run, now)]
    units = f"{run.count('complete'):,}/{len(run.units):,} units" if run.units else ""
    tasks = f"{run.completed_tasks:,}/{run.tasks:,} tasks" if run.tasks else ""
    counts = (
        (run.count("failed"), "failed", BAD),
        (run.count("blocked"), "blocked", BAD),
        (run.count("in_progress"), "running", BUSY),
    )
    told = [(units, PLAIN), *((f"{count:,} {what}", style) for count, what, style in counts if count), (tasks, PLAIN)]
    if run.failed_tasks:
        told.append((f"{_several(run.failed_tasks, 'failed task')}", BAD))
    line += [(f"  {text}", style) for text, style in told if text]
    if run.gone is not None:
        line.append((f"  gone since {clock(run.gone)}", BUSY))
    if run.error:
        line.append((f"  {printable(run.error)}", BAD))
    if run.no_graph:
        line.append((f"  no graph: {printable(run.no_graph)}", BUSY))
    return line


def _state(run: Run, now: float) -> Span:
    if run.outcome:
        known = run.started is not None and run.ended is not None
        took = f" in {elapsed((run.ended or 0) - (run.started or 0))}" if known else ""
        return run.outcome + took, GOOD if run.outcome == "completed" else BAD
    if run.started is not None:
        return f"running {elapsed((now if run.gone is None else run.gone) - run.started)}", BUSY
    if not run.units:
        return f"{_several(run.events, 'event')}", PLAIN
    return "no start seen", DIM


def _happened(event: RecentEvent, of_several: bool) -> Line:
    task = "" if event.task is None else f" {event.task}"
    line: Line = [
        (f"  {'-' if event.time is None else clock(event.time.timestamp())}  ", DIM),
        (f"{printable(event.run.title)}  " if of_several else "", DIM),
        (f"{printable(event.type):<16} ", PLAIN),
        (f"{printable(event.unit)}{task}", PLAIN),
    ]
    if event.error:
        line.append((f"  {printable(event.error)}", BAD))
    return line


def _heading(text: str) -> Line:
    return [(text, DIM)]


def _in_columns(entries: Sequence[Line], columns: int, width: int) -> list[Line]:
    """Entries side by side, read from top to bottom first."""
    height = -(-len(entries) // columns)
    lines: list[Line] = []
    for row in range(height):
        line: Line = []
        for entry in entries[row::height]:
            line += _filled(clipped(entry, width // columns), width // columns)
        lines.append(line)
    return lines


def _filled(line: Line, width: int) -> Line:
    return [*line, (" " * (width - sum(cells(text) for text, _ in line)), PLAIN)]


def _listed(counts: dict[str, int]) -> str:
    return ", ".join(f"{count:,} {what}" for what, count in counts.items() if count)


def _several(count: int, what: str) -> str:
    return f"{count:,} {what}{'' if count == 1 else 's'}"


def elapsed(seconds: float) -> str:
    """A time span for people: "0:07", "2:03:04"; never below 0."""
    minutes, rest = divmod(max(0, int(seconds)), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def clock(now: float) -> str:
    """The local time of day, given in seconds since the epoch."""
    try:
        return time.strftime("%H:%M:%S", time.localtime(now))
    except (OverflowError, ValueError, OSError):  # a sender's year 9999 in a time zone that has none after it
        return "-"


def printable(text: str) -> str:
    """The text with everything that a terminal might obey, or not show, replaced by U+FFFD."""
    if text.isprintable():
        return text
    return "".join(character if character.isprintable() else "\ufffd" for character in text)


def cells(text: str) -> int:
    """How many cells of a terminal a printable text takes."""
    return len(text) if text.isascii() else sum(map(_cells, text))


def _cells(character: str) -> int:
    if unicodedata.east_asian_width(character) in "WF":
        return 2
    return 0 if unicodedata.category(character) in ("Mn", "Me") else 1


def cut(text: str, width: int) -> str:
    """As much of a printable text as fits, ending in "…" if that is not all."""
    if cells(text) <= width:
        return text[: 8 * width]  # marks that take no cell could go on for ever
    taken = 0
    for number, character in enumerate(text):
        taken += _cells(character)
        if taken > width - 1:
            return text[:number] + "…" * min(width, 1)
    return text


def fitted(text: str, width: int) -> str:
    """The text made printable, cut and filled up with spaces to exactly this width."""
    shown = cut(printable(text), width)
    return shown + " " * (width - cells(shown))


def clipped(line: Line, width: int) -> Line:
    """The line cut to the width."""
    kept: Line = []
    for text, style in line:
        shown = cut(text, width)
        kept.append((shown, style))
        width -= cells(shown)
        if shown != text:
            break
    return kept


def text_of(line: Line) -> str:
    """The line without styles, and without spaces at its end."""
    return "".join(text for text, _ in line).rstrip()
