"""The spool: its cost with a consumer that reads, and the speed of storing and sending. socketpusher only.

It runs the hosts of the scenarios busy, burst and emit_cost, without a spool and with one, in turns. Then a million
lines of about 200 bytes are stored while nobody listens (the outbox gets them encoded, because a Python host can't
make them as fast as the writer stores them); then another pusher sends them to a consumer that counts.

The spool is in the directory for temporary files.
"""

import os
import shutil
import tempfile
import time
from functools import partial
from typing import Any

from ..report import Report, Table, Target
from ..runner import DEFAULT_BUFFER, Figures, Runner, median, most, ratio, spread
from . import burst, busy, emit_cost
from .busy import LOST_NOTE
from .stalled import resident

TITLE = "Spool"
EVENTS = 1_000_000
IN_FLIGHT_BYTES = 4 << 20
"""The most bytes on their way to the writer: half of the pusher's limit."""


def in_host(peer_class: Any, path: str, *, what: str, spool: str | None = None, **options: Any) -> Figures:
    if what == "away":
        return _away(path, str(spool), **options)
    if what == "drain":
        return _drain(path, str(spool))
    scenario = {"busy": busy, "burst": burst, "emit": emit_cost}[what]
    directory = tempfile.mkdtemp(prefix="socketpusher-spool-") if spool else None
    try:
        return scenario.in_host(partial(peer_class, spool=directory), path, **options)
    finally:
        if directory is not None:
            shutil.rmtree(directory)


def _away(path: str, spool: str, *, events: int) -> Figures:
    from socketpusher import Bus, Event, PusherConfig, SocketPusher
    from socketpusher.wire import encode

    pusher = SocketPusher(Bus(), PusherConfig(f"{path}.nobody", spool=spool, spool_bytes=8 << 30))
    pusher.start(wait=False)
    line = encode(Event("task.completed", unit="unit-17", task=17, payload={"note": "x" * 90}))
    supervisor = pusher._supervisor
    assert supervisor is not None
    outbox, ledger = supervisor.outbox, supervisor.ledger
    start = time.monotonic()
    for number in range(events):
        outbox.accept(line)
        if number % 1000 == 0:
            while number * len(line) - ledger.received_offset > IN_FLIGHT_BYTES:
                time.sleep(0.0002)
    while pusher.stats().spooled < events - pusher.stats().dropped:
        time.sleep(0.001)
    took = time.monotonic() - start
    cpu, memory = _cpu(pusher.stats().writer_pid), resident(pusher.stats().writer_pid or "self")
    pusher.close()
    disk = sum(os.path.getsize(os.path.join(spool, name)) for name in os.listdir(spool))
    stats = pusher.stats()
    return {
        "emitted": events,
        "lost": stats.dropped,
        "rate": events / took,
        "cpu": cpu / events * 1e6,
        "writer": memory,
        "disk": disk / (events * len(line)),
    }


def _cpu(pid: int | None) -> float:
    """The CPU time of a process, in seconds."""
    with open(f"/proc/{pid}/stat") as file:
        fields = file.read().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _drain(path: str, spool: str) -> Figures:
    from socketpusher import Bus, PusherConfig, SocketPusher

    pusher = SocketPusher(Bus(), PusherConfig(path, spool=spool, spool_bytes=8 << 30))
    pusher.start()
    left = pusher.stats().inherited
    while pusher.stats().inherited:
        time.sleep(0.001)
    cpu = _cpu(pusher.stats().writer_pid)
    pusher.close()
    return {"emitted": left, "drain_cpu": cpu / left * 1e6}


def _measure(runner: Runner, what: str, spool: bool, consumer: str = "count", **options: Any) -> Figures:
    figures = runner.measure("socketpusher", "spool", consumer, what=what, spool="yes" if spool else None, **options)
    if what != "emit" and "received" in figures:
        figures["lost"] = figures["emitted"] - figures["received"]
    if what == "burst" and "received" in figures:
        figures["rate"] = figures["received"] / (figures["last_receipt"] - figures["first_emit"]) * 1e9
    return figures


def _disk(runner: Runner) -> Figures:
    directory = tempfile.mkdtemp(prefix="socketpusher-spool-")
    try:
        figures = runner.measure(
            "socketpusher", "spool", "none", what="away", spool=directory, events=runner.events(EVENTS)
        )
        drained = runner.measure("socketpusher", "spool", "count", what="drain", spool=directory)
    finally:
        shutil.rmtree(directory)
    if "failed" in figures or "failed" in drained:
        return drained if "failed" in drained else figures
    took = drained["last_receipt"] - drained["first_receipt"]
    return figures | {
        "lost": figures["emitted"] - drained["received"],
        "drain": drained["received"] / took * 1e9,
        "drain_cpu": drained["drain_cpu"],
    }


def run(runner: Runner) -> Report:
    cases = {
        "busy": {"consumer": "record", "events": runner.events(busy.EVENTS), "turns": runner.work, "threads": 0},
        "burst": {"events": runner.events(burst.EVENTS), "buffer": DEFAULT_BUFFER},
        "emit": {"events": runner.events(emit_cost.EVENTS)},
    }
    runs = runner.interleaved(
        {
            f"{what}, {'with' if spool else 'without'}": partial(_measure, runner, what, spool, **options)
            for what, options in cases.items()
            for spool in (False, True)
        }
        | {"disk": partial(_disk, runner)}
    )
    disk = runs.pop("disk")
    keys = {"busy": ("latency_p50", "p50 ms"), "burst": ("rate", "events/s"), "emit": ("p50", "p50 us")}
    rows = [
        [
            name,
            spread(found, "lost", digits=0),
            keys[name.split(",")[0]][1],
            spread(found, keys[name.split(",")[0]][0], digits=2),
        ]
        for name, found in runs.items()
    ]
    columns = ["", "events/s", "us of the writer's CPU", "lost"]
    disks = [
        [
            "nobody listens",
            spread(disk, "rate", digits=0),
            spread(disk, "cpu", digits=2),
            spread(disk, "lost", digits=0),
        ],
        ["the next pusher", spread(disk, "drain", digits=0), spread(disk, "drain_cpu", digits=2), ""],
    ]
    memory, size = spread(disk, "writer"), spread(disk, "disk", digits=2)
    note = f"The writer has {memory} MiB; a byte of events takes {size} bytes on the disk."
    return Report(
        [
            Table(f"{TITLE}: with a consumer that reads, without a spool and with one", ["", "lost", "", ""], rows),
            Table(f"{TITLE}: {runner.events(EVENTS):,} lines to the disk and back", columns, disks, note),
        ],
        [
            Target("spool: lost", most([*disk, *runs["busy, with"], *runs["burst, with"]], "lost"), 0, note=LOST_NOTE),
            Target("spool: busy, p50 / without", ratio(runs["busy, with"], runs["busy, without"], "latency_p50"), 1.1),
            Target(
                "spool: burst, events/s / without",
                ratio(runs["burst, with"], runs["burst, without"], "rate"),
                0.95,
                at_least=True,
            ),
            Target("spool: emit, p50 / without", ratio(runs["emit, with"], runs["emit, without"], "p50"), 1.05),
            Target("spool: to the disk, events/s", median(disk, "rate"), 200_000, at_least=True),
            Target("spool: from the disk, events/s", median(disk, "drain"), 300_000, at_least=True),
        ],
        {**runs, "disk": disk},
    )
