"""The demo: what its scheduler does and in what order, and the command as a user runs it."""

import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import BinaryIO

import pytest

from socketpusher import Bus, Event, Graph, PusherConfig, PusherStats, SocketPusher, wire
from socketpusher.demo.accident import Accident
from socketpusher.demo.figures import Figures, Kill, Note, Timing, line_of, notes_in, table
from socketpusher.demo.modules import packages, standard_library, units_of
from socketpusher.demo.scheduler import Scheduler, examine
from support.terminal import Terminal
from support.waiting import stop, wait_for

COMMAND = [sys.executable, "-m", "socketpusher", "demo"]


@pytest.fixture
def sources(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory to put modules in, for `packages` to find."""
    monkeypatch.syspath_prepend(str(tmp_path))
    return tmp_path


def write(directory: Path, **modules: str) -> None:
    for name, source in modules.items():
        path = directory / (name.replace("__", "/") + ".py")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(source)


# Units


def test_a_unit_depends_on_the_units_that_it_imports(sources: Path) -> None:
    write(sources, demo_a="import demo_b.x, sys", demo_b="try:\n  from demo_c import y\nexcept ImportError: pass")
    write(sources, demo_c="def f():\n  import demo_a", demo_d="class C:\n  if C:\n    import demo_a as other")
    units = units_of(packages(["demo_a", "demo_b", "demo_c", "demo_d"]))
    assert {name: unit.dependencies for name, unit in units.items()} == {
        "demo_a": ("demo_b",),
        "demo_b": ("demo_c",),
        "demo_c": (),
        "demo_d": ("demo_a",),
    }


def test_relative_imports_are_the_units_own(sources: Path) -> None:
    write(sources, demo_x="", demo_p__demo_x="y = 1")
    (sources / "demo_p" / "__init__.py").write_text("from . import demo_x\nfrom .demo_x import y")
    units = units_of(packages(["demo_p", "demo_x"]))
    assert units["demo_p"].dependencies == ()


def test_modules_in_a_circle_are_one_unit(sources: Path) -> None:
    write(sources, demo_a="import demo_b", demo_b="import demo_c", demo_c="import demo_a", demo_d="import demo_c")
    units = units_of(packages(["demo_d", "demo_c", "demo_b", "demo_a"]))
    assert set(units) == {"demo_a+demo_b+demo_c", "demo_d"}
    assert units["demo_d"].dependencies == ("demo_a+demo_b+demo_c",)
    assert len(units["demo_a+demo_b+demo_c"].files) == 3


def test_the_name_of_a_large_circle_is_short(sources: Path) -> None:
    names = [f"demo_{number}" for number in range(5)]
    write(sources, **{name: f"import {names[number - 1]}" for number, name in enumerate(names)})
    assert list(units_of(packages(names))) == ["demo_0+demo_1+3 more"]


def test_modules_are_not_run_to_be_found(sources: Path) -> None:
    write(sources, demo_explosive="raise SystemExit('imported')")
    assert list(units_of(packages(["demo_explosive"]))) == ["demo_explosive"]
    assert "demo_explosive" not in sys.modules


def test_directories_of_tests_are_left_out(sources: Path) -> None:
    write(sources, demo_p__tests__bad="(", demo_p__test__bad="(", demo_p__good="")
    (sources / "demo_p" / "__init__.py").touch()
    files = packages(["demo_p"])["demo_p"]
    assert [os.path.relpath(path, sources) for path in files] == ["demo_p/__init__.py", "demo_p/good.py"]


@pytest.mark.parametrize("name", ["os", "abc", "codecs", "importlib", "zipimport", "json"])
def test_modules_that_are_frozen_or_imported_already_are_found_by_their_source(name: str) -> None:
    assert all(path.endswith(".py") and os.path.exists(path) for path in packages([name])[name])


@pytest.mark.parametrize(
    ("name", "why"),
    [("no_such_module", "installed"), ("sys", "no Python source"), ("os.path", "top-level"), ("", "top-level")],
)
def test_a_package_that_can_not_be_worked_on_is_named_with_the_reason(name: str, why: str) -> None:
    with pytest.raises(ValueError, match=f"can't work on {name!r}: .*{why}"):
        packages([name])


def test_the_standard_library_makes_a_graph_worth_watching() -> None:
    units = units_of(standard_library())
    graph = Graph({name: unit.dependencies for name, unit in units.items()})  # raises if there is a circle left
    assert len(units) > 100
    assert len(graph.levels()) > 8
    assert sum(len(unit.files) for unit in units.values()) > 500


# The scheduler


def events_of(*names: str) -> list[Event]:
    bus = Bus()
    events: list[Event] = []
    bus.subscribe(events.append)
    scheduler = Scheduler(units_of(packages(names)), bus)
    scheduler.run()
    assert scheduler.emitted == len(events)
    return events


def test_a_unit_runs_after_its_dependencies_and_once(sources: Path) -> None:
    write(sources, demo_a="import demo_b, demo_c", demo_b="import demo_c", demo_c="")
    happened = [(event.type, event.unit) for event in events_of("demo_a", "demo_b", "demo_c")]
    expected = [("orch.started", "")]
    for unit in ("demo_c", "demo_b", "demo_a"):
        happenings = ("unit.queued", "unit.started", "task.started", "task.completed", "unit.completed")
        expected += [(happening, unit) for happening in happenings]
    assert happened == [*expected, ("orch.completed", "")]


def test_tasks_are_the_files_counted_from_one() -> None:
    events = events_of("json")
    started = next(event for event in events if event.type == "unit.started")
    count = started.payload["total_tasks"]
    assert started.payload == {"total_tasks": count, "completed_tasks": 0}
    assert [event.task for event in events if event.type == "task.started"] == list(range(1, count + 1))
    assert [event.task for event in events if event.type == "task.completed"] == list(range(1, count + 1))


@pytest.mark.parametrize(
    "source", [b"(", b"x = '\0'", b"# coding: nonsense\n", b"\xff", b"-" * 200_000 + b"1", b"f(" * 5000]
)
def test_a_file_that_does_not_compile_fails_its_task_and_stops_nothing(sources: Path, source: bytes) -> None:
    (sources / "demo_bad.py").write_bytes(source)
    write(sources, demo_after="import demo_bad")
    events = events_of("demo_bad", "demo_after")
    failed = next(event for event in events if event.type == "task.failed")
    assert failed.error
    assert failed.payload == {"file": str(sources / "demo_bad.py")}
    assert [(event.unit, event.error) for event in events if event.type == "unit.failed"] == [
        ("demo_bad", "1 of 1 files do not compile")
    ]
    assert events[-1].type == "orch.completed"
    assert events[-1].payload == {"failed_tasks": 1}


def test_a_task_counts_what_is_in_the_file(tmp_path: Path) -> None:
    path = tmp_path / "x.py"
    path.write_text("x = 1\ny = '\\d'\n")  # the second line makes the compiler warn
    nodes = len(["Module"]) + 2 * len(["Assign", "Name", "Store", "Constant"])
    assert examine(str(path)) == {"file": str(path), "lines": 2, "nodes": nodes}


# The table


def rows_of(text: str) -> dict[str, str]:
    return dict(re.findall(r"^(.+?)  +(\S+(?: s| ms)?)", text, re.MULTILINE))


def test_the_table_tells_what_was_measured() -> None:
    figures = Figures([Timing(1.0, 0.5)] * 3, [Timing(1.1, 0.5)] * 3, emitted=1000, books=[PusherStats(sent=990)])
    notes = [Note(f"s-{number}", 100.0, 100 + number / 1000) for number in range(990, 0, -1)]
    rows = rows_of(table(figures, [notes]))
    assert (rows["events emitted"], rows["events received"], rows["events missing"]) == ("1,000", "990", "10")
    assert rows["pusher's books"] == "990"
    assert rows["latency, median"] == "495.0 ms"
    assert rows["latency, 99th percentile"] == "981.0 ms"
    assert rows["latency, maximum"] == "990.0 ms"
    assert rows["schedule without pusher, time"] == "1.000 s"
    assert rows["schedule with pusher, time"] == "1.100 s"
    assert "+0.100 s   +10.0%\n" in table(figures, [notes])


def test_the_table_tells_what_it_cost_that_the_display_was_killed() -> None:
    figures = Figures([Timing(1, 1)], [Timing(1, 1)], emitted=12, books=[PusherStats()] * 2, kill=Kill(10.0, 4))
    killed = [Note("a-1", 9.0, 9.001), Note("a-2", 9.9, 9.902), Note("a-3", 9.99, 9.993)]
    another = [Note("a-1", 9.0, 10.5), Note("a-3", 9.99, 10.5), Note("a-4", 9.998, 10.5), Note("a-5", 10.3, 10.5)]
    text = table(figures, [killed, [*another, Note("a-6", 11.0, 11.004), *(Note(f"b-{n}", 12, 12) for n in "12345")]])
    rows = rows_of(text)
    assert (rows["events received"], rows["events missing"]) == ("11", "1")  # b-6 is
    assert (rows["display killed, and restarted"], rows["display away"]) == ("1", "500.0 ms")
    assert "at event 4 of 6\n" in text
    assert rows["events that came twice"] == "2"
    assert re.search("events that waited for it +2   for 502.0 ms at most", text)
    assert rows["latency, maximum"] == "4.0 ms"


def test_a_display_that_never_had_anything_again_is_away_for_good() -> None:
    figures = Figures([Timing(1, 1)], [Timing(1, 1)], emitted=3, books=[PusherStats()], kill=Kill(10.0, 2))
    text = table(figures, [[Note("a-1", 9.0, 9.001)], []])
    assert re.search("events missing +2\n", text)
    assert re.search("display away +for good", text)


def test_a_difference_within_the_spread_is_called_that() -> None:
    figures = Figures([Timing(1.0, 1.0), Timing(1.2, 1.2)], [Timing(1.1, 1.1), Timing(1.15, 1.15)])
    assert "+2.3%, within the spread of 0.200 s" in table(figures, [[]])


def test_the_table_fits_a_terminal_of_80_by_24() -> None:
    figures = Figures(
        [Timing(10, 10), Timing(20, 20)],
        [Timing(12, 12), Timing(24, 24)],
        emitted=10**6,
        books=[PusherStats()],
        kill=Kill(0, 10**6),
    )
    lines = table(figures, [[Note("s-1", 1.0, 2.0)], [Note("s-1", 1.0, 200.0)]]).splitlines()
    assert max(map(len, lines)) <= 80
    assert len(lines) <= 22  # below an empty line, above the prompt


def test_a_note_that_the_display_was_killed_over_is_none() -> None:
    notes = [Note("a-1", 1.25, 2.5), Note("a-2", 1764000000.123456, 1764000000.2)]
    written = b"".join(map(line_of, notes))
    assert notes_in(BytesIO(written)) == notes
    assert notes_in(BytesIO(written[:-1])) == notes[:1]
    assert notes_in(BytesIO(b"a-1")) == []


# The accident


class Replaceable:
    """In place of a keeper: takes note of what is wanted of it, and fails if it is to."""

    def __init__(self, failure: OSError | None = None) -> None:
        self.replaced = 0
        self._failure = failure

    def replace(self) -> float:
        self.replaced += 1
        if self._failure is not None:
            raise self._failure
        return 12.5


def test_a_schedule_that_is_broken_off_costs_no_display() -> None:
    keeper = Replaceable()
    with pytest.raises(KeyboardInterrupt), Accident(keeper, Scheduler({}, Bus()), 600):
        raise KeyboardInterrupt
    assert keeper.replaced == 0


def test_a_schedule_that_is_over_before_has_its_accident_at_its_end() -> None:
    keeper, scheduler = Replaceable(), Scheduler({}, Bus())
    with Accident(keeper, scheduler, 600) as accident:
        scheduler.run()
    assert (keeper.replaced, accident.kill) == (1, Kill(12.5, scheduler.emitted))


def test_a_display_that_can_not_be_started_again_is_said_after_the_schedule() -> None:
    with (
        pytest.raises(OSError, match="no process left"),
        Accident(Replaceable(OSError("no process left")), Scheduler({}, Bus()), 0),
    ):
        pass


# The command


@pytest.fixture
def place(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Where the command makes its temporary directories; nothing may be left there."""
    monkeypatch.delenv("PYTHONUNBUFFERED", raising=False)
    with tempfile.TemporaryDirectory(prefix="sp") as directory:
        monkeypatch.setenv("TMPDIR", directory)
        yield directory
        wait_for(lambda: os.listdir(directory) == [])


@contextmanager
def start(*arguments: str, **options: object) -> "Iterator[subprocess.Popen[bytes]]":
    """The command, in a session of its own."""
    options = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **options}
    with subprocess.Popen([*COMMAND, *arguments], start_new_session=True, **options) as process:
        deadline = threading.Timer(60, process.kill)  # which ends a read that waits for its output
        deadline.start()
        try:
            yield process
        finally:
            deadline.cancel()
            deadline.join()
            process.kill()


