"""How fast `listen` yields a million events, compared with a loop of `orjson.loads` over the same lines in memory.

A sender in another process writes a file of lines to the socket. The consumer only counts events; the time is from the
first event to the last. The loop has its lines split already, and makes dicts without a check, an `Event` or a parsed
time. These costs do not depend on the length of a line, so the ratio is better with longer lines. There is no target:
half the speed of the loop is not possible with a parsed time.
"""

import json
from collections.abc import Callable
from typing import Any

import orjson

from ..processes import MeasurementError
from ..report import Report, Table
from ..runner import Figures, Runner, ratio, spread
from ..workload import TYPE, UNIT, payload

TITLE = "Listening"
EVENTS = 1_000_000

SCRIPT = """
import asyncio, json, subprocess, sys, time
import orjson
from socketpusher import listen

mode, path, file, count = sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4])
SENDER = '''
import socket, sys
with socket.socket(socket.AF_UNIX) as sender, open(sys.argv[2], "rb") as file:
    sender.connect(sys.argv[1])
    while data := file.read(65536):
        sender.sendall(data)
'''

def loads():
    with open(file, "rb") as lines:
        lines = lines.read().split(b"\\n")[:-1]
    start = time.perf_counter()
    for line in lines:
        orjson.loads(line)
    return time.perf_counter() - start

def events():
    with listen(path, raw=mode == "raw") as items, subprocess.Popen([sys.executable, "-S", "-c", SENDER, path, file]):
        next(items)
        start = time.perf_counter()
        for number, _ in enumerate(items, 2):
            if number == count:
                return time.perf_counter() - start

async def events_in_asyncio():
    number = 0
    with listen(path) as items, subprocess.Popen([sys.executable, "-S", "-c", SENDER, path, file]):
        async for _ in items:
            number += 1
            if number == 1:
                start = time.perf_counter()
            elif number == count:
                return time.perf_counter() - start

took = loads() if mode == "loads" else asyncio.run(events_in_asyncio()) if mode == "async" else events()
print(json.dumps({"rate": count / took}), flush=True)
"""

CASES = {
    "a loop of orjson.loads": "loads",
    "for event in listen(...)": "events",
    "the same, events with ids": "ids",
    "listen(..., raw=True)": "raw",
    "async for event in listen(...)": "async",
}
_LINES = {"200-byte lines": (100, 1), "1 kB lines": (900, 4)}
"""The length of a payload in bytes, and the divisor of the number of events."""


def _write(runner: Runner, size: int, count: int, ids: bool) -> str:
    path = runner.processes.path("lines.ndjson")
    with open(path, "wb") as file:
        for number in range(1, count + 1):
            data: dict[str, Any] = payload(number)
            if size > 100:
                data["more"] = "x" * (size - 100)
            wire = {"type": TYPE, "time": "2026-11-23T17:08:00.250000Z", "unit": UNIT, "task": number, "payload": data}
            if ids:
                wire["id"] = f"0123456789ab-{number}"
            file.write(orjson.dumps(wire, option=orjson.OPT_APPEND_NEWLINE))
    return path


def _measure(runner: Runner, script: str, mode: str, files: dict[bool, str], count: int) -> Figures:
    socket, ids = runner.processes.path("socket"), mode == "ids"
    try:
        with runner.processes.run(script, "events" if ids else mode, socket, files[ids], str(count)) as child:
            figures: Figures = json.loads(child.line())
            child.process.wait()
    except MeasurementError as error:
        return {"failed": str(error)}
    return figures


def _compare(runner: Runner, script: str, size: int, count: int) -> dict[str, list[Figures]]:
    files = {ids: _write(runner, size, count, ids) for ids in (False, True)}

    def case(mode: str) -> Callable[[], Figures]:
        return lambda: _measure(runner, script, mode, files, count)

    return runner.interleaved({name: case(mode) for name, mode in CASES.items()})


def run(runner: Runner) -> Report:
    script = runner.processes.path("listening.py")
    with open(script, "w") as file:
        file.write(SCRIPT)
    report = Report([])
    floor = next(iter(CASES))
    for what, (size, part) in _LINES.items():
        count = runner.events(EVENTS) // part
        runs = _compare(runner, script, size, count)
        rows = [
            [case, spread(found, "rate", digits=0), _share(ratio(found, runs[floor], "rate"))]
            for case, found in runs.items()
        ]
        note = "one core receives, another one sends"
        report.tables.append(Table(f"{TITLE}: {count:,} {what}", ["", "events/s", "of the loop"], rows, note))
        report.figures[what] = runs
    return report


def _share(share: float | None) -> str:
    return "-" if share is None else f"{share:.2f}"
