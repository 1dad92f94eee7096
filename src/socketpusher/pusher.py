"""The host's side: what users hold in their hands."""

import errno
import math
import multiprocessing
import threading
import time
import types
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.util import Finalize
from typing import Any, Protocol

from .config import PusherConfig
from .events import Event
from .graph import Graph
from .host.supervisor import Supervisor
from .unix_socket import check_path, explained

EXIT_DEADLINE = 5.0
"""How long a pusher that was never closed may take to send what waits, at the end of the interpreter or when it is
collected, in seconds."""


class Subscribable(Protocol):
    """An event bus: `socketpusher.Bus`, or anything else that events can be subscribed to."""

    def subscribe(self, handler: Callable[[Event], Any], /) -> Any:
        """Call `handler` with each event. A callable that is returned is called to unsubscribe."""


@dataclass(frozen=True, slots=True)
class PusherStats:
    """The books of a pusher: `emitted == sent + dropped + pending`.

    Args:
        emitted: Events that the pusher was given.
        sent: Events that are on the socket, or were read from it.
        dropped: Events that were given up: too many waited, or `close` ran out of time.
        pending: Events that wait.
        resent: How many times an event was sent again, since a consumer was gone before it had read it.
        noted: Notes sent in place of something that could not be encoded, or was too long.
        reconnects: Connections after the first one.
        writer_restarts: Writer processes after the first one.
        connected: Whether a consumer is connected.
        writer_pid: The writer's process id, or None while none runs.
    """

    emitted: int = 0
    sent: int = 0
    dropped: int = 0
    pending: int = 0
    resent: int = 0
    noted: int = 0
    reconnects: int = 0
    writer_restarts: int = 0
    connected: bool = False
    writer_pid: int | None = None