def session_of(process: "subprocess.Popen[bytes]") -> set[int]:
    """The processes that the command has started, itself included, that still run."""
    found = set()
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[3]) == process.pid and fields[0] != "Z":
            found.add(int(path.parent.name))
    return found


def display_of(process: "subprocess.Popen[bytes]") -> int:
    def of_display(pid: int) -> bool:
        try:
            return b"socketpusher.demo.display" in Path(f"/proc/{pid}/cmdline").read_bytes()
        except OSError:
            return False

    return next(pid for pid in session_of(process) if of_display(pid))


def test_nothing_is_lost_between_real_processes_though_the_display_is_killed(place: str) -> None:
    packages_given = ("json", "email", "asyncio")
    arguments = [argument for name in packages_given for argument in ("--package", name)]
    with start(*arguments, "--rounds", "2") as process:
        output, errors = process.communicate(timeout=60)
    assert (process.returncode, errors) == (0, b"")
    rows = rows_of(output.decode())
    files = sum(map(len, packages(packages_given).values()))
    schedule = 2 + 3 * 3 + 2 * files
    emitted = 3 * schedule  # the schedule that warms up is one with the pusher
    assert rows["events emitted"] == rows["events received"] == rows["pusher's books"] == f"{emitted:,}"
    assert rows["events missing"] == "0"
    assert b"sent, 0 dropped" in output
    assert 0 < float(rows["latency, median"].split()[0]) <= float(rows["latency, maximum"].split()[0])
    assert rows["display killed, and restarted"] == "1"
    assert len(re.findall(rb"^  the display, process [0-9]+, is killed; another one is started$", output, re.M)) == 1
    event, of = re.search(r"at event (\d+) of (\d+)", output.decode()).groups()
    assert 0 < int(event) < int(of) == schedule  # while events flow
    assert 0 < float(rows["display away"].split()[0]) < 60_000
    # One at least, the begin of the run, if the display had read anything of it before it was killed.
    assert int(rows["events that came twice"]) >= 0
    wait_for(lambda: not session_of(process))


