"""Pushers with a spool."""

import os
from pathlib import Path

from socketpusher import Bus, Event, PusherConfig, SocketPusher
from socketpusher.channel.spool_directory import databases
from support.waiting import wait_for


def pusher_with(path: str, spool: Path, bus: Bus, **given) -> SocketPusher:
    given = {"event_ids": True, "reconnect_backoff": 0.01, "max_reconnect_backoff": 0.1, **given}
    return SocketPusher(bus, PusherConfig(path, spool=spool, **given))


def leave(path: str, spool: Path, numbers: range, payload: object = None, **given) -> None:
    """What a pusher without a consumer leaves."""
    bus = Bus()
    pusher = pusher_with(path, spool, bus, **given)
    pusher.set_graph({f"unit {numbers.start}": []}, 1)
    pusher.start(wait=False)
    for number in numbers:
        bus.emit(Event("x", task=number, payload=payload))
    pusher.close()
    stats = pusher.stats()
    assert (stats.emitted, stats.pending, stats.spooled) == (len(numbers),) * 3
    assert (stats.sent, stats.dropped) == (0, 0)


def drain(path: str, spool: Path) -> None:
    """A pusher without events sends what others have left."""
    pusher = pusher_with(path, spool, Bus())
    pusher.start()
    wait_for(lambda: not databases(str(spool)))
    pusher.close()
    assert os.listdir(spool) == []
