"""The two pools, each with real workers."""

import asyncio
import functools
import multiprocessing
import os
import signal
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError, Executor, Future, wait
from concurrent.futures.process import BrokenProcessPool
from concurrent.futures.thread import BrokenThreadPool
from datetime import UTC, datetime
from multiprocessing import forkserver
from pathlib import Path
from typing import Any

import pytest

from socketpusher import Bus, Event, PusherConfig, SocketPusher, listen
from socketpusher.sources.futures import EventProcessPoolExecutor, EventThreadPoolExecutor
from support.waiting import wait_for

Pool = Callable[..., EventThreadPoolExecutor | EventProcessPoolExecutor]

POOLS = {
    "threads": EventThreadPoolExecutor,
    **{
        method: functools.partial(EventProcessPoolExecutor, mp_context=multiprocessing.get_context(method))
        for method in ("fork", "forkserver", "spawn")
    },
}


@pytest.fixture(params=["threads", "fork", "spawn"])
def pool_class(request: pytest.FixtureRequest) -> Pool:
    return POOLS[request.param]


@pytest.fixture
def events(bus: Bus) -> list[Event]:
    """All that is emitted, as it comes."""
    events: list[Event] = []
    bus.subscribe(events.append)
    return events


def told(events: list[Event], unit: str) -> list[str]:
    return [event.type for event in events if event.unit == unit]


def error_of(events: list[Event], unit: str) -> str:
    return next(event.error for event in events if event.unit == unit and event.type == "unit.failed")


# What is called; in a module of its own name, so that a worker process finds it


def square(number: int) -> int:
    return number * number


def double(number: int, by: int = 2) -> int:
    return number * by


def wait_for_file(path: str) -> int:
    wait_for(lambda: os.path.exists(path), 60)
    return os.getpid()


def wait_and_die(path: str) -> None:
    os.kill(wait_for_file(path), signal.SIGKILL)


class HostileError(Exception):
    def __str__(self) -> str:
        raise RuntimeError


def fail_with_hostile() -> None:
    raise HostileError


# What is told


def test_a_call_is_queued_started_and_completed(pool_class: Pool, bus: Bus, events: list[Event]) -> None:
    with pool_class(bus, 1) as pool:
        assert pool.submit_unit("app", pow, 3, exp=2).result(60) == 9
    assert told(events, "app") == ["unit.queued", "unit.started", "unit.completed"]
    assert all(event.time is not None for event in events)


def test_a_call_that_raises_is_a_failed_unit_and_raises(pool_class: Pool, bus: Bus, events: list[Event]) -> None:
    with pool_class(bus, 1) as pool:
        future = pool.submit_unit("app", int, "x")
        with pytest.raises(ValueError, match="invalid literal"):
            future.result(60)
    assert told(events, "app") == ["unit.queued", "unit.started", "unit.failed"]
    assert error_of(events, "app") == "ValueError: invalid literal for int() with base 10: 'x'"


def test_an_interrupt_while_a_call_is_queued_does_not_hold_up_the_shutdown(
    pool_class: Pool, bus: Bus, events: list[Event]
) -> None:
    def interrupt(event: Event) -> None:
        if event.type == "unit.queued" and event.unit == "second":
            raise KeyboardInterrupt

    bus.subscribe(interrupt)
    pool = pool_class(bus, 1)
    assert pool.submit_unit("first", abs, -1).result(60) == 1
    with pytest.raises(KeyboardInterrupt):
        pool.submit_unit("second", abs, -2)
    shutdown = threading.Thread(target=pool.shutdown, daemon=True)
    shutdown.start()
    shutdown.join(60)
    assert not shutdown.is_alive()
    assert told(events, "second") == ["unit.queued", "unit.failed"]


def test_an_exception_that_can_not_be_shown_fails_its_unit_too(bus: Bus, events: list[Event]) -> None:
    with EventThreadPoolExecutor(bus, 1) as pool:
        with pytest.raises(HostileError):
            pool.submit_unit("app", fail_with_hostile).result(60)
        assert pool.submit_unit("next", square, 2).result(60) == 4
    assert error_of(events, "app") == "<HostileError: raised RuntimeError>"
    assert told(events, "next")[-1] == "unit.completed"


