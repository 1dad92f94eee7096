"""Where the run stands: a reducer of events to the states of units, and what it takes to tell it. Pure.

The writer tells it to every consumer that comes or has missed something; displays draw it. Events come in their order;
some may come twice, as a run of events that is repeated up to its end.
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
"""What a unit is after an event."""

# Plain strings, for this is where the writer spends most on an event, and members of an enumeration compare slowly.
_UNIT_STARTED, _UNIT_PROGRESS = str(EventType.UNIT_STARTED), str(EventType.UNIT_PROGRESS)
_TASK_STARTED, _TASK_COMPLETED = str(EventType.TASK_STARTED), str(EventType.TASK_COMPLETED)
_ORCH_STARTED = str(EventType.ORCH_STARTED)
_WORK = frozenset((_UNIT_PROGRESS, _TASK_STARTED, _TASK_COMPLETED))  # begins anew with unit.started
_OF_THE_RUN = frozenset(map(str, (EventType.ORCH_STARTED, EventType.ORCH_COMPLETED, EventType.ORCH_FAILED)))

RELEVANT = frozenset((*STATUS_AFTER, *_WORK, *_OF_THE_RUN))
"""The types of events that change anything."""

_PREFIXES = tuple(b'{"type":"%b"' % kind.encode() for kind in RELEVANT)

TOLD_BYTES = 64 << 10
"""Of a longer line the error is cut and the payload thinned before it is kept to be told again."""

MOST_BYTES, SHORT_BYTES = 16 << 20, 1024
"""Once so much is kept to be told again, in bytes, that is done to every line longer than the second: 1,000 units that
fail with 60 kB each, or tasks without a number, would take 60 MB of the writer, the journal and each connection."""

MOST_UNITS = 10_000
"""So many units are remembered that have ended and that no graph names, before the oldest is forgotten: there are hosts
that give each call a name of its own, and never begin a run."""

MOST_TASKS = 1000
"""So many tasks without a number are remembered of a unit."""

_ERROR_LENGTH, _SHORT_ERROR_LENGTH = 8000, 200  # characters
_KEPT_OF_PAYLOAD = ("total_tasks", "completed_tasks", "done", "total", "worker")


class UnitState(NamedTuple):
    """Where a unit stands."""

    status: str
    tasks: int
    completed_tasks: int


class RunState:
    """The states of the units of a graph.

    Args:
        graph: The payload of a `graph` event; its statuses and tasks are what the run begins with.
    """

    def __init__(self, graph: GraphPayload) -> None:
        self._graph = graph
        self._nodes: dict[str, Any] = {node["id"]: _normal(node) for node in graph["nodes"]}

    def apply(self, event: Mapping[str, Any]) -> None:
        """Take an event of a unit in.

        Args:
            event: Its JSON object, a `WireEvent`; what is malformed or unknown is ignored.
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
            # Tasks of a unit are counted from 1 and run in that order; the highest says how many are complete.
            completed = node.get("completed_tasks", 0)
            _set(node, "completed_tasks", max(completed, count_in(event, "task", completed + 1)))
        elif kind == _UNIT_PROGRESS:
            _set(node, "tasks", count_in(payload, "total", node.get("tasks", 0)))
            _set(node, "completed_tasks", count_in(payload, "done", node.get("completed_tasks", 0)))

    def add(self, node: NodePayload) -> None:
        """Add a unit that the graph does not name."""
        self._nodes[node["id"]] = _normal(node)

    def unit_state(self, unit: str) -> UnitState:
        """Where a unit stands.

        Raises:
            KeyError: There is no such unit.
        """
        node = self._nodes[unit]
        return UnitState(node.get("status", "pending"), node.get("tasks", 0), node.get("completed_tasks", 0))

    def payload(self) -> GraphPayload:
        """The payload of a `graph` event, with every unit as it stands; it is not a copy."""
        return {**self._graph, "nodes": list(self._nodes.values())}


def _set(node: dict[str, Any], key: str, count: int) -> None:
    """A count of 0 is not written into a node that has none, for a thinned graph is to stay so."""
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
_TELLING = _OF_THE_RUN | {_UNIT_STARTED, _UNIT_PROGRESS, str(EventType.UNIT_FAILED)}
_IS_PLAIN = {kind.encode(): kind not in _TELLING for kind in RELEVANT}  # what is behind the head says nothing
_KINDS = {kind.encode(): kind for kind in RELEVANT}


def relevant_lines(data: bytes | bytearray) -> list[bytes]:
    """Those lines, with their newlines, that change anything and are not overwritten by a later one of them.

    Of long lines whose payload says nothing only head and id are kept.
    """
    return [_of_interest(data, start, end) for start, end, _ in _find_relevant(data).values()]


