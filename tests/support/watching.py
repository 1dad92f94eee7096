"""`socketpusher watch` as a user runs it, in a terminal and in a pipe, and what sends to it."""

import os
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from socketpusher import Bus, Event, Graph, PusherConfig, SocketPusher, wire
from support.cli import running
from support.terminal import Terminal

COMMAND = [sys.executable, "-m", "socketpusher", "watch"]
UNITS = {f"unit-{number:02}": [f"unit-{number - 10:02}"] if number >= 10 else [] for number in range(60)}
GRAPH = Graph(UNITS, dict.fromkeys(UNITS, 3))


@contextmanager
def terminal(path: str, *options: str, **variables: object) -> Iterator[Terminal]:
    with Terminal(*COMMAND, path, *options, **variables) as terminal:
        yield terminal
    if os.path.exists(path):  # it was killed
        os.unlink(path)


@contextmanager
def watching(path: str, **options: object) -> Iterator[Terminal]:
    """`socketpusher watch` on a screen, once it is bound."""
    with terminal(path, **options) as watcher:
        watcher.shows("waiting for a sender")
        yield watcher


@contextmanager
def piped(*arguments: str, **options: object) -> "Iterator[subprocess.Popen[bytes]]":
    """The command without a terminal, once it is bound."""
    with running("watch", *arguments, seconds=60, **{"stdin": None, **options}) as process:
        assert process.stderr.readline().startswith(b"listening on ")
        yield process


@contextmanager
def pushing(path: str, graph: Graph | None = None) -> Iterator[tuple[Bus, SocketPusher]]:
    bus = Bus()
    pusher = SocketPusher(bus, PusherConfig(socket_path=path, buffer_size=100_000, reconnect_backoff=0.01))
    if graph is not None:
        pusher.set_graph(graph, parallelism=4)
    with pusher:
        yield bus, pusher


@contextmanager
def connected(path: str) -> Iterator[Callable[..., None]]:
    """A sender that is no pusher."""
    with socket.socket(socket.AF_UNIX) as sender:
        sender.connect(path)
        yield lambda *events: sender.sendall(b"".join(map(wire.encode, events)))


def part_of_a_run(bus: Bus) -> None:
    """Ten units are complete, one has failed, one is blocked by that and two run."""
    bus.emit(Event("orch.started", payload={}))
    for number in range(10):
        name = f"unit-{number:02}"
        bus.emit(Event("unit.started", name, payload={"total_tasks": 3}))
        for task in (1, 2, 3):
            bus.emit(Event("task.completed", name, task))
        bus.emit(Event("unit.completed", name))
    bus.emit(Event("unit.started", "unit-10"))
    bus.emit(Event("unit.failed", "unit-10", error="SyntaxError: invalid syntax\n  more"))
    bus.emit(Event("unit.blocked", "unit-20", error="waits for unit-10"))
    for name in ("unit-11", "unit-12"):
        bus.emit(Event("unit.started", name))
    bus.emit(Event("task.completed", "unit-11", 1))


@contextmanager
def pushing_to_nobody(path: str) -> Iterator[Bus]:
    bus = Bus()
    pusher = SocketPusher(bus, PusherConfig(socket_path=path, reconnect_backoff=0.01, max_reconnect_backoff=0.05))
    pusher.set_graph(GRAPH, parallelism=4)
    pusher.start(wait=False)
    try:
        yield bus
    finally:
        pusher.close(0)
