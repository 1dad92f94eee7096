"""Executors of `concurrent.futures` that emit events about each call; every call is a unit.

They are the standard library's two pools with `submit` overridden, so results, exceptions, cancellation, `map` and
`shutdown` work as there. A call is `unit.queued` when it is submitted, `unit.started` when a worker starts it, then
`unit.completed` or `unit.failed`.

Only the worker process knows when a call really starts: `Future.running()` is already true when the call is put into
the pool's queue. So the worker writes the start into a pipe, which it gets from the pool's initializer, and a thread of
the host reads the pipe. The worker writes before it runs the call, and the host reads the pipe before it emits how a
call ended, so a unit never ends before it has started. Each start is one write of less than `PIPE_BUF` bytes, which the
kernel keeps whole (pipe(7)).
"""

import itertools
import multiprocessing
import os
import threading
import time
import weakref
from collections.abc import Callable
from concurrent.futures import CancelledError, Future, ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import suppress
from datetime import UTC, datetime
from functools import partial
from multiprocessing.connection import Connection, wait
from multiprocessing.context import BaseContext
from typing import Any, ParamSpec, TypeVar

from ..conversion import format_error
from ..events import Bus, Event, EventType

_P = ParamSpec("_P")
_T = TypeVar("_T")

_numbers = itertools.count(1)  # one counter per process: pools that share a bus must not share names


class EventThreadPoolExecutor(ThreadPoolExecutor):
    """A `ThreadPoolExecutor` that emits events about each call.

    The payload of `unit.started` is `{"worker": name}`, the name of the thread. A cancelled call is `unit.failed`.

    Args:
        bus: Where the events are emitted, by the thread that submits, by the worker, or by the thread that cancels.
        max_workers: This, `thread_name_prefix`, `initializer` and `initargs` are `ThreadPoolExecutor`'s.

    Example:
        >>> with EventThreadPoolExecutor(bus, max_workers=4) as pool:  # doctest: +SKIP
        ...     sizes = list(pool.map(os.path.getsize, paths))  # the units "getsize 1", "getsize 2", ...
        ...     pool.submit_unit("app", build, "app")
    """

    def __init__(
        self,
        bus: Bus,
        max_workers: int | None = None,
        thread_name_prefix: str = "",
        initializer: Callable[..., object] | None = None,
        initargs: tuple[Any, ...] = (),
    ) -> None:
        super().__init__(max_workers, thread_name_prefix, initializer, initargs)
        self._bus = _PoolBus(bus)

    def submit(self, fn: Callable[_P, _T], /, *args: _P.args, **kwargs: _P.kwargs) -> "Future[_T]":
        """Submit a call as a unit that is named after the function, with a number."""
        return self.submit_unit(_name(fn), fn, *args, **kwargs)

    def submit_unit(self, unit: str, fn: Callable[_P, _T], /, *args: _P.args, **kwargs: _P.kwargs) -> "Future[_T]":
        """Submit a call as the unit `unit`, for example one of a graph.

        Raises:
            RuntimeError: The pool was shut down, or its initializer failed.
        """
        submit = partial(super().submit, _in_thread, self._bus, unit, fn, args, kwargs)
        return _emit_and_submit(self._bus, unit, submit, partial(_emit_end, self._bus, unit))

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """As `ThreadPoolExecutor.shutdown`.

        Raises:
            RuntimeError: A handler of an event of this pool calls it with `wait`: the pool waits for the handler.
        """
        self._bus.shut_down(partial(super().shutdown, wait, cancel_futures=cancel_futures), wait, self._broken)


