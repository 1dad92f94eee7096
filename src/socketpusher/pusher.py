"""`SocketPusher`, the class that users call."""

import errno
import math
import sys
import weakref
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from multiprocessing.util import Finalize
from typing import Any, Protocol

from .channel.clock import Deadline
from .channel.spool_directory import check_directory
from .config import PusherConfig
from .events import Event
from .graph import MAX_COUNT, Graph
from .host.supervisor import Supervisor
from .unix_socket import check_path, with_advice

EXIT_TIMEOUT = 5.0
"""How long a pusher that was never closed may take to send pending events when the interpreter exits or the pusher is
garbage-collected, in seconds."""

BEGIN_TIMEOUT = 5.0
"""How long the writer process may take to become ready when `start` does not wait for a consumer, in seconds."""


class State(Enum):
    """The state of a pusher. It only moves down this list, except that a failed start makes it new again."""

    NEW = "not started"
    STARTING = "starting"
    OPEN = "open"
    CLOSING = "closing"
    CLOSED = "closed"


class Subscribable(Protocol):
    """An event bus: `socketpusher.Bus`, or anything else with `subscribe`."""

    def subscribe(self, handler: Callable[[Event], Any], /) -> Any:
        """Call `handler` with each event. If this returns a callable, the pusher calls it to unsubscribe."""


@dataclass(frozen=True, slots=True)
class PusherStats:
    """The counters of a pusher: `emitted == sent + dropped + pending`.

    Args:
        emitted: Events that were emitted on the bus.
        sent: Events that were written to the socket, less those that were found unread and wait again.
        dropped: Events that were given up: too many were waiting, or `close` ran out of time.
        pending: Events that wait, including those in the spool.
        resent: How many times an event was sent again because a consumer disconnected before reading it.
        placeholders: Placeholders that were sent for something that could not be encoded or was too long.
        reconnects: Connections after the first one.
        writer_restarts: Writer processes after the first one.
        connected: Whether a consumer is connected.
        writer_pid: The process id of the writer; None while none runs.
        spooled: Pending events that are in the spool on disk. After `close` they wait there for the next pusher.
        inherited: Events of earlier pushers in the spool, which this pusher sends before its own.
    """

    emitted: int = 0
    sent: int = 0
    dropped: int = 0
    pending: int = 0
    resent: int = 0
    placeholders: int = 0
    reconnects: int = 0
    writer_restarts: int = 0
    connected: bool = False
    writer_pid: int | None = None
    spooled: int = 0
    inherited: int = 0


