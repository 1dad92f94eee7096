"""The fact that the design is based on: `python benchmarks/coalescing.py`, from the root of the repository.

A scheduler that never sleeps emits 50,000 events about 20 microseconds apart, to a consumer that only reads, with the
default buffer of 1000 events. `multiprocessing.Queue.put` hands each object to a feeder thread; each of its writes
releases the GIL, and gets it back from a CPU-bound thread after the switch interval of 5 ms. So with one put, or one
send, per event a few hundred events a second are delivered; with one put for all waiting events everything is.

Exits with 1 if socketpusher lost an event.
"""

import os
import sys

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

from benchmarks.processes import Processes
from benchmarks.report import Table, show
from benchmarks.runner import Runner, spread
from benchmarks.scenarios import busy

DESIGNS = ("socketpusher", "process_queue", "thread_queue")


def main() -> int:
    with Processes() as processes:
        runner = Runner(processes, rounds=2)
        runs = runner.interleaved({peer: lambda peer=peer: busy.measure(runner, peer) for peer in DESIGNS})
    rows = [
        [
            runner.peers[peer].NAME,
            spread(found, "lost", digits=0),
            busy.lost_percent(found),
            spread(found, "latency_p50"),
            spread(found, "latency_p99"),
        ]
        for peer, found in runs.items()
    ]
    columns = ["", "lost", "lost %", "latency p50 ms", "p99 ms"]
    show(Table(f"{busy.EVENTS:,} events, some 20 microseconds apart, beside a busy scheduler", columns, rows))
    ours = runs["socketpusher"]
    return 0 if ours and all(figures["lost"] == 0 for figures in ours) else 1


if __name__ == "__main__":
    sys.exit(main())
