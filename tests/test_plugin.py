"""How a plugin's pusher closes; the plugins themselves are tested in sources/."""

from collections.abc import Sequence
from types import SimpleNamespace

import pytest

from socketpusher import plugin


class Pusher:
    """Stands for a pusher whose consumer takes events at a given pace, which a real one would not do twice."""

    def __init__(self, pending: Sequence[int], connected: bool = True) -> None:
        self.connected = connected
        self.calls: list[str] = []
        self._pending = list(pending)

    def stats(self) -> SimpleNamespace:
        return SimpleNamespace(pending=self._pending[0])

    def flush(self, timeout: float) -> bool:
        assert timeout == plugin.STALL_TIMEOUT
        self.calls.append("flush")
        if len(self._pending) > 1:
            del self._pending[0]
        return self._pending[0] == 0

    def close(self, timeout: float) -> None:
        assert timeout == 0
        self.calls.append("close")


@pytest.mark.parametrize(
    ("pending", "flushes"),
    [([0], 1), ([900, 500, 100, 0], 3), ([900, 900], 1), ([900, 500, 500, 100, 0], 2)],
)
def test_the_end_waits_while_a_consumer_takes_events(pending: list[int], flushes: int) -> None:
    pusher = Pusher(pending)
    plugin.close(pusher)  # type: ignore[arg-type]
    assert pusher.calls == [*["flush"] * flushes, "close"]


def test_the_end_does_not_wait_without_a_consumer() -> None:
    pusher = Pusher([900], connected=False)
    plugin.close(pusher)  # type: ignore[arg-type]
    assert pusher.calls == ["close"]