def test_it_says_what_it_does_in_few_lines(place: str) -> None:
    with start("--package", "json", "--package", "email", "--rounds", "1") as process:
        output = process.communicate(timeout=60)[0].decode()
    files = sum(map(len, packages(["json", "email"]).values()))
    lines = output.splitlines()
    assert lines[:2] == [f"reading 2 modules, {files} files ...", f"2 units in 1 level, {files} tasks"]
    assert "schedule 1 of 3, with the pusher, to warm up ..." in lines
    assert f"  level  0: 2 units, {files} files" in lines
    assert len(lines) < 40


def test_a_circle_of_imports_is_said_on_the_screen(sources: Path, place: str) -> None:
    write(sources, demo_a="import demo_b", demo_b="import demo_a")
    environment = {**os.environ, "PYTHONPATH": str(sources)}
    with start("--package", "demo_a", "--package", "demo_b", "--rounds", "1", env=environment) as process:
        output = process.communicate(timeout=60)[0].decode()
    assert "one unit, for they import each other in a circle: demo_a, demo_b\n" in output


def test_a_package_that_is_not_there_is_a_sentence(place: str) -> None:
    with start("--package", "no_such_module") as process:
        output, errors = process.communicate(timeout=60)
    assert (process.returncode, output) == (1, b"")
    assert errors == (
        b"socketpusher demo: can't work on 'no_such_module': no such module or package is installed; check its name\n"
    )


