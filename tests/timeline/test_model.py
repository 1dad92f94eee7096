"""What ran when: runs, attempts, tracks and the critical path, whatever a recording looks like."""

import itertools
import random
import time
from operator import itemgetter
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from socketpusher import wire
from socketpusher.timeline.model import Run, Slice
from support.runs import runs as any_runs
from support.trace import line, runs_of, started


def attempts(run: Run) -> list[tuple[Any, ...]]:
    """Name, start and end in seconds, and outcome of each slice, tasks behind their units."""
    slices = itertools.chain.from_iterable((slice, *slice.children) for track in run.tracks for slice in track.slices)
    return [described(run, slice) for slice in slices]


def described(run: Run, slice: Slice) -> tuple[Any, ...]:
    return slice.name, (slice.start - run.start) / 1e6, (slice.end - run.start) / 1e6, slice.outcome


def outcomes(run: Run) -> list[tuple[str, int]]:
    """Outcome and duration of each try of the unit a."""
    return [(slice.outcome, slice.duration) for slice in run.units["a"]]


def tracks(run: Run) -> dict[str, list[str]]:
    return {track.name: [slice.name for slice in track.slices] for track in run.tracks}


RECORDING = [
    line(0, "orch.started", payload=started({"app": ["setup"], "setup": []})),
    line(0, "unit.queued", "setup"),
    line(0.5, "unit.started", "setup"),
    line(2, "unit.failed", "setup", error="no space left"),
    line(3, "unit.started", "setup"),
    line(4, "unit.completed", "setup"),
    line(4, "unit.started", "app"),
    line(4.5, "task.started", "app", task=1),
    line(5, "task.completed", "app", task=1),
    line(5, "task.started", "app", task=2),
    line(6, "log.warning", "app", payload={"message": "hot"}),
    line(7, "task.completed", "app", task=2),
    line(8, "unit.completed", "app"),
    line(9, "orch.completed"),
]
SLICES = [
    ("setup", 0.5, 2, "failed"),
    ("setup (try 2)", 3, 4, "completed"),
    ("app", 4, 8, "completed"),
    ("app task 1", 4.5, 5, "completed"),
    ("app task 2", 5, 7, "completed"),
]


def test_each_attempt_is_a_slice_and_tasks_are_inside_it() -> None:
    (run,) = runs_of(RECORDING)
    assert attempts(run) == SLICES
    assert (run.outcome, run.end - run.start) == ("completed", 9_000_000)
    assert run.units["setup"][0].error == "no space left"
    assert run.units["setup"][0].waited == 500_000
    assert [(instant.event.type, instant.slice and instant.slice.name) for instant in run.instants] == [
        ("unit.failed", "setup"),
        ("log.warning", "app"),
        ("orch.completed", None),
    ]


def test_a_recording_may_begin_in_the_middle_and_repeat_the_past() -> None:
    graph = line(6.1, "graph", payload=started({"app": ["setup"], "setup": []})["graph"])
    told = [RECORDING[0], *RECORDING[3:7], RECORDING[7], RECORDING[8], RECORDING[9]]
    again = [wire.retained(each) for each in told]
    (run,) = runs_of([graph, *again, *RECORDING[10:]])
    assert attempts(run) == [(name.replace(" (try 2)", ""), *rest) for name, *rest in SLICES[1:]]
    assert run.start == runs_of(RECORDING)[0].start
    (run,) = runs_of([*RECORDING[:9], graph, *again, *RECORDING[7:], *again])
    assert attempts(run) == SLICES


def test_ids_tell_repetitions_and_sessions_apart() -> None:
    one = [line(0, "unit.started", "a", id="x-1"), line(0, "unit.started", "b", id="x-2")]
    other = [line(1, "unit.started", "a", id="y-1"), line(2, "unit.completed", "a", id="y-2")]
    runs = runs_of([one[0], other[0], one[1], one[0], other[1], *other])
    assert [(run.source, len(run.units), sum(map(len, run.units.values()))) for run in runs] == [
        ("session x", 2, 2),
        ("session y", 1, 1),
    ]
    (run,) = runs_of([line(number, "unit.started", "a", id="mine") for number in range(3)])
    assert len(run.units["a"]) == 3  # an id of somebody else says nothing


