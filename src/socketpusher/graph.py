"""The graph of a run: its units, their dependencies, and the levels in which they can run."""

import sys
from collections.abc import Iterable, Iterator, Mapping
from graphlib import CycleError as _GraphlibCycleError
from graphlib import TopologicalSorter
from typing import Any, NotRequired, TypedDict, cast


class NodePayload(TypedDict):
    """A unit in the payload of a `graph` event. In a reduced graph a missing status is "pending", a missing count 0."""

    id: str
    level: int
    label: NotRequired[str]
    status: NotRequired[str]
    tasks: NotRequired[int]
    completed_tasks: NotRequired[int]
    depends_on: NotRequired[list[str]]


EdgePayload = TypedDict("EdgePayload", {"from": str, "to": str})
"""A dependency in the payload of a `graph` event: `from` must be complete before `to` can start."""


class GraphPayload(TypedDict):
    """The payload of a `graph` event. If it was too long for a line, `edges` and perhaps `levels` are empty."""

    nodes: list[NodePayload]
    edges: NotRequired[list[EdgePayload]]
    levels: NotRequired[list[list[str]]]


MAX_COUNT = 2**63 - 1
"""The highest number of tasks of a unit, and of units at a time."""

_DEFAULTS = {"level": None, "status": "pending", "tasks": 0, "completed_tasks": 0}


def smaller_graphs(graph: GraphPayload) -> Iterator[GraphPayload]:
    """The whole graph, then without edges, then also without labels and default values, then without tasks and levels.

    `edges` and `levels` are always lists, because some displays need them.
    """
    levels = graph.get("levels", [])
    nodes = cast(list[dict[str, Any]], graph["nodes"])
    yield {**graph, "edges": graph.get("edges", []), "levels": levels}
    yield _graph_of([{key: node[key] for key in node if key != "depends_on"} for node in nodes], levels)
    yield _graph_of([_without_defaults(node, _DEFAULTS) for node in nodes], levels)
    yield _graph_of([_without_defaults(node, {"level": None, "status": "pending"}) for node in nodes], [])


def _graph_of(nodes: list[dict[str, Any]], levels: list[list[str]]) -> GraphPayload:
    return {"nodes": cast(list[NodePayload], nodes), "edges": [], "levels": levels}


def _without_defaults(node: dict[str, Any], defaults: dict[str, Any]) -> dict[str, Any]:
    return {"id": node["id"], **{key: node[key] for key in defaults if node.get(key, defaults[key]) != defaults[key]}}


def with_edges_reversed(graph: GraphPayload) -> GraphPayload:
    """The graph with its edges reversed: in `orch.started` they run from the dependent to its dependency."""
    edges = cast(list[EdgePayload], [{"from": edge["to"], "to": edge["from"]} for edge in graph.get("edges", [])])
    return {**graph, "edges": edges}


def count_in(mapping: Mapping[str, Any], key: str, default: int) -> int:
    """A count that was read from JSON, or the default if it is not a 64-bit int. A negative one counts as 0."""
    value = mapping.get(key)
    return max(0, value) if type(value) is int and value < 2**63 else default


def graph_in(payload: object) -> GraphPayload | None:
    """The graph in the payload of an `orch.started` that was read from JSON.

    Returns:
        The graph; None if it is missing, has no units, or has an id, level, edge or dependency of the wrong type. The
        statuses and counts of its units are not checked.
    """
    graph = payload.get("graph") if isinstance(payload, dict) else None
    if not isinstance(graph, dict):
        return None
    nodes, edges, levels = graph.get("nodes"), graph.get("edges", []), graph.get("levels", [])
    well_formed = (
        (isinstance(nodes, list) and nodes and isinstance(edges, list) and isinstance(levels, list))
        and all(map(_is_node, nodes))
        and all(isinstance(edge, dict) and _are_names([edge.get("from"), edge.get("to")]) for edge in edges)
        and all(map(_are_names, levels))
    )
    return cast(GraphPayload, graph) if well_formed else None


def _is_node(node: object) -> bool:
    return (
        isinstance(node, dict)
        and isinstance(node.get("id"), str)
        and isinstance(node.get("level", 0), int)
        and _are_names(node.get("depends_on", []))
    )


def _are_names(names: object) -> bool:
    return isinstance(names, list) and all(isinstance(name, str) for name in names)


class MissingDependencyError(ValueError):
    """A unit depends on a unit that was not declared.

    Attributes:
        unit: The unit.
        dependency: The dependency that is not a unit of the graph.
    """

    def __init__(self, unit: str, dependency: str) -> None:
        super().__init__(unit, dependency)
        self.unit = unit
        self.dependency = dependency

    def __str__(self) -> str:
        return (
            f"unit {self.unit!r} depends on {self.dependency!r}, which is not a unit of the graph; "
            f"declare it (with [] if it depends on nothing)"
        )


class CycleError(ValueError):
    """Units depend on each other in a cycle.

    Attributes:
        cycle: The units of the cycle, each depending on the next and the last on the first.
    """

    def __init__(self, cycle: list[str]) -> None:
        super().__init__(cycle)
        self.cycle = cycle

    def __str__(self) -> str:
        return f"units depend on each other in a cycle: {' -> '.join([*self.cycle, self.cycle[0]])}; break it somewhere"


