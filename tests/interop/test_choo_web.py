"""The dashboard `choo web`: what its user sees at the end is what the scheduler knows."""

import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from socketpusher import Bus, Event, Graph, PusherConfig, SocketPusher
from support.waiting import stop, wait_for

DEPENDENCIES = {
    "setup": [],
    "bücher 🚀": ["setup"],
    "api": ["setup"],
    "broken": ["setup"],
    "needs broken": ["broken", "api"],
    "app": ["api", "bücher 🚀"],
}
TASKS = {"setup": 2, "bücher 🚀": 30, "api": 20, "broken": 5, "needs broken": 3, "app": 40}


class Web:
    """`choo web` as a process, and what it has shown."""

    def __init__(self, path: str, place: Path) -> None:
        self.path = path
        self._shown = place / "shown"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        with self._shown.open("wb") as output:
            program = Path(__file__).with_name("choo_web.py")
            self._process = subprocess.Popen([sys.executable, "-S", program, self.path], stdout=output)

    def stall(self) -> None:
        assert self._process is not None
        stop(self._process.pid)

    def kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def pictures(self) -> list[dict[str, Any]]:
        """What it has shown since it was started, one after each line."""
        return [json.loads(line) for line in self._shown.read_bytes().split(b"\n")[:-1]]

    def wait_for(self, run: str) -> dict[str, Any]:
        """The last picture, once it says that of the run."""
        wait_for(lambda: [picture for picture in self.pictures()[-1:] if picture["run"] == run], 60)
        return self.pictures()[-1]


@pytest.fixture
def web(socket_path: str, tmp_path: Path) -> Iterator[Web]:
    web = Web(socket_path, tmp_path)
    web.start()
    yield web
    web.kill()
    if os.path.exists(socket_path):
        os.unlink(socket_path)


class Scheduler:
    """A run that emits what it does, and knows the truth: status, tasks and completed tasks of each unit."""

    def __init__(self, bus: Bus, completed: dict[str, int] | None = None) -> None:
        self.bus = bus
        self.completed = dict.fromkeys(DEPENDENCIES, 0) | (completed or {})
        self.status = {unit: "complete" if self.completed[unit] == TASKS[unit] else "pending" for unit in DEPENDENCIES}

    def truth(self) -> dict[str, tuple[str, int, int]]:
        return {unit: (self.status[unit], TASKS[unit], self.completed[unit]) for unit in DEPENDENCIES}

    def run(self) -> Iterator[None]:
        """Work through all units, level by level; after each task there is time for something else."""
        for unit in [unit for level in Graph(DEPENDENCIES).levels() for unit in level]:
            if self.status[unit] == "complete":
                continue
            if any(self.status[dependency] != "complete" for dependency in DEPENDENCIES[unit]):
                self._change(unit, "blocked")
                continue
            self._change(unit, "ready", type="unit.queued")
            yield from self._work(unit)
        self.bus.emit(Event("orch.completed"))

    def _work(self, unit: str) -> Iterator[None]:
        progress = {"total_tasks": TASKS[unit], "completed_tasks": self.completed[unit]}
        self._change(unit, "in_progress", type="unit.started", payload=progress)
        while self.completed[unit] < TASKS[unit]:
            task = self.completed[unit] + 1
            self.bus.emit(Event("task.started", unit, task=task))
            if (unit, task) == ("broken", 4):
                self._change(unit, "failed", error='task 4 said "no"\nand ended')
                return
            self.bus.emit(Event("task.committed", unit, task=task, payload={"message": "x" * 500}))
            self.completed[unit] = task
            self.bus.emit(Event("task.completed", unit, task=task))
            yield
        self._change(unit, "complete", type="unit.completed")

    def _change(self, unit: str, status: str, *, type: str = "", payload: object = None, error: str = "") -> None:
        self.status[unit] = status
        self.bus.emit(Event(type or f"unit.{status}", unit, payload=payload, error=error))


def connected(bus: Bus, path: str, *, graph: bool = True) -> SocketPusher:
    pusher = SocketPusher(bus, PusherConfig(socket_path=path, reconnect_backoff=0.005, max_reconnect_backoff=0.02))
    if graph:
        pusher.set_graph(Graph(DEPENDENCIES, TASKS), parallelism=3)
    pusher.start(wait=False)
    return pusher


def seen(picture: dict[str, Any]) -> dict[str, tuple[str, int, int]]:
    return {name: (unit["status"], unit["tasks"], unit["completed_tasks"]) for name, unit in picture["units"].items()}


def test_the_picture_at_the_end_is_the_schedulers(bus: Bus, web: Web) -> None:
    with connected(bus, web.path) as pusher:
        scheduler = Scheduler(bus)
        bus.emit(Event("orch.started"))
        for _ in scheduler.run():
            pass
        picture = web.wait_for("completed")
    assert seen(picture) == scheduler.truth()
    assert set(scheduler.status.values()) == {"complete", "failed", "blocked"}
    assert picture["units"]["broken"]["error"] == 'task 4 said "no"\nand ended'
    assert picture["units"]["broken"]["task"] == 4
    assert [picture["units"][unit]["level"] for unit in ("setup", "api", "app")] == [0, 1, 2]
    assert (picture["parallelism"], picture["connections"]) == (3, 1)
    assert pusher.stats().sent == pusher.stats().emitted


