"""What mypy says of programs that use the package; it checks this file, nothing runs it."""

from concurrent.futures import Future
from typing import assert_type

import socketpusher
from socketpusher import (
    Bus,
    Event,
    EventType,
    Gap,
    Graph,
    Listener,
    Problem,
    PusherConfig,
    PusherStats,
    Sender,
    SocketPusher,
    listen,
    subscribe,
    wire,
)
from socketpusher.sources.futures import EventThreadPoolExecutor


class OtherBus:
    """Somebody else's bus."""

    def subscribe(self, handler: object) -> None: ...


bus = Bus()
unsubscribe = bus.subscribe(print)
unsubscribe()
bus.emit(Event(EventType.TASK_STARTED, unit="app", task=1, payload={"any": object()}))
bus.emit(Event("my.own.type"))
assert_type(wire.encode(Event("x")), bytes)
assert_type(wire.decode(b"{}"), Event)

pusher = SocketPusher(bus, PusherConfig(buffer_size=5))
pusher.set_graph({"app": ["setup"], "setup": ()}, parallelism=2)
pusher.set_graph(Graph({}), parallelism=2)
pusher.start(wait=False)
assert_type(pusher.connected, bool)
assert_type(pusher.flush(timeout=1), bool)
assert_type(pusher.stats(), PusherStats)
with SocketPusher(OtherBus()) as other:
    assert_type(other, SocketPusher)
other.close(timeout=1)

SocketPusher(object())  # type: ignore[arg-type]
Event()  # type: ignore[call-arg]
PusherConfig(buffer_size="5")  # type: ignore[arg-type]
assert_type(socketpusher.default_socket_path(), str)

graph: wire.GraphPayload = Graph({"a": []}).payload()
node: wire.NodePayload = graph["nodes"][0]
edge: wire.EdgePayload = {"from": "a", "to": "b"}
line: wire.WireEvent = {"type": "x", "time": "2026-11-23T17:08:00Z"}


def on_problem(problem: Problem) -> None:
    if isinstance(problem, Gap):
        assert_type(problem.first, int)
    assert_type(problem.sender, Sender)


with listen("s", on_problem=on_problem) as listener:
    assert_type(listener, Listener[Event])
    assert_type(next(listener), Event)
    assert_type(listener.senders, tuple[Sender, ...])
with listen("s", raw=True) as raw:
    assert_type(raw.read(hold=True), list[bytes])
listen("s", raw="yes")  # type: ignore[call-overload]


async def in_asyncio() -> None:
    async with SocketPusher(bus) as started:
        assert_type(started, SocketPusher)
    async for event in listen():
        assert_type(event, Event)


assert_type(EventThreadPoolExecutor(bus).submit(len, "x"), Future[int])
for event in subscribe("nats://localhost", host="h"):
    assert_type(event, Event)
for line_of_event in subscribe("nats://localhost", raw=True):
    assert_type(line_of_event, bytes)
