"""The socket to the consumer, for peers without socket code of their own."""

import socket
import time

RETRY = 0.1


class LineSender:
    """A blocking Unix stream socket. Connecting and sending wait without a limit.

    Args:
        path: Where the consumer listens.
    """

    def __init__(self, path: str) -> None:
        self._path = path
        self._socket: socket.socket | None = None

    def send(self, data: bytes) -> None:
        """Send whole lines, and connect first if necessary. Lines are lost if the consumer ends meanwhile."""
        if self._socket is None:
            self._socket = self._connect()
        try:
            self._socket.sendall(data)
        except OSError:
            self.close()

    def _connect(self) -> socket.socket:
        while True:
            connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            try:
                connection.connect(self._path)
                return connection
            except OSError:
                connection.close()
                time.sleep(RETRY)

    def close(self) -> None:
        """Close the connection."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None
