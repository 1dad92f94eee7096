"""What is known of the runs that senders report. Pure: it is fed events and asked; no socket, clock or drawing.

Where an event comes from is any hashable object: a connection, or a host and a session. Each source has a run, from its
first event on. A run is kept for a while after its source has disconnected. A new source continues it if it has the
same title, or if its first event names the same units: a pusher that has reconnected, or a writer that was restarted.

`RunTracker.feed` is the hot path: it must not cost more than decoding the event did. So counts are kept as events come,
and whoever draws reads them without walking through all units.
"""

import re
from collections import deque
from collections.abc import Hashable
from dataclasses import dataclass, field
from datetime import datetime
from typing import NamedTuple

from ..events import Event, EventType
from ..graph import NodePayload, count_in, graph_in
from ..run_state import MAX_ENDED_UNITS, RELEVANT, STATUS_AFTER, STATUSES, RunState

MAX_RECENT_EVENTS = 200
"""How many of the last events are kept."""

MAX_DISCONNECTED_RUNS = 8
"""How many runs are kept whose source has disconnected."""

REASON_LENGTH, ERROR_LENGTH = 500, 2000
"""How much is kept of a line that says why something failed, and of the end of its error, in characters."""

NO_LEVEL = -1
"""The level of units that no graph has named."""

RUN_EVENTS = frozenset(
    ("graph", str(EventType.ORCH_STARTED), str(EventType.ORCH_COMPLETED), str(EventType.ORCH_FAILED))
)
"""The types of events that are about a run, whatever unit they name."""

_RELEVANT = RELEVANT | RUN_EVENTS | {str(EventType.TASK_FAILED)}
_GROUP_MARGIN = re.compile(r"^ *[|+] ?", re.MULTILINE)  # in the traceback of an ExceptionGroup


class RecentEvent(NamedTuple):
    """An event, as it is kept among the last ones."""

    run: "Run"
    time: datetime | None
    type: str
    unit: str
    task: int | None
    message: str  # of a log record, or of progress
    error: str  # its reason


@dataclass(slots=True, eq=False)
class Unit:
    """Where a unit stands."""

    name: str
    level: "Level"  # of its depth in the graph, or of `NO_LEVEL`
    run: "Run"
    status: str = ""
    tasks: int = 0  # never below the completed ones; 0 where nobody has said
    completed_tasks: int = 0
    started: float | None = None  # seconds since the epoch; None if that was not seen
    ended: float | None = None  # when it was complete, failed or blocked; None if that was not seen
    reason: str = ""  # the line of its last error that says why it failed
    error: str = ""  # the end of that error, if it has more lines
    worker: str = ""  # who runs it, or did

    @property
    def done(self) -> bool:
        """Whether it is complete or has failed, and when is known."""
        return self.ended is not None and self.status in ("complete", "failed")

    def follow(self, other: "Unit") -> None:
        """Take over what no graph tells of a unit."""
        for name in ("started", "ended", "reason", "error", "worker"):
            setattr(self, name, getattr(other, name))

    def fail(self, error: str) -> None:
        """Take an error in."""
        self.reason = reason(error)
        self.error = error[-ERROR_LENGTH:].strip() if "\n" in error.strip() else ""


