"""A consumer for tests: a thread with a real socket, which can be told to stall, to go away and to come back."""

import array
import fcntl
import os
import select
import socket
import termios
import threading
from contextlib import suppress

from socketpusher import Event, wire
from support.waiting import wait_for


class Consumer:
    """Listens at `path` and keeps every line it reads, connection by connection.

    Whoever asks for the lines gets all that were sent by then, unless it was told not to read.
    """

    def __init__(self, path: str, *, reading: bool = True) -> None:
        self.path = path
        self.connections: list[list[bytes]] = []  # the bytes of each, as pieces
        self._may_read = threading.Event()
        self._lock = threading.Lock()  # while something leaves the kernel and is kept here
        self._sockets: list[socket.socket] = []
        self._reading: list[tuple[socket.socket, list[bytes]]] = []
        self._threads: list[threading.Thread] = []
        self._listener: socket.socket | None = None
        if reading:
            self._may_read.set()
        self.listen()

    def listen(self) -> None:
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(self.path)
        self._listener.listen()
        self._acceptor = threading.Thread(target=self._accept, args=(self._listener,), daemon=True)
        self._acceptor.start()

    def _accept(self, listener: socket.socket) -> None:
        while True:
            try:
                select.select([listener], [], [])
                with self._lock:
                    connection, _ = listener.accept()
                    pieces: list[bytes] = []
                    self.connections.append(pieces)
                    self._sockets.append(connection)
                    self._reading.append((connection, pieces))
            except (OSError, ValueError):
                if self._listener is not listener:
                    return
                self._may_read.wait(0.01)  # a test has taken our descriptors away
                continue
            reader = threading.Thread(target=self._read, args=(connection, pieces), daemon=True)
            self._threads.append(reader)
            reader.start()

    def _read(self, connection: socket.socket, pieces: list[bytes]) -> None:
        while True:
            self._may_read.wait()
            try:
                connection.recv(1, socket.MSG_PEEK)
                with self._lock:
                    piece = connection.recv(65536)
                    if not piece:
                        return
                    pieces.append(piece)
            except OSError:
                return

    def stall(self) -> None:
        """Stop reading; what the kernel has taken stays unread. One read that has begun may still end."""
        self._may_read.clear()

    def go_on(self) -> None:
        self._may_read.set()

    def stop_listening(self) -> None:
        """Close the listener, not the connections."""
        if self._listener is not None:
            listener, self._listener = self._listener, None
            listener.shutdown(socket.SHUT_RDWR)
            self._acceptor.join()
            listener.close()
            os.unlink(self.path)

    def go_away(self) -> None:
        """As a process that is killed: the listener and every connection are closed, unread or not."""
        self.stop_listening()
        for connection in self._sockets:
            try:
                connection.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass  # the other end is gone already
            connection.close()
        self._sockets.clear()
        self._may_read.set()
        for thread in self._threads:
            thread.join()
        self._threads.clear()

    def die_unread(self) -> None:
        """Go away with everything unread that the kernel holds, which a thread that reads must not touch."""
        self.stop_listening()
        for connection in self._sockets:
            connection.close()

    def come_back(self) -> None:
        self.listen()

    def _catch_up(self) -> None:
        """Wait until what has come by now is kept here."""
        with suppress(OSError, ValueError):  # it has ended, or a test has taken our descriptors away
            while self._listener is not None and select.select([self._listener], [], [], 0)[0]:
                wait_for(lambda: self._listener is None or not select.select([self._listener], [], [], 0)[0])
        with self._lock:
            there = [(pieces, _size(pieces) + _unread(connection)) for connection, pieces in self._reading]
        wait_for(lambda: not self._may_read.is_set() or all(_size(pieces) >= size for pieces, size in there))

    def lines(self) -> list[bytes]:
        """Every whole line, over all connections."""
        self._catch_up()
        return [line for pieces in list(self.connections) for line in b"".join(pieces).split(b"\n")[:-1]]

    def torn(self) -> list[bytes]:
        """What came behind the last newline of each connection."""
        self._catch_up()
        return [b"".join(pieces).rpartition(b"\n")[2] for pieces in list(self.connections)]

    def events(self) -> list[Event]:
        return [wire.decode(line) for line in self.lines()]

    def tasks(self) -> list[int | None]:
        """The task numbers of the events, in order, which is what most tests send."""
        return [event.task for event in self.events() if event.type != "graph"]

    def wait_for_tasks(self, count: int, timeout: float = 30.0) -> list[int | None]:
        wait_for(lambda: sum(len(pieces) for pieces in list(self.connections)) and len(self.tasks()) >= count, timeout)
        return self.tasks()


def _size(pieces: list[bytes]) -> int:
    return sum(map(len, pieces))


def _unread(connection: socket.socket) -> int:
    """How many bytes wait in the kernel; 0 once it is closed."""
    size = array.array("i", [0])
    with suppress(OSError, ValueError):
        fcntl.ioctl(connection, termios.FIONREAD, size)
    return size[0]
