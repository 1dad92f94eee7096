"""What plugins of other programs share: a pusher that needs no consumer, and costs the program nothing without one."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .events import Bus
    from .pusher import SocketPusher

STALL_TIMEOUT = 0.5
"""How long the program's end waits for a consumer that takes nothing, or is being restarted, in seconds."""


def start(bus: "Bus", path: str = "") -> "SocketPusher":
    """Start a pusher that connects in the background.

    Args:
        bus: The bus whose events it sends.
        path: The Unix socket of the consumer; empty for the default one.

    Raises:
        OSError: The pusher can't be started.
        ValueError: The path is not valid.
    """
    from dataclasses import replace

    from .config import PusherConfig
    from .pusher import SocketPusher

    config = PusherConfig(max_reconnect_backoff=STALL_TIMEOUT / 3)
    pusher = SocketPusher(bus, replace(config, socket_path=path) if path else config)
    pusher.start(wait=False)
    return pusher


def close(pusher: "SocketPusher") -> None:
    """Send what is left while a consumer takes it. If there was none, it does not wait."""
    sent = -1 if pusher.connected else 0
    while sent < (sent := pusher.stats().sent):
        if pusher.flush(STALL_TIMEOUT):
            break
    pusher.close(0.0)
