"""What every peer carries, and what a scheduler does between two events."""

import time
from array import array
from collections.abc import Callable
from typing import Any

TYPE = "task.completed"
UNIT = "unit-17"
Emit = Callable[[str, str, int, dict[str, Any]], object]


def payload(number: int) -> dict[str, Any]:
    """About 100 bytes of JSON, made anew for each event."""
    return {"step": number, "state": "running", "elapsed": 12.75, "attempt": 1, "note": "validated, committed, queued"}


def work(turns: int) -> int:
    """Pure Python that never gives up the GIL of its own accord."""
    value = 1
    for _ in range(turns):
        value = value * 31 % 7919
    return value


def turns_for(seconds: float) -> int:
    """How many turns of `work` take so long here."""
    best = min(_timed_work(20_000) for _ in range(20))
    return max(1, round(20_000 * seconds / best))


def _timed_work(turns: int) -> float:
    start = time.perf_counter()
    work(turns)
    return time.perf_counter() - start


def emit_each_timed(emit: Emit, count: int, took: "array[int]", first: int = 0) -> None:
    """Emit back to back and note what each call took, in nanoseconds, in `took[first:]`."""
    clock = time.perf_counter_ns
    for number in range(first, first + count):
        data = payload(number)
        start = clock()
        emit(TYPE, UNIT, number, data)
        took[number] = clock() - start


def _emit_nothing(kind: str, unit: str, task: int, data: dict[str, Any]) -> None:
    pass


def clock_cost() -> int:
    """What `emit_each_timed` notes for a call that does nothing, in nanoseconds: the share of the measurement."""
    took = array("q", bytes(8 * 20_000))
    emit_each_timed(_emit_nothing, len(took), took)
    return sorted(took)[len(took) // 2]


def percentiles(values: "list[float] | array[int]") -> dict[str, float]:
    """The p50, p99, p99.9 and max, in the unit of the values."""
    ordered = sorted(values)
    if not ordered:
        return {}
    last = len(ordered) - 1
    found = {name: ordered[min(last, int(part * len(ordered)))] for name, part in _PARTS.items()}
    return {**found, "max": ordered[-1]}


_PARTS = {"p50": 0.5, "p99": 0.99, "p99.9": 0.999}
