"""From the events of a recording to slices on tracks: what ran when, where, and how it ended.

Recordings begin in the middle of a run, repeat the past, and have lines that are late. So events are first collected,
each once, and put in order by their times at the end.
"""

import re
from bisect import bisect_right
from collections import Counter, defaultdict
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from graphlib import CycleError, TopologicalSorter
from heapq import heappop, heappush
from itertools import chain
from operator import attrgetter, itemgetter
from typing import Any, NamedTuple

from ..events import Event, EventType
from ..graph import graph_in, with_edges_reversed
from ..wire import as_sent, event_of, is_retained, parse

TOLERANCE = 1_000_000
"""Clocks of workers may differ from the host's by this many microseconds."""

LATE = 100_000
"""The host may learn this many microseconds late that a worker has ended something, when it has begun the next."""

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)
_ID = re.compile(r"(.+)-[1-9][0-9]*", re.DOTALL)
_STARTS = (EventType.UNIT_STARTED, EventType.TASK_STARTED)
_OUTCOMES: dict[str, str] = {
    EventType.UNIT_COMPLETED: "completed",
    EventType.UNIT_MERGED: "completed",
    EventType.UNIT_SKIPPED: "skipped",
    EventType.UNIT_FAILED: "failed",
    EventType.UNIT_BLOCKED: "blocked",
    EventType.TASK_COMPLETED: "completed",
    EventType.TASK_FAILED: "failed",
}
_Key = tuple[str, int | None, bool]  # unit, task, whether it is a task
_RUN_OUTCOMES: dict[str, str] = {EventType.ORCH_COMPLETED: "completed", EventType.ORCH_FAILED: "failed"}


@dataclass(slots=True, eq=False)
class Slice:
    """One attempt at a unit or a task. Times are in microseconds since 1970."""

    name: str  # what to show
    unit: str
    task: int | None
    is_task: bool
    start: int
    end: int
    attempt: int  # from 1
    outcome: str = "unfinished"
    error: str = ""
    worker: str = ""
    waited: int | None = None  # how long the unit was queued, in microseconds
    payload: dict[str, Any] = field(default_factory=dict)
    critical: bool = False  # whether it is on the critical path
    track: "Track | None" = None
    children: list["Slice"] = field(default_factory=list)  # its tasks; they do not overlap

    @property
    def duration(self) -> int:
        """How long it took, in microseconds."""
        return self.end - self.start

    def cut(self, end: int) -> None:
        """Let it end at a time, unless it ended before."""
        for part in (self, *self.children):
            part.end = max(part.start, min(part.end, end))

    def take(self, event: Event) -> None:
        """Take over what an event of this attempt says."""
        self.error = event.error or self.error
        if isinstance(event.payload, dict):
            self.payload |= event.payload
            worker = event.payload.get("worker")
            self.worker = str(worker) if isinstance(worker, str | int) else self.worker


@dataclass(slots=True, eq=False)
class Track:
    """What runs on a worker, or on a lane for units whose worker is unknown."""

    name: str = ""
    number: int = 0  # in the run
    slices: list[Slice] = field(default_factory=list)  # in their order; they do not overlap


class Instant(NamedTuple):
    """An event that does not start or end a slice, or ends it in failure."""

    time: int  # in microseconds since 1970
    event: Event
    slice: Slice | None  # that it belongs to


