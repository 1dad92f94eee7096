"""Dask as a run: the keys of one prefix ("inc" of "inc-4f3a") are a unit, each key is one of its tasks.

`LocalRun` is for the schedulers of one process, `ClusterRun` for `dask.distributed`, where the hooks are called in the
scheduler's event loop. Neither waits for anything. Neither breaks a computation: distributed logs what a plugin raises.
"""

import sys
from collections.abc import Container, Iterable, Mapping
from types import TracebackType
from typing import Any

from dask.callbacks import Callback
from dask.utils import key_split

from ..conversion import format_error
from ..events import Bus, Event, EventType
from ..graph import CycleError, Graph
from .harmless import harmless

try:
    from distributed.diagnostics.plugin import SchedulerPlugin
except ImportError:  # dask without its extra
    SchedulerPlugin = object


_CANCELLED = "cancelled"


class _Unit:
    """The keys of a prefix."""

    def __init__(self) -> None:
        self.total = 0
        self.open = 0
        self.done = 0
        self.running = False
        self.errors: dict[Any, str] = {}  # of the keys that ended without a result; "" if they need one that failed

    @property
    def error(self) -> str:
        """The error of its first key that failed."""
        return next(filter(None, self.errors.values()), "")


class _Run:
    """Counts the keys of one run by prefix, and emits what that means."""

    def __init__(self, bus: Bus) -> None:
        self._bus = bus
        self._units: dict[str, _Unit] = {}
        self.open: dict[Any, str] = {}  # the keys that have not ended, and their units

    def begin(self, dependencies: Mapping[Any, Iterable[Any]], parallelism: int) -> None:
        """Emit the start of a run of these keys."""
        self._units.clear()
        self.open.clear()
        needs = self._add(dependencies)
        tasks = {name: unit.total for name, unit in self._units.items()}
        try:
            graph = Graph(needs, tasks)
        except CycleError:  # a prefix that is used at several depths
            graph = Graph(dict.fromkeys(needs, ()), tasks)
        told: Any = graph.payload()
        told["edges"] = [{"from": edge["to"], "to": edge["from"]} for edge in told["edges"]]
        payload = {"unit_count": len(needs), "parallelism": parallelism, "graph": told}
        self._bus.emit(Event(EventType.ORCH_STARTED, payload=payload))

    def grow(self, dependencies: Mapping[Any, Iterable[Any]]) -> None:
        """Emit the new size of each unit that gets more keys while the run goes on."""
        new = {key: needs for key, needs in dependencies.items() if key not in self.open}
        sizes = {name: unit.total for key in new if (unit := self._units.get(name := str(key_split(key))))}
        for name in self._add(new):
            unit = self._units[name]
            if unit.total != sizes.get(name):
                payload = {"done": unit.done, "total": unit.total}
                self._bus.emit(Event(EventType.UNIT_PROGRESS, name, payload=payload))

    def _add(self, dependencies: Mapping[Any, Iterable[Any]]) -> dict[str, set[str]]:
        needs: dict[str, set[str]] = {}
        prefixes = {key: str(key_split(key)) for key in dependencies}
        for key, name in prefixes.items():
            self.open[key] = name
            unit = self._units.setdefault(name, _Unit())
            unit.open += 1
            if unit.errors.pop(key, None) is None:  # else it is tried again
                unit.total += 1
            known = {prefixes[other] for other in dependencies[key] if other in prefixes}
            needs.setdefault(name, set()).update(known - {name})
        return needs

    def started(self, key: Any) -> None:
        """A key is being computed."""
        if (name := self.open.get(key)) is not None and not (unit := self._units[name]).running:
            unit.running = True
            payload = {"total_tasks": unit.total, "completed_tasks": unit.done}
            self._bus.emit(Event(EventType.UNIT_STARTED, name, payload=payload))

    def completed(self, key: Any, worker: str) -> None:
        """A key is computed."""
        self.started(key)
        if (name := self.open.get(key)) is not None:
            unit = self._units[name]
            unit.done += 1
            payload = {"key": str(key), "worker": worker}
            self._bus.emit(Event(EventType.TASK_COMPLETED, name, task=unit.done, payload=payload))
            self._close(key)

    def failed(self, key: Any, error: str) -> None:
        """The computation of a key has raised."""
        if (name := self.open.get(key)) is not None:
            self._bus.emit(Event(EventType.TASK_FAILED, name, payload={"key": str(key)}, error=error))
            self._close(key, error)

    def blocked(self, key: Any) -> None:
        """A key will not be computed, because one that it needs has failed."""
        if key in self.open:
            self._close(key, "")

    def dropped(self, key: Any) -> None:
        """A key will not be computed, because nobody needs it any more."""
        if key in self.open:
            self._close(key, _CANCELLED)

    def _close(self, key: Any, error: str | None = None) -> None:
        name = self.open.pop(key)
        unit = self._units[name]
        unit.open -= 1
        if error is not None:
            unit.errors[key] = error
        if unit.open == 0:
            self._end_unit(name, unit)

    def _end_unit(self, name: str, unit: _Unit) -> None:
        unit.running = False
        if unit.error:
            self._bus.emit(Event(EventType.UNIT_FAILED, name, error=unit.error))
        elif unit.errors or unit.open:
            self._bus.emit(Event(EventType.UNIT_BLOCKED, name))
        else:
            self._bus.emit(Event(EventType.UNIT_COMPLETED, name))

    def end(self, error: str = "") -> None:
        """Emit the end of the run, and of the units that did not end."""
        for name in dict.fromkeys(self.open.values()):
            self._end_unit(name, self._units[name])
        self.open.clear()
        errors = {name: unit.error for name, unit in self._units.items() if unit.errors}
        if errors:  # what was cancelled or blocked is rarely the reason
            name = min(errors, key=lambda name: errors[name] in ("", _CANCELLED))
            error = f"{name}: {errors[name] or 'blocked'}"
        self._bus.emit(Event(EventType.ORCH_FAILED if error else EventType.ORCH_COMPLETED, error=error))