class Graph:
    """Units and their dependencies, without cycles.

    Args:
        dependencies: For each unit, the units that must be complete before it can start.
        tasks: How many tasks a unit has; 0 for a unit that is not in it.

    Raises:
        MissingDependencyError: A unit depends on a name that is not a key of `dependencies`.
        CycleError: Units depend on each other in a cycle.
        TypeError: A unit or a dependency is not a str, or the dependencies of a unit are a str.
        ValueError: `tasks` names an unknown unit, or has a count that is negative or over 2**63 - 1.

    Example:
        >>> Graph({"app": ["setup"], "setup": []}, tasks={"app": 3}).levels()
        [['setup'], ['app']]
    """

    def __init__(self, dependencies: Mapping[str, Iterable[str]], tasks: Mapping[str, int] | None = None) -> None:
        # Names become exactly str: the writer can't import the caller's subclasses.
        self._dependencies = dict(_checked_names(unit, names) for unit, names in dependencies.items())
        for unit, names in self._dependencies.items():
            for name in names:
                if name not in self._dependencies:
                    raise MissingDependencyError(unit, name)
        self._tasks = dict(_checked_tasks(unit, count, self._dependencies) for unit, count in (tasks or {}).items())
        self._levels = list(_levels(self._dependencies))

    @classmethod
    def from_any(cls, graph: Any) -> "Graph":
        """Make a `Graph` from any supported form of a graph.

        Args:
            graph: A `Graph`, a mapping `{unit: dependencies}`, or a `networkx.DiGraph` whose edges run from a
                dependency to its dependents and whose nodes may have an attribute `tasks`.

        Raises:
            TypeError: It has another type.
            ValueError: As the constructor; or two nodes have the same name, as 1 and "1".
        """
        if isinstance(graph, Graph):
            return graph
        if isinstance(graph, Mapping):
            return cls(graph)
        networkx = sys.modules.get("networkx")  # if not imported, the graph is not one of its
        if networkx is not None and isinstance(graph, networkx.DiGraph):
            named = {_named(node): node for node in graph}
            if len(named) < len(graph):
                name, node = next((_named(node), node) for node in graph if named[_named(node)] is not node)
                raise ValueError(f"the nodes {node!r} and {named[name]!r} would both be the unit {name!r}; rename one")
            return cls(
                {name: [_named(dependency) for dependency in graph.predecessors(node)] for name, node in named.items()},
                {name: graph.nodes[node].get("tasks", 0) for name, node in named.items()},
            )
        raise TypeError(
            f"graph must be a Graph, a mapping {{unit: dependencies}} or a networkx.DiGraph, not {type(graph).__name__}"
        )

    def __len__(self) -> int:
        return len(self._dependencies)

    def __repr__(self) -> str:
        return f"<Graph of {len(self)} units in {len(self._levels)} levels>"

    def levels(self) -> list[list[str]]:
        """The units by depth, those without dependencies first; each level is sorted by name."""
        return [list(level) for level in self._levels]

    def dependencies(self, unit: str) -> list[str]:
        """The direct dependencies of `unit`, in the order given.

        Raises:
            KeyError: There is no such unit.
        """
        return list(self._dependencies[unit])

    def payload(self) -> GraphPayload:
        """The payload of a `graph` event, every unit pending."""
        nodes: list[NodePayload] = []
        edges: list[EdgePayload] = []
        for level, units in enumerate(self._levels):
            for unit in units:
                node: NodePayload = {
                    "id": unit,
                    "label": unit,
                    "level": level,
                    "status": "pending",
                    "tasks": self._tasks.get(unit, 0),
                    "completed_tasks": 0,
                }
                if names := self._dependencies[unit]:
                    node["depends_on"] = list(names)
                    edges.extend({"from": name, "to": unit} for name in names)
                nodes.append(node)
        return {"nodes": nodes, "edges": edges, "levels": self.levels()}


def _named(node: object) -> str:
    return node if isinstance(node, str) else str(node)


def _checked_names(unit: object, names: Iterable[str]) -> tuple[str, tuple[str, ...]]:
    if not isinstance(unit, str):
        raise TypeError(f"a unit's name must be a str, not {unit!r}")
    if isinstance(names, str):
        raise TypeError(
            f"the dependencies of unit {unit!r} must be a collection of names: write [{names!r}], not {names!r}"
        )
    unique: dict[str, None] = {}
    for name in names:
        if not isinstance(name, str):
            raise TypeError(f"a dependency of unit {unit!r} must be a str, not {name!r}")
        unique[str.__str__(name)] = None
    return str.__str__(unit), tuple(unique)


def _checked_tasks(unit: str, count: int, units: Mapping[str, object]) -> tuple[str, int]:
    if unit not in units:
        raise ValueError(f"tasks names {unit!r}, which is not a unit of the graph")
    if isinstance(count, bool) or not isinstance(count, int):
        raise TypeError(f"the number of tasks of unit {unit!r} must be an int, not {count!r}")
    if not 0 <= count <= MAX_COUNT:
        raise ValueError(f"the number of tasks of unit {unit!r} must be between 0 and {MAX_COUNT}")
    return str.__str__(unit), int(count)


def _levels(dependencies: Mapping[str, tuple[str, ...]]) -> Iterator[list[str]]:
    """The units by depth: each round yields the units whose last dependency was in the round before."""
    sorter = TopologicalSorter(dependencies)
    try:
        sorter.prepare()
    except _GraphlibCycleError as found:
        cycle = found.args[1][:0:-1]  # graphlib lists it from dependency to dependent, the first unit also at the end
        start = cycle.index(min(cycle))
        raise CycleError(cycle[start:] + cycle[:start]) from None
    while ready := sorter.get_ready():
        yield sorted(ready)
        sorter.done(*ready)
