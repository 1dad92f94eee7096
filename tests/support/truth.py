"""What a display must show: what one shows that receives every event, as it was emitted."""

import json
import sys
from typing import Any

from interop.choo_web import Store
from socketpusher import Event, Graph
from socketpusher.wire import encode


def told(graph: Graph) -> dict[str, Any]:
    """A graph as `orch.started` tells it: its edges run from the dependent to its dependency."""
    payload: Any = graph.payload()
    return {
        "nodes": [{"id": node["id"], "level": node["level"], "tasks": node["tasks"]} for node in payload["nodes"]],
        "edges": [{"from": edge["to"], "to": edge["from"]} for edge in payload["edges"]],
        "levels": payload["levels"],
    }


class Truth:
    """Follows the events of a bus; an `orch.started` without a graph is filled in with the graph that is known.

    That is the one of `set_graph`, or a later one that an `orch.started` has brought, in which every unit is pending
    again: how a resumed run began says nothing of the next one. So it is with the parallelism.

    Attributes:
        begun: Whether a run has begun. Before, a display that comes late may know less than one that was there.
    """

    def __init__(self, graph: Graph | None = None, parallelism: int = 0) -> None:
        self.begun = False
        self._known: dict[str, Any] | None = None
        self._parallelism = parallelism
        self._store = Store()
        if graph is not None:
            self._known = json.loads(encode(Event("graph", payload=told(graph)), sys.maxsize))["payload"]

    def follow(self, event: Event) -> None:
        line = encode(event, sys.maxsize)
        if event.type == "orch.started":
            line = self._filled_in(json.loads(line))
        self._store.read(line)

    def picture(self) -> dict[str, Any]:
        return self._store.picture()

    def unit(self, name: str) -> dict[str, Any]:
        """What is shown of one unit."""
        unit: dict[str, Any] = self.picture()["units"][name]
        return unit

    def _filled_in(self, event: dict[str, Any]) -> bytes:
        self.begun = True
        mine = event.get("payload")
        if mine is None:
            mine = {}
        if isinstance(mine, dict):
            self._parallelism = mine.get("parallelism", self._parallelism)
        if isinstance(mine, dict) and mine.get("graph") is not None:
            nodes = [{key: node[key] for key in ("id", "level", "tasks")} for node in mine["graph"]["nodes"]]
            self._known = {**mine["graph"], "nodes": nodes}
        elif isinstance(mine, dict) and self._known is not None:
            count = len(self._known["nodes"])
            mine = {"unit_count": count, "parallelism": self._parallelism, **mine, "graph": self._known}
        return json.dumps({**event, "payload": mine}).encode()
