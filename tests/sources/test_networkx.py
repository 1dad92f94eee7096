"""A graph of networkx, from `set_graph` to the consumer."""

import networkx

from socketpusher import Bus, Event, PusherConfig, SocketPusher
from support.consumer import Consumer
from support.waiting import wait_for


def test_a_consumer_gets_the_graph_and_the_state_of_its_units(consumer: Consumer, bus: Bus) -> None:
    graph = networkx.DiGraph([("setup", "app"), ("setup", "docs"), ("app", "release"), ("docs", "release")])
    graph.nodes["app"]["tasks"] = 3
    pusher = SocketPusher(bus, PusherConfig(socket_path=consumer.path, reconnect_backoff=0.01))
    pusher.set_graph(graph, parallelism=2)
    with pusher:
        bus.emit(Event("orch.started"))
        for unit in networkx.topological_sort(graph):
            bus.emit(Event("unit.started", unit=unit))
            if unit == "docs":
                bus.emit(Event("unit.failed", unit=unit, error="no ink"))
                break
            bus.emit(Event("unit.completed", unit=unit))
        assert pusher.flush(30)
        wait_for(lambda: len(consumer.lines()) == pusher.stats().sent + 1)  # or it would be told of it again
        consumer.go_away()
        consumer.come_back()
        bus.emit(Event("orch.failed"))
        assert pusher.flush(30)
    told = [event for event in consumer.events() if event.type in ("graph", "orch.started")]
    first, started, again = told[0].payload, told[1].payload, told[2].payload
    assert first["levels"] == [["setup"], ["app", "docs"], ["release"]]
    assert {(edge["from"], edge["to"]) for edge in first["edges"]} == set(graph.edges)
    assert {node["id"]: node["tasks"] for node in first["nodes"]} == {"setup": 0, "app": 3, "docs": 0, "release": 0}
    assert (started["unit_count"], started["parallelism"]) == (4, 2)
    assert started["graph"]["nodes"] == first["nodes"]
    assert {(edge["to"], edge["from"]) for edge in started["graph"]["edges"]} == set(graph.edges)
    statuses = {node["id"]: node["status"] for node in again["nodes"]}
    assert statuses == {"setup": "complete", "app": "complete", "docs": "failed", "release": "pending"}
