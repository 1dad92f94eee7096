"""A consumer that accepts and never reads, or none: the effect on `emit` and on memory, with the default buffer.

The cost of a call is measured as in the scenario emit_cost, over a million events for socketpusher and 30,000 for the
peers, and compared with a consumer that reads. Memory is the largest growth of the resident set of the host, and of its
children, checked every 10,000 events. A peer whose call does not return within two seconds is stopped; the table says
after how many events it blocked.
"""

import multiprocessing
import os
import threading
import time
from array import array
from typing import Any

from ..host import finish, leave
from ..report import Report, Table, Target
from ..runner import DEFAULT_BUFFER, Figures, Runner, median, ratio, spread
from ..workload import clock_cost, emit_each_timed, percentiles

TITLE = "Stalled consumer"
EVENTS = 1_000_000
PEER_EVENTS = 30_000
LOOK = 10_000
BLOCKED = 2.0
CONSUMERS = {"reads": "count", "never reads": "stall", "none": "none"}


def resident(pid: int | str = "self") -> float:
    """The resident set of a process, in MiB; 0 where the system does not report it."""
    try:
        with open(f"/proc/{pid}/statm") as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20
    except OSError:
        return 0.0


def children() -> float:
    """The resident sets of all children, in MiB."""
    return sum(resident(child.pid or 0) for child in multiprocessing.active_children())


def in_host(peer_class: Any, path: str, *, events: int) -> Figures:
    peer = peer_class(path, DEFAULT_BUFFER)
    time.sleep(0.3)  # until children have imported their modules
    took = array("q", [0]) * events
    nothing = clock_cost()
    threading.Thread(target=_give_up_if_blocked, args=(took,), daemon=True).start()
    before, before_children = resident(), children()
    host: list[float] = []
    child: list[float] = []
    for first in range(0, events, LOOK):
        emit_each_timed(peer.emit, min(LOOK, events - first), took, first)
        host.append(resident() - before)
        child.append(children() - before_children)
    finish(peer.close, 0.2)
    cost = {name: (value - nothing) / 1e3 for name, value in percentiles(took).items()}
    return {**cost, "host_growth": max(host), "child_growth": max(child)}


def _give_up_if_blocked(took: "array[int]") -> None:
    done, since = 0, time.monotonic()
    while took[-1] == 0:
        time.sleep(0.5)
        now = next((index for index in range(done, len(took)) if took[index] == 0), len(took))
        if now != done:
            done, since = now, time.monotonic()
        elif time.monotonic() - since > BLOCKED:
            leave({"blocked_after": done})


def _cells(found: list[Figures]) -> list[str]:
    if blocked := [run["blocked_after"] for run in found if "blocked_after" in run]:
        return [f"BLOCKS after {blocked[0]:,} events", "-", "-", "-", "-"]
    return [
        spread(found, "p50", digits=2),
        spread(found, "p99.9"),
        spread(found, "max"),
        spread(found, "host_growth"),
        spread(found, "child_growth"),
    ]


def run(runner: Runner) -> Report:
    def measure(peer: str, consumer: str) -> Figures:
        events = EVENTS if peer == "socketpusher" else PEER_EVENTS
        return runner.measure(peer, "stalled", CONSUMERS[consumer], events=runner.events(events))

    runs = runner.interleaved(
        {
            f"{peer} {consumer}": lambda peer=peer, consumer=consumer: measure(peer, consumer)
            for peer in runner.peers
            if runner.peers[peer].DELIVERS
            for consumer in CONSUMERS
        }
    )
    rows = []
    for case, found in runs.items():
        peer, consumer = case.split(" ", 1)
        rows.append([runner.peers[peer].NAME, consumer, str(len(found)), *_cells(found)])
    columns = ["", "consumer", "rounds", "p50 us", "p99.9 us", "max us", "host +MiB", "child +MiB"]
    targets = []
    healthy = runs["socketpusher reads"]
    for consumer in ("never reads", "none"):
        found = runs[f"socketpusher {consumer}"]
        targets += [
            Target(f"consumer {consumer}: p50 / healthy", ratio(found, healthy, "p50"), 1.2),
            Target(f"consumer {consumer}: p99.9 / healthy", ratio(found, healthy, "p99.9"), 2.0),
            Target(f"consumer {consumer}: growth of the host, MiB", median(found, "host_growth"), 16),
        ]
    title = f"{TITLE}: {runner.events(EVENTS):,} events of socketpusher, {runner.events(PEER_EVENTS):,} of the peers"
    return Report([Table(title, columns, rows)], targets, runs)
