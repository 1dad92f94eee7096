"""The dashboard `choo web`: whole runs, and what its user sees of them."""

from collections.abc import Iterator

from socketpusher import Bus, Event, Graph
from support.truth import Truth, told
from support.web import Web, sending

DEPENDENCIES = {
    "setup": [],
    "bücher 🚀": ["setup"],
    "api": ["setup"],
    "broken": ["setup"],
    "needs broken": ["broken", "api"],
    "app": ["api", "bücher 🚀"],
}
TASKS = {"setup": 2, "bücher 🚀": 30, "api": 20, "broken": 5, "needs broken": 3, "app": 40}
GRAPH = Graph(DEPENDENCIES, TASKS)


class Scheduler:
    """A run that emits what it does.

    Args:
        bus: Where it emits.
        completed: How many tasks of a unit an earlier run has completed.
    """

    def __init__(self, bus: Bus, completed: dict[str, int] | None = None) -> None:
        self.bus = bus
        self.completed = dict.fromkeys(DEPENDENCIES, 0) | (completed or {})
        self.status = {unit: "complete" if self.completed[unit] == TASKS[unit] else "pending" for unit in DEPENDENCIES}

    def run(self) -> Iterator[None]:
        """Work through all units, level by level; after each task there is time for something else."""
        for unit in [unit for level in GRAPH.levels() for unit in level]:
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


def test_the_picture_at_the_end_is_the_schedulers(bus: Bus, web: Web) -> None:
    with sending(bus, web.path, GRAPH) as (pusher, truth):
        scheduler = Scheduler(bus)
        bus.emit(Event("orch.started"))
        for _ in scheduler.run():
            pass
        picture = web.wait_for("completed")
        assert picture == truth.picture()
        assert pusher.stats().sent == pusher.stats().emitted
    units = picture["units"]
    assert {name: unit["status"] for name, unit in units.items()} == scheduler.status
    assert set(scheduler.status.values()) == {"complete", "failed", "blocked"}
    assert units["broken"]["error"] == 'task 4 said "no"\nand ended'
    assert (units["broken"]["currentTask"], units["broken"]["totalTasks"]) == (3, 5)
    assert units["app"]["depends_on"] == ["api", "bücher 🚀"]
    assert (picture["parallelism"], picture["page"], web.connections()) == (3, "drawn", 1)


def test_a_dashboard_that_is_killed_in_the_middle_shows_the_whole_run_again(bus: Bus, web: Web) -> None:
    restarts = 0
    with sending(bus, web.path, GRAPH) as (pusher, truth):
        bus.emit(Event("orch.started"))
        for done, _ in enumerate(Scheduler(bus).run(), 1):
            if done % 24 == 6:
                web.stall()
            if done % 12 == 0:
                if done % 24 == 0:  # otherwise there is something that it has not read
                    web.shows(truth)
                assert pusher.flush(30)
                web.restart()
                web.shows(truth)
                restarts += 1
        web.shows(truth)
        assert pusher.stats().dropped == 0
    assert restarts >= 6
    assert web.picture()["status"] == "completed"


def test_a_resumed_run_is_shown_with_what_was_done_before(bus: Bus, web: Web) -> None:
    scheduler = Scheduler(bus, completed={"setup": 2, "api": 20, "bücher 🚀": 7})
    graph = told(GRAPH)
    for node in graph["nodes"]:
        node["status"], node["completed_tasks"] = scheduler.status[node["id"]], scheduler.completed[node["id"]]
    with sending(bus, web.path) as (_, truth):
        bus.emit(Event("orch.started", payload={"unit_count": 6, "parallelism": 2, "graph": graph}))
        web.shows(truth)
        assert web.picture()["units"]["bücher 🚀"]["currentTask"] == 7
        for done, _ in enumerate(scheduler.run()):
            if done == 20:
                web.restart()
                web.shows(truth)
                assert web.picture()["units"]["api"]["status"] == "complete"
        web.shows(truth)
    assert web.picture()["status"] == "completed"


def test_a_dashboard_that_comes_late_shows_the_run(bus: Bus, web: Web) -> None:
    web.kill()
    with sending(bus, web.path, GRAPH, wait=False) as (_, truth):
        bus.emit(Event("orch.started"))
        for _ in Scheduler(bus).run():
            pass
        web.start()
        web.shows(truth)
    assert web.picture()["status"] == "completed"


def test_a_line_that_would_be_too_long_for_it_costs_no_connection(bus: Bus, web: Web) -> None:
    with sending(bus, web.path, GRAPH) as (pusher, _):
        bus.emit(Event("orch.started"))
        bus.emit(Event("unit.failed", "api", error="e" * 3_000_000))
        bus.emit(Event("task.committed", "api", payload="p" * 3_000_000))
        bus.emit(Event("unit.completed", "setup", payload="p" * 1_048_400))
        bus.emit(Event("orch.failed"))
        picture = web.wait_for("failed")
        assert pusher.stats().reconnects == 0
        assert web.connections() == 1
    assert (picture["units"]["api"]["status"], picture["units"]["setup"]["status"]) == ("failed", "complete")
    assert picture["units"]["api"]["error"].startswith("eee")


def test_the_run_of_a_second_pusher_is_shown_when_the_first_has_gone(web: Web) -> None:
    first_bus, second_bus = Bus(), Bus()
    with sending(first_bus, web.path, GRAPH) as (first, first_truth):
        first_bus.emit(Event("orch.started"))
        web.shows(first_truth)
        with sending(second_bus, web.path, GRAPH, wait=False) as (second, truth):
            second_bus.emit(Event("orch.started"))
            for _ in Scheduler(second_bus).run():
                pass
            assert second.flush(30)
            assert web.connections() == 1
            first_bus.emit(Event("orch.failed"))
            first.close()
            web.shows(truth)
            assert web.connections() == 2
        assert second.stats().sent == second.stats().emitted


def test_the_truth_of_a_run_is_what_its_scheduler_did() -> None:
    """The measure of the other tests, itself measured against a run that is written out here."""
    truth = Truth(Graph({"app": ["setup"], "setup": []}, {"app": 2}), 3)
    assert not truth.begun
    for event in (
        Event("orch.started"),
        Event("unit.completed", "setup"),
        Event("unit.started", "app"),
        Event("task.started", "app", task=2),
        Event("unit.failed", "app", error="boom"),
    ):
        truth.follow(event)
    app = truth.unit("app")
    assert (app["status"], app["totalTasks"], app["currentTask"], app["error"]) == ("failed", 2, 1, "boom")
    assert app["depends_on"] == ["setup"]
    assert (truth.picture()["status"], truth.picture()["parallelism"], truth.begun) == ("running", 3, True)
