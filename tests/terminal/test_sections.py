"""The parts of what is shown of a run: its bar, its levels, its units."""

import re
from datetime import UTC, datetime, timedelta

from socketpusher import Event, Graph
from socketpusher.terminal.page import render_screen
from socketpusher.terminal.sections import _bar, head
from socketpusher.terminal.text import text_of
from socketpusher.terminal.tracker import RunTracker

BEGIN = datetime(2026, 11, 23, 17, 8, tzinfo=UTC)


def tracker(*events: Event) -> RunTracker:
    runs = RunTracker()
    for event in events:
        runs.feed("s", event)
    return runs


def at(seconds: float, type: str, unit: str = "", **options: object) -> Event:
    return Event(type, unit, time=BEGIN + timedelta(seconds=seconds), **options)


def shown(runs: RunTracker, seconds: float = 0, width: int = 80, height: int = 24) -> list[str]:
    return [text_of(line) for line in render_screen(runs, BEGIN.timestamp() + seconds, width, height)]


def deep_run(levels: int, broken: int, working: int, blocks: bool) -> RunTracker:
    """Chains side by side; one of them broke early, the others are at work further down."""
    chains = range(3)
    units = {f"{c}-{n}": [f"{c}-{n - 1}"] if n else [] for n in range(levels) for c in chains}
    events = [at(0, "orch.started", payload={"graph": Graph(units).payload()})]
    events += [at(n, "unit.completed", f"{c}-{n}") for n in range(working) for c in chains if c or n < broken]
    events.append(at(broken, "unit.failed", f"0-{broken}", error="why"))
    if blocks:
        events += [at(broken, "unit.blocked", f"0-{n}") for n in range(broken + 1, levels)]
    return tracker(*events, *(at(working, "unit.started", f"{c}-{working}") for c in (1, 2)))


def test_of_many_levels_those_at_work_and_their_neighbours_are_seen_though_an_early_unit_failed() -> None:
    for blocks in (False, True):
        lines = shown(deep_run(200, broken=3, working=120, blocks=blocks), 130)
        levels = [int(line.split()[1]) for line in lines if line.startswith("  level ")]
        assert {118, 119, 120, 121} <= set(levels)
        assert any(re.match(r"  ✗ 0-3 +why", line) for line in lines)


def test_between_two_units_the_levels_that_were_reached_are_seen() -> None:
    runs = deep_run(200, broken=3, working=120, blocks=True)
    for chain in (1, 2):
        runs.feed("s", at(121, "unit.completed", f"{chain}-120"))
    levels = [int(line.split()[1]) for line in shown(runs, 130) if line.startswith("  level ")]
    assert {119, 120, 121} <= set(levels)


def test_the_bar_tells_how_much_is_done_and_how_long_the_rest_takes() -> None:
    units = {str(n): [] for n in range(10)}
    runs = tracker(
        at(0, "orch.started", payload={"graph": Graph(units).payload()}),
        *(at(n, "unit.completed", str(n)) for n in range(4)),
        at(4, "unit.failed", "4"),
        at(5, "unit.started", "5"),
    )
    (run,) = runs.runs
    assert (
        text_of(head(run, BEGIN.timestamp() + 20, 38)[1]) == "  " + "━" * 8 + "xx" + "╌╌" + "·" * 8 + "  40%  ETA 0:20"
    )
    runs.source_disconnected("s", BEGIN.timestamp() + 30)
    assert text_of(head(run, BEGIN.timestamp() + 40, 38)[1]).endswith("  40%  ETA -")
    runs.feed("s", at(50, "orch.failed"))
    assert text_of(head(run, BEGIN.timestamp() + 60, 38)[1]).endswith("  40%")


def test_what_is_not_complete_never_looks_complete() -> None:
    nodes = [{"id": str(n), "status": "complete" if n else "pending"} for n in range(1000)]
    (run,) = tracker(at(0, "graph", payload={"nodes": nodes})).runs
    line = text_of(head(run, 0, 80)[1])
    assert " 99%" in line
    assert "·" in line


def test_the_clocks_of_running_units_stand_when_the_run_has_ended() -> None:
    runs = tracker(at(0, "orch.started"), at(1, "unit.started", "slow"), at(9, "orch.failed", error="gave up"))
    lines = shown(runs, 100)
    assert lines[0].startswith("s  failed in 0:09  0/1 units")
    assert any(line.startswith("  ▸ slow ") and line.endswith(" 0:08") for line in lines)


def test_a_run_that_failed_says_why_with_the_last_line_of_the_traceback() -> None:
    error = 'Traceback (most recent call last):\n  File "a.py", line 1, in <module>\nOSError: disk full\n'
    lines = shown(tracker(at(0, "orch.started"), at(9, "orch.failed", error=error)), 100)
    assert any(line.endswith("OSError: disk full") for line in lines)
    assert not any("most recent" in line for line in lines)


def test_the_clocks_of_running_units_stand_while_the_sender_has_disconnected() -> None:
    runs = tracker(at(0, "orch.started"), at(1, "unit.started", "slow"))
    runs.source_disconnected("s", BEGIN.timestamp() + 5)
    lines = shown(runs, 100)
    assert lines[0].startswith("s  running 0:05  0/1 units")
    assert any(line.startswith("  ▸ slow ") and line.endswith(" 0:04") for line in lines)
    runs.feed("s", at(101, "task.started", "slow"))
    assert any(line.startswith("  ▸ slow ") and line.endswith(" 1:42") for line in shown(runs, 103))


def test_every_status_shows_in_a_narrow_bar() -> None:
    nodes = [{"id": str(n), "status": "complete"} for n in range(998)]
    nodes += [{"id": "f", "status": "failed"}, {"id": "r", "status": "in_progress"}]
    (run,) = tracker(at(0, "graph", payload={"nodes": nodes})).runs
    (level,) = run.levels.values()
    assert [mark for mark, _ in _bar(level.statuses, level.units, 4)] == ["━━", "x", "╌", ""]
    pending = {**level.statuses, "complete": 1, "failed": 0, "in_progress": 0, "pending": 999}
    assert [mark for mark, _ in _bar(pending, 1000, 1)] == ["", "", "", "·"]
