"""The duration of `start` and `close`, and the memory of the writer. socketpusher, old and new.

`start()` until connected, in a fresh interpreter, is compared with the whole run of `python -c "import orjson,
tenacity"`, the least that a process with the writer's dependencies can take. `close()` is measured after a million
events back to back. The memory of the writer is its proportional set size, in which shared pages count in part; it is
measured with an empty main module, and with one that imports numpy, if that is installed.
"""

import importlib.util
import json
import time
from typing import Any

from .. import peers
from ..processes import MeasurementError
from ..report import Report, Table, Target
from ..runner import DEFAULT_BUFFER, Figures, Runner, ratio, spread
from ..workload import TYPE, UNIT, payload

TITLE = "Start and stop"
EVENTS = 1_000_000
BARE = 'python -c "import orjson, tenacity"'
EMPTY, OLD, NUMPY = "empty main module", "the same, socketpusher (old)", "main module with numpy"

SCRIPT = """
import json, sys, time
from socketpusher import Bus, PusherConfig, SocketPusher

def proportional(pid):
    try:
        with open(f"/proc/{pid}/smaps_rollup") as file:
            return next(int(line.split()[1]) / 1024 for line in file if line.startswith("Pss:"))
    except OSError:
        return None

pusher = SocketPusher(Bus(), PusherConfig(socket_path=sys.argv[1]))
before = time.perf_counter()
pusher.start()
started = time.perf_counter() - before
time.sleep(0.1)
memory = proportional(pusher.stats().writer_pid)
before = time.perf_counter()
pusher.close()
closed = time.perf_counter() - before
print(json.dumps({"start": started * 1e3, "memory": memory, "close": closed * 1e3}), flush=True)
"""


def in_host(peer_class: Any, path: str, *, events: int) -> Figures:
    peer = peer_class(path, DEFAULT_BUFFER)
    time.sleep(0.3)  # until the writer has imported its modules
    emit = peer.emit
    for number in range(events):
        emit(TYPE, UNIT, number, payload(number))
    start = time.perf_counter()
    peer.close()
    return {"close": (time.perf_counter() - start) * 1e3, "emitted": events}


def _script(runner: Runner, text: str, source: str = "") -> Figures:
    """Run a script with a main module of its own."""
    path = runner.processes.path("script.py")
    with open(path, "w") as file:
        file.write(text)
    try:
        with (
            runner.processes.consumer("count") as (socket, _),
            runner.processes.run(path, socket, source=source) as child,
        ):
            figures: Figures = json.loads(child.line())
            child.process.wait()
    except MeasurementError as error:
        return {"failed": str(error)}
    return figures


def _bare(runner: Runner) -> Figures:
    start = time.perf_counter()
    with runner.processes.run("-c", "import orjson, tenacity") as child:
        child.process.wait()
        return {"start": (time.perf_counter() - start) * 1e3}


def _million(runner: Runner) -> Figures:
    figures = runner.measure("socketpusher", "start_stop", events=runner.events(EVENTS))
    if "received" in figures:
        figures["lost"] = figures["emitted"] - figures["received"]
    return figures


def run(runner: Runner) -> Report:
    cases = {
        BARE: lambda: _bare(runner),
        EMPTY: lambda: _script(runner, SCRIPT),
        OLD: lambda: _script(runner, SCRIPT, runner.old),
        NUMPY: lambda: _script(runner, "import numpy\n" + SCRIPT),
    }
    if importlib.util.find_spec("numpy") is None:
        del cases[NUMPY]
    if peers.OLD not in runner.peers:
        del cases[OLD]
    # Cheap, and short times need more repetition than long ones.
    turns = [runner.interleaved(cases) for _ in range(1 if runner.quick else 3)]
    runs = {case: [run for turn in turns for run in turn[case]] for case in cases}
    runs["after a million events"] = runner.interleaved({"close": lambda: _million(runner)})["close"]
    rows = [
        [
            case,
            str(len(found)),
            spread(found, "start", digits=0),
            spread(found, "close", digits=0),
            spread(found, "memory"),
            spread(found, "lost", digits=0),
        ]
        for case, found in runs.items()
    ]
    columns = ["", "rounds", "start ms", "close ms", "writer PSS MiB", "lost"]
    empty, old = runs[EMPTY], runs.get(OLD, [])
    targets = [
        Target("start / a bare interpreter with the imports", ratio(empty, runs[BARE], "start"), 2.0),
        Target("start / the old version's", ratio(empty, old, "start"), 1.0),
        Target("start: writer PSS / the old version's", ratio(empty, old, "memory"), 1.0),
    ]
    if NUMPY in cases:
        targets.append(Target("start: writer PSS with numpy / with nothing", ratio(runs[NUMPY], empty, "memory"), 1.1))
    return Report([Table(TITLE, columns, rows, "start of the bare interpreter: its whole life")], targets, runs)
