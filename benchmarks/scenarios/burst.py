"""100,000 events back to back, with the default buffer and without a limit.

It measures the lost events, and the events per second that the consumer received, from the first emit to the last
receipt. A peer that loses most of a burst has little to deliver. The targets compare each setting of socketpusher with
the fastest peer with any buffer. No peer can be faster than the floor, which only encodes.
"""

import time
from typing import Any

from .. import peers
from ..host import finish
from ..report import Report, Table, Target
from ..runner import DEFAULT_BUFFER, Figures, Runner, median, most, ratio, spread
from ..workload import TYPE, UNIT, payload
from .busy import LOST_NOTE, lost_percent

TITLE = "Burst"
EVENTS = 100_000


def in_host(peer_class: Any, path: str, *, events: int, buffer: int | None) -> Figures:
    peer = peer_class(path, buffer)
    time.sleep(0.3)  # until children have imported their modules
    emit = peer.emit
    start = time.monotonic_ns()
    for number in range(events):
        emit(TYPE, UNIT, number, payload(number))
    emitting = time.monotonic_ns() - start
    finish(peer.close, 60.0)
    return {"emitted": events, "first_emit": start, "emit_rate": events / emitting * 1e9}


def measure(runner: Runner, peer: str, buffer: int | None) -> Figures:
    figures = runner.measure(peer, "burst", events=runner.events(EVENTS), buffer=buffer)
    if "received" in figures:
        figures["lost"] = figures["emitted"] - figures["received"]
        figures["rate"] = figures["received"] / (figures["last_receipt"] - figures["first_emit"]) * 1e9
    elif "failed" not in figures:
        figures["rate"] = figures["emit_rate"]  # the floor: as fast as it encodes
    return figures


def run(runner: Runner) -> Report:
    def measured(buffer: int | None) -> dict[str, list[Figures]]:
        return runner.interleaved({peer: lambda peer=peer: measure(runner, peer, buffer) for peer in runner.peers})

    settings = {"default buffer": measured(DEFAULT_BUFFER), "no limit": measured(None)}
    ours = settings["default buffer"]["socketpusher"]
    best, fastest = _fastest(runner, settings)
    tables, targets = [], [Target("burst, default buffer: lost", most(ours, "lost"), 0, note=LOST_NOTE)]
    for title, runs in settings.items():
        rows = [
            [
                runner.peers[peer].NAME,
                str(len(found)),
                spread(found, "lost", digits=0),
                lost_percent(found),
                spread(found, "rate", digits=0),
                spread(found, "emit_rate", digits=0),
                "-" if (times := ratio(ours, found, "rate")) is None else f"{times:.2f}",
            ]
            for peer, found in runs.items()
        ]
        columns = ["", "rounds", "lost", "lost %", "received/s", "emitted/s", "times"]
        tables.append(Table(f"{TITLE}, {title}: {runner.events(EVENTS):,} events", columns, rows))
        what, reached = f"burst, {title}: events/s / the fastest peer's", ratio(runs["socketpusher"], fastest, "rate")
        targets.append(Target(what, reached, 1.0, at_least=True, note=best))
    if "loguru_enqueue" in runner.peers:
        reached = ratio(ours, settings["no limit"]["loguru_enqueue"], "rate")
        targets.append(
            Target("burst: events/s / loguru's", reached, 10, at_least=True, note="default buffer / no limit")
        )
    tables[1].note = (
        "Medians (lowest-highest). For the floor, received/s is what it encodes per second. Times: received/s"
        "\n  of socketpusher with the default buffer, divided by this."
    )
    return Report(tables, targets, {"default": settings["default buffer"], "unlimited": settings["no limit"]})


def _fastest(runner: Runner, settings: dict[str, dict[str, list[Figures]]]) -> tuple[str, list[Figures]]:
    """The peer and the buffer with the highest rate at the consumer, and its figures."""
    found = [
        (median(rounds, "rate") or 0.0, f"{runner.peers[peer].NAME}, {title}", rounds)
        for title, runs in settings.items()
        for peer, rounds in runs.items()
        if peer not in peers.ALWAYS
    ]
    _, name, rounds = max(found, default=(0.0, "", []))
    return name, rounds
