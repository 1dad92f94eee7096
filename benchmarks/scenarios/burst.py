"""100,000 events back to back, with the default buffer and without a limit.

Measured are the events lost, and the events per second that the consumer received, from the first emit to the last
receipt. A peer that loses most of a burst has little to deliver, so compare the throughput of those that lose nothing:
the targets compare the runs without a limit.
"""

import time
from typing import Any

from ..findings import Findings, Table, Target
from ..host import finish
from ..lab import DEFAULT_BUFFER, Figures, Lab, ratio, spread
from ..workload import TYPE, UNIT, payload
from .busy import lost_percent

TITLE = "Burst"
EVENTS = 100_000
BOUNDS = {"process_queue": 6, "thread_queue": 3, "pyzmq_push": 2.5, "loguru_enqueue": 10}


def in_host(peer_class: Any, path: str, *, events: int, buffer: int | None) -> Figures:
    peer = peer_class(path, buffer)
    time.sleep(0.3)  # until children have imported what they need
    emit = peer.emit
    start = time.monotonic_ns()
    for number in range(events):
        emit(TYPE, UNIT, number, payload(number))
    emitting = time.monotonic_ns() - start
    finish(peer.close, 60.0)
    return {"emitted": events, "first_emit": start, "emit_rate": events / emitting * 1e9}


def measure(lab: Lab, peer: str, buffer: int | None) -> Figures:
    figures = lab.measure(peer, "burst", events=lab.events(EVENTS), buffer=buffer)
    if "received" in figures:
        figures["lost"] = figures["emitted"] - figures["received"]
        figures["rate"] = figures["received"] / (figures["last_receipt"] - figures["first_emit"]) * 1e9
    elif "failed" not in figures:
        figures["rate"] = figures["emit_rate"]  # the floor: as fast as it encodes
    return figures


def run(lab: Lab) -> Findings:
    def measured(buffer: int | None) -> dict[str, list[Figures]]:
        return lab.interleaved({peer: lambda peer=peer: measure(lab, peer, buffer) for peer in lab.peers})

    default, unlimited = measured(DEFAULT_BUFFER), measured(None)
    tables = []
    for title, runs in (("default buffer", default), ("no limit", unlimited)):
        rows = [
            [
                lab.peers[peer].NAME,
                str(len(found)),
                spread(found, "lost", digits=0),
                lost_percent(found),
                spread(found, "rate", digits=0),
                spread(found, "emit_rate", digits=0),
            ]
            for peer, found in runs.items()
        ]
        columns = ["", "rounds", "lost", "lost %", "received/s", "emitted/s"]
        tables.append(Table(f"{TITLE}, {title}: {lab.events(EVENTS):,} events", columns, rows))
    tables[1].note = "Medians (lowest-highest). Of the floor, received/s is what it encodes in a second."
    ours = default["socketpusher"]
    targets = [
        Target("burst, default buffer: lost", max((r["lost"] for r in ours), default=None), 0, note="the worst round")
    ]
    for peer, bound in BOUNDS.items():
        if peer in lab.peers:
            targets.append(
                Target(
                    f"burst, events/s: socketpusher / {lab.peers[peer].NAME}",
                    ratio(ours, unlimited[peer], "rate"),
                    bound,
                    at_least=True,
                    note="default buffer / no limit",
                )
            )
    return Findings(tables, targets, {"default": default, "unlimited": unlimited})