def test_another_start_is_another_run_and_a_repeated_one_is_not() -> None:
    second = [line(20, "orch.started"), line(21, "unit.started", "app"), line(22, "orch.failed", error="boom")]
    runs = runs_of([*RECORDING, *second, wire.retained(RECORDING[0]), wire.retained(RECORDING[5])])
    assert [(run.outcome, run.error, list(run.units)) for run in runs] == [
        ("completed", "", ["setup", "app"]),
        ("failed", "boom", ["app"]),
    ]
    assert attempts(runs[0]) == SLICES
    killed, next_one = runs_of([*RECORDING[:5], *second])
    assert (killed.outcome, list(killed.units), list(next_one.units)) == ("unfinished", ["setup"], ["app"])


def test_what_never_ends_is_cut_at_the_last_event() -> None:
    (run,) = runs_of(
        [line(0, "unit.started", "a"), line(1, "task.started", "a", task=1), line(2, "unit.started", "b"), line(5, "x")]
    )
    assert attempts(run) == [
        ("a", 0, 5, "unfinished"),
        ("a task 1", 1, 5, "unfinished"),
        ("b", 2, 5, "unfinished"),
    ]
    (run,) = runs_of([line(0, "unit.started", "a"), line(3, "unit.started", "a"), line(4, "unit.completed", "a")])
    assert attempts(run) == [("a", 0, 3, "unfinished"), ("a (try 2)", 3, 4, "completed")]


def test_progress_is_no_start() -> None:
    lines = [line(second, "unit.progress", "a", payload={"total": second, "done": 0}) for second in (1, 2)]
    (run,) = runs_of([line(0, "unit.started", "a"), *lines, line(3, "unit.completed", "a")])
    assert attempts(run) == [("a", 0, 3, "completed")]


def test_a_task_that_never_ends_is_cut_with_its_unit() -> None:
    (run,) = runs_of(
        [line(0, "unit.started", "a"), line(1, "task.started", "a"), line(2, "unit.failed", "a"), line(5, "x")]
    )
    assert attempts(run) == [("a", 0, 2, "failed"), ("a task", 1, 2, "unfinished")]


@given(st.randoms(use_true_random=False))
def test_lines_in_any_order_make_the_same_slices(shuffler: random.Random) -> None:
    lines = RECORDING[1:]
    shuffler.shuffle(lines)
    (run,) = runs_of([RECORDING[0], *lines])
    assert attempts(run) == SLICES


def test_a_start_by_a_clock_that_is_a_little_ahead_belongs_to_its_end() -> None:
    (run,) = runs_of(
        [
            line(0, "x"),
            line(1.003, "unit.started", "a"),
            line(1.001, "unit.failed", "a"),
            line(1.5, "unit.started", "a"),
        ]
    )
    assert attempts(run) == [("a", 1.003, 1.003, "failed"), ("a (try 2)", 1.5, 1.5, "unfinished")]
    (run,) = runs_of([line(1.001, "unit.failed", "a"), line(1.003, "unit.started", "a"), line(2, "x")])
    assert attempts(run)[0][3] == "unfinished"  # the failure came first, so this is a retry


@pytest.mark.parametrize("kind", ["unit.completed", "unit.failed"])
def test_what_ended_after_the_clock_was_set_back_has_ended_and_took_no_time(kind: str) -> None:
    (run,) = runs_of([line(10, "unit.started", "a"), line(5, kind, "a"), line(5, "x")])
    (slice,) = run.units["a"]
    assert outcomes(run) == [(kind.removeprefix("unit."), 0)]
    assert [(instant.event.type, instant.slice) for instant in run.instants if instant.event.unit] == [
        (kind, slice) for _ in range(kind == "unit.failed")
    ]


def test_a_clock_that_is_set_back_ends_the_try_that_was_running() -> None:
    first, second = line(10, "unit.started", "a"), line(12, "unit.started", "a")
    failed, completed = line(11, "unit.failed", "a"), line(8, "unit.completed", "a")
    (run,) = runs_of([first, failed, second, completed])
    assert outcomes(run) == [("failed", 1_000_000), ("completed", 0)]
    (run,) = runs_of([first, second, completed])
    assert outcomes(run) == [("unfinished", 2_000_000), ("completed", 0)]


