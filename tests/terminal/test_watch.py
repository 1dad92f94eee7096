"""The command `socketpusher watch`, as a user runs it: in a terminal, in a pipe, and once."""

import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from socketpusher import Bus, Event, Graph, PusherConfig, SocketPusher, wire
from socketpusher.terminal.page import cells, elapsed, page, printable, summary, text_of, whole
from socketpusher.terminal.tracker import RunTracker
from support.terminal import Terminal

COMMAND = [sys.executable, "-m", "socketpusher", "watch"]
UNITS = {f"unit-{number:02}": [f"unit-{number - 10:02}"] if number >= 10 else [] for number in range(60)}
GRAPH = Graph(UNITS, dict.fromkeys(UNITS, 3))
HOME = b"\x1b[H"  # every drawing begins with it


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the command would take from ours."""
    for name in ("PYTHONUNBUFFERED", "NO_COLOR", "COLUMNS", "LINES"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TERM", "xterm-256color")


@contextmanager
def terminal(path: str, **options: object) -> Iterator[Terminal]:
    terminal = Terminal(*COMMAND, path, **options)
    try:
        yield terminal
    finally:
        terminal.close()
        if os.path.exists(path):  # it was killed
            os.unlink(path)


@contextmanager
def watching(path: str, **options: object) -> Iterator[Terminal]:
    """`socketpusher watch` on a screen, once it is bound."""
    with terminal(path, **options) as watcher:
        watcher.shows("waiting for a sender")
        yield watcher


@contextmanager
def piped(*arguments: str, **options: object) -> "Iterator[subprocess.Popen[bytes]]":
    """The command without a terminal, once it is bound."""
    with subprocess.Popen([*COMMAND, *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, **options) as process:
        deadline = threading.Timer(60, process.kill)  # which ends a read that waits for its output
        deadline.start()
        try:
            assert process.stderr.readline().startswith(b"listening on ")
            yield process
        finally:
            deadline.cancel()
            deadline.join()
            process.kill()


@contextmanager
def pushing(path: str, graph: Graph | None = None) -> Iterator[tuple[Bus, SocketPusher]]:
    bus = Bus()
    pusher = SocketPusher(bus, PusherConfig(socket_path=path, buffer_size=100_000, reconnect_backoff=0.01))
    if graph is not None:
        pusher.set_graph(graph, parallelism=4)
    with pusher:
        yield bus, pusher


@contextmanager
def connected(path: str) -> Iterator[Callable[..., None]]:
    """A sender that is no pusher."""
    with socket.socket(socket.AF_UNIX) as sender:
        sender.connect(path)
        yield lambda *events: sender.sendall(b"".join(map(wire.encode, events)))


def part_of_a_run(bus: Bus) -> None:
    """Ten units are complete, one has failed, one is blocked by that and two run."""
    bus.emit(Event("orch.started", payload={}))
    for number in range(10):
        name = f"unit-{number:02}"
        bus.emit(Event("unit.started", name, payload={"total_tasks": 3}))
        for task in (1, 2, 3):
            bus.emit(Event("task.completed", name, task))
        bus.emit(Event("unit.completed", name))
    bus.emit(Event("unit.started", "unit-10"))
    bus.emit(Event("unit.failed", "unit-10", error="SyntaxError: invalid syntax\n  more"))
    bus.emit(Event("unit.blocked", "unit-20", error="waits for unit-10"))
    for name in ("unit-11", "unit-12"):
        bus.emit(Event("unit.started", name))
    bus.emit(Event("task.completed", "unit-11", 1))


# On a screen


@pytest.mark.parametrize("size", [(80, 24), (200, 50)])
def test_the_screen_shows_what_runs_what_failed_and_why_and_the_rest(socket_path: str, size: tuple[int, int]) -> None:
    width, height = size
    with watching(socket_path, width=width, height=height) as watcher, pushing(socket_path, GRAPH) as (bus, _):
        part_of_a_run(bus)
        watcher.matches(
            r"^connected: 1 sender  58 events  ",
            r"^pid \d+  running 0:\d\d  10/60 units  1 failed  1 blocked  2 running  31/180 ta",
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
        for width in range(40, 45):  # the line is cut at each
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
        watcher.shows("3,996 complete, 5,000 pending", "level 4", "5 levels more: 5 not begun")


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
        watcher.shows("gone since ", "✗ unit-10  SyntaxError: invalid syntax")
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
        drawn = re.sub(rb"\x1b\[[\d;?]*[hlmH]|\r\n|\n\r?", b"", watcher.written)
        assert not re.search(r"[\x00-\x1f\x7f-\x9f\u202e]", drawn.decode())


def test_wide_names_leave_the_columns_where_they_are(socket_path: str) -> None:
    with watching(socket_path, width=79) as watcher, connected(socket_path) as send:
        for name in ("部品" * 20, "plain", "e\u0301" * 5):
            send(Event("unit.started", name, payload={"total_tasks": 7}))
        watcher.shows("plain", "3 events", "3 running", "last events")
        ends = [match.end() for line in watcher.lines() if (match := re.match(r"  ▸ .*? 0/7", _by_cell(line)))]
        assert len(ends) == 3
        assert len(set(ends)) == 1


def _by_cell(line: str) -> str:
    """The line with a character for every cell, as pyte has it but for those that take none."""
    return "".join(character + " " * (cells(character) - 1) for character in line if cells(character))


# Its end


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
    assert re.search(r"pid \d+  running 0:\d\d  10/60 units .*\r\n  ✗ unit-10  SyntaxError: invalid syntax\r\n", left)
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


# Without a screen


def test_in_a_pipe_every_change_that_matters_is_a_line(socket_path: str) -> None:
    with piped(socket_path) as process:
        with pushing(socket_path, Graph({"a": [], "b": ["a"]})) as (bus, pusher):
            bus.emit(Event("orch.started", payload={}))
            bus.emit(Event("unit.queued", "a"))
            for _ in range(2):  # of a repetition nothing is said
                bus.emit(Event("unit.started", "a"))
            bus.emit(Event("task.started", "a", 1))
            bus.emit(Event("unit.failed", "a", error="why\x1b[2J\nmore"))
            bus.emit(Event("unit.blocked", "b", error="waits for a"))
            bus.emit(Event("orch.failed", error="a failed"))
            pid = pusher.stats().writer_pid
        lines = [process.stdout.readline().decode() for _ in range(8)]
        process.send_signal(signal.SIGINT)
        assert process.wait(30) == 130
        assert process.stderr.read() == b""
    assert all(re.match(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z ", line) for line in lines)
    assert [line.partition(" ")[2] for line in lines] == [
        f"pid {pid} sender.connected\n",
        f"pid {pid} graph 2 units\n",
        f"pid {pid} orch.started 2 units\n",
        f"pid {pid} unit.started a\n",
        f"pid {pid} unit.failed a why\ufffd[2J\n",
        f"pid {pid} unit.blocked b waits for a\n",
        f"pid {pid} orch.failed 2 units, 1 failed, 1 blocked: a failed\n",
        f"pid {pid} sender.gone\n",
    ]


def test_in_a_pipe_problems_are_on_standard_error(socket_path: str) -> None:
    with piped(socket_path) as process, socket.socket(socket.AF_UNIX) as sender:
        sender.connect(socket_path)
        sender.sendall(b"nonsense\x1b[2J\n")
        assert process.stderr.readline().startswith(b"socketpusher watch: skipped what process")
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 143
        assert b"\x1b" not in process.stderr.read() + process.stdout.read()


def test_a_reader_that_has_seen_enough_ends_it_quietly(socket_path: str) -> None:
    with piped(socket_path) as process, connected(socket_path) as send:
        assert process.stdout.readline().endswith(b"sender.connected\n")
        process.stdout.close()
        send(Event("unit.started", "a"))
        assert process.wait(30) == 141
        assert process.stderr.read() == b""


def test_a_terminal_that_can_not_be_drawn_on_gets_lines(socket_path: str) -> None:
    with terminal(socket_path, TERM="dumb") as watcher:
        watcher.shows("listening on")
        with connected(socket_path) as send:
            send(Event("unit.started", "app"))
            watcher.shows("unit.started app")
    assert b"\x1b" not in watcher.written


def test_without_rich_it_says_what_to_install_and_shows_lines(socket_path: str, tmp_path: Path) -> None:
    (tmp_path / "rich.py").write_text("raise ImportError('not installed')")
    modules = os.pathsep.join(filter(None, [str(tmp_path), os.environ.get("PYTHONPATH")]))
    with terminal(socket_path, PYTHONPATH=modules, width=200) as watcher:
        watcher.shows("rich is not installed: pip install 'socketpusher[terminal]'", "listening on")
        with connected(socket_path) as send:
            send(Event("unit.started", "app"))
            watcher.shows("unit.started app")
    assert b"\x1b" not in watcher.written


def test_names_that_the_output_can_not_encode_end_nothing(socket_path: str) -> None:
    with piped(socket_path, env={**os.environ, "PYTHONIOENCODING": "ascii"}) as process:
        with connected(socket_path) as send:
            send(Event("unit.started", "ü"))
            assert process.stdout.readline().endswith(b"sender.connected\n")
            assert process.stdout.readline().endswith(b"unit.started ?\n")
        process.send_signal(signal.SIGINT)
        assert process.wait(30) == 130


# Once


def test_once_prints_where_the_run_stands_and_ends(socket_path: str) -> None:
    with pushing_to_nobody(socket_path) as bus:
        part_of_a_run(bus)
        result = subprocess.run([*COMMAND, "--once", socket_path], capture_output=True, text=True, timeout=60)
    assert (result.returncode, result.stderr) == (0, f"listening on {socket_path}\n")
    assert re.match(r"pid \d+  running 0:\d\d  10/60 units  1 failed  1 blocked  2 running  31/180 ta", result.stdout)
    assert "  ✗ unit-10  SyntaxError: invalid syntax\n" in result.stdout
    assert result.stdout.endswith("  10 complete, 46 pending\n")
    assert all(len(line) <= 80 for line in result.stdout.splitlines())


@contextmanager
def pushing_to_nobody(path: str) -> Iterator[Bus]:
    bus = Bus()
    pusher = SocketPusher(bus, PusherConfig(socket_path=path, reconnect_backoff=0.01, max_reconnect_backoff=0.05))
    pusher.set_graph(GRAPH, parallelism=4)
    pusher.start(wait=False)
    try:
        yield bus
    finally:
        pusher.close(0)


def test_once_is_not_over_with_a_connection_that_says_nothing_and_goes(socket_path: str) -> None:
    with piped("--once", socket_path) as process:
        for _ in range(3):
            with connected(socket_path):
                pass
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(1.5)  # longer than it would wait for a connection that stays
        with connected(socket_path) as send:
            send(Event("unit.failed", "app", error="why"))
            output = process.stdout.read().decode()
            assert process.wait(30) == 0
    assert "  ✗ app  why\n" in output


def test_once_is_over_with_a_sender_that_says_nothing_and_stays(socket_path: str) -> None:
    with piped("--once", socket_path) as process, connected(socket_path):
        assert process.stdout.read().decode() == f"pid {os.getpid()}  0 events\n"
        assert process.wait(30) == 0


def test_once_is_over_though_a_sender_never_stops(socket_path: str) -> None:
    with piped("--once", socket_path) as process:
        deadline = time.monotonic() + 60
        with connected(socket_path) as send, pytest.raises((BrokenPipeError, ConnectionResetError)):
            while time.monotonic() < deadline:
                send(Event("unit.started", "app"))
        assert b"1 running" in process.stdout.read()
        assert process.wait(30) == 0


def test_ctrl_c_while_it_waits_for_a_sender_ends_it_quietly(socket_path: str) -> None:
    with piped("--once", socket_path) as process:
        process.send_signal(signal.SIGINT)
        assert process.wait(30) == 130
        assert process.stdout.read() + process.stderr.read() == b""


# Mistakes


def test_a_path_in_use_is_a_sentence_not_a_traceback(socket_path: str) -> None:
    with piped(socket_path) as process:
        second = subprocess.run([*COMMAND, socket_path], capture_output=True, text=True, timeout=60)
        process.send_signal(signal.SIGINT)
        process.wait(30)
    assert second.returncode == 1
    assert second.stderr.startswith("socketpusher watch: can't listen: somebody listens there already")


# The pages, of any size

names = st.text(max_size=12) | st.sampled_from(["部品" * 9, "e\u0301" * 50, "\u0301" * 500, "\x1b[2J", "a", "b"])
kinds = st.sampled_from(["graph", "orch.started", "orch.failed", "unit.started", "unit.failed", "unit.blocked", "x"])
histories = st.lists(st.tuples(st.integers(0, 3), kinds, names, names), max_size=30)


@given(histories, st.sets(st.integers(0, 3)), st.integers(1, 210), st.integers(1, 60))
def test_a_page_never_leaves_its_place_and_holds_nothing_but_text(
    history: list, gone: set[int], width: int, height: int
) -> None:
    runs = RunTracker()
    for source, kind, unit, error in history:
        payload = {"nodes": [{"id": f"{error}{n}", "level": n % 9, "tasks": n} for n in range(40)]}
        runs.feed(source, Event(kind, unit, payload=payload if kind == "graph" else None, error=error))
    for source in gone:
        runs.source_disconnected(source, 2.0)
    for lines in (page(runs, 1.0, width, height), whole(runs, 1.0, width), summary(runs, 1.0, width)):
        for line in lines:
            assert sum(cells(text) for text, _ in line) <= width
            assert all(text.isprintable() for text, _ in line)
            assert len(text_of(line)) <= 8 * width * (1 + len(line))
    assert len(page(runs, 1.0, width, height)) <= height


@given(st.text())
def test_what_is_printable_stays_and_the_rest_is_replaced(text: str) -> None:
    shown = printable(text)
    assert len(shown) == len(text)
    assert all(
        after == (before if before.isprintable() else "\ufffd") for before, after in zip(text, shown, strict=True)
    )


def test_times_are_never_negative() -> None:
    assert [elapsed(seconds) for seconds in (-5, 0.9, 61, 3723)] == ["0:00", "0:00", "1:01", "1:02:03"]