@pytest.mark.parametrize("moment", ["reading", "schedule 1", "schedule 2"])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_at_any_moment_ends_everything(place: str, moment: str, number: signal.Signals) -> None:
    with start("--package", "asyncio", "--rounds", "50") as process:
        while moment.encode() not in process.stdout.readline():
            assert process.poll() is None
        os.killpg(process.pid, number)  # as a terminal does
        rest, errors = process.communicate(timeout=30)
    assert (process.returncode, errors) == (128 + number, b"")
    assert b"events" not in rest
    wait_for(lambda: not session_of(process))


def test_the_display_ends_with_a_demo_that_is_killed(place: str) -> None:
    with start("--package", "asyncio", "--rounds", "50") as process:
        while b"schedule 2" not in process.stdout.readline():
            assert process.poll() is None
        process.kill()
        process.communicate(timeout=30)
    wait_for(lambda: not session_of(process))


def test_the_demo_ends_with_a_display_that_somebody_else_kills(place: str) -> None:
    with start("--package", "asyncio", "--rounds", "50") as process:
        while b"schedule 2" not in process.stdout.readline():
            assert process.poll() is None
        os.kill(display_of(process), signal.SIGKILL)
        errors = process.communicate(timeout=30)[1].decode()
    assert process.returncode == 1
    assert "the demo's display ended too early" in errors
    assert "Traceback" not in errors
    wait_for(lambda: not session_of(process))


