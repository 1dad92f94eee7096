"""The trace keeps to the Trace Event Format, and Perfetto reads all of it."""

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings

from socketpusher import wire
from socketpusher.timeline.trace_events import trace_lines
from support.perfetto import TraceProcessor
from support.runs import runs as any_runs
from support.trace import line, read_trace, runs_of, started, trace_of

NAME = "a \"b\" <c> & 'd'\n\x01 клад 🎉"
GRAPH = {"setup": [], NAME: ["setup"], "lint": ["setup"], "ship": [NAME, "lint"]}
RECORDING = [
    line(0, "orch.started", payload=started(GRAPH)),
    line(0.5, "unit.queued", "setup"),
    line(1, "unit.started", "setup", payload={"worker": "w1"}),
    line(2, "unit.failed", "setup", error="no space left"),
    line(3, "unit.started", "setup", payload={"worker": "w1"}),
    line(4, "unit.completed", "setup", payload={"tests": 3}),
    line(4, "unit.started", NAME, payload={"worker": "w1"}),
    line(4, "task.started", NAME, task=1),
    line(4, "unit.started", "lint"),
    line(4.000001, "unit.completed", "lint"),
    line(5, "log.error", NAME, payload={"message": "hot"}),
    line(6, "task.failed", NAME, task=1, error="boom"),
    line(6.5, "task.started", NAME, task=1),
    line(7, "task.completed", NAME, task=1),
    line(7, "unit.completed", NAME),
    line(7, "unit.started", "ship"),
    line(8, "pr.created", pr=4),
]
OTHER_RUN = [line(2, "unit.started", "x", id="s-1"), line(3, "unit.completed", "x", id="s-2")]


def only(events: list[dict[str, Any]], **wanted: Any) -> dict[str, Any]:
    (found,) = (event for event in events if wanted.items() <= event.items())
    return found


def test_a_slice_says_what_happened() -> None:
    trace = trace_of(RECORDING)
    assert only(trace, name="setup") == {
        "pid": 1,
        "ph": "X",
        "name": "setup",
        "tid": 2,
        "ts": 1_000_000,
        "dur": 1_000_000,
        "cat": "unit,failed,critical",
        "cname": "terrible",
        "bind_id": "0x1",
        "flow_in": False,
        "flow_out": True,
        "args": {
            "unit": "setup",
            "attempt": 1,
            "outcome": "failed",
            "error": "no space left",
            "critical": True,
            "queued_us": 500_000,
            "payload": {"worker": "w1"},
        },
    }
    assert only(trace, name="setup (try 2)")["cat"] == "unit,completed,retry,critical"
    assert only(trace, name="lint")["dur"] == 1
    assert only(trace, name="ship")["cat"] == "unit,unfinished,critical"
    assert only(trace, name=f"{NAME} task 1")["args"]["error"] == "boom"
    whole = only(trace, name="run")
    assert (whole["tid"], whole["ts"], whole["dur"], whole["cat"]) == (1, 0, 8_000_000, "run,unfinished")


def test_instants_are_on_the_track_of_their_unit_or_of_the_run() -> None:
    instants = [event for event in trace_of(RECORDING) if event["ph"] == "i"]
    assert [(event["name"], event["tid"], event["ts"], event["cat"]) for event in instants] == [
        ("unit.failed", 2, 2_000_000, "unit,failed"),
        ("log.error", 2, 5_000_000, "log,failed"),
        ("task.failed", 2, 6_000_000, "task,failed"),
        ("pr.created", 1, 8_000_000, "pr"),
    ]
    assert instants[1]["args"] == {"unit": NAME, "payload": {"message": "hot"}}


def test_each_run_is_a_process_and_all_share_a_clock() -> None:
    trace = trace_of([*OTHER_RUN, *RECORDING])
    names = [event["args"]["name"] for event in trace if event["name"] == "process_name"]
    assert names == ["run 2026-11-23 17:08:00 UTC", "run 2026-11-23 17:08:02 UTC session s"]
    assert (only(trace, name="x")["pid"], only(trace, name="x")["ts"]) == (2, 2_000_000)


@settings(suppress_health_check=[HealthCheck.too_slow])
@given(any_runs())
def test_the_trace_of_any_run_keeps_to_the_format(any_run: Any) -> None:
    slices = [event for event in trace_of(map(wire.encode, any_run.events)) if event["ph"] == "X"]
    begun = [event for event in any_run.events if event.type in ("unit.started", "task.started") and event.unit]
    assert len([each for each in slices if each["cat"].startswith(("unit,", "task,"))]) == len(begun)


# What Perfetto reads


Read = Callable[[list[bytes]], TraceProcessor]
PROBLEMS = "select name, value from stats where value > 0 and severity in ('error', 'data_loss')"


@pytest.fixture(scope="module")
def perfetto() -> Read:
    """What has Perfetto read the trace of a recording."""
    TraceProcessor(b"")  # the compiled module keeps a descriptor

    def read(lines: list[bytes]) -> TraceProcessor:
        processor = TraceProcessor(b"".join(trace_lines(runs_of(lines))))
        assert processor.query(PROBLEMS) == []
        return processor

    return read


