"""The events that every peer sends, and the work of a scheduler between two events."""

import time
from array import array
from collections.abc import Callable
from typing import Any

TYPE = "task.completed"
UNIT = "unit-17"
Emit = Callable[[str, str, int, dict[str, Any]], object]


def payload(number: int) -> dict[str, Any]:
    """A new payload of about 100 bytes of JSON."""
    return {"step": number, "state": "running", "elapsed": 12.75, "attempt": 1, "note": "validated, committed, queued"}


def work(turns: int) -> int:
    """Pure Python that never gives up the GIL by itself."""
    value = 1
    for _ in range(turns):
        value = value * 31 % 7919
    return value


def turns_for(seconds: float) -> int:
    """How many turns of `work` take this long here."""
    best = min(_timed_work(20_000) for _ in range(20))
    return max(1, round(20_000 * seconds / best))


def _timed_work(turns: int) -> float:
    start = time.perf_counter()
    work(turns)
    return time.perf_counter() - start


def emit_each_timed(emit: Emit, count: int, took: "array[int]", first: int = 0) -> None:
    """Emit back to back, and store the duration of each call in `took[first:]`, in nanoseconds."""
    clock = time.perf_counter_ns
    for number in range(first, first + count):
        data = payload(number)
        start = clock()
        emit(TYPE, UNIT, number, data)
        took[number] = clock() - start


def _emit_nothing(kind: str, unit: str, task: int, data: dict[str, Any]) -> None:
    pass


def clock_cost() -> int:
    """The duration that `emit_each_timed` stores for a call that does nothing, in nanoseconds."""
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
