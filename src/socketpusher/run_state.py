"""The state of the run: a reducer of events to unit states, and the fewest lines that reproduce it. Pure.

The writer sends these lines to every consumer that connects or has missed something; displays draw the unit states.
Events come in order. A range of events may be repeated, if it is repeated up to its end.
"""

import re
from collections.abc import Container, Hashable, Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import orjson

from .events import EventType
from .graph import GraphPayload, NodePayload, count_in
from .wire import DecodeError, parse, retained

STATUSES = ("pending", "ready", "in_progress", "complete", "failed", "blocked")

STATUS_AFTER: Mapping[str, str] = {
    str(kind): status
    for kind, status in (
        (EventType.UNIT_QUEUED, "ready"),
        (EventType.UNIT_STARTED, "in_progress"),
        (EventType.UNIT_COMPLETED, "complete"),
        (EventType.UNIT_MERGED, "complete"),
        (EventType.UNIT_SKIPPED, "complete"),
        (EventType.UNIT_FAILED, "failed"),
        (EventType.UNIT_BLOCKED, "blocked"),
    )
}
"""The status of a unit after an event."""

# Plain strings, because enum members compare slowly, and most of the writer's time for an event is spent here.
_UNIT_STARTED, _UNIT_PROGRESS = str(EventType.UNIT_STARTED), str(EventType.UNIT_PROGRESS)
_TASK_STARTED, _TASK_COMPLETED = str(EventType.TASK_STARTED), str(EventType.TASK_COMPLETED)
_ORCH_STARTED = str(EventType.ORCH_STARTED)
_WORK = frozenset((_UNIT_PROGRESS, _TASK_STARTED, _TASK_COMPLETED))  # reset by unit.started
_RUN_EVENTS = frozenset(map(str, (EventType.ORCH_STARTED, EventType.ORCH_COMPLETED, EventType.ORCH_FAILED)))

RELEVANT = frozenset((*STATUS_AFTER, *_WORK, *_RUN_EVENTS))
"""The types of events that change the state of the run."""

_PREFIXES = tuple(b'{"type":"%b"' % kind.encode() for kind in RELEVANT)

LONG_LINE_BYTES = 64 << 10
"""The longest line that a digest keeps whole, in bytes. In a longer one the error and the payload are cut."""

FULL_BYTES, SHORT_LINE_BYTES = 16 << 20, 1024
"""Once a digest has more bytes than the first, it shortens every line longer than the second. Otherwise 1,000 units
that fail with 60 kB each would take 60 MB of the writer, the journal and each connection."""

MAX_ENDED_UNITS = 10_000
"""How many ended units that are in no graph are remembered before the oldest is forgotten. Some programs give each call
a name of its own, and never start a run."""

MAX_BEGUN_UNITS = 100_000
"""The same for units that have not ended."""

MAX_UNNUMBERED_TASKS = 1000
"""How many tasks without a number are remembered for a unit."""

_ERROR_LENGTH, _SHORT_ERROR_LENGTH = 8000, 200  # characters
_KEPT_PAYLOAD_KEYS = ("total_tasks", "completed_tasks", "done", "total", "worker")


class UnitState(NamedTuple):
    """The state of a unit."""

    status: str
    tasks: int
    completed_tasks: int


class RunState:
    """The states of the units of a graph.

    Args:
        graph: The payload of a `graph` event, with the statuses and tasks at the start of the run.
    """

    def __init__(self, graph: GraphPayload) -> None:
        self._graph = graph
        self._nodes: dict[str, Any] = {node["id"]: _normal(node) for node in graph["nodes"]}

    def apply(self, event: Mapping[str, Any]) -> None:
        """Apply an event of a unit.

        Args:
            event: The JSON object of the event, a `WireEvent`. A malformed event or an unknown unit is ignored.
        """
        kind, unit = event.get("type"), event.get("unit")
        if not isinstance(kind, str) or not isinstance(unit, str) or (node := self._nodes.get(unit)) is None:
            return
        given = event.get("payload")
        payload = given if isinstance(given, dict) else {}
        if (status := STATUS_AFTER.get(kind)) is not None:
            node["status"] = status
            if kind == _UNIT_STARTED:
                _set(node, "tasks", count_in(payload, "total_tasks", node.get("tasks", 0)))
                _set(node, "completed_tasks", count_in(payload, "completed_tasks", 0))
        elif kind == _TASK_COMPLETED:
            # The tasks of a unit are counted from 1 and run in that order: the highest number is the count.
            completed = node.get("completed_tasks", 0)
            _set(node, "completed_tasks", max(completed, count_in(event, "task", completed + 1)))
        elif kind == _UNIT_PROGRESS:
            _set(node, "tasks", count_in(payload, "total", node.get("tasks", 0)))
            _set(node, "completed_tasks", count_in(payload, "done", node.get("completed_tasks", 0)))

    def add(self, node: NodePayload) -> None:
        """Add a unit that is not in the graph."""
        self._nodes[node["id"]] = _normal(node)

    def forget(self, unit: str) -> None:
        """Remove a unit that was added."""
        del self._nodes[unit]

    def unit_state(self, unit: str) -> UnitState:
        """The state of a unit.

        Raises:
            KeyError: There is no such unit.
        """
        node = self._nodes[unit]
        return UnitState(node.get("status", "pending"), node.get("tasks", 0), node.get("completed_tasks", 0))

    def payload(self) -> GraphPayload:
        """The payload of a `graph` event with the current state of every unit; it is not a copy."""
        return {**self._graph, "nodes": list(self._nodes.values())}


