"""Real Dask computations, in this process and on a cluster."""

import operator
import subprocess
import sys
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from socketpusher import Bus, Event, PusherConfig, SocketPusher, plugin
from socketpusher.terminal.tracker import Run
from support.consumer import Consumer
from support.restarting import RestartingConsumer
from support.waiting import wait_for

dask = pytest.importorskip("dask", reason="tox -e hosts installs it")
pytest.importorskip("distributed", reason="tox -e hosts installs it")

from dask import delayed  # noqa: E402
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


released = threading.Event()  # the cluster is in this process


def hold(number: int) -> int:
    assert released.wait(60)
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
def held() -> Iterator[None]:
    """What calls `hold` runs until the test releases it, or ends."""
    released.clear()
    yield
    released.set()


OnCluster = tuple[Client, list[Event], Bus]


def ended(events: list[Event]) -> bool:
    return any(event.type in ("orch.completed", "orch.failed") for event in events)


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


@pytest.mark.usefixtures("held")
def test_a_unit_that_grows_is_started_once_and_one_whose_keys_wait_is_not(on_cluster: OnCluster) -> None:
    client, events, _ = on_cluster
    futures = [client.submit(hold, number) for number in range(9)]
    waiting = client.submit(operator.neg, futures[0])
    wait_for(lambda: "neg" in told(events))
    assert told(events) == {"hold": ["started", *["progress"] * 8], "neg": ["progress"]}
    assert shown(events, "hold") == ("in_progress", 0, 9)
    assert shown(events, "neg") == ("pending", 0, 1)
    released.set()
    wait([waiting, *futures])
    wait_for(lambda: ended(events))
    assert told(events)["neg"] == ["progress", "started", "task.completed", "completed"]
    assert told(events)["hold"].count("started") == 1
    assert (shown(events, "hold"), shown(events, "neg")) == (("complete", 9, 9), ("complete", 1, 1))


@pytest.mark.usefixtures("held")
def test_a_unit_none_of_whose_keys_are_new_is_not_told_again(on_cluster: OnCluster) -> None:
    client, events, _ = on_cluster
    first = delayed(hold)(1)
    future = client.compute(first)
    wait_for(lambda: "hold" in told(events))
    more = client.compute(total(first))
    wait_for(lambda: "total" in told(events))
    assert told(events)["hold"] == ["started"]
    released.set()
    wait([future, more])


def test_what_nobody_wants_any_more_ends_the_run(on_cluster: OnCluster) -> None:
    client, events, _ = on_cluster
    futures = client.map(time.sleep, [0.05] * 40, pure=False)
    wait_for(lambda: any(event.type == "task.completed" for event in events))
    client.cancel(futures)
    wait_for(lambda: ended(events))
    assert told(events)["sleep"][-1] == "completed"


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
