"""A pusher whose events go to a stream, and what is there of them."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from socketpusher import Bus, Event, PusherConfig, SocketPusher, wire
from socketpusher.jetstream.stream import LAST_EVENT
from socketpusher.wire import EventId
from support.nats import Server


class Load:
    """A pusher with ids, and how many events it has emitted."""

    def __init__(self, path: str, event_ids: bool = True) -> None:
        self._bus = Bus()
        backoff = {"reconnect_backoff": 0.01, "max_reconnect_backoff": 0.2}
        config = PusherConfig(path, event_ids=event_ids, buffer_size=1_000_000, **backoff)
        self.pusher = SocketPusher(self._bus, config)
        self.pusher.set_graph({"app": []}, parallelism=1)
        self.pusher.start(wait=False)
        self.emitted = 0

    def emit(self, count: int) -> None:
        for _ in range(count):
            self.emitted += 1
            self._bus.emit(Event("task.completed", "app", self.emitted, payload="x" * 100))


@contextmanager
def load(path: str) -> Iterator[Load]:
    load = Load(path)
    try:
        yield load
    finally:
        load.pusher.close(0)


def tasks(messages: list[Any]) -> list[int | None]:
    return [event.task for event in (wire.decode(message.data) for message in messages) if event.type != "graph"]


def graphs_are_where_they_belong(messages: list[Any]) -> None:
    """Each is right after the last event before it, and before the next one, unless its connection had no next one."""
    lines = [wire.parse(message.data) for message in messages]
    assert lines[0]["type"] == "graph"
    number = 0
    for line, message in zip(lines, messages, strict=True):
        if line["type"] == "graph":
            assert message.headers[LAST_EVENT] == str(number)
        else:
            number = EventId.parse(line["id"]).n
    assert len({message.subject.split(".")[2] for message in messages}) == 1


def last(server: Server) -> int | None:
    async def read(js: Any) -> int | None:
        message = await js.get_last_msg("EVENTS", "events.>")
        return wire.decode(message.data).task

    try:
        return server.call(read, connect_timeout=10)
    except Exception:  # no leader yet, or no event
        return None
