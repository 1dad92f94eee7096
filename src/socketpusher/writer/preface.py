"""What every connection begins with, so that its consumer knows where the run stands. Pure: lines in, lines out.

A connection begins with the event `graph`, if a graph is known, with every unit as it stands. Then come, as they were
sent, the last `orch.started` and the last events of each unit, which lead a consumer that begins with nothing to where
one is that was there from the start. That is: before the first event that will follow, so the preface is told what was
read or given up, and not what waits.

The graph may come from the host, or in an `orch.started`, or not at all. One that is too long for a line is thinned.
"""

import sys
from collections import deque
from collections.abc import Iterable
from typing import Any, NamedTuple, cast

import orjson

from ..channel.batch import Batch
from ..conversion import to_jsonable
from ..events import Event, EventType
from ..graph import GraphPayload, graph_in, smaller_graphs, with_edges_reversed
from ..run_state import Digest, RunState, event_on, relevant_events
from ..wire import RETAINED_BYTES, encode

STARTED = b'{"type":"%b"' % EventType.ORCH_STARTED.encode()
"""How a line begins that says what the next run is."""


class Preface:
    """Knows the graph of the run, if there is one, and what has become of its units.

    Args:
        graph: The payload of the `graph` event, or None if the host has set none.
        parallelism: How many units may run at a time.
        max_line_bytes: The limit on a line, in bytes with its newline.
    """

    def __init__(self, graph: GraphPayload | None, parallelism: int, max_line_bytes: int) -> None:
        self._max_line_bytes = max_line_bytes
        self.untold = ""  # what does not fit into a line, for the log
        # For a run that brings no graph: where lines come in, and where they are observed.
        self._incoming = self._observed = plan = Plan(_as_encoded(graph), _as_encoded(parallelism))
        self._dropped: deque[tuple[int, bytes]] = deque()  # what an earlier writer has dropped of what comes in
        self._state = None if plan.graph is None else RunState(plan.graph)
        self._substitute = b""  # the line in the place of a graph that does not fit into one
        self.named: set[str] = set()  # the units of these graphs
        self._note_named()
        self._digest = Digest(named=self.named)

    def recover(self, observed: Iterable[bytes], dropped: Iterable[tuple[int, bytes]]) -> None:
        """To be called first: what came in to earlier writers, and will not again.

        Args:
            observed: Lines that were read or given up.
            dropped: Others, with the numbers of the lines before which they would have come.
        """
        for lines in observed:
            self.observe(lines)
        self._incoming = self._observed
        self._note_named()
        self._dropped.extend(dropped)

    def _note_named(self) -> None:
        self.named.clear()
        for plan in (self._observed, self._incoming):
            self.named.update(node["id"] for node in (plan.graph or {"nodes": []})["nodes"])

    def lines(self) -> bytes:
        """The lines that a connection begins with; nothing if nothing is known."""
        graph = self._substitute if self._state is None else self._graph_line(self._state.payload())
        return graph + b"".join(self._digest.lines())

    def fill_in_graph(self, batch: Batch) -> Batch:
        """The batch, every `orch.started` in it filled in with the graph."""
        while self._dropped and self._dropped[0][0] <= batch.end:
            number, told = self._dropped.popleft()
            if number <= batch.first:  # else they come again, see `Backlog.append`
                self.pass_over(told)
        if not batch.has_line(STARTED):
            return batch
        lines = batch.data.split(b"\n")[:-1]
        filled = (self._filled_in(line) if line.startswith(STARTED) else line + b"\n" for line in lines)
        return Batch(batch.first, batch.end, b"".join(filled))

    def pass_over(self, lines: bytes) -> None:
        """These have come in before others that will, and are not observed yet."""
        for line in lines.split(b"\n"):
            if line.startswith(STARTED):
                self._incoming = self._incoming.after(event_on(line).get("payload"))
                self._note_named()

    def observe(self, data: bytes) -> bytes:
        """These lines were read or given up. Returns those that change anything."""
        relevant = []
        for line, event in relevant_events(data):
            relevant.append(line)
            self._digest.add(line, event)
            if event.get("type") == EventType.ORCH_STARTED:
                self._on_started(event.get("payload"))
            elif self._state is not None:
                self._state.apply(event)
        return b"".join(relevant)

    def digest(self) -> bytes:
        """The lines from which another writer knows the same, once it observes them."""
        return b"".join(self._digest.lines())

    def _on_started(self, payload: Any) -> None:
        self._observed = self._observed.after(payload)
        self._note_named()
        own = graph_in(payload)
        graph = self._observed.graph if own is None else with_edges_reversed(own)
        self._state = None if graph is None else RunState(graph)
        self._substitute = b""

    def _graph_line(self, standing: GraphPayload) -> bytes:
        for thin in smaller_graphs(standing):
            line = encode(Event("graph", payload=thin), max_line_bytes=sys.maxsize)
            if len(line) <= self._max_line_bytes:
                if thin["nodes"] is not standing["nodes"]:
                    self._state = RunState(thin)  # so that it is not tried in vain again
                return line
        self._note_untold(standing)
        self._state = None  # likewise: with 100,000 units an attempt takes a second
        self._substitute = encode(Event("graph", payload=f"<payload left out: {self.untold}>"))
        return self._substitute

    def _filled_in(self, line: bytes) -> bytes:
        event = event_on(line)
        payload = event.get("payload")
        if not event or not (payload is None or isinstance(payload, dict)):
            return line + b"\n"
        self._incoming = self._incoming.after(payload)
        self._note_named()
        graph, parallelism = self._incoming
        if payload is not None and payload.get("graph") is not None:
            return line + b"\n"
        limit = self._max_line_bytes - RETAINED_BYTES  # for it may be told again
        if graph is None:
            filled = _line({**event, "payload": {}}) if payload is None else b""
            return filled if 0 < len(filled) <= limit else line + b"\n"
        known = {"unit_count": len(graph["nodes"]), "parallelism": parallelism, **(payload or {})}
        for thin in smaller_graphs(with_edges_reversed(graph)):
            filled = _line({**event, "payload": {**known, "graph": thin}})
            if len(filled) <= limit:
                return filled
        self._note_untold(graph)
        filled = _line({**event, "payload": known})
        return filled if len(filled) <= limit else line + b"\n"

    def _note_untold(self, graph: GraphPayload) -> None:
        self.untold = f"{len(graph['nodes'])} units do not fit into a line of {self._max_line_bytes} bytes"


