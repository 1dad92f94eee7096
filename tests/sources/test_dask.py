"""Real Dask computations, in this process and on a cluster."""

import operator
import subprocess
import sys
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from socketpusher import Bus, Event, PusherConfig, SocketPusher, plugin
from socketpusher.terminal.tracker import Run
from support.consumer import Consumer
from support.restarting import RestartingConsumer
from support.waiting import wait_for

dask = pytest.importorskip("dask", reason="tox -e hosts installs it")
pytest.importorskip("distributed", reason="tox -e hosts installs it")

from dask import delayed  # noqa: E402
from dask.delayed import Delayed  # noqa: E402
from distributed import Client, LocalCluster, Worker, wait  # noqa: E402

from socketpusher.sources.dask import ClusterRun, LocalRun  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore")  # distributed's own
LOCAL = ["synchronous", "threads", "processes"]


@delayed
def load(number: int) -> int:
    return number


@delayed
def broken(number: int) -> int:
    raise ValueError(f"no disk {number}")


@delayed
def total(*numbers: int) -> int:
    return sum(numbers)


gates: list[threading.Event] = []  # one for each test, for the cluster is in this process and may start a call late


def hold(gate: int, number: int) -> int:
    assert gates[gate].wait(60)
    return number


mended = threading.Event()


def flaky(number: int) -> int:
    if not mended.is_set():
        raise ValueError(f"no disk {number}")
    return number


@pytest.fixture(autouse=True)
def leaves_nothing_behind() -> None:
    """Dask keeps its pools, and the cluster is shared."""


def told(events: list[Event]) -> dict[str, list[str]]:
    units = defaultdict(list)
    for event in events:
        if event.unit:
            units[event.unit].append(event.type.removeprefix("unit."))
    return dict(units)


def recording() -> tuple[Bus, list[Event]]:
    bus, events = Bus(), []
    bus.subscribe(events.append)
    return bus, events


@pytest.mark.parametrize("scheduler", LOCAL)
def test_keys_of_a_prefix_are_the_tasks_of_a_unit(scheduler: str) -> None:
    bus, events = recording()
    with LocalRun(bus):
        assert total(*map(load, range(3))).compute(scheduler=scheduler, num_workers=2) == 3
    graph = events[0].payload["graph"]
    assert {node["id"]: node["tasks"] for node in graph["nodes"]} == {"load": 3, "total": 1}
    assert graph["edges"] == [{"from": "total", "to": "load"}]
    assert told(events) == {
        "load": ["started", *["task.completed"] * 3, "completed"],
        "total": ["started", "task.completed", "completed"],
    }
    assert (events[0].type, events[-1].type) == ("orch.started", "orch.completed")


@pytest.mark.parametrize("scheduler", LOCAL)
def test_a_key_that_raises_fails_its_unit_and_blocks_what_needs_it(scheduler: str) -> None:
    bus, events = recording()
    with LocalRun(bus), pytest.raises(ValueError, match="no disk 5"):
        total(load(1), broken(5)).compute(scheduler=scheduler, num_workers=1)
    assert told(events)["broken"] == ["started", "task.failed", "failed"]
    assert told(events)["total"] == ["blocked"]
    assert events[-1].type == "orch.failed"
    assert events[-1].error == "broken: ValueError: no disk 5"


def test_a_prefix_that_is_used_at_several_depths_makes_no_cycle() -> None:
    bus, events = recording()
    with LocalRun(bus):
        total(load(total(load(1)))).compute(scheduler="synchronous")
    assert {node["id"]: node["tasks"] for node in events[0].payload["graph"]["nodes"]} == {"load": 2, "total": 2}
    assert events[-1].type == "orch.completed"


def test_a_graph_of_100_000_keys_is_two_units() -> None:
    bus, events = recording()
    graph = {("load", number): (abs, number) for number in range(100_000)}
    graph["total"] = (len, list(graph))
    with LocalRun(bus):
        dask.get(graph, "total")
    assert {node["id"]: node["tasks"] for node in events[0].payload["graph"]["nodes"]} == {"load": 100_000, "total": 1}
    assert sum(event.type == "task.completed" for event in events) == 100_001


class BrokenBus(Bus):
    def emit(self, event: Event) -> None:
        raise OSError("no bus")


@pytest.mark.parametrize("scheduler", LOCAL)
def test_a_bus_that_raises_breaks_no_computation(scheduler: str) -> None:
    with LocalRun(BrokenBus()):
        assert total(*map(load, range(3))).compute(scheduler=scheduler, num_workers=2) == 3


