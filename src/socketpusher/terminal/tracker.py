"""What is known of the runs that senders report. Pure: it is fed, and asked; no socket, no clock, no drawing.

Where an event comes from is any hashable object: a connection, or a host and a session. Each source has a run, from its
first event on. A run outlives its source for a while, and is continued by a source that comes with the same title, or
whose first event names the same units: a pusher that has reconnected, or a writer that was restarted.

`RunTracker.feed` is the hot path: it must not cost more than decoding the event did. Counts are therefore kept as
events come, and whoever draws reads them without walking through the units.
"""

from collections import deque
from collections.abc import Hashable
from datetime import datetime
from typing import Any, NamedTuple

from ..events import Event, EventType
from ..graph import GraphPayload, NodePayload
from ..run_state import RELEVANT, STATUSES, RunState

TAIL = 200
"""How many of the last events are kept."""

GONE = 8
"""How many runs are kept whose source is gone."""

ERROR_LENGTH = 500
"""How much of the first line of an error is kept, in characters."""

NO_LEVEL = -1
"""The level of units that no graph has named."""

_OF_THE_RUN = frozenset(
    ("graph", str(EventType.ORCH_STARTED), str(EventType.ORCH_COMPLETED), str(EventType.ORCH_FAILED))
)
_RELEVANT = RELEVANT | _OF_THE_RUN | {str(EventType.TASK_FAILED)}


class RecentEvent(NamedTuple):
    """An event, as it is kept among the last ones."""

    run: "Run"
    time: datetime | None
    type: str
    unit: str
    task: int | None
    error: str


class Unit:
    """Where a unit stands.

    Args:
        name: Its name.
        level: Its depth in the graph, or `NO_LEVEL`.
    """

    __slots__ = ("completed_tasks", "ended", "error", "level", "name", "started", "status", "tasks", "worker")

    def __init__(self, name: str, level: "Level") -> None:
        self.name = name
        self.level = level
        self.status = ""
        self.tasks = 0  # never below the completed ones; 0 where nobody has said
        self.completed_tasks = 0
        self.started: float | None = None  # seconds since the epoch; None if that was not seen
        self.ended: float | None = None  # when it was complete, failed or blocked; None if that was not seen
        self.error = ""  # the last one that was told of it, its first line
        self.worker = ""  # who runs it, or did

    def follow(self, other: "Unit") -> None:
        """What no graph tells of a unit is what was known of it before."""
        self.started, self.ended, self.error, self.worker = other.started, other.ended, other.error, other.worker


class Level:
    """Where the units of one depth stand, in counts."""

    __slots__ = ("completed_tasks", "number", "statuses", "tasks", "units")

    def __init__(self, number: int) -> None:
        self.number = number
        self.units = 0
        self.tasks = 0
        self.completed_tasks = 0
        self.statuses = dict.fromkeys(STATUSES, 0)  # how many units have each

    @property
    def complete(self) -> bool:
        """Whether every unit is complete."""
        return self.statuses["complete"] == self.units

    @property
    def untouched(self) -> bool:
        """Whether no unit has begun."""
        return self.statuses["pending"] + self.statuses["ready"] == self.units