class Plan(NamedTuple):
    """What a run begins with that brings no graph of its own."""

    graph: GraphPayload | None
    parallelism: Any

    def after(self, payload: Any) -> "Plan":
        """The same after the begin of a run with this payload: what it brings is the next run's, all units pending.

        It makes no difference whether the payload has been filled in with what is known.
        """
        parallelism = payload.get("parallelism", self.parallelism) if isinstance(payload, dict) else self.parallelism
        own = graph_in(payload)
        if own is not None:
            given = cast(list[dict[str, Any]], own["nodes"])
            nodes = [{key: node[key] for key in node if key not in _STANDING} for node in given]
            graph = {**with_edges_reversed(own), "nodes": nodes}
            return Plan(cast(GraphPayload, graph), parallelism)
        left = payload.get("graph") if isinstance(payload, dict) else None
        too_long = isinstance(left, dict) and left.get("nodes") == []  # as `encode` leaves it
        return Plan(None if too_long else self.graph, parallelism)


_STANDING = ("status", "completed_tasks")


_LAST_KEYS = ("payload", "error", "id")


def _line(event: dict[str, Any]) -> bytes:
    """The line of an event, its keys in the order of the wire."""
    first = {key: value for key, value in event.items() if key not in _LAST_KEYS}
    return orjson.dumps({**first, **{key: event[key] for key in _LAST_KEYS if key in event}}) + b"\n"


def _as_encoded(value: Any) -> Any:
    """The value as `encode` would write it, for one: names without lone surrogates, as those of the events are."""
    try:
        orjson.dumps(value)
    except TypeError:
        return to_jsonable(value, lambda note: None)
    return value