class Run:
    """One run. It collects events; `layout` turns them into slices, tracks and instants.

    Args:
        source: The host or the session, or "" if it is unknown.
    """

    def __init__(self, source: str) -> None:
        self.source = source
        self.started: int | None = None  # what `orch.started` says
        self.outcome = "unfinished"
        self.error = ""
        self.payload: dict[str, Any] = {}  # of `orch.started`
        self.start = self.end = 0  # the times of the first and the last event
        self.units: dict[str, list[Slice]] = {}  # the attempts at each
        self.tracks: list[Track] = []
        self.instants: list[Instant] = []
        self.critical: list[Slice] = []  # the attempts on the critical path, in their order
        self.events: list[tuple[int, int, Event]] = []  # time, number in order of arrival, event
        self._tasks: list[Slice] = []
        self._dependencies: dict[str, dict[str, None]] = {}
        self._labels: dict[str, str] = {}

    @property
    def title(self) -> str:
        """What to call it: when it began, and where."""
        return f"run {_EPOCH + self.start * _MICROSECOND:%Y-%m-%d %H:%M:%S} UTC {self.source}".rstrip()

    def add_graph(self, payload: object, reverse: bool = False) -> None:
        """Add units and dependencies of the payload of a `graph` event, or with `reverse` of an `orch.started`."""
        if (graph := graph_in({"graph": payload})) is None:
            return
        for node in graph["nodes"]:
            self._labels[node["id"]] = str(node.get("label") or node["id"])
            self._dependencies.setdefault(node["id"], {}).update(dict.fromkeys(node.get("depends_on", [])))
        for edge in (with_edges_reversed(graph) if reverse else graph).get("edges", []):
            self._dependencies.setdefault(edge["to"], {})[edge["from"]] = None

    def layout(self) -> None:
        """Make slices of the events, put them on tracks and find the critical path."""
        self.events.sort(key=itemgetter(0))
        self.start, self.end = self.events[0][0], self.events[-1][0]
        attempts: Counter[_Key] = Counter()
        open_slices: dict[_Key, Slice] = {}
        queued: dict[str, int] = {}
        begun: list[tuple[_Key, int, Slice]] = []  # with the numbers of their starts
        early: dict[_Key, tuple[int, Instant]] = {}  # ends without a start before them, with their numbers
        for time, number, event in self.events:
            kind = event.type
            key = (event.unit, event.task, kind.startswith("task."))
            if kind == EventType.ORCH_STARTED:
                self.payload = event.payload if isinstance(event.payload, dict) else {}
            elif kind == EventType.UNIT_QUEUED:
                queued[event.unit] = time
            elif kind in _STARTS and event.unit:
                if (before := open_slices.pop(key, None)) is not None:
                    before.end = time
                attempts[key] += 1
                slice = open_slices[key] = self._add_slice(key, time, attempts[key])
                slice.take(event)
                begun.append((key, number, slice))
                if not slice.is_task and event.unit in queued:
                    slice.waited = time - queued.pop(event.unit)
            elif kind in _OUTCOMES and key in open_slices:
                self._end(open_slices.pop(key), time, event)
            else:
                at = open_slices.get((event.unit, None, False))
                self.instants.append(Instant(time, event, at))
                if kind in _OUTCOMES:
                    early[key] = number, self.instants[-1]
        for slice in open_slices.values():
            slice.end = self.end
        self._end_early(begun, early)
        self.events.clear()
        self._place()
        self._find_critical_path()

    def _add_slice(self, key: _Key, time: int, attempt: int) -> Slice:
        unit, task, is_task = key
        name = self._labels.get(unit, unit)
        if is_task:
            name += f" task {task}" if task is not None else " task"
        slice = Slice(name + f" (try {attempt})" * (attempt > 1), unit, task, is_task, time, time, attempt)
        (self._tasks if is_task else self.units.setdefault(unit, [])).append(slice)
        return slice

    def _end(self, slice: Slice, time: int, event: Event) -> None:
        slice.end = time
        slice.outcome = _OUTCOMES[event.type]
        slice.take(event)
        if slice.outcome == "failed":
            self.instants.append(Instant(time, event, slice))

    def _end_early(self, begun: list[tuple[_Key, int, Slice]], early: dict[_Key, tuple[int, Instant]]) -> None:
        """End what nothing else has ended at its start, if its end came after that but with an earlier time.

        The clock was set back, or that of the start is ahead.
        """
        used: set[int] = set()
        for key, number, slice in reversed(begun):
            end_number, instant = early.get(key, (0, None))
            if slice.outcome == "unfinished" and instant and number < end_number and instant.time < slice.start:
                del early[key]
                used.add(id(instant))
                self._end(slice, slice.start, instant.event)
        self.instants = [instant for instant in self.instants if id(instant) not in used]

    def _place(self) -> None:
        """Put each task into its unit if it can be nested there. Others have tracks of their own, behind the units'."""
        units: defaultdict[str, list[Slice]] = defaultdict(list)
        tasks: defaultdict[str, list[Slice]] = defaultdict(list)
        for unit in chain.from_iterable(self.units.values()):
            units[unit.worker].append(unit)
        for task in self._tasks:
            attempts = self.units.get(task.unit, [])
            place = bisect_right(attempts, task.start, key=attrgetter("start"))
            near = attempts[max(0, place - 1) : place + 1]  # the one that began before it, and the one after
            if not any(_nest(task, unit) for unit in near):
                tasks[task.worker or (near[0].worker if near else "")].append(task)
        for worker in sorted(units.keys() | tasks.keys(), key=_natural):
            # Tasks may overlap, so the start of one says nothing about the end of another, or of their unit.
            tracks = _tracks(units[worker], LATE if worker else 0) + _tracks(tasks[worker], 0)
            for number, track in enumerate(tracks, 1):
                track.name = f"lane {number}" if not worker else worker if number == 1 else f"{worker} ({number})"
            self.tracks += tracks
        for number, track in enumerate(self.tracks):
            track.number = number

    def _find_critical_path(self) -> None:
        ran = {unit: sum(slice.duration for slice in slices) for unit, slices in self.units.items()}
        for unit in _longest_chain(self._dependencies, ran):
            self.critical += self.units.get(unit, [])
        for slice in self.critical:
            slice.critical = True


