"""socketpusher in its normal use: `bus.emit(Event(...))`, with the default configuration.

Without a limit the `buffer_size` is a billion. It starts without waiting if nobody listens.
"""

import os
from typing import Any

from socketpusher import Bus, Event, PusherConfig, SocketPusher

NAME = "socketpusher"
DISTRIBUTION = "socketpusher"
DELIVERS = True


class Peer:
    """A bus with one pusher; `spool` is the directory of its spool, or None."""

    def __init__(self, path: str, buffer_size: int | None, spool: str | None = None) -> None:
        bus = Bus()
        self._emit = bus.emit
        given = {} if spool is None else {"spool": spool}  # an old version has no such option
        self.pusher = SocketPusher(bus, PusherConfig(socket_path=path, buffer_size=buffer_size or 10**9, **given))
        self.pusher.start(wait=os.path.exists(path))

    def emit(self, kind: str, unit: str, task: int, payload: dict[str, Any]) -> None:
        """Make the event and accept it."""
        self._emit(Event(kind, unit, task, None, payload))

    def close(self) -> None:
        """Deliver the waiting events, and end."""
        self.pusher.close(60.0)
