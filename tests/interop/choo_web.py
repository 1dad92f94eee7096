"""A double of the dashboard server `choo web`, which does to its socket what the real one is known to do.

    python choo_web.py SOCKET

It knows nothing of socketpusher. It prints a line as soon as it listens, and another each time it gets SIGUSR1 and has
read everything that is there: how many connections it has had, and its picture, which is what a user would see.

The real server is written in Go, which decodes JSON into typed structs: null counts as missing, a missing field is its
type's zero, and a field of another type spoils the whole object.
"""

import json
import os
import re
import select
import signal
import socket
import sys
from dataclasses import dataclass
from datetime import datetime
from typing import Any

LINE_LIMIT = 1_048_576  # bytes, with the newline
ZERO_TIME = "0001-01-01T00:00:00Z"

STATUS_AFTER = {
    "unit.queued": "ready",
    "unit.started": "in_progress",
    "unit.completed": "complete",
    "unit.failed": "failed",
    "unit.blocked": "blocked",
}


class WrongTypeError(ValueError):
    """A value is not of the type of its field."""


def typed(value: Any, kind: type, zero: Any = None) -> Any:
    """The value of a field; `zero` for null."""
    if value is None:
        return zero
    if type(value) is not kind or (kind is int and not -(2**63) <= value < 2**63):
        raise WrongTypeError
    return value


def instant(value: Any) -> str:
    """The value of a field that is a time, written as Go writes it."""
    text = typed(value, str, ZERO_TIME)
    found = re.fullmatch(r"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)(?:\.(\d+))?(Z|[+-]\d\d:\d\d)", text, re.ASCII)
    if found is None:
        raise WrongTypeError
    seconds, fraction, zone = found.groups("")
    datetime.fromisoformat(seconds + zone)  # raises for a 13th month
    fraction = fraction[:9].rstrip("0")
    return f"{seconds}.{fraction}{zone}" if fraction else seconds + zone


@dataclass
class Event:
    type: str
    time: str
    unit: str
    task: int | None
    payload: Any
    error: str


def no_number(text: str) -> None:
    raise ValueError(f"{text} is not JSON")


def parsed(line: bytes) -> Event | None:
    """The event on a line; None for a line that is skipped."""
    try:
        fields = typed(json.loads(line.decode(errors="replace"), parse_constant=no_number), dict, {})
        typed(fields.get("pr"), int)
        return Event(
            type=typed(fields.get("type"), str, ""),
            time=instant(fields.get("time")),
            unit=typed(fields.get("unit"), str, ""),
            task=typed(fields.get("task"), int),
            payload=fields.get("payload"),
            error=typed(fields.get("error"), str, ""),
        )
    except ValueError:
        return None


@dataclass
class Node:
    id: str
    level: int
    tasks: int
    status: str
    completed_tasks: int


@dataclass
class Graph:
    """A graph as it was told; None for an array that is null or missing."""

    nodes: list[Node] | None
    edges: list[tuple[str, str]] | None
    levels: list[list[str] | None] | None


def items(fields: dict[str, Any], key: str, kind: type, zero: Any = None) -> list[Any] | None:
    array = typed(fields.get(key), list)
    return None if array is None else [typed(item, kind, zero) for item in array]


def node_of(fields: dict[str, Any]) -> Node:
    return Node(
        id=typed(fields.get("id"), str, ""),
        level=typed(fields.get("level"), int, 0),
        tasks=typed(fields.get("tasks"), int, 0),
        status=typed(fields.get("status"), str, ""),
        completed_tasks=typed(fields.get("completed_tasks"), int, 0),
    )


def graph_of(fields: dict[str, Any]) -> Graph:
    nodes = items(fields, "nodes", dict, {})
    edges = items(fields, "edges", dict, {})
    levels = items(fields, "levels", list)
    for level in levels or []:
        for name in level or []:
            typed(name, str)
    return Graph(
        nodes=None if nodes is None else [node_of(node) for node in nodes],
        edges=None
        if edges is None
        else [(typed(edge.get("from"), str, ""), typed(edge.get("to"), str, "")) for edge in edges],
        levels=levels,
    )


@dataclass
class Unit:
    status: str
    totalTasks: int  # noqa: N815 - so are they called on the page
    currentTask: int  # noqa: N815
    error: str = ""
    startedAt: str = ZERO_TIME  # noqa: N815


