"""A dashboard that was stopped until events were dropped shows the truth when it goes on."""

import os
import signal
from collections.abc import Callable
from typing import Literal

import pytest

from socketpusher import Bus, Event, Graph, SocketPusher
from support.truth import Truth, told
from support.waiting import stop
from support.web import Web, drop_some, padding, sending

Overflow = Literal["drop_newest", "drop_oldest"]
BUFFER = 20

UNITS = [f"unit {number}" for number in range(300)]
GRAPH = Graph({unit: [] for unit in UNITS}, dict.fromkeys(UNITS, 4))

pytestmark = pytest.mark.parametrize("overflow", ["drop_newest", "drop_oldest"])


def emit(bus: Bus, kind: str, **fields: object) -> None:
    """The same event for each unit."""
    for unit in UNITS:
        bus.emit(Event(kind, unit, **fields))  # type: ignore[arg-type]


def goes_on(web: Web, pusher: SocketPusher, truth: Truth) -> None:
    """The server goes on, and without another event it shows the truth; so does one that comes later."""
    web.go_on()
    assert pusher.flush(60)
    web.shows(truth)
    assert web.connections() == 1
    web.restart()
    web.shows(truth)


def test_a_server_that_was_stopped_shows_each_unit_as_it_stands(bus: Bus, web: Web, overflow: Overflow) -> None:
    graph = Graph({f"unit {number}": [] for number in range(3000)})
    with sending(bus, web.path, graph, overflow=overflow, buffer_size=100) as (pusher, truth):
        bus.emit(Event("orch.started"))
        web.shows(truth)
        web.stall()
        drop_some(bus, pusher)
        for unit in truth.picture()["units"]:
            bus.emit(Event("unit.queued", unit))
            bus.emit(Event("unit.completed", unit))
        goes_on(web, pusher, truth)


def test_the_start_of_the_run_may_be_among_what_was_dropped(bus: Bus, web: Web, overflow: Overflow) -> None:
    with sending(bus, web.path, GRAPH, overflow=overflow, buffer_size=BUFFER) as (pusher, truth):
        web.stall()
        drop_some(bus, pusher)
        bus.emit(Event("orch.started"))
        emit(bus, "unit.started", payload={"total_tasks": 4, "completed_tasks": 1})
        goes_on(web, pusher, truth)


def test_a_second_run_may_begin_where_events_are_dropped(bus: Bus, web: Web, overflow: Overflow) -> None:
    with sending(bus, web.path, GRAPH, overflow=overflow, buffer_size=BUFFER) as (pusher, truth):
        bus.emit(Event("orch.started"))
        emit(bus, "unit.failed", error="boom")
        bus.emit(Event("orch.failed"))
        web.shows(truth)
        web.stall()
        drop_some(bus, pusher)
        graph = told(Graph({"other": [], "unit 1": ["other"]}))
        bus.emit(Event("orch.started", payload={"unit_count": 2, "parallelism": 1, "graph": graph}))
        bus.emit(Event("unit.completed", "other"))
        for event in padding(2 * BUFFER):
            bus.emit(event)
        goes_on(web, pusher, truth)


def test_the_end_of_the_run_may_be_among_what_was_dropped(bus: Bus, web: Web, overflow: Overflow) -> None:
    with sending(bus, web.path, GRAPH, overflow=overflow, buffer_size=BUFFER) as (pusher, truth):
        bus.emit(Event("orch.started"))
        web.shows(truth)
        web.stall()
        drop_some(bus, pusher)
        emit(bus, "unit.completed")
        bus.emit(Event("orch.completed"))
        for event in padding(2 * BUFFER):
            bus.emit(event)
        goes_on(web, pusher, truth)


def started_then_completed(bus: Bus) -> None:
    emit(bus, "unit.started")
    emit(bus, "unit.completed")


def failed_then_tried_again(bus: Bus) -> None:
    emit(bus, "unit.failed", error="boom")
    emit(bus, "unit.started", payload={"total_tasks": 2, "completed_tasks": 0})


def tasks_one_by_one(bus: Bus) -> None:
    for _ in range(3):
        emit(bus, "task.started")


@pytest.mark.parametrize("work", [started_then_completed, failed_then_tried_again, tasks_one_by_one])
def test_an_older_event_that_still_waits_does_not_undo_what_was_dropped(
    bus: Bus, web: Web, overflow: Overflow, work: Callable[[Bus], None]
) -> None:
    """All units at once, so that of some the first event waits and the second is dropped, or the other way round."""
    with sending(bus, web.path, GRAPH, overflow=overflow, buffer_size=400) as (pusher, truth):
        bus.emit(Event("orch.started"))
        web.shows(truth)
        web.stall()
        for event in padding(10):
            bus.emit(event)
        work(bus)
        drop_some(bus, pusher)
        goes_on(web, pusher, truth)


def test_what_comes_after_a_gap_is_shown_on_top_of_it(bus: Bus, web: Web, overflow: Overflow) -> None:
    with sending(bus, web.path, GRAPH, overflow=overflow, buffer_size=BUFFER) as (pusher, truth):
        bus.emit(Event("orch.started"))
        for kind in ("unit.queued", "unit.started", "unit.completed"):
            web.stall()
            drop_some(bus, pusher)
            emit(bus, kind)
            web.go_on()
            bus.emit(Event("unit.failed", UNITS[0], error=f"after {kind}"))
            assert pusher.flush(60)
            web.shows(truth)


def test_events_that_the_host_refuses_leave_no_lie(bus: Bus, web: Web, overflow: Overflow) -> None:
    """The writer is stopped until the host's own bound is reached, which drops whatever comes then."""
    with sending(bus, web.path, GRAPH, overflow=overflow, buffer_size=BUFFER) as (pusher, truth):
        bus.emit(Event("orch.started"))
        web.shows(truth)
        writer = pusher.stats().writer_pid
        assert writer is not None
        stop(writer)
        for _ in range(100):
            bus.emit(Event("log", payload="x" * 100_000))
        assert pusher.stats().dropped > 0
        for number in range(1, 30):
            emit(bus, "unit.started", payload={"total_tasks": 40, "completed_tasks": 0})
            emit(bus, "task.started", task=number)
        emit(bus, "unit.failed", error="late")
        os.kill(writer, signal.SIGCONT)
        assert pusher.flush(60)
        web.shows(truth)
        web.restart()
        web.shows(truth)
        stats = pusher.stats()
        assert stats.emitted == stats.sent + stats.dropped + stats.pending
        assert stats.emitted == 1 + 100 + 300 * 59
