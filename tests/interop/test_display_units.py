"""A dashboard that is restarted shows of each unit, and of the run, what the one before showed."""

import pytest

from socketpusher import Bus, Event, Graph
from support.web import Web, kill_writer, sending

GRAPH = Graph({"app": [], "setup": []}, {"app": 5, "setup": 1})


@pytest.fixture(params=["server", "writer and server"])
def killed(request: pytest.FixtureRequest) -> str:
    """What a test kills."""
    return str(request.param)


def shows_the_same_again(bus: Bus, web: Web, killed: str, *events: Event) -> dict[str, object]:
    """Let the display follow a run, and then another one that is told where the run stands.

    Returns:
        What it shows of the unit "app".
    """
    with sending(bus, web.path, GRAPH) as (pusher, truth):
        for event in (Event("orch.started"), *events):
            bus.emit(event)
        web.shows(truth)
        if "writer" in killed:
            kill_writer(pusher)
            web.shows(truth)
        for _ in range(2):
            web.restart()
            web.shows(truth)
    return truth.unit("app")


def started(total: int, completed: int = 0) -> Event:
    return Event("unit.started", "app", payload={"total_tasks": total, "completed_tasks": completed})


def tasks(first: int, last: int) -> list[Event]:
    return [
        Event(kind, "app", task=task) for task in range(first, last + 1) for kind in ("task.started", "task.completed")
    ]


def test_a_unit_that_is_tried_again_begins_with_no_task_done(bus: Bus, web: Web, killed: str) -> None:
    failed = Event("unit.failed", "app", error="boom")
    app = shows_the_same_again(bus, web, killed, started(5), *tasks(1, 3), failed, started(5))
    assert (app["status"], app["currentTask"], app["error"]) == ("in_progress", 0, "boom")


def test_a_unit_that_is_tried_again_may_have_fewer_tasks(bus: Bus, web: Web, killed: str) -> None:
    app = shows_the_same_again(bus, web, killed, started(5, 2), Event("unit.failed", "app"), started(2, 1))
    assert (app["totalTasks"], app["currentTask"]) == (2, 1)


def test_a_unit_that_is_started_without_counts_keeps_those_it_had(bus: Bus, web: Web, killed: str) -> None:
    app = shows_the_same_again(bus, web, killed, started(4), *tasks(1, 3), Event("unit.started", "app"))
    assert (app["totalTasks"], app["currentTask"]) == (4, 2)


def test_a_failed_unit_keeps_its_error_and_its_task(bus: Bus, web: Web, killed: str) -> None:
    error = 'task 4 said "no"\nand ended 🚀'
    failed = Event("unit.failed", "app", error=error)
    app = shows_the_same_again(bus, web, killed, started(5), *tasks(1, 3), Event("task.started", "app", task=4), failed)
    assert (app["status"], app["currentTask"], app["error"]) == ("failed", 3, error)


def test_a_unit_at_work_keeps_its_task_and_the_time_of_its_start(bus: Bus, web: Web, killed: str) -> None:
    app = shows_the_same_again(bus, web, killed, started(5), *tasks(1, 1), Event("task.started", "app", task=2))
    assert (app["status"], app["currentTask"]) == ("in_progress", 1)
    assert str(app["startedAt"]) > "2026"


def test_tasks_without_a_number_are_counted(bus: Bus, web: Web, killed: str) -> None:
    app = shows_the_same_again(bus, web, killed, started(5), *[Event("task.started", "app")] * 3)
    assert app["currentTask"] == 3


def test_a_completed_unit_keeps_the_time_of_its_start_and_its_task(bus: Bus, web: Web, killed: str) -> None:
    app = shows_the_same_again(bus, web, killed, started(5), *tasks(1, 5), Event("unit.completed", "app"))
    assert (app["status"], app["currentTask"]) == ("complete", 4)


def test_a_unit_that_is_blocked_is_shown_blocked(bus: Bus, web: Web, killed: str) -> None:
    failed = Event("unit.failed", "setup", error="no network")
    app = shows_the_same_again(bus, web, killed, failed, Event("unit.queued", "app"), Event("unit.blocked", "app"))
    assert app["status"] == "blocked"


@pytest.mark.parametrize("end", ["completed", "failed"])
def test_a_run_that_is_over_stays_on_show(bus: Bus, web: Web, killed: str, end: str) -> None:
    with sending(bus, web.path, GRAPH) as (pusher, truth):
        for event in (
            Event("orch.started"),
            Event("unit.completed", "setup"),
            started(5),
            Event("unit.failed" if end == "failed" else "unit.completed", "app"),
            Event(f"orch.{end}"),
        ):
            bus.emit(event)
        web.shows(truth)
        if "writer" in killed:
            kill_writer(pusher)
        for _ in range(2):
            web.restart()
            web.shows(truth)
        assert web.picture()["status"] == end
        bus.emit(Event("orch.started"))
        web.shows(truth)
        assert web.picture()["units"]["setup"]["status"] == "pending"