def test_a_reader_that_has_seen_enough_ends_it_quietly(place: str) -> None:
    with start("--package", "asyncio", "--rounds", "50") as process:
        assert process.stdout.readline().startswith(b"reading")
        process.stdout.close()
        assert process.wait(30) == 141
        assert process.stderr.read() == b""
    wait_for(lambda: not session_of(process))


@contextmanager
def display(path: str, notes: BinaryIO) -> "Iterator[tuple[subprocess.Popen[bytes], socket.socket]]":
    """The display's process, ready, and the demo's end of its standard input."""
    command = [sys.executable, "-m", "socketpusher.demo.display", path, str(notes.fileno()), "--plain"]
    ours, theirs = socket.socketpair()
    options = {"stdin": theirs.fileno(), "stdout": subprocess.DEVNULL, "pass_fds": [notes.fileno()]}
    with ours, theirs, subprocess.Popen(command, **options) as process:
        theirs.close()
        ours.settimeout(60)
        try:
            assert ours.recv(100) == b"ready\n"
            yield process, ours
        finally:
            process.kill()


def test_the_display_takes_all_that_was_sent_before_it_ends(place: str) -> None:
    path = os.path.join(place, "d", "s")
    with tempfile.TemporaryFile() as notes, display(path, notes) as (process, demo):
        stop(process.pid)  # so that it finds everything at once
        with socket.socket(socket.AF_UNIX) as sender:
            sender.connect(path)
            line = wire.encode(Event("x"))[:-2]
            sender.sendall(b"".join(line + b',"id":"a-%d"}\n' % number for number in range(1000)))
        demo.shutdown(socket.SHUT_WR)
        process.send_signal(signal.SIGCONT)
        assert process.wait(30) == 0
        assert len(notes_in(notes)) == 1000


def test_what_a_display_has_not_noted_when_it_is_killed_is_noted_by_the_next(place: str) -> None:
    path = os.path.join(place, "d", "s")
    inside, outside = os.pipe()  # in place of a file: the display is stuck in noting as long as the pipe is full
    os.set_blocking(outside, False)
    with tempfile.TemporaryFile() as notes, open(outside, "wb", buffering=0) as full, open(inside, "rb"):
        full.write(bytes(1 << 20))
        os.set_blocking(outside, True)
        bus = Bus()
        with display(path, full) as (process, _):
            pusher = SocketPusher(bus, PusherConfig(socket_path=path, reconnect_backoff=0.01, event_ids=True))
            pusher.start()
            for number in range(1, 101):
                bus.emit(Event("x", task=number))
            assert pusher.flush(30)
            wait_for(lambda: b"pipe_write" in Path(f"/proc/{process.pid}/wchan").read_bytes())
        with display(path, notes) as (process, demo):
            wait_for(lambda: pusher.connected)
            pusher.close(30)
            demo.shutdown(socket.SHUT_WR)
            assert process.wait(30) == 0
            numbers = [int(note.id.rpartition("-")[2]) for note in notes_in(notes)]
    assert sorted(numbers) == list(range(1, 101))