SLICES = """
    select process.name, thread.name, slice.name, ts, dur, depth, category
    from slice join thread_track on slice.track_id = thread_track.id join thread using (utid) join process using (upid)
"""


def test_perfetto_shows_every_slice_where_it_belongs(perfetto: Read) -> None:
    rows = perfetto([*OTHER_RUN, *RECORDING]).query(SLICES + "where dur > 0 order by pid, tid, ts, depth")
    one, other = "run 2026-11-23 17:08:00 UTC", "run 2026-11-23 17:08:02 UTC session s"
    assert [(*row[:3], row[3] // 1000, row[4] // 1000, row[5]) for row in rows] == [
        (one, "run", "run", 0, 8_000_000, 0),
        (one, "w1", "setup", 1_000_000, 1_000_000, 0),
        (one, "w1", "setup (try 2)", 3_000_000, 1_000_000, 0),
        (one, "w1", NAME, 4_000_000, 3_000_000, 0),
        (one, "w1", f"{NAME} task 1", 4_000_000, 2_000_000, 1),
        (one, "w1", f"{NAME} task 1 (try 2)", 6_500_000, 500_000, 1),
        (one, "lane 1", "lint", 4_000_000, 1, 0),
        (one, "lane 1", "ship", 7_000_000, 1_000_000, 0),
        (other, "run", "run", 2_000_000, 1_000_000, 0),
        (other, "lane 1", "x", 2_000_000, 1_000_000, 0),
    ]


def test_perfetto_draws_the_critical_path(perfetto: Read) -> None:
    arrows = "select a.name, b.name from flow join slice a on slice_out = a.id join slice b on slice_in = b.id"
    assert perfetto(RECORDING).query(arrows) == [("setup", "setup (try 2)"), ("setup (try 2)", NAME), (NAME, "ship")]


def test_perfetto_loses_nothing_of_a_large_recording(perfetto: Read) -> None:
    units = [f"unit {number}" for number in range(20_000)]
    lines = [line(0, "orch.started", payload=started({unit: units[:1] * (unit != units[0]) for unit in units}))]
    for number, unit in enumerate(units):
        lines += [
            line(number / 50, "unit.started", unit, payload={"worker": f"w{number % 7}"}),
            line(number / 50 + 0.1, "task.started", unit, task=1),
            line(number / 50 + 0.2, "task.completed", unit, task=1),
            line(number / 50 + 0.3, "unit.failed" if number % 10 == 0 else "unit.completed", unit),
        ]
    (counts,) = perfetto(lines).query(
        "select sum(category glob 'unit,*' and dur > 0), sum(category glob 'task,*'), sum(category glob '*,failed*'),"
        " sum(dur = 0) from slice"
    )
    assert counts == (20_000, 20_000, 4_000, 2_000)


def test_perfetto_draws_no_arrow_where_the_critical_path_is_one_slice(perfetto: Read) -> None:
    long = [
        line(0, "orch.started", payload=started({"a": [], "b": ["a"], "long": []})),
        line(0, "unit.started", "long"),
    ]
    processor = perfetto([*long, line(9, "x")])
    assert processor.query("select category from slice where name = 'long'") == [("unit,unfinished,critical",)]
    assert processor.query("select * from flow") == []


@pytest.mark.parametrize("name", ["\\", "C:\\", "a\\\\", 'b\\"', 'c\\\\"'])
def test_perfetto_reads_names_with_backslashes(perfetto: Read, name: str) -> None:
    lines = [line(0, "unit.started", name, payload={name: [name]}), line(1, "unit.completed", name)]
    assert perfetto(lines).query("select count(*) from slice") == [(2,)]
    assert only(trace_of(lines), name=name)["args"]["payload"] == {name: [name]}


@settings(max_examples=20)
@given(any_runs())
def test_perfetto_reads_every_slice_of_any_run(perfetto: Read, any_run: Any) -> None:
    lines = list(map(wire.encode, any_run.events))
    (count,) = perfetto(lines).query("select count(*) from slice")[0]
    assert count == len([event for event in trace_of(lines) if event["ph"] != "M"])


def test_the_strict_reader_refuses_what_viewers_leave_out() -> None:
    good = b"".join(trace_lines(runs_of(RECORDING)))
    read_trace(good)
    overlapping = good.replace(b'"ts":3000000', b'"ts":1500000')
    for bad in (overlapping, good.replace(b'"ts":0', b'"ts":-1'), good.replace(b'"dur":', b'"duration":'), good[:-4]):
        assert bad != good
        with pytest.raises((AssertionError, ValueError)):
            read_trace(bad)


def test_perfetto_says_so_when_it_leaves_a_slice_out(perfetto: Read) -> None:
    overlapping = b"".join(trace_lines(runs_of(RECORDING))).replace(b'"ts":3000000', b'"ts":1500000')
    assert TraceProcessor(overlapping).query(PROBLEMS) != []
