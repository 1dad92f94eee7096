"""What every connection begins with, and the graph that `orch.started` is sent with. Pure: lines in, lines out."""

import orjson

from ..batch import Batch
from ..events import Event, EventType
from ..graph import GraphPayload
from ..wire import encode

_STARTED = b'{"type":"%b"' % EventType.ORCH_STARTED.encode()


class Handshake:
    """Knows the graph of the run, if one was set.

    Args:
        graph: The payload of the `graph` event, or None.
        parallelism: How many units may run at a time.
        max_line_bytes: The limit on a line, in bytes with its newline.
    """

    def __init__(self, graph: GraphPayload | None, parallelism: int, max_line_bytes: int) -> None:
        self._graph = graph
        self._parallelism = parallelism
        self._max_line_bytes = max_line_bytes

    def preface(self) -> bytes:
        """The lines that a connection begins with: the event `graph`, or nothing."""
        if self._graph is None:
            return b""
        return encode(Event("graph", payload=self._graph), max_line_bytes=self._max_line_bytes)

    def completed(self, batch: Batch) -> Batch:
        """The batch, every `orch.started` in it filled in with the graph."""
        # No line holds a newline, so this finds the lines that begin so and nothing else.
        if self._graph is None or (not batch.data.startswith(_STARTED) and b"\n" + _STARTED not in batch.data):
            return batch
        lines = batch.data.split(b"\n")[:-1]
        filled = (self._filled_in(line) if line.startswith(_STARTED) else line + b"\n" for line in lines)
        return Batch(batch.first, batch.end, b"".join(filled))

    def _filled_in(self, line: bytes) -> bytes:
        wire = orjson.loads(line)
        payload = wire.get("payload") or {}
        if self._graph is None or not isinstance(payload, dict) or "graph" in payload:
            return line + b"\n"
        behind = {key: wire.pop(key) for key in ("error", "id") if key in wire}
        known = {"unit_count": len(self._graph["nodes"]), "parallelism": self._parallelism}
        wire["payload"] = {**known, **payload, "graph": self._graph}
        filled = orjson.dumps({**wire, **behind}, option=orjson.OPT_APPEND_NEWLINE)
        return filled if len(filled) <= self._max_line_bytes else line + b"\n"
