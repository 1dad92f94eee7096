"""What is shown of any runs on a screen of any size, and where lines may be of any length."""

import math

from hypothesis import given
from hypothesis import strategies as st

from socketpusher import Event
from socketpusher.terminal.page import render_full, render_screen, render_summary
from socketpusher.terminal.text import Line, text_of
from socketpusher.terminal.text import width as columns_of
from socketpusher.terminal.tracker import RunTracker
from socketpusher.terminal.unit_list import UnitList

names = st.text(max_size=12) | st.sampled_from(
    ["部品" * 9, "e\u0301" * 50, "\u0301" * 500, "\x1b[2J", "👩\u200d👩\u200d👧" * 9, "a", "b"]
)
kinds = st.sampled_from(["graph", "orch.started", "orch.failed", "unit.started", "unit.failed", "unit.blocked", "x"])
histories = st.lists(st.tuples(st.integers(0, 3), kinds, names, names), max_size=30)


keys = st.lists(st.sampled_from(["\x1b[B", "\x1b[6~", "\x1b[F", "\x1b", "/", "f", "a", "\x7f", "\r"]), max_size=8)


def known(history: list[tuple[int, str, str, str]], gone: set[int]) -> RunTracker:
    runs = RunTracker()
    for source, kind, unit, error in history:
        payload = {"nodes": [{"id": f"{error}{n}", "level": n % 9, "tasks": n} for n in range(40)]}
        runs.feed(source, Event(kind, unit, payload=payload if kind == "graph" else None, error=error))
    for source in gone:
        runs.source_disconnected(source, 2.0)
    return runs


def assert_harmless(lines: list[Line], width: float) -> None:
    for line in lines:
        assert sum(columns_of(text) for text, _ in line) <= width
        assert all(text.replace("\u200d", "").isprintable() for text, _ in line)
        assert len(text_of(line)) <= 8 * width * (1 + len(line))


@given(histories, st.sets(st.integers(0, 3)), st.integers(1, 210), st.integers(1, 60))
def test_what_is_drawn_fits_and_holds_nothing_but_text(history: list, gone: set[int], width: int, height: int) -> None:
    runs = known(history, gone)
    lines = render_screen(runs, 1.0, width, height)
    assert len(lines) <= height
    assert_harmless(lines, width)
    for bound in (width, math.inf):
        assert_harmless(render_full(runs, 1.0, bound), bound)
        assert_harmless(render_summary(runs, 1.0, bound), bound)


@given(histories, keys, st.integers(1, 210), st.integers(1, 60))
def test_the_list_of_units_fits_whatever_is_pressed(history: list, pressed: list[str], width: int, height: int) -> None:
    runs, units = known(history, set()), UnitList()
    for key in ["/", *pressed]:
        units.press(key)
        lines = units.render(runs, 1.0, width, height)
        assert len(lines) <= height
        assert_harmless(lines, width)


def test_where_lines_may_be_of_any_length_nothing_is_cut() -> None:
    name, why = "name" * 50, "why" * 100
    runs = RunTracker()
    runs.feed("s", Event("unit.started", name + "1"))
    runs.feed("s", Event("unit.failed", name + "2", error=why))
    lines = [text_of(line) for line in render_full(runs, 1.0)]
    assert any(name + "1" in line for line in lines)
    assert any(line.endswith(f"{name}2  {why}") for line in lines)
    assert not any("…" in line for line in lines)


def test_a_recent_log_record_is_shown_with_its_message() -> None:
    runs = RunTracker()
    runs.feed("s", Event("log.warning", "app", payload={"message": "disk is nearly full", "logger": "x"}))
    runs.feed("s", Event("log.error", payload={"message": "give up"}, error="Traceback (most recent call last):\nOops"))
    lines = [text_of(line) for line in render_screen(runs, 1.0, 80, 24)]
    assert any(line.endswith("log.warning      app  disk is nearly full") for line in lines)
    assert any(line.endswith("log.error          give up  Oops") for line in lines)
