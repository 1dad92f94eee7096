"""The floor: builds and encodes each event, and sends nothing. What no library can be cheaper than."""

from datetime import UTC, datetime
from typing import Any

from socketpusher import Event
from socketpusher.wire import encode

NAME = "floor (encode only)"
DISTRIBUTION = "orjson"
DELIVERS = False


class Peer:
    """Throws every line away."""

    def __init__(self, path: str, buffer_size: int | None) -> None:
        pass

    def emit(self, kind: str, unit: str, task: int, payload: dict[str, Any]) -> None:
        """Build the event and take it."""
        encode(Event(kind, unit, task, None, payload, "", datetime.now(UTC)))

    def close(self) -> None:
        """Nothing waits."""
