"""Where the run stands after any events, and that what is told of it leads to the same."""

import json
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from interop.choo_web import Store
from socketpusher import Event, Graph, wire
from socketpusher.run_state import (
    FULL_BYTES,
    LONG_LINE_BYTES,
    SHORT_LINE_BYTES,
    Digest,
    RunState,
    event_on,
    relevant_events,
    relevant_lines,
)

BEGIN = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
GRAPH = Graph({"a": [], "b": ["a"]}, {"a": 5}).payload()


def after(*events: Event, unit: str = "a") -> tuple[str, int, int]:
    state = RunState(GRAPH)
    for event in events:
        state.apply(event_on(wire.encode(event)))
    return tuple(state.unit_state(unit))


def told(*events: Event) -> list[dict[str, Any]]:
    return [event_on(line) for line in Digest(map(wire.encode, events)).lines()]


def started(**payload: object) -> Event:
    return Event("unit.started", "a", payload=payload)


def completed(task: int | None = None) -> Event:
    return Event("task.completed", "a", task=task)


def test_an_added_unit_has_the_state_of_its_node() -> None:
    state = RunState(GRAPH)
    node = {"id": "c", "label": "c", "level": 0, "status": "failed", "tasks": 3, "completed_tasks": 2}
    state.add(node)
    assert state.unit_state("c") == ("failed", 3, 2)
    state.apply({"type": "unit.completed", "unit": "c"})
    assert state.payload()["nodes"][2]["status"] == "complete"
    assert GRAPH["nodes"][0]["status"] == "pending"


def test_a_new_start_resets_the_tasks_even_to_fewer() -> None:
    first = (started(total_tasks=5, completed_tasks=0), completed(1), completed(2), completed(3))
    assert after(*first) == ("in_progress", 5, 3)
    again = (*first, Event("unit.failed", "a"), started(total_tasks=4, completed_tasks=0))
    assert after(*again) == ("in_progress", 4, 0)
    assert after(*first, started()) == ("in_progress", 5, 0)


def test_a_skipped_unit_is_complete_and_progress_sets_the_counts() -> None:
    assert after(Event("unit.skipped", "a"))[0] == "complete"
    assert after(Event("unit.progress", "a", payload={"done": 3, "total": 9, "message": "x"})) == ("pending", 9, 3)


def test_a_task_without_a_number_is_one_more() -> None:
    assert after(completed(2), completed(), completed())[2] == 4


def test_the_last_line_of_each_type_and_unit_is_repeated_in_order() -> None:
    events = (
        Event("unit.queued", "a"),
        Event("unit.failed", "a", error="no"),
        Event("unit.started", "b"),
        Event("unit.queued", "a"),
        Event("other", "a"),
    )
    assert [(event["type"], event["unit"]) for event in told(*events)] == [
        ("unit.failed", "a"),
        ("unit.started", "b"),
        ("unit.queued", "a"),
    ]
    assert all(event["retained"] for event in told(*events))


def test_a_start_forgets_the_tasks_of_its_unit_and_a_run_all_that_was_before() -> None:
    events = (started(), Event("task.started", "a", task=1), completed(), completed(), completed(1), started())
    assert [event["type"] for event in told(*events)] == ["unit.started"]
    assert [event["type"] for event in told(*events, completed(1))] == ["unit.started", "task.completed"]
    assert [event["type"] for event in told(*events, Event("orch.started"))] == ["orch.started"]


def test_every_task_without_a_number_is_repeated() -> None:
    assert len(told(started(), completed(), completed(), completed())) == 4


