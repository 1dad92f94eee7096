"""The consumer's end of peers that bring no socket code of their own: connect, try again, send."""

import socket
import time

RETRY = 0.1


class LineSender:
    """A blocking Unix stream socket. Connecting and sending wait as long as they have to.

    Args:
        path: Where the consumer listens.
    """

    def __init__(self, path: str) -> None:
        self._path = path
        self._socket: socket.socket | None = None

    def send(self, data: bytes) -> None:
        """Send whole lines; connect before, if need be. Lines that meet a dying consumer are lost."""
        if self._socket is None:
            self._socket = self._connection_made()
        try:
            self._socket.sendall(data)
        except OSError:
            self.close()

    def _connection_made(self) -> socket.socket:
        while True:
            connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            try:
                connection.connect(self._path)
                return connection
            except OSError:
                connection.close()
                time.sleep(RETRY)

    def close(self) -> None:
        """Hang up."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None