def test_a_callable_whose_attributes_raise_is_named_after_its_class(bus: Bus, events: list[Event]) -> None:
    class Proxy:
        def __getattr__(self, name: str) -> object:
            raise KeyError(name)

        def __call__(self) -> int:
            return 7

    with EventThreadPoolExecutor(bus) as pool:
        assert pool.submit(Proxy()).result(30) == 7
    assert events[0].unit.startswith("Proxy ")


def test_an_initializer_that_can_not_be_called_is_refused_at_once(pool_class: Pool, bus: Bus) -> None:
    with pytest.raises(TypeError, match="initializer must be a callable"):
        pool_class(bus, initializer=5)


def test_map_gives_its_results_in_order_and_every_call_is_a_unit(
    pool_class: Pool, bus: Bus, events: list[Event]
) -> None:
    with pool_class(bus, 2) as pool:
        assert list(pool.map(square, range(5))) == [0, 1, 4, 9, 16]
    units = {event.unit for event in events}
    assert len(units) == 5
    assert {unit.split()[0] for unit in units} == {"square"}
    assert all(told(events, unit) == ["unit.queued", "unit.started", "unit.completed"] for unit in units)


def test_units_of_two_pools_have_different_names(bus: Bus, events: list[Event]) -> None:
    for _ in range(2):
        with EventThreadPoolExecutor(bus, 1) as pool:
            pool.submit(square, 2)
            pool.submit(functools.partial(square, 3))
            pool.submit(functools.partial(double, by=3), 4)
    names = [event.unit for event in events if event.type == "unit.queued"]
    assert len(set(names)) == 6
    assert [name.split()[0] for name in names] == ["square", "square", "double"] * 2


def test_a_chunk_of_a_map_is_a_unit_named_after_the_function(bus: Bus, events: list[Event]) -> None:
    with POOLS["fork"](bus, 1) as pool:
        assert list(pool.map(square, range(4), chunksize=2)) == [0, 1, 4, 9]
    assert [event.unit.split()[0] for event in events if event.type == "unit.queued"] == ["square", "square"]


def test_many_calls_are_reported_in_order(pool_class: Pool, bus: Bus, events: list[Event]) -> None:
    with pool_class(bus, 2) as pool:
        for number in range(300):
            pool.submit_unit(str(number), square, number)
    for number in range(300):
        assert told(events, str(number)) == ["unit.queued", "unit.started", "unit.completed"]


@pytest.fixture
def server_ends() -> Iterator[None]:
    """The server of the method `forkserver` lives as long as this process, unless it is told to end."""
    yield
    forkserver._forkserver._stop()


@pytest.mark.parametrize("method", ["fork", "forkserver", "spawn"])
@pytest.mark.usefixtures("server_ends")
def test_a_call_in_a_process_has_started_when_the_process_begins_it(
    method: str, bus: Bus, events: list[Event], tmp_path: Path
) -> None:
    go_on = tmp_path / "go on"
    with POOLS[method](bus, 1) as pool:
        first, second = (pool.submit_unit(unit, wait_for_file, str(go_on)) for unit in ("first", "second"))
        wait_for(lambda: "unit.started" in told(events, "first"), 60)
        # The pool's queue has the second call too, which is all that the future says.
        wait_for(second.running, 60)
        assert told(events, "second") == ["unit.queued"]
        before = datetime.now(UTC)
        go_on.touch()
        pid = first.result(60)
    started = {event.unit: event for event in events if event.type == "unit.started"}
    assert started["first"].time < before < started["second"].time
    assert started["first"].payload == {"worker": pid}
    assert pid != os.getpid()


def test_a_very_short_call_in_a_process_starts_before_it_ends(
    bus: Bus, events: list[Event], monkeypatch: pytest.MonkeyPatch
) -> None:
    with POOLS["fork"](bus, 1) as pool:
        monkeypatch.setattr(pool._starts, "watch", lambda: None)  # nobody reads the pipe but who has a result
        called = pool.submit_unit("app", time.time).result(60)
    assert told(events, "app") == ["unit.queued", "unit.started", "unit.completed"]
    assert events[1].time.timestamp() <= called


