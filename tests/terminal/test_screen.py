"""What a user sees of runs on a terminal's screen, and what the keys do."""

import os
import re
import signal
import socket
import subprocess
import sys
import time

import pytest

from socketpusher import Event, Graph, wire
from socketpusher.listener.problems import FrequentProblem, Recovery
from socketpusher.terminal.screen import Screen
from socketpusher.terminal.sources import EventSource
from socketpusher.terminal.text import width as columns_of
from socketpusher.terminal.tracker import RunTracker
from support.terminal import Terminal
from support.watching import GRAPH, UNITS, connected, part_of_a_run, pushing, watching

HOME = b"\x1b[H"  # every drawing begins with it


@pytest.mark.parametrize("size", [(80, 24), (200, 50)])
def test_the_screen_shows_what_runs_what_failed_and_why_and_the_rest(socket_path: str, size: tuple[int, int]) -> None:
    width, height = size
    with watching(socket_path, width=width, height=height) as watcher, pushing(socket_path, GRAPH) as (bus, _):
        part_of_a_run(bus)
        watcher.matches(
            r"^connected: 1 sender  58 events  ",
            r"^pid \d+  running 0:\d\d  10/60 units  1 failed  1 blocked  2 running",
            r"^  ━+xx?╌+·+  31/180 tasks  16%  ETA \d+:\d\d",
            r"  level 0  ━+ +10/10 units +30/30 tasks",
            r"  level 1  x+╌+·+ +0/10 units +1/30 tasks  1 failed",
            r"^  ✗ unit-10  SyntaxError: invalid syntax$",
            r"^  ■ unit-20  waits for unit-10$",
            r"  ▸ unit-11 +1/3 +0:\d\d",
            r"^  \d\d:\d\d:\d\d  task.completed   unit-11 1$",
        )
        if height == 24:
            watcher.matches("^  10 complete, 46 pending$")
        else:
            watcher.shows(*UNITS)


def test_a_terminal_of_another_size_is_filled_again(socket_path: str) -> None:
    with watching(socket_path) as watcher, pushing(socket_path, GRAPH) as (bus, _):
        part_of_a_run(bus)
        watcher.shows("58 events", "10 complete, 46 pending")
        watcher.resize(200, 50)
        watcher.shows("· unit-59", "level 5")
        watcher.resize(20, 5)
        watcher.wait_for(lambda: watcher.lines()[0] == "connected: 1 sender…")
        assert len(watcher.lines()) == 5
        watcher.resize(80, 24)
        watcher.shows("10 complete, 46 pending", "unit-11")


def test_a_resize_is_not_left_for_the_next_second(socket_path: str) -> None:
    with watching(socket_path) as watcher:
        begin = time.monotonic()
        for width in range(30, 35):  # the line is cut at each
            watcher.resize(width, 24)
            watcher.wait_for(lambda width=width: len(watcher.lines()[0]) == width and watcher.lines()[0][-1] == "…")
        assert time.monotonic() - begin < 0.8 * 5  # drawn once a second only, it would take 5


