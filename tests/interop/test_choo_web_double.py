"""The double of `choo web` reads as the real server is known to read."""

import json
import socket
from typing import Any

import pytest

from interop.choo_web import ZERO_TIME, Store
from support.waiting import wait_for
from support.web import Web

TIME = "2026-01-02T03:04:05.678Z"
NODE = {"id": "a", "level": 0, "tasks": 3}
GRAPH: dict[str, Any] = {
    "nodes": [NODE, {"id": "b", "level": 1, "status": "complete", "completed_tasks": 2}],
    "edges": [{"from": "b", "to": "a"}],
    "levels": [["a"], ["b"]],
}
STARTED = {"unit_count": 2, "parallelism": 4, "graph": GRAPH}


def fed(*events: dict[str, Any]) -> Store:
    store = Store()
    for event in events:
        store.read(json.dumps({"time": TIME, **event}).encode())
    return store


def started(**changes: Any) -> dict[str, Any]:
    return {"type": "orch.started", "payload": STARTED | changes}


def unit(*events: dict[str, Any]) -> dict[str, Any]:
    """What it shows of a unit at the end."""
    found: dict[str, Any] = fed(started(), *({"unit": "a", **event} for event in events)).picture()["units"]["a"]
    return found


def test_a_run_is_shown_as_its_start_tells_it() -> None:
    assert fed().picture() == {
        "status": "waiting",
        "startedAt": ZERO_TIME,
        "parallelism": 0,
        "page": "empty",
        "units": {},
    }
    assert fed(started()).picture() == {
        "status": "running",
        "startedAt": TIME,
        "parallelism": 4,
        "page": "drawn",
        "units": {
            "a": {
                "status": "pending",
                "totalTasks": 3,
                "currentTask": 0,
                "error": "",
                "startedAt": ZERO_TIME,
                "depends_on": [],
            },
            "b": {
                "status": "complete",
                "totalTasks": 0,
                "currentTask": 2,
                "error": "",
                "startedAt": ZERO_TIME,
                "depends_on": ["a"],
            },
        },
    }


@pytest.mark.parametrize(
    "payload",
    [
        None,
        [],
        "text",
        STARTED | {"unit_count": "2"},
        STARTED | {"unit_count": 2.0},
        STARTED | {"parallelism": True},
        STARTED | {"parallelism": 2**63},
        STARTED | {"graph": []},
        STARTED | {"graph": {"nodes": {}}},
        STARTED | {"graph": {"nodes": [NODE | {"id": 1}]}},
        STARTED | {"graph": {"nodes": [NODE | {"tasks": "3"}]}},
        STARTED | {"graph": {"nodes": [NODE | {"completed_tasks": 1.5}]}},
        STARTED | {"graph": GRAPH | {"edges": [["a", "b"]]}},
        STARTED | {"graph": GRAPH | {"levels": ["a", "b"]}},
    ],
)
def test_a_start_with_a_field_of_the_wrong_type_is_ignored_as_a_whole(payload: object) -> None:
    assert fed({"type": "orch.started", "payload": payload}).picture() == fed().picture()


@pytest.mark.parametrize("missing", ["edges", "levels"])
def test_the_page_needs_edges_and_levels(missing: str) -> None:
    assert fed(started(graph=GRAPH | {missing: None})).picture()["page"] == "throws"
    thin = {key: value for key, value in GRAPH.items() if key != missing}
    assert fed(started(graph=thin)).picture()["page"] == "throws"
    assert fed(started(graph=GRAPH | {missing: []})).picture()["page"] == "drawn"


@pytest.mark.parametrize("payload", [{}, {"graph": None}, {"graph": {}}])
def test_without_a_graph_the_page_is_empty(payload: dict[str, Any]) -> None:
    picture = fed({"type": "orch.started", "payload": payload}).picture()
    assert (picture["status"], picture["page"], picture["units"]) == ("running", "empty", {})


def test_a_unit_follows_its_events() -> None:
    for kind, status in (("queued", "ready"), ("started", "in_progress"), ("completed", "complete")):
        assert unit({"type": f"unit.{kind}"})["status"] == status
    assert unit({"type": "unit.blocked"})["status"] == "blocked"
    for kind in ("unit.skipped", "unit.merged", "unit.progress", "task.completed", "graph"):
        assert unit({"type": kind, "task": 2}) == unit()


