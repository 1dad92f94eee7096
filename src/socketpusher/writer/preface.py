"""What every connection begins with, so that its consumer knows where the run stands. Pure: lines in, lines out.

A connection begins with the event `graph`, if the host has set one, and, in the middle of a run, with `orch.started`
as it was sent, both with every unit as it stands. That is: as it stands before the first event that will follow, so
it is told the events that have left the backlog, read or dropped, and not those that wait.
"""

import sys
from collections.abc import Iterator, MutableSequence
from typing import Any

import orjson

from ..channel.batch import Batch
from ..conversion import plain
from ..events import Event, EventType
from ..graph import GraphPayload, graph_in, thinned
from ..run_state import RELEVANT, Progress
from ..wire import DecodeError, encode, parse

_STARTED = b'{"type":"%b"' % EventType.ORCH_STARTED.encode()
_RELEVANT = tuple(b'{"type":"%b"' % kind.encode() for kind in RELEVANT)


class Preface:
    """Knows the graph of the run, if there is one, and what has become of its units.

    Args:
        graph: The payload of the `graph` event, or None if the host has set none.
        parallelism: How many units may run at a time.
        max_line_bytes: The limit on a line, in bytes with its newline.
        cells: Where the states of the units are kept, see `Progress`; what an earlier writer has left there holds.
        started: The line of the last `orch.started` that an earlier writer was given, or b"".
    """

    def __init__(
        self,
        graph: GraphPayload | None,
        parallelism: int,
        max_line_bytes: int,
        cells: MutableSequence[int] | memoryview | None = None,
        started: bytes = b"",
    ) -> None:
        self._graph = graph = None if graph is None else _as_encoded(graph)
        self._parallelism = _as_encoded(parallelism)
        self._max_line_bytes = max_line_bytes
        self._progress = None if graph is None else Progress(graph, cells)
        self._started = started  # the line, without its graph if the host left that to us

    def lines(self) -> bytes:
        """The lines that a connection begins with; nothing if no graph is known."""
        lines = b""
        if self._progress is None:
            return lines
        standing = self._progress.payload()
        if self._graph is not None:
            line = encode(Event("graph", payload=standing), max_line_bytes=sys.maxsize)
            if len(line) > self._max_line_bytes:
                line = encode(Event("graph", payload=thinned(standing)), max_line_bytes=self._max_line_bytes)
            lines += line
        if self._started and self._progress.running:
            lines += self._with_graph(self._started, standing)
        return lines

    def fill_in_graph(self, batch: Batch) -> Batch:
        """The batch, every `orch.started` in it filled in with the graph."""
        if self._graph is None or not batch.has_line(_STARTED):
            return batch
        graph = self._graph
        lines = batch.data.split(b"\n")[:-1]
        filled = (self._filled_in(line, graph) if line.startswith(_STARTED) else line + b"\n" for line in lines)
        return Batch(batch.first, batch.end, b"".join(filled))

    def observe(self, batch: Batch) -> None:
        """These lines have left the backlog."""
        if self._progress is None and not batch.has_line(_STARTED):
            return
        for number, line in enumerate(batch.data.split(b"\n")[:-1], batch.first):
            if line.startswith(_RELEVANT) and (event := _parsed(line)):
                if event["type"] == EventType.ORCH_STARTED:
                    self._on_started(number, line, graph_in(event.get("payload")))
                elif self._progress is not None:
                    self._progress.apply(number, event)

    def _on_started(self, number: int, line: bytes, graph: GraphPayload | None) -> None:
        self._started = line + b"\n"
        if self._graph is None and graph is not None:
            self._progress = Progress(graph)
        if self._progress is not None:
            self._progress.begin(number, graph)

    def _filled_in(self, line: bytes, graph: GraphPayload) -> bytes:
        event = _parsed(line)
        payload = event.get("payload", {})
        if not isinstance(payload, dict) or payload.get("graph") is not None or not event:
            return line + b"\n"
        return self._with_graph(line, graph)

    def _with_graph(self, line: bytes, graph: GraphPayload) -> bytes:
        """The line of an `orch.started`, with this graph if that fits, and with the numbers that belong to it."""
        wire = orjson.loads(line)
        behind = {key: wire.pop(key) for key in ("error", "id") if key in wire}
        payload = wire.get("payload")
        known = {"unit_count": len(graph["nodes"]), "parallelism": self._parallelism}
        mine = payload if isinstance(payload, dict) else {}
        for told in _ever_smaller_graphs(graph):
            wire["payload"] = {**known, **mine, **told}
            filled = orjson.dumps({**wire, **behind}, option=orjson.OPT_APPEND_NEWLINE)
            if len(filled) <= self._max_line_bytes:
                return filled
        return line.rstrip(b"\n") + b"\n"


def _ever_smaller_graphs(graph: GraphPayload) -> Iterator[dict[str, GraphPayload]]:
    """What to tell of the graph, until the line is short enough."""
    yield {"graph": graph}
    yield {"graph": thinned(graph)}
    yield {}


def _parsed(line: bytes) -> dict[str, Any]:
    """The JSON object on a line; empty for a line that is none, which is delivered as it is."""
    try:
        return parse(line)
    except DecodeError:
        return {}


def _as_encoded(value: Any) -> Any:
    """The value as `encode` would write it, for one: names without lone surrogates, as those of the events are."""
    try:
        orjson.dumps(value)
    except TypeError:
        return plain(value, lambda note: None)
    return value
