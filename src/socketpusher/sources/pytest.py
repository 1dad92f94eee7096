"""A pytest session as a run: a test file is a unit, a test one of its tasks.

Under pytest-xdist the hooks are called in the controller, and only a report knows which worker it comes from.
"""

from collections.abc import Iterable, Sequence
from typing import Any

import pytest

from ..conversion import format_error
from ..events import Bus, Event, EventType
from .harmless import harmless


class _File:
    """What is known of a unit."""

    def __init__(self) -> None:
        self.tests: dict[str, int] = {}  # by their ids, numbered from 1
        self.outcomes: dict[str, str] = {}  # of those that have not just passed
        self.ended: set[str] = set()
        self.failed: dict[str, str] = {}  # by the ids of tests, why
        self.collect_error = ""  # why it, or a class in it, can't be collected
        self.started = False
        self.over = False


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

    Under xdist the payload of what ends a test has a `worker`.

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

    @harmless
    def pytest_collection_finish(self, session: pytest.Session) -> None:
        """All tests are known, unless xdist's workers collect them."""
        if session.items:
            self._begin([item.nodeid for item in session.items], 1)

    @pytest.hookimpl(optionalhook=True)
    @harmless
    def pytest_xdist_node_collection_finished(self, node: Any, ids: Sequence[str]) -> None:
        """A worker of xdist knows all tests, which are the same for each."""
        if not self._begun:
            self._begin(ids, len(node.nodemanager.specs) if hasattr(node, "nodemanager") else 1)

    @harmless
    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        """A file can't be collected, or a class in it."""
        if report.failed:
            unit, file = self._file(report.nodeid)
            self._unreadable += not file.collect_error
            file.collect_error = file.collect_error or _reason(report) or "it can't be collected"
            if report.nodeid == unit and not file.over:
                file.over = True
                self._bus.emit(Event(EventType.UNIT_FAILED, unit, error=file.collect_error))

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
        if report.outcome == "rerun":  # type: ignore[comparison-overlap]  # of pytest-rerunfailures
            self._bus.emit(Event(EventType.TASK_RETRY, unit, task=number, payload=payload, error=_reason(report)))
            return
        if report.failed and report.nodeid not in file.failed:
            file.failed[report.nodeid] = _reason(report)
            self._bus.emit(Event(EventType.TASK_FAILED, unit, task=number, payload=payload, error=_reason(report)))
        elif hasattr(report, "wasxfail"):
            file.outcomes[report.nodeid] = "xfailed" if report.skipped else "xpassed"
        elif report.skipped:
            file.outcomes[report.nodeid] = "skipped"
        if report.when in ("setup", "call"):  # xdist reports a crash with neither this nor "teardown"
            return
        if report.nodeid not in file.ended and report.nodeid not in file.failed:
            payload["outcome"] = file.outcomes.get(report.nodeid, "passed")
            self._bus.emit(Event(EventType.TASK_COMPLETED, unit, task=number, payload=payload))
        file.ended.add(report.nodeid)
        if len(file.ended) == len(file.tests):
            self._end(unit, file)

    @harmless
    def pytest_sessionfinish(self, exitstatus: int) -> None:
        """Everything has ended that will end."""
        if not self._begun:
            self._begin((), 1)
        for unit, file in self._files.items():
            if not file.over and (file.failed or file.collect_error):
                self._end(unit, file)
            elif not file.over:
                self._bus.emit(
                    Event(EventType.UNIT_BLOCKED, unit, error="the session ended before all its tests had run")
                )
        tests = sum(len(file.tests) for file in self._files.values())
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

    def _begin(self, ids: Iterable[str], parallelism: int) -> None:
        self._begun = True
        for nodeid in ids:
            _, file = self._file(nodeid)
            file.tests.setdefault(nodeid, len(file.tests) + 1)
        nodes = [
            {"id": unit, "label": unit, "level": 0, "status": "pending", "tasks": len(file.tests), "completed_tasks": 0}
            for unit, file in self._files.items()
        ]
        for node, file in zip(nodes, self._files.values(), strict=True):
            if file.over:
                node["status"] = "failed"
        graph = {"nodes": nodes, "edges": [], "levels": [list(self._files)]}
        payload = {"unit_count": len(nodes), "parallelism": parallelism, "graph": graph}
        self._bus.emit(Event(EventType.ORCH_STARTED, payload=payload))

    def _file(self, nodeid: str) -> tuple[str, _File]:
        unit = nodeid.partition("::")[0]
        if (file := self._files.get(unit)) is None:
            file = self._files[unit] = _File()
        return unit, file

    def _end(self, unit: str, file: _File) -> None:
        if file.over:
            return
        file.over = True
        if file.failed:
            first, error = next(iter(file.failed.items()))
            said = f"{len(file.failed)} of {len(file.tests)} failed; {_name(first)}: {error}"
            self._bus.emit(Event(EventType.UNIT_FAILED, unit, error=said))
            return
        if file.collect_error:
            self._bus.emit(Event(EventType.UNIT_FAILED, unit, error=file.collect_error))
            return
        if all(file.outcomes.get(nodeid) == "skipped" for nodeid in file.tests):
            self._bus.emit(Event(EventType.UNIT_SKIPPED, unit))
        self._bus.emit(Event(EventType.UNIT_COMPLETED, unit))


def _name(nodeid: str) -> str:
    return nodeid.partition("::")[2] or nodeid


def _reason(report: Any) -> str:
    """Why a report failed, in a line: the message of the crash, or the last line of what pytest prints."""
    crash = getattr(report.longrepr, "reprcrash", None)
    try:
        text = str(crash.message if crash is not None else report.longrepr or "").strip()
    except Exception as error:  # whatever another plugin has put there
        return f"a report that can't be read: {format_error(error)}"
    lines = text.splitlines() or [""]
    return lines[0] if crash is not None else lines[-1].removeprefix("E").strip()
