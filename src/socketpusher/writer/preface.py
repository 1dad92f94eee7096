"""The first lines of every connection, which give its consumer the state of the run. Pure: lines in, lines out.

A connection begins with the event `graph`, if a graph is known, with the state of every unit. Then the last
`orch.started` and the last events of each unit are repeated, so that a new consumer knows as much as one that was
connected from the start. The state is the one just before the first event that follows: it includes events that were
read or given up, and excludes those that still wait.

The graph may come from the host, or in an `orch.started`, or be unknown. If it is too long for a line, it is reduced.
"""

import sys
from collections import deque
from collections.abc import Iterable
from typing import Any, NamedTuple, cast

import orjson

from ..channel.batch import Batch
from ..events import Event, EventType
from ..graph import GraphPayload, graph_in, smaller_graphs, with_edges_reversed
from ..run_state import Digest, RunState, event_on, relevant_events
from ..wire import RETAINED_BYTES, encode

STARTED = b'{"type":"%b"' % EventType.ORCH_STARTED.encode()
"""The start of a line that begins a run."""


class Preface:
    """The graph of the run, if there is one, and the state of its units.

    Args:
        graph: The payload of the `graph` event, or None if the host has set none.
        parallelism: How many units may run at a time.
        max_line_bytes: The longest line, in bytes with its newline.
        verbatim: Whether lines stay as they are. Then a run whose `orch.started` has no graph has none.
    """

    def __init__(
        self, graph: GraphPayload | None, parallelism: int, max_line_bytes: int, verbatim: bool = False
    ) -> None:
        self._max_line_bytes = max_line_bytes
        self._verbatim = verbatim
        self.too_long = ""  # what does not fit into a line, for the log
        # For a run without a graph of its own: after all lines that came in, and after all that were observed.
        self._incoming = self._observed = defaults = RunDefaults(graph, parallelism)
        self._dropped: deque[tuple[int, bytes]] = deque()  # lines that an earlier writer dropped, see `recover`
        self._state = None if defaults.graph is None else RunState(defaults.graph)
        self._substitute = b""  # the line that replaces a graph which is too long
        self.graph_units: set[str] = set()  # the units of the graphs of these two
        self._update_graph_units()
        self._digest = Digest(graph_units=self.graph_units)

    def recover(self, observed: Iterable[bytes], dropped: Iterable[tuple[int, bytes]]) -> None:
        """Take over the lines of earlier writers, which will not come in again. Call it first.

        Args:
            observed: Lines that were read or given up.
            dropped: Lines that were dropped, each with the number of the line after it.
        """
        for lines in observed:
            self.observe(lines)
        self._incoming = self._observed
        self._update_graph_units()
        self._dropped.extend(dropped)

    def _update_graph_units(self) -> None:
        self.graph_units.clear()
        for defaults in (self._observed, self._incoming):
            self.graph_units.update(node["id"] for node in (defaults.graph or {"nodes": []})["nodes"])

    def lines(self) -> bytes:
        """The first lines of a connection; empty if nothing is known."""
        graph = self._substitute if self._state is None else self._graph_line(self._state.payload())
        return graph + b"".join(self._digest.lines())

    def fill_in_graph(self, batch: Batch) -> Batch:
        """The batch, with the graph filled into every `orch.started` in it."""
        while self._dropped and self._dropped[0][0] <= batch.end:
            number, lines = self._dropped.popleft()
            if number <= batch.first:  # otherwise they come again, see `Backlog.append`
                self.note_incoming(lines)
        if not batch.has_line(STARTED):
            return batch
        if self._verbatim:
            self.note_incoming(batch.data)
            return batch
        split = batch.data.split(b"\n")[:-1]
        filled = (self._filled_in(line) if line.startswith(STARTED) else line + b"\n" for line in split)
        return Batch(batch.first, batch.end, b"".join(filled))

    def note_incoming(self, lines: bytes) -> None:
        """Note lines that have come in and are not observed yet, without filling them in."""
        for line in lines.split(b"\n"):
            if line.startswith(STARTED):
                self._incoming = self._incoming.after(event_on(line).get("payload"))
                self._update_graph_units()

    def observe(self, data: bytes) -> bytes:
        """Note lines that were read or given up. Returns those that change the state of the run."""
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
        """The lines from which another writer learns the same state."""
        return b"".join(self._digest.lines())

    def _on_started(self, payload: Any) -> None:
        self._observed = self._observed.after(payload)
        self._update_graph_units()
        own = graph_in(payload)
        earlier = None if self._verbatim else self._observed.graph
        graph = earlier if own is None else with_edges_reversed(own)
        self._state = None if graph is None else RunState(graph)
        self._substitute = b""

    def _graph_line(self, current: GraphPayload) -> bytes:
        for smaller in smaller_graphs(current):
            line = encode(Event("graph", payload=smaller), max_line_bytes=sys.maxsize)
            if len(line) <= self._max_line_bytes:
                if smaller["nodes"] is not current["nodes"]:
                    self._state = RunState(smaller)  # so that the larger ones are not tried again
                return line
        self._note_too_long(current)
        self._state = None  # likewise: with 100,000 units an attempt takes a second
        self._substitute = encode(Event("graph", payload=f"<payload left out: {self.too_long}>"))
        return self._substitute

    def _filled_in(self, line: bytes) -> bytes:
        event = event_on(line)
        payload = event.get("payload")
        if not event or not (payload is None or isinstance(payload, dict)):
            return line + b"\n"
        self._incoming = self._incoming.after(payload)
        self._update_graph_units()
        graph, parallelism = self._incoming
        if payload is not None and payload.get("graph") is not None:
            return line + b"\n"
        limit = self._max_line_bytes - RETAINED_BYTES  # because the line may be repeated
        if graph is None:
            filled = _line({**event, "payload": {}}) if payload is None else b""
            return filled if 0 < len(filled) <= limit else line + b"\n"
        known = {"unit_count": len(graph["nodes"]), "parallelism": parallelism, **(payload or {})}
        for smaller in smaller_graphs(with_edges_reversed(graph)):
            filled = _line({**event, "payload": {**known, "graph": smaller}})
            if len(filled) <= limit:
                return filled
        self._note_too_long(graph)
        filled = _line({**event, "payload": known})
        return filled if len(filled) <= limit else line + b"\n"

    def _note_too_long(self, graph: GraphPayload) -> None:
        self.too_long = f"{len(graph['nodes'])} units do not fit into a line of {self._max_line_bytes} bytes"


