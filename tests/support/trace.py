"""Recordings for tests of timelines, and a strict reader of Trace Event JSON."""

import json
import sys
from collections import defaultdict
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from typing import Any

from socketpusher import Event, Graph, wire
from socketpusher.graph import with_edges_reversed
from socketpusher.timeline.model import Run, Timeline
from socketpusher.timeline.trace_events import trace_lines

START = datetime(2026, 11, 23, 17, 8, 0, 123_456, tzinfo=UTC)
KEYS = {
    "M": {"ph", "pid", "name", "args"},
    "X": {"ph", "pid", "tid", "ts", "dur", "name", "cat", "args"},
    "i": {"ph", "pid", "tid", "ts", "s", "name", "cat", "args"},
}
OPTIONAL = {"M": {"tid"}, "X": {"cname", "bind_id", "flow_in", "flow_out"}, "i": {"cname"}}
COLORS = {"terrible", "bad", "grey"}


def line(seconds: float, kind: str, unit: str = "", *, id: str = "", retained: bool = False, **fields: Any) -> bytes:
    """The line of an event, so many seconds after the start."""
    event = Event(kind, unit, time=START + timedelta(seconds=seconds), **fields)
    encoded = wire.encode(event, max_line_bytes=sys.maxsize)
    if id:
        encoded = b'%b,"id":"%b"}\n' % (encoded[:-2], id.encode())
    return wire.retained(encoded) if retained else encoded


def started(dependencies: dict[str, list[str]]) -> dict[str, Any]:
    """The payload of an `orch.started`."""
    return {"parallelism": 2, "graph": with_edges_reversed(Graph(dependencies).payload())}


def runs_of(lines: Iterable[bytes]) -> list[Run]:
    timeline = Timeline()
    for each in lines:
        timeline.feed(each)
    return timeline.runs()


def trace_of(lines: Iterable[bytes]) -> list[dict[str, Any]]:
    """The events of the trace of a recording, checked."""
    return read_trace(b"".join(trace_lines(runs_of(lines))))


def read_trace(data: bytes) -> list[dict[str, Any]]:
    """The events of a trace. Fails where it does not keep to the format, or a viewer would leave something out."""
    trace = json.loads(data)
    assert trace.keys() == {"displayTimeUnit", "traceEvents"}
    assert trace["displayTimeUnit"] in ("ms", "ns")
    threads = set()
    slices = defaultdict(list)
    for event in trace["traceEvents"]:
        kind = event["ph"]
        assert KEYS[kind] <= event.keys() <= KEYS[kind] | OPTIONAL[kind], event
        assert isinstance(event["name"], str) and isinstance(event["args"], dict)
        assert event.get("cname", "bad") in COLORS
        for key in {"pid", "tid", "ts", "dur"} & event.keys():
            assert type(event[key]) is int and event[key] >= 0, event
        thread = event["pid"], event.get("tid")
        if event["name"] == "thread_name":
            assert thread[1] not in {tid for _, tid in threads}  # Perfetto takes no notice of the process
            threads.add(thread)
        elif kind == "X":
            slices[thread].append(event)
        if kind != "M":
            assert thread in threads
    for of_thread in slices.values():
        check_nesting(of_thread)
    return trace["traceEvents"]


def check_nesting(slices: list[dict[str, Any]]) -> None:
    """Slices of a thread contain each other, or do not overlap; viewers ignore others."""
    stack: list[int] = []  # the ends of those that a slice is in
    for each in sorted(slices, key=lambda slice: (slice["ts"], -slice["dur"])):
        while stack and stack[-1] <= each["ts"]:
            stack.pop()
        assert not stack or each["ts"] + each["dur"] <= stack[-1], each
        assert len(stack) < 2, f"deeper than a task in a unit: {each}"
        stack.append(each["ts"] + each["dur"])