def _set(node: dict[str, Any], key: str, count: int) -> None:
    """Set a count. A 0 is not added to a node without that count, so that a reduced graph stays small."""
    if count or key in node:
        node[key] = count


def _normal(node: NodePayload) -> dict[str, Any]:
    normal: dict[str, Any] = {**node}
    if "status" in node and node["status"] not in STATUSES:
        normal["status"] = "pending"
    for key in ("tasks", "completed_tasks"):
        if key in node:
            normal[key] = count_in(node, key, 0)
    return normal


_HEAD = re.compile(
    rb'\{"type":"(%b)"(?:,"time":"[^"]*")?(?:,"unit":"([^"\\]*(?:\\.[^"\\]*)*)")?(?:,"task":(-?\d+))?'
    rb'(,"(?:pr|payload|error|id|retained)"|\})?'  # without it the line is another program's, in its own form
    % b"|".join(re.escape(kind).encode() for kind in sorted(RELEVANT, reverse=True))
)
_BODY_MATTERS = _RUN_EVENTS | {_UNIT_STARTED, _UNIT_PROGRESS, str(EventType.UNIT_FAILED)}
_HEAD_SUFFICES = {
    kind.encode(): kind not in _BODY_MATTERS for kind in RELEVANT
}  # the rest of such a line does not matter
_KINDS = {kind.encode(): kind for kind in RELEVANT}


def relevant_lines(data: bytes | bytearray) -> list[bytes]:
    """The lines, with their newlines, that change the state of the run and are not overwritten by a later line.

    A long line whose payload does not matter is cut to its head and its id.
    """
    return [_relevant_part(data, start, end) for start, end, _ in _find_relevant(data).values()]


def relevant_events(data: bytes | bytearray) -> Iterator[tuple[bytes, Mapping[str, Any]]]:
    """The same lines, each with the keys of its event that a `Digest` and a `RunState` use."""
    for key, (start, end, number) in _find_relevant(data).items():
        line = _relevant_part(data, start, end)
        if type(key) is tuple and (unit := key[1]) and b"\\" not in unit:  # three times as fast as parsing
            yield line, {"type": _KINDS[key[0]], "unit": unit.decode(), "task": number}
        else:
            yield line, event_on(line)


def _find_relevant(data: bytes | bytearray) -> dict[Hashable, tuple[int, int, int | None]]:
    """Start, end and task number of these lines. If the head of a line is enough, its key has the type and the unit.

    The writer looks at every line here, so only heads are read: a payload may be a megabyte, and most lines are
    overwritten by later ones.
    """
    found: dict[Hashable, tuple[int, int, int | None]] = {}
    epochs: dict[bytes, int] = {}  # by unit: how many tasks without a number; each counts on from the lines before it
    foreign = 0  # how many lines have their keys in another order than ours, or more space: these are parsed
    start, match, startswith = 0, _HEAD.match, data.startswith
    key: Hashable = None
    kind = between = b""  # of the last line with a numbered task: its start, and the part between time and number
    offset = highest = 0
    number: int | None = None
    while end := data.find(b"\n", start) + 1:
        at = start + offset
        if between and startswith(between, at) and startswith(kind, start):  # a flood of tasks: a third of the cost
            comma = data.find(b",", at + len(between), end)
            digits = data[at + len(between) : comma if comma >= 0 else end - 2]
            if digits.isdigit() and (later := int(digits)) >= highest:
                highest = later
                found[key] = start, end, later
                start = end
                continue
        if head := match(data, start):
            name, unit, task, rest = head.groups()
            key = (name, unit, foreign + epochs.get(unit, 0)) if epochs or foreign else (name, unit)
            between, number = b"", None
            if not _HEAD_SUFFICES[name]:
                key = start
            elif unit is None or rest is None:
                foreign += 1
                key = start
            elif task is not None:
                number = highest = int(task)
                if (earlier := found.get(key)) and (earlier[2] or 0) > highest:  # the higher number is the count
                    key = start
                else:
                    # From the comma before "unit" on: with a time of another length it is the part of another name.
                    kind, offset = bytes(data[start : head.end(1) + 1]), head.start(2) - len(b',"unit":"') - start
                    between = bytes(data[start + offset : head.start(3)])
            elif name.startswith(b"task."):
                epochs[unit] = epochs.get(unit, 0) + 1
                key = start
            found.pop(key, None)  # so that it moves to the end of the dict
            found[key] = start, end, number
        elif not startswith(b'{"type":"', start) and str(event_on(bytes(data[start:end])).get("type")) in RELEVANT:
            foreign += 1
            between = b""
            found[start] = start, end, None
        start = end
    return found


