"""The picture of a timeline can be read by any reader of SVG, whatever the run was like."""

import re
import xml.etree.ElementTree as ElementTree
from typing import Any

import pytest
from hypothesis import given

from socketpusher import wire
from socketpusher.timeline.svg import ROWS, WIDTH, duration, svg_lines
from support.runs import runs as any_runs
from support.trace import line, runs_of, started

SVG = "{http://www.w3.org/2000/svg}"


def picture(lines: list[bytes]) -> ElementTree.Element:
    return ElementTree.fromstring("\n".join(svg_lines(runs_of(lines))))


def texts(root: ElementTree.Element) -> list[str]:
    return [element.text or "" for element in root.iter(f"{SVG}text")]


def titles(root: ElementTree.Element) -> list[str]:
    return [element.text or "" for element in root.iter(f"{SVG}title")]


def test_it_shows_what_ran_and_how_it_ended() -> None:
    root = picture(
        [
            line(0, "orch.started", payload=started({"app": ["setup"], "setup": []})),
            line(0, "unit.started", "setup", payload={"worker": "w1"}),
            line(40, "unit.completed", "setup"),
            line(40, "unit.started", "app", payload={"worker": "w2"}),
            line(90, "unit.failed", "app", error="boom"),
            line(100, "orch.failed", error="1 unit failed"),
        ]
    )
    assert titles(root) == ["setup | completed after 40 s", "app | failed after 50 s | boom"]
    shown = texts(root)
    assert shown[:2] == [
        "run 2026-11-23 17:08:00 UTC",
        "failed after 0:01:40; units: 1 completed, 1 failed; critical path: 0:01:30 in setup > app",
    ]
    assert {"w1", "w2", "setup", "app", "0", "30 s", "0:01:30"} <= set(shown)


@given(any_runs())
def test_any_run_is_well_formed_and_nothing_is_outside(any_run: Any) -> None:
    root = picture(list(map(wire.encode, any_run.events)))
    for element in root.iter():
        assert 0 <= float(element.get("x", 0)) <= WIDTH
        assert float(element.get("x", 0)) + float(element.get("width", 0)) <= WIDTH
        assert 0 <= float(element.get("y", 0)) <= float(root.get("height"))


def test_names_of_any_kind_are_shown_and_cut_to_their_bars() -> None:
    names = ["<&\"'>", "\0\x1b[31m\n\ufffe", "データ" * 200, "x" * 500]
    lines = [line(number, "unit.started", name, payload={"worker": name}) for number, name in enumerate(names)]
    shown = texts(picture([*lines, line(5, "x")]))
    assert shown.count("<&\"'>") == 2
    assert shown.count("��[31m��") == 2
    assert sum(text.endswith("…") for text in shown) == 4
    assert max(map(len, shown)) < 170


def test_it_stays_small_whatever_the_run() -> None:
    lines = []
    for number in range(20_000):
        lines.append(line(number / 100, "unit.started", f"u{number}", payload={"worker": number % 100}))
        lines.append(line(number / 100 + 1, "unit.failed" if number % 2 else "unit.completed", f"u{number}"))
    data = "\n".join(svg_lines(runs_of(lines)))
    assert len(data) < 4_000_000
    root = ElementTree.fromstring(data)
    assert f"{100 - ROWS} more tracks are not shown" in texts(root)
    chain = {f"{'long' * 100} {number}": [f"{'long' * 100} {number - 1}"] * (number > 0) for number in range(3000)}
    lines = [
        line(0, "orch.started", payload=started(chain)),
        *(line(1, "unit.started", unit) for unit in chain),
        line(2, "x"),
    ]
    assert len("\n".join(svg_lines(runs_of(lines)))) < 4_000_000
    crowd = [line(number / 1e5, kind, "u") for number in range(1000) for kind in ("unit.started", "unit.completed")]
    (title,) = titles(picture([line(-100, "x"), *crowd]))
    assert re.fullmatch(r"u \| completed after .* \| and 999 more", title)


@pytest.mark.parametrize(
    ("microseconds", "text"),
    [
        (0, "0"),
        (7, "7 µs"),
        (999, "999 µs"),
        (1000, "1 ms"),
        (1500, "1.5 ms"),
        (999_499, "999 ms"),
        (999_500, "1 s"),
        (999_999, "1 s"),
        (2_000_000, "2 s"),
        (59_960_000, "60 s"),
        (59_999_999, "60 s"),
        (60_000_000, "0:01:00"),
        (90_000_000, "0:01:30"),
    ],
)
def test_durations_are_short(microseconds: int, text: str) -> None:
    assert duration(microseconds) == text
