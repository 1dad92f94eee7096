"""A pytest session as a run: a test file is a unit, a test one of its tasks.

Under pytest-xdist the hooks are called in the controller, and only a report knows which worker it comes from.
"""

from collections.abc import Iterable, Sequence
from typing import Any

import pytest

from ..conversion import format_error
from ..events import Bus, Event, EventType
from .harmless import harmless

_Run = tuple[str, str]  # the id of a test, and with `--dist each` the worker, for then each worker runs each test


class _File:
    """What is known of a unit."""

    def __init__(self) -> None:
        self.tests: dict[str, int] = {}  # by their ids, numbered from 1
        self.runs = 0  # of its tests, how many are expected
        self.outcomes: dict[_Run, str] = {}
        self.ended: set[_Run] = set()
        self.failed: dict[_Run, str] = {}  # why
        self.collect_error = ""  # why it, or a class in it, can't be collected
        self.started = False
        self.end: EventType | None = None


class SessionEvents:
    """A pytest plugin that emits a session on a bus.

    | pytest | event |
    |---|---|
    | the tests are collected | `orch.started`, with the files as a graph |
    | the first test of a file starts | `unit.started`, payload `total_tasks` |
    | a test starts | `task.started`, payload `name` |
    | a test passes, is skipped, or fails as expected | `task.completed`, payload `name`, `outcome` |
    | a test fails, or its worker crashes | `task.failed`, `error` |
    | a test is repeated by a plugin | `task.retry` |
    | the last test of a file ends | `unit.completed` or `unit.failed`; before it `unit.skipped` if each was skipped |
    | a file can't be collected, or a class in it | `unit.failed`, of a class when the other tests have ended |
    | the session ends | `unit.blocked` for each file that was not finished, then `orch.completed` or `orch.failed` |

    Under xdist the payload of what ends a test has a `worker`; with `--dist each`, each worker ends each test. A test
    that runs twice may fail when its file has already completed: `unit.failed` follows then.

    Args:
        bus: Where to emit.

    Example:
        >>> pytest.main(["tests"], plugins=[SessionEvents(bus)])  # doctest: +SKIP
    """

    def __init__(self, bus: Bus) -> None:
        self._bus = bus
        self._files: dict[str, _File] = {}
        self._unreadable = 0  # files of which something can't be collected
        self._begun = False
        self._each = False  # whether each worker of xdist runs all tests
        self._collections: list[Sequence[str]] = []  # what these workers have collected

    @harmless
    def pytest_collection_finish(self, session: pytest.Session) -> None:
        """All tests are known, unless xdist's workers collect them."""
        if session.items:
            self._begin([[item.nodeid for item in session.items]], 1)

    @pytest.hookimpl(optionalhook=True)
    @harmless
    def pytest_xdist_node_collection_finished(self, node: Any, ids: Sequence[str]) -> None:
        """A worker of xdist knows its tests: the same ones as the others, unless each worker runs all that it has."""
        if self._begun:
            return
        workers = len(node.nodemanager.specs) if hasattr(node, "nodemanager") else 1
        self._each = node.config.option.dist == "each"
        self._collections.append(ids)
        if not self._each or len(self._collections) == workers:
            self._begin(self._collections, workers)

    @harmless
    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        """A file can't be collected, or a class in it."""
        if report.failed:
            unit, file = self._file(f"{report.nodeid}::")  # so that it begins as those of the tests in it
            self._unreadable += not file.collect_error
            file.collect_error = file.collect_error or _reason(report) or "it can't be collected"
            if report.nodeid == unit:
                self._end(unit, file)

    @harmless
    def pytest_runtest_logstart(self, nodeid: str) -> None:
        """A test starts."""
        unit, file = self._file(nodeid)
        number = file.tests.setdefault(nodeid, len(file.tests) + 1)
        if not file.started:
            file.started = True
            payload = {"total_tasks": len(file.tests), "completed_tasks": 0}
            self._bus.emit(Event(EventType.UNIT_STARTED, unit, payload=payload))
        self._bus.emit(Event(EventType.TASK_STARTED, unit, task=number, payload={"name": _name(nodeid)}))

    @harmless
    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """A phase of a test has ended: setup, call, teardown; or its worker has crashed."""
        unit, file = self._file(report.nodeid)
        number = file.tests.setdefault(report.nodeid, len(file.tests) + 1)
        payload: dict[str, Any] = {"name": _name(report.nodeid)}
        if node := getattr(report, "node", None):
            payload["worker"] = node.gateway.id
        run = report.nodeid, payload.get("worker", "") if self._each else ""
        if report.outcome == "rerun":  # type: ignore[comparison-overlap]  # of pytest-rerunfailures
            self._bus.emit(Event(EventType.TASK_RETRY, unit, task=number, payload=payload, error=_reason(report)))
            return
        if report.failed and run not in file.failed:
            file.failed[run] = _reason(report)
            self._bus.emit(Event(EventType.TASK_FAILED, unit, task=number, payload=payload, error=_reason(report)))
        elif hasattr(report, "wasxfail"):
            file.outcomes[run] = "xfailed" if report.skipped else "xpassed"
        elif report.skipped or report.when == "call":  # that of the test comes after those of its subtests
            file.outcomes[run] = report.outcome
        if report.when in ("setup", "call"):  # xdist reports a crash with neither this nor "teardown"
            return
        if run not in file.ended and run not in file.failed:
            payload["outcome"] = file.outcomes.get(run, "passed")
            self._bus.emit(Event(EventType.TASK_COMPLETED, unit, task=number, payload=payload))
        file.ended.add(run)
        if len(file.ended) >= file.runs:
            self._end(unit, file)

    @harmless
    def pytest_sessionfinish(self, exitstatus: int) -> None:
        """Everything has ended that will end."""
        if not self._begun:
            self._begin((), 1)
        for unit, file in self._files.items():
            if file.failed or file.collect_error:
                self._end(unit, file)
            elif file.end is None:
                self._bus.emit(
                    Event(EventType.UNIT_BLOCKED, unit, error="the session ended before all its tests had run")
                )
        tests = sum(file.runs for file in self._files.values())
        failed = sum(len(file.failed) for file in self._files.values())
        payload = {"tests": tests, "failed": failed, "unreadable": self._unreadable, "exit_status": int(exitstatus)}
        if exitstatus in (pytest.ExitCode.OK, pytest.ExitCode.NO_TESTS_COLLECTED):
            self._bus.emit(Event(EventType.ORCH_COMPLETED, payload=payload))
            return
        names = {code.value: code.name.lower().replace("_", " ") for code in pytest.ExitCode}
        error = f"{names.get(int(exitstatus), f'exit status {exitstatus}')}: {failed} of {tests} tests failed"
        if self._unreadable:
            error += f", {self._unreadable} file{'s' * (self._unreadable > 1)} with errors during collection"
        self._bus.emit(Event(EventType.ORCH_FAILED, payload=payload, error=error))

    def _begin(self, collections: Iterable[Sequence[str]], parallelism: int) -> None:
        self._begun = True
        for ids in collections:
            for nodeid in dict.fromkeys(ids):
                _, file = self._file(nodeid)
                file.tests.setdefault(nodeid, len(file.tests) + 1)
                file.runs += 1
        nodes = [
            {
                "id": unit,
                "label": unit,
                "level": 0,
                "status": "failed" if file.end else "pending",
                "tasks": len(file.tests),
                "completed_tasks": 0,
            }
            for unit, file in self._files.items()
        ]
        graph = {"nodes": nodes, "edges": [], "levels": [list(self._files)]}
        payload = {"unit_count": len(nodes), "parallelism": parallelism, "graph": graph}
        self._bus.emit(Event(EventType.ORCH_STARTED, payload=payload))

    def _file(self, nodeid: str) -> tuple[str, _File]:
        unit, _ = _split(nodeid)
        if (file := self._files.get(unit)) is None:
            file = self._files[unit] = _File()
        return unit, file

    def _end(self, unit: str, file: _File) -> None:
        end = EventType.UNIT_FAILED if file.failed or file.collect_error else EventType.UNIT_COMPLETED
        if file.end in (end, EventType.UNIT_FAILED):
            return
        file.end = end
        error = file.collect_error
        if file.failed:
            (first, _), reason = next(iter(file.failed.items()))
            error = f"{len(file.failed)} of {file.runs} failed; {_name(first)}: {reason}"
        elif not error and all(file.outcomes.get(run) == "skipped" for run in file.ended):
            self._bus.emit(Event(EventType.UNIT_SKIPPED, unit))
        self._bus.emit(Event(end, unit, error=error))


def _split(nodeid: str) -> tuple[str, str]:
    """The file and the name of a test. The name of a directory may contain "::"."""
    directory, python, name = nodeid.partition(".py::")
    if python:
        return f"{directory}.py", name
    file, _, name = nodeid.partition("::")
    return file, name


def _name(nodeid: str) -> str:
    return _split(nodeid)[1] or nodeid


def _reason(report: Any) -> str:
    """Why a report failed, in a line: the message of the crash, or the last line of what pytest prints."""
    crash = getattr(report.longrepr, "reprcrash", None)
    try:
        text = str(crash.message if crash is not None else report.longrepr or "").strip()
    except Exception as error:  # whatever another plugin has put there
        return f"a report that can't be read: {format_error(error)}"
    lines = text.splitlines() or [""]
    return lines[0] if crash is not None else lines[-1].removeprefix("E").strip()