class LocalRun(Callback):  # type: ignore[misc]  # dask has no types
    """Emits what a scheduler of this process computes: threads, processes, or none. A context manager.

    | dask | event |
    |---|---|
    | a computation starts | `orch.started`, with the prefixes as a graph |
    | the first key of a prefix starts | `unit.started`, payload `total_tasks`, `completed_tasks` |
    | a key ends | `task.completed`, payload `key`, `worker`, or `task.failed`, `error` |
    | the last key of a prefix ends | `unit.completed`, `unit.failed`, or `unit.blocked` if it can't be computed |
    | the computation ends | `orch.completed` or `orch.failed` |

    Args:
        bus: Where to emit.

    Example:
        >>> with LocalRun(bus):  # doctest: +SKIP
        ...     frame.compute()
    """

    def __init__(self, bus: Bus) -> None:
        super().__init__()
        self._run = _Run(bus)

    @harmless
    def _start_state(self, dsk: Any, state: dict[str, Any]) -> None:
        known = state["cache"]  # keys that are data
        self._run.begin({key: needs for key, needs in state["dependencies"].items() if key not in known}, 0)

    @harmless
    def _pretask(self, key: Any, dsk: Any, state: dict[str, Any]) -> None:
        self._run.started(key)

    @harmless
    def _posttask(self, key: Any, result: Any, dsk: Any, state: dict[str, Any], worker: Any) -> None:
        self._run.completed(key, str(worker))

    @harmless
    def _finish(self, dsk: Any, state: dict[str, Any], errored: bool) -> None:
        _, error, traceback = sys.exc_info()  # dask calls this while the exception of a key passes
        if errored and isinstance(error, Exception):
            self._run.failed(_failed_key(traceback, state), format_error(error))
        self._run.end(format_error(error) if errored and error is not None else "")