@dataclass(slots=True, eq=False)
class Level:
    """Where the units of one depth stand, in counts."""

    number: int
    units: int = 0
    tasks: int = 0
    completed_tasks: int = 0
    statuses: dict[str, int] = field(default_factory=lambda: dict.fromkeys(STATUSES, 0))  # how many units have each

    def include(self, other: "Level") -> None:
        """Add the counts of another one."""
        self.units += other.units
        self.tasks += other.tasks
        self.completed_tasks += other.completed_tasks
        for status, count in other.statuses.items():
            self.statuses[status] += count

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
        self.gone: float | None = None  # when its source disconnected, in seconds since the epoch
        self.started: float | None = None  # when it began; None if that was not seen
        self.ended: float | None = None
        self.outcome = ""  # "completed" or "failed" once it has ended
        self.reason = ""  # why it failed
        self.failed_tasks = 0
        self.no_graph = ""  # what came instead of a graph that was too long to be sent
        self._begin([], {})

    def count(self, status: str) -> int:
        """How many units have a status."""
        return len(self.by_status[status]) + self._forgotten.statuses[status]

    @property
    def total(self) -> int:
        """How many units there are. Of those that no graph names, `units` has only so many that have ended.

        One that was forgotten and comes back counts twice.
        """
        return len(self.units) + self._forgotten.units

    def clock(self, now: float) -> float:
        """The time that its clocks show: they stop when the run ends, and while nothing sends it."""
        return next((moment for moment in (self.ended, self.gone) if moment is not None), now)

    def eta(self, now: float) -> float | None:
        """In how many seconds its units will be done, at the rate so far; None if that can't be known."""
        if self.started is None or self.outcome or self.gone is not None:
            return None
        left = self.count("pending") + self.count("ready") + self.count("in_progress")
        return max(0.0, now - self.started) * left / self._done if self._done else None

    def apply(self, event: Event) -> bool:
        """Take an event in. Returns whether it changed a unit's status, or the run."""
        self.events += 1
        kind = event.type
        if kind not in _RELEVANT:
            return False
        if kind not in RUN_EVENTS:
            return bool(event.unit) and self._apply_to_unit(event)
        if kind == "graph":
            if nodes := _nodes(event):
                self._begin(nodes, self.units)
            self.no_graph = reason(event.payload) if isinstance(event.payload, str) else ""
        elif kind == EventType.ORCH_STARTED:
            self._start(event)
        else:
            self.ended = _seconds(event.time)
            self.outcome = kind.removeprefix("orch.")
            self.reason = reason(event.error)
        return True

    def names_the_same_units(self, event: Event) -> bool:
        """Whether an event comes with a graph of the units that this run's graph has."""
        nodes = _nodes(event)
        return bool(nodes) and {node["id"] for node in self._nodes} == {node["id"] for node in nodes}

    def _start(self, event: Event) -> None:
        started = _seconds(event.time)
        is_repetition = self.started is None or self.started == started  # each connection begins with it
        if not is_repetition:
            self.failed_tasks = 0
        self.started, self.ended, self.outcome, self.reason = started, None, "", ""
        nodes = _nodes(event) or [node if is_repetition else _at_start(node) for node in self._nodes]
        self._begin(nodes, self.units if is_repetition else {})

    def _begin(self, nodes: list[NodePayload], before: dict[str, Unit]) -> None:
        """Start from the units of a graph; keep what else is known of those whose status is the same as before."""
        if not before:
            self._ended_unnamed: dict[str, None] = {}  # those that have ended and are in no graph, oldest first
            self._forgotten = Level(NO_LEVEL)  # those of them that are not in `units` any more
            self._forgotten_done = 0  # how many of those were `done`
        self._nodes = nodes
        self._state = RunState({"nodes": nodes})
        self.units: dict[str, Unit] = {}
        self.levels = {number: Level(number) for number in sorted({node["level"] for node in nodes})}
        # The units of each status, in the order in which they got it.
        self.by_status: dict[str, dict[str, Unit]] = {status: {} for status in STATUSES}
        self.tasks = self.completed_tasks = 0
        for node in nodes:
            unit = self._add(node)
            known = before.get(unit.name)
            if known is not None and known.status == unit.status:
                unit.follow(known)
        # The graph does not name the others, and the events that told of them do not come twice.
        for known in before.values():
            if known.level.number == NO_LEVEL and known.name not in self.units:
                self._add_unnamed(known.name, known.status, known.tasks, known.completed_tasks).follow(known)
        if self._forgotten.units:
            self._unnamed_level().include(self._forgotten)
            self.tasks += self._forgotten.tasks
            self.completed_tasks += self._forgotten.completed_tasks
        ended = [self.units.get(name) for name in self._ended_unnamed]
        self._ended_unnamed = dict.fromkeys(unit.name for unit in ended if unit and unit.level.number == NO_LEVEL)
        # The start of a run that is resumed has units that were done before; nobody has seen when.
        self._done = sum(unit.done for unit in self.units.values()) + self._forgotten_done

    def _add(self, node: NodePayload) -> Unit:
        level = self.levels[node["level"]]
        level.units += 1
        unit = self.units[node["id"]] = Unit(node["id"], level, self)
        self._sync(unit)
        return unit

    def _apply_to_unit(self, event: Event) -> bool:
        unit = self.units.get(event.unit)
        if unit is None:
            unit = self._add_unnamed(event.unit)
        kind, before, done = event.type, unit.status, unit.done
        if event.error:
            unit.fail(event.error)
        worker = event.payload.get("worker") if isinstance(event.payload, dict) else None
        if isinstance(worker, str | int):
            unit.worker = _first_line(str(worker))
        if kind == EventType.TASK_FAILED:
            self.failed_tasks += 1
            return False
        self._state.apply({"type": kind, "unit": event.unit, "task": event.task, "payload": event.payload})
        self._sync(unit)
        if kind == EventType.UNIT_STARTED:
            started = _seconds(event.time)
            if unit.started != started:  # else a connection tells it again, but not why a task has failed since
                unit.reason = unit.error = ""
            unit.started, unit.ended = started, None
        elif kind == EventType.UNIT_QUEUED:
            if unit.started is None or unit.started < (_seconds(event.time) or 0):  # else a connection tells it again
                unit.started = unit.ended = None
        elif unit.status != before or (unit.ended is None and kind in STATUS_AFTER):
            unit.ended = _seconds(event.time)
        self._done += unit.done - done
        if kind in STATUS_AFTER and unit.level.number == NO_LEVEL:
            self._note_end(unit)
        return unit.status != before

    def _note_end(self, unit: Unit) -> None:
        """Note whether a unit that no graph names has ended. Forget the oldest one if there are too many."""
        self._ended_unnamed.pop(unit.name, None)
        if unit.status in ("complete", "failed"):
            self._ended_unnamed[unit.name] = None
        if len(self._ended_unnamed) > MAX_ENDED_UNITS:
            oldest = self.units.pop(next(iter(self._ended_unnamed)))
            del self._ended_unnamed[oldest.name], self.by_status[oldest.status][oldest.name]
            self._state.forget(oldest.name)
            self._forgotten.include(Level(NO_LEVEL, 1, oldest.tasks, oldest.completed_tasks, {oldest.status: 1}))
            self._forgotten_done += oldest.done

    def _add_unnamed(self, name: str, status: str = "pending", tasks: int = 0, completed_tasks: int = 0) -> Unit:
        self._unnamed_level()
        node: NodePayload = {"id": name, "level": NO_LEVEL, "status": status}
        node |= {"tasks": tasks, "completed_tasks": completed_tasks}
        self._state.add(node)
        return self._add(node)

    def _unnamed_level(self) -> Level:
        if NO_LEVEL not in self.levels:
            self.levels = {NO_LEVEL: Level(NO_LEVEL), **self.levels}
        return self.levels[NO_LEVEL]

    def _sync(self, unit: Unit) -> None:
        """Bring the unit, and the counts that it is part of, up to date."""
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
        lasting: Whether a source has the same title whenever it connects, so only a source with the same title
            continues a run.
    """

    def __init__(self, lasting: bool = False) -> None:
        self.lasting = lasting
        self.runs: list[Run] = []  # in the order in which they became known
        self.recent: deque[RecentEvent] = deque(maxlen=MAX_RECENT_EVENTS)
        self.events = 0
        self.sources: dict[Hashable, str] = {}  # those that are connected, and their titles
        self.gone: float | None = None  # when the last source disconnected, in seconds since the epoch
        self.outcomes: set[str] = set()  # of the runs that are not kept any more
        self._of: dict[Hashable, Run] = {}

    def source_connected(self, source: Hashable, title: str) -> None:
        """A source is connected. It has no run before its first event."""
        self.sources[source] = title

    def source_disconnected(self, source: Hashable, now: float) -> None:
        """A source has disconnected; `now` is in seconds since the epoch."""
        self.sources.pop(source, None)
        if not self.sources:
            self.gone = now
        run = self._of.pop(source, None)
        if run is not None:
            run.gone = now
            self._evict_disconnected()

    def feed(self, source: Hashable, event: Event) -> tuple[Run, bool]:
        """Take an event in. Returns the run, and whether the event changed a unit's status, or the run itself."""
        run = self._of.get(source)
        if run is None:
            run = self._of[source] = self._run_for(source, event)
        self.events += 1
        payload, error = event.payload, event.error
        message = _first_line(payload["message"]) if type(payload) is dict and "message" in payload else ""
        why = error and reason(error)
        self.recent.append(RecentEvent(run, event.time, event.type, event.unit, event.task, message, why))
        return run, run.apply(event)

    def _run_for(self, source: Hashable, event: Event) -> Run:
        title = self.sources.setdefault(source, str(source))
        for run in reversed(self.runs):
            if run.gone is None:
                continue
            if run.title == title or (not self.lasting and run.names_the_same_units(event)):
                run.title, run.gone = title, None
                return run
        self.runs.append(Run(title))
        return self.runs[-1]

    def _evict_disconnected(self) -> None:
        gone = sorted((run for run in self.runs if run.gone is not None), key=lambda run: run.gone or 0)
        for run in gone[:-MAX_DISCONNECTED_RUNS]:
            self.runs.remove(run)
            self.outcomes |= {run.outcome} - {""}