class SocketPusher:
    """Sends the events of a bus to a Unix socket, from a separate process.

    Args:
        bus: Anything with `subscribe(handler)`. `start` subscribes to it.
        config: The settings; by default `PusherConfig()`.

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
        self._verbatim = False  # whether an `orch.started` without a graph is sent as it is; set by commands
        # The states that were reached; the last one is current. Each is set once, by one call of C. So no lock is
        # needed, and threads, signal handlers and finalizers may use the pusher at the same time.
        self._reached: dict[State, Supervisor | None] = {}

    @property
    def config(self) -> PusherConfig:
        """The settings of this pusher, with every default filled in."""
        return self._config

    def set_graph(self, graph: Any, parallelism: int) -> None:
        """Set the graph of the run. Call it before `start`.

        Every connection then begins with the event `graph`, and an `orch.started` without a graph gets this one.

        Args:
            graph: A `Graph`, a mapping `{unit: dependencies}`, or a `networkx.DiGraph` whose edges run from a
                dependency to its dependents.
            parallelism: How many units may run at a time.

        Raises:
            RuntimeError: The pusher was started.
            TypeError: `graph` has another type, or `parallelism` is not an int.
            ValueError: `parallelism` is negative or over 2**63 - 1, or the graph has a cycle or an undeclared
                dependency.
        """
        if self._reached:
            raise RuntimeError("set_graph was called after start; call it before, for each connection begins with it")
        if isinstance(parallelism, bool) or not isinstance(parallelism, int):
            raise TypeError(f"parallelism must be an int, the number of units that may run at a time: {parallelism!r}")
        if not 0 <= parallelism <= MAX_COUNT:
            raise ValueError(f"parallelism must be between 0 and {MAX_COUNT}")
        self._graph = Graph.from_any(graph)
        self._parallelism = int(parallelism)

    def start(self, timeout: float = 5.0, *, wait: bool = True) -> None:
        """Start the writer process, connect, and subscribe to the bus.

        Args:
            timeout: How long to wait for the connection, in seconds.
            wait: Whether to return only when connected. With False the consumer is optional: the writer connects as
                soon as it can, and up to `buffer_size` events wait until then.

        Raises:
            OSError: The connection failed (`FileNotFoundError`, `ConnectionRefusedError`, `PermissionError`,
                `TimeoutError`, ...), the path is too long for a Unix socket, or the spool directory can't be used. No
                process, thread or subscription is left then, and `start` may be called again.
            RuntimeError: The pusher was started before, is closed, or was closed while it was starting; or the program
                is frozen and did not call `freeze_support`.
        """
        seconds = _checked_timeout(timeout)
        deadline = Deadline(seconds if wait else max(seconds, BEGIN_TIMEOUT))
        path = str(self._config.socket_path)
        check_path(path)
        if self._config.spool is not None:
            check_directory(str(self._config.spool))
        if self._reached:
            raise self._out_of_order("start")
        graph = self._graph.payload() if self._graph is not None else None
        supervisor = Supervisor(self._config, graph, self._parallelism, self._verbatim)
        try:
            if self._reached.setdefault(State.STARTING, supervisor) is not supervisor:
                raise self._out_of_order("start")
            supervisor.start()
            _wait_for_writer(supervisor, deadline)
            if wait:
                _wait_for_consumer(supervisor, path, deadline, seconds)
            supervisor.subscriptions.extend(map(self._bus.subscribe, (supervisor.outbox.push,)))
            # Neither may refer to this object, or it would never be garbage-collected. `Finalize`, because only
            # multiprocessing's own finalizers are called in a multiprocessing worker.
            supervisor.exit_handler = Finalize(None, _close_at_exit, (supervisor,), exitpriority=100)
            weakref.finalize(self, _close_when_collected, supervisor).atexit = False
            supervisor.open = True
            self._reached.setdefault(State.OPEN)
            if State.CLOSING in self._reached or supervisor.closing:
                raise self._out_of_order("start")
        except BaseException:
            if self._reached.get(State.STARTING) is supervisor:
                supervisor.close(Deadline(0))
                self._reached.pop(State.OPEN, None)
                self._reached.pop(State.STARTING, None)
            raise

    @property
    def connected(self) -> bool:
        """Whether a consumer is connected. It is right within 100 ms, even if no events are emitted."""
        return (supervisor := self._supervisor) is not None and supervisor.connected

    def flush(self, timeout: float = 5.0) -> bool:
        """Wait until every event emitted before this call has been sent or dropped.

        Args:
            timeout: The longest time to wait, in seconds.

        Returns:
            True if each of these events was written to the socket or counted as dropped; False at the timeout.

        Raises:
            RuntimeError: The pusher was not started, or is closed.
        """
        deadline = Deadline(_checked_timeout(timeout))
        supervisor = self._supervisor
        if supervisor is None or self._state is not State.OPEN:
            raise self._out_of_order("flush")
        return supervisor.flush(deadline)

    def stats(self) -> PusherStats:
        """The counters now. They add up whenever no event is being emitted.

        In a forked child they count the child's own events, and `sent` counts those handed to the host process.
        """
        supervisor = self._supervisor
        if supervisor is None or not supervisor.opened:
            return PusherStats()
        ledger, outbox = supervisor.ledger, supervisor.outbox
        if (forked := supervisor.forked) is not None:
            dropped = outbox.dropped() + forked.lost
            pending = forked.waiting()
            return PusherStats(forked.handed_over + dropped + pending, forked.handed_over, dropped, pending)
        dropped = outbox.dropped() + ledger.dropped  # first: what is no longer sent may be dropped at this moment
        sent = ledger.sent
        emitted = outbox.emitted()
        spooled = ledger.spooled
        if supervisor.ended:
            dropped = emitted - sent - spooled  # includes what could not be sent in time
        return PusherStats(
            emitted=emitted,
            sent=sent,
            dropped=dropped,
            pending=emitted - sent - dropped,
            resent=ledger.resent,
            placeholders=outbox.placeholders(),
            reconnects=max(0, ledger.connections - 1),
            writer_restarts=supervisor.writer_restarts,
            connected=self.connected,
            writer_pid=supervisor.writer_pid,
            spooled=spooled,
            inherited=ledger.inherited,
        )

    def close(self, timeout: float = 5.0) -> None:
        """Unsubscribe, send the pending events and end the writer process. Calling it again does nothing.

        It may be called from any thread, from a signal handler, and while `start` waits: `start` then raises
        `RuntimeError`. Every caller returns when the pusher is closed.

        Args:
            timeout: How long sending may take, in seconds. Events that are left then go to the spool if there is one;
                otherwise they are dropped, and the log says how many.
        """
        deadline = Deadline(_checked_timeout(timeout))
        self._reached.setdefault(State.CLOSING)
        supervisor = self._supervisor
        if supervisor is not None:
            supervisor.close(deadline)

    def __enter__(self) -> "SocketPusher":
        if not self._reached:
            self.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    async def __aenter__(self) -> "SocketPusher":
        import asyncio  # here, because it takes time and memory, and most programs do not need it

        try:
            await asyncio.to_thread(self.__enter__)
        except asyncio.CancelledError:  # the thread goes on starting the pusher, and nobody would close it
            self._reached.setdefault(State.CLOSING)
            if (supervisor := self._supervisor) is not None:
                supervisor.request_close(Deadline(0))
                supervisor.unsubscribe()  # the start may have succeeded just before
            raise
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        import asyncio

        await asyncio.to_thread(self.close)

    def __repr__(self) -> str:
        return f"<SocketPusher to {self._config.socket_path}, {self._state.value}>"

    @property
    def _supervisor(self) -> Supervisor | None:
        return self._reached.get(State.STARTING)

    @property
    def _state(self) -> State:
        supervisor = self._supervisor
        if State.CLOSING in self._reached or (supervisor is not None and supervisor.closing):
            return State.CLOSED if supervisor is None or supervisor.ended else State.CLOSING
        if supervisor is None:
            return State.NEW
        return State.OPEN if State.OPEN in self._reached else State.STARTING

    def _out_of_order(self, what: str) -> RuntimeError:
        state = self._state
        if state in (State.CLOSING, State.CLOSED):
            return RuntimeError(f"{what} was called on a pusher that is closed; make a new one")
        if state is State.NEW:
            return RuntimeError(f"{what} was called on a pusher that was not started")
        return RuntimeError(f"{what} was called on a pusher that was started already")


def _wait_for_writer(supervisor: Supervisor, deadline: Deadline) -> None:
    """Return when a writer process is ready. Raise the reason if there is none."""
    supervisor.wait_until(
        lambda: supervisor.ready or supervisor.ended or supervisor.closing or supervisor.writer_error is not None,
        deadline,
    )
    if supervisor.writer_error is not None:
        raise supervisor.writer_error
    if supervisor.closing or supervisor.ended:
        raise RuntimeError("the pusher was closed while it was starting")
    if not supervisor.ready:
        raise TimeoutError(
            errno.ETIMEDOUT, f"the writer process did not start in time; it runs sys.executable, {sys.executable!r}"
        )


def _wait_for_consumer(supervisor: Supervisor, path: str, deadline: Deadline, timeout: float) -> None:
    """Return when connected, or raise the error of the first attempt."""

    def decided() -> bool:
        return supervisor.ledger.connections > 0 or supervisor.ended or supervisor.closing or failed()

    def failed() -> bool:
        return supervisor.writer_error is not None or _final(supervisor.connect_error) is not None

    supervisor.wait_until(decided, deadline)
    if supervisor.ledger.connections > 0:
        return
    if supervisor.closing or supervisor.ended:
        raise RuntimeError("the pusher was closed while it was starting")
    if supervisor.writer_error is not None:
        raise supervisor.writer_error
    if (failure := _final(supervisor.connect_error)) is not None:
        raise with_advice(failure, path)
    last = supervisor.connect_error
    why = f"after {timeout:g} s" if last is None else f"in {timeout:g} s: {last.strerror}"
    raise with_advice(TimeoutError(errno.ETIMEDOUT, f"not connected {why}"), path)


def _final(failure: OSError | None) -> OSError | None:
    """The failure; None if another attempt may succeed, because only the listener's queue is full."""
    return None if isinstance(failure, BlockingIOError) else failure


def _close_at_exit(supervisor: Supervisor) -> None:
    supervisor.close(Deadline(EXIT_TIMEOUT))


def _close_when_collected(supervisor: Supervisor) -> None:
    """Begin to close. The garbage collector calls this in any thread, so it must not wait; the exit handler waits."""
    supervisor.unsubscribe()
    if not supervisor.closing:
        supervisor.request_close(Deadline(EXIT_TIMEOUT))


def _checked_timeout(timeout: float) -> float:
    """Seconds, not below 0."""
    if isinstance(timeout, bool) or not isinstance(timeout, int | float):
        raise TypeError(f"timeout must be a number of seconds, not {timeout!r}")
    try:
        seconds = float(timeout)
    except OverflowError:  # an int beyond every float
        seconds = math.copysign(sys.float_info.max, timeout)
    if not math.isfinite(seconds):
        raise ValueError(f"timeout must be finite, not {timeout!r}")
    return max(0.0, seconds)
