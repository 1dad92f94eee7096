"""How a plugin's pusher closes; the plugins themselves are tested in sources/."""

from collections.abc import Sequence
from types import SimpleNamespace

import pytest

from socketpusher import Bus, plugin

ALL = 1000


class Pusher:
    """Stands for a pusher whose consumer takes events at a given pace, which a real one would not do twice."""

    def __init__(self, sent: Sequence[int], connected: bool = True) -> None:
        self.connected = connected
        self.calls: list[str] = []
        self._sent = list(sent)

    def stats(self) -> SimpleNamespace:
        return SimpleNamespace(sent=self._sent[0])

    def flush(self, timeout: float) -> bool:
        assert timeout == plugin.STALL_TIMEOUT
        self.calls.append("flush")
        if len(self._sent) > 1:
            del self._sent[0]
        return self._sent[0] == ALL

    def close(self, timeout: float) -> None:
        assert timeout == 0
        self.calls.append("close")


@pytest.mark.parametrize(
    ("sent", "flushes"),
    [([ALL], 1), ([0, 500, 900, ALL], 3), ([500, 500], 1), ([0, 500, 500, 900, ALL], 2)],
)
def test_the_end_waits_while_a_consumer_takes_events(sent: list[int], flushes: int) -> None:
    pusher = Pusher(sent)
    plugin.close(pusher)  # type: ignore[arg-type]
    assert pusher.calls == [*["flush"] * flushes, "close"]


def test_the_end_waits_for_a_consumer_that_is_being_restarted() -> None:
    pusher = Pusher([500, ALL], connected=False)
    plugin.close(pusher)  # type: ignore[arg-type]
    assert pusher.calls == ["flush", "close"]


def test_a_display_that_is_restarted_is_found_before_the_end_gives_up(socket_path: str) -> None:
    pusher = plugin.start(Bus(), socket_path)
    pusher.close(0)
    assert pusher.config.socket_path == socket_path
    assert pusher.config.max_reconnect_backoff < plugin.STALL_TIMEOUT / 2


def test_the_end_does_not_wait_without_a_consumer() -> None:
    pusher = Pusher([0], connected=False)
    plugin.close(pusher)  # type: ignore[arg-type]
    assert pusher.calls == ["close"]
