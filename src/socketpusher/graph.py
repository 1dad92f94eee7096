"""What will happen: units, what each depends on, and the levels in which they can run."""

import sys
from collections.abc import Iterable, Mapping
from typing import Any, NotRequired, TypedDict, cast


class NodePayload(TypedDict):
    """A unit in the payload of a `graph` event; of a `thinned` one the label and what is "pending" or 0 are missing."""

    id: str
    level: int
    label: NotRequired[str]
    status: NotRequired[str]
    tasks: NotRequired[int]
    completed_tasks: NotRequired[int]
    depends_on: NotRequired[list[str]]


EdgePayload = TypedDict("EdgePayload", {"from": str, "to": str})
"""A dependency in the payload of a `graph` event: `from` must be complete before `to` starts."""


class GraphPayload(TypedDict):
    """The payload of a `graph` event; a `thinned` one has nodes only."""

    nodes: list[NodePayload]
    edges: NotRequired[list[EdgePayload]]
    levels: NotRequired[list[list[str]]]


def thinned(graph: GraphPayload) -> GraphPayload:
    """What displays need of a graph whose line would be too long: each unit's level and where it stands."""
    nodes = cast(list[dict[str, Any]], graph["nodes"])
    thin = [
        {"id": node["id"], **{key: node[key] for key, usual in _USUAL.items() if node.get(key, usual) != usual}}
        for node in nodes
    ]
    return {"nodes": cast(list[NodePayload], thin)}


_USUAL = {"level": None, "status": "pending", "tasks": 0, "completed_tasks": 0}


class MissingDependencyError(ValueError):
    """A unit depends on one that was not declared.

    Attributes:
        unit: The unit.
        dependency: The name that no unit has.
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
    """Units depend on each other in a circle.

    Attributes:
        cycle: The units on the circle, each depending on the next and the last on the first.
    """

    def __init__(self, cycle: list[str]) -> None:
        super().__init__(cycle)
        self.cycle = cycle

    def __str__(self) -> str:
        return f"units depend on each other in a circle: {' -> '.join([*self.cycle, self.cycle[0]])}; cut it somewhere"


class Graph:
    """Units and their dependencies, without cycles.

    Args:
        dependencies: For each unit the units that must be complete before it starts.
        tasks: How many tasks a unit has; 0 where it is not said.

    Raises:
        MissingDependencyError: A unit depends on one that is not a key of `dependencies`.
        CycleError: Units depend on each other in a circle.
        TypeError: A unit or a dependency is not a str, or the dependencies of a unit are one str.
        ValueError: `tasks` names an unknown unit or counts less than 0.

    Example:
        >>> Graph({"app": ["setup"], "setup": []}, tasks={"app": 3}).levels()
        [['setup'], ['app']]
    """

    def __init__(self, dependencies: Mapping[str, Iterable[str]], tasks: Mapping[str, int] | None = None) -> None:
        self._dependencies = {unit: _checked_names(unit, names) for unit, names in dependencies.items()}
        for unit, names in self._dependencies.items():
            for name in names:
                if name not in self._dependencies:
                    raise MissingDependencyError(unit, name)
        self._tasks = {unit: _checked_tasks(unit, count, self._dependencies) for unit, count in (tasks or {}).items()}
        self._level_of = _levels(self._dependencies)
        self._levels: list[list[str]] = [[] for _ in range(max(self._level_of.values(), default=-1) + 1)]
        for unit in sorted(self._level_of):
            self._levels[self._level_of[unit]].append(unit)

    @classmethod
    def of(cls, graph: Any) -> "Graph":
        """A `Graph` from what users have.

        Args:
            graph: A `Graph`, a mapping `{unit: dependencies}`, or a `networkx.DiGraph` whose edges run from a
                dependency to its dependents and whose nodes may have an attribute `tasks`.

        Raises:
            TypeError: It is none of these.
        """
        if isinstance(graph, Graph):
            return graph
        if isinstance(graph, Mapping):
            return cls(graph)
        networkx = sys.modules.get("networkx")  # whoever has such a graph has imported it
        if networkx is not None and isinstance(graph, networkx.DiGraph):
            return cls(
                {str(node): [str(name) for name in graph.predecessors(node)] for node in graph},
                {str(node): tasks for node, tasks in graph.nodes(data="tasks", default=0)},
            )
        raise TypeError(
            f"a graph is a Graph, a mapping {{unit: dependencies}} or a networkx.DiGraph, not {type(graph).__name__}"
        )

    def __len__(self) -> int:
        return len(self._dependencies)

    def __repr__(self) -> str:
        return f"<Graph of {len(self)} units in {len(self._levels)} levels>"

    def levels(self) -> list[list[str]]:
        """Units by depth: those without dependencies first; each level sorted by name."""
        return [list(level) for level in self._levels]

    def dependencies(self, unit: str) -> list[str]:
        """What `unit` depends on directly, in the order given.

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


def _checked_names(unit: object, names: Iterable[str]) -> tuple[str, ...]:
    if not isinstance(unit, str):
        raise TypeError(f"a unit's name is a str, not {unit!r}")
    if isinstance(names, str):
        raise TypeError(
            f"the dependencies of unit {unit!r} are a collection of names: write [{names!r}], not {names!r}"
        )
    unique = tuple(dict.fromkeys(names))
    for name in unique:
        if not isinstance(name, str):
            raise TypeError(f"a dependency is named by a str, not {name!r} (of unit {unit!r})")
    return unique


def _checked_tasks(unit: str, count: int, units: Mapping[str, object]) -> int:
    if unit not in units:
        raise ValueError(f"tasks are given for {unit!r}, which is not a unit of the graph")
    if isinstance(count, bool) or not isinstance(count, int):
        raise TypeError(f"the number of tasks of unit {unit!r} is an int, not {count!r}")
    if count < 0:
        raise ValueError(f"unit {unit!r} can't have {count} tasks")
    return count


def _levels(dependencies: Mapping[str, tuple[str, ...]]) -> dict[str, int]:
    """The depth of every unit, by Kahn's algorithm: a unit is placed when its last dependency has been."""
    dependents: dict[str, list[str]] = {unit: [] for unit in dependencies}
    missing = {}
    for unit, names in dependencies.items():
        missing[unit] = len(names)
        for name in names:
            dependents[name].append(unit)
    level = {unit: 0 for unit, count in missing.items() if count == 0}
    placed = list(level)
    for unit in placed:  # grows while it is walked
        for dependent in dependents[unit]:
            missing[dependent] -= 1
            if missing[dependent] == 0:
                level[dependent] = 1 + max(level[name] for name in dependencies[dependent])
                placed.append(dependent)
    if len(placed) < len(dependencies):
        raise CycleError(_find_cycle({u: names for u, names in dependencies.items() if u not in level}, level))
    return level


def _find_cycle(stuck: Mapping[str, tuple[str, ...]], placed: Mapping[str, int]) -> list[str]:
    """A circle among units of which each still waits for another: follow such a wait until it comes back."""
    unit = min(stuck)
    path: dict[str, int] = {}
    while unit not in path:
        path[unit] = len(path)
        unit = next(name for name in stuck[unit] if name not in placed)
    return list(path)[path[unit] :]
