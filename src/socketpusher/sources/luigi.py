"""Luigi tasks as units: the graph before the run, and events about each task from Luigi's own event handlers.

With several workers Luigi forks a process for each task and calls the handlers there. The pusher carries the events of
a forked child, but its memory is its own. So the state of each unit, which decides what is ready and what is blocked,
is kept in memory that all processes share.

No event of Luigi says which tasks it runs as a batch, or what a `complete()` has raised. So some methods of its
`Worker` are observed during the run; they are called in the main process, before it forks.
"""

import mmap
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import luigi
from luigi.worker import Worker

from ..conversion import format_error
from ..events import Bus, Event, EventType
from ..graph import Graph
from .harmless import harmless

_OPEN, _DONE, _BLOCKED = range(3)


class LuigiRun:
    """A context manager around `luigi.build` that emits events about the run and its tasks.

    A unit is named by its `task_id`. It is `unit.queued` when all its requirements are complete, `unit.started` and
    `unit.completed` when Luigi reports that, `unit.failed` with the error, and `unit.blocked` when a requirement has
    failed. Tasks that Luigi runs as a batch start and end with that batch, which is no unit of its own. A task that was
    complete before the run is `unit.skipped` and `unit.completed`, because some displays know only the latter. The run
    is `orch.started`, and at the end `orch.completed`, or `orch.failed` if a root task is not complete. The handlers
    are registered for every Luigi task in this process, so use one run at a time. With several workers, events of
    different processes may be reordered by milliseconds, and a unit may be queued twice; call `pusher.flush()` after
    `luigi.build` so that the end of the run comes last.

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
        self._batches: dict[str, list[str]] = {}  # by the task that runs for them, the units that ran as a batch last
        self._complete_errors: dict[str, str] = {}  # by unit, what its `complete()` has raised
        self._observed = ExitStack()
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
        self._observed.enter_context(_observed("_get_work_task_id", self._note_batch))
        self._observed.enter_context(_observed("_handle_task_load_error", self._not_loaded))
        self._observed.enter_context(_observed("_log_complete_error", self._note_complete_error))
        self._bus.emit(Event(EventType.ORCH_STARTED))
        for unit, names in self._requires.items():
            if not names:
                self._bus.emit(Event(EventType.UNIT_QUEUED, unit))
        return self

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        for event, handler in self._handlers.items():
            luigi.Task.remove_event_handler(event, handler)  # type: ignore[no-untyped-call]
        self._observed.close()
        incomplete = [root for root in self._roots if self._states[self._place[root]] != _DONE]
        if error is not None:
            self._bus.emit(Event(EventType.ORCH_FAILED, error=format_error(error)))
        elif incomplete:
            self._bus.emit(Event(EventType.ORCH_FAILED, error=f"not complete: {', '.join(incomplete)}"))
        else:
            self._bus.emit(Event(EventType.ORCH_COMPLETED))

    @harmless
    def _note_batch(self, task_id: str | None, work: dict[str, Any]) -> None:
        if task_id is not None:
            self._batches[task_id] = work.get("batch_task_ids") or [task_id]

    @harmless
    def _not_loaded(self, result: None, error: Exception, units: list[str]) -> None:
        for unit in units:
            self._fail(unit, format_error(error))

    @harmless
    def _note_complete_error(self, result: None, task: luigi.Task, trace: str) -> None:
        last = trace.rstrip().rpartition("\n ")[2]  # the last line of code, and after it the exception
        self._complete_errors[task.task_id] = last.partition("\n")[2] or trace

    def _run_for(self, task: luigi.Task) -> list[str]:
        """Return the units that a task runs for: those of its batch, or its own."""
        return self._batches.get(task.task_id, [task.task_id])

    def _started(self, task: luigi.Task) -> None:
        for unit in self._run_for(task):
            self._bus.emit(Event(EventType.UNIT_STARTED, unit))

    def _skipped(self, task: luigi.Task) -> None:
        self._bus.emit(Event(EventType.UNIT_SKIPPED, task.task_id))
        self._complete(task.task_id)

    def _completed(self, task: luigi.Task) -> None:
        for unit in self._run_for(task):
            self._complete(unit)

    def _complete(self, completed: str) -> None:
        self._bus.emit(Event(EventType.UNIT_COMPLETED, completed))
        if completed not in self._place:
            return
        self._states[self._place[completed]] = _DONE
        for unit in self._dependents[completed]:
            if all(self._states[self._place[name]] == _DONE for name in self._requires[unit]):
                self._bus.emit(Event(EventType.UNIT_QUEUED, unit))

    def _missing(self, task: luigi.Task) -> None:
        reason = "it is not complete, and Luigi can't run it"
        self._fail(task.task_id, self._complete_errors.pop(task.task_id, reason))

    def _failed(self, task: luigi.Task, error: BaseException | str) -> None:
        reason = format_error(error) if isinstance(error, BaseException) else error
        for unit in self._run_for(task):
            self._fail(unit, reason)

    def _fail(self, failed: str, reason: str) -> None:
        self._bus.emit(Event(EventType.UNIT_FAILED, failed, error=reason))
        for unit in self._newly_blocked(failed):
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


@contextmanager
def _observed(name: str, note: Callable[..., None]) -> Iterator[None]:
    """Call `note` with the result and the arguments of each call of a method of Luigi's workers."""
    method = getattr(Worker, name, None)
    if method is None:  # another version of Luigi: the name is private
        yield
        return

    def observed(worker: Worker, *arguments: Any, **options: Any) -> Any:
        result = method(worker, *arguments, **options)
        note(result, *arguments, **options)
        return result

    setattr(Worker, name, observed)
    try:
        yield
    finally:
        setattr(Worker, name, method)


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