class SocketPusher:
    """Sends the events of a bus to a Unix socket, from a process of its own.

    Args:
        bus: Anything with `subscribe(handler)`. It is subscribed to by `start`.
        config: How to send; by default `PusherConfig()`.

    Raises:
        TypeError: `bus` has no `subscribe`, or `config` is not a `PusherConfig`.

    Example:
        >>> with SocketPusher(bus) as pusher:  # doctest: +SKIP
        ...     bus.emit(Event("unit.started", unit="app"))

    In asyncio, `async with` starts and closes it without blocking the loop.
    """

    def __init__(self, bus: Subscribable, config: PusherConfig | None = None) -> None:
        if not callable(getattr(bus, "subscribe", None)):
            raise TypeError(f"SocketPusher needs a bus with subscribe(handler), not {bus!r}")
        if config is not None and not isinstance(config, PusherConfig):
            raise TypeError(f"SocketPusher needs a PusherConfig, not {config!r}")
        self._bus = bus
        self._config = config or PusherConfig()
        self._graph: Graph | None = None
        self._parallelism = 0
        self._supervisor: Supervisor | None = None  # from `start` on
        self._unsubscribe: Callable[[], object] = _nothing
        self._closed = False
        self._exit: Finalize | None = None  # closes at the end of the interpreter; from `start` on
        self._collected: Finalize | None = None  # closes when this object is collected; from `start` on

    @property
    def config(self) -> PusherConfig:
        """How this pusher sends, every default filled in."""
        return self._config

    def set_graph(self, graph: Any, parallelism: int) -> None:
        """Tell consumers what the run consists of; to be called before `start`.

        Every connection then begins with the event `graph`, and an `orch.started` without a graph is filled in.

        Args:
            graph: A `Graph`, a mapping `{unit: dependencies}`, or a `networkx.DiGraph` whose edges run from a
                dependency to its dependents.
            parallelism: How many units may run at a time.

        Raises:
            RuntimeError: The pusher was started.
            TypeError: `graph` is none of these, or `parallelism` is not an int.
            ValueError: `parallelism` is negative, or the graph has a cycle or an undeclared dependency.
        """
        if self._supervisor is not None or self._closed:
            raise RuntimeError("set_graph was called after start; a consumer is told the graph when it connects")
        if isinstance(parallelism, bool) or not isinstance(parallelism, int):
            raise TypeError(f"parallelism is the number of units that may run at a time, not {parallelism!r}")
        if parallelism < 0:
            raise ValueError(f"parallelism can't be negative: {parallelism}")
        self._graph = Graph.of(graph)
        self._parallelism = parallelism

    def start(self, timeout: float = 5.0, *, wait: bool = True) -> None:
        """Start the writer process, connect, and subscribe to the bus.

        Args:
            timeout: How long connecting may take, in seconds.
            wait: Whether to return only when connected. With False the consumer is optional: the writer connects as
                soon as it can, and up to `buffer_size` events wait for it.

        Raises:
            OSError: What connecting raised (`FileNotFoundError`, `ConnectionRefusedError`, `PermissionError`,
                `TimeoutError`, ...), or the path is too long for a Unix socket. Nothing is left behind then, and
                `start` may be called again.
            RuntimeError: The pusher was started before or is closed, or this process may not have children.
        """
        if self._closed:
            raise RuntimeError("start was called on a pusher that is closed; make a new one")
        if self._supervisor is not None:
            raise RuntimeError("start was called on a pusher that was started already")
        if multiprocessing.current_process().daemon:
            raise RuntimeError(
                f"a pusher can't start in {multiprocessing.current_process().name!r}, a daemonic multiprocessing "
                f"worker, for such a process may not have children: start it in the parent, or give daemon=False"
            )
        deadline = time.monotonic() + _checked_timeout(timeout)
        path = str(self._config.socket_path)
        check_path(path)
        graph = self._graph.payload() if self._graph is not None else None
        supervisor = Supervisor(self._config, graph, self._parallelism)
        try:
            supervisor.start()
            if wait:
                _wait_for_consumer(supervisor, path, deadline, timeout)
            unsubscribe = self._bus.subscribe(supervisor.outbox.push)
        except BaseException:
            supervisor.abandon()
            raise
        if callable(unsubscribe):
            self._unsubscribe = unsubscribe
        self._supervisor = supervisor
        # Neither may refer to this object, or it would never be collected. Multiprocessing's own finalizers, which
        # end the queue and the writer, have lower priorities, so they come later.
        self._exit = Finalize(None, _close_at_exit, (supervisor, self._unsubscribe), exitpriority=100)
        self._collected = Finalize(self, _close_when_collected, (supervisor, self._unsubscribe))

    @property
    def connected(self) -> bool:
        """Whether a consumer is connected; the truth within 100 ms, also when no event flows."""
        return self._supervisor is not None and self._supervisor.ledger.connected == 1

    def flush(self, timeout: float = 5.0) -> bool:
        """Wait until nothing that was emitted before the call waits any more.

        Args:
            timeout: How long to wait at most, in seconds.

        Returns:
            Whether that is so: every event emitted before is on the socket, or was counted as dropped.

        Raises:
            RuntimeError: The pusher was not started, or is closed.
        """
        supervisor = self._started("flush")
        deadline = time.monotonic() + _checked_timeout(timeout)
        return supervisor.flush(deadline)

    def stats(self) -> PusherStats:
        """The books as they stand. They add up whenever nothing is being emitted.

        In a child that the host has forked they are the child's own, and "sent" is what it has handed to the host.
        """
        supervisor = self._supervisor
        if supervisor is None:
            return PusherStats()
        ledger, outbox = supervisor.ledger, supervisor.outbox
        if (forked := supervisor.forked) is not None:
            dropped = outbox.dropped() + forked.lost
            pending = outbox.accepted()
            return PusherStats(forked.handed_over + dropped + pending, forked.handed_over, dropped, pending)
        sent = ledger.sent
        dropped = outbox.dropped() + ledger.dropped
        emitted = outbox.accepted() + outbox.dropped()
        if supervisor.ended:
            dropped = emitted - sent  # with what could not be sent in time
        return PusherStats(
            emitted=emitted,
            sent=sent,
            dropped=dropped,
            pending=emitted - sent - dropped,
            resent=ledger.resent,
            noted=outbox.noted(),
            reconnects=max(0, ledger.connections - 1),
            writer_restarts=supervisor.writer_restarts,
            connected=self.connected,
            writer_pid=supervisor.writer_pid,
        )

    def close(self, timeout: float = 5.0) -> None:
        """Send what waits, end the writer process and unsubscribe. Calling it again does nothing.

        Args:
            timeout: After so many seconds what still waits is dropped, and the log says how much.
        """
        seconds = _checked_timeout(timeout)
        if self._closed:
            return
        self._closed = True
        if self._supervisor is not None and self._exit is not None and self._collected is not None:
            self._collected.cancel()
            _close(self._supervisor, self._unsubscribe, time.monotonic() + seconds)
            # Not before: if a Ctrl-C ends the wait, the end of the interpreter goes on with it.
            self._exit.cancel()

    def __enter__(self) -> "SocketPusher":
        if self._supervisor is None:
            self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: types.TracebackType | None,
    ) -> None:
        self.close()

    async def __aenter__(self) -> "SocketPusher":
        import asyncio  # not above: most hosts have no use for it, and it takes time and memory

        start = _AbandonableStart(self)
        try:
            await asyncio.to_thread(start.run)
        except asyncio.CancelledError:
            start.abandon()
            raise
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: types.TracebackType | None,
    ) -> None:
        import asyncio

        await asyncio.to_thread(self.close)

    def __repr__(self) -> str:
        state = "closed" if self._closed else "not started" if self._supervisor is None else "open"
        return f"<SocketPusher to {self._config.socket_path}, {state}>"

    def _started(self, what: str) -> Supervisor:
        if self._closed:
            raise RuntimeError(f"{what} was called on a pusher that is closed")
        if self._supervisor is None:
            raise RuntimeError(f"{what} was called on a pusher that was not started")
        return self._supervisor


