"""What is known of the runs, after any events: it never raises, and it is what `RunState` says."""

import traceback
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from socketpusher import Event, EventType, Graph
from socketpusher.run_state import STATUSES, RunState
from socketpusher.terminal.tracker import MAX_DISCONNECTED_RUNS, MAX_RECENT_EVENTS, NO_LEVEL, Run, RunTracker, reason

BEGIN = datetime(2026, 11, 23, 17, 8, tzinfo=UTC)
UNITS = ("a", "b", "c", "unnamed")
GRAPH = Graph({"a": [], "b": ["a"], "c": ["a"]}, {"a": 2, "b": 3})


def at(seconds: float, type: str, unit: str = "", task: int | None = None, **options: object) -> Event:
    return Event(type, unit, task, time=BEGIN + timedelta(seconds=seconds), **options)


def following(*events: Event, source: object = "one", runs: RunTracker | None = None) -> RunTracker:
    runs = runs or RunTracker()
    for event in events:
        runs.feed(source, event)
    return runs


def statuses(run: Run) -> dict[str, str]:
    return {name: unit.status for name, unit in run.units.items()}


def graph_of_one(**of_the_node: object) -> Event:
    return at(0, "graph", payload={"nodes": [{"id": "a", **of_the_node}]})


# Anything may come

anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=6,
)
nodes = st.fixed_dictionaries(
    {},
    optional={
        "id": st.sampled_from(UNITS) | anything,
        "level": st.integers(-1, 3) | anything,
        "status": st.sampled_from(STATUSES) | anything,
        "tasks": st.integers(-1, 5) | anything,
        "completed_tasks": st.integers(-1, 5) | anything,
    },
)
graphs = st.fixed_dictionaries({"nodes": st.lists(nodes | anything, max_size=5) | anything}) | anything
payloads = (
    anything
    | graphs
    | st.fixed_dictionaries({"graph": graphs})
    | st.fixed_dictionaries({"total_tasks": st.integers(-1, 5) | anything, "completed_tasks": st.integers(-1, 5)})
)
events = st.builds(
    Event,
    st.sampled_from([*map(str, EventType), "graph", "other"]),
    st.sampled_from(["", *UNITS]),
    st.none() | st.integers(-1, 5),
    payload=payloads,
    error=st.sampled_from(["", "why", "\n\x1b[2J"]),
    time=st.none() | st.builds(lambda seconds: BEGIN + timedelta(seconds=seconds), st.integers(-5, 5)),
)
comings = st.tuples(st.just("came") | st.just("went"), st.sampled_from("xyz"))


def check(run: Run) -> None:
    """The counts are those of the units."""
    units = list(run.units.values())
    assert run.tasks == sum(unit.tasks for unit in units)
    assert run.completed_tasks == sum(unit.completed_tasks for unit in units)
    for status in STATUSES:
        assert set(run.by_status[status].values()) == {unit for unit in units if unit.status == status}
    for level in run.levels.values():
        here = [unit for unit in units if unit.level is level]
        assert level.units == len(here)
        assert level.tasks == sum(unit.tasks for unit in here)
        assert level.completed_tasks == sum(unit.completed_tasks for unit in here)
        assert level.statuses == {status: sum(unit.status == status for unit in here) for status in STATUSES}
    assert sum(level.units for level in run.levels.values()) == len(units)


@given(st.lists(comings | st.tuples(events, st.sampled_from("xyz")), max_size=30))
def test_whatever_comes_is_taken_in_and_the_counts_are_those_of_the_units(happenings: list) -> None:
    runs = RunTracker()
    for what, source in happenings:
        if what == "came":
            runs.source_connected(source, f"title {source}")
        elif what == "went":
            runs.source_disconnected(source, 1.0)
        else:
            runs.feed(source, what)
    for run in runs.runs:
        check(run)
    assert runs.events == sum(isinstance(what, Event) for what, _ in happenings)


of_units = st.builds(
    Event,
    st.sampled_from([str(known) for known in EventType if known.startswith(("unit.", "task."))]),
    st.sampled_from(["a", "b", "c"]),
    st.none() | st.integers(1, 5),
    payload=st.none() | st.fixed_dictionaries({"total_tasks": st.integers(0, 5)}),
    time=st.just(BEGIN),
)


