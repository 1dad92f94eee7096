"""The Unix socket: connecting, writing without waiting, and what the kernel reports about the peer.

On Linux (measured on 6.x, and in net/unix/af_unix.c) TIOCOUTQ is the memory of what the peer has not read, where a
partly read buffer counts whole. If the peer closes with something unread, SO_ERROR is ECONNRESET on our side; if it had
read everything, there is no error.
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
        path: The path where the consumer listens.
        uids: The users whose listeners may receive events. In a shared directory any user may listen.

    Raises:
        PermissionError: The listener runs as another user.
        OSError: It can't be connected immediately.
    """

    def __init__(self, path: str, uids: set[int]) -> None:
        self.last_unread = 0  # the last result of `unread_memory`, in bytes
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
        """Write as much as the socket takes without waiting.

        Returns:
            The number of bytes written, and the increase of the unread memory, in bytes. The latter is too low if the
            peer read meanwhile.

        Raises:
            BlockingIOError: The socket takes nothing now.
            OSError: The connection is lost.
        """
        before = self.last_unread and self.unread_memory()  # if it was 0 it is still 0: it only rises by writing
        count = self._socket.sendmsg(buffers)
        return count, self.unread_memory() - before

    def unread_memory(self) -> int:
        """The memory of what the peer has not read, in bytes; 0 where the platform does not report it.

        Raises:
            ConnectionResetError: The peer has closed the connection without reading everything.
        """
        if sys.platform != "linux":
            return 0
        size = array.array("i", [0])
        fcntl.ioctl(self._socket, termios.TIOCOUTQ, size)
        # When the peer closes, the kernel frees what is unread, so the size is 0; but it sets the error first.
        if code := self._socket.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
            raise OSError(code, os.strerror(code))
        self.last_unread = size[0]
        return self.last_unread

    def discard_input(self) -> bool:
        """Discard what the peer has sent: the protocol has one direction. Returns whether it may send more."""
        try:
            return self._socket.recv(65536) != b""
        except BlockingIOError:
            return True

    def all_was_read(self, lost: OSError) -> bool:
        """Whether the peer had read everything, as far as the kernel shows, before the connection was lost.

        Args:
            lost: The error that ended the connection. If the peer had not read everything, the kernel reports that in
                one ConnectionResetError, once.
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
                f"the listener runs as user {uid}, and events are sent only to user {os.geteuid()} and root; "
                f"to allow it, put {uid} into allow_uids",
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
        """Close the socket."""
        self._socket.close()
