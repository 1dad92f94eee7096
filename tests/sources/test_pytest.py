"""Real pytest sessions, with and without xdist, each in a process of its own."""

import os
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import pytest

from socketpusher import Event
from support.consumer import Consumer
from support.restarting import RestartingConsumer

PROJECT = {
    "test_mixed.py": """
import pytest

def test_passes(): pass

@pytest.mark.skip(reason="not here")
def test_skipped(): pass

@pytest.mark.xfail
def test_expected(): assert 0

@pytest.mark.xfail
def test_unexpected(): pass

def test_fails(): assert 1 == 2

@pytest.fixture
def broken_teardown():
    yield
    raise ValueError("no disk")

def test_teardown(broken_teardown): pass
""",
    "test_good.py": """
import pytest

@pytest.mark.parametrize("number", range(5))
def test_number(number): pass
""",
    "test_skipped.py": """
import pytest
pytestmark = pytest.mark.skip

def test_nothing(): pass
""",
    "test_unreadable.py": "import nothing_of_this_name\n",
}
CRASHES = {"test_crash.py": "import os\n\ndef test_crash(): os._exit(3)\n\ndef test_after(): pass\n"}

WAYS = {"alone": (), "xdist": ("-n", "2")}


def session(
    place: Path, files: dict[str, str], *arguments: str, autoload: bool = False
) -> "subprocess.CompletedProcess[str]":
    """Run pytest on files of a project. Its environment has nothing of the pytest that runs this test."""
    for name, text in files.items():
        (place / name).write_text(text)
    (place / "pytest.ini").touch()
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-rA", "--no-header", *arguments]
    if not autoload:  # which takes time, for other plugins are installed here
        environment["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"
        command += ["-p", "socketpusher.pytest_plugin", "-p", "xdist"]
    return subprocess.run(command, cwd=place, env=environment, capture_output=True, text=True, timeout=120)


def by_unit(events: list[Event]) -> dict[str, list[str]]:
    units = defaultdict(list)
    for event in events:
        if event.unit and event.type.startswith("unit."):
            units[event.unit].append(event.type.removeprefix("unit."))
    return dict(units)


def ended(events: list[Event]) -> dict[str, str]:
    """What became of each test: its outcome, or its error."""
    return {
        event.payload["name"]: event.payload.get("outcome", event.error)
        for event in events
        if event.type in ("task.completed", "task.failed")
    }


@pytest.mark.parametrize("way", WAYS)
def test_a_session_is_a_run_a_file_a_unit_and_a_test_a_task(way: str, consumer: Consumer, tmp_path: Path) -> None:
    options = (f"--socketpusher={consumer.path}", "--continue-on-collection-errors", *WAYS[way])
    run = session(tmp_path, PROJECT, *options, autoload=True)
    assert run.returncode == 1, run.stdout + run.stderr
    events = consumer.events()
    graph = next(event for event in events if event.type == "orch.started").payload["graph"]
    assert {node["id"]: node["tasks"] for node in graph["nodes"]} == {
        "test_mixed.py": 6,
        "test_good.py": 5,
        "test_skipped.py": 1,
        "test_unreadable.py": 0,
    }
    assert by_unit(events) == {
        "test_mixed.py": ["started", "failed"],
        "test_good.py": ["started", "completed"],
        "test_skipped.py": ["started", "skipped", "completed"],
        "test_unreadable.py": ["failed"],
    }
    assert ended(events) == {
        "test_passes": "passed",
        "test_skipped": "skipped",
        "test_expected": "xfailed",
        "test_unexpected": "xpassed",
        "test_fails": "assert 1 == 2",
        "test_teardown": "ValueError: no disk",
        **{f"test_number[{number}]": "passed" for number in range(5)},
        "test_nothing": "skipped",
    }
    assert events[-1].type == "orch.failed"
    assert events[-1].error == "tests failed: 2 of 12 tests failed, 1 file with errors during collection"
    workers = {event.payload.get("worker") for event in events if event.type == "task.completed"}
    assert workers <= {"gw0", "gw1"} if way == "xdist" else workers == {None}


def test_a_crash_of_a_worker_fails_the_test_that_it_ran(consumer: Consumer, tmp_path: Path) -> None:
    session(tmp_path, CRASHES | {"test_good.py": PROJECT["test_good.py"]}, f"--socketpusher={consumer.path}", "-n", "2")
    events = consumer.events()
    (failed,) = [event for event in events if event.type == "task.failed"]
    assert failed.unit == "test_crash.py"
    assert "crashed while running" in failed.error
    assert by_unit(events)["test_crash.py"] == ["started", "failed"]
    assert by_unit(events)["test_good.py"] == ["started", "completed"]
    assert ended(events)["test_after"] == "passed"
    assert events[-1].type == "orch.failed"


@pytest.mark.parametrize("way", WAYS)
def test_what_did_not_run_because_of_x_is_blocked(way: str, consumer: Consumer, tmp_path: Path) -> None:
    files = {"test_1.py": "def test_bad(): assert 0\n\ndef test_more(): pass\n"}
    files |= {f"test_{number}.py": "import time\n\ndef test(): time.sleep(0.2)\n" * 3 for number in range(2, 30)}
    session(tmp_path, files, f"--socketpusher={consumer.path}", "-x", *WAYS[way])
    events = consumer.events()
    units = by_unit(events)
    assert units["test_1.py"] == ["started", "failed"]
    assert units["test_29.py"][-1] == "blocked"
    assert all(types[-1] in ("completed", "failed", "blocked") for types in units.values())
    assert len(units) == 29
    assert events[-1].type == "orch.failed"


def test_a_session_that_can_not_collect_begins_and_fails(consumer: Consumer, tmp_path: Path) -> None:
    session(tmp_path, PROJECT, f"--socketpusher={consumer.path}")
    types = [event.type for event in consumer.events()]
    assert types.count("orch.started") == 1
    assert types[-1] == "orch.failed"


@pytest.mark.parametrize(
    ("arguments", "ini", "sent"),
    [
        ((), "", False),
        ((), "socketpusher = {path}", True),
        (("--socketpusher={path}",), "socketpusher = /nowhere/at/all", True),
        (("-p", "no:socketpusher"), "", False),
        (("--socketpusher={path}", "--collect-only"), "", False),
    ],
)
def test_nothing_is_sent_unless_it_is_asked_for(
    arguments: tuple[str, ...], ini: str, sent: bool, consumer: Consumer, tmp_path: Path
) -> None:
    files = {"test_good.py": PROJECT["test_good.py"], "tox.ini": ""}
    (tmp_path / "pytest.ini").write_text(f"[pytest]\n{ini.format(path=consumer.path)}\n")
    run = session(tmp_path, files, *(argument.format(path=consumer.path) for argument in arguments))
    assert run.returncode == 0, run.stdout + run.stderr
    assert bool(consumer.events()) == sent


def test_the_default_socket_is_where_watch_listens(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "choo").mkdir()
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    consumer = Consumer(str(tmp_path / "choo" / "web.sock"))
    try:
        session(tmp_path, {"test_good.py": PROJECT["test_good.py"]}, "--socketpusher")
        assert consumer.events()[-1].type == "orch.completed"
    finally:
        consumer.go_away()


@pytest.fixture
def nobody(socket_path: str) -> Iterator[str]:
    yield socket_path


@pytest.fixture
def stalled(socket_path: str) -> Iterator[str]:
    consumer = Consumer(socket_path, reading=False)
    yield socket_path
    consumer.go_away()


@pytest.fixture
def impossible(tmp_path: Path) -> str:
    return str(tmp_path / ("x" * 200))


@pytest.mark.parametrize("end", ["nobody", "stalled", "impossible"])
def test_a_session_is_the_same_without_a_consumer_that_reads(
    end: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    path = request.getfixturevalue(end)
    options = ("--continue-on-collection-errors", "-q", "--no-summary")
    bare = session(tmp_path, PROJECT, *options)
    watched = session(tmp_path, PROJECT, *options, f"--socketpusher={path}")
    assert watched.returncode == bare.returncode
    assert watched.stderr.splitlines() == [] or (end == "nobody" and len(watched.stderr.splitlines()) == 1)
    assert outcomes(watched.stdout) == outcomes(bare.stdout)


def test_a_path_that_can_not_be_is_named_in_the_header(tmp_path: Path) -> None:
    (tmp_path / "pytest.ini").touch()
    command = [sys.executable, "-m", "pytest", f"--socketpusher={tmp_path / ('x' * 200)}"]
    run = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert "socketpusher: no events are sent: " in run.stdout


@pytest.mark.parametrize("name", ["test_good.py", "test_good.py::test_passes", "."])
def test_a_file_of_tests_is_not_taken_for_the_socket(name: str, tmp_path: Path) -> None:
    run = session(tmp_path, {"test_good.py": PROJECT["test_good.py"]}, "--socketpusher", name)
    assert run.returncode == pytest.ExitCode.USAGE_ERROR
    assert f"{name} is not a socket; write --socketpusher=PATH, or --socketpusher behind the tests" in run.stderr


UNREADABLE = """
import pytest

class Reason:
    def __str__(self): raise OSError("no reason")

@pytest.hookimpl(tryfirst=True)
def pytest_runtest_logreport(report):
    report.longrepr = Reason() if report.failed else report.longrepr
"""
BROKEN_BUS = """
from socketpusher import Bus
from socketpusher.sources.pytest import SessionEvents

class BrokenBus(Bus):
    def emit(self, event): raise OSError("no bus")

def pytest_configure(config):
    config.pluginmanager.register(SessionEvents(BrokenBus()))
"""


@pytest.mark.parametrize("conftest", [UNREADABLE, BROKEN_BUS])
def test_what_other_plugins_do_breaks_no_session(conftest: str, consumer: Consumer, tmp_path: Path) -> None:
    files = {"conftest.py": conftest, "test_1.py": "def test_bad(): assert 0\n\ndef test_good(): pass\n"}
    run = session(tmp_path, files, f"--socketpusher={consumer.path}", "-r", "N", "--tb=no")
    assert (run.returncode, "1 failed, 1 passed" in run.stdout) == (1, True), run.stdout + run.stderr
    outcomes = ended(consumer.events())
    assert outcomes["test_good"] == "passed"
    assert outcomes["test_bad"] in ("assert 0", "a report that can't be read: OSError: no reason")
    assert consumer.events()[-1].type == "orch.failed"


def outcomes(output: str) -> list[str]:
    return [line.rpartition(" in ")[0] for line in output.splitlines() if " in " in line][-1:]


@pytest.mark.parametrize("way", WAYS)
def test_a_consumer_that_restarts_ends_with_the_sessions_own_summary(
    way: str, socket_path: str, tmp_path: Path
) -> None:
    slow = (
        "import pytest\n\n@pytest.mark.parametrize('n', range(20))\ndef test(n): assert sum(range(99_999)) and n != 7\n"
    )
    files = {f"test_{number}.py": slow for number in range(8)} | {"test_good.py": PROJECT["test_good.py"]}
    with RestartingConsumer(socket_path, 60) as consumer:
        run = session(tmp_path, files, f"--socketpusher={socket_path}", *WAYS[way])
        assert run.returncode == 1
        shown = consumer.final_run()
    assert shown.outcome == "failed"
    assert {name: unit.status for name, unit in shown.units.items()} == {
        **{f"test_{number}.py": "failed" for number in range(8)},
        "test_good.py": "complete",
    }


RERUNNING = """
from _pytest.runner import runtestprotocol

def pytest_runtest_protocol(item, nextitem):
    item.ihook.pytest_runtest_logstart(nodeid=item.nodeid, location=item.location)
    for attempt in (1, 2):
        for report in runtestprotocol(item, nextitem=nextitem, log=False):
            if attempt == 1 and report.failed:
                report.outcome = "rerun"
                item._initrequest()
            item.ihook.pytest_runtest_logreport(report=report)
    item.ihook.pytest_runtest_logfinish(nodeid=item.nodeid, location=item.location)
    return True
"""
FAILING_TEARDOWN = """
import pytest

attempts = 0

@pytest.fixture
def disk():
    yield
    global attempts
    attempts += 1
    if attempts == 1:
        raise OSError

def test_a(disk):
    assert attempts == 0
"""


def test_a_test_that_is_run_again_because_of_its_teardown_has_not_ended(consumer: Consumer, tmp_path: Path) -> None:
    """As pytest-rerunfailures does it."""
    files = {"conftest.py": RERUNNING, "test_again.py": FAILING_TEARDOWN}
    session(tmp_path, files, f"--socketpusher={consumer.path}")
    events = [event.type for event in consumer.events() if event.unit]
    assert events == ["unit.started", "task.started", "task.retry", "task.failed", "unit.failed"]


UNREADABLE_CLASS = """
import pytest

@pytest.mark.parametrize("a,b", [(1,)])
class TestX:
    def test_a(self, a, b): pass

def test_b(): pass
"""


def test_a_class_that_can_not_be_collected_fails_its_file_when_the_other_tests_have_ended(
    consumer: Consumer, tmp_path: Path
) -> None:
    session(
        tmp_path, {"test_f.py": UNREADABLE_CLASS}, f"--socketpusher={consumer.path}", "--continue-on-collection-errors"
    )
    events = consumer.events()
    told = [event.type for event in events if event.unit]
    assert told == ["unit.started", "task.started", "task.completed", "unit.failed"]
    assert events[-1].error.endswith("0 of 1 tests failed, 1 file with errors during collection")


EACH = {
    "test_b.py": """
import os, pathlib, time

def test_1(): pass

def test_2():
    deadline = time.monotonic() + 60
    while os.environ["PYTEST_XDIST_WORKER"] == "gw1":
        assert time.monotonic() < deadline
        time.sleep(0.01)
        assert not pathlib.Path("ended").exists()  # the other worker has ended this file
""",
    "test_c.py": """
import os, pathlib

def test_3(): pathlib.Path("ended").touch()

if os.environ["PYTEST_XDIST_WORKER"] == "gw1":
    def test_4(): pass
""",
}


def test_a_file_that_each_worker_runs_ends_when_all_have_run_it(consumer: Consumer, tmp_path: Path) -> None:
    run = session(tmp_path, EACH, f"--socketpusher={consumer.path}", "-n", "2", "--dist", "each")
    assert "1 failed, 6 passed" in run.stdout, run.stdout + run.stderr
    events = consumer.events()
    assert by_unit(events) == {"test_b.py": ["started", "failed"], "test_c.py": ["started", "completed"]}
    tasks = sorted(
        (event.payload["name"], event.payload["worker"], event.type)
        for event in events
        if event.type in ("task.completed", "task.failed")
    )
    assert tasks == [
        ("test_1", "gw0", "task.completed"),
        ("test_1", "gw1", "task.completed"),
        ("test_2", "gw0", "task.completed"),
        ("test_2", "gw1", "task.failed"),
        ("test_3", "gw0", "task.completed"),
        ("test_3", "gw1", "task.completed"),
        ("test_4", "gw1", "task.completed"),
    ]
    assert events[-1].error == "tests failed: 1 of 7 tests failed"


def test_a_test_that_fails_after_its_file_has_completed_fails_the_file(consumer: Consumer, tmp_path: Path) -> None:
    files = {"test_twice.py": "runs = []\n\ndef test_once():\n    runs.append(1)\n    assert runs == [1]\n"}
    again = ("--keep-duplicates", "test_twice.py", "test_twice.py")
    run = session(tmp_path, files, f"--socketpusher={consumer.path}", *again)
    assert "1 failed, 1 passed" in run.stdout, run.stdout + run.stderr
    assert by_unit(consumer.events())["test_twice.py"][-1] == "failed"


SUBTESTS = """
import pytest

def test_passes(subtests):
    with subtests.test("a"): pytest.skip("no")

def test_fails(subtests):
    with subtests.test("a"): pytest.skip("no")
    with subtests.test("b"): assert 1 == 2

@pytest.mark.skipif(True, reason="no")
def test_skipped(subtests): pass
"""


@pytest.mark.skipif(not hasattr(pytest, "Subtests"), reason="subtests came with pytest 9")
@pytest.mark.parametrize("way", WAYS)
def test_a_subtest_that_is_skipped_does_not_skip_its_test(way: str, consumer: Consumer, tmp_path: Path) -> None:
    only_skipped = SUBTESTS.partition("def test_fails")[0]
    session(tmp_path, {"test_1.py": SUBTESTS, "test_2.py": only_skipped}, f"--socketpusher={consumer.path}", *WAYS[way])
    events = consumer.events()
    first = [event for event in events if event.unit == "test_1.py"]
    assert ended(first) == {"test_passes": "passed", "test_fails": "assert 1 == 2", "test_skipped": "skipped"}
    assert by_unit(events) == {"test_1.py": ["started", "failed"], "test_2.py": ["started", "completed"]}


def test_files_in_directories_with_colons_are_units_of_their_own(consumer: Consumer, tmp_path: Path) -> None:
    files = {
        "d/a::b/test_1.py": "def test_good(): pass\n",
        "d/a::c/test_2.py": "class TestIt:\n    def test_bad(self): assert 0\n",
        "d/a::c/test_3.py": PROJECT["test_unreadable.py"],
    }
    for name in files:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
    session(tmp_path, files, f"--socketpusher={consumer.path}", "--continue-on-collection-errors")
    events = consumer.events()
    assert {unit: told[-1] for unit, told in by_unit(events).items()} == {
        "d/a::b/test_1.py": "completed",
        "d/a::c/test_2.py": "failed",
        "d/a::c/test_3.py": "failed",
    }
    assert ended(events) == {"test_good": "passed", "TestIt::test_bad": "assert 0"}
