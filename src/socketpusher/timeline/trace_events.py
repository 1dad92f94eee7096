"""A timeline as Trace Event JSON, which Perfetto and chrome://tracing show.

The format: https://docs.google.com/document/d/1CvAClvFfyA5R-PhYUmn5OOQtYMH4h6I0nSsKchNAySU. A run is a process, a track
is a thread, an attempt is a complete event ("X"). Those on the critical path are connected by a `bind_id`. To
Perfetto, threads with the same number are the same, whatever their process, and thread N is the first of process N.
"""

import re
from collections.abc import Iterator
from typing import Any

from ..conversion import to_json
from .model import Instant, Run, Slice

_COLORS = {"failed": "terrible", "blocked": "bad", "unfinished": "grey"}
"""The names of chrome://tracing. Perfetto chooses its own colors, and finds categories."""

_FINAL_BACKSLASH = re.compile(rb'(?<!\\)((?:\\\\)*)\\\\(?=")')
"""At the end of a string. Perfetto 52 takes it for an escaped quote and reads no trace (google/perfetto#3361)."""


def trace_lines(runs: list[Run]) -> Iterator[bytes]:
    """The lines of the JSON object. Times are in microseconds since the start of the first run."""
    before = b'{"displayTimeUnit":"ms","traceEvents":[\n'
    first_thread = len(runs) + 1
    zero = min((run.start for run in runs), default=0)
    for pid, run in enumerate(runs, 1):
        process = _Process(run, pid, first_thread, zero)
        first_thread += len(run.tracks)
        for event in process.events():
            yield before + _FINAL_BACKSLASH.sub(rb"\1\\u005c", to_json({"pid": pid, **event}))
            before = b",\n"
    yield b"\n]}\n"


class _Process:
    """The events of one run.

    Args:
        run: The run.
        pid: The number of its process, and of its own thread.
        first_thread: The number of the thread of its first track.
        zero: Where its times count from, in microseconds since 1970.
    """

    def __init__(self, run: Run, pid: int, first_thread: int, zero: int) -> None:
        self._run, self._pid, self._first_thread, self._zero = run, pid, first_thread, zero

    def events(self) -> Iterator[dict[str, Any]]:
        run = self._run
        yield {"ph": "M", "name": "process_name", "args": {"name": run.title}}
        threads = {self._pid: "run"} | {self._first_thread + track.number: track.name for track in run.tracks}
        for tid, name in threads.items():
            yield {"ph": "M", "tid": tid, "name": "thread_name", "args": {"name": name}}
            yield {"ph": "M", "tid": tid, "name": "thread_sort_index", "args": {"sort_index": tid}}
        args = {"outcome": run.outcome, "error": run.error, "units": len(run.units), "payload": run.payload}
        whole = {**self._at(None, run.start), "dur": run.end - run.start, **_marks("run", run.outcome)}
        yield {"ph": "X", "name": "run", **whole, "args": _said(args)}
        for track in run.tracks:
            for slice in track.slices:
                yield from map(self._slice, (slice, *slice.children))
        yield from map(self._instant, run.instants)

    def _slice(self, slice: Slice) -> dict[str, Any]:
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
        chain = self._run.critical
        if critical and len(chain) > 1:
            marks |= {"bind_id": hex(self._pid), "flow_in": slice is not chain[0], "flow_out": slice is not chain[-1]}
        place = {**self._at(slice, slice.start), "dur": slice.duration}
        return {"ph": "X", "name": slice.name, **place, **marks, "args": _said(args)}

    def _instant(self, instant: Instant) -> dict[str, Any]:
        event = instant.event
        family, _, what = event.type.partition(".")
        args = {"unit": event.unit, "task": event.task, "pr": event.pr, "error": event.error, "payload": event.payload}
        marks = _marks(family, "failed" if what in ("failed", "error", "critical") else "")
        return {
            "ph": "i",
            "s": "t",
            "name": event.type,
            **self._at(instant.slice, instant.time),
            **marks,
            "args": _said(args),
        }

    def _at(self, slice: Slice | None, time: int) -> dict[str, int]:
        """On the track of a slice, or on the run's own."""
        thread = self._pid if slice is None or slice.track is None else self._first_thread + slice.track.number
        return {"tid": thread, "ts": time - self._zero}


def _marks(kind: str, *categories: str) -> dict[str, Any]:
    color = {"cname": _COLORS[categories[0]]} if categories[0] in _COLORS else {}
    return {"cat": ",".join(filter(None, (kind, *categories))), **color}


def _said(args: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in args.items() if value not in (None, "", {})}