@given(st.lists(of_units | st.just(Event("orch.started", time=BEGIN)), max_size=40))
def test_units_stand_as_the_run_state_says(history: list[Event]) -> None:
    state = RunState(GRAPH.payload())
    (run,) = following(at(0, "graph", payload=GRAPH.payload()), *history).runs
    for event in history:
        if event.type == "orch.started":
            state = RunState(GRAPH.payload())
        state.apply({"type": event.type, "unit": event.unit, "task": event.task, "payload": event.payload})
    for node in state.payload()["nodes"]:
        unit = run.units[node["id"]]
        assert (unit.status, unit.completed_tasks) == (node["status"], node["completed_tasks"])
        assert unit.tasks == max(node["tasks"], node["completed_tasks"])
    check(run)


def test_a_graph_with_a_node_that_is_none_is_ignored() -> None:
    nodes = [{"id": "a"}, {"id": 3}]
    (run,) = following(graph_of_one(), at(0, "graph", payload={"nodes": nodes})).runs
    assert run.names_the_same_units(graph_of_one())


def test_counts_and_statuses_of_a_graph_that_are_malformed_are_those_of_a_unit_that_has_not_begun() -> None:
    (run,) = following(graph_of_one(level=-1, status=["failed"], tasks="3", completed_tasks=-1)).runs
    assert statuses(run) == {"a": "pending"}
    assert list(run.levels) == [0]
    check(run)


# A run


def test_a_run_is_followed_from_its_begin_to_its_end() -> None:
    runs = following(
        at(0, "graph", payload=GRAPH.payload()),
        at(1, "orch.started", payload={"graph": GRAPH.payload()}),
        at(2, "unit.started", "a", payload={"total_tasks": 2}),
        at(3, "task.completed", "a", 1),
        at(4, "unit.failed", "a", error="SyntaxError: line 3\n  the rest"),
        at(5, "unit.blocked", "b", error="waits for a"),
        at(6, "orch.failed", error="a failed"),
    )
    (run,) = runs.runs
    assert statuses(run) == {"a": "failed", "b": "blocked", "c": "pending"}
    assert run.units["a"].reason == "SyntaxError: line 3"
    assert run.units["b"].reason == "waits for a"
    assert (run.completed_tasks, run.tasks) == (1, 5)
    assert (run.started, run.ended) == (BEGIN.timestamp() + 1, BEGIN.timestamp() + 6)
    assert (run.outcome, run.reason) == ("failed", "a failed")
    assert run.units["a"].started == BEGIN.timestamp() + 2
    assert run.units["a"].ended == BEGIN.timestamp() + 4
    assert list(run.levels) == [0, 1]


def test_the_tasks_of_a_unit_may_turn_out_to_be_more_and_are_counted_once() -> None:
    started = [at(n, "unit.started", "x", payload={"total_tasks": n}) for n in (1, 3)]
    (run,) = following(*started, at(5, "task.completed", "x", 2)).runs
    assert (run.completed_tasks, run.tasks) == (2, 3)
    check(run)


def test_the_begin_and_the_end_of_a_run_are_the_runs_though_they_name_a_unit() -> None:
    (run,) = following(at(0, "orch.started", "x"), at(1, "orch.completed", "y")).runs
    assert (run.started, run.outcome, run.units) == (BEGIN.timestamp(), "completed", {})


def test_units_that_no_graph_names_appear_as_they_come() -> None:
    (run,) = following(at(0, "unit.started", "x"), at(1, "task.completed", "y", 2)).runs
    assert statuses(run) == {"x": "in_progress", "y": "pending"}
    assert list(run.levels) == [NO_LEVEL]
    assert run.completed_tasks == 2


def test_units_that_no_graph_names_outlive_a_connection_that_begins_with_the_graph() -> None:
    """With ids the events that told of them are repetitions, which do not come again."""
    runs = following(graph_of_one(), at(1, "unit.started", "z"), at(2, "unit.failed", "z", error="boom"))
    following(graph_of_one(status="complete"), runs=runs)
    run = runs.runs[0]
    assert statuses(run) == {"a": "complete", "z": "failed"}
    assert (run.units["z"].reason, run.levels[NO_LEVEL].statuses["failed"]) == ("boom", 1)


def test_units_that_no_graph_names_are_gone_when_the_next_run_begins() -> None:
    (run,) = following(at(0, "orch.started"), at(1, "unit.started", "x"), at(2, "orch.started")).runs
    assert run.units == {}


def test_the_next_run_begins_as_its_graph_says_and_without_the_errors_of_the_last() -> None:
    started = [at(n, "orch.started", payload={"graph": graph_of_one(status="failed").payload}) for n in (1, 5)]
    (run,) = following(started[0], at(2, "unit.failed", "a", error="why"), at(3, "task.failed", "a"), started[1]).runs
    assert statuses(run) == {"a": "failed"}
    assert (run.units["a"].reason, run.failed_tasks) == ("", 0)
    assert (run.outcome, run.started) == ("", BEGIN.timestamp() + 5)


