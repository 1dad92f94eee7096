"""`socketpusher drain`: what pushers have left in a spool, to a socket."""

import argparse
import errno
import os
import time
from typing import TYPE_CHECKING

from ..terminal.text import plural
from .arguments import add_consumer
from .output import status

if TYPE_CHECKING:
    from ..pusher import SocketPusher

SUMMARY = "send what is waiting in a spool"
DESCRIPTION = """\
Sends the events that pushers have left in a spool, the directory of PusherConfig(spool=DIRECTORY), to the consumer that
listens on a Unix socket: the oldest run first, each with its graph and state, the events in order and with their ids.
Events that the consumer has read are deleted from the disk.

The command ends when nothing is left but what another program is using. Ctrl-C ends it earlier and loses nothing. If
the consumer disconnects, the command waits for another one. The exit code is 0 if everything was sent, else 1.
"""

EXAMPLES = """\
examples:
  socketpusher drain /var/spool/myapp
  socketpusher drain /var/spool/myapp /tmp/run.sock
  socketpusher doctor --spool /var/spool/myapp     what is waiting there
"""

PROGRESS_INTERVAL = 2.0
"""How often to report how many events are left, in seconds."""

CLAIM_TIMEOUT = 1.0
"""A database that is not taken within this time is in use by another program, in seconds."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    parser.add_argument("directory", metavar="DIRECTORY", help="the spool directory of a PusherConfig")
    add_consumer(parser, "")


def run(arguments: argparse.Namespace) -> int:
    """Send everything that no other program is using. Returns the exit code."""
    from ..channel.spool_directory import databases
    from ..unix_socket import is_socket
    from .flow_control import SIGNAL_FLUSH_TIMEOUT, start_pusher, supervisor_of

    directory = arguments.directory
    if not os.path.isdir(directory):
        reason = "can't read the spool: the directory does not exist; the first pusher that uses it creates it"
        if is_socket(directory):
            command = f"socketpusher drain {arguments.path or 'DIRECTORY'} {directory}"
            reason = f"can't read the spool: it is a socket; the directory comes first: {command}"
        raise FileNotFoundError(errno.ENOENT, reason, directory)
    if not databases(directory):
        status(f"nothing is waiting in {directory}")
        return 0
    damaged_before = _damaged(directory)
    pusher = start_pusher(arguments, spool=directory)
    try:
        _wait(pusher, directory)
    finally:
        left = pusher.stats().inherited
        pusher.close(SIGNAL_FLUSH_TIMEOUT)
        sent = supervisor_of(pusher).ledger.inherited_read
        if left:
            status(f"left in {directory} for the next time: {plural(left, 'event')} of {left + sent:,}")
    damaged = _damaged(directory) - damaged_before
    lost = f", without those lost in {', '.join(sorted(damaged))}" if damaged else ""
    status(f"sent {plural(sent, 'event')} to {pusher.config.socket_path}{lost}")
    if others := databases(directory):
        status(
            f"databases in {directory} that are in use or can't be read: {len(others)}; "
            f"to see which: socketpusher doctor --spool {directory}"
        )
    return int(bool(others or damaged))


def _damaged(directory: str) -> set[str]:
    from ..channel.spool_directory import DAMAGED

    return {name for name in os.listdir(directory) if name.endswith(DAMAGED)}


def _wait(pusher: "SocketPusher", directory: str) -> None:
    """Wait until nothing is left that this pusher can have."""
    from ..channel.spool_directory import databases
    from .flow_control import LOST, check_refusal

    last = pusher.stats().inherited
    reported = changed = time.monotonic()
    connected = True
    while databases(directory):
        time.sleep(0.02)
        stats, now = pusher.stats(), time.monotonic()
        if stats.inherited != last:
            last, changed = stats.inherited, now
        if not last and now - changed > CLAIM_TIMEOUT:
            break
        check_refusal(pusher)
        if connected and not stats.connected:
            status(LOST.format(pusher.config.socket_path))
        connected = stats.connected
        if now - reported > PROGRESS_INTERVAL:
            reported = now
            status(f"{plural(last, 'event')} left")