class RunDefaults(NamedTuple):
    """The graph and parallelism of a run whose `orch.started` has none."""

    graph: GraphPayload | None
    parallelism: Any

    def after(self, payload: Any) -> "RunDefaults":
        """The same for the run after one that starts with this payload, with all units pending.

        It does not matter whether the payload has been filled in.
        """
        parallelism = payload.get("parallelism", self.parallelism) if isinstance(payload, dict) else self.parallelism
        own = graph_in(payload)
        if own is not None:
            given = cast(list[dict[str, Any]], own["nodes"])
            nodes = [{key: node[key] for key in node if key not in _STATE_KEYS} for node in given]
            graph = {**with_edges_reversed(own), "nodes": nodes}
            return RunDefaults(cast(GraphPayload, graph), parallelism)
        raw = payload.get("graph") if isinstance(payload, dict) else None
        too_long = isinstance(raw, dict) and raw.get("nodes") == []  # as `encode` leaves it
        return RunDefaults(None if too_long else self.graph, parallelism)


_STATE_KEYS = ("status", "completed_tasks")
_LAST_KEYS = ("payload", "error", "id")


def _line(event: dict[str, Any]) -> bytes:
    """The line of an event, its keys in the order of the wire."""
    first = {key: value for key, value in event.items() if key not in _LAST_KEYS}
    return orjson.dumps({**first, **{key: event[key] for key in _LAST_KEYS if key in event}}) + b"\n"