def test_no_thread_of_a_pool_is_left_when_its_shutdown_returns(bus: Bus) -> None:
    before = set(threading.enumerate())
    with POOLS["fork"](bus, 1) as pool:
        pool.submit(square, 1)
    assert set(threading.enumerate()) == before


def test_a_pool_that_is_shut_down_while_it_submits_finishes_its_work(
    bus: Bus, events: list[Event], monkeypatch: pytest.MonkeyPatch
) -> None:
    pool = EventProcessPoolExecutor(bus, 1)
    watch = pool._starts.watch

    def shut_down_and_watch() -> None:
        pool.shutdown(wait=False)
        watch()

    monkeypatch.setattr(pool._starts, "watch", shut_down_and_watch)
    assert pool.submit_unit("app", square, 2).result(60) == 4
    wait_for(lambda: told(events, "app") == ["unit.queued", "unit.started", "unit.completed"])
    pool._starts.join()


def test_futures_that_are_kept_keep_no_descriptor_of_their_pool(bus: Bus) -> None:
    kept: list[Future[int]] = []
    open_files: list[int] = []
    for _ in range(4):
        with EventProcessPoolExecutor(bus, 1) as pool:
            kept.append(pool.submit(square, 2))
        EventProcessPoolExecutor(bus, 1).shutdown()
        del pool
        open_files.append(len(os.listdir("/dev/fd")))
    assert open_files == open_files[:1] * 4


def test_a_pool_forks_its_workers_before_it_starts_its_thread(bus: Bus, monkeypatch: pytest.MonkeyPatch) -> None:
    threads = []
    fork = os.fork

    def counted() -> int:
        threads.append(threading.active_count())
        return fork()

    monkeypatch.setattr(os, "fork", counted)
    before = threading.active_count()
    with POOLS["fork"](bus, 2) as pool:
        pool.submit(square, 1)
    assert threads == [before] * 2


def test_a_call_in_a_thread_names_the_thread(bus: Bus, events: list[Event]) -> None:
    with EventThreadPoolExecutor(bus, 1, thread_name_prefix="builder") as pool:
        name = pool.submit_unit("app", lambda: threading.current_thread().name).result(60)
    assert name.startswith("builder")
    assert [event.payload for event in events if event.type == "unit.started"] == [{"worker": name}]


# Cancelling


def test_a_cancelled_call_is_a_failed_unit_that_never_started(bus: Bus, events: list[Event]) -> None:
    free = threading.Event()
    with EventThreadPoolExecutor(bus, 1) as pool:
        pool.submit(free.wait)
        future = pool.submit_unit("app", square, 2)
        assert future.cancel()
        free.set()
        with pytest.raises(CancelledError):
            future.result(60)
    assert told(events, "app") == ["unit.queued", "unit.failed"]
    assert error_of(events, "app") == "CancelledError: cancelled before it started"


def test_shutdown_cancels_what_waits(pool_class: Pool, bus: Bus, events: list[Event], tmp_path: Path) -> None:
    go_on = tmp_path / "go on"
    pool = pool_class(bus, 1)
    running = pool.submit_unit("running", wait_for_file, str(go_on))
    waiting = [pool.submit_unit(f"waiting {number}", square, number) for number in range(10)]
    wait_for(lambda: "unit.started" in told(events, "running"), 60)
    pool.shutdown(wait=False, cancel_futures=True)
    wait_for(lambda: any(future.cancelled() for future in waiting), 60)  # by a thread of the pool
    go_on.touch()
    running.result(60)
    pool.shutdown()
    assert told(events, "running")[-1] == "unit.completed"
    assert all(future.done() for future in waiting)
    ends = {True: ["unit.queued", "unit.failed"], False: ["unit.queued", "unit.started", "unit.completed"]}
    for number, future in enumerate(waiting):
        assert told(events, f"waiting {number}") == ends[future.cancelled()]


