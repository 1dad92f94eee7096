"""The demo: what its scheduler does, how it measures the cost of watching, and the command as a user runs it."""

import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from socketpusher import Bus, Event, Graph, listen
from socketpusher.demo import scheduler
from socketpusher.demo.modules import find_modules, imports
from socketpusher.demo.processes import sleeps
from socketpusher.demo.scheduler import Scheduler
from support.cli import COMMAND, running
from support.sessions import session_of
from support.terminal import Terminal
from support.waiting import wait_for


@pytest.fixture
def sources(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory for modules that `find_modules` finds."""
    monkeypatch.syspath_prepend(str(tmp_path))
    return tmp_path


def write(directory: Path, **modules: str) -> None:
    for name, source in modules.items():
        path = directory / (name.replace("__", "/") + ".py")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(source)


# Modules


def test_a_module_depends_on_the_modules_that_it_imports(sources: Path) -> None:
    write(
        sources, demo_a="import demo_b.x\nimport sys", demo_b="from demo_c import y", demo_c="def f():\n  import demo_a"
    )
    found = imports(find_modules(["demo_a", "demo_b", "demo_c"]))
    assert found == {"demo_a": {"demo_b"}, "demo_b": {"demo_c"}, "demo_c": set()}


def test_of_modules_that_import_each_other_one_import_is_left_out(sources: Path) -> None:
    write(sources, demo_a="import demo_b", demo_b="import demo_c", demo_c="import demo_a", demo_d="import demo_c")
    found = imports(find_modules(["demo_a", "demo_b", "demo_c", "demo_d"]))
    assert sum(map(len, found.values())) == 3
    assert found["demo_d"] == {"demo_c"}
    Graph(found)  # raises for a cycle


def test_modules_are_found_without_importing_them(sources: Path) -> None:
    write(sources, demo_explosive="raise SystemExit('imported')")
    assert list(imports(find_modules(["demo_explosive"]))) == ["demo_explosive"]
    assert "demo_explosive" not in sys.modules


def test_a_package_is_all_its_files_without_its_tests(sources: Path) -> None:
    write(sources, demo_p__sub__good="", demo_p__tests__bad="(", demo_p__test__bad="(")
    (sources / "demo_p" / "__init__.py").touch()
    files = find_modules(["demo_p"])["demo_p"]
    assert [str(path.relative_to(sources)) for path in files] == ["demo_p/__init__.py", "demo_p/sub/good.py"]


@pytest.mark.parametrize("name", ["os", "abc", "importlib", "zipimport", "json"])
def test_modules_that_are_frozen_or_imported_already_are_found_by_their_source(name: str) -> None:
    files = find_modules([name])[name]
    assert files
    assert all(path.suffix == ".py" and path.exists() for path in files)


@pytest.mark.parametrize(
    ("name", "why"),
    [("no_such_module", "installed"), ("sys", "no Python source"), ("os.path", "top-level"), ("", "top-level")],
)
def test_a_package_that_can_not_be_worked_on_is_named_with_the_reason(name: str, why: str) -> None:
    with pytest.raises(ValueError, match=f"can't work on {name!r}: .*{why}"):
        find_modules([name])


def test_the_standard_library_makes_a_graph_worth_watching() -> None:
    modules = find_modules()
    assert len(modules) > 100
    assert len(Graph(imports(modules)).levels()) > 8


# The scheduler


def run(bus: Bus, *names: str) -> tuple[Scheduler, list[Event]]:
    events: list[Event] = []
    bus.subscribe(events.append)
    modules = find_modules(names)
    scheduler = Scheduler(modules, imports(modules), bus)
    assert all(0 < done <= 1 for done in scheduler.run())
    return scheduler, events


def test_a_module_is_compiled_once_and_after_those_that_it_imports(bus: Bus, sources: Path) -> None:
    write(sources, demo_a="import demo_b\nimport demo_c", demo_b="import demo_c", demo_c="")
    expected = [("orch.started", "")]
    for unit in ("demo_c", "demo_b", "demo_a"):
        kinds = ("unit.queued", "unit.started", "task.started", "task.completed", "unit.completed")
        expected += [(kind, unit) for kind in kinds]
    assert [(event.type, event.unit) for event in run(bus, "demo_a", "demo_b", "demo_c")[1]] == [
        *expected,
        ("orch.completed", ""),
    ]


def test_tasks_are_the_files_counted_from_one(bus: Bus, sources: Path) -> None:
    write(sources, demo_p__z="")
    file = sources / "demo_p" / "__init__.py"
    file.write_text("x = 1\ny = '\\d'\n")  # the second line makes the compiler warn
    _, events = run(bus, "demo_p")
    payloads = {(event.type, event.task): event.payload for event in events}
    assert payloads["unit.started", None] == {"total_tasks": 2, "completed_tasks": 0}
    nodes = len(["Module"]) + 2 * len(["Assign", "Name", "Store", "Constant"])
    assert payloads["task.completed", 1] == {"file": str(file), "lines": 2, "nodes": nodes}
    assert ("task.completed", 2) in payloads


@pytest.mark.parametrize("source", [b"(", b"x = '\0'", b"# coding: nonsense\n", b"\xff", b"f(" * 5000])
def test_a_file_that_does_not_compile_fails_its_task_and_stops_nothing(bus: Bus, sources: Path, source: bytes) -> None:
    (sources / "demo_bad.py").write_bytes(source)
    write(sources, demo_after="import demo_bad")
    _, events = run(bus, "demo_bad", "demo_after")
    errors = {event.type: event.error for event in events if event.error}
    assert errors["unit.failed"] == "1 of 1 files do not compile"
    assert errors["task.failed"]
    assert (events[-1].type, events[-1].payload) == ("orch.completed", {"failed_tasks": 1})
    assert "unit.completed" in {event.type for event in events if event.unit == "demo_after"}


def test_what_has_not_begun_in_time_is_skipped(bus: Bus, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scheduler, "LIMIT", 1e-9)
    late, events = run(bus, "json", "email")
    assert late.skipped == 2
    assert [event.unit for event in events if event.type == "unit.skipped"] == ["json", "email"]
    assert events[-1].type == "orch.completed"


def test_what_emit_costs_is_measured_by_the_clock_and_in_cpu_time(bus: Bus, sources: Path) -> None:
    def waste(event: Event) -> None:
        end = time.thread_time() + 0.01
        while time.thread_time() < end:
            pass
        time.sleep(0.01)

    write(sources, demo_a="")
    bus.subscribe(waste)
    measured, events = run(bus, "demo_a")
    assert len(measured.emit_times) == len(events) == 7
    assert min(measured.emit_times) > 0.02e9  # a handler that blocks shows
    assert 7 * 0.01 < measured.emit_cpu < sum(measured.emit_times) / 1e9 - 7 * 0.01  # and is told from one that works


# The command

SHORT = ["--package", "encodings", "--package", "asyncio", "--package", "email", "--package", "unittest"]
"""A run of a second or two, in which the display is killed soon."""


@pytest.fixture
def place(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Where the command makes its temporary directories; nothing may be left there."""
    with tempfile.TemporaryDirectory(prefix="sp") as directory:
        monkeypatch.setenv("TMPDIR", directory)
        yield directory
        assert os.listdir(directory) == []


@contextmanager
def started(*arguments: str, until: str = "", **options) -> "Iterator[subprocess.Popen[bytes]]":
    """The demo in a session of its own, once it has printed a line with this in it; afterwards nothing of it runs."""
    with running("demo", *arguments, start_new_session=True, **options) as process:
        while until.encode() not in process.stdout.readline():
            assert process.poll() is None
        yield process
    wait_for(lambda: not session_of(process))


def kill_display(process: "subprocess.Popen[bytes]") -> None:
    os.kill(next(pid for pid, command in session_of(process).items() if " watch " in command), signal.SIGKILL)


def test_nothing_is_lost_though_the_display_is_killed(place: str) -> None:
    names = ("json", "email", "asyncio")
    with started(*(argument for name in names for argument in ("--package", name))) as process:
        output, errors = (text.decode() for text in process.communicate(timeout=60))
    assert process.returncode == 0, errors
    first, _, second = output.partition("killed the display")
    assert " orch.started" in first
    assert re.search(" orch.completed 3 units, 3 complete\n", second)
    files = sum(map(len, find_modules(names).values()))
    emitted = f"{2 + 3 * len(names) + 2 * files:,}"
    assert re.search(rf"^work +3 modules, {files} files, compiled in ", output, re.MULTILINE)
    assert f"events   {emitted} emitted, {emitted} sent, 0 lost\n" in output
    assert re.search(r"^emit +[\d.]+ us at the median, \d+ us at 99 %, by the clock\n +[\d.]+ ms", output, re.MULTILINE)
    assert re.search(r"^thread +[\d.]+ ms .* = [\d.]+% of the work\nwriter +\d+ ms ", output, re.MULTILINE)


def test_the_script_that_it_ends_with_works(place: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with started("--package", "json") as process:
        script = process.communicate(timeout=60)[0].decode().partition("python3 - <<END\n")[2].partition("END\n")[0]
    assert script.count("\n") == 3
    with tempfile.TemporaryDirectory(prefix="sp") as directory:
        monkeypatch.setenv("XDG_RUNTIME_DIR", directory)
        with listen() as events:
            subprocess.run([sys.executable, "-c", script], check=True, timeout=60)
            assert next(events).unit == "hello"


def test_a_package_that_is_not_there_is_a_sentence(place: str) -> None:
    failed = subprocess.run([*COMMAND, "demo", "--package", "no_such_module"], capture_output=True, timeout=60)
    assert (failed.returncode, failed.stdout) == (1, b"")
    assert failed.stderr == (
        b"socketpusher demo: can't work on 'no_such_module': no such module or package is installed; check its name\n"
    )


@pytest.mark.parametrize(
    ("number", "moment"),
    [(signal.SIGINT, "starting"), (signal.SIGINT, "started"), (signal.SIGINT, "killed"), (signal.SIGTERM, "started")],
)
def test_a_signal_at_any_moment_ends_everything(place: str, number: signal.Signals, moment: str) -> None:
    with started(*SHORT, until=moment) as process:
        os.killpg(process.pid, number)  # as a terminal does
        rest, errors = process.communicate(timeout=30)
    assert process.returncode == 128 + number
    assert b"emitted" not in rest
    assert b"Traceback" not in errors


def test_the_processes_end_with_a_demo_that_is_killed(place: str) -> None:
    with started(until="unit.completed") as process:
        process.kill()
        process.communicate(timeout=30)
        wait_for(lambda: not session_of(process))
        (directory,) = Path(place).iterdir()
        assert list(directory.iterdir()) == []
        directory.rmdir()


def test_the_demo_ends_with_a_display_that_somebody_else_kills(place: str) -> None:
    with started(until="unit.completed") as process:
        kill_display(process)
        errors = process.communicate(timeout=30)[1].decode()
        assert session_of(process) == {}  # no writer waits for another display
    assert process.returncode == 1
    assert errors.endswith("the demo's display ended too early, with exit code -9; run the demo again\n")


def test_a_scheduler_that_fails_is_a_sentence(place: str, tmp_path: Path) -> None:
    failing = (
        "import os, sys\nif 'socketpusher.demo.scheduler' in sys.orig_argv: print('no luck', flush=True), os._exit(3)"
    )
    write(tmp_path, sitecustomize=failing)
    path = os.pathsep.join(filter(None, (str(tmp_path), os.environ.get("PYTHONPATH"))))
    with started(env={**os.environ, "PYTHONPATH": path}) as process:
        errors = process.communicate(timeout=60)[1].decode()
    assert process.returncode == 1
    assert errors.endswith("socketpusher demo: the demo's scheduler ended with exit code 3: no luck\n")


def test_a_reader_that_has_seen_enough_ends_it_quietly(place: str) -> None:
    with started(until="unit.completed") as process:
        process.stdout.close()
        assert process.wait(30) == 128 + signal.SIGPIPE
        assert process.stderr.read().count(b"\n") == 1  # where it listens


# In a terminal


@contextmanager
def in_terminal(*arguments: str, **options: object) -> Iterator[Terminal]:
    terminal = Terminal(*COMMAND, "demo", *arguments, **{"TERM": "xterm-256color", **options})
    try:
        yield terminal
    finally:
        terminal.close()
        wait_for(lambda: not session_of(terminal.process))


def assert_left_usable(terminal: Terminal) -> None:
    """The alternate screen is left, and the cursor is there."""
    written = terminal.written
    assert written.rindex(b"\x1b[?1049l") > written.rindex(b"\x1b[?1049h")
    assert written.rindex(b"\x1b[?25h") > written.rindex(b"\x1b[?25l")
    assert b"Traceback" not in written


@pytest.mark.parametrize(("width", "height"), [(80, 24), (200, 50)])
def test_a_terminal_shows_the_run_and_then_the_summary(place: str, width: int, height: int) -> None:
    with in_terminal(*SHORT, width=width, height=height) as terminal:
        assert terminal.ends() == 0
        assert_left_usable(terminal)
        written, _, summary = terminal.written.decode().rpartition("display  killed")
        assert re.search(r"demo\.sock.*level 0", written, re.DOTALL)
        assert re.search(r"\x1b\[\?1049lkilled the display, process \d+; starting", written)
        assert re.search(r"pid \d+ +completed in .* 4/4 units", written)  # what the second one knows
        terminal.matches("^display  killed", "^events +[1-9]", "^Now .* socketpusher watch ", "^END$")
        assert max(map(len, summary.splitlines())) <= 80
        assert summary.count("\n") <= 16


def test_the_next_display_shows_where_the_run_stands(place: str) -> None:
    with in_terminal(*SHORT) as terminal:
        terminal.wait_for(
            lambda: re.search(
                rb"killed the display[^$]*(running|completed) .*?[ m][1-9]\d*/\d+ units", terminal.written
            )
        )
        terminal.press(b"\x03")
        assert terminal.ends() in (130, 0)


def test_without_rich_there_are_lines_and_a_sentence_that_says_why(place: str, tmp_path: Path) -> None:
    (tmp_path / "rich.py").write_text("raise ImportError('not installed')")
    path = os.pathsep.join(filter(None, (str(tmp_path), os.environ.get("PYTHONPATH"))))
    with in_terminal(*SHORT, PYTHONPATH=path) as terminal:
        assert terminal.ends() == 0
        assert b"\x1b" not in terminal.written
        assert re.search(rb"killed the display[^$]* unit.completed ", terminal.written), terminal.written
        assert terminal.written.count(b"pip install 'socketpusher[terminal]'") == 1


def test_plain_means_lines_in_a_terminal_too(place: str) -> None:
    with in_terminal(*SHORT, "--plain") as terminal:
        assert terminal.ends() == 0
        assert b"\x1b" not in terminal.written
        assert re.search(rb"killed the display[^$]* unit.completed ", terminal.written), terminal.written


def test_no_color_is_respected(place: str) -> None:
    with in_terminal("--package", "json", NO_COLOR="1") as terminal:
        assert terminal.ends() == 0
        assert not re.search(rb"\x1b\[[0-9;]*[34][0-9][;m]", terminal.written)
        assert_left_usable(terminal)


@pytest.mark.parametrize("moment", ["level 0", "killed"])
def test_ctrl_c_in_a_terminal_leaves_it_as_it_was(place: str, moment: str) -> None:
    with in_terminal(*SHORT) as terminal:
        terminal.shows("level 0")
        terminal.wait_for(lambda: moment.encode() in terminal.written, moment)
        terminal.press(b"\x03")
        assert terminal.ends() == 130
        assert_left_usable(terminal)
        assert b"emitted" not in terminal.written


def test_a_display_that_somebody_else_kills_leaves_the_terminal_as_it_was(place: str) -> None:
    with in_terminal() as terminal:
        terminal.shows("level 0")
        kill_display(terminal.process)
        assert terminal.ends() == 1
        assert_left_usable(terminal)
        assert b"the demo's display ended too early, with exit code -9; run the demo again" in terminal.written


def test_whether_a_process_has_nothing_to_do_is_seen() -> None:
    with subprocess.Popen([sys.executable, "-c", "while 1: 1"]) as busy:
        try:
            wait_for(lambda: not sleeps(busy))
        finally:
            busy.kill()
    with subprocess.Popen(["/bin/sleep", "60"]) as idle:
        try:
            wait_for(lambda: sleeps(idle))
        finally:
            idle.kill()