def _relevant_part(data: bytes | bytearray, start: int, end: int) -> bytes:
    line = bytes(data[start:end]) if end - start <= LONG_LINE_BYTES else b""
    if line or (head := _HEAD.match(data, start)) is None or not _HEAD_SUFFICES[head[1]] or not head[4]:
        return line or bytes(data[start:end])
    id = data.rfind(b',"id":"', end - 100, end)  # the last key of an event that has one
    tail = data[id : end - 2] if id >= 0 and data.count(b'"', id, end) == 4 and data.endswith(b'"}\n', id, end) else b""
    return bytes(data[start : head.start(4)]) + bytes(tail) + b"}\n"


def is_relevant(line: bytes) -> bool:
    """Whether the event on a line changes the state of the run."""
    return line.startswith(_PREFIXES)


def event_on(line: bytes) -> dict[str, Any]:
    """The JSON object on a line; empty if the line is not a JSON object, which is delivered as it is."""
    try:
        return parse(bytes(line))  # orjson refuses subclasses of bytes, which the outbox has
    except DecodeError:
        return {}


class Digest:
    """The fewest lines that reproduce the state of the run: the last line of each type for each unit, in order.

    `orch.started` removes all lines before it, except those whose graph and parallelism are still to be filled into a
    run. `unit.started` removes the tasks of its unit, and `unit.started` and `unit.progress` what they have counts in
    place of. Each task without a number counts.

    Args:
        lines: The lines to begin with.
        retain: Whether the lines will be repeated. Then they get the key `retained`, and long lines are shortened.
        graph_units: The units that are in a graph, if known. Other units that have ended may be forgotten.
    """

    def __init__(
        self, lines: Iterable[bytes] = (), retain: bool = True, graph_units: Container[str] | None = None
    ) -> None:
        self._retain = retain
        self._graph_units = graph_units
        # By key, the last line whose payload has `graph` or `parallelism`, for a run without them. Lines that will be
        # repeated are filled in already.
        self._defaults: dict[str, bytes] = {}
        self._clear()
        for line in lines:
            self.add(line, event_on(line))

    def _clear(self) -> None:
        self._lines: dict[Hashable, bytes] = {}
        self._size = 0  # of the lines, in bytes
        self._work: dict[str, list[Hashable]] = {}  # the keys of a unit's tasks
        self._progress: dict[str, set[tuple[str, str, bool, bool]]] = {}  # the keys of a unit's progress
        self._completed: dict[str, int] = {}  # the highest number of a unit's complete tasks
        self._counted: set[str] = set()  # units that have a task without a number
        # The units that are in no graph, oldest first:
        self._begun: dict[str, None] = {}
        self._ended: dict[str, None] = {}

    def add(self, line: bytes, event: Mapping[str, Any]) -> None:
        """Add a line.

        Args:
            line: The line, with its newline.
            event: The keys that matter of the JSON object on it. A malformed or irrelevant event is ignored.
        """
        kind, unit = event.get("type"), event.get("unit")
        if type(kind) is not str or kind not in RELEVANT:
            return
        key: Hashable = (kind, unit)
        if kind in _RUN_EVENTS:
            key = kind
            if kind == _ORCH_STARTED:
                self._clear()
                if not self._retain:
                    self._note_defaults(line, event.get("payload"))
        elif type(unit) is not str or not unit:
            return
        elif kind == _UNIT_PROGRESS:
            key = self._key_of_progress(unit, event.get("payload"))
        elif kind in _WORK:
            key = self._key_of_task(kind, unit, event.get("task"))
            if key is None:
                return
        elif kind == _UNIT_STARTED:
            key = self._key_of_start(unit, event.get("payload"))
        if self._graph_units is not None and kind not in _RUN_EVENTS and unit not in self._graph_units:
            self._note_unit(unit, STATUS_AFTER.get(kind))
        if self._retain:
            may_shorten = len(line) > SHORT_LINE_BYTES and kind != _ORCH_STARTED
            line = retained(self._shortened(line) if may_shorten else line)
        self._remove(key)  # so that it moves to the end of the dict
        self._lines[key] = line
        self._size += len(line)

    def _note_unit(self, unit: Any, status: str | None) -> None:
        """Note a unit that is in no graph, and its new status, if any. Forget the oldest if there are too many."""
        if status is None and unit in self._ended:
            return
        units, limit = self._begun, MAX_BEGUN_UNITS
        self._ended.pop(unit, None)
        if status in ("complete", "failed"):
            self._begun.pop(unit, None)
            units, limit = self._ended, MAX_ENDED_UNITS
        units[unit] = None
        if len(units) > limit:
            oldest = next(iter(units))
            del units[oldest]
            self._key_of_start(oldest, {"total_tasks": 0})  # this removes its tasks and starts
            for kind in STATUS_AFTER:
                self._remove((kind, oldest))

    def _note_defaults(self, line: bytes, payload: object) -> None:
        given = payload if isinstance(payload, dict) else {}
        for key in ("graph", "parallelism"):
            if key in given and (key != "graph" or given[key] is not None):
                self._defaults.pop(key, None)
                self._defaults[key] = line

    def _remove(self, key: Hashable) -> None:
        if (line := self._lines.pop(key, None)) is not None:
            self._size -= len(line)

    def _shortened(self, line: bytes) -> bytes:
        """The line; if it is too long, only what matters of it."""
        full = self._size > FULL_BYTES
        if len(line) <= (SHORT_LINE_BYTES if full else LONG_LINE_BYTES):
            return line
        return min(line, _short(event_on(line), _SHORT_ERROR_LENGTH if full else _ERROR_LENGTH), key=len)

    def _key_of_progress(self, unit: str, payload: object) -> Hashable:
        """The key of a `unit.progress`. It replaces those that have no count which it has not."""
        given = payload if isinstance(payload, dict) else {}
        total, done = (count_in(given, key, -1) >= 0 for key in ("total", "done"))
        if done:
            self._completed.pop(unit, None)
        self._remove_progress(unit, total, done)
        key = _UNIT_PROGRESS, unit, total, done
        self._progress.setdefault(unit, set()).add(key)
        return key

    def _remove_progress(self, unit: str, total: bool, done: bool) -> None:
        keys = self._progress.pop(unit, set())
        for key in keys:
            if key[2] <= total and key[3] <= done:
                self._remove(key)
            else:
                self._progress.setdefault(unit, set()).add(key)

    def _key_of_task(self, kind: str, unit: str, task: object) -> Hashable:
        """The key of the line that this one replaces; None if this one adds nothing to it."""
        key: Hashable = (kind, unit)
        if type(task) is not int or unit in self._counted:
            self._counted.add(unit)
            key = kind, unit, object()
            keys = self._work.setdefault(unit, [])
            if len(keys) >= MAX_UNNUMBERED_TASKS:
                self._remove(keys.pop(0))
        elif kind == _TASK_COMPLETED:
            if task < self._completed.get(unit, 0):
                return None
            self._completed[unit] = task
        if key not in self._lines:
            self._work.setdefault(unit, []).append(key)
        return key

    def _key_of_start(self, unit: str, payload: object) -> Hashable:
        """The key of a `unit.started`. One that has no count of tasks does not replace one that has."""
        kind = _UNIT_STARTED
        self._completed.pop(unit, None)
        self._remove((kind, unit, "bare"))
        given = payload if isinstance(payload, dict) else {"total_tasks": ""}
        counts = [given.get(key) for key in ("total_tasks", "completed_tasks")]
        if not all(count is None or type(count) is int for count in counts):
            return kind, unit, "bare"
        self._counted.discard(unit)
        for old in self._work.pop(unit, ()):
            self._remove(old)
        self._remove_progress(unit, counts[0] is not None, True)
        if counts[0] is None:
            return kind, unit, "without total"
        self._remove((kind, unit, "without total"))
        return kind, unit

    def lines(self) -> list[bytes]:
        """The lines, with their newlines."""
        last = self._lines.get(_ORCH_STARTED)
        return [*dict.fromkeys(line for line in self._defaults.values() if line != last), *self._lines.values()]


def _short(event: Mapping[str, Any], error_length: int) -> bytes:
    payload, error = event.get("payload"), event.get("error")
    short = dict(event)
    if payload is not None:
        given = payload if isinstance(payload, dict) else {}
        short["payload"] = {key: given[key] for key in _KEPT_PAYLOAD_KEYS if isinstance(given.get(key), str | int)}
    if isinstance(error, str):
        half = error_length // 2  # the end, too: the last line of a traceback says what happened
        short["error"] = error if len(error) <= error_length else f"{error[:half]} [cut] {error[-half:]}"
    return orjson.dumps(short, option=orjson.OPT_APPEND_NEWLINE)