@pytest.fixture(scope="module")
def cluster() -> object:
    with LocalCluster(
        n_workers=2, threads_per_worker=1, processes=False, dashboard_address=None, silence_logs=False
    ) as cluster:
        yield cluster


@pytest.fixture
def on_cluster(cluster: LocalCluster) -> object:
    """A client, and the events that the cluster emits."""
    bus, events = recording()
    cluster_run = ClusterRun(bus)
    with Client(cluster) as client:
        cluster.scheduler.add_plugin(cluster_run)
        yield client, events, bus
        cluster.scheduler.remove_plugin(cluster_run.name)


@pytest.fixture
def gate() -> Iterator[int]:
    """What `hold` is given: it returns when the test opens that gate, or ends."""
    gates.append(threading.Event())
    yield len(gates) - 1
    gates[-1].set()


OnCluster = tuple[Client, list[Event], Bus]


def ended(events: list[Event], runs: int = 1) -> bool:
    return len(ends(events)) >= runs


def ends(events: list[Event]) -> list[str]:
    found = [event for event in events if event.type in ("orch.completed", "orch.failed")]
    return [f"{event.type} {event.error}".strip() for event in found]


def starts(events: list[Event]) -> int:
    return sum(event.type == "orch.started" for event in events)


def shown(events: list[Event], unit: str) -> tuple[str, int, int]:
    """What a display shows of a unit."""
    run = Run("dask")
    for event in events:
        run.apply(event)
    found = run.units[unit]
    return found.status, found.completed_tasks, found.tasks


def test_a_cluster_tells_the_same(on_cluster: OnCluster) -> None:
    client, events, _ = on_cluster
    assert client.compute(total(*map(load, range(3)))).result(60) == 3
    wait_for(lambda: ended(events))
    assert told(events)["total"] == ["started", "task.completed", "completed"]
    assert told(events)["load"] == ["started", *["task.completed"] * 3, "completed"]
    workers = {event.payload["worker"] for event in events if event.type == "task.completed"}
    assert workers <= {worker.worker_address for worker in client.cluster.workers.values()}
    assert (events[0].type, events[-1].type) == ("orch.started", "orch.completed")
    assert events[0].payload["parallelism"] == 2


def test_a_cluster_tells_what_failed_and_what_it_blocks(on_cluster: OnCluster) -> None:
    client, events, _ = on_cluster
    future = client.compute(total(load(1), broken(5)))
    with pytest.raises(ValueError, match="no disk 5"):
        future.result(60)
    wait_for(lambda: ended(events))
    assert told(events)["broken"] == ["started", "task.failed", "failed"]
    assert told(events)["total"] == ["blocked"]
    assert events[-1].type == "orch.failed"
    assert "no disk 5" in events[-1].error


def test_a_run_on_a_cluster_grows_with_what_is_submitted(on_cluster: OnCluster) -> None:
    client, events, _ = on_cluster
    first = client.submit(time.sleep, 0.3, key="nap-1")
    more = client.map(operator.neg, range(5))
    again = client.submit(time.sleep, 0.01, key="nap-2")
    wait([first, again, *more])
    wait_for(lambda: ended(events))
    assert starts(events) == 1
    assert told(events)["neg"].count("task.completed") == 5
    assert told(events)["nap"][-1] == "completed"
    assert shown(events, "nap") == ("complete", 2, 2)


def test_a_unit_that_grows_is_started_once_and_one_whose_keys_wait_is_not(on_cluster: OnCluster, gate: int) -> None:
    client, events, _ = on_cluster
    futures = [client.submit(hold, gate, number) for number in range(9)]
    waiting = client.submit(operator.neg, futures[0])
    wait_for(lambda: "neg" in told(events))
    assert told(events) == {"hold": ["started", *["progress"] * 8], "neg": ["progress"]}
    assert shown(events, "hold") == ("in_progress", 0, 9)
    assert shown(events, "neg") == ("pending", 0, 1)
    gates[gate].set()
    wait([waiting, *futures])
    wait_for(lambda: ended(events))
    assert told(events)["neg"] == ["progress", "started", "task.completed", "completed"]
    assert told(events)["hold"].count("started") == 1
    assert (shown(events, "hold"), shown(events, "neg")) == (("complete", 9, 9), ("complete", 1, 1))


def test_a_unit_none_of_whose_keys_are_new_is_not_told_again(on_cluster: OnCluster, gate: int) -> None:
    client, events, _ = on_cluster
    first = delayed(hold)(gate, 1)
    future = client.compute(first)
    wait_for(lambda: "hold" in told(events))
    more = client.compute(total(first))
    wait_for(lambda: "total" in told(events))
    assert told(events)["hold"] == ["started"]
    gates[gate].set()
    wait([future, more])