def test_an_end_that_belongs_to_no_start_ends_no_other_try() -> None:
    start, other = line(3, "unit.started", "a"), line(1, "unit.failed", "a")  # of a try that the recording lacks
    (run,) = runs_of([start, other, line(4, "unit.completed", "a")])
    assert outcomes(run) == [("completed", 1_000_000)]
    again = [line(5, "unit.started", "a"), line(6, "unit.completed", "a"), line(7, "unit.merged", "a")]
    (run,) = runs_of([start, *again])
    assert outcomes(run) == [("unfinished", 2_000_000), ("completed", 1_000_000)]


def test_a_task_that_is_late_by_milliseconds_stays_in_its_unit() -> None:
    (run,) = runs_of(
        [
            line(0.998, "task.started", "a", task=1),
            line(1, "unit.started", "a"),
            line(2, "unit.completed", "a"),
            line(2.002, "task.completed", "a", task=1),
        ]
    )
    assert [each[0] for each in attempts(run)] == ["a", "a task 1"]
    (unit,) = run.units["a"]
    assert [(task.start, task.end) for task in unit.children] == [(unit.start, unit.end)]


def test_tasks_belong_to_the_attempt_that_they_ran_in() -> None:
    (run,) = runs_of(
        [
            line(0, "unit.started", "a"),
            line(0.1, "task.started", "a", task=1),
            line(0.2, "task.failed", "a", task=1),
            line(0.25, "task.started", "a", task=2),
            line(0.3, "unit.failed", "a"),
            line(0.5, "unit.started", "a"),
            line(0.5, "task.started", "a", task=1),
            line(0.6, "task.completed", "a", task=1),
            line(0.7, "unit.completed", "a"),
        ]
    )
    assert [[(task.name, task.duration) for task in unit.children] for unit in run.units["a"]] == [
        [("a task 1", 100_000), ("a task 2", 50_000)],
        [("a task 1 (try 2)", 100_000)],
    ]


def test_workers_have_tracks_in_natural_order_and_other_units_share_lanes() -> None:
    at = {
        "a": (0, 4, "w10"),
        "b": (1, 2, "w9"),
        "c": (2, 3, 9),
        "d": (0, 2, None),
        "e": (1, 3, None),
        "f": (2, 5, None),
    }
    lines = [line(start, "unit.started", unit, payload={"worker": who}) for unit, (start, _, who) in at.items()]
    lines += [line(end, "unit.completed", unit) for unit, (_, end, _) in at.items()]
    (run,) = runs_of(lines)
    assert tracks(run) == {"9": ["c"], "w9": ["b"], "w10": ["a"], "lane 1": ["d", "f"], "lane 2": ["e"]}


def test_a_worker_that_does_two_things_at_a_time_has_two_tracks() -> None:
    lines = [line(number, "unit.started", unit, payload={"worker": "w"}) for number, unit in enumerate("ab")]
    (run,) = runs_of([*lines, line(3, "unit.completed", "a"), line(4, "unit.completed", "b")])
    assert tracks(run) == {"w": ["a"], "w (2)": ["b"]}


def test_an_end_that_the_host_learns_late_does_not_reach_into_what_the_worker_does_next() -> None:
    lines = [
        line(0, "unit.started", "a", payload={"worker": "w"}),
        line(0.9, "task.started", "a", task=1),
        line(1, "unit.started", "b", payload={"worker": "w"}),
        line(1.02, "task.completed", "a", task=1),
        line(1.03, "unit.completed", "a"),
        line(1.04, "unit.started", "c", payload={"worker": "w"}),
        line(2, "x"),
    ]
    (run,) = runs_of(lines)
    assert tracks(run) == {"w": ["a", "b"], "w (2)": ["c"]}
    assert attempts(run)[:2] == [("a", 0, 1, "completed"), ("a task 1", 0.9, 1, "completed")]


