"""What a connection begins with, whatever the host has put into its events and names."""

import math
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from socketpusher import Event, Graph, wire
from socketpusher.channel.batch import Batch
from socketpusher.graph import GraphPayload, smaller_graphs
from socketpusher.writer.preface import Preface

LIMIT = 1 << 20

anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=5,
)
names = st.sampled_from(["a", "b", "", "\udce9"]) | anything
nodes = st.fixed_dictionaries(
    {},
    optional={
        "id": names,
        "level": st.integers() | anything,
        "status": st.sampled_from(["pending", "failed"]) | anything,
        "tasks": st.integers() | anything,
        "completed_tasks": st.integers() | anything,
        "depends_on": st.lists(names, max_size=2) | anything,
    },
)
edges = st.fixed_dictionaries({}, optional={"from": names, "to": names})
graphs = st.fixed_dictionaries(
    {},
    optional={
        "nodes": st.lists(nodes | anything, max_size=3) | anything,
        "edges": st.lists(edges | anything, max_size=2) | anything,
        "levels": st.lists(st.lists(names, max_size=2) | anything, max_size=2) | anything,
    },
)
payloads = st.fixed_dictionaries({}, optional={"graph": graphs | anything, "total_tasks": anything}) | anything
events = st.builds(
    Event,
    st.sampled_from(["orch.started", "unit.started", "unit.failed", "task.completed", "orch.completed"]),
    names,
    task=st.none() | st.integers(),
    payload=payloads,
)


def batch(*events: Event, first: int = 0) -> Batch:
    return Batch(first, first + len(events), b"".join(map(wire.encode, events)))


def payloads_of(lines: bytes) -> list[Any]:
    return [wire.decode(line).payload for line in lines.splitlines()]


@given(st.lists(events, max_size=5), st.booleans())
def test_lines_with_any_payload_are_delivered(emitted: list[Event], with_graph: bool) -> None:
    preface = Preface(Graph({"a": []}).payload() if with_graph else None, 2, LIMIT)
    lines = preface.fill_in_graph(batch(*emitted))
    assert len(lines.data.splitlines()) == len(emitted)
    preface.observe(lines.data)
    for line in [*lines.data.splitlines(), *preface.lines().splitlines()]:
        wire.decode(line)


def deep() -> list[Any]:
    value: list[Any] = []
    for _ in range(240):
        value = [value]
    return value


@pytest.mark.parametrize(
    "graph",
    [
        None,
        {},
        [],
        {"nodes": None},
        {"nodes": ["a"]},
        {"nodes": [{"id": ["a"]}]},
        {"nodes": [{"level": 0}]},
        {"nodes": [{"id": "a", "level": "0"}]},
        {"nodes": [{"id": "a", "level": 2**70}]},
        {"nodes": [{"id": "a", "level": math.nan}]},
        {"nodes": [{"id": "a", "depends_on": "b"}]},
        {"nodes": [{"id": "a", "depends_on": [{}]}]},
        {"nodes": [{"id": "a"}], "edges": {}},
        {"nodes": [{"id": "a"}], "edges": [{"from": "a"}]},
        {"nodes": [{"id": "a"}], "levels": ["a"]},
        {"nodes": deep()},
    ],
)
def test_a_graph_that_is_malformed_is_no_graph(graph: Any) -> None:
    started = Event("orch.started", payload={"graph": graph, "mine": 1})
    preface = Preface(None, 2, LIMIT)
    emitted = batch(started)
    assert preface.fill_in_graph(emitted).data == emitted.data
    preface.observe(emitted.data)
    assert payloads_of(preface.lines()) == payloads_of(emitted.data)
    known = Graph({"a": []}).payload()
    preface = Preface(known, 2, LIMIT)
    lines = preface.fill_in_graph(emitted)
    filled = {"unit_count": 1, "parallelism": 2, "mine": 1, "graph": known}
    assert payloads_of(lines.data) == ([filled] if graph is None else payloads_of(emitted.data))
    preface.observe(lines.data)
    assert payloads_of(preface.lines())[0] == known


def test_an_empty_graph_takes_the_place_of_one_that_was_too_long_and_not_that_of_the_run_before() -> None:
    preface = Preface(Graph({"a": []}).payload(), 2, LIMIT)
    emitted = batch(Event("orch.started", payload={"graph": {"nodes": []}}), Event("orch.started"))
    assert preface.fill_in_graph(emitted).data.splitlines()[0] == emitted.data.splitlines()[0]
    preface.observe(emitted.data)
    assert [wire.decode(line).type for line in preface.lines().splitlines()] == ["orch.started"]


def test_the_status_of_a_unit_may_be_anything() -> None:
    node = {"id": "a", "status": ["x"], "tasks": 2**63, "completed_tasks": {}, "mine": [None]}
    preface = Preface(None, 2, LIMIT)
    preface.observe(batch(Event("orch.started", payload={"graph": {"nodes": [node]}})).data)
    graph, started = payloads_of(preface.lines())
    assert graph["nodes"] == [node | {"status": "pending", "tasks": 0, "completed_tasks": 0}]
    assert started["graph"]["nodes"][0]["status"] == ["x"]


