"""Luigi tasks as units: the graph before the run, and events about each task from Luigi's own event handlers.

With several workers Luigi forks a process for each task and calls the handlers there. The pusher carries the events of
a forked child, but its memory is its own. So the state of each unit, which decides what is ready and what is blocked,
is kept in memory that all processes share.
"""

import mmap
from collections import deque
from collections.abc import Callable, Iterator

import luigi

from ..conversion import format_error
from ..events import Bus, Event, EventType
from ..graph import Graph

_OPEN, _DONE, _BLOCKED = range(3)


class LuigiRun:
    """A context manager around `luigi.build` that emits events about the run and its tasks.

    A unit is named by its `task_id`. It is `unit.queued` when all its requirements are complete, `unit.started` and
    `unit.completed` when Luigi reports that, `unit.failed` with the error, and `unit.blocked` when a requirement has
    failed. A task that was complete before the run is `unit.skipped` and `unit.completed`, because some displays know
    only the latter. The run is `orch.started`, and at the end `orch.completed`, or `orch.failed` if a root task is not
    complete. The handlers are registered for every Luigi task in this process, so use one run at a time. With several
    workers, events of different processes may be reordered by milliseconds, and a unit may be queued twice; call
    `pusher.flush()` after `luigi.build` so that the end of the run comes last.

    Args:
        bus: Where to emit the events.
        *roots: The tasks that are given to `luigi.build`.

    Attributes:
        graph: The roots and their requirements, for `SocketPusher.set_graph`. Like Luigi, it does not follow the
            requirements of a complete task. Requirements that a task adds while it runs are not in it.

    Raises:
        CycleError: The tasks require each other in a cycle.

    Example:
        >>> run = LuigiRun(bus, Report())  # doctest: +SKIP
        >>> pusher.set_graph(run.graph, parallelism=2)
        >>> with pusher, run:
        ...     luigi.build([Report()], workers=2, local_scheduler=True)
    """

    def __init__(self, bus: Bus, *roots: luigi.Task) -> None:
        self._bus = bus
        self._roots = [root.task_id for root in roots]
        self._requires = _requirements(roots)
        self.graph = Graph(self._requires)
        self._dependents: dict[str, list[str]] = {unit: [] for unit in self._requires}
        for unit, names in self._requires.items():
            for name in names:
                self._dependents[name].append(unit)
        self._place = {unit: place for place, unit in enumerate(self._requires)}
        self._states = mmap.mmap(-1, max(1, len(self._place)))  # shared with forked children; a byte a unit
        self._handlers: dict[str, Callable[..., None]] = {
            luigi.Event.DEPENDENCY_PRESENT: self._skipped,
            luigi.Event.DEPENDENCY_MISSING: self._missing,
            luigi.Event.BROKEN_TASK: self._failed,
            luigi.Event.START: self._started,
            luigi.Event.SUCCESS: self._completed,
            luigi.Event.FAILURE: self._failed,
            luigi.Event.PROCESS_FAILURE: self._failed,
            luigi.Event.TIMEOUT: self._failed,
        }

    def __enter__(self) -> "LuigiRun":
        for event, handler in self._handlers.items():
            luigi.Task.event_handler(event)(handler)  # type: ignore[no-untyped-call]
        self._bus.emit(Event(EventType.ORCH_STARTED))
        for unit, names in self._requires.items():
            if not names:
                self._bus.emit(Event(EventType.UNIT_QUEUED, unit))
        return self

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        for event, handler in self._handlers.items():
            luigi.Task.remove_event_handler(event, handler)  # type: ignore[no-untyped-call]
        incomplete = [root for root in self._roots if self._states[self._place[root]] != _DONE]
        if error is not None:
            self._bus.emit(Event(EventType.ORCH_FAILED, error=format_error(error)))
        elif incomplete:
            self._bus.emit(Event(EventType.ORCH_FAILED, error=f"not complete: {', '.join(incomplete)}"))
        else:
            self._bus.emit(Event(EventType.ORCH_COMPLETED))

    def _started(self, task: luigi.Task) -> None:
        self._bus.emit(Event(EventType.UNIT_STARTED, task.task_id))

    def _skipped(self, task: luigi.Task) -> None:
        self._bus.emit(Event(EventType.UNIT_SKIPPED, task.task_id))
        self._completed(task)

    def _completed(self, task: luigi.Task) -> None:
        self._bus.emit(Event(EventType.UNIT_COMPLETED, task.task_id))
        if task.task_id not in self._place:
            return
        self._states[self._place[task.task_id]] = _DONE
        for unit in self._dependents[task.task_id]:
            if all(self._states[self._place[name]] == _DONE for name in self._requires[unit]):
                self._bus.emit(Event(EventType.UNIT_QUEUED, unit))

    def _missing(self, task: luigi.Task) -> None:
        self._failed(task, "it is not complete, and Luigi can't run it")

    def _failed(self, task: luigi.Task, error: BaseException | str) -> None:
        reason = format_error(error) if isinstance(error, BaseException) else error
        self._bus.emit(Event(EventType.UNIT_FAILED, task.task_id, error=reason))
        for unit in self._newly_blocked(task.task_id):
            self._bus.emit(Event(EventType.UNIT_BLOCKED, unit))

    def _newly_blocked(self, failed: str) -> Iterator[str]:
        """Mark all open units that depend on the failed one as blocked, and yield them."""
        waiting = deque(self._dependents.get(failed, ()))
        while waiting:
            unit = waiting.popleft()
            if self._states[self._place[unit]] == _OPEN:
                self._states[self._place[unit]] = _BLOCKED
                yield unit
                waiting.extend(self._dependents[unit])


def _requirements(roots: tuple[luigi.Task, ...]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    waiting = deque(roots)
    while waiting:
        task = waiting.popleft()
        if task.task_id not in found:
            required = _required(task)
            found[task.task_id] = [other.task_id for other in required]
            waiting.extend(required)
    return found


def _required(task: luigi.Task) -> list[luigi.Task]:
    try:
        return [] if task.complete() else list(task.deps())  # type: ignore[no-untyped-call]
    except Exception:
        return []  # Luigi gets the same exception when it schedules the task, and calls the handlers
