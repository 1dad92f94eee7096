"""One event every 10 ms from a host that sleeps meanwhile: the latency of an idle system.

Host CPU per event is that of all threads of the host, including the loop and its sleep, which are the same for all.
"""

import time
from typing import Any

from ..host import finish
from ..report import Report, Table
from ..runner import DEFAULT_BUFFER, Figures, Runner, beside, spread
from ..workload import TYPE, UNIT, payload

TITLE = "Latency at rest"
EVENTS = 100
PAUSE = 0.010


def in_host(peer_class: Any, path: str, *, events: int) -> Figures:
    peer = peer_class(path, DEFAULT_BUFFER)
    time.sleep(0.3)  # until children have imported their modules
    cpu = time.process_time_ns()
    for number in range(events):
        time.sleep(PAUSE)
        peer.emit(TYPE, UNIT, number, payload(number))
    time.sleep(PAUSE)
    cpu = time.process_time_ns() - cpu
    finish(peer.close, 60.0)
    return {"emitted": events, "cpu": cpu / events / 1e3}


def run(runner: Runner) -> Report:
    events = runner.events(EVENTS)
    runs = runner.interleaved(
        {
            peer: lambda peer=peer: runner.measure(peer, "at_rest", "record", events=events)
            for peer in runner.peers
            if runner.peers[peer].DELIVERS
        }
    )
    rows = [
        [
            runner.peers[peer].NAME,
            str(len(found)),
            *(spread(found, f"latency_{name}", digits=2) for name in ("p50", "p99", "max")),
            spread(found, "cpu", digits=0),
        ]
        for peer, found in runs.items()
    ]
    columns = ["", "rounds", "p50 ms", "p99 ms", "max ms", "host CPU us/event"]
    return Report(
        [Table(f"{TITLE}: {events} events", columns, rows)],
        [
            *beside(runner, "at rest: latency p50", runs, "latency_p50", 1.25),
            *beside(runner, "at rest: host CPU per event", runs, "cpu", 1.3, ["thread_queue"]),
        ],
        runs,
    )
