"""A scheduler that never sleeps: 50,000 events, about 20 microseconds of pure Python between them, default buffer.

Measured are the events lost (emitted less received), the time from the first emit to the last against the floor's, and
the latency of what was received, from the time that `emit` stamped to the receipt by the consumer. Then the same with
three more threads in the host that do nothing but compute.

A peer that blocks may hold the schedule up for minutes, so it is cut off after twice what it should take, and its
time is what all events would have taken at that pace.
"""

import threading
import time
from typing import Any

from ..findings import Findings, Table, Target
from ..host import finish
from ..lab import DEFAULT_BUFFER, Figures, Lab, median, ratio, spread
from ..workload import TYPE, UNIT, payload, work

TITLE = "Busy scheduler"
EVENTS = 50_000
THREADS = 3
TURN = 100
LIMIT = 2.0
"""After how long a schedule is cut off, in seconds, times the number of busy threads. Its time is then extrapolated."""


def in_host(peer_class: Any, path: str, *, events: int, turns: int, threads: int) -> Figures:
    peer = peer_class(path, DEFAULT_BUFFER)
    time.sleep(0.3)  # until children have imported what they need
    stop = threading.Event()

    def compute() -> None:
        while not stop.is_set():
            work(turns)

    computing = [threading.Thread(target=compute, daemon=True) for _ in range(threads)]
    for thread in computing:
        thread.start()
    emit = peer.emit
    start = time.monotonic_ns()
    give_up = start + int(LIMIT * (1 + threads) * 1e9)
    done = 0
    while done < events and time.monotonic_ns() < give_up:
        for number in range(done, min(done + TURN, events)):
            work(turns)
            emit(TYPE, UNIT, number, payload(number))
        done = min(done + TURN, events)
    schedule = time.monotonic_ns() - start
    stop.set()
    for thread in computing:
        thread.join()
    finish(peer.close, 60.0)
    return {"emitted": done, "schedule": schedule / 1e9 * events / done}


def measure(lab: Lab, peer: str, threads: int = 0) -> Figures:
    figures = lab.measure(peer, "busy", "record", events=lab.events(EVENTS), turns=lab.work, threads=threads)
    if "received" in figures:
        figures["lost"] = figures["emitted"] - figures["received"]
    return figures


def table(lab: Lab, title: str, runs: dict[str, list[Figures]]) -> Table:
    rows = []
    for peer, found in runs.items():
        slower = ratio(found, runs["floor"], "schedule")
        rows.append(
            [
                lab.peers[peer].NAME,
                str(len(found)),
                spread(found, "lost", digits=0),
                lost_percent(found),
                spread(found, "schedule", digits=2),
                f"{slower:.3f}" if slower else "-",
                spread(found, "latency_p50"),
                spread(found, "latency_p99"),
                spread(found, "latency_max"),
            ]
        )
    columns = ["", "rounds", "lost", "lost %", "schedule s", "/ floor", "latency p50 ms", "p99 ms", "max ms"]
    return Table(
        title, columns, rows, "Latency is of the events that arrived. Medians (lowest-highest) over the rounds."
    )


def lost_percent(found: list[Figures]) -> str:
    lost, emitted = median(found, "lost"), median(found, "emitted")
    return "-" if lost is None or not emitted else f"{100 * lost / emitted:.1f}"


def run(lab: Lab) -> Findings:
    alone = lab.interleaved({peer: lambda peer=peer: measure(lab, peer) for peer in lab.peers})
    beside = lab.interleaved({peer: lambda peer=peer: measure(lab, peer, THREADS) for peer in lab.peers})
    ours, floor = alone["socketpusher"], alone["floor"]
    slower = ratio(beside["floor"], floor, "schedule") or float("nan")
    return Findings(
        [
            table(lab, f"{TITLE}: {lab.events(EVENTS):,} events", alone),
            table(lab, f"{TITLE}, {THREADS} more CPU-bound threads: {lab.events(EVENTS):,} events", beside),
        ],
        [
            Target("busy: lost", max((r["lost"] for r in ours), default=None), 0, note="the worst round"),
            Target("busy: schedule / floor", ratio(ours, floor, "schedule"), 1.05),
            Target("busy: latency p50, ms", median(ours, "latency_p50"), 12),
            Target("busy: latency p99, ms", median(ours, "latency_p99"), 35),
            Target(
                "busy, 3 more threads: lost",
                max((r["lost"] for r in beside["socketpusher"]), default=None),
                0,
                note="the worst round",
            ),
            Target(
                "busy, 3 more threads: latency p50 / alone",
                ratio(beside["socketpusher"], ours, "latency_p50"),
                round(slower, 2),
                note="the bound: how much slower the threads make the floor",
            ),
            Target(
                "busy, 3 more threads: latency p99 / alone",
                ratio(beside["socketpusher"], ours, "latency_p99"),
                round(slower, 2),
                note="the same",
            ),
        ],
        {"alone": alone, "beside_threads": beside},
    )