def reason(error: str) -> str:
    """Returns the line that says why something failed: of a traceback the exception, else the first line."""
    text = error.strip()
    if "Traceback (most recent call last)" in text:
        _, last_frame, rest = text.rpartition('  File "')
        lines = _GROUP_MARGIN.sub("", (last_frame + rest)[: 16 * ERROR_LENGTH]).splitlines()
        said = [line for line in lines if line.strip() and not line.startswith(" ")] or lines
        text = said[0] if last_frame else said[-1]
    return _first_line(text)


def _first_line(text: object) -> str:
    return text[: 4 * REASON_LENGTH].strip().partition("\n")[0][:REASON_LENGTH] if isinstance(text, str) else ""


def _nodes(event: Event) -> list[NodePayload]:
    """The units of the graph that an event brings; none if it brings no graph."""
    payload = {"graph": event.payload} if event.type == "graph" else event.payload
    graph = graph_in(payload) if event.type in ("graph", EventType.ORCH_STARTED) else None
    nodes: dict[str, NodePayload] = {}
    for node in graph["nodes"] if graph is not None else ():
        nodes[node["id"]] = {**node, "level": count_in(node, "level", 0)}
    return list(nodes.values())


def _at_start(node: NodePayload) -> NodePayload:
    """The unit before a run that brings no graph of its own."""
    return {**node, "status": "pending", "completed_tasks": 0}


def _seconds(time: datetime | None) -> float | None:
    return None if time is None else time.timestamp()
