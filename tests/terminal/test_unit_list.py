"""The list of units that keys open: to move in, to search, to see why a unit failed."""

import re
from datetime import UTC, datetime, timedelta

from socketpusher import Event
from socketpusher.terminal.text import SELECTED, text_of
from socketpusher.terminal.tracker import RunTracker
from socketpusher.terminal.unit_list import UnitList

UP, DOWN, PAGE_UP, PAGE_DOWN, HOME, END = "\x1b[A", "\x1b[B", "\x1b[5~", "\x1b[6~", "\x1b[H", "\x1b[F"
TRACE = (
    "Traceback (most recent call last):\n" + "".join(f'  File "{n}.py", line 1\n' for n in range(40)) + "OSError: full"
)


def runs() -> RunTracker:
    known = RunTracker()
    known.feed("s", Event("graph", payload={"nodes": [{"id": f"u{n}", "level": n // 10} for n in range(100)]}))
    known.feed("s", Event("unit.failed", "u7", error=TRACE))
    known.feed("s", Event("unit.blocked", "u17", error="waits for u7"))
    known.feed("s", Event("unit.started", "u8", payload={"worker": "GPU-3"}))
    return known


class List:
    """The list in a place of 80x24, and what is pressed."""

    def __init__(self) -> None:
        self.runs, self.units = runs(), UnitList()

    def press(self, *keys: str) -> list[str]:
        for key in keys:
            self.units.press(key)
            self.lines = self.units.render(self.runs, 1.0, 80, 24)
        return [text_of(line) for line in self.lines]

    def marked(self) -> str:
        (name,) = [text for line in self.lines for text, style in line if style == SELECTED]
        return name.strip()


def test_arrows_and_pages_go_through_all_units_and_never_beyond_the_ends() -> None:
    shown = List()
    for keys, name in (
        ((DOWN,), "u0"),
        ((DOWN, DOWN, UP), "u1"),
        ((UP, UP, UP), "u0"),
        ((END,), "u99"),
        ((DOWN, UP), "u98"),
        ((HOME, PAGE_DOWN, PAGE_UP), "u0"),
    ):
        shown.press(*keys)
        assert shown.marked() == name
    first = shown.press(HOME, PAGE_DOWN)
    assert shown.marked() != "u1"
    assert any(" u0 " in f"{line} " for line in shown.press(HOME)) and first


def test_the_marked_unit_is_always_on_the_screen() -> None:
    shown = List()
    for key in [DOWN] * 120 + [UP] * 120:
        shown.press(key)
        shown.marked()


def test_a_search_shows_the_units_whose_name_worker_or_reason_has_the_text() -> None:
    for text, names in (("u9", 11), ("gpu", 1), ("WAITS", 1), ("nothing like it", 0)):
        lines = List().press("/", *text)
        assert lines[0] == f"{names:,} unit{'s' * (names != 1)}  /{text}_"


def test_a_search_ends_with_enter_and_is_left_with_escape() -> None:
    shown = List()
    assert shown.press("/", *"u98x", "\x7f", "\r")[0] == "1 unit  /u98"
    assert not shown.units.typing
    shown.units.press("\x1b")
    assert not shown.units.shown
    assert shown.press(DOWN)[0] == "100 units"


def test_while_a_search_is_typed_every_letter_belongs_to_it() -> None:
    assert List().press("/", *"qf?/")[0] == "0 units  /qf?/_"


def test_f_shows_what_failed_or_is_blocked_and_then_all_again() -> None:
    shown = List()
    lines = shown.press("f")
    assert lines[0] == "2 units, failed or blocked"
    assert lines[1].startswith("  ✗ u7 ")
    assert lines[1].endswith("  OSError: full")
    assert lines[2].endswith("  waits for u7")
    assert shown.press("f")[0] == "100 units"


def test_below_the_list_is_the_end_of_the_traceback_of_the_marked_unit() -> None:
    lines = List().press("f")
    assert lines[-2] == "  OSError: full"
    assert lines[-3] == '    File "39.py", line 1'
    assert any(line.startswith("u7  failed, level 0") for line in lines)


def test_the_clock_of_a_running_unit_stands_when_the_run_has_ended() -> None:
    begin, tracker = datetime(2026, 11, 26, tzinfo=UTC), RunTracker()
    for seconds, type, unit in ((0, "unit.started", "slow"), (7, "orch.failed", "")):
        tracker.feed("s", Event(type, unit, time=begin + timedelta(seconds=seconds)))
    lines = [text_of(line) for line in UnitList().render(tracker, begin.timestamp() + 90, 80, 24)]
    assert any(re.search(r" slow .*0:07", line) for line in lines)