class Run:
    """One run, as its events tell.

    Args:
        title: What to call it.
    """

    def __init__(self, title: str) -> None:
        self.title = title
        self.events = 0
        self.gone: float | None = None  # since when its source is gone, in seconds since the epoch
        self.started: float | None = None  # when it began; None if that was not seen
        self.ended: float | None = None
        self.outcome = ""  # "completed" or "failed" once it has ended
        self.error = ""  # why it failed
        self.failed_tasks = 0
        self.no_graph = ""  # what came in place of a graph that was too long to be sent
        self.units: dict[str, Unit] = {}
        self.levels: dict[int, Level] = {}  # sorted
        self.by_status: dict[str, dict[str, Unit]] = {}  # the units of each status, in the order in which they got it
        self.tasks = 0
        self.completed_tasks = 0
        self._graph: GraphPayload = {"nodes": [], "edges": [], "levels": []}
        self._named: frozenset[str] = frozenset()  # the units that the graph names
        self._state = RunState(self._graph)
        self._reset({})

    def count(self, status: str) -> int:
        """How many units have a status."""
        return len(self.by_status[status])

    def take(self, event: Event) -> bool:
        """Take an event in. Returns whether it changed a unit's status, or the run."""
        self.events += 1
        kind = event.type
        if kind not in _RELEVANT:
            return False
        if kind not in _OF_THE_RUN:
            return bool(event.unit) and self._take_unit(event)
        if kind == "graph":
            nodes = _nodes(event.payload)
            if nodes is not None:
                self._begin(nodes, self.units)
            self.no_graph = _first_line(event.payload) if isinstance(event.payload, str) else ""
        elif kind == EventType.ORCH_STARTED:
            self._start(event)
        else:
            self.ended = _seconds(event.time)
            self.outcome = kind.removeprefix("orch.")
            self.error = _first_line(event.error)
        return True

    def names_the_same_units(self, event: Event) -> bool:
        """Whether an event comes with a graph of the units that this run's graph has."""
        nodes = _nodes(_graph_in(event))
        return bool(nodes) and self._named == {node["id"] for node in nodes or ()}

    def _start(self, event: Event) -> None:
        started = _seconds(event.time)
        retold = self.started is None or self.started == started  # a connection may begin with it once more
        if not retold:
            self.failed_tasks = 0
        self.started, self.ended, self.outcome, self.error = started, None, "", ""
        nodes = _nodes(_graph_in(event))
        self._begin(self._graph["nodes"] if nodes is None else nodes, self.units if retold else {})

    def _begin(self, nodes: list[NodePayload], before: dict[str, Unit]) -> None:
        """These are the units; of those that stand as before, what else is known stays known."""
        self._named = frozenset(node["id"] for node in nodes)
        self._graph = {"nodes": nodes, "edges": [], "levels": []}
        self._state = RunState(self._graph)
        self._reset({node["level"]: Level(node["level"]) for node in sorted(nodes, key=_level_of)})
        for node in nodes:
            unit = self._add(node)
            known = before.get(unit.name)
            if known is not None and known.status == unit.status:
                unit.follow(known)
        # The graph does not tell of the others, and a repetition of what told of them is left out.
        for known in before.values():
            if known.level.number == NO_LEVEL and known.name not in self._named:
                self._add_unnamed(known.name, known.status, known.tasks, known.completed_tasks).follow(known)

    def _reset(self, levels: dict[int, Level]) -> None:
        self.units = {}
        self.levels = levels
        self.by_status = {status: {} for status in STATUSES}
        self.tasks = self.completed_tasks = 0

    def _add(self, node: NodePayload) -> Unit:
        level = self.levels[node["level"]]
        level.units += 1
        unit = self.units[node["id"]] = Unit(node["id"], level)
        self._follow(unit)
        return unit

    def _take_unit(self, event: Event) -> bool:
        unit = self.units.get(event.unit)
        if unit is None:
            unit = self._add_unnamed(event.unit)
        kind, before = event.type, unit.status
        if event.error:
            unit.error = _first_line(event.error)
        worker = event.payload.get("worker") if isinstance(event.payload, dict) else None
        if isinstance(worker, str | int):
            unit.worker = _first_line(str(worker))
        if kind == EventType.TASK_FAILED:
            self.failed_tasks += 1
            return False
        self._state.apply({"type": kind, "unit": event.unit, "task": event.task, "payload": event.payload})
        self._follow(unit)
        if kind == EventType.UNIT_STARTED:
            unit.started, unit.ended, unit.error = _seconds(event.time), None, ""
        elif unit.status != before:
            unit.ended = _seconds(event.time)
        return unit.status != before

    def _add_unnamed(self, name: str, status: str = "pending", tasks: int = 0, completed_tasks: int = 0) -> Unit:
        if NO_LEVEL not in self.levels:
            self.levels = {NO_LEVEL: Level(NO_LEVEL), **self.levels}
        node = _node(name, NO_LEVEL)
        node["status"], node["tasks"], node["completed_tasks"] = status, tasks, completed_tasks
        self._state.add(node)
        return self._add(node)

    def _follow(self, unit: Unit) -> None:
        """Bring the unit, and the counts that it is part of, to where the run stands."""
        status, tasks, completed = self._state.unit_state(unit.name)
        level = unit.level
        tasks = max(tasks, completed)
        if tasks != unit.tasks:
            level.tasks += tasks - unit.tasks
            self.tasks += tasks - unit.tasks
            unit.tasks = tasks
        if completed != unit.completed_tasks:
            level.completed_tasks += completed - unit.completed_tasks
            self.completed_tasks += completed - unit.completed_tasks
            unit.completed_tasks = completed
        if status != unit.status:
            if unit.status:
                level.statuses[unit.status] -= 1
                del self.by_status[unit.status][unit.name]
            level.statuses[status] += 1
            self.by_status[status][unit.name] = unit
            unit.status = status


