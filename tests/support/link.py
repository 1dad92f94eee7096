"""A network link to a server: it may be slow, hold what it carries, or break."""

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from queue import SimpleQueue

CHUNK = 4096


class Link:
    """Carries bytes between clients and a server.

    Args:
        port: Of the server.
    """

    def __init__(self, port: int) -> None:
        self.bytes_per_second = 0.0  # in each direction; 0 for no limit
        self.delay = 0.0  # of each request, in seconds
        self.undelivered = b""  # what the server has answered on broken connections
        self._server = "127.0.0.1", port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"nats://127.0.0.1:{self._listener.getsockname()[1]}"
        self._connections: list[_Connection] = []
        self._thread = threading.Thread(target=self._accept, daemon=True)
        self._thread.start()

    def hold(self, *what: str) -> None:
        """Hold the "requests" or "answers" of the connections that there are now, until `go_on`."""
        for connection in self._connections:
            for direction in what:
                connection.open[direction].clear()

    def go_on(self) -> None:
        """Deliver what is held, also to the server on broken connections."""
        for connection in self._connections:
            for gate in connection.open.values():
                gate.set()

    def cut(self) -> None:
        """Break the connections on the side of the clients, which may connect again."""
        for connection in self._connections:
            with suppress(OSError):
                connection.client.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._thread.join()
        self._listener.close()
        self.bytes_per_second = 0
        self.go_on()
        for connection in self._connections:
            connection.close()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            with suppress(OSError):
                self._connections.append(_Connection(self, client, socket.create_connection(self._server)))


class _Connection:
    def __init__(self, link: Link, client: socket.socket, server: socket.socket) -> None:
        self.client, self.server = client, server
        self.open = {"requests": threading.Event(), "answers": threading.Event()}
        self._link = link
        self._threads = []
        for source, target, direction in ((client, server, "requests"), (server, client, "answers")):
            self.open[direction].set()
            arrivals: SimpleQueue[tuple[float, bytes]] = SimpleQueue()
            receive = threading.Thread(target=self._receive, args=(source, arrivals), daemon=True)
            deliver = threading.Thread(target=self._deliver, args=(arrivals, target, direction), daemon=True)
            self._threads += [receive, deliver]
        for thread in self._threads:
            thread.start()

    def _receive(self, source: socket.socket, arrivals: "SimpleQueue[tuple[float, bytes]]") -> None:
        data = b"."
        while data:
            try:
                data = source.recv(CHUNK)
            except OSError:
                data = b""
            arrivals.put((time.monotonic(), data))

    def _deliver(self, arrivals: "SimpleQueue[tuple[float, bytes]]", target: socket.socket, direction: str) -> None:
        while (arrival := arrivals.get())[1]:
            self.open[direction].wait()
            if direction == "requests":
                time.sleep(max(0.0, arrival[0] + self._link.delay - time.monotonic()))
            if self._link.bytes_per_second:
                time.sleep(len(arrival[1]) / self._link.bytes_per_second)
            try:
                target.sendall(arrival[1])
            except OSError:
                self._link.undelivered += arrival[1]
        if direction == "answers":
            with suppress(OSError):
                target.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        for each in (self.client, self.server):
            with suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join()
        self.client.close()
        self.server.close()


@contextmanager
def link(port: int) -> Iterator[Link]:
    made = Link(port)
    try:
        yield made
    finally:
        made.close()
