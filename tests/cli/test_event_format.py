"""Events as lines for people."""

import re
import sys
from time import tzset

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from socketpusher import Event, EventType, wire
from socketpusher.cli.event_format import MAX_CHARACTERS, TYPE_WIDTH, EventFormatter, shows_colors
from socketpusher.cli.output import printable

FAMILY = "👨‍👩‍👧‍👦"  # four emoji and three joiners


def test_lines_are_aligned_and_say_everything() -> None:
    events = [
        Event("unit.started", unit="app", payload={"total_tasks": 3}),
        Event("task.validation.fail", unit="größe", task=2, error="exit code 2\nsecond line"),
        Event("pr.merged", unit="日本", pr=12),
        Event("unit.failed", unit=FAMILY, error="x"),
    ]
    formatter = EventFormatter()
    assert [formatter.line(event).lstrip() for event in events] == [
        'unit.started            app      {"total_tasks":3}',
        "task.validation.fail    größe    task 2 exit code 2\\nsecond line",
        "pr.merged               日本     pr 12",
        f"unit.failed             {FAMILY}       x",
    ]


def test_every_known_type_fits_its_column() -> None:
    assert max(map(len, EventType)) == TYPE_WIDTH


def test_a_time_is_the_local_time_of_day() -> None:
    event = wire.decode(wire.encode(Event("x")))
    assert re.match(r"\d\d:\d\d:\d\d\.\d{3} x$", EventFormatter().line(event))


@given(st.text(), st.text(), st.recursive(st.text(), st.lists), st.text())
def test_no_character_that_a_terminal_obeys_is_in_a_line(kind: str, unit: str, payload: object, error: str) -> None:
    event = Event(kind, unit=unit, payload=payload, error=error)
    line = EventFormatter().line(wire.decode(wire.encode(event)))
    assert line.replace("\u200d", "").isprintable()


@pytest.mark.parametrize(("time", "zone"), [("0001-01-01", "America/New_York"), ("9999-12-31", "Asia/Tokyo")])
def test_a_time_that_the_time_zone_does_not_have_is_a_dash(
    time: str, zone: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    event = wire.decode(f'{{"type":"x","time":"{time}T{"23" if time > "1" else "00"}:00:00Z"}}')
    monkeypatch.setenv("TZ", zone)
    tzset()
    try:
        assert EventFormatter().line(event) == "- x"
    finally:
        monkeypatch.undo()
        tzset()


def test_a_payload_that_is_nested_deeper_than_orjson_writes_is_shown() -> None:
    line = EventFormatter().line(Event("x", payload=orjson.loads("[" * 300 + "]" * 300)))
    assert "nested deeper than" in line


def test_an_endless_text_is_cut_and_says_so() -> None:
    error = "Traceback (most recent call last):\n" + "  File x\n" * 100_000 + "ValueError: why"
    event = Event("t" * 10_000, unit="u" * 10_000, payload=["p" * 10_000], error=error)
    line = EventFormatter().line(event)
    assert len(line) < 4 * (MAX_CHARACTERS + 50)
    assert "Traceback (most" in line
    assert line.endswith("ValueError: why")
    assert line.count(" characters left out ... ") == 4
    cut = len(printable(error)) - MAX_CHARACTERS
    assert f" ... {cut:,} characters left out ... " in line


@pytest.mark.parametrize(
    ("terminal", "variables", "colored"),
    [
        (True, {}, True),
        (True, {"NO_COLOR": "1"}, False),
        (True, {"TERM": "dumb"}, False),
        (False, {}, False),
        (False, {"FORCE_COLOR": "1"}, True),
        (False, {"FORCE_COLOR": "1", "NO_COLOR": "1"}, False),
        (False, {"FORCE_COLOR": ""}, False),
    ],
)
def test_colours_are_for_those_who_want_them(
    terminal: bool, variables: dict[str, str], colored: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("NO_COLOR", "FORCE_COLOR"):
        monkeypatch.delenv(name, raising=False)
    for name, value in {"TERM": "xterm-256color", **variables}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(sys.stdout, "isatty", lambda: terminal)
    assert shows_colors() == colored


def test_colours_change_nothing_but_colours() -> None:
    event = Event("unit.failed", unit="app", error="why", task=1)
    line = EventFormatter(colors=True).line(event)
    assert "\x1b[31munit.failed\x1b[0m " in line
    assert "\x1b[31mwhy\x1b[0m" in line
    assert re.sub(r"\x1b\[\d+m", "", line) == EventFormatter().line(event)
