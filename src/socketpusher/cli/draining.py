"""Sends what waits in a spool, and says how far it is."""

import errno
import os
import time

from ..channel.spool_directory import DAMAGED, databases
from ..config import PusherConfig
from ..events import Bus
from ..pusher import SocketPusher
from .flow_control import CONSUMER_STALL_TIMEOUT, SIGNAL_FLUSH_TIMEOUT, count, say

PROGRESS = 2.0
"""How often it is said how much is left, in seconds."""

TAKEN = 1.0
"""What nobody has taken for so long, in seconds, another program has."""


def drain(directory: str, path: str | None) -> int:
    """Send everything that nobody else has.

    Args:
        directory: The spool.
        path: Where the consumer listens; None for the default.

    Returns:
        The exit code.

    Raises:
        OSError: There is no such directory, it can't be used, or the consumer can't be connected to.
    """
    if not os.path.isdir(directory):
        raise FileNotFoundError(errno.ENOENT, "there is no such spool directory; it is made by a pusher", directory)
    if not databases(directory):
        say(f"nothing waits in {directory}")
        return 0
    given = {} if path is None else {"socket_path": path}
    config = PusherConfig(**given, spool=directory, write_timeout=CONSUMER_STALL_TIMEOUT)  # type: ignore[arg-type]
    damaged = _damaged(directory)
    pusher = SocketPusher(Bus(), config)
    pusher.start()
    before = pusher.stats().inherited
    try:
        sent = _wait(pusher, directory)
    finally:
        left = pusher.stats().inherited
        pusher.close(SIGNAL_FLUSH_TIMEOUT)
        if left:
            say(f"{count(left, 'event')} of {before:,} are left in {directory}, for the next time")
    said = f"sent {count(sent, 'event')} to {config.socket_path}"
    broken = _damaged(directory) - damaged
    say(said + (f", less those that are lost in {', '.join(sorted(broken))}" if broken else ""))
    if others := databases(directory):
        say(
            f"{count(len(others), 'spool')} in {directory} is in use, or can't be read: socketpusher doctor tells which"
        )
    return int(bool(others or broken))


def _damaged(directory: str) -> set[str]:
    return {name for name in os.listdir(directory) if name.endswith(DAMAGED)}


def _wait(pusher: SocketPusher, directory: str) -> int:
    """Return when nothing is left that this pusher can have: how many events that was."""
    sent, last = 0, pusher.stats().inherited
    said = changed = time.monotonic()
    connected = True
    while databases(directory):
        time.sleep(0.02)
        stats, now = pusher.stats(), time.monotonic()
        if stats.inherited != last:
            sent += max(0, last - stats.inherited)
            last, changed = stats.inherited, now
        if not last and now - changed > TAKEN:
            break
        if connected and not stats.connected:
            say(f"the consumer at {pusher.config.socket_path} is gone; waiting for another one, Ctrl-C gives up")
        connected = stats.connected
        if now - said > PROGRESS:
            said = now
            say(f"{count(last, 'event')} to go")
    return sent + last