def test_the_next_run_without_a_graph_begins_with_units_that_have_not_begun() -> None:
    graph = at(0, "graph", payload=graph_of_one(status="failed").payload)
    (run,) = following(graph, at(1, "orch.started"), at(2, "orch.failed")).runs
    assert statuses(run) == {"a": "failed"}
    (run,) = following(graph, at(1, "orch.started"), at(2, "orch.failed"), at(3, "orch.started")).runs
    assert statuses(run) == {"a": "pending"}
    assert (run.completed_tasks, run.units["a"].completed_tasks) == (0, 0)


def test_a_unit_that_starts_again_has_no_error_any_more() -> None:
    (run,) = following(at(0, "unit.failed", "x", error="why"), at(1, "unit.started", "x")).runs
    assert run.units["x"].reason == ""


def test_what_is_skipped_is_complete_and_progress_counts() -> None:
    progress = at(2, "unit.progress", "b", payload={"done": 2, "total": 7, "message": "two of seven"})
    (run,) = following(at(0, "graph", payload=GRAPH.payload()), at(1, "unit.skipped", "a"), progress).runs
    assert (run.units["a"].status, run.units["a"].ended) == ("complete", BEGIN.timestamp() + 1)
    assert (run.units["b"].completed_tasks, run.units["b"].tasks) == (2, 7)
    check(run)


def test_a_unit_that_is_queued_has_no_start_and_no_end() -> None:
    (run,) = following(at(0, "unit.queued", "a")).runs
    assert (run.units["a"].started, run.units["a"].ended) == (None, None)
    (run,) = following(at(1, "unit.started", "a"), at(6, "unit.failed", "a"), at(60, "unit.queued", "a")).runs
    assert (run.units["a"].started, run.units["a"].ended) == (None, None)


def test_a_connection_that_tells_again_that_a_unit_was_queued_erases_no_reason() -> None:
    begin = (at(0, "unit.queued", "a"), at(1, "unit.started", "a"))
    (run,) = following(*begin, at(2, "task.failed", "a", error="boom"), *begin).runs
    assert run.units["a"].reason == "boom"


def test_who_runs_a_unit_is_known_from_whichever_event_says_it() -> None:
    events = [at(n, "unit.started", "a", payload={"worker": worker}) for n, worker in enumerate(("gpu\n2", 7, None))]
    workers = [following(*events[:n]).runs[0].units["a"].worker for n in (1, 2, 3)]
    assert workers == ["gpu", "7", "7"]


def test_what_a_connection_tells_again_shows_the_run_as_before() -> None:
    first = at(1, "orch.started", payload={"graph": GRAPH.payload()})
    failed = at(3, "unit.failed", "a", error="why")
    begun = [at(2, "unit.started", unit, payload={"worker": "w", "total_tasks": 2}) for unit in ("a", "b", "unnamed")]
    done = [at(4, "task.completed", "b", 1), at(5, "unit.completed", "unnamed")]
    runs = following(first, *begun, failed, *done)
    before = [
        [getattr(unit, name) for name in unit.__slots__ if name not in ("level", "run")]
        for unit in runs.runs[0].units.values()
    ]
    runs.source_disconnected("one", 6.0)
    standing = RunState(GRAPH.payload())
    for event in (*begun, failed, *done):
        standing.apply({"type": event.type, "unit": event.unit, "task": event.task, "payload": event.payload})
    again = (at(7, "graph", payload=standing.payload()), first, *begun, failed, *done)
    (run,) = following(*again, source="two", runs=runs).runs
    assert [
        [getattr(unit, name) for name in unit.__slots__ if name not in ("level", "run")] for unit in run.units.values()
    ] == before
    check(run)


def test_an_event_that_changes_nothing_is_known_to() -> None:
    runs = following(graph_of_one())
    changed = [runs.feed("one", at(1, type, "a"))[1] for type in ("unit.started", "unit.started", "task.started")]
    assert changed == [True, False, False]


def test_a_unit_whose_start_was_not_seen_has_no_start() -> None:
    (run,) = following(graph_of_one(status="in_progress", tasks=4, completed_tasks=3)).runs
    assert run.units["a"].started is None
    assert (run.completed_tasks, run.tasks) == (3, 4)