def test_a_submission_looks_only_at_keys_that_are_new() -> None:
    """The scheduler would wait: a walk through all that is open for each of many submissions takes quadratic time."""
    looked_at = 0

    class State:
        state, dependents = "waiting", ()

        def __init__(self, key: str, needs: "list[State]") -> None:
            self.key, self.needs = key, needs

        @property
        def dependencies(self) -> "list[State]":
            nonlocal looked_at
            looked_at += 1
            return self.needs

    run, tasks = ClusterRun(Bus()), {}
    scheduler = SimpleNamespace(tasks=tasks, workers={})
    for number in range(300):
        needs = [tasks[f"inc-{number - 1}"]] if number else []
        key = f"inc-{number}"
        tasks[key] = State(key, needs)
        run.update_graph(scheduler, tasks=[key], keys=[key])
    assert len(run._run.open) == 300
    assert looked_at < 5 * 300


def test_what_is_cancelled_is_not_complete(on_cluster: OnCluster, gate: int) -> None:
    client, events, _ = on_cluster
    done = client.submit(operator.neg, 1, key="hold-0")
    wait(done)
    futures = client.map(hold, [gate] * 3, range(3))
    wait_for(lambda: starts(events) == 2)
    client.cancel(futures)
    wait_for(lambda: ended(events, 2))
    assert told(events)["hold"] == ["started", "task.completed", "completed", "started", "failed"]
    assert ends(events) == ["orch.completed", "orch.failed hold: cancelled"]
    assert shown(events, "hold") == ("failed", 0, 3)


def test_what_is_not_needed_after_a_failure_does_not_keep_the_run_open(on_cluster: OnCluster, gate: int) -> None:
    client, events, _ = on_cluster
    bad = broken(5)
    future = client.compute(total(delayed(hold)(gate, 1), bad, *[load(bad) for _ in range(9)]))
    with pytest.raises(ValueError, match="no disk 5"):
        future.result(60)
    wait_for(lambda: ended(events))
    assert told(events)["hold"][-1] == "failed"
    assert told(events)["load"] == told(events)["total"] == ["blocked"]
    assert ends(events) == ["orch.failed broken: ValueError('no disk 5')"]


@pytest.mark.parametrize("work", [total(load(1)), broken(1), total(load(1), broken(1))])
def test_what_has_ended_is_no_run_when_it_is_submitted_again(on_cluster: OnCluster, work: Delayed) -> None:
    client, events, _ = on_cluster
    future = client.compute(work)
    wait(future, 60)
    wait_for(lambda: ended(events))
    with Client(client.cluster) as other:
        wait(other.compute(work), 60)
    assert client.compute(load(2)).result(60) == 2
    wait_for(lambda: ended(events, 2))
    assert starts(events) == 2
    assert ends(events)[1] == "orch.completed"


def test_what_needs_a_key_that_failed_before_is_blocked(on_cluster: OnCluster) -> None:
    client, events, _ = on_cluster
    bad = broken(1)
    failed = client.compute(bad)
    wait(failed, 60)
    wait_for(lambda: ended(events))
    before = len(events)
    futures = client.compute([load(total(load(1), bad)), total(2)])
    wait(futures, 60)
    wait_for(lambda: ended(events, 2))
    assert told(events[before:]) == {"load": ["blocked"], "total": ["started", "task.completed", "blocked"]}
    assert ends(events)[1] == "orch.failed total: blocked"


def test_a_failed_key_that_is_retried_is_a_run(on_cluster: OnCluster) -> None:
    client, events, _ = on_cluster
    mended.clear()
    first = delayed(flaky)(1)
    future, whole = client.compute([first, total(first)])
    wait([future, whole], 60)
    wait_for(lambda: ended(events))
    before = len(events)
    mended.set()
    future.retry()
    wait_for(lambda: ended(events, 2))
    assert told(events[before:])["flaky"] == ["started", "task.completed", "completed"]
    assert told(events[before:])["total"] == ["progress", "started", "task.completed", "completed"]
    assert ends(events)[1] == "orch.completed"


def test_a_key_that_is_retried_while_the_run_goes_on_has_failed_no_more(on_cluster: OnCluster, gate: int) -> None:
    client, events, _ = on_cluster
    mended.clear()
    other = client.submit(hold, gate, 1)
    wait_for(lambda: "hold" in told(events))
    first = delayed(flaky)(1)
    future, whole = client.compute([first, total(first)])
    wait([future, whole], 60)
    wait_for(lambda: told(events)["total"][-1] == "blocked")
    assert shown(events, "flaky")[0] == "failed"
    mended.set()
    future.retry()
    wait_for(lambda: told(events)["total"][-1] == "completed")
    gates[gate].set()
    wait([whole, other], 60)
    wait_for(lambda: ended(events))
    assert (shown(events, "flaky"), shown(events, "total")) == (("complete", 1, 1), ("complete", 1, 1))
    assert ends(events) == ["orch.completed"]


