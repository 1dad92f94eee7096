"""How cost grows with size: payloads of 100 bytes to 1 MB, graphs of 10 to 100,000 units. socketpusher, old and new.

Payloads: bytes per second that the consumer received, from the first emit to the last receipt, compared with a loop
that sends lines of the same length on a bare socket, the limit of the consumer. The host calls `flush()` after
every 4 MiB, because it encodes faster than a socket carries, and the lines in flight are bounded.

Graphs: a unit depends on up to three of the ten before it. It measures `set_graph`; `start`, which sends the graph to
the writer; and the time from `set_graph` to the receipt of the first line. A line over 1 MiB has a placeholder as its
payload.
"""

import math
import random
import socket
import time
from itertools import pairwise
from typing import Any

from .. import peers
from ..report import Report, Table, Target
from ..runner import DEFAULT_BUFFER, Figures, Runner, median, ratio, spread
from ..workload import TYPE, UNIT

TITLE = "Size"
PAYLOADS = (100, 1_000, 10_000, 100_000, 1_000_000)
LARGE = PAYLOADS[-2:]
TOTAL = 150_000_000
MOST_EVENTS = 100_000
FLUSH_BYTES = 4 << 20
GRAPHS = (10, 100, 1_000, 10_000, 100_000)


def in_host(peer_class: Any, path: str, *, what: str, size: int, events: int = 0) -> Figures:
    time.sleep(0.1)
    return {"raw": _raw, "events": _events, "graph": _graph}[what](peer_class, path, size, events)


def _raw(peer_class: Any, path: str, size: int, events: int) -> Figures:
    line = b"x" * (size - 1) + b"\n"
    sending = b"".join([line] * max(1, 65_536 // size))
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.connect(path)
        start = time.monotonic_ns()
        for _ in range(max(1, events * size // len(sending))):
            connection.sendall(sending)
    return {"first_emit": start}


def _events(peer_class: Any, path: str, size: int, events: int) -> Figures:
    peer = peer_class(path, DEFAULT_BUFFER)
    time.sleep(0.3)  # until the writer has imported its modules
    text = "x" * (size - len('{"text":""}'))
    often = max(1, FLUSH_BYTES // (size + 100))
    start = time.monotonic_ns()
    for number in range(events):
        peer.emit(TYPE, UNIT, number, {"text": text})
        if number % often == often - 1:
            peer.pusher.flush(60.0)
    peer.close()
    return {"first_emit": start, "emitted": events}


def _graph(peer_class: Any, path: str, size: int, events: int) -> Figures:
    from socketpusher import Bus, PusherConfig, SocketPusher

    graph = graph_of(size)
    pusher = SocketPusher(Bus(), PusherConfig(socket_path=path))
    begin = time.monotonic_ns()
    pusher.set_graph(graph, 8)
    between = time.monotonic_ns()
    pusher.start(60.0)
    end = time.monotonic_ns()
    pusher.close(60.0)
    return {"first_emit": begin, "set_graph": (between - begin) / 1e6, "start": (end - between) / 1e6}


def graph_of(units: int) -> dict[str, list[str]]:
    """A graph as deep as it is long, the same at every call."""
    chance = random.Random(1)
    return {
        f"unit-{n:06}": sorted({f"unit-{chance.randrange(max(0, n - 10), n):06}" for _ in range(min(n, 3))})
        for n in range(units)
    }


def run(runner: Runner) -> Report:
    def carried(what: str, size: int) -> Figures:
        events = runner.events(max(20, min(MOST_EVENTS, TOTAL // size)))
        peer, what = (peers.OLD, "events") if what == "old" else ("socketpusher", what)
        figures = runner.measure(peer, "size", what=what, size=size, events=events)
        if "received" in figures:
            figures["rate"] = figures["bytes"] / (figures["last_receipt"] - figures["first_emit"]) * 1e3
            figures["lost"] = figures.get("emitted", figures["received"]) - figures["received"]
        return figures

    def graphed(size: int) -> Figures:
        figures = runner.measure("socketpusher", "size", what="graph", size=size)
        if "received" in figures:
            figures["first_line"] = (figures["first_receipt"] - figures["first_emit"]) / 1e6
        return figures

    carrying = runner.interleaved(
        {
            f"{what} {size}": lambda what=what, size=size: carried(what, size)
            for size in PAYLOADS
            for what in ("raw", "events", "old")
            if what != "old" or peers.OLD in runner.peers
        }
    )
    graphs = runner.interleaved({str(size): lambda size=size: graphed(size) for size in GRAPHS})
    payload_rows = [
        [
            f"{size:,} B",
            spread(carrying[f"events {size}"], "lost", digits=0),
            spread(carrying[f"events {size}"], "rate", digits=0),
            spread(carrying[f"raw {size}"], "rate", digits=0),
            spread(carrying.get(f"old {size}", []), "rate", digits=0),
        ]
        for size in PAYLOADS
    ]
    graph_rows = [
        [
            f"{size:,} units",
            spread(graphs[str(size)], "set_graph", digits=2),
            _per_unit(graphs[str(size)], size),
            spread(graphs[str(size)], "start", digits=0),
            spread(graphs[str(size)], "first_line", digits=0),
            spread(graphs[str(size)], "bytes", digits=0),
        ]
        for size in GRAPHS
    ]
    rates = [median(carrying[f"events {size}"], "rate") for size in PAYLOADS]
    limit = max((median(carrying[f"raw {size}"], "rate") or 0.0) for size in PAYLOADS)
    best = max((rate for rate in rates if rate is not None), default=None)
    return Report(
        [
            Table(f"{TITLE}: payloads", ["", "lost", "MB/s", "bare socket MB/s", "old MB/s"], payload_rows),
            Table(
                f"{TITLE}: graphs",
                ["", "set_graph ms", "us/unit", "start ms", "first line ms", "line bytes"],
                graph_rows,
            ),
        ],
        [
            *(
                Target(
                    f"size, {size:,} B: MB/s / the old version's",
                    ratio(carrying[f"events {size}"], carrying.get(f"old {size}", []), "rate"),
                    1.5,
                    at_least=True,
                )
                for size in LARGE
            ),
            Target("size: the highest MB/s", best, min(200.0, limit), at_least=True),
            Target("size: sizes at which MB/s fall by over a fifth", _falls(rates), 0),
            Target(
                "size: growth of set_graph, an exponent",
                _exponent(graphs),
                1.2,
                note="1,000 to 100,000 units; 1 is linear",
            ),
        ],
        {"payloads": carrying, "graphs": graphs},
    )


def _per_unit(found: list[Figures], size: int) -> str:
    took = median(found, "set_graph")
    return "-" if took is None else f"{took * 1e3 / size:.2f}"


def _falls(rates: list[float | None]) -> int | None:
    """The number of sizes at which the rate is below 200 MB/s and below 80 % of that at the next smaller size."""
    known = [rate for rate in rates if rate is not None]
    return sum(b < 0.8 * a and b < 200 for a, b in pairwise(known)) if known else None


def _exponent(graphs: dict[str, list[Figures]]) -> float | None:
    """The exponent with which the time of `set_graph` grows from 1,000 to 100,000 units."""
    small, large = median(graphs["1000"], "set_graph"), median(graphs["100000"], "set_graph")
    return None if small is None or large is None else math.log(large / small, 100)
