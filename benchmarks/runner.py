"""Runs hosts and consumers, round after round (A B C A B C), so that a drift of the machine affects all peers alike."""

import json
import statistics
import sys
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from . import peers
from .processes import MeasurementError, Processes
from .report import Target
from .workload import turns_for

SLOW = 3.0
"""A measurement that takes longer, in seconds, is not repeated, unless all others are compared with it."""

DEFAULT_BUFFER = 1000
WORK = 20e-6
"""The pure Python work between two events of a scheduler, in seconds."""

Figures = dict[str, Any]


class Runner:
    """Runs the measurements of a scenario.

    Args:
        processes: Starts and ends the processes.
        rounds: How often each measurement is repeated.
        quick: Whether only a fraction of the events is sent, as a smoke test.
        old: The directory of an earlier version of the package, or "".
    """

    def __init__(self, processes: Processes, rounds: int, quick: bool = False, old: str = "") -> None:
        self.processes = processes
        self.rounds = rounds
        self.quick = quick
        self.old = old
        self.peers, self.left_out = peers.available(bool(old))
        self.work = turns_for(WORK)

    def events(self, count: int) -> int:
        """The number of events to send: `count`, or a fraction of it in a quick run."""
        return max(20, count // 25) if self.quick else count

    def measure(self, peer: str, scenario: str, consumer: str = "count", **options: Any) -> Figures:
        """The figures of one host and its consumer in one dict, or only `failed`, with the reason."""
        if not self.peers[peer].DELIVERS:
            consumer = "none"
        try:
            with self.processes.consumer(consumer) as (path, reading):
                figures = self.processes.host(peer, scenario, path, options, self.old if peer == peers.OLD else "")
                if reading is not None and consumer != "stall":
                    figures |= json.loads(reading.line())
        except MeasurementError as error:
            print(f"  {peer}: {error}", file=sys.stderr)
            return {"failed": str(error)}
        return figures

    def interleaved(self, cases: dict[str, Callable[[], Figures]], slow: float = SLOW) -> dict[str, list[Figures]]:
        """The figures of each case, for each round in which it ran and did not fail; one that is slow runs once."""
        found: dict[str, list[Figures]] = {name: [] for name in cases}
        out: set[str] = set()
        if self.quick:
            with ThreadPoolExecutor(4) as pool:  # they disturb each other, but the figures do not matter
                runs = dict(zip(cases, pool.map(lambda case: case(), cases.values()), strict=True))
            return {name: [] if "failed" in run else [run] for name, run in runs.items()}
        for turn in range(self.rounds):
            for name, case in cases.items():
                if name in out:
                    continue
                _progress(f"round {turn + 1} of {self.rounds}: {name}")
                start = time.monotonic()
                figures = case()
                took = time.monotonic() - start
                if "failed" in figures:
                    out.add(name)
                    continue
                found[name].append(figures)
                too_slow = took > slow and name.split()[0] not in peers.ALWAYS
                if too_slow or "blocked_after" in figures:
                    out.add(name)
        _progress("")
        return found


def _progress(text: str) -> None:
    if sys.stderr.isatty():
        print(f"\r\x1b[K{text}", end="", file=sys.stderr, flush=True)


def values(runs: Iterable[Figures], key: str) -> list[float]:
    """One figure, of every round that has it."""
    return [run[key] for run in runs if run.get(key) is not None]


def median(runs: Iterable[Figures], key: str) -> float | None:
    """The median of a figure over the rounds; None if no round has it."""
    found = values(runs, key)
    return statistics.median(found) if found else None


def spread(runs: Iterable[Figures], key: str, scale: float = 1.0, digits: int = 1) -> str:
    """The median with the lowest and the highest round, as text."""
    found = [value * scale for value in values(runs, key)]
    if not found:
        return "-"
    middle = f"{statistics.median(found):,.{digits}f}"
    low, high = f"{min(found):,.{digits}f}", f"{max(found):,.{digits}f}"
    return middle if low == high else f"{middle} ({low}-{high})"


def ratio(over: list[Figures], under: list[Figures], key: str) -> float | None:
    """The median of the ratios of a figure within each round."""
    found = [a / b for a, b in zip(values(over, key), values(under, key), strict=False) if b]
    return statistics.median(found) if found else None


def most(runs: Iterable[Figures], key: str) -> float | None:
    """The highest value of a figure over the rounds."""
    return max(values(runs, key), default=None)


def beside(
    runner: Runner,
    what: str,
    runs: dict[str, list[Figures]],
    key: str,
    limit: float = 1.0,
    others: Iterable[str] = peers.BRIDGES,
) -> list[Target]:
    """Targets: a figure of socketpusher is at most `limit` times that of each of the other peers."""
    return [
        Target(f"{what} / {runner.peers[peer].NAME}", ratio(runs["socketpusher"], runs[peer], key), limit)
        for peer in others
        if peer in runs
    ]