def test_a_task_that_failed_is_known_after_a_reconnect() -> None:
    """Its unit runs on. What a new connection tells has the start of the unit, but not the task's failure."""
    began = at(2, "unit.started", "a")
    runs = following(
        at(1, "orch.started", payload={"graph": GRAPH.payload()}), began, at(3, "task.failed", "a", 1, error="no disk")
    )
    runs.source_disconnected("one", 5.0)
    standing = GRAPH.payload()
    standing["nodes"][0]["status"] = "in_progress"
    following(at(1, "orch.started", payload={"graph": standing}), began, source="two", runs=runs)
    assert (runs.runs[0].units["a"].reason, runs.runs[0].failed_tasks) == ("no disk", 1)


# Why something failed


def raised(error: BaseException) -> str:
    try:
        raise error
    except type(error):
        return traceback.format_exc()


def chained() -> str:
    try:
        try:
            raise KeyError("first")
        except KeyError:
            raise ValueError("second\nwith more\n  and more") from None
    except ValueError as error:
        error.add_note("a note")
        return traceback.format_exc()


@pytest.mark.parametrize(
    "error, shown",
    [
        ("", ""),
        ("no room\nmore", "no room"),
        (raised(ZeroDivisionError("by nought")), "ZeroDivisionError: by nought"),
        (chained(), "ValueError: second"),
        (f"task 3 failed:\n{raised(OSError(28, 'no space'))}", "OSError: [Errno 28] no space"),
        (raised(ExceptionGroup("all", [ValueError(1)])), "ExceptionGroup: all (1 sub-exception)"),
        ("Traceback (most recent call last):\nKeyboardInterrupt", "KeyboardInterrupt"),
        ("Traceback (most recent call last)", "Traceback (most recent call last)"),
        ('Traceback (most recent call last):\n  File "a.py', 'File "a.py'),
    ],
)
def test_the_reason_is_the_exception_of_a_traceback_or_the_first_line(error: str, shown: str) -> None:
    assert reason(error) == shown
    (run,) = following(at(0, "unit.failed", "a", error=error)).runs
    assert run.units["a"].reason == shown


def test_the_reason_in_a_traceback_of_a_group_is_the_last_exception_in_it() -> None:
    error = raised(ExceptionGroup("all", [ValueError(1)]))
    inner = raised(ValueError(2)).replace("\n", "\n    | ")
    assert reason(f"{error}    | {inner}\n    +------") == "ValueError: 2"


@given(st.text() | st.just("Traceback (most recent call last)").flatmap(lambda head: st.text().map(head.__add__)))
def test_the_reason_of_any_text_is_a_line_of_it(error: str) -> None:
    assert reason(error) in error
    assert "\n" not in reason(error)


def test_the_message_of_a_log_record_is_kept() -> None:
    record = at(0, "log.error", payload={"message": "disk full\nmore"}, error=raised(OSError("no room")))
    last = following(record).recent[-1]
    assert (last.message, last.error) == ("disk full", "OSError: no room")


# Clocks


def test_the_clock_of_a_run_stands_when_it_has_ended_or_its_source_has_disconnected() -> None:
    runs = following(at(0, "orch.started"), at(1, "unit.started", "a"))
    run, later = runs.runs[0], BEGIN.timestamp() + 100
    assert run.clock(later) == later
    runs.source_disconnected("one", 7.0)
    assert run.clock(later) == 7.0
    following(at(9, "orch.failed"), runs=runs)
    assert run.clock(later) == BEGIN.timestamp() + 9


def test_the_time_that_is_left_is_told_by_the_rate_of_what_was_done_in_this_run() -> None:
    done_before = {"id": "d", "status": "complete"}
    graph = {"nodes": [{"id": "a"}, {"id": "b"}, {"id": "c"}, done_before]}
    runs = following(at(0, "orch.started", payload={"graph": graph}), at(1, "unit.started", "a"))
    run, then = runs.runs[0], BEGIN.timestamp() + 10
    assert run.eta(then) is None
    following(at(10, "unit.completed", "a"), runs=runs)
    assert run.eta(then) == 20  # two more at ten seconds each
    following(at(10, "unit.failed", "b"), at(10, "unit.blocked", "c"), runs=runs)
    assert run.eta(then) == 0
    following(at(11, "orch.failed"), runs=runs)
    assert run.eta(then) is None


def test_units_that_were_done_before_this_connection_count_for_the_time_that_is_left() -> None:
    """The graph has their status already; that they ended in this run is told after it."""
    graph = {"nodes": [{"id": "a", "status": "complete"}, {"id": "b"}]}
    runs = following(at(0, "orch.started", payload={"graph": graph}), at(9, "unit.completed", "a"))
    assert runs.runs[0].eta(BEGIN.timestamp() + 10) == 10


