"""The demo's scheduler: one thread, one process, and no moment in which it sleeps."""

import ast
import warnings
from collections import deque
from collections.abc import Mapping
from typing import Any

from ..events import Bus, Event, EventType
from .modules import Unit


class Scheduler:
    """Runs units one at a time, each after those that it depends on, and tells the bus.

    A unit with a task that fails has failed. What depends on it runs all the same: it only has to come later.

    Args:
        units: The units by name.
        bus: Where the events go.
    """

    def __init__(self, units: Mapping[str, Unit], bus: Bus) -> None:
        self._units = units
        self._bus = bus
        self._missing = {name: len(unit.dependencies) for name, unit in units.items()}
        self._dependents: dict[str, list[str]] = {name: [] for name in units}
        for name, unit in units.items():
            for dependency in unit.dependencies:
                self._dependents[dependency].append(name)
        self._ready: deque[str] = deque()
        self.emitted = 0  # how many events
        self.failed = 0  # how many tasks

    def run(self) -> None:
        """Run everything. To be called once."""
        self._emit(EventType.ORCH_STARTED, payload={})
        for name, count in self._missing.items():
            if count == 0:
                self._queue(name)
        while self._ready:
            name = self._ready.popleft()
            self._run_unit(self._units[name])
            for dependent in self._dependents[name]:
                self._missing[dependent] -= 1
                if self._missing[dependent] == 0:
                    self._queue(dependent)
        self._emit(EventType.ORCH_COMPLETED, payload={"failed_tasks": self.failed})

    def _queue(self, name: str) -> None:
        self._emit(EventType.UNIT_QUEUED, name)
        self._ready.append(name)

    def _run_unit(self, unit: Unit) -> None:
        total = len(unit.files)
        self._emit(EventType.UNIT_STARTED, unit.name, payload={"total_tasks": total, "completed_tasks": 0})
        failed = sum(not self._run_task(unit.name, task, path) for task, path in enumerate(unit.files, 1))
        self.failed += failed
        if failed:
            self._emit(EventType.UNIT_FAILED, unit.name, error=f"{failed} of {total} files do not compile")
        else:
            self._emit(EventType.UNIT_COMPLETED, unit.name)

    def _run_task(self, unit: str, task: int, path: str) -> bool:
        self._emit(EventType.TASK_STARTED, unit, task)
        try:
            payload = examine(path)
        except Exception as error:  # a file may hold anything; the parser and the compiler raise accordingly
            self._emit(EventType.TASK_FAILED, unit, task, {"file": path}, f"{type(error).__name__}: {error}")
            return False
        self._emit(EventType.TASK_COMPLETED, unit, task, payload)
        return True

    def _emit(self, type: str, unit: str = "", task: int | None = None, payload: Any = None, error: str = "") -> None:
        self.emitted += 1
        self._bus.emit(Event(type, unit, task, payload=payload, error=error))


def examine(path: str) -> dict[str, Any]:
    """A task: read a source file, parse it, compile it and count what it consists of.

    Raises:
        OSError: It can't be read.
        SyntaxError, ValueError, RecursionError, MemoryError: It can't be compiled.
    """
    with open(path, "rb") as file:
        source = file.read()
    with warnings.catch_warnings(action="ignore"):  # what the compiler thinks of it is not the question
        tree = ast.parse(source, path)
        compile(tree, path, "exec", dont_inherit=True)
    return {"file": path, "lines": source.count(b"\n"), "nodes": sum(1 for _ in ast.walk(tree))}