class RunTracker:
    """All runs that are known, and the last events of all of them.

    Args:
        lasting: Whether a source has the same title whenever it comes, so that a run is continued under that only.
    """

    def __init__(self, lasting: bool = False) -> None:
        self.lasting = lasting
        self.runs: list[Run] = []  # in the order in which they began to be known
        self.tail: deque[RecentEvent] = deque(maxlen=TAIL)
        self.events = 0
        self.sources: dict[Hashable, str] = {}  # those that are connected, and their titles
        self.gone: float | None = (
            None  # since when there is no source, in seconds since the epoch; None before the first
        )
        self._of: dict[Hashable, Run] = {}

    def source_connected(self, source: Hashable, title: str) -> None:
        """A source is connected. It has no run before its first event."""
        self.sources[source] = title

    def source_disconnected(self, source: Hashable, now: float) -> None:
        """A source is gone; `now` is in seconds since the epoch."""
        self.sources.pop(source, None)
        if not self.sources:
            self.gone = now
        run = self._of.pop(source, None)
        if run is not None:
            run.gone = now
            self._forget()

    def feed(self, source: Hashable, event: Event) -> tuple[Run, bool]:
        """Take an event in. Returns the run, and whether the event changed a unit's status, or the run itself."""
        run = self._of.get(source)
        if run is None:
            run = self._of[source] = self._run_for(source, event)
        self.events += 1
        error = event.error
        self.tail.append(RecentEvent(run, event.time, event.type, event.unit, event.task, error and _first_line(error)))
        return run, run.take(event)

    def _run_for(self, source: Hashable, event: Event) -> Run:
        title = self.sources.setdefault(source, str(source))
        for run in reversed(self.runs):
            same = run.title == title or (not self.lasting and run.names_the_same_units(event))
            if run.gone is not None and same:
                run.title, run.gone = title, None
                return run
        self.runs.append(Run(title))
        return self.runs[-1]

    def _forget(self) -> None:
        gone = sorted((run for run in self.runs if run.gone is not None), key=lambda run: run.gone or 0)
        for run in gone[:-GONE]:
            self.runs.remove(run)


def _graph_in(event: Event) -> Any:
    """The payload of a `graph` event, or what an `orch.started` has of the kind."""
    payload = event.payload
    if event.type == EventType.ORCH_STARTED:
        return payload.get("graph") if isinstance(payload, dict) else None
    return payload if event.type == "graph" else None


def _nodes(graph: Any) -> list[NodePayload] | None:
    """The units that a graph names, whatever else is in it; None if it is no graph."""
    nodes = graph.get("nodes") if isinstance(graph, dict) else None
    if not isinstance(nodes, list):
        return None
    found: dict[str, NodePayload] = {}
    for given in nodes:
        name = given.get("id") if isinstance(given, dict) else None
        if isinstance(name, str) and name:
            level = given.get("level")
            node = _node(name, level if isinstance(level, int) and level >= 0 else 0)
            if given.get("status") in STATUSES:
                node["status"] = given["status"]
            node["tasks"] = _count(given.get("tasks"))
            node["completed_tasks"] = _count(given.get("completed_tasks"))
            found[name] = node
    return list(found.values())


def _node(name: str, level: int) -> NodePayload:
    return {"id": name, "label": name, "level": level, "status": "pending", "tasks": 0, "completed_tasks": 0}


def _level_of(node: NodePayload) -> int:
    return node["level"]


def _count(value: object) -> int:
    return value if isinstance(value, int) else 0


def _seconds(time: datetime | None) -> float | None:
    return None if time is None else time.timestamp()


def _first_line(error: str) -> str:
    return error[: 4 * ERROR_LENGTH].strip().partition("\n")[0][:ERROR_LENGTH]