def test_what_a_pool_refuses_is_a_failed_unit(pool_class: Pool, bus: Bus, events: list[Event]) -> None:
    pool = pool_class(bus, 1)
    pool.shutdown()
    with pytest.raises(RuntimeError, match="shutdown"):
        pool.submit_unit("app", square, 2)
    assert told(events, "app") == ["unit.queued", "unit.failed"]
    assert error_of(events, "app").startswith("RuntimeError: ")


# Shut down by a handler


@pytest.mark.parametrize("wait", [False, True])
@pytest.mark.parametrize(
    ("kind", "fn", "arguments"),
    [("started", square, (2,)), ("completed", square, (2,)), ("failed", int, ("x",))],
)
@pytest.mark.parametrize("method", ["threads", "fork"])
def test_a_handler_shuts_its_pool_down_without_waiting_or_gets_a_sentence(
    method: str, kind: str, fn: Callable[..., Any], arguments: tuple[Any, ...], wait: bool, bus: Bus
) -> None:
    pool = POOLS[method](bus, 2)
    told: list[str] = []

    def shut_down(event: Event) -> None:
        if event.type == f"unit.{kind}" and event.unit == "app":
            try:
                pool.shutdown(wait=wait)
                told.append("shut down")
            except RuntimeError as error:
                told.append(str(error))

    unsubscribe = bus.subscribe(shut_down)
    in_time(lambda: pool.submit_unit("app", fn, *arguments).exception(60), pool.shutdown)
    unsubscribe()  # the bus outlives the test, and the pool would
    advice = "call shutdown(wait=False) there, and wait for the pool elsewhere"
    assert told == [f"can't wait for a pool in a handler of its events; {advice}" if wait else "shut down"]


def in_time(*calls: Callable[[], object]) -> None:
    """Make the calls in a thread that is left behind if they deadlock, so that the test fails and ends."""
    thread = threading.Thread(target=lambda: [call() for call in calls], daemon=True)
    thread.start()
    thread.join(30)
    assert not thread.is_alive()


@pytest.mark.parametrize("method", ["threads", "fork"])
def test_a_handler_that_ends_the_pool_at_the_first_failure_is_called_for_each_cancelled_call(
    method: str, bus: Bus, events: list[Event], tmp_path: Path
) -> None:
    pool = POOLS[method](bus, 1)
    unsubscribe = bus.subscribe(
        lambda event: event.type == "unit.failed" and pool.shutdown(wait=False, cancel_futures=True)
    )
    go_on = tmp_path / "go on"
    pool.submit_unit("first", wait_for_file, str(go_on))
    pool.submit_unit("fails", int, "x")
    waiting = [pool.submit(square, number) for number in range(2000)]
    in_time(go_on.touch, lambda: wait_for(lambda: all(future.done() for future in waiting)), pool.shutdown)
    unsubscribe()
    assert sum(event.type in ("unit.completed", "unit.failed") for event in events) == 2002
    assert any(future.cancelled() for future in waiting)


@pytest.mark.parametrize("method", ["threads", "fork"])
def test_a_handler_may_shut_a_broken_pool_down(method: str, bus: Bus, events: list[Event]) -> None:
    pool = POOLS[method](bus, 1, initializer=int, initargs=("x",))
    unsubscribe = bus.subscribe(lambda event: event.type == "unit.failed" and pool.shutdown(wait=False))
    in_time(lambda: pool.submit_unit("app", square, 2).exception(60), pool.shutdown)
    unsubscribe()
    assert told(events, "app") == ["unit.queued", "unit.failed"]


# Pools that break


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_a_worker_that_dies_fails_every_unit_and_nothing_hangs(
    method: str, bus: Bus, events: list[Event], tmp_path: Path
) -> None:
    go_on = tmp_path / "go on"
    with POOLS[method](bus, 1) as pool:
        futures = {"dies": pool.submit_unit("dies", wait_and_die, str(go_on))}
        futures |= {f"after {number}": pool.submit_unit(f"after {number}", square, number) for number in range(3)}
        go_on.touch()
        for future in futures.values():
            with pytest.raises(BrokenProcessPool):
                future.result(60)
        with pytest.raises(BrokenProcessPool):
            pool.submit_unit("late", square, 1)
    assert told(events, "dies") == ["unit.queued", "unit.started", "unit.failed"]
    assert error_of(events, "dies").startswith("BrokenProcessPool: ")
    for unit in ("after 0", "after 1", "after 2", "late"):
        assert told(events, unit) == ["unit.queued", "unit.failed"]


