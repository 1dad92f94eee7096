"""The dashboard shows the graph of the run, whichever way it was told and however large it is."""

from typing import Any

import pytest

from socketpusher import Bus, Event, Graph
from support.consumer import Consumer
from support.truth import told
from support.waiting import wait_for
from support.web import Web, kill_writer, sending

SMALL = Graph({"app": ["setup"], "setup": []}, {"app": 2})


def large() -> Graph:
    """5,000 units with up to 3 dependencies, whose line is longer than known consumers accept."""
    names = [f"packages/some-department/unit-{number:05}" for number in range(5000)]
    return Graph({name: names[max(0, n - 3) : n] if n % 50 else [] for n, name in enumerate(names)})


def started(graph: dict[str, Any], parallelism: int = 4) -> Event:
    """An `orch.started` with a graph of its own."""
    return Event(
        "orch.started",
        payload={"unit_count": len(graph["nodes"]), "parallelism": parallelism, "graph": graph},
    )


def test_each_unit_is_drawn_with_an_arrow_to_its_dependency(bus: Bus, web: Web) -> None:
    with sending(bus, web.path, SMALL) as (_, truth):
        bus.emit(Event("orch.started"))
        web.shows(truth)
        assert web.picture()["units"]["app"]["depends_on"] == ["setup"]
        web.restart()
        web.shows(truth)


def test_edges_run_to_the_dependency_in_orch_started_and_to_the_dependent_in_graph(
    bus: Bus, consumer: Consumer
) -> None:
    with sending(bus, consumer.path, SMALL):
        bus.emit(Event("orch.started"))
        wait_for(lambda: len(consumer.lines()) == 2)
    graph, begun = consumer.events()
    assert (graph.type, begun.type) == ("graph", "orch.started")
    assert graph.payload["edges"] == [{"from": "setup", "to": "app"}]
    assert begun.payload["graph"]["edges"] == [{"from": "app", "to": "setup"}]
    assert begun.payload["graph"]["levels"] == [["setup"], ["app"]]


def test_a_graph_of_5000_units_is_drawn(bus: Bus, web: Web) -> None:
    with sending(bus, web.path, large()):
        bus.emit(Event("orch.started"))
        for _ in range(2):
            picture = web.wait_for("running")
            assert (len(picture["units"]), picture["page"], picture["parallelism"]) == (5000, "drawn", 3)
            web.restart()


@pytest.mark.parametrize("graph", [None, SMALL], ids=["without set_graph", "with set_graph"])
def test_a_large_graph_in_orch_started_is_drawn(bus: Bus, web: Web, graph: Graph | None) -> None:
    mine = told(large())
    mine["nodes"][7] |= {"status": "complete", "completed_tasks": 3}
    with sending(bus, web.path, graph):
        bus.emit(started(mine))
        for _ in range(2):
            picture = web.wait_for("running")
            assert (len(picture["units"]), picture["page"], picture["parallelism"]) == (5000, "drawn", 4)
            resumed = picture["units"][mine["nodes"][7]["id"]]
            assert (resumed["status"], resumed["currentTask"]) == ("complete", 3)
            web.restart()


@pytest.mark.parametrize(("count", "length"), [(14_000, 6), (12_000, 51)])
def test_a_graph_that_hardly_fits_is_never_shown_with_false_statuses(
    bus: Bus, web: Web, count: int, length: int
) -> None:
    names = [f"{number:0{length}}" for number in range(count)]
    graph = Graph({name: [] for name in names}, dict.fromkeys(names, 5))
    with sending(bus, web.path, graph, buffer_size=2 * count) as (pusher, _):
        bus.emit(Event("orch.started"))
        for name in names:
            bus.emit(Event("unit.completed", name))
        assert pusher.flush(60)
        web.restart()

        def is_true() -> bool:
            picture = web.picture()
            statuses = {unit["status"] for unit in picture["units"].values()}
            return picture["status"] == "running" and picture["page"] != "throws" and statuses <= {"complete"}

        wait_for(is_true, what="a run all of whose units that are shown are complete")


def test_the_graph_of_a_second_run_replaces_the_first(bus: Bus, web: Web) -> None:
    with sending(bus, web.path, SMALL) as (_, truth):
        for event in (Event("orch.started"), Event("unit.completed", "setup"), Event("orch.completed")):
            bus.emit(event)
        web.shows(truth)
        bus.emit(started(told(Graph({"deploy": ["test"], "test": []}, {"test": 3}))))
        bus.emit(Event("unit.completed", "test"))
        web.shows(truth)
        web.restart()
        web.shows(truth)
        assert web.picture()["units"].keys() == {"deploy", "test"}
        bus.emit(Event("unit.started", "deploy"))
        web.restart()
        web.shows(truth)


def test_a_run_without_a_graph_is_shown_as_running(bus: Bus, web: Web) -> None:
    with sending(bus, web.path) as (_, truth):
        bus.emit(Event("orch.started"))
        assert web.wait_for("running") == truth.picture()
        web.restart()
        web.shows(truth)
        bus.emit(Event("orch.completed"))
        web.shows(truth)
        assert (web.picture()["status"], web.picture()["page"]) == ("completed", "empty")


@pytest.mark.parametrize("killed", ["server", "writer and server"])
def test_a_graph_that_only_orch_started_brings_is_told_to_the_next_server(bus: Bus, web: Web, killed: str) -> None:
    with sending(bus, web.path) as (pusher, truth):
        bus.emit(started(told(SMALL)))
        bus.emit(Event("unit.completed", "setup"))
        web.shows(truth)
        if "writer" in killed:
            kill_writer(pusher)
        web.restart()
        web.shows(truth)
        bus.emit(Event("unit.started", "app"))
        web.shows(truth)