class Store:
    """What the server knows: of one run, which begins with `orch.started`."""

    def __init__(self) -> None:
        self.status = "waiting"
        self.started_at = ZERO_TIME
        self.parallelism = 0
        self.graph: Graph | None = None
        self.units: dict[str, Unit] = {}

    def read(self, line: bytes) -> None:
        if (event := parsed(line)) is not None:
            self.follow(event)

    def follow(self, event: Event) -> None:
        if event.type == "orch.started":
            self._begin(event)
        elif event.type in ("orch.completed", "orch.failed"):
            self.status = event.type.removeprefix("orch.")
        elif (unit := self.units.get(event.unit)) is None:
            return  # one that it was never told of
        elif event.type == "task.started":
            unit.currentTask = unit.currentTask + 1 if event.task is None else event.task - 1
        elif event.type in STATUS_AFTER:
            unit.status = STATUS_AFTER[event.type]
            if event.type == "unit.failed":
                unit.error = event.error
            elif event.type == "unit.started":
                unit.startedAt = event.time
                self._count(unit, event.payload)

    def _begin(self, event: Event) -> None:
        if not isinstance(event.payload, dict):
            return
        try:
            typed(event.payload.get("unit_count"), int)
            parallelism = typed(event.payload.get("parallelism"), int, 0)
            told = typed(event.payload.get("graph"), dict)
            graph = None if told is None else graph_of(told)
        except WrongTypeError:
            return
        self.status = "running"
        self.started_at = event.time
        self.parallelism = parallelism
        self.graph = graph
        nodes = (graph and graph.nodes) or []
        self.units = {node.id: Unit(node.status or "pending", node.tasks, node.completed_tasks) for node in nodes}

    def _count(self, unit: Unit, payload: Any) -> None:
        if not isinstance(payload, dict):
            return
        try:
            total = typed(payload.get("total_tasks"), int, 0)
            completed = typed(payload.get("completed_tasks"), int, 0)
        except WrongTypeError:
            return
        unit.totalTasks, unit.currentTask = total, completed

    def picture(self) -> dict[str, Any]:
        """What a user sees."""
        page, dependencies = draw(self.graph)
        return {
            "status": self.status,
            "startedAt": self.started_at,
            "parallelism": self.parallelism,
            "page": page,
            "units": {
                name: {**vars(unit), "depends_on": sorted(dependencies.get(name, []))}
                for name, unit in self.units.items()
            },
        }


def draw(graph: Graph | None) -> tuple[str, dict[str, list[str]]]:
    """What the page does with the graph.

    Returns:
        "empty", "drawn" or "throws", and each unit's dependencies: where the arrows that begin at it end.
    """
    if graph is None or graph.nodes is None:
        return "empty", {}
    dependencies: dict[str, list[str]] = {}
    try:
        for dependent, dependency in graph.edges:  # type: ignore[union-attr] - null.forEach throws, too
            dependencies.setdefault(dependent, []).append(dependency)
        for _ in graph.levels:  # type: ignore[union-attr]
            pass
    except TypeError:
        return "throws", {}
    return "drawn", dependencies


class Server:
    """Listens, and reads one connection after the other."""

    def __init__(self, path: str) -> None:
        self.store = Store()
        self.connections = 0
        self._rest = bytearray()
        self._listener = socket.socket(socket.AF_UNIX)
        self._connection: socket.socket | None = None
        if os.path.exists(path):
            os.unlink(path)  # of one that was killed
        self._listener.bind(path)
        self._listener.listen()

    def fileno(self) -> int:
        """What there is something to read from."""
        return (self._connection or self._listener).fileno()

    def proceed(self) -> None:
        """Take the next connection, or some bytes of the one that there is."""
        if self._connection is None:
            self._connection, _ = self._listener.accept()
            self.connections += 1
            return
        try:
            data = self._connection.recv(65536)
        except ConnectionResetError:
            data = b""
        if not data or not self._read_lines(data):
            self._connection.close()
            self._connection = None
            self._rest.clear()

    def _read_lines(self, data: bytes) -> bool:
        """Returns whether no line is too long."""
        self._rest += data
        begin = 0
        while end := self._rest.find(b"\n", begin, begin + LINE_LIMIT) + 1:
            self.store.read(bytes(self._rest[begin:end]))
            begin = end
        del self._rest[:begin]
        return len(self._rest) < LINE_LIMIT

    def show(self) -> None:
        print(json.dumps({"connections": self.connections, "picture": self.store.picture()}), flush=True)


def main(path: str) -> None:
    asked, wake = os.pipe()
    os.set_blocking(wake, False)
    signal.set_wakeup_fd(wake)
    signal.signal(signal.SIGUSR1, lambda number, frame: None)
    server = Server(path)
    server.show()
    while True:
        ready, _, _ = select.select([server, asked], [], [])
        if server in ready:  # first, so that it shows what it knows when it has read all
            server.proceed()
        else:
            os.read(asked, 4096)
            server.show()


if __name__ == "__main__":
    main(sys.argv[1])
