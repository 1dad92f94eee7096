"""Units, their dependencies, and the levels in which they can run."""

import enum
import pickle
import time
from typing import Any

import networkx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from socketpusher import CycleError, Graph, MissingDependencyError


@st.composite
def dags(draw: st.DrawFn) -> dict[str, list[str]]:
    """Units in a random order, each depending on some of those before it, declared in another order."""
    names = draw(st.lists(st.text(min_size=1, max_size=5), unique=True, max_size=15))
    graph = {name: draw(st.lists(st.sampled_from(names[:i]), max_size=4)) if i else [] for i, name in enumerate(names)}
    return {name: graph[name] for name in draw(st.permutations(names))}


@given(dags())
def test_levels_are_topological_and_complete(dependencies: dict[str, list[str]]) -> None:
    graph = Graph(dependencies)
    levels = graph.levels()
    level_of = {unit: number for number, level in enumerate(levels) for unit in level}
    assert sorted(level_of) == sorted(dependencies)
    assert sum(len(level) for level in levels) == len(dependencies) == len(graph)
    for unit, names in dependencies.items():
        assert level_of[unit] == max((level_of[name] + 1 for name in names), default=0)
        assert graph.dependencies(unit) == list(dict.fromkeys(names))
    assert all(level == sorted(level) and level for level in levels)


@given(dags(), st.data())
def test_a_cycle_is_found_in_any_graph_that_has_one(dependencies: dict[str, list[str]], data: st.DataObject) -> None:
    if not dependencies:
        return
    circle = data.draw(st.lists(st.sampled_from(sorted(dependencies)), min_size=1, unique=True))
    cyclic = {unit: list(names) for unit, names in dependencies.items()}
    for unit, name in zip(circle, circle[1:] + circle[:1], strict=True):
        cyclic[unit].append(name)
    with pytest.raises(CycleError) as caught:
        Graph(cyclic)
    cycle = caught.value.cycle
    assert len(set(cycle)) == len(cycle) >= 1
    for unit, name in zip(cycle, cycle[1:] + cycle[:1], strict=True):
        assert name in cyclic[unit]
    assert " -> ".join([*cycle, cycle[0]]) in str(caught.value)


@given(dags())
def test_the_payload_holds_every_unit_and_every_dependency(dependencies: dict[str, list[str]]) -> None:
    payload = Graph(dependencies, tasks={unit: len(unit) for unit in dependencies}).payload()
    assert {node["id"]: node.get("depends_on", []) for node in payload["nodes"]} == {
        unit: list(dict.fromkeys(names)) for unit, names in dependencies.items()
    }
    assert {(edge["from"], edge["to"]) for edge in payload["edges"]} == {
        (name, unit) for unit, names in dependencies.items() for name in names
    }
    for node in payload["nodes"]:
        assert node["id"] in payload["levels"][node["level"]]
        assert (node["label"], node["tasks"]) == (node["id"], len(node["id"]))
        assert (node["status"], node["completed_tasks"]) == ("pending", 0)
        assert node.get("depends_on") != []


def test_an_undeclared_dependency_is_named() -> None:
    with pytest.raises(MissingDependencyError, match="'app' depends on 'setpu', which is not a unit") as caught:
        Graph({"app": ["setpu"], "setup": []})
    assert (caught.value.unit, caught.value.dependency) == ("app", "setpu")


def test_a_cycle_is_printed_as_a_path() -> None:
    with pytest.raises(CycleError, match="a -> b -> a"):
        Graph({"a": ["b"], "b": ["a"], "c": ["a"]})


@pytest.mark.parametrize(
    ("dependencies", "tasks", "error", "message"),
    [
        ({"app": "setup", "setup": []}, None, TypeError, r"write \['setup'\]"),
        ({1: []}, None, TypeError, "a unit's name must be a str, not 1"),
        ({"a": [1]}, None, TypeError, "must be a str, not 1"),
        ({"a": []}, {"b": 1}, ValueError, "'b', which is not a unit"),
        ({"a": []}, {"a": -1}, ValueError, "must be between 0 and"),
        ({"a": []}, {"a": 1.5}, TypeError, "must be an int, not 1.5"),
    ],
)
def test_what_is_not_a_graph_is_refused(dependencies, tasks, error, message) -> None:
    with pytest.raises(error, match=message):
        Graph(dependencies, tasks)


def test_graphs_of_other_libraries_are_accepted() -> None:
    theirs = networkx.DiGraph([("setup", "app"), ("app", 3)])
    theirs.nodes["app"]["tasks"] = 4
    graph = Graph.from_any(theirs)
    assert graph.levels() == [["setup"], ["app"], ["3"]]
    assert {node["id"]: node["tasks"] for node in graph.payload()["nodes"]} == {"setup": 0, "app": 4, "3": 0}
    assert Graph.from_any(graph) is graph
    assert Graph.from_any({"a": []}).levels() == [["a"]]
    with pytest.raises(TypeError, match="not list"):
        Graph.from_any([("a", "b")])
    with pytest.raises(CycleError):
        Graph.from_any(networkx.DiGraph([(1, 2), (2, 1)]))
    with pytest.raises(ValueError, match="the nodes 1 and '1' would both be the unit '1'; rename one"):
        Graph.from_any(networkx.DiGraph([(1, 2), ("1", 3)]))


def test_the_cost_of_a_graph_grows_with_its_size() -> None:
    """Ten times the units take about ten times the time, not a hundred times: compared in one run."""

    def seconds(units: int) -> float:
        chain = {f"u{i}": [f"u{j}" for j in (i - 1, i // 2) if 0 <= j < i] for i in range(units)}
        start = time.process_time()
        Graph(chain).payload()
        return time.process_time() - start

    small = min(seconds(3_000) for _ in range(3))
    assert seconds(30_000) < 40 * small


class Unit(enum.StrEnum):
    APP = "app"
    SETUP = "setup"


class Mixed(str, enum.Enum):  # noqa: UP042  # a StrEnum's own text can't lie
    APP = "app"
    SETUP = "setup"

    def __str__(self) -> str:
        return "a lie"


class Tasks(enum.IntEnum):
    THREE = 3


@pytest.mark.parametrize("kind", [Unit, Mixed])
def test_nothing_of_the_callers_own_classes_is_kept(kind: Any) -> None:
    """The payload goes to the writer, which can't import what the host's main script defines."""
    dependencies = {kind.APP: [kind.SETUP], kind.SETUP: []}
    graph = Graph(dependencies, tasks={kind.APP: Tasks.THREE})
    plain = Graph({"app": ["setup"], "setup": []}, tasks={"app": 3})
    for payload in (graph.payload(), Graph.from_any(networkx.DiGraph([(kind.SETUP, kind.APP)])).payload()):
        payload["nodes"][1]["tasks"] = 3
        assert payload == plain.payload()
        assert __name__.encode() not in pickle.dumps(payload)
    assert graph.dependencies(kind.APP) == ["setup"]


def test_a_name_with_lone_surrogates_is_kept() -> None:
    assert Graph({"caf\udce9": []}).levels() == [["caf\udce9"]]
