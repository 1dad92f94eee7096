"""The Unix socket: connecting, writing without waiting, and what the kernel tells of the other end.

What the kernel knows, on Linux (measured on 6.x, and in net/unix/af_unix.c): TIOCOUTQ is the memory of what the peer
has not read, where a buffer that was read in part counts whole. A peer that closes with something unread leaves
ECONNRESET in SO_ERROR on our side; one that had read everything leaves nothing.
"""

import array
import errno
import fcntl
import os
import socket
import sys
import termios

from ..unix_socket import credentials

IOV_MAX = os.sysconf("SC_IOV_MAX")
"""How many buffers one `sendmsg` takes; with more it fails, and takes nothing (1,024 on Linux)."""


class Connection:
    """A connected, non-blocking Unix socket.

    Args:
        path: Where the consumer listens.
        uids: The users whose listeners may be sent anything; anyone may listen in a directory that others share.

    Raises:
        PermissionError: The listener runs as another user.
        OSError: It can't be connected at once.
    """

    def __init__(self, path: str, uids: set[int]) -> None:
        self.last_unread = 0  # what `unread_memory` was last
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            self._socket.setblocking(False)
            self._socket.connect(path)
            self._check_peer(uids)
        except BaseException:
            self._socket.close()
            raise

    def fileno(self) -> int:
        """The descriptor, for polling."""
        return self._socket.fileno()

    def write(self, buffers: list[memoryview]) -> tuple[int, int]:
        """Write as much as the socket takes at once.

        Returns:
            How many bytes it took, and by how much the memory of what the peer has not read rose, in bytes. The
            latter is too low if the peer read meanwhile.

        Raises:
            BlockingIOError: It takes nothing now.
            OSError: The connection is lost.
        """
        before = self.last_unread and self.unread_memory()  # it only rises by writing
        count = self._socket.sendmsg(buffers)
        return count, self.unread_memory() - before

    def unread_memory(self) -> int:
        """The memory of what the peer has not read, in bytes; 0 where the platform does not tell.

        Raises:
            ConnectionResetError: The peer is gone and had not read everything.
        """
        if sys.platform != "linux":
            return 0
        size = array.array("i", [0])
        fcntl.ioctl(self._socket, termios.TIOCOUTQ, size)
        # A peer that closes frees what is unread, which would look as if it had been read; but it sets the error first.
        if code := self._socket.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
            raise OSError(code, os.strerror(code))
        self.last_unread = size[0]
        return self.last_unread

    def discard_input(self) -> bool:
        """Throw away what the peer sent, for the protocol has one direction. Whether it may send more."""
        try:
            return self._socket.recv(65536) != b""
        except BlockingIOError:
            return True

    def all_was_read(self, lost: OSError) -> bool:
        """Whether the peer had read everything, as far as can be known, now that the connection is lost.

        Args:
            lost: What was raised. A peer that had not read everything is told of by one ConnectionResetError, once.
        """
        try:
            return not isinstance(lost, ConnectionResetError) and self.unread_memory() == 0
        except ConnectionResetError:
            return False

    def _check_peer(self, uids: set[int]) -> None:
        _, uid = credentials(self._socket)
        self._uid = uid
        if uid is not None and uid not in uids:
            raise PermissionError(
                errno.EPERM,
                f"the listener runs as user {uid}, and events go only to user {os.geteuid()} and root; "
                f"if it may have them, put {uid} into allow_uids",
            )

    def refusal(self) -> OSError | None:
        """Why the peer may have hung up at once; None if it runs as this user, or the platform does not tell."""
        if self._uid in (None, os.geteuid()):
            return None
        return ConnectionAbortedError(
            errno.ECONNABORTED,
            f"the consumer of user {self._uid} hung up at once, so it seems to refuse user {os.geteuid()}; "
            f"run both as the same user, or for the consumer put {os.geteuid()} into allow_uids",
        )

    def close(self) -> None:
        """Hang up."""
        self._socket.close()