def test_a_line_that_is_not_json_is_delivered() -> None:
    torn = Batch(0, 2, b'{"type":"orch.started","ti\n{"type":"unit.started",\n')
    preface = Preface(Graph({"a": []}).payload(), 2, LIMIT)
    assert preface.fill_in_graph(torn).data == torn.data
    preface.observe(torn.data)
    assert len(payloads_of(preface.lines())) == 1


def test_an_orch_started_that_just_fits_is_not_filled_in_beyond_the_limit() -> None:
    for size in range(800, 1024):
        line = wire.encode(Event("orch.started", error="e" * size), 1024 - wire.RETAINED_BYTES)
        preface = Preface(None, 2, 1024)
        preface.observe(preface.fill_in_graph(Batch(0, 1, line)).data)
        assert len(preface.lines()) <= 1024


def test_a_graph_that_does_not_fit_is_tried_once(monkeypatch: pytest.MonkeyPatch) -> None:
    preface = Preface(Graph({f"unit-{number:040}": [] for number in range(50)}).payload(), 2, 1024)
    lines = preface.lines()
    assert "50 units do not fit" in payloads_of(lines)[0]
    monkeypatch.setattr("socketpusher.writer.preface.smaller_graphs", lambda graph: pytest.fail("tried again"))
    preface.observe(batch(Event("unit.failed", "x")).data)
    assert preface.lines().startswith(lines)


def test_a_line_that_was_filled_in_fits_when_it_is_repeated() -> None:
    started = batch(Event("orch.started"))
    full = len(Preface(Graph({"a": []}).payload(), 2, LIMIT).fill_in_graph(started).data)
    for limit in range(full - 1, full + 30):
        preface = Preface(Graph({"a": []}).payload(), 2, limit)
        preface.observe(preface.fill_in_graph(started).data)
        assert len(preface.digest()) <= limit


def test_units_of_a_graph_are_remembered_however_many_others_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("socketpusher.run_state.MAX_ENDED_UNITS", 1)
    preface = Preface(Graph({"a": []}).payload(), 2, LIMIT)
    preface.observe(batch(*(Event("unit.completed", unit) for unit in ("a", "b", "c"))).data)
    assert [wire.decode(line).unit for line in preface.lines().splitlines()] == ["", "a", "c"]
    own = Event("orch.started", payload={"graph": {"nodes": [{"id": "b"}]}})
    again = preface.fill_in_graph(batch(own, *(Event("unit.completed", unit) for unit in ("a", "b", "c", "d"))))
    assert preface.graph_units == {"a", "b"}
    preface.observe(again.data)
    assert [wire.decode(line).unit for line in preface.lines().splitlines()] == ["", "", "b", "d"]


def test_a_reduced_graph_stays_reduced(monkeypatch: pytest.MonkeyPatch) -> None:
    names = [f"unit-{number:030}" for number in range(20)]
    graph = Graph({name: names[:number] for number, name in enumerate(names)}).payload()
    preface = Preface(graph, 2, 4000)
    assert payloads_of(preface.lines())[0]["edges"] == []

    def first_only(graph: GraphPayload) -> Iterator[GraphPayload]:
        yield next(smaller_graphs(graph))
        pytest.fail("tried in vain")

    monkeypatch.setattr("socketpusher.writer.preface.smaller_graphs", first_only)
    assert payloads_of(preface.lines())[0]["edges"] == []


def test_a_new_writer_fills_in_the_graph_of_a_run_whose_begin_was_dropped() -> None:
    preface = Preface(Graph({"a": []}).payload(), 2, LIMIT)
    own = {"nodes": [{"id": "b"}], "edges": [], "levels": []}
    preface.recover([], [(3, wire.encode(Event("orch.started", payload={"parallelism": 7, "graph": own})))])
    before = preface.fill_in_graph(batch(Event("orch.started"), first=1))
    behind = preface.fill_in_graph(batch(Event("orch.started"), first=3))
    told = [[node["id"] for node in payloads_of(lines.data)[0]["graph"]["nodes"]] for lines in (before, behind)]
    assert told == [["a"], ["b"]]
    assert payloads_of(behind.data)[0]["parallelism"] == 7


def test_verbatim_lines_are_not_filled_in_and_a_run_without_a_graph_has_none() -> None:
    preface = Preface(None, 2, LIMIT, verbatim=True)
    first = batch(Event("orch.started", payload={"graph": Graph({"a": []}).payload()}), Event("unit.started", "a"))
    second = batch(Event("orch.started", payload={}), Event("unit.started", "b"), first=2)
    for lines in (first, second):
        assert preface.fill_in_graph(lines).data == lines.data
        preface.observe(lines.data)
    told = [wire.decode(line) for line in preface.lines().splitlines()]
    assert [(event.type, event.unit, event.payload) for event in told] == [
        ("orch.started", "", {}),
        ("unit.started", "b", None),
    ]