class EventProcessPoolExecutor(ProcessPoolExecutor):
    """A `ProcessPoolExecutor` that emits events about each call, in this process.

    The payload of `unit.started` is `{"worker": pid}`, its time is when the worker started the call. A cancelled call
    is `unit.failed`, and so is every unfinished call of a broken pool. With a `chunksize`, `map` submits chunks, so a
    chunk is a unit.

    Args:
        bus: Where the events are emitted, by threads of the pool and by the thread that submits or cancels.
        max_workers: This and the other arguments are `ProcessPoolExecutor`'s.

    Example:
        >>> with EventProcessPoolExecutor(bus, mp_context=get_context("spawn")) as pool:  # doctest: +SKIP
        ...     pool.submit_unit("app", build, "app").result()
    """

    def __init__(
        self,
        bus: Bus,
        max_workers: int | None = None,
        mp_context: BaseContext | None = None,
        initializer: Callable[..., object] | None = None,
        initargs: tuple[Any, ...] = (),
        *,
        max_tasks_per_child: int | None = None,
    ) -> None:
        if initializer is not None and not callable(initializer):  # the pool itself checks only `_init_worker`
            raise TypeError("initializer must be a callable")
        self._bus = _PoolBus(bus)
        self._starts = starts = _StartPipe(self._bus)
        super().__init__(
            max_workers,
            mp_context,
            _init_worker,
            (starts.writer, initializer, initargs),
            max_tasks_per_child=max_tasks_per_child,
        )
        weakref.finalize(self, starts.close).atexit = False  # because `shutdown` need not be called

    def submit(self, fn: Callable[_P, _T], /, *args: _P.args, **kwargs: _P.kwargs) -> "Future[_T]":
        """Submit a call as a unit that is named after the function, with a number."""
        return self.submit_unit(_name(fn), fn, *args, **kwargs)

    def submit_unit(self, unit: str, fn: Callable[_P, _T], /, *args: _P.args, **kwargs: _P.kwargs) -> "Future[_T]":
        """Submit a call as the unit `unit`, for example one of a graph.

        Raises:
            RuntimeError: The pool was shut down, or is broken.
        """
        number = self._starts.expect(unit)
        submit = partial(super().submit, _in_process, number, fn, args, kwargs)
        future = _emit_and_submit(self._bus, unit, submit, partial(self._starts.ended, number))
        self._starts.watch()  # after it: the first submit may fork, which is safer without threads
        return future

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """As `ProcessPoolExecutor.shutdown`. With `wait`, every event has been emitted when it returns.

        Raises:
            RuntimeError: A handler of an event of this pool calls it with `wait`: the pool waits for the handler.
        """
        self._bus.shut_down(partial(super().shutdown, wait, cancel_futures=cancel_futures), wait, self._broken)
        self._starts.close()
        if wait:
            self._starts.join()


class _PoolBus(threading.local):
    """The bus for the events of a pool. Each thread has its own flags.

    Args:
        bus: Where they are emitted.
    """

    def __init__(self, bus: Bus) -> None:  # called in each thread
        self._bus = bus
        self._emitting = False
        self._shutting_down = False

    def emit(self, event: Event) -> None:
        """Emit an event, now or at the time that it has."""
        outer, self._emitting = self._emitting, True
        try:
            (self._bus.emit if event.time is None else self._bus.emit_raw)(event)
        finally:
            self._emitting = outer

    def shut_down(self, shutdown: Callable[[], None], wait: bool, broken: object) -> None:
        """Call the `shutdown` of the standard library's pool, unless a handler of the pool's events would deadlock."""
        if self._emitting:
            if wait:
                advice = "call shutdown(wait=False) there, and wait for the pool elsewhere"
                raise RuntimeError(f"can't wait for a pool in a handler of its events; {advice}")
            if self._shutting_down or broken:  # it ends already, and this thread holds the pool's lock
                return
        self._shutting_down = True
        try:
            shutdown()
        finally:
            self._shutting_down = False


def _name(fn: Callable[..., object]) -> str:
    while isinstance(fn, partial):
        # ProcessPoolExecutor.map submits partial(_process_chunk, fn).
        chunks = getattr(fn.func, "__module__", "") == "concurrent.futures.process"
        fn = fn.args[0] if chunks else fn.func
    try:
        name = fn.__name__
    except Exception:  # a proxy's `__getattr__` may raise anything
        name = type(fn).__name__
    return f"{name} {next(_numbers)}"


def _emit_and_submit(
    bus: _PoolBus, unit: str, submit: Callable[..., "Future[Any]"], ended: Callable[[BaseException | None], object]
) -> "Future[Any]":
    future: Future[Any] | None = None
    try:
        bus.emit(Event(EventType.UNIT_QUEUED, unit))  # before `submit`: the call may start before it returns
        future = submit()
        future.add_done_callback(lambda future: ended(_error(future)))
    except BaseException as error:  # also Ctrl-C, between any two of these
        if future is None:
            ended(error)
        else:
            future.add_done_callback(lambda future: ended(_error(future)))
        raise
    return future