def test_a_dashboard_that_is_killed_in_the_middle_shows_the_whole_run_again(bus: Bus, web: Web) -> None:
    restarts = 0
    with connected(bus, web.path) as pusher:
        scheduler = Scheduler(bus)
        bus.emit(Event("orch.started"))
        wait_for(web.pictures)
        for done, _ in enumerate(scheduler.run(), 1):
            if done % 24 == 6:
                web.stall()
            if done % 12 == 0:
                all_read = done % 24 == 0  # otherwise there is something that it has not read
                if all_read:
                    wait_for(lambda: seen(web.pictures()[-1]) == scheduler.truth())
                assert pusher.flush(30)
                web.kill()
                web.start()
                wait_for(lambda: web.pictures() and web.pictures()[-1]["units"])
                restarts += 1
                first = next(seen(picture) for picture in web.pictures() if picture["units"])
                assert first == scheduler.truth() if all_read else first.keys() == DEPENDENCIES.keys()
        picture = web.wait_for("completed")
        assert seen(picture) == scheduler.truth()
        assert pusher.stats().dropped == 0
    assert restarts >= 6
    assert picture["units"]["broken"]["status"] == "failed"


def test_a_resumed_run_is_shown_with_what_was_done_before(bus: Bus, web: Web) -> None:
    scheduler = Scheduler(bus, completed={"setup": 2, "api": 20, "bücher 🚀": 7})
    graph = Graph(DEPENDENCIES, TASKS).payload()
    for node in graph["nodes"]:
        node["status"], node["completed_tasks"] = scheduler.status[node["id"]], scheduler.completed[node["id"]]
    with connected(bus, web.path, graph=False):
        bus.emit(Event("orch.started", payload={"unit_count": 6, "parallelism": 2, "graph": graph}))
        wait_for(web.pictures)
        assert seen(web.pictures()[0]) == scheduler.truth()
        for done, _ in enumerate(scheduler.run()):
            if done == 20:
                web.kill()
                web.start()
                wait_for(web.pictures)
                assert seen(web.pictures()[0])["api"] == ("complete", 20, 20)
        assert seen(web.wait_for("completed")) == scheduler.truth()


def test_a_dashboard_that_comes_late_shows_the_run_from_its_first_line_on(bus: Bus, socket_path: str, web: Web) -> None:
    web.kill()
    with connected(bus, socket_path):
        scheduler = Scheduler(bus)
        bus.emit(Event("orch.started"))
        for _ in scheduler.run():
            pass
        web.start()
        assert seen(web.wait_for("completed")) == scheduler.truth()


def test_a_line_that_would_be_too_long_for_it_costs_no_connection(bus: Bus, web: Web) -> None:
    with connected(bus, web.path) as pusher:
        bus.emit(Event("orch.started"))
        bus.emit(Event("unit.failed", "api", error="e" * 3_000_000))
        bus.emit(Event("task.committed", "api", payload="p" * 3_000_000))
        bus.emit(Event("unit.completed", "setup", payload="p" * 1_048_400))
        bus.emit(Event("orch.failed"))
        picture = web.wait_for("failed")
        assert pusher.stats().reconnects == 0
    assert picture["connections"] == 1
    assert (picture["units"]["api"]["status"], picture["units"]["setup"]["status"]) == ("failed", "complete")
    assert picture["units"]["api"]["error"].startswith("eee")


def test_the_double_drops_a_connection_at_a_line_that_is_too_long(web: Web) -> None:
    for length, taken in ((1_048_576, True), (1_048_577, False)):
        event = b'{"type":"x"}'
        with socket.socket(socket.AF_UNIX) as sender:
            wait_for(lambda sender=sender: sender.connect_ex(web.path) == 0)
            try:
                sender.sendall(event + b" " * (length - len(event) - 1) + b"\n" + event + b"\n")
                sender.shutdown(socket.SHUT_WR)
                sender.recv(1)  # until it hangs up
            except (BrokenPipeError, ConnectionResetError):
                assert not taken
        assert len(web.pictures()) == 2


def test_the_run_of_a_second_pusher_is_shown_when_the_first_has_gone(web: Web) -> None:
    first_bus, second_bus = Bus(), Bus()
    with connected(first_bus, web.path) as first:
        first_bus.emit(Event("orch.started"))
        wait_for(web.pictures)
        with connected(second_bus, web.path) as second:
            scheduler = Scheduler(second_bus)
            second_bus.emit(Event("orch.started"))
            for _ in scheduler.run():
                pass
            assert second.flush(30)
            assert web.pictures()[-1]["connections"] == 1
            first_bus.emit(Event("orch.failed"))
            first.close()
            picture = web.wait_for("completed")
    assert picture["connections"] == 2
    assert seen(picture) == scheduler.truth()
    assert second.stats().sent == second.stats().emitted
