"""Random runs for property tests: what schedulers emit, and what they should not but may."""

from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any

from hypothesis import strategies as st

from socketpusher import Event, Graph
from support.truth import Truth, told

BEGIN = datetime(2026, 1, 2, 3, 4, 5, 678_000, UTC)

USUAL_NAMES = ["app", "setup", "bücher 🚀", "データ", "مكتبة", 'say "hi"\n', "null", "0"]
NAMES = st.sampled_from(USUAL_NAMES) | st.text(min_size=1, max_size=8)
ERRORS = st.one_of(st.just(""), st.just('task 4 said "no"\nand ended 🚀'), st.text(max_size=20))
TASKS = st.one_of(st.none(), st.integers(0, 9))
COUNTS = st.one_of(
    st.none(),
    st.fixed_dictionaries(
        {}, optional={"total_tasks": st.integers(0, 9), "completed_tasks": st.integers(0, 9), "worker": st.just("w1")}
    ),
    st.sampled_from([[], "odd", {"total_tasks": "5"}, {"total_tasks": 2.5}, {"completed_tasks": None}]),
)
STATUSES = st.sampled_from(["pending", "ready", "in_progress", "complete", "failed", "blocked"])
IRRELEVANT = (
    "task.committed",
    "task.failed",
    "task.retry",
    "unit.merged",
    "unit.skipped",
    "unit.progress",
    "pr.created",
    "orch.dryrun.started",
    "codereview.failed",
    "prd.updated",
    "other",
    "",
)


@dataclass(frozen=True)
class Run:
    """What a scheduler tells its pusher.

    Args:
        graph: What `set_graph` is called with, or None if it is not called.
        parallelism: What goes with it.
        events: In the order of their times, which are set.
    """

    graph: Graph | None
    parallelism: int
    events: list[Event]

    def truth(self) -> Truth:
        """The truth before the first event."""
        return Truth(self.graph, self.parallelism)


# Steps are drawn before names are: their units are places in the list of names, which is much faster.
PLACES = st.sampled_from("01234567")
DEPENDENCIES = st.tuples(*[st.integers(0, 2**unit - 1) for unit in range(6)])  # a bit for each unit before


@st.composite
def graphs(draw: st.DrawFn) -> Graph:
    """Up to 6 units, without a circle."""
    count, first = draw(st.integers(1, 6)), draw(st.integers(0, 2))
    units = [str(first + number) for number in range(count)]
    tasks = draw(st.lists(st.integers(0, 9), max_size=count))
    depend = {
        unit: [other for number, other in enumerate(units) if bits & 1 << number]
        for unit, bits in zip(units, draw(DEPENDENCIES), strict=False)
    }
    if draw(st.booleans()):  # a unit may be declared before what it depends on
        depend = dict(reversed(depend.items()))
    return Graph(depend, dict(zip(units, tasks, strict=False)))


GRAPHS = graphs()
STANDS = st.fixed_dictionaries({}, optional={"status": STATUSES, "completed_tasks": st.integers(0, 9)})


@st.composite
def starts(draw: st.DrawFn) -> list[Event]:
    """An `orch.started`, with or without a graph, of a new run or one that is resumed."""
    if draw(st.booleans()):
        known = st.sampled_from([None, {}, {"label": "nightly"}, {"parallelism": 7}, {"graph": None}])
        return [Event("orch.started", payload=draw(known))]
    graph = told(draw(GRAPHS))
    if draw(st.booleans()):
        graph["nodes"] = [node | draw(STANDS) for node in graph["nodes"]]
    payload = {"unit_count": len(graph["nodes"]), "parallelism": draw(st.integers(0, 8)), "graph": graph}
    return [Event("orch.started", payload=payload)]


def _of(*types: str, **fields: st.SearchStrategy[Any]) -> st.SearchStrategy[list[Event]]:
    return st.tuples(st.builds(Event, type=st.sampled_from(types), unit=PLACES, **fields)).map(list)


SINGLE = st.one_of(
    _of("unit.queued", "unit.completed", "unit.blocked"),
    _of("unit.started", payload=COUNTS),
    _of("unit.failed", error=ERRORS),
    _of("task.started", task=TASKS),
    _of("task.completed", task=TASKS),
    _of(*IRRELEVANT, task=TASKS, payload=COUNTS, error=ERRORS),
)
"""Anything that may be said of a unit, whatever was said before, and of units that nobody has declared."""


@st.composite
def tries(draw: st.DrawFn) -> list[Event]:
    """A unit at work, as schedulers tell it; cut anywhere."""
    unit = draw(PLACES)
    total = draw(st.integers(0, 4))
    done = draw(st.integers(0, total))
    numbered = draw(st.booleans())
    counts = {"total_tasks": total, "completed_tasks": done} if draw(st.booleans()) else None
    events = [Event("unit.queued", unit), Event("unit.started", unit, payload=counts)]
    for task in range(done + 1, total + 1):
        events += [Event(kind, unit, task=task if numbered else None) for kind in ("task.started", "task.completed")]
    events.append(Event("unit.completed", unit) if draw(st.booleans()) else Event("unit.failed", unit, error="boom"))
    return events[: draw(st.integers(1, len(events)))]


STARTS = starts()
ENDS = st.sampled_from(["orch.completed", "orch.failed"]).map(lambda kind: [Event(kind)])
STEPS = st.one_of(SINGLE, SINGLE, tries(), tries(), st.one_of(STARTS, ENDS))
ALL_NAMES = st.just(USUAL_NAMES) | st.lists(NAMES, min_size=8, max_size=8, unique=True)


@st.composite
def runs(draw: st.DrawFn, max_steps: int = 20) -> Run:
    """A run and whatever may follow it: another run with another graph or with none, events after the end.

    Args:
        max_steps: The most steps, each of which is an event or a unit at work.
    """
    names = dict(zip("01234567", draw(ALL_NAMES), strict=True))
    graph = draw(st.none() | GRAPHS)
    parallelism = draw(st.integers(0, 8))
    count = draw(st.integers(0, max_steps))  # lists alone would be short most of the time
    steps = [*draw(st.lists(SINGLE, max_size=2)), draw(STARTS), *draw(st.lists(STEPS, min_size=count, max_size=count))]
    events = [event for step in steps for event in step]
    return Run(
        graph=None if graph is None else _renamed_graph(graph, names),
        parallelism=parallelism,
        events=[
            replace(
                event,
                unit=names.get(event.unit, ""),
                payload=_renamed(event.payload, names) if event.type == "orch.started" else event.payload,
                time=BEGIN + timedelta(milliseconds=17 * number),
            )
            for number, event in enumerate(events)
        ],
    )


def _renamed_graph(graph: Graph, names: dict[str, str]) -> Graph:
    nodes = graph.payload()["nodes"]
    return Graph(
        {names[node["id"]]: [names[other] for other in graph.dependencies(node["id"])] for node in nodes},
        {names[node["id"]]: node["tasks"] for node in nodes},
    )


def _renamed(payload: Any, names: dict[str, str]) -> Any:
    """The payload of an `orch.started`, its units called by their names."""
    if payload is None or payload.get("graph") is None:
        return payload
    graph = payload["graph"]
    renamed = {
        "nodes": [node | {"id": names[node["id"]]} for node in graph["nodes"]],
        "edges": [{key: names[unit] for key, unit in edge.items()} for edge in graph["edges"]],
        "levels": [[names[unit] for unit in level] for level in graph["levels"]],
    }
    return payload | {"graph": renamed}
