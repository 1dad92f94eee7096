"""What is known of all runs, laid out for a place of any size. Pure: `screen` adds the colours.

pid 4711  running 0:07  10/60 units  1 failed  2 running  31/180 tasks         title
  ━━━━━x╌╌····························································  16%  ETA 0:35
  level 0  ━━━━━━━━━━━━  10/10 units  30/30 tasks                              sections, see there
  ✗ unit-10  SyntaxError: invalid syntax
  ▸ unit-11                                          1/3     0:04
  10 complete, 46 pending
  12:03:04  task.completed   unit-11 1                                         last events
"""

import math
from collections.abc import Sequence
from itertools import islice

from .sections import UNIT_COLUMNS, Section, all_units, head, sections, title
from .text import BAD, DIM, PLAIN, Line, clip, clock, printable
from .tracker import RecentEvent, Run, RunTracker

_HEADED = 12  # the height from which on the sections of a run have headings, in lines
_BELOW_HEADING = 3  # the lines that sections have before the heading of a run has more than one
_EVENTS = 4  # the lines that are kept for the last events, their heading included
_FAILURES = 10  # how many are in a summary of a run, at most


def render_screen(runs: RunTracker, now: float, width: int, height: int) -> list[Line]:
    """All runs and the last events, what matters most first.

    Args:
        runs: What is known.
        now: The time, in seconds since the epoch.
        width: How many columns a line may take.
        height: How many lines there may be.
    """
    live = [run for run in runs.runs if run.gone is None] or runs.runs[-1:]
    past = [run for run in reversed(runs.runs) if run not in live]
    room = height - (_EVENTS if height >= _HEADED else 0)
    past = past[: max(0, (room - len(live)) // 4)]
    room -= len(past)
    lines: list[Line] = []
    for number, run in enumerate(live):
        lines += _render_run(run, now, width, max(1, (room - len(lines)) // (len(live) - number)))
    lines += [title(run, now) for run in past]
    rows = height - len(lines) - 1
    if rows > 0 and runs.recent:
        lines.append([("last events", DIM)])
        lines += [_recent(event, len(live) > 1) for event in islice(reversed(runs.recent), rows)][::-1]
    return [clip(line, width) for line in lines[:height]]


def render_full(runs: RunTracker, now: float, width: float = math.inf) -> list[Line]:
    """Every level, and every unit that runs, failed or is blocked, in as many lines as that takes; others in counts."""
    lines: list[Line] = []
    for run in runs.runs:
        lines += head(run, now, min(width, 80))
        for section in sections(run, now, width):
            lines += section.render(section.rows)
    return [clip(line, width) for line in lines]


def render_summary(runs: RunTracker, now: float, width: float) -> list[Line]:
    """How each run stands, and the last ten failures in it."""
    lines: list[Line] = []
    for run in runs.runs:
        failures = sections(run, now, width)[1]
        lines += [*head(run, now, min(width, 80)), *failures.render(min(failures.rows, _FAILURES))]
    return [clip(line, width) for line in lines]


def _render_run(run: Run, now: float, width: int, height: int) -> list[Line]:
    lines = head(run, now, width, max(1, height - _BELOW_HEADING))
    room = height - len(lines)
    with_headings = height >= _HEADED
    parts = sections(run, now, width)
    others = run.total - sum(map(run.count, ("failed", "blocked", "in_progress")))
    rows_of_others = math.ceil(others / max(1, width // UNIT_COLUMNS))
    if sum(part.rows for part in parts) + rows_of_others + len(parts) * with_headings <= room:
        parts[2:] = [all_units(run, now, width)]
    headings = [bool(with_headings and part.heading and part.rows) for part in parts]
    rows = _allocate_rows(room, parts, [part.rows + heading for part, heading in zip(parts, headings, strict=True)])
    for part, heading, given in zip(parts, headings, rows, strict=True):
        if heading and given > 1:
            lines.append([(part.heading, DIM)])
            given -= 1
        if given:
            lines += part.render(given)
    return lines


def _allocate_rows(room: int, parts: Sequence[Section], wants: Sequence[int]) -> list[int]:
    """How many of `room` lines each section gets: its share at first, then what is left; the most urgent first."""
    got = [0] * len(parts)
    by_urgency = sorted(range(len(parts)), key=lambda number: parts[number].urgency)
    for limits in ([max(1, int(part.share * room)) for part in parts], wants):
        for number in by_urgency:
            got[number] += max(0, min(room - sum(got), min(limits[number], wants[number]) - got[number]))
    return got


def _recent(event: RecentEvent, of_several: bool) -> Line:
    task = "" if event.task is None else f" {event.task}"
    line: Line = [
        (f"  {'-' if event.time is None else clock(event.time.timestamp())}  ", DIM),
        (f"{printable(event.run.title)}  " if of_several else "", DIM),
        (f"{printable(event.type):<16} ", PLAIN),
        (f"{printable(event.unit)}{task}", PLAIN),
    ]
    told = ((event.message, PLAIN), (event.error, BAD))
    return line + [(f"  {printable(text)}", style) for text, style in told if text]
