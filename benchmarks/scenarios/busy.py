"""A scheduler that never sleeps: 50,000 events, about 20 microseconds of pure Python between them, default buffer.

It measures the lost events (emitted less received), the time from the first emit to the last compared with the floor,
and the latency of the received events, from the time of the event to its receipt by the consumer. Then the same with
three more threads in the host that only compute.

A peer that blocks may delay the schedule for minutes. So a schedule ends after `LIMIT`, and its time is extrapolated to
all events.
"""

import threading
import time
from array import array
from typing import Any

from ..host import finish
from ..report import Report, Table, Target
from ..runner import DEFAULT_BUFFER, Figures, Runner, beside, median, most, ratio, spread
from ..workload import TYPE, UNIT, payload, work

TITLE = "Busy scheduler"
EVENTS = 50_000
THREADS = 3
TURN = 100
LIMIT = 2.0
"""The longest time of a schedule, in seconds for each busy thread. A longer one is stopped."""
LOST_NOTE = "the worst round"


def in_host(peer_class: Any, path: str, *, events: int, turns: int, threads: int, timed: bool = False) -> Figures:
    peer = peer_class(path, DEFAULT_BUFFER)
    time.sleep(0.3)  # until children have imported their modules
    stop = threading.Event()

    def compute() -> None:
        while not stop.is_set():
            work(turns)

    computing = [threading.Thread(target=compute, daemon=True) for _ in range(threads)]
    for thread in computing:
        thread.start()
    emit = peer.emit
    took = array("q")  # nanoseconds of each emit, if it is to be timed

    def emit_timed(*arguments: Any) -> None:
        begin = time.perf_counter_ns()
        peer.emit(*arguments)
        took.append(time.perf_counter_ns() - begin)

    if timed:
        emit = emit_timed
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
    figures = {"emitted": done, "schedule": schedule / 1e9 * events / done}
    return figures | ({"emit_p50": sorted(took)[done // 2] / 1e3} if timed else {})


def measure(runner: Runner, peer: str, threads: int = 0, **other: Any) -> Figures:
    options = {"events": runner.events(EVENTS), "turns": runner.work, "threads": threads, **other}
    figures = runner.measure(peer, "busy", "record", **options)
    if "received" in figures:
        figures["lost"] = figures["emitted"] - figures["received"]
    return figures


def table(runner: Runner, title: str, runs: dict[str, list[Figures]]) -> Table:
    rows = []
    for peer, found in runs.items():
        slower = ratio(found, runs["floor"], "schedule")
        rows.append(
            [
                runner.peers[peer].NAME,
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


def run(runner: Runner) -> Report:
    alone = runner.interleaved({peer: lambda peer=peer: measure(runner, peer) for peer in runner.peers})
    crowded = runner.interleaved({peer: lambda peer=peer: measure(runner, peer, THREADS) for peer in runner.peers})
    ours, ours_crowded = alone["socketpusher"], crowded["socketpusher"]
    threads = f"busy, {THREADS} more threads"
    return Report(
        [
            table(runner, f"{TITLE}: {runner.events(EVENTS):,} events", alone),
            table(runner, f"{TITLE}, {THREADS} more CPU-bound threads: {runner.events(EVENTS):,} events", crowded),
        ],
        [
            Target("busy: lost", most(ours, "lost"), 0, note=LOST_NOTE),
            Target("busy: schedule / floor", ratio(ours, alone["floor"], "schedule"), 1.05),
            Target("busy: latency p50, ms", median(ours, "latency_p50"), 1.5),
            Target("busy: latency p99, ms", median(ours, "latency_p99"), 5),
            *beside(runner, "busy: latency p99", alone, "latency_p99"),
            Target(f"{threads}: lost", most(ours_crowded, "lost"), 0, note=LOST_NOTE),
            Target(f"{threads}: latency p50, ms", median(ours_crowded, "latency_p50"), 3),
            Target(f"{threads}: latency p99, ms", median(ours_crowded, "latency_p99"), 40),
            *beside(runner, f"{threads}: schedule", crowded, "schedule"),
        ],
        {"alone": alone, "beside_threads": crowded},
    )
