"""A double of the dashboard server `choo web`, which does to its socket what the real one is known to do.

    python choo_web.py SOCKET

It knows nothing of socketpusher. After every line it prints its picture, as one JSON object: what a user would see.
"""

import json
import os
import socket
import sys
from typing import Any

LINE_LIMIT = 1_048_576  # bytes, with the newline

STATUS_AFTER = {
    "unit.queued": "ready",
    "unit.started": "in_progress",
    "unit.completed": "complete",
    "unit.failed": "failed",
    "unit.blocked": "blocked",
}


class Dashboard:
    """The picture, which begins with `orch.started`."""

    def __init__(self) -> None:
        self.connections = 0
        self.run = "nothing yet"
        self.parallelism = 0
        self.units: dict[str, dict[str, Any]] = {}

    def follow(self, event: dict[str, Any]) -> None:
        kind, payload = event["type"], event.get("payload")
        if kind == "orch.started":
            self.begin(payload)
        elif kind in ("orch.completed", "orch.failed"):
            self.run = kind.removeprefix("orch.")
        elif (unit := self.units.get(event.get("unit", ""))) is None:
            return  # one that it was never told of
        elif kind == "task.started":
            unit["task"] = event["task"]
        elif kind == "task.completed":
            unit["completed_tasks"] += 1
        elif kind in STATUS_AFTER:
            unit["status"] = STATUS_AFTER[kind]
            unit["error"] = event.get("error", "")
            if kind == "unit.started" and payload:
                unit["tasks"] = payload["total_tasks"]
                unit["completed_tasks"] = payload["completed_tasks"]

    def begin(self, payload: dict[str, Any]) -> None:
        self.run = "running"
        self.parallelism = payload["parallelism"]
        self.units = {
            node["id"]: {
                "status": node.get("status", "pending"),
                "level": node["level"],
                "tasks": node["tasks"],
                "completed_tasks": node.get("completed_tasks", 0),
                "task": 0,
                "error": "",
            }
            for node in payload["graph"]["nodes"]
        }
        assert len(self.units) == payload["unit_count"]

    def serve(self, connection: socket.socket) -> None:
        """Follow one sender to its end."""
        self.connections += 1
        with connection, connection.makefile("rb") as file:
            while line := file.readline(LINE_LIMIT):
                if not line.endswith(b"\n"):
                    return  # too long, or cut by the sender's death
                try:
                    event = json.loads(line)
                except ValueError:
                    continue
                self.follow(event)
                print(json.dumps(vars(self)), flush=True)


def main(path: str) -> None:
    if os.path.exists(path):
        os.unlink(path)  # of one that was killed
    dashboard = Dashboard()
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        listener.listen()
        while True:
            dashboard.serve(listener.accept()[0])


if __name__ == "__main__":
    main(sys.argv[1])