class _AbandonableStart:
    """A start in a thread, whose task may be cancelled meanwhile; then nobody would close what was started."""

    def __init__(self, pusher: SocketPusher) -> None:
        self._pusher = pusher
        self._lock = threading.Lock()
        self._started = False
        self._abandoned = False

    def run(self) -> None:
        self._pusher.__enter__()
        with self._lock:
            self._started = True
            if self._abandoned:
                self._pusher.close(0)

    def abandon(self) -> None:
        with self._lock:
            self._abandoned = True
            if self._started:
                self._pusher.close(0)


def _nothing() -> None:
    """Unsubscribe from a bus that does not say how."""


def _wait_for_consumer(supervisor: Supervisor, path: str, deadline: float, timeout: float) -> None:
    """Return when connected, or raise what the first attempt failed with."""

    def decided() -> bool:
        return supervisor.ledger.connections > 0 or supervisor.ended or _final(supervisor.failure) is not None

    supervisor.wait_until(decided, deadline)
    if supervisor.ledger.connections > 0:
        return
    if (failure := _final(supervisor.failure)) is not None:
        raise explained(failure, path)
    why = f"after {timeout:g} s" if supervisor.failure is None else f"in {timeout:g} s: {supervisor.failure.strerror}"
    raise explained(TimeoutError(errno.ETIMEDOUT, f"not connected {why}"), path)


def _final(failure: OSError | None) -> OSError | None:
    """The failure, unless it is that the listener's queue is full, which may pass."""
    return None if isinstance(failure, BlockingIOError) else failure


def _close(supervisor: Supervisor, unsubscribe: Callable[[], object], deadline: float) -> None:
    unsubscribe()
    supervisor.close(deadline)


def _close_at_exit(supervisor: Supervisor, unsubscribe: Callable[[], object]) -> None:
    _close(supervisor, unsubscribe, time.monotonic() + EXIT_DEADLINE)


def _close_when_collected(supervisor: Supervisor, unsubscribe: Callable[[], object]) -> None:
    """The garbage collector calls this in any thread, so nothing may be waited for; at exit somebody waits."""
    unsubscribe()
    supervisor.begin_close(time.monotonic() + EXIT_DEADLINE)


def _checked_timeout(timeout: float) -> float:
    """Seconds, not below 0."""
    if isinstance(timeout, bool) or not isinstance(timeout, int | float):
        raise TypeError(f"timeout must be a number of seconds, not {timeout!r}")
    if not math.isfinite(timeout):
        raise ValueError(f"timeout must be finite, not {timeout!r}")
    return max(0.0, timeout)