def _failed_key(traceback: TracebackType | None, state: dict[str, Any]) -> Any:
    """The key that failed, which dask does not say: that of dask's frame which computed it, or the only one running."""
    running = state.get("running", set())
    while traceback is not None:
        frame = traceback.tb_frame
        if frame.f_code.co_name in ("get_async", "execute_task") and (key := frame.f_locals.get("key")) in running:
            return key
        traceback = traceback.tb_next
    return next(iter(running)) if len(running) == 1 else None


class ClusterRun(SchedulerPlugin):  # type: ignore[misc]
    """A plugin of the scheduler of `dask.distributed` that emits what the cluster computes.

    The events are those of `LocalRun`. A run begins with the first key that is to be computed, grows with those that
    follow, which `unit.progress` tells (payload `done`, `total`), and ends when none is left. A unit with keys that
    nobody wants any more before they end has failed, with the error "cancelled". A key that is computed again, because
    it is retried or its result was lost, is part of a run as any other. `worker.added` and `worker.removed` have a
    payload `worker`.

    Args:
        bus: Where to emit. Handlers are called in the scheduler's event loop; that of a pusher does not wait.

    Example:
        >>> cluster.scheduler.add_plugin(ClusterRun(bus))  # doctest: +SKIP
    """

    name = "socketpusher"

    def __init__(self, bus: Bus) -> None:
        self._bus = bus
        self._run = _Run(bus)
        self._scheduler: Any = None  # known with the first graph

    def update_graph(self, scheduler: Any, *, tasks: Iterable[Any], keys: Iterable[Any], **kwargs: Any) -> None:
        """A client has submitted a graph. What has ended is not computed again, nor what only that needs."""
        self._scheduler = scheduler
        known = scheduler.tasks
        states = [known[key] for key in tasks if key in known]
        failing = [state for state in states if any(other.state == "erred" for other in state.dependencies)]
        new = _reached(failing, "dependents", self._run.open, {})
        self._add(_reached([known[key] for key in keys if key in known], "dependencies", self._run.open, new))

    def _add(self, states: Iterable[Any]) -> None:
        new = {state.key: [other.key for other in state.dependencies] for state in states}
        if self._run.open:
            self._run.grow(new)
        elif new:
            self._run.begin(new, sum(worker.nthreads for worker in self._scheduler.workers.values()))

    def transition(self, key: Any, start: str, finish: str, *args: Any, **kwargs: Any) -> None:
        """A key has changed its state."""
        if self._scheduler is None:
            return
        state = self._scheduler.tasks[key]
        if key not in self._run.open:
            if finish == "waiting":  # it is computed again
                self._add([state])
            return
        if finish == "processing":
            self._run.started(key)
            return
        if finish == "memory":
            self._run.completed(key, str(kwargs.get("worker", "")))
        elif finish == "erred":
            if "cause" in kwargs:
                self._run.failed(key, str(kwargs.get("exception_text", "")) or "failed")
            else:
                self._run.blocked(key)
        elif finish == "forgotten" or (finish == "released" and not (state.who_wants or state.waiters)):
            if state.exception_blame:  # what needs this key has failed with it, so it is not said to be erred
                self._run.blocked(key)
            else:
                self._run.dropped(key)
        if not self._run.open:
            self._run.end()

    def add_worker(self, scheduler: Any, worker: str) -> None:
        """A worker has connected."""
        self._bus.emit(Event("worker.added", payload={"worker": worker}))

    def remove_worker(self, scheduler: Any, worker: str, **kwargs: Any) -> None:
        """A worker has disconnected."""
        self._bus.emit(Event("worker.removed", payload={"worker": worker}))


def _reached(states: Iterable[Any], follow: str, open_keys: Container[Any], found: dict[Any, None]) -> dict[Any, None]:
    """Add the keys that have not ended among these and those that they lead to, by `dependencies` or `dependents`.

    What an open key leads to is open, too.
    """
    left = list(states)
    while left:
        state = left.pop()
        if state.state not in ("memory", "erred") and state not in found and state.key not in open_keys:
            found[state] = None
            left += getattr(state, follow)
    return found