def test_the_time_that_is_left_is_unknown_if_the_start_was_not_seen_or_the_source_has_disconnected() -> None:
    (run,) = following(at(0, "unit.started", "a"), at(1, "unit.completed", "a")).runs
    assert run.eta(BEGIN.timestamp() + 5) is None
    runs = following(at(0, "orch.started"), at(0, "unit.started", "a"), at(1, "unit.completed", "a"))
    runs.source_disconnected("one", 7.0)
    assert runs.runs[0].eta(BEGIN.timestamp() + 5) is None


# Sources come and go


def test_a_source_that_comes_with_the_same_graph_continues_the_run_whose_source_is_gone() -> None:
    runs = following(at(0, "graph", payload=GRAPH.payload()), at(1, "orch.started"), at(2, "unit.started", "a"))
    runs.source_disconnected("one", 5.0)
    assert runs.runs[0].gone == 5.0
    standing = GRAPH.payload()
    standing["nodes"][0]["status"] = "in_progress"
    runs.source_connected("two", "pid 2")
    following(
        at(6, "graph", payload=standing),
        at(1, "orch.started", payload={"graph": standing}),  # as it was sent before
        source="two",
        runs=runs,
    )
    (run,) = runs.runs
    assert (run.title, run.gone) == ("pid 2", None)
    assert run.units["a"].started == BEGIN.timestamp() + 2


def test_a_source_that_comes_with_the_same_title_continues_the_run_whose_source_is_gone() -> None:
    runs = RunTracker()
    runs.source_connected("one", "pid 7")
    following(at(0, "unit.started", "x"), runs=runs)
    runs.source_disconnected("one", 5.0)
    runs.source_connected("two", "pid 7")
    following(at(6, "unit.started", "y"), source="two", runs=runs)
    assert statuses(runs.runs[0]) == {"x": "in_progress", "y": "in_progress"}


def test_two_sources_with_the_same_graph_at_a_time_are_two_runs() -> None:
    graph = at(0, "graph", payload=GRAPH.payload())
    runs = following(graph)
    following(graph, at(1, "unit.started", "a"), source="two", runs=runs)
    assert [run.count("in_progress") for run in runs.runs] == [0, 1]


def test_a_source_without_an_event_is_no_run() -> None:
    runs = RunTracker()
    runs.source_connected("probe", "pid 1")
    assert list(runs.sources.values()) == ["pid 1"]
    runs.source_disconnected("probe", 3.0)
    assert (runs.runs, runs.gone) == ([], 3.0)


def test_what_is_kept_is_bounded() -> None:
    runs = following(at(0, "unit.started", "live", error="x" * 1_000_000), source="live")
    for number in range(MAX_DISCONNECTED_RUNS + 5):
        following(at(1, "unit.started", f"u{number}"), source=number, runs=runs)
        runs.source_disconnected(number, float(number))
    assert [run.title for run in runs.runs] == ["live", *map(str, range(5, MAX_DISCONNECTED_RUNS + 5))]
    following(*(at(2, "x") for _ in range(MAX_RECENT_EVENTS + 1)), source="live", runs=runs)
    assert len(runs.recent) == MAX_RECENT_EVENTS
    assert len(following(at(0, "x", error="x" * 1_000_000)).recent[0].error) < 1000


def test_of_units_that_no_graph_names_the_oldest_that_have_ended_are_only_counted(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("socketpusher.terminal.tracker.MAX_ENDED_UNITS", 2)
    events = [at(0, "orch.started"), at(0, "unit.started", "still")]
    for number, end in enumerate(("completed", "failed", "completed", "skipped", "completed")):
        events += [at(number, "unit.started", str(number)), at(number + 1, f"unit.{end}", str(number))]
    (run,) = following(*events).runs
    assert set(run.units) == {"still", "3", "4"}
    assert (run.total, run.count("complete"), run.count("failed"), run.count("in_progress")) == (6, 4, 1, 1)
    assert run.levels[-1].units == 6
    assert run.eta(BEGIN.timestamp() + 10) == 2  # five done in ten seconds, one left
    run.apply(at(0, "orch.started"))  # a connection tells the run again
    run.apply(at(0, "graph", payload={"nodes": [{"id": "named"}]}))
    assert (run.total, run.count("complete"), run.levels[-1].units) == (7, 4, 6)
    assert run.eta(BEGIN.timestamp() + 10) == 4
    run.apply(at(7, "unit.started", "4"))
    run.apply(at(8, "unit.completed", "5"))
    assert set(run.units) == {"named", "still", "3", "4", "5"}
    run.apply(at(9, "unit.completed", "4"))
    assert set(run.units) == {"named", "still", "4", "5"}
    run.apply(at(10, "orch.started"))  # the next run
    assert (run.total, set(run.units)) == (1, {"named"})