# In a terminal


@contextmanager
def in_terminal(*arguments: str, **options: object) -> Iterator[Terminal]:
    terminal = Terminal(*COMMAND, *arguments, **{"width": 120, "height": 40, "TERM": "xterm-256color", **options})
    try:
        yield terminal
    finally:
        terminal.close()


def entered(terminal: Terminal) -> int:
    """How many times something took the alternate screen."""
    return terminal.written.count(b"\x1b[?1049h")


def assert_left_usable(terminal: Terminal) -> None:
    """The alternate screen is left, and the cursor is there."""
    written = terminal.written
    assert entered(terminal) > 0
    assert entered(terminal) == written.count(b"\x1b[?1049l")
    assert written.rindex(b"\x1b[?1049l") > written.rindex(b"\x1b[?1049h")
    assert written.rindex(b"\x1b[?25h") > written.rindex(b"\x1b[?25l")
    assert b"Traceback" not in written


def test_a_terminal_shows_the_run_as_watch_does_and_then_the_table(place: str) -> None:
    with in_terminal("--package", "asyncio", "--rounds", "3") as terminal:
        # What is shown stays on the screen in the schedules without a pusher.
        terminal.matches(r"^(connected|gone) .*demo\.sock$", r"^schedule \d of 7, with", r"level 0 +[━╌]")
        assert terminal.ends() == 0
        assert entered(terminal) == 2  # by the display that was killed, and by the next
        assert_left_usable(terminal)
        assert terminal.written.endswith(b"in it\r\n")
        assert b"is killed; another one is started" in terminal.written


def test_the_next_display_shows_what_the_demo_said_and_where_the_run_stands(place: str) -> None:
    with in_terminal("--package", "asyncio", "--rounds", "2") as terminal:
        terminal.wait_for(lambda: entered(terminal) == 2)
        stop(terminal.process.pid)  # so that it says nothing more
        terminal.matches(r"^schedule [45] of 5, with", r"[1-9]\d*/\d+ tasks")
        terminal.process.send_signal(signal.SIGCONT)
        assert terminal.ends() == 0


def test_plain_means_lines_in_a_terminal_too(place: str) -> None:
    for arguments, variables in ((["--plain"], {}), ([], {"TERM": "dumb"})):
        with in_terminal("--package", "json", "--rounds", "1", *arguments, **variables) as terminal:
            assert terminal.ends() == 0
            assert b"\x1b" not in terminal.written
            assert b"level  0" in terminal.written


def test_without_rich_there_are_lines_and_a_sentence_that_says_why(place: str, tmp_path: Path) -> None:
    (tmp_path / "rich.py").write_text("raise ImportError('not installed')")
    with in_terminal("--package", "json", "--rounds", "1", PYTHONPATH=str(tmp_path)) as terminal:
        assert terminal.ends() == 0
        assert b"\x1b" not in terminal.written
        assert b"level  0" in terminal.written
        assert terminal.written.count(b"pip install 'socketpusher[terminal]'") == 1


@pytest.mark.parametrize("moment", ["schedule 2", "is killed", "goes on"])
def test_ctrl_c_in_a_terminal_leaves_it_as_it_was(place: str, moment: str) -> None:
    with in_terminal("--package", "asyncio", "--rounds", "6") as terminal:
        terminal.wait_for(
            lambda: entered(terminal) == 2 if moment == "goes on" else moment.encode() in terminal.written, moment
        )
        terminal.press(b"\x03")
        assert terminal.ends() == 130
        assert terminal.written.count(b"\x1b[?1049h") <= 2
        assert_left_usable(terminal)
        assert b"events missing" not in terminal.written
        wait_for(lambda: not session_of(terminal.process))


def test_a_display_that_somebody_else_kills_leaves_the_terminal_as_it_was(place: str) -> None:
    with in_terminal("--package", "asyncio", "--rounds", "50") as terminal:
        terminal.shows("schedule 2")
        os.kill(display_of(terminal.process), signal.SIGKILL)
        assert terminal.ends() == 1
        assert_left_usable(terminal)
        assert b"the demo's display ended too early, with exit code -9; start the demo again" in terminal.written