def relevant_events(data: bytes | bytearray) -> Iterator[tuple[bytes, Mapping[str, Any]]]:
    """The same lines, each with what a `Digest` and a `RunState` ask of its event."""
    for key, (start, end, number) in _find_relevant(data).items():
        line = _of_interest(data, start, end)
        if type(key) is tuple and (unit := key[1]) and b"\\" not in unit:  # a third of what parsing the line takes
            yield line, {"type": _KINDS[key[0]], "unit": unit.decode(), "task": None if number < 0 else number}
        else:
            yield line, event_on(line)


def _find_relevant(data: bytes | bytearray) -> dict[Hashable, tuple[int, int, int]]:
    """Start, end and task of those lines; the key has type and unit of one whose head says all there is.

    The writer looks at every line here, so only heads are read: a payload may be a megabyte, and of many lines a second
    most are overwritten.
    """
    found: dict[Hashable, tuple[int, int, int]] = {}
    epochs: dict[bytes, int] = {}  # of a unit with tasks without numbers, each of which counts on what was before
    foreign = 0  # how many lines have their keys in another order than ours, or more space: these are parsed
    start, match, startswith = 0, _HEAD.match, data.startswith
    key: Hashable = None
    kind = between = b""  # of the last line with a numbered task: how it begins, and what is between time and number
    offset = number = 0
    while end := data.find(b"\n", start) + 1:
        at = start + offset
        if (
            between and startswith(between, at) and startswith(kind, start)
        ):  # most lines of a flood: a third of the cost
            digits = data[at + len(between) : data.find(b",", at + len(between), end)]
            if digits.isdigit() and (task_number := int(digits)) >= number:
                number = task_number
                found[key] = start, end, number
                start = end
                continue
        if head := match(data, start):
            name, unit, task, rest = head.groups()
            key = (name, unit, foreign + epochs.get(unit, 0)) if epochs or foreign else (name, unit)
            number = -1
            between = b""
            if not _IS_PLAIN[name]:
                key = start
            elif unit is None or rest is None:
                foreign += 1
                key = start
            elif task is not None:
                number = int(task)
                if key in found and number < found[key][2]:  # of which the higher one says how many are complete
                    key = start
                else:
                    kind, offset = bytes(data[start : head.end(1)]), head.start(2) - start
                    between = bytes(data[head.start(2) : head.start(3)])
            elif name.startswith(b"task."):
                epochs[unit] = epochs.get(unit, 0) + 1
                key = start
            found.pop(key, None)  # a dict keeps the order in which its keys came
            found[key] = start, end, number
        elif not startswith(b'{"type":"', start) and str(event_on(bytes(data[start:end])).get("type")) in RELEVANT:
            foreign += 1
            between = b""
            found[start] = start, end, -1
        start = end
    return found


def _of_interest(data: bytes | bytearray, start: int, end: int) -> bytes:
    line = bytes(data[start:end]) if end - start <= TOLD_BYTES else b""
    if line or (head := _HEAD.match(data, start)) is None or not _IS_PLAIN[head[1]] or not head[4]:
        return line or bytes(data[start:end])
    id = data.rfind(b',"id":"', end - 100, end)  # the last key of an event that has one
    tail = data[id : end - 2] if id >= 0 and data.count(b'"', id, end) == 4 and data.endswith(b'"}\n', id, end) else b""
    return bytes(data[start : head.start(4)]) + bytes(tail) + b"}\n"


def is_relevant(line: bytes) -> bool:
    """Whether the event on a line changes anything."""
    return line.startswith(_PREFIXES)


def event_on(line: bytes) -> dict[str, Any]:
    """The JSON object on a line; empty for a line that is none, which is delivered as it is."""
    try:
        return parse(bytes(line))  # exactly: a subclass, as the outbox has some, orjson refuses
    except DecodeError:
        return {}