def _error(future: "Future[Any]") -> BaseException | None:
    return CancelledError("cancelled before it started") if future.cancelled() else future.exception()


def _emit_end(bus: _PoolBus, unit: str, error: BaseException | None) -> None:
    if error is None:
        bus.emit(Event(EventType.UNIT_COMPLETED, unit))
    else:
        bus.emit(Event(EventType.UNIT_FAILED, unit, error=format_error(error)))


# In the worker


def _in_thread(bus: _PoolBus, unit: str, fn: Callable[..., _T], args: tuple[Any, ...], kwargs: dict[str, Any]) -> _T:
    bus.emit(Event(EventType.UNIT_STARTED, unit, payload={"worker": threading.current_thread().name}))
    return fn(*args, **kwargs)


_to_host: Connection | None = None  # in a worker process, from `_init_worker` on


def _init_worker(to_host: Connection, initializer: Callable[..., object] | None, initargs: tuple[Any, ...]) -> None:
    global _to_host
    _to_host = to_host
    if initializer is not None:
        initializer(*initargs)


def _in_process(number: int, fn: Callable[..., _T], args: tuple[Any, ...], kwargs: dict[str, Any]) -> _T:
    assert _to_host is not None
    try:
        _to_host.send((number, os.getpid(), time.time()))
    except OSError:
        pass  # the host has ended; the pool handles that
    return fn(*args, **kwargs)


class _StartPipe:
    """The pipe into which workers write what they start, and the thread that reads it.

    Args:
        bus: Where the starts are emitted, and the ends after them.
    """

    def __init__(self, bus: _PoolBus) -> None:
        self._bus = bus
        self._reader, self.writer = multiprocessing.Pipe(duplex=False)
        self._lock = threading.RLock()  # held from reading a start until it is emitted
        self._numbers = itertools.count()
        self._units: dict[int, str] = {}  # by number, the units that have not ended
        self._closed = False  # whether no more units will come
        self._thread: threading.Thread | None = None  # from the first call on

    def expect(self, unit: str) -> int:
        """Add a unit. Returns the number that a worker will write for it."""
        number = next(self._numbers)
        self._units[number] = unit
        return number

    def ended(self, number: int, error: BaseException | None) -> None:
        """Emit the end of a unit, after every start that is in the pipe."""
        with self._lock:
            if not self._reader.closed:  # else it has ended before, see `_emit_and_submit`
                self._emit_starts()
            if (unit := self._units.pop(number, None)) is not None:
                _emit_end(self._bus, unit, error)
        self._wake_if_over()

    def _emit_starts(self) -> None:
        while self._reader.poll():
            number, pid, started_at = self._reader.recv()
            if (unit := self._units.get(number)) is not None:  # a broken pool may start a call that has failed already
                when = datetime.fromtimestamp(started_at, UTC)
                self._bus.emit(Event(EventType.UNIT_STARTED, unit, payload={"worker": pid}, time=when))

    def watch(self) -> None:
        """Start the thread, which emits starts as they come."""
        with self._lock:
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="socketpusher starts", daemon=True)
                self._thread.start()

    def _run(self) -> None:
        while self._units or not self._closed:
            wait([self._reader])
            with self._lock:
                self._emit_starts()
        with self._lock:
            self._close_pipe()

    def _close_pipe(self) -> None:
        self._reader.close()
        self.writer.close()

    def close(self) -> None:
        """End the thread, and close the pipe, when every unit has ended."""
        self._closed = True
        if self._thread is None and not self._units:
            self._close_pipe()
        self._wake_if_over()

    def _wake_if_over(self) -> None:
        if self._closed and not self._units:
            with suppress(OSError, TypeError):  # the thread has ended, and closed it, perhaps at this moment
                self.writer.send((None, 0, 0))  # not a unit's number: this only ends the thread's wait

    def join(self) -> None:
        """Wait until the thread has ended."""
        if self._thread is not None:
            self._thread.join()