def test_the_oldest_ended_units_that_are_in_no_graph_are_forgotten(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("socketpusher.run_state.MAX_ENDED_UNITS", 2)
    ends = ("completed", "failed", "skipped")
    events = [
        Event(f"unit.{what}", f"{unit}{n}", payload=payload)
        for n, end in enumerate(ends)
        for unit in ("named", "other")
        for what, payload in (
            *(("queued", None), ("started", None), ("started", {"total_tasks": 1})),
            *(("progress", {"done": 1}), (end, None)),
        )
    ]
    lines = [*map(wire.encode, events), wire.encode(Event("unit.started", "other1")), wire.encode(completed(1))]

    def units(**named: Any) -> list[str]:
        return sorted({event_on(line)["unit"] for line in Digest(lines, **named).lines()})

    assert units() == ["a", *(f"{unit}{n}" for unit in ("named", "other") for n in range(3))]
    assert units(graph_units=["named0", "named1", "named2"]) == ["a", "named0", "named1", "named2", "other1", "other2"]
    assert len(Digest(lines, graph_units=[])._work) == 1
    assert len(Digest(lines, graph_units=[])._progress) == 2


def test_the_oldest_units_that_have_not_ended_and_are_in_no_graph_are_forgotten(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("socketpusher.run_state.MAX_BEGUN_UNITS", 2)
    monkeypatch.setattr("socketpusher.run_state.MAX_ENDED_UNITS", 1)
    kinds = ("unit.queued", "unit.started", "unit.progress", "task.completed")
    begun = [wire.encode(Event(kind, f"{kind} {n}", task=1)) for n in range(4) for kind in kinds]
    ended = [wire.encode(Event("unit.completed", "done")), wire.encode(Event("task.completed", "done", task=1))]
    lines = Digest([*ended, *begun], graph_units=["unit.queued 0"]).lines()
    assert sorted({event_on(line)["unit"] for line in lines}) == [
        "done", "task.completed 3", "unit.progress 3", "unit.queued 0",
    ]  # fmt: skip


def test_a_long_line_is_shortened_to_what_matters() -> None:
    payload = {"worker": "w", "total_tasks": 3, "log": "x" * LONG_LINE_BYTES}
    event = Event("unit.failed", "a", payload=payload, error="e" * 10_000 + "ValueError: no disk")
    (line,) = Digest([wire.encode(event)]).lines()
    assert len(line) < LONG_LINE_BYTES
    assert event_on(line)["payload"] == {"worker": "w", "total_tasks": 3}
    assert event_on(line)["error"] == "e" * 4000 + " [cut] " + "e" * 3981 + "ValueError: no disk"


def test_a_digest_is_bounded_even_with_large_errors_and_payloads() -> None:
    digest = Digest()
    failed = [wire.encode(Event("unit.failed", f"u{number}", error="e" * 60_000)) for number in range(500)]
    tasks = [wire.encode(Event("task.completed", f"u{number % 5}", payload="p" * 60_000)) for number in range(1000)]
    for line in (*failed, *tasks):
        digest.add(line, event_on(line))
    lines = digest.lines()
    assert len(lines) == 1500
    assert sum(map(len, lines)) < FULL_BYTES + 1500 * SHORT_LINE_BYTES
    digest.add(started := wire.encode(Event("orch.started")), event_on(started))
    digest.add(failed[0], event_on(failed[0]))
    assert len(digest.lines()[1]) > len(failed[0])  # there is room again


def test_lines_of_which_only_the_head_matters_stay_whole_events_if_there_are_many() -> None:
    digest = Digest()
    lines = [wire.encode(Event("unit.completed", f"u{number}", payload="p" * 50_000)) for number in range(400)]
    for line, event in relevant_events(b"".join(lines)):
        digest.add(line, event)
    units = {wire.decode(line).unit for line in digest.lines()}
    assert len(units) == 400
    assert sum(map(len, digest.lines())) < FULL_BYTES + 400 * SHORT_LINE_BYTES


def test_a_line_that_can_not_be_shortened_stays_as_it_is() -> None:
    line = wire.encode(Event("unit.failed", "u" * LONG_LINE_BYTES, payload=5))
    assert Digest([line]).lines() == [wire.retained(line)]


units = st.sampled_from(["a", "b"])
tasks = st.none() | st.integers(-1, 6)
counts = st.fixed_dictionaries({}, optional={"total_tasks": st.integers(-1, 6), "completed_tasks": st.integers(-1, 6)})
progress = st.fixed_dictionaries(
    {}, optional={"done": st.integers(-1, 6) | st.just("3"), "total": st.integers(-1, 6), "message": st.just("linking")}
)
events = st.one_of(
    st.builds(
        Event,
        st.just("unit.started"),
        units,
        payload=st.none() | counts | st.sampled_from(["odd", {"total_tasks": "3"}]),
    ),
    st.builds(Event, st.sampled_from(["unit.queued", "unit.failed", "unit.completed", "unit.blocked"]), units),
    st.builds(Event, st.sampled_from(["task.started", "task.completed"]), units, tasks),
    st.builds(Event, st.just("unit.progress"), units, payload=st.none() | progress),
    st.builds(Event, st.sampled_from(["other", "unit.merged"]), units),
)


@given(st.lists(events, max_size=25), st.data())
def test_a_digest_leads_to_the_same_state_and_so_does_its_own_digest(run: list[Event], data: st.DataObject) -> None:
    cut = data.draw(st.integers(0, len(run)))
    lines = [wire.encode(event) for event in run]
    early = Digest(lines[:cut]).lines()
    late = Digest(lines[cut:]).lines()
    ways = [lines, Digest(lines).lines(), Digest([*early, *lines[cut:]]).lines(), [*early, *late]]
    states = []
    for way in ways:
        state = RunState(GRAPH)
        for line in way:
            state.apply(event_on(line))
        states.append(state.payload())
    assert states[1:] == states[:1] * 3


names = st.sampled_from(["a", "b", "module-b", 'say "hi" \\\\', "データ"])
moments = st.datetimes(timezones=st.just(UTC), min_value=datetime(2026, 1, 1), max_value=datetime(2026, 1, 2))
flood = st.builds(
    Event,
    st.sampled_from(["task.completed", "task.started", "unit.failed", "unit.started", "unit.queued", "task.committed"]),
    names,
    st.none() | st.integers(-3, 12),
    payload=st.sampled_from([None, {"total_tasks": 3}, {"step": 1}, ',"task":9', [',"unit":"b","task":99,']]),
    error=st.sampled_from(["", 'no ","task":7']) | st.just("e" * 200),
    time=st.sampled_from([BEGIN, BEGIN.replace(microsecond=5)]) | moments,
)


@given(st.lists(flood, max_size=40), st.booleans())
def test_irrelevant_lines_are_overwritten_by_relevant_ones(run: list[Event], large: bool) -> None:
    """Also of a bytearray, as a large batch is, and with lines of which only the head is kept."""
    graph = Graph({name: [] for name in ("a", "b", "module-b", 'say "hi" \\\\', "データ")}).payload()
    lines = [wire.encode(event) for event in run]
    if large:
        lines = [line[:-2] + b',"id":"x-%d"}\n' % number for number, line in enumerate(lines, 1)]
    data = b"".join(lines)
    kept = relevant_lines(bytearray(data) if large else data)
    assert set(kept) <= set(lines)
    states, pictures = [], []
    begin = wire.encode(Event("orch.started", payload={"graph": graph}))
    for way in (lines, kept, Digest(lines).lines(), Digest(kept).lines()):
        state, store = RunState(graph), Store()
        store.read(begin)
        for line in way:
            state.apply(event_on(line))
            store.read(line)
        states.append(state.payload())
        pictures.append(store.picture())
    assert states[1:] == states[:1] * 3
    assert pictures[1:] == pictures[:1] * 3


def task(kind: str, number: int | None) -> Event:
    return Event(f"task.{kind}", "a", task=number, payload={"step": 1}, time=BEGIN)


@pytest.mark.parametrize(
    "run",
    [
        [task("completed", 5), task("completed", 3)],  # in any order
        [task("started", 5), task("started", 3)],  # of a new attempt
        [task("completed", n) for n in (5, None, None, 6)],  # where each counts on what was before
        [task("completed", 1), Event("unit.queued", "a", time=BEGIN), task("completed", 2)],
    ],
)
def test_lines_left_out_of_a_flood_of_tasks_are_overwritten(run: list[Event]) -> None:
    states, pictures = [], []
    lines = [wire.encode(event) for event in run]
    for way in (lines, relevant_lines(b"".join(lines))):
        state, store = RunState(GRAPH), Store()
        store.read(wire.encode(Event("orch.started", payload={"graph": GRAPH}, time=BEGIN)))
        for line in way:
            state.apply(event_on(line))
            store.read(line)
        states.append(state.payload())
        pictures.append(store.picture())
    assert states[1] == states[0]
    assert pictures[1] == pictures[0]


@pytest.mark.parametrize(
    "other",
    [
        Event("task.completed", "module-b", 5, payload={}, time=BEGIN),
        Event("task.completed.module", "b", 5, payload={}, time=BEGIN),
        Event("task.completed", "c", -5, payload={}, time=BEGIN),
    ],
)
def test_a_line_that_looks_like_those_of_a_flood_is_read(other: Event) -> None:
    """A time without a fraction is 7 characters shorter: "b" is in that place where the name is 7 longer."""
    first = Event("task.completed", "b", 3, payload={}, time=BEGIN.replace(microsecond=5))
    events = relevant_events(wire.encode(first) + wire.encode(other))
    expected = [(event.type, event.unit, event.task) for event in (first, other) if event.type == "task.completed"]
    assert [(event["type"], event["unit"], event["task"]) for _, event in events] == expected


def test_one_line_is_kept_of_a_flood_of_tasks() -> None:
    lines = [wire.encode(task("completed", number)) for number in range(100)]
    assert relevant_lines(b"".join(lines)) == lines[-1:]


def test_a_long_line_whose_payload_does_not_matter_keeps_its_head_and_id() -> None:
    long = "x" * LONG_LINE_BYTES
    event = Event("task.completed", "a", task=3, payload=long, error='no ,"id":"y-1"')
    line = wire.encode(event)
    (kept,) = relevant_lines(line)
    assert {key: value for key, value in event_on(kept).items() if key != "time"} == {
        "type": "task.completed",
        "unit": "a",
        "task": 3,
    }
    (kept,) = relevant_lines(line[:-2] + b',"id":"x-7"}\n')
    assert event_on(kept)["id"] == "x-7"
    failed = wire.encode(Event("unit.failed", "a", payload=long))
    assert relevant_lines(failed) == [failed]


anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=5,
)


@given(st.lists(st.dictionaries(st.sampled_from(["type", "unit", "task", "payload", "error"]), anything | events)))
def test_an_event_with_any_content_is_applied(malformed: list[dict[str, Any]]) -> None:
    state, digest = RunState(GRAPH), Digest()
    for kind in ("unit.started", "task.completed", "unit.progress", "orch.started"):
        for event in malformed:
            for taken in (event, {**event, "type": kind}, {**event, "type": kind, "unit": "a"}):
                state.apply(taken)
                digest.add(b"{}\n", taken)
    wire.encode(Event("graph", payload=state.payload()))


def test_only_relevant_lines_are_parsed() -> None:
    lines = [wire.encode(Event(kind, "a")) for kind in ("unit.started", "unit.startedx", "other", "orch.failed")]
    assert relevant_lines(b"".join(lines)) == [lines[0], lines[3]]
    assert relevant_lines(b"") == []


def in_another_form(line: bytes, form: int) -> bytes:
    """The line as another program may write it: with spaces, or its keys in another order."""
    event = event_on(line)
    if form == 0:
        return json.dumps(event).encode() + b"\n"
    keys = sorted(event, key=lambda key: (key[form % len(key)], key))
    return json.dumps({key: event[key] for key in keys}, separators=(",", ":")).encode() + b"\n"


@given(st.lists(st.tuples(events, st.integers(-1, 5)), max_size=20))
def test_the_form_of_a_line_makes_no_difference(given_events: list[tuple[Event, int]]) -> None:
    lines = [wire.encode(event) for event, _ in given_events]
    lines = [
        line if form < 0 else in_another_form(line, form) for line, (_, form) in zip(lines, given_events, strict=True)
    ]
    looked_at, all_of_them = Digest(), Digest()
    for line, event in relevant_events(b"".join(lines)):
        looked_at.add(line, event)
    for line in lines:
        all_of_them.add(line, event_on(line))
    assert standing(looked_at) == standing(all_of_them)


def standing(digest: Digest) -> list[tuple[str, int, int]]:
    state = RunState(GRAPH)
    for line in digest.lines():
        state.apply(event_on(line))
    return [tuple(state.unit_state(unit)) for unit in ("a", "b")]