def test_a_start_of_a_unit_says_how_many_tasks_there_are() -> None:
    def counts(payload: object) -> tuple[int, int]:
        after = unit({"type": "task.started", "task": 3}, {"type": "unit.started", "payload": payload})
        assert after["startedAt"] == TIME
        return after["totalTasks"], after["currentTask"]

    assert counts({"total_tasks": 5, "completed_tasks": 1}) == (5, 1)
    assert counts({"total_tasks": None}) == counts({}) == (0, 0)
    assert counts(None) == counts([]) == counts({"total_tasks": "5", "completed_tasks": 1}) == (3, 2)


def test_the_current_task_is_the_one_before_or_the_next() -> None:
    assert unit({"type": "task.started", "task": 3})["currentTask"] == 2
    assert unit({"type": "task.started", "task": 3}, {"type": "task.started"})["currentTask"] == 3
    assert unit({"type": "task.started", "task": 0})["currentTask"] == -1


def test_a_new_try_keeps_the_error_and_a_new_failure_replaces_it() -> None:
    failed = {"type": "unit.failed", "error": "boom"}
    assert unit(failed, {"type": "unit.started"})["error"] == "boom"
    assert unit(failed, {"type": "unit.failed"})["error"] == ""


def test_a_new_run_begins_anew() -> None:
    failed = {"type": "unit.failed", "unit": "a", "error": "boom"}
    assert fed(started(), failed, {"type": "orch.failed"}, started()).picture() == fed(started()).picture()


@pytest.mark.parametrize(
    "line",
    [
        b"\n",
        b"no JSON\n",
        b"[]\n",
        b'{"type":"orch.failed"} {}\n',
        b'{"type":"orch.failed","pr":NaN}\n',
        b'{"type":"orch.failed","pr":"1"}\n',
        b'{"type":"orch.failed","task":1.5}\n',
        b'{"type":"orch.failed","unit":1}\n',
        b'{"type":"orch.failed","error":{}}\n',
        b'{"type":"orch.failed","time":1700000000}\n',
        b'{"type":"orch.failed","time":"2026-01-02 03:04:05"}\n',
        b'{"type":"orch.failed","time":"2026-13-02T03:04:05Z"}\n',
    ],
)
def test_a_line_that_is_no_event_is_skipped(line: bytes) -> None:
    store = fed(started())
    store.read(line)
    assert store.status == "running"
    store.read(b'{"type":"orch.failed","time":"2026-01-02T03:04:05+01:00","pr":null}\n')
    assert store.status == "failed"


def test_it_drops_a_connection_at_a_line_that_is_too_long(web: Web) -> None:
    event = json.dumps({"time": TIME, **started()}).encode()
    for length, taken in ((1_048_577, False), (1_048_576, True)):
        with socket.socket(socket.AF_UNIX) as sender:
            sender.connect(web.path)
            try:
                sender.sendall(event + b" " * (length - len(event) - 1) + b"\n")
                sender.shutdown(socket.SHUT_WR)
                sender.recv(1)  # until it hangs up
            except (BrokenPipeError, ConnectionResetError):
                assert not taken
        assert web.picture()["status"] == ("running" if taken else "waiting")
    assert web.connections() == 2


def test_it_keeps_its_picture_when_its_sender_goes_and_begins_with_nothing_when_it_is_restarted(web: Web) -> None:
    with socket.socket(socket.AF_UNIX) as first, socket.socket(socket.AF_UNIX) as second:
        first.connect(web.path)
        second.connect(web.path)
        second.sendall(b'{"type":"orch.completed"}\n')
        first.sendall(json.dumps({"time": TIME, **started()}).encode() + b"\n")
        assert web.picture()["status"] == "running"
        first.close()
        wait_for(lambda: web.picture()["status"] == "completed")
        assert web.picture()["units"] == fed(started()).picture()["units"]
    web.restart()
    assert web.picture() == fed().picture()
