"""40 bursts of 200,000 events with the default buffer, beside two busy loops in other processes. socketpusher only.

The host waits until a burst has arrived before it starts the next one. The writer and the consumer get little of the
CPU, and the events that the host emits meanwhile have to wait. Lost events are emitted less received ones; the losses
of each burst are the pusher's own count.
"""

import time
from contextlib import ExitStack
from itertools import pairwise
from typing import Any

from ..host import finish
from ..report import Report, Table, Target
from ..runner import DEFAULT_BUFFER, Figures, Runner, most, spread
from ..workload import TYPE, UNIT, payload

TITLE = "Bursts on a crowded machine"
BURSTS = 40
EVENTS = 200_000
SPINNING = 2
SPIN = """
import os
parent = os.getppid()
while os.getppid() == parent:  # so that it does not outlive the command
    for _ in range(1_000_000):
        pass
"""


def in_host(peer_class: Any, path: str, *, events: int, bursts: int) -> Figures:
    peer = peer_class(path, DEFAULT_BUFFER)
    time.sleep(0.3)  # until the writer has imported its modules
    emit = peer.emit
    dropped, took = [0], []
    for _ in range(bursts):
        start = time.monotonic()
        for number in range(events):
            emit(TYPE, UNIT, number, payload(number))
        peer.pusher.flush(60.0)
        took.append(time.monotonic() - start)
        dropped.append(peer.pusher.stats().dropped)
    finish(peer.close, 60.0)
    lost_each = [after - before for before, after in pairwise(dropped)]
    return {
        "emitted": events * bursts,
        "lost_each": lost_each,
        "slowest": max(took),
        "rate": events * bursts / sum(took),
    }


def run(runner: Runner) -> Report:
    events, bursts = runner.events(EVENTS), 2 if runner.quick else BURSTS
    with ExitStack() as stack:
        for _ in range(SPINNING):
            stack.enter_context(runner.processes.run("-c", SPIN))
        figures = runner.measure("socketpusher", "crowded", events=events, bursts=bursts)
    runs = [] if "failed" in figures else [figures]
    for run in runs:
        run["lost"] = run["emitted"] - run["received"]
        run["worst"] = max(run["lost_each"])
        run["losing"] = sum(map(bool, run["lost_each"]))
    keys = (("lost", 0), ("losing", 0), ("worst", 0), ("rate", 0), ("slowest", 2))
    row = [runner.peers["socketpusher"].NAME, *(spread(runs, key, digits=digits) for key, digits in keys)]
    columns = ["", "lost", "bursts that lost", "lost in the worst", "delivered/s", "slowest burst s"]
    worst = f"the worst burst: {most(runs, 'worst'):,.0f}" if runs else ""
    return Report(
        [Table(f"{TITLE}: {bursts} bursts of {events:,} events, {SPINNING} busy loops beside", columns, [row])],
        [Target(f"crowded: lost in {bursts} bursts", most(runs, "lost"), 0, note=worst)],
        {"socketpusher": runs},
    )