def test_tasks_that_run_elsewhere_or_beside_each_other_have_a_place_too() -> None:
    (run,) = runs_of(
        [
            line(0, "unit.started", "a"),
            line(1, "task.started", "a", task=1, payload={"worker": "w"}),
            line(1, "task.started", "a", task=2),
            line(2, "task.started", "a", task=3),
            line(3, "task.completed", "a", task=1),
            line(3, "task.completed", "a", task=2),
            line(4, "task.completed", "a", task=3),
            line(5, "unit.completed", "a", payload={"worker": ""}),
            line(6, "task.started", "b", task=1),
        ]
    )
    assert tracks(run) == {"w": ["a task 1"], "lane 1": ["a"], "lane 2": ["a task 3", "b task 1"]}
    assert [task.name for task in run.units["a"][0].children] == ["a task 2"]


def test_a_task_beside_another_cuts_nothing_short() -> None:
    lines = [
        line(0, "unit.started", "app", payload={"worker": "w"}),
        line(0.1, "task.started", "app", task=1),
        line(0.15, "task.started", "app", task=2),
        line(0.17, "task.started", "app", task=3, payload={"worker": "w"}),
        line(0.19, "task.completed", "app", task=1),
        line(0.195, "task.completed", "app", task=2),
        line(0.198, "task.completed", "app", task=3),
        line(0.2, "unit.completed", "app"),
    ]
    (run,) = runs_of(lines)
    assert tracks(run) == {"w": ["app"], "w (2)": ["app task 2"], "w (3)": ["app task 3"]}
    assert attempts(run) == [
        ("app", 0, 0.2, "completed"),
        ("app task 1", 0.1, 0.19, "completed"),
        ("app task 2", 0.15, 0.195, "completed"),
        ("app task 3", 0.17, 0.198, "completed"),
    ]


def test_the_worker_may_be_told_at_the_end() -> None:
    (run,) = runs_of([line(0, "unit.started", "a"), line(1, "unit.failed", "a", payload={"worker": "gw0", "n": 1})])
    assert tracks(run) == {"gw0": ["a"]}
    assert run.units["a"][0].payload == {"worker": "gw0", "n": 1}


def test_the_critical_path_is_the_chain_that_took_longest() -> None:
    graph = {
        "setup": [],
        "short": ["setup"],
        "cached": ["setup"],
        "long": ["cached"],
        "end": ["short", "long"],
        "alone": [],
    }
    took = {"setup": (0, 2), "short": (2, 5), "long": (2, 6), "end": (6, 7), "alone": (0, 6.5)}
    lines = [line(0, "orch.started", payload=started(graph)), line(2, "unit.skipped", "cached")]
    for unit, (start, end) in took.items():
        lines += [line(start, "unit.started", unit), line(end, "unit.completed", unit)]
    (run,) = runs_of(lines)
    assert [slice.name for slice in run.critical] == ["setup", "long", "end"]
    assert all(slice.critical == (slice in run.critical) for (slice,) in run.units.values())


def test_graphs_may_come_late_grow_be_thinned_or_be_wrong() -> None:
    took = [line(0, "unit.started", "a"), line(1, "unit.completed", "a"), line(1, "unit.started", "b"), line(3, "x")]

    def graph(payload: Any) -> bytes:
        return line(2, "graph", payload=payload)

    nodes = [{"id": "a"}, {"id": "b", "label": "the second"}]
    edges = [{"from": "a", "to": "b"}]
    for payloads in (
        [{"nodes": nodes, "edges": edges}],
        [{"nodes": [{"id": "a"}, {"id": "b", "label": "the second", "depends_on": ["a"]}]}],
        [{"nodes": nodes, "edges": edges}, {"nodes": nodes, "edges": []}],
        [{"nodes": nodes[:1]}, {"nodes": nodes, "edges": edges}],
    ):
        (run,) = runs_of([*took[:2], *itertools.chain(*([graph(payload), took[2]] for payload in payloads)), took[3]])
        assert [slice.name for slice in run.critical] == ["a", "the second"]
    for payload in (
        {"nodes": nodes},
        None,
        "<payload left out>",
        {},
        {"nodes": [1]},
        {"nodes": nodes, "edges": [*edges, {"from": "b", "to": "a"}]},
    ):
        (run,) = runs_of([graph(payload), *took])
        assert run.critical == []


WORKERS = st.sampled_from(["", "w1", "w2"])
TASKS = st.lists(st.tuples(st.integers(0, 300), st.integers(0, 300), WORKERS), max_size=4)
UNITS = st.lists(st.tuples(st.integers(1, 300), st.integers(0, 63), WORKERS, TASKS), min_size=1, max_size=6)