def test_ten_thousand_units_fit_on_it(socket_path: str) -> None:
    nodes = [{"id": f"u{number}", "level": number // 1000} for number in range(10_000)]
    with watching(socket_path) as watcher, connected(socket_path) as send:
        send(Event("graph", payload={"nodes": nodes}), Event("orch.started"))
        for first in range(0, 5000, 1000):
            units = [f"u{number}" for number in range(first, first + 1000)]
            send(*(Event("unit.started", unit) for unit in units))
            send(Event("unit.failed", units[0], error=f"reason {first}"))
            if first < 4000:
                send(*(Event("unit.completed", unit) for unit in units[1:]))
        watcher.shows("3,996/10,000 units  5 failed  999 running", "reason 4000", "and 993 more", "last events")
        watcher.shows("3,996 complete, 5,000 pending", "level 4", "6 levels more: 2 not all complete, 4 not begun")


def test_a_graph_that_was_too_long_to_be_sent_is_told_of(socket_path: str) -> None:
    units = {f"{number}{'x' * 200}": [] for number in range(6000)}
    with watching(socket_path) as watcher, pushing(socket_path, Graph(units)):
        watcher.shows("no graph: <payload left out: 6000 units do not fit")


def test_the_clocks_go_on_while_nothing_comes(socket_path: str) -> None:
    with watching(socket_path) as watcher, connected(socket_path) as send:
        send(Event("orch.started"), Event("unit.started", "slow"))
        watcher.matches(r"running 0:0[1-9]", r"▸ slow .* 0:0[1-9]")


def test_a_unit_whose_start_was_not_seen_has_no_time(socket_path: str) -> None:
    standing = {"nodes": [{"id": "a", "status": "in_progress", "tasks": 4, "completed_tasks": 3}]}
    with watching(socket_path) as watcher, connected(socket_path) as send:
        send(Event("graph", payload=standing))
        watcher.matches(r"▸ a +3/4 +-$")


def test_who_runs_a_unit_is_shown(socket_path: str) -> None:
    with watching(socket_path) as watcher, connected(socket_path) as send:
        send(*(Event("unit.started", unit, payload={"worker": f"gpu {unit}"}) for unit in "ab"))
        send(Event("unit.failed", "b", error="no memory"))
        watcher.shows("▸ a on gpu a", "✗ b  no memory  on gpu b")


def test_senders_come_and_go_and_the_run_goes_on(socket_path: str) -> None:
    with watching(socket_path) as watcher:
        with pushing(socket_path, GRAPH) as (bus, _):
            part_of_a_run(bus)
            watcher.shows("58 events")
        watcher.shows("no sender since ", "✗ unit-10  SyntaxError: invalid syntax")
        with pushing(socket_path, GRAPH) as (bus, _):
            bus.emit(Event("unit.started", "unit-33"))
            watcher.matches("^connected: 1 sender ", "  ▸ unit-33 ", "^  59 pending$", r"\A(?!(?s:.*pid .*pid ))")


def test_a_writer_that_is_killed_is_followed_by_the_next_with_the_errors_known_before(socket_path: str) -> None:
    with watching(socket_path) as watcher, pushing(socket_path, GRAPH) as (bus, pusher):
        part_of_a_run(bus)
        watcher.shows("58 events", "2 running")
        killed = pusher.stats().writer_pid
        os.kill(killed, signal.SIGKILL)
        watcher.matches(
            "^connected: 1 sender",
            rf"^pid (?!{killed} )\d+  running \d:\d\d  10/60 units",
            "^  ✗ unit-10  SyntaxError: invalid syntax$",
            r"▸ unit-11 +1/3 +\d:\d\d",
        )


def test_several_runs_are_shown_below_each_other(socket_path: str) -> None:
    with watching(socket_path) as watcher, connected(socket_path) as one, connected(socket_path) as other:
        one(Event("unit.started", "first"))
        other(Event("unit.started", "second"))
        title = f"^pid {os.getpid()}  no start seen  0/1 units  1 running$"
        watcher.matches("connected: 2 senders", f"(?s:{title}.*▸ first.*{title}.*▸ second)")


def test_it_draws_at_most_ten_times_a_second_under_a_flood_and_takes_everything_in(socket_path: str) -> None:
    events = b"".join(wire.encode(Event("task.started", f"unit-{number % 60:02}", 1)) for number in range(1000))
    with watching(socket_path) as watcher, connected(socket_path):
        watcher.shows("connected: 1 sender")
        before, begin = watcher.written.count(HOME), time.monotonic()
        sender = subprocess.Popen([sys.executable, "-c", SEND_MANY, socket_path], stdin=subprocess.PIPE)
        with sender:
            sender.stdin.write(events)
            sender.stdin.close()
            watcher.shows("200,000 events")
        assert watcher.written.count(HOME) - before <= 10 * (time.monotonic() - begin) + 2


SEND_MANY = """
import socket, sys
events = sys.stdin.buffer.read()
with socket.socket(socket.AF_UNIX) as sender:
    sender.connect(sys.argv[1])
    for _ in range(200):
        sender.sendall(events)
"""


def test_lines_that_are_no_events_are_counted_and_the_last_is_told(socket_path: str) -> None:
    with watching(socket_path) as watcher, socket.socket(socket.AF_UNIX) as sender:
        sender.connect(socket_path)
        sender.sendall(b"nonsense\n[]\n")
        watcher.shows("2 problems, the last: skipped what process", "a line must be a JSON o")


@pytest.mark.parametrize("variables, coloured", [({}, True), ({"NO_COLOR": "1"}, False)])
def test_colours_are_there_unless_no_color_is_set(socket_path: str, variables: dict[str, str], coloured: bool) -> None:
    with watching(socket_path, **variables) as watcher, connected(socket_path) as send:
        send(Event("unit.failed", "app", error="why"))
        watcher.shows("✗ app  why")
        styles = {code for codes in re.findall(rb"\x1b\[([\d;]*)m", watcher.written) for code in codes.split(b";")}
        assert bool(styles & {b"31", b"32", b"33"}) is coloured


def test_what_names_and_errors_hold_is_text_to_the_terminal(socket_path: str) -> None:
    hostile = "\x1b]0;title\x07\x1b[2J\x9b2J\r\u202e\ud800[red]x[/red]:smile:"
    with watching(socket_path) as watcher, connected(socket_path) as send:
        send(Event("unit.failed", "n" + hostile, error="e" + hostile), Event("t" + hostile))
        shown = "\ufffd]0;title\ufffd\ufffd[2J\ufffd2J\ufffd\ufffd"
        watcher.shows("n" + shown[:10], "e" + shown, "[red]x[/red]:smile:", "t" + shown[:10])
        drawn = re.sub(rb"\x1b\[[\d;?]*[hlmHJK]|\r\n", b"", watcher.written)
        assert not re.search(r"[\x00-\x1f\x7f-\x9f\u202e]", drawn.decode())


def test_wide_names_leave_the_columns_where_they_are(socket_path: str) -> None:
    with watching(socket_path, width=79) as watcher, connected(socket_path) as send:
        for name in ("部品" * 20, "plain", "e\u0301" * 5):
            send(Event("unit.started", name, payload={"total_tasks": 7}))
        watcher.shows("plain", "3 events", "3 running", "last events")
        ends = [match.end() for line in watcher.lines() if (match := re.match(r"  ▸ .*? 0/7", _by_cell(line)))]
        assert len(ends) == 3
        assert len(set(ends)) == 1


def test_an_emoji_of_several_reaches_the_terminal_whole(socket_path: str) -> None:
    family = "👩\u200d👩\u200d👧"
    with watching(socket_path) as watcher, connected(socket_path) as send:
        send(Event("unit.failed", family * 3, error="why"))
        watcher.wait_for(lambda: f"✗ {family * 3}  why".encode() in re.sub(rb"\x1b\[[\d;]*m", b"", watcher.written))


def _by_cell(line: str) -> str:
    """The line with a character for every cell, as pyte has it but for those that take none."""
    return "".join(character + " " * (columns_of(character) - 1) for character in line if columns_of(character))


# Keys

UP, DOWN, PAGE_DOWN, ESCAPE = b"\x1b[A", b"\x1b[B", b"\x1b[6~", b"\x1b"


def test_q_quits_and_leaves_a_summary(socket_path: str) -> None:
    with watching(socket_path) as watcher, connected(socket_path) as send:
        send(Event("unit.failed", "app", error="why"))
        watcher.shows("✗ app  why")
        watcher.press(b"q")
        assert watcher.ends() == 0
    assert watcher.written.endswith("  ✗ app  why\r\n".encode())


def test_a_question_mark_shows_the_keys_until_the_next_key(socket_path: str) -> None:
    with watching(socket_path) as watcher:
        watcher.press(b"?")
        watcher.shows("q or Ctrl-C", "search for a part")
        watcher.press(b"q")
        watcher.wait_for(lambda: "Ctrl-C" not in watcher.text())
        watcher.press(b"q")
        assert watcher.ends() == 0


def test_arrows_lead_through_the_units_and_to_why_one_failed(socket_path: str) -> None:
    trace = 'Traceback (most recent call last):\n  File "a.py", line 3, in f\n    f()\nOSError: disk full'
    with watching(socket_path) as watcher, pushing(socket_path, GRAPH) as (bus, _):
        bus.emit(Event("unit.failed", "unit-01", error=trace))
        watcher.shows("1 failed", "✗ unit-01  OSError: disk full")
        watcher.press(DOWN)
        watcher.shows("60 units", "· unit-00", "✗ unit-01", "unit-00  pending, level 0")
        watcher.press(DOWN)
        watcher.shows("unit-01  failed, level 0", 'File "a.py", line 3, in f')
        watcher.press(PAGE_DOWN)
        watcher.wait_for(lambda: "unit-01" not in watcher.text())
        watcher.press(ESCAPE)
        watcher.shows("last events", "level 5")


def test_a_search_and_what_failed_are_shown_as_they_come(socket_path: str) -> None:
    with watching(socket_path) as watcher, pushing(socket_path, GRAPH) as (bus, _):
        part_of_a_run(bus)
        watcher.shows("58 events")
        watcher.press(b"/")
        watcher.press(b"unit-3q")
        watcher.shows("0 units  /unit-3q_")
        watcher.press(b"\x7f\r")
        watcher.shows("10 units  /unit-3", "unit-39")
        watcher.press(b"f")
        watcher.shows("0 units, failed or blocked  /unit-3")
        bus.emit(Event("unit.failed", "unit-33", error="new"))
        watcher.shows("1 unit, failed or blocked  /unit-3", "✗ unit-33", "new")


def test_without_a_keyboard_there_are_no_keys(socket_path: str) -> None:
    command = f"{sys.executable} -m socketpusher watch {socket_path} < /dev/null"
    with Terminal("sh", "-c", f"exec {command}") as watcher:
        watcher.shows("waiting for a sender")
        assert "? help" not in watcher.text()
        watcher.press(b"\x03")
        assert watcher.ends() == 130


# Its end


@pytest.mark.parametrize("ending", ["q", "Ctrl-C", "SIGTERM"])
def test_the_terminal_is_as_before_whatever_ends_it(socket_path: str, ending: str) -> None:
    with watching(socket_path) as watcher:
        before = watcher.settings_at_the_start
        assert watcher.settings() != before
        if ending == "SIGTERM":
            watcher.process.terminate()
        else:
            watcher.press({"q": b"q", "Ctrl-C": b"\x03"}[ending])
        watcher.ends()
        assert watcher.settings() == before
        assert watcher.written.rindex(b"\x1b[?1049l") > watcher.written.rindex(b"\x1b[?1049h")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_brings_the_terminal_back_and_leaves_a_summary(socket_path: str, number: signal.Signals) -> None:
    with watching(socket_path) as watcher, pushing(socket_path, GRAPH) as (bus, _):
        part_of_a_run(bus)
        watcher.shows("58 events")
        if number == signal.SIGINT:
            watcher.press(b"\x03")
        else:
            watcher.process.send_signal(number)
        assert watcher.ends() == 128 + number
        assert not os.path.exists(socket_path)
    screen, _, after = watcher.written.rpartition(b"\x1b[?1049l")
    assert screen.count(b"\x1b[?1049h") == 1
    assert watcher.written.rindex(b"\x1b[?25h") > watcher.written.rindex(b"\x1b[?25l")
    left = after.decode()
    assert "Traceback" not in left
    assert re.search(
        r"pid \d+  running 0:\d\d  10/60 units .*\r\n  ━.*\r\n  ✗ unit-10  SyntaxError: invalid syntax\r\n", left
    )
    assert "\x1b" not in left


def test_ctrl_c_before_anything_came_leaves_nothing(socket_path: str) -> None:
    with watching(socket_path) as watcher:
        watcher.press(b"\x03")
        assert watcher.ends() == 130
    assert watcher.written.rpartition(b"\x1b[?1049l")[2] in (b"", b"^C")


def test_a_terminal_that_is_closed_ends_it_and_the_socket_is_removed(socket_path: str) -> None:
    with watching(socket_path) as watcher:
        watcher.hang_up()
        watcher.process.wait(30)
        assert not os.path.exists(socket_path)


# What a terminal of any kind does with what is written


def drawn(monkeypatch: pytest.MonkeyPatch, screen: Screen, columns: int, height: int) -> str:
    written: list[str] = []
    monkeypatch.setattr("socketpusher.terminal.screen._size", lambda: (columns, height))
    monkeypatch.setattr(screen._tty, "write", written.append)
    screen._drawn = 0.0
    screen.refresh()
    return written[0]


def test_the_last_character_of_a_full_line_is_not_erased(monkeypatch: pytest.MonkeyPatch) -> None:
    """The cursor of xterm and others stands on it, so that `erase to the end of the line` would erase it."""
    runs = RunTracker()
    screen = Screen(EventSource("w" * 100, []), runs)
    runs.feed("s", Event("unit.failed", "a", error="long " * 50))
    for height in 10, 3, 1:
        written = re.sub(r"\x1b\[[0-9;]*m", "", drawn(monkeypatch, screen, 60, height)).removeprefix("\x1b[H")
        lines = written.removesuffix("\n\x1b[J").split("\n")
        erased = [columns_of(line.removesuffix("\x1b[K")) < 60 for line in lines]
        assert not all(erased)
        assert [line.endswith("\x1b[K") for line in lines] == erased


def test_a_problem_is_shown_until_it_is_over(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = Screen(EventSource("w", []), RunTracker())
    screen.report(["lost the connection"])
    assert "1 problem: lost the connection" in drawn(monkeypatch, screen, 80, 24)
    screen.report([Recovery("connected")])
    shown = drawn(monkeypatch, screen, 80, 24)
    assert "problem" not in shown
    assert "connected" not in shown
    screen.report([FrequentProblem("events were removed"), "lost it again"])
    assert "3 problems, the last: lost it again" in drawn(monkeypatch, screen, 80, 24)
    screen.report([Recovery("connected")])  # but the events are still missing
    assert "3 problems, the last: events were removed" in drawn(monkeypatch, screen, 80, 24)