def _nest(task: Slice, unit: Slice) -> bool:
    """Put the task into this attempt at its unit, unless it ran elsewhere, longer, or beside another task."""
    start, end = max(task.start, unit.start), min(task.end, unit.end)
    if start > end or start - task.start >= TOLERANCE:
        return False
    if task.outcome == "unfinished":  # it ended with the unit at the latest
        task.end = end
    beside = unit.children and start < unit.children[-1].end
    if beside or task.worker not in ("", unit.worker) or task.end - end >= TOLERANCE:
        return False
    task.start, task.end = start, end
    unit.children.append(task)
    return True


def _tracks(slices: list[Slice], late: int) -> list[Track]:
    """As few tracks as the slices need that they do not overlap; an end that is late by up to `late` is cut."""
    tracks: list[Track] = []
    free: list[int] = []
    busy: list[tuple[int, int]] = []  # until when, and which
    for slice in sorted(slices, key=attrgetter("start", "end")):
        while busy and busy[0][0] <= slice.start:
            heappush(free, heappop(busy)[1])
        place = heappop(free) if free else len(tracks)
        if place == len(tracks):
            tracks.append(Track())
        if tracks[place].slices:
            tracks[place].slices[-1].cut(slice.start)
        heappush(busy, (slice.end - min(late, slice.duration // 2), place))
        tracks[place].slices.append(slice)
        for part in (slice, *slice.children):
            part.track = tracks[place]
    return tracks


def _natural(name: str) -> list[Any]:
    """A key that sorts "gw10" after "gw9", and lanes last."""
    return [not name, *((len(part), part) if part.isdecimal() else (0, part) for part in re.split(r"(\d+)", name))]


def _longest_chain(dependencies: Mapping[str, Collection[str]], ran: Mapping[str, int]) -> list[str]:
    """The units that depend on each other and took longest together; nothing if no dependency is known."""
    total: dict[str, int] = {}
    before: dict[str, str | None] = {}
    if not any(dependencies.values()):
        return []
    try:
        for unit in TopologicalSorter(dependencies).static_order():
            before[unit] = last = max(dependencies.get(unit, ()), key=total.__getitem__, default=None)
            total[unit] = ran.get(unit, 0) + (total[last] if last is not None else 0)
    except CycleError:
        return []
    at = max(total, key=total.__getitem__, default=None)
    chain: list[str] = []
    while at is not None:
        chain.append(at)
        at = before[at]
    return chain[::-1]


class Timeline:
    """Collects events, each once, and tells apart which runs they belong to: by host, session and `orch.started`."""

    def __init__(self) -> None:
        self._runs: list[Run] = []
        self._current: dict[str, Run] = {}  # of each source
        self._started: dict[tuple[str, int], Run] = {}  # of each source, by their starts
        self._graphs: dict[str, Any] = {}  # of each host, the last `graph`: it comes before the events of its run
        self._seen: set[int] = set()  # hashes, for ids take five times as much memory
        self._number = 0

    def feed(self, line: bytes, host: str = "") -> None:
        """Take an event in.

        Args:
            line: Its line.
            host: Where it comes from, if that is known.

        Raises:
            DecodeError: It is not an event.
        """
        fields = parse(line)
        event = event_of(fields)
        assert event.time is not None  # event_of insists on it
        if event.type == "graph":
            self._graphs[host] = event.payload
            return
        id = fields.get("id")
        match = _ID.fullmatch(id) if isinstance(id, str) else None
        source = host or (f"session {match[1]}" if match else "")
        time = (event.time - _EPOCH) // _MICROSECOND
        run = self._run_of(source, time if event.type == EventType.ORCH_STARTED else None)
        if host in self._graphs:
            run.add_graph(self._graphs.pop(host))
        # Without an id, a repetition that shows the state of the run may be shortened; another one is the same line.
        told = hash((source, id if match else (event.type, event.unit, str(event.task), time)))
        exact = told if match else hash((source, as_sent(bytes(line).rstrip(b"\n") + b"\n")))
        if (told if is_retained(fields) else exact) in self._seen:
            return
        self._seen.update((told, exact))
        if event.type == EventType.ORCH_STARTED and isinstance(event.payload, dict):
            run.add_graph(event.payload.pop("graph", None), reverse=True)
        elif event.type in _RUN_OUTCOMES:
            run.outcome, run.error = _RUN_OUTCOMES[event.type], event.error
        self._number += 1
        run.events.append((time, self._number, event))

    def _run_of(self, source: str, started: int | None) -> Run:
        """The run of an event, which is an `orch.started` if a time is given; the same time again is the same run."""
        run = self._current.get(source)
        if started is not None and (run is None or run.started is not None or run.outcome != "unfinished"):
            run = self._started.get((source, started))
        if run is None:
            run = Run(source)
            self._runs.append(run)
        if started is not None:
            run.started = started
            self._started[source, started] = run
        self._current[source] = run
        return run

    def runs(self) -> list[Run]:
        """The runs, laid out, in the order of their starts. To be called once, at the end."""
        runs = [run for run in self._runs if run.events]
        for run in runs:
            run.layout()
        return sorted(runs, key=attrgetter("start"))
