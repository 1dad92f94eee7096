"""What mypy says of programs that use the package; it checks this file, nothing runs it."""

from typing import assert_type

import socketpusher
from socketpusher import Bus, Event, EventType, Graph, PusherConfig, PusherStats, SocketPusher, wire


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
