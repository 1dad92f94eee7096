"""The floor: makes and encodes each event, and sends nothing. No library can be cheaper."""

from datetime import UTC, datetime
from typing import Any

from socketpusher import Event
from socketpusher.wire import encode

NAME = "floor (encode only)"
DISTRIBUTION = "orjson"
DELIVERS = False


class Peer:
    """Discards every line."""

    def __init__(self, path: str, buffer_size: int | None) -> None:
        pass

    def emit(self, kind: str, unit: str, task: int, payload: dict[str, Any]) -> None:
        """Make the event and accept it."""
        encode(Event(kind, unit, task, None, payload, "", datetime.now(UTC)))

    def close(self) -> None:
        """Do nothing, because no event waits."""