def test_a_key_that_no_worker_may_compute_has_failed() -> None:
    bus, events = recording()
    with (
        dask.config.set({"distributed.scheduler.no-workers-timeout": "100ms"}),
        LocalCluster(n_workers=1, processes=False, dashboard_address=None) as cluster,
        Client(cluster) as client,
    ):
        cluster.scheduler.add_plugin(ClusterRun(bus))
        future = client.submit(operator.neg, 1, resources={"GPU": 1})
        wait(future, 60)
        wait_for(lambda: ended(events))
    assert told(events)["neg"] == ["task.failed", "failed"]
    assert ends(events) == ["orch.failed neg: failed"]


def scheduled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, runtime: Path) -> tuple[int, str]:
    """What a scheduler of its own, which preloads the plugin, computes, and what it says."""
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(runtime))
    file = tmp_path / "scheduler.json"
    options = ["--port", "0", "--no-dashboard", "--scheduler-file", str(file)]
    command = [sys.executable, "-m", "dask", "scheduler", "--preload", "socketpusher.dask_plugin", *options]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as scheduler:
        try:
            wait_for(file.exists, 60)
            with Client(scheduler_file=str(file)) as client:
                worker = client.sync(Worker, client.scheduler.address)
                result = client.compute(total(*map(load, range(3)))).result(60)
                client.sync(worker.close)
        finally:
            scheduler.terminate()
            said = scheduler.communicate(timeout=60)[1]
            assert scheduler.returncode == 0
    return result, said


def test_a_scheduler_of_its_own_preloads_the_plugin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "choo").mkdir()
    consumer = Consumer(str(tmp_path / "choo" / "web.sock"))
    assert scheduled(tmp_path, monkeypatch, tmp_path)[0] == 3
    events = consumer.events()
    consumer.go_away()
    assert told(events)["load"] == ["started", *["task.completed"] * 3, "completed"]
    assert "orch.completed" in {event.type for event in events}


@pytest.mark.parametrize("end", ["nobody", "stalled", "x" * 200])
def test_a_cluster_computes_the_same_without_a_consumer_that_reads(
    end: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runtime = tmp_path / end
    (runtime / "choo").mkdir(parents=True)
    stalled = Consumer(str(runtime / "choo" / "web.sock"), reading=False) if end == "stalled" else None
    result, said = scheduled(tmp_path, monkeypatch, runtime)
    assert (result, "no events are sent" in said) == (3, len(end) == 200), said
    if stalled:
        stalled.go_away()


@pytest.mark.parametrize("end", ["nobody", "stalled"])
def test_a_computation_is_the_same_without_a_consumer_that_reads(end: str, socket_path: str) -> None:
    stalled = Consumer(socket_path, reading=False) if end == "stalled" else None
    pusher = plugin.start(bus := Bus(), socket_path)
    with LocalRun(bus):
        assert total(*map(load, range(3000))).compute(scheduler="synchronous") == sum(range(3000))
    plugin.close(pusher)
    stats = pusher.stats()
    assert stats.emitted == stats.sent + stats.dropped > 3000
    if stalled:
        stalled.go_away()


def run_locally(bus: Bus) -> None:
    with LocalRun(bus):
        total(*map(load, range(300))).compute(scheduler="threads")


def run_on_a_cluster(bus: Bus) -> None:
    with (
        LocalCluster(n_workers=1, processes=False, dashboard_address=None) as cluster,
        Client(cluster) as client,
    ):
        cluster.scheduler.add_plugin(ClusterRun(bus))
        client.compute(total(*map(load, range(300)))).result(60)


@pytest.mark.parametrize("run", [run_locally, run_on_a_cluster])
def test_a_consumer_that_restarts_ends_with_the_whole_picture(run: Callable[[Bus], None], socket_path: str) -> None:
    bus = Bus()
    with RestartingConsumer(socket_path, 50) as consumer:
        config = PusherConfig(socket_path, reconnect_backoff=0.01, max_reconnect_backoff=0.1)
        with SocketPusher(bus, config):  # open until a display has seen the end: what is in a socket counts as sent
            run(bus)
            shown = consumer.final_run()
    assert shown.outcome == "completed"
    units = {name: (unit.status, unit.completed_tasks) for name, unit in shown.units.items()}
    assert units == {"load": ("complete", 300), "total": ("complete", 1)}
