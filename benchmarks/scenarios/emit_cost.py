"""What `emit` costs the thread that calls it: 50,000 calls back to back, without a limit, so that nobody drops.

A call is `bus.emit(Event(...))` or a peer's equivalent, the building of the event included; the payload is there
before. The clock's own cost, as measured on a call that does nothing, is taken off the percentiles. CPU per event is
that of all threads of the host, from the first emit until all is delivered (`time.process_time`); a peer's child or
bridge is not in it.
"""

import time
from array import array
from typing import Any

from ..findings import Findings, Table, Target
from ..host import finish
from ..lab import Figures, Lab, median, ratio, spread
from ..workload import clock_cost, emit_each_timed, percentiles

TITLE = "Cost of emit"
EVENTS = 50_000
WARM_UP = 500


def in_host(peer_class: Any, path: str, *, events: int) -> Figures:
    peer = peer_class(path, None)
    time.sleep(0.3)  # until children have imported what they need
    took = array("q", bytes(8 * events))
    warm = array("q", bytes(8 * WARM_UP))
    emit_each_timed(peer.emit, WARM_UP, warm)
    time.sleep(0.05)
    nothing = clock_cost()
    cpu = time.process_time_ns()
    emit_each_timed(peer.emit, events, took)
    finish(peer.close, 60.0)
    cpu = time.process_time_ns() - cpu
    return {"cpu": cpu / events / 1e3, **{name: (value - nothing) / 1e3 for name, value in percentiles(took).items()}}


def run(lab: Lab) -> Findings:
    events = lab.events(EVENTS)
    runs = lab.interleaved(
        {peer: lambda peer=peer: lab.measure(peer, "emit_cost", events=events) for peer in lab.peers}
    )
    floor, ours = runs["floor"], runs["socketpusher"]
    rows = []
    for peer, found in runs.items():
        over = ratio(found, floor, "p50")
        rows.append(
            [
                lab.peers[peer].NAME,
                str(len(found)),
                spread(found, "p50", digits=2),
                f"{over:.2f}" if over else "-",
                *(spread(found, name) for name in ("p99", "p99.9", "max")),
                spread(found, "cpu", digits=2),
            ]
        )
    columns = ["", "rounds", "p50 us", "/ floor", "p99 us", "p99.9 us", "max us", "host CPU us/event"]
    others = {peer: median(found, "p99.9") for peer, found in runs.items() if peer not in ("floor", "socketpusher")}
    best = min((peer for peer in others if others[peer] is not None), key=lambda peer: others[peer], default=None)
    return Findings(
        [Table(f"{TITLE}: {events:,} events", columns, rows)],
        [
            Target("emit: p50 / building and encoding", ratio(ours, floor, "p50"), 1.6),
            Target(
                "emit: host CPU / floor", ratio(ours, floor, "cpu"), 1.6, note="all threads, clock and loop included"
            ),
            Target(
                "emit: p99.9 / the best peer's",
                ratio(ours, runs[best], "p99.9") if best else None,
                1.0,
                note=lab.peers[best].NAME if best else "",
            ),
        ],
        runs,
    )