@given(UNITS)
def test_everything_takes_as_long_as_it_took_whatever_runs_beside_it(units: list[Any]) -> None:
    """Times are in milliseconds. A worker does one unit at a time, and the tasks of a unit overlap."""
    graph = {str(n): [str(m) for m in range(n) if bits & 1 << m] for n, (_, bits, *_) in enumerate(units)}
    ends: dict[str, int] = {}  # the last one on each worker, and of each unit
    chains: dict[str, int] = {}  # how long the longest chain took that ends with a unit
    took: dict[str, int] = {}
    events: list[tuple[int, str, str, int | None, str]] = []
    for (unit, needs), (duration, _, worker, tasks) in zip(graph.items(), units, strict=True):
        start = max((ends.get(before, 0) for before in (worker, *needs) if before), default=0)
        ends[unit] = ends[worker] = start + duration
        chains[unit] = duration + max((chains[before] for before in needs), default=0)
        took[unit] = duration
        events.append((start, "unit.started", unit, None, worker))
        for task, (one, other, where) in enumerate(tasks, 1):
            begin, end = sorted((min(one, duration), min(other, duration)))
            took[f"{unit} task {task}"] = end - begin
            events.append((start + begin, "task.started", unit, task, where))
            events.append((start + end, "task.completed", unit, task, where))
        events.append((start + duration, "unit.completed", unit, None, worker))
    lines = [
        line(time / 1000, kind, unit, task=task, payload={"worker": worker})
        for time, kind, unit, task, worker in sorted(events, key=itemgetter(0))
    ]
    (run,) = runs_of([line(0, "orch.started", payload=started(graph)), *lines])
    slices = itertools.chain.from_iterable((each, *each.children) for track in run.tracks for each in track.slices)
    assert {slice.name: slice.duration for slice in slices} == {name: time * 1000 for name, time in took.items()}
    critical = max(chains.values()) if any(graph.values()) else 0  # without a dependency there is no path
    assert sum(slice.duration for slice in run.critical) == critical * 1000


@given(any_runs())
def test_every_start_of_any_run_is_one_slice(any_run: Any) -> None:
    lines = list(map(wire.encode, any_run.events))
    runs = runs_of(lines)
    slices = [
        slice for run in runs for track in run.tracks for each in track.slices for slice in (each, *each.children)
    ]
    begun = [event for event in any_run.events if event.type in ("unit.started", "task.started") and event.unit]
    assert sorted((slice.unit, slice.is_task) for slice in slices) == sorted(
        (event.unit, event.type == "task.started") for event in begun
    )
    assert all(slice.start <= slice.end for slice in slices)
    for run in runs:
        for track in run.tracks:
            assert all(before.end <= after.start for before, after in itertools.pairwise(track.slices))


def test_ten_times_the_events_take_some_ten_times_as_long() -> None:
    def lines(units: int) -> list[bytes]:
        graph = started({str(number): [str(number - 1)] if number % 10 else [] for number in range(units)})
        steps = [(number / 10, "unit.started", str(number)) for number in range(units)]
        steps += [(number / 10 + 2.5, "unit.completed", str(number)) for number in range(units)]
        return [line(0, "orch.started", payload=graph), *(line(*step) for step in sorted(steps))]

    def seconds(recording: list[bytes]) -> float:
        began = time.process_time()
        (run,) = runs_of(recording)
        assert (len(run.critical), len(run.tracks)) == (10, 25)
        return time.process_time() - began

    small, large = lines(1_500), lines(15_000)
    assert seconds(large) < 40 * min(seconds(small) for _ in range(3))


def test_events_of_a_moment_that_differ_are_all_there_and_equal_ones_once() -> None:
    logs = [line(1, "log", payload={"message": text}) for text in ("one", "two", "three", "two")]
    tasks = [line(2, "task.started", "u", task=number) for number in (-1, -2)]
    (run,) = runs_of([line(0, "orch.started"), *logs, *tasks, wire.retained(tasks[1])])
    assert [instant.event.payload["message"] for instant in run.instants] == ["one", "two", "three"]
    assert [name for name, *_ in attempts(run)] == ["u task -1", "u task -2"]
