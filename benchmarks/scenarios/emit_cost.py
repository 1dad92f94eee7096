"""The cost of `emit` for the thread that calls it: 50,000 calls back to back, without a limit, so that no peer drops.

A call is `bus.emit(Event(...))` or the equivalent of a peer. It includes making the event, but not the payload. The
cost of the clock, measured with a call that does nothing, is subtracted from the percentiles. CPU per event is that of
all threads of the host, from the first emit until everything is delivered (`time.process_time`), without child
processes.

The causes of slow calls are counted for the calling thread: system calls that write (Linux, `/proc/thread-self/io`; a
send on a socket does not count), waits, and preemptions; and garbage collections in any thread. What happens in one
call of a thousand is visible at p99.9.
"""

import gc
import resource
import time
from array import array
from typing import Any

from ..host import finish
from ..report import Report, Table, Target
from ..runner import Figures, Runner, ratio, spread
from ..workload import clock_cost, emit_each_timed, percentiles

TITLE = "Cost of emit"
EVENTS = 50_000
WARM_UP = 500
CAUSES = {"writes": "writes", "waits": "waits", "preempted": "preemptions", "collections": "collections"}


def _causes() -> dict[str, int]:
    """How often each cause has occurred so far, where the system reports it."""
    found = {"collections": sum(generation["collections"] for generation in gc.get_stats())}
    try:
        with open("/proc/thread-self/io") as file:
            found["writes"] = int(file.read().split("syscw:")[1].split()[0])
        usage = resource.getrusage(resource.RUSAGE_THREAD)
    except (OSError, AttributeError):
        return found
    return found | {"waits": usage.ru_nvcsw, "preempted": usage.ru_nivcsw}


def in_host(peer_class: Any, path: str, *, events: int) -> Figures:
    peer = peer_class(path, None)
    time.sleep(0.3)  # until children have imported their modules
    took = array("q", bytes(8 * events))
    warm = array("q", bytes(8 * WARM_UP))
    emit_each_timed(peer.emit, WARM_UP, warm)
    time.sleep(0.05)
    nothing = clock_cost()
    cpu = time.process_time_ns()
    before = _causes()
    emit_each_timed(peer.emit, events, took)
    causes = {name: (after - before[name]) / events * 1e3 for name, after in _causes().items()}
    finish(peer.close, 60.0)
    cpu = time.process_time_ns() - cpu
    cost = {name: (value - nothing) / 1e3 for name, value in percentiles(took).items()}
    return {"cpu": cpu / events / 1e3, **cost, **causes}


def run(runner: Runner) -> Report:
    events = runner.events(EVENTS)
    runs = runner.interleaved(
        {peer: lambda peer=peer: runner.measure(peer, "emit_cost", events=events) for peer in runner.peers}
    )
    floor, ours = runs["floor"], runs["socketpusher"]
    rows = []
    for peer, found in runs.items():
        over = ratio(found, floor, "p50")
        rows.append(
            [
                runner.peers[peer].NAME,
                str(len(found)),
                spread(found, "p50", digits=2),
                f"{over:.2f}" if over else "-",
                *(spread(found, name) for name in ("p99", "p99.9", "max")),
                spread(found, "cpu", digits=2),
            ]
        )
    columns = ["", "rounds", "p50 us", "/ floor", "p99 us", "p99.9 us", "max us", "host CPU us/event"]
    cause_rows = [
        [runner.peers[peer].NAME, *(spread(found, name, digits=2) for name in CAUSES), spread(found, "p99.9")]
        for peer, found in runs.items()
    ]
    return Report(
        [
            Table(f"{TITLE}: {events:,} events", columns, rows),
            Table("Of 1,000 calls, in the calling thread", ["", *CAUSES.values(), "p99.9 us"], cause_rows),
        ],
        [
            Target("emit: p50 / building and encoding", ratio(ours, floor, "p50"), 1.3),
            Target(
                "emit: host CPU / floor", ratio(ours, floor, "cpu"), 1.6, note="all threads, clock and loop included"
            ),
        ],
        runs,
    )
