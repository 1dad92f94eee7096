"""Who is at the other end of a Unix socket, as the kernel tells it."""

import socket
import struct
import sys


def credentials(connected: socket.socket) -> tuple[int | None, int | None]:
    """The process and the user at the other end, when it connected or began to listen.

    Returns:
        A process id and a user id; None for what the platform does not tell.
    """
    if sys.platform == "linux":
        pid, uid, _ = struct.unpack("3i", connected.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
        return pid, uid
    if sys.platform == "darwin":  # struct xucred behind LOCAL_PEERCRED, which is what getpeereid reads; LOCAL_PEERPID
        _, uid = struct.unpack("Ii", connected.getsockopt(0, 1, 76)[:8])
        return connected.getsockopt(0, 2), uid
    return None, None


def started(pid: int) -> int | None:
    """When a process started, in ticks since the boot; None if it is gone or the platform does not tell."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            return int(file.read().rpartition(b")")[2].split()[19])  # proc(5): field 22
    except OSError:
        return None