class Digest:
    """The lines that it takes to tell where the run stands: of each unit the last one of each type, in their order.

    `orch.started` forgets all that was before it, but what it is yet to be filled in with; `unit.started` the tasks of
    its unit. Of tasks without a number each counts.

    Args:
        lines: What to begin with.
        again: Whether the lines will be told again. Then they get the key `retained`, by which a consumer knows, and of
            long ones only what matters is kept.
        named: The units that graphs name, if that is known: of others, those that have ended may be forgotten.
    """

    def __init__(self, lines: Iterable[bytes] = (), again: bool = True, named: Container[str] | None = None) -> None:
        self._again = again
        self._named = named
        # What a run without a graph is filled in with, by what it brings; lines that are told again have been.
        self._plans: dict[str, bytes] = {}
        self._forget()
        for line in lines:
            self.add(line, event_on(line))

    def _forget(self) -> None:
        self._lines: dict[Hashable, bytes] = {}
        self._size = 0  # of the lines, in bytes
        self._work: dict[str, list[Hashable]] = {}  # the keys of a unit's tasks and progress
        self._completed: dict[str, int] = {}  # the highest number of a unit's complete tasks
        self._counted: set[str] = set()  # units that have a task without a number
        self._ended: dict[str, None] = {}  # units that no graph names, oldest end first

    def add(self, line: bytes, event: Mapping[str, Any]) -> None:
        """Take a line in.

        Args:
            line: The line, with its newline.
            event: Its JSON object; what is malformed or irrelevant is ignored.
        """
        kind, unit = event.get("type"), event.get("unit")
        if type(kind) is not str or kind not in RELEVANT:
            return
        key: Hashable = (kind, unit)
        if kind in _OF_THE_RUN:
            key = kind
            if kind == _ORCH_STARTED:
                self._forget()
                if not self._again:
                    self._note_plan(line, event.get("payload"))
        elif type(unit) is not str or not unit:
            return
        elif kind in _WORK:
            key = self._key_of_work(kind, unit, event.get("task"))
            if key is None:
                return
        else:
            if kind == _UNIT_STARTED:
                key = self._key_of_start(unit, event.get("payload"))
            if self._named is not None and unit not in self._named:
                self._note_end(unit, STATUS_AFTER[kind] in ("complete", "failed"))
        if self._again:
            line = retained(self._shortened(line, event) if len(line) > SHORT_BYTES and kind != _ORCH_STARTED else line)
        self._remove(key)  # a dict keeps the order in which its keys came
        self._lines[key] = line
        self._size += len(line)

    def _note_end(self, unit: str, ended: bool) -> None:
        """Take note of whether a unit has ended that no graph names, and forget the one that did so long ago."""
        self._ended.pop(unit, None)
        if not ended:
            return
        self._ended[unit] = None
        if len(self._ended) > MOST_UNITS:
            oldest = next(iter(self._ended))
            del self._ended[oldest]
            self._key_of_start(oldest, {"total_tasks": 0})  # which takes the place of all its work and starts
            for kind in STATUS_AFTER:
                self._remove((kind, oldest))

    def _note_plan(self, line: bytes, payload: object) -> None:
        given = payload if isinstance(payload, dict) else {}
        for key in ("graph", "parallelism"):
            if key in given and (key != "graph" or given[key] is not None):
                self._plans.pop(key, None)
                self._plans[key] = line

    def _remove(self, key: Hashable) -> None:
        if (line := self._lines.pop(key, None)) is not None:
            self._size -= len(line)

    def _shortened(self, line: bytes, event: Mapping[str, Any]) -> bytes:
        """The line, or what matters of it if it is too long."""
        full = self._size > MOST_BYTES
        if len(line) <= (SHORT_BYTES if full else TOLD_BYTES):
            return line
        return min(line, _short(event, _SHORT_ERROR_LENGTH if full else _ERROR_LENGTH), key=len)

    def _key_of_work(self, kind: str, unit: str, task: object) -> Hashable:
        """What the line takes the place of; None if it says no more than what is there."""
        key: Hashable = (kind, unit)
        if kind == _UNIT_PROGRESS:
            self._completed.pop(unit, None)
        elif type(task) is not int or unit in self._counted:
            self._counted.add(unit)
            key = kind, unit, object()
            keys = self._work.setdefault(unit, [])
            if len(keys) >= MOST_TASKS:
                self._remove(keys.pop(0))
        elif kind == _TASK_COMPLETED:
            if task < self._completed.get(unit, 0):
                return None
            self._completed[unit] = task
        if key not in self._lines:
            self._work.setdefault(unit, []).append(key)
        return key

    def _key_of_start(self, unit: str, payload: object) -> Hashable:
        """A start that does not say how many tasks there are leaves that to the one before."""
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
        if counts[0] is None:
            return kind, unit, "without total"
        self._remove((kind, unit, "without total"))
        return kind, unit

    def lines(self) -> list[bytes]:
        """The lines, with their newlines."""
        last = self._lines.get(_ORCH_STARTED)
        return [*dict.fromkeys(line for line in self._plans.values() if line != last), *self._lines.values()]


def _short(event: Mapping[str, Any], error_length: int) -> bytes:
    payload, error = event.get("payload"), event.get("error")
    short = dict(event)
    if payload is not None:
        given = payload if isinstance(payload, dict) else {}
        short["payload"] = {key: given[key] for key in _KEPT_OF_PAYLOAD if isinstance(given.get(key), str | int)}
    if isinstance(error, str):
        short["error"] = error[:error_length] + " [cut]" * (len(error) > error_length)
    return orjson.dumps(short, option=orjson.OPT_APPEND_NEWLINE)
