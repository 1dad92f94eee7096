"""A timeline as Trace Event JSON, which Perfetto and chrome://tracing show.

The format: https://docs.google.com/document/d/1CvAClvFfyA5R-PhYUmn5OOQtYMH4h6I0nSsKchNAySU. A run is a process, a track
is a thread, an attempt is a complete event ("X"). Those on the critical path are connected by a `bind_id`.
"""

from collections.abc import Iterator
from itertools import chain
from typing import Any

import orjson

from .model import Instant, Run, Slice

_COLORS = {"failed": "terrible", "blocked": "bad", "unfinished": "grey"}
"""The names of chrome://tracing. Perfetto chooses its own colors, and finds categories."""


def trace_lines(runs: list[Run]) -> Iterator[bytes]:
    """The lines of the JSON object. Times are in microseconds since the start of the first run."""
    zero = min(run.start for run in runs)
    before = b'{"displayTimeUnit":"ms","traceEvents":[\n'
    for pid, run in enumerate(runs, 1):
        slices = (part for track in run.tracks for slice in track.slices for part in (slice, *slice.children))
        timed = chain([_run(run)], (_slice(slice, run, pid) for slice in slices), map(_instant, run.instants))
        for event in chain(_names(run), ({**event, "ts": event["ts"] - zero} for event in timed)):
            yield before + orjson.dumps({"pid": pid, **event})
            before = b",\n"
    yield b"\n]}\n"


def _names(run: Run) -> Iterator[dict[str, Any]]:
    yield {"ph": "M", "name": "process_name", "args": {"name": run.title}}
    for tid, name in enumerate(["run", *(track.name for track in run.tracks)]):
        yield {"ph": "M", "tid": tid, "name": "thread_name", "args": {"name": name}}
        yield {"ph": "M", "tid": tid, "name": "thread_sort_index", "args": {"sort_index": tid}}


def _run(run: Run) -> dict[str, Any]:
    args = {"outcome": run.outcome, "error": run.error, "units": len(run.units), "payload": run.payload}
    place = {"tid": 0, "ts": run.start, "dur": run.end - run.start}
    return {"ph": "X", "name": "run", **place, **_marks("run", run.outcome), "args": _said(args)}


def _slice(slice: Slice, run: Run, pid: int) -> dict[str, Any]:
    args = {
        "unit": slice.unit,
        "task": slice.task,
        "attempt": slice.attempt,
        "outcome": slice.outcome,
        "error": slice.error,
        "critical": slice.critical or None,
        "queued_us": slice.waited,
        "payload": slice.payload,
    }
    retry = "retry" if slice.attempt > 1 else ""
    critical = "critical" if slice.critical else ""
    marks = _marks("task" if slice.is_task else "unit", slice.outcome, retry, critical)
    if critical:
        marks |= {
            "bind_id": hex(pid),
            "flow_in": slice is not run.critical[0],
            "flow_out": slice is not run.critical[-1],
        }
    place = {"tid": _tid(slice), "ts": slice.start, "dur": slice.duration}
    return {"ph": "X", "name": slice.name, **place, **marks, "args": _said(args)}


def _instant(instant: Instant) -> dict[str, Any]:
    event = instant.event
    family, _, what = event.type.partition(".")
    args = {"unit": event.unit, "task": event.task, "pr": event.pr, "error": event.error, "payload": event.payload}
    marks = _marks(family, "failed" if what in ("failed", "error", "critical") else "")
    place = {"tid": _tid(instant.slice), "ts": instant.time}
    return {"ph": "i", "s": "t", "name": event.type, **place, **marks, "args": _said(args)}


def _tid(slice: Slice | None) -> int:
    """The thread of the slice's track; 0 is the run's own."""
    return 0 if slice is None or slice.track is None else slice.track.number + 1


def _marks(kind: str, *categories: str) -> dict[str, Any]:
    color = {"cname": _COLORS[categories[0]]} if categories[0] in _COLORS else {}
    return {"cat": ",".join(filter(None, (kind, *categories))), **color}


def _said(args: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in args.items() if value not in (None, "", {})}
