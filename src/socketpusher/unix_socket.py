"""Unix sockets: the longest path, the credentials of the peer, and advice for connection errors."""

import errno
import os
import socket
import stat
import struct
import sys

SUN_PATH_MAX = 107 if sys.platform == "linux" else 103
"""The longest path that fits a Unix socket address, in bytes (unix(7): 108 with a NUL; BSD and macOS: 104)."""

_ADVICE = {
    errno.ENOENT: "start the consumer first, or call start(wait=False) if it may come later",
    errno.ECONNREFUSED: "the socket exists but nobody listens on it: start the consumer, or call start(wait=False)",
    errno.EACCES: "give this user write permission for the socket and search permission for its directories",
    errno.ENOTSOCK: "choose another path",
    errno.EAGAIN: "the consumer does not accept connections: is it stopped or overloaded?",
    errno.EPROTOTYPE: "the consumer must listen on a stream socket (SOCK_STREAM)",
    errno.ENOTDIR: "a part of the path is not a directory; choose another path",
    errno.EMFILE: "this process has no file descriptor left",
}


def check_path(path: str) -> None:
    """Raise `OSError` if the path is too long for a Unix socket."""
    size = len(os.fsencode(path))
    if size > SUN_PATH_MAX:
        raise OSError(
            errno.ENAMETOOLONG,
            f"can't connect to a Unix socket with a path of {size} bytes, the limit is {SUN_PATH_MAX}: "
            f"choose a shorter path, or one relative to the working directory",
            path,
        )


def is_socket(path: str) -> bool:
    """Whether there is a socket at the path."""
    try:
        return stat.S_ISSOCK(os.stat(path).st_mode)
    except OSError:
        return False


def with_advice(error: OSError, path: str) -> OSError:
    """The same error with a message that says what was tried, on what path, why it failed and what to do."""
    code = error.errno or errno.EIO
    reason, advice = error.strerror or str(error), _ADVICE.get(code)
    if code == errno.ECONNREFUSED and os.path.exists(path) and not is_socket(path):  # connect(2) makes no difference
        reason, advice = "it is not a socket", _ADVICE[errno.ENOTSOCK]
    return OSError(code, f"can't connect to the consumer: {reason}" + (f"; {advice}" if advice else ""), path)


def credentials(connected: socket.socket) -> tuple[int | None, int | None]:
    """The process id and user id of the peer, at the time when it connected or began to listen.

    Returns:
        A process id and a user id; None for one that the platform does not report.
    """
    if sys.platform == "linux":
        pid, uid, _ = struct.unpack("iII", connected.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
        return pid or None, uid  # 0 is a process that can't be seen from this container
    if sys.platform == "darwin":  # as getpeereid: struct xucred of LOCAL_PEERCRED; LOCAL_PEERPID
        _, uid = struct.unpack("II", connected.getsockopt(0, 1, 76)[:8])
        return connected.getsockopt(0, 2), uid
    return None, None


def process_start_ticks(pid: int) -> int | None:
    """The start time of a process, in ticks since boot; None if it has ended or the platform does not report it."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            return int(file.read().rpartition(b")")[2].split()[19])  # proc(5): field 22
    except OSError:
        return None