def test_an_initializer_that_fails_fails_the_units(bus: Bus, events: list[Event]) -> None:
    with EventThreadPoolExecutor(bus, 1, initializer=int, initargs=("x",)) as pool, pytest.raises(BrokenThreadPool):
        pool.submit_unit("app", square, 2).result(60)
    assert told(events, "app") == ["unit.queued", "unit.failed"]


def test_an_argument_that_can_not_be_pickled_fails_its_unit_only(bus: Bus, events: list[Event]) -> None:
    with POOLS["fork"](bus, 1) as pool:
        future = pool.submit_unit("app", square, threading.Lock())
        with pytest.raises(TypeError, match="pickle"):
            future.result(60)
        assert pool.submit_unit("next", square, 2).result(60) == 4
    assert told(events, "app") == ["unit.queued", "unit.failed"]


# What the executors are, they stay


_initialized = 0


def initialize(value: int) -> None:
    global _initialized
    _initialized = value


def initialized() -> int:
    return _initialized


def test_the_initializer_of_the_user_runs_in_every_process(bus: Bus) -> None:
    with EventProcessPoolExecutor(
        bus, 1, multiprocessing.get_context("spawn"), initialize, (7,), max_tasks_per_child=1
    ) as pool:
        assert [pool.submit(initialized).result(60) for _ in range(2)] == [7, 7]


def test_replaced_processes_report_their_calls(bus: Bus, events: list[Event]) -> None:
    with POOLS["spawn"](bus, 1, max_tasks_per_child=1) as pool:
        for number in range(3):
            pool.submit_unit(str(number), square, number)
    pids = {event.payload["worker"] for event in events if event.type == "unit.started"}
    assert len(pids) == 3


def test_a_loop_of_asyncio_may_run_calls_in_it(bus: Bus, events: list[Event]) -> None:
    async def main(pool: Executor) -> int:
        return await asyncio.get_running_loop().run_in_executor(pool, square, 3)

    with EventThreadPoolExecutor(bus, 1) as pool:
        assert asyncio.run(main(pool)) == 9
    assert [event.type for event in events] == ["unit.queued", "unit.started", "unit.completed"]


def test_a_pool_without_shutdown_finishes_its_work_and_ends(pool_class: Pool, bus: Bus, events: list[Event]) -> None:
    pool = pool_class(bus, 1)
    futures: list[Future[int]] = [pool.submit_unit(str(number), square, number) for number in range(3)]
    gone = weakref.ref(pool)
    del pool
    assert gone() is None
    assert [future.result(60) for future in futures] == [0, 1, 4]
    wait_for(lambda: sum(event.type == "unit.completed" for event in events) == 3, 60)
    # That no thread and no process stays is what every test here is asked.


def test_another_pool_that_is_forked_meanwhile_does_not_hold_up_a_shutdown(bus: Bus) -> None:
    with POOLS["fork"](bus, 1) as first:
        first.submit(square, 1).result(60)
        with POOLS["fork"](bus, 1) as second:
            second.submit(square, 1).result(60)
            first.shutdown()


# To the end of the wire


def test_a_consumer_sees_the_calls(socket_path: str, bus: Bus) -> None:
    with listen(socket_path) as received:
        pusher = SocketPusher(bus, PusherConfig(socket_path=socket_path))
        pusher.set_graph({"app": ["setup"], "setup": []}, parallelism=2)
        with pusher, EventThreadPoolExecutor(bus, 2) as pool:
            wait([pool.submit_unit("setup", time.monotonic)])
            wait([pool.submit_unit("app", int, "x")])
        events = [next(received) for _ in range(7)]
    assert events[0].type == "graph"
    assert told(events, "setup") == ["unit.queued", "unit.started", "unit.completed"]
    assert told(events, "app") == ["unit.queued", "unit.started", "unit.failed"]
