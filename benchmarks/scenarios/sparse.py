"""400 events a second from a CPU-bound thread: with 2.5 ms of pure Python between two events, no batch has two.

It uses the host of the scenario busy, with more work and fewer events. It shows whether a pusher waits for more events,
or for the GIL, and the full cost of a single event.
"""

from ..report import Report, Table, Target
from ..runner import Figures, Runner, median, most, ratio, spread
from .busy import LOST_NOTE, in_host, measure, table

__all__ = ["TITLE", "in_host", "run"]

TITLE = "Sparse events, busy scheduler"
EVENTS = 600
TURNS = 125
"""The work between two events, as a multiple of that in the scenario busy."""


def calls(runner: Runner, runs: dict[str, list[Figures]]) -> Table:
    rows = [[runner.peers[peer].NAME, spread(found, "emit_p50", digits=1)] for peer, found in runs.items()]
    note = "An emit that wakes another thread or process includes the system call for that."
    return Table("Sparse events: an emit", ["", "p50 us"], rows, note)


def run(runner: Runner) -> Report:
    events = runner.events(EVENTS)
    runs = runner.interleaved(
        {
            peer: lambda peer=peer: measure(runner, peer, events=events, turns=runner.work * TURNS, timed=True)
            for peer in runner.peers
        }
    )
    ours = runs["socketpusher"]
    return Report(
        [table(runner, f"{TITLE}: {events:,} events, 400 a second", runs), calls(runner, runs)],
        [
            Target("sparse: lost", most(ours, "lost"), 0, note=LOST_NOTE),
            Target("sparse: latency p50, ms", median(ours, "latency_p50"), 0.5),
            Target("sparse: latency p99, ms", median(ours, "latency_p99"), 2),
            Target("sparse: schedule / floor", ratio(ours, runs["floor"], "schedule"), 1.01),
        ],
        runs,
    )
