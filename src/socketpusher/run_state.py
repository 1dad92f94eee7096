"""Where the run stands: a reducer of events to the states of units. Pure, and fed by whoever sees the events.

The writer tells it to every new consumer; displays draw it. It is made for streams with faults: an event that comes
twice changes nothing, and events may come out of order, as those that were dropped are known before older ones that
wait; each has a number, and the higher number decides what a unit's status is.

The numbers that make up the state can live in memory that outlives the process, see `cells`.
"""

from collections.abc import Mapping, MutableSequence
from typing import Any, NamedTuple

from .events import EventType
from .graph import GraphPayload, NodePayload, graph_in

STATUSES = ("pending", "ready", "in_progress", "complete", "failed", "blocked")

_STATUS_AFTER = {
    EventType.UNIT_QUEUED: "ready",
    EventType.UNIT_STARTED: "in_progress",
    EventType.UNIT_COMPLETED: "complete",
    EventType.UNIT_MERGED: "complete",
    EventType.UNIT_FAILED: "failed",
    EventType.UNIT_BLOCKED: "blocked",
}

RELEVANT = frozenset(
    str(known)
    for known in (
        *_STATUS_AFTER,
        EventType.TASK_COMPLETED,
        EventType.ORCH_STARTED,
        EventType.ORCH_COMPLETED,
        EventType.ORCH_FAILED,
    )
)
"""The types of events that change anything."""

# The layout of the cells: three for the run, then four for each unit.
_FILLED, _STARTED, _ENDED, _UNITS = range(4)
_STATUS, _CHANGED, _TASKS, _COMPLETED, _PER_UNIT = range(5)


class Standing(NamedTuple):
    """Where a unit stands."""

    status: str
    tasks: int
    completed_tasks: int


class Progress:
    """The states of the units of a graph, and whether the run goes on.

    Args:
        graph: The payload of a `graph` event; its statuses and completed tasks are what the run begins with.
        cells: Where the state is kept: `cells_needed(graph)` ints, all 0 for a state that is yet to begin.
    """

    def __init__(self, graph: GraphPayload, cells: MutableSequence[int] | memoryview | None = None) -> None:
        self._graph = graph
        self._cells = [0] * cells_needed(graph) if cells is None else cells
        self._offset = {node["id"]: _UNITS + _PER_UNIT * i for i, node in enumerate(graph["nodes"])}
        if not self._cells[_FILLED]:
            self._begin(graph["nodes"], 0)
            self._cells[_FILLED] = 1

    @property
    def running(self) -> bool:
        """Whether the run has begun and not ended."""
        return self._cells[_STARTED] > self._cells[_ENDED]

    def apply(self, number: int, event: Mapping[str, Any]) -> None:
        """Take an event in.

        Args:
            number: Its place in the order of all events, from 0.
            event: Its JSON object, a `WireEvent`; what is malformed or unknown is ignored.
        """
        kind, unit, payload = event.get("type"), event.get("unit", ""), event.get("payload")
        if not isinstance(kind, str) or not isinstance(unit, str):
            return
        if kind == EventType.ORCH_STARTED:
            self.begin(number, graph_in(payload))
        elif kind in (EventType.ORCH_COMPLETED, EventType.ORCH_FAILED):
            self._cells[_ENDED] = max(self._cells[_ENDED], number + 1)
        elif (offset := self._offset.get(unit)) is not None:
            if kind == EventType.TASK_COMPLETED:
                self._complete_task(offset, event.get("task"))
            elif kind in _STATUS_AFTER:
                self._change(offset, number + 1, STATUSES.index(_STATUS_AFTER[EventType(kind)]))
                if kind == EventType.UNIT_STARTED and isinstance(payload, dict):
                    self._raise(offset + _TASKS, payload.get("total_tasks"))
                    self._raise(offset + _COMPLETED, payload.get("completed_tasks"))

    def begin(self, number: int, graph: GraphPayload | None) -> None:
        """Take an `orch.started` in.

        Args:
            number: Its place in the order of all events, from 0.
            graph: What `graph_in` its payload has found.
        """
        self._begin((graph or self._graph)["nodes"], number + 1)

    def _begin(self, nodes: list[NodePayload], number: int) -> None:
        """A run begins: every unit that no later event has changed is as the nodes say."""
        self._cells[_STARTED] = max(self._cells[_STARTED], number)
        for node in nodes:
            offset = self._offset.get(node["id"])
            if offset is not None and self._cells[offset + _CHANGED] <= number:
                status = node.get("status", "pending")
                self._change(offset, number, STATUSES.index(status) if status in STATUSES else 0)
                self._cells[offset + _TASKS] = self._cells[offset + _COMPLETED] = 0
                self._raise(offset + _TASKS, node.get("tasks"))
                self._raise(offset + _COMPLETED, node.get("completed_tasks"))

    def _change(self, offset: int, number: int, status: int) -> None:
        if number >= self._cells[offset + _CHANGED]:
            self._cells[offset + _CHANGED] = number
            self._cells[offset + _STATUS] = status

    def _complete_task(self, offset: int, task: object) -> None:
        # Tasks of a unit are counted from 1 and run in that order; the highest that is complete says how many are.
        self._raise(offset + _COMPLETED, self._cells[offset + _COMPLETED] + 1 if task is None else task)

    def _raise(self, cell: int, value: object) -> None:
        if isinstance(value, int) and self._cells[cell] < value < 2**31:
            self._cells[cell] = value

    def add(self, node: NodePayload) -> None:
        """Add a unit that the graph does not name, if the state is kept in no cells of the caller's.

        Args:
            node: The unit; it is appended to the nodes of the graph that this object was given.

        Raises:
            TypeError: The cells are the caller's, who has room for the units of the graph and no other.
        """
        if not isinstance(self._cells, list):
            raise TypeError(f"can't add the unit {node['id']!r} to cells that are not a list")
        self._offset[node["id"]] = len(self._cells)
        self._cells += [0] * _PER_UNIT
        self._graph["nodes"].append(node)
        self._begin([node], 0)

    def standing(self, unit: str) -> Standing:
        """Where a unit stands.

        Raises:
            KeyError: There is no such unit.
        """
        offset, cells = self._offset[unit], self._cells
        return Standing(STATUSES[cells[offset + _STATUS]], cells[offset + _TASKS], cells[offset + _COMPLETED])

    def payload(self) -> GraphPayload:
        """The payload of a `graph` event, with every unit as it stands."""
        nodes = []
        for node in self._graph["nodes"]:
            offset = self._offset[node["id"]]
            standing = node.copy()
            standing["status"] = STATUSES[self._cells[offset + _STATUS]]
            standing["tasks"] = self._cells[offset + _TASKS]
            standing["completed_tasks"] = self._cells[offset + _COMPLETED]
            nodes.append(standing)
        return {**self._graph, "nodes": nodes}


def cells_needed(graph: GraphPayload) -> int:
    """How many ints the state of a graph's units takes."""
    return _UNITS + _PER_UNIT * len(graph["nodes"])
