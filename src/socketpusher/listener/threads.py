"""How lines come from the senders of a listening socket to a thread that waits for them."""

import selectors
import socket
from collections.abc import Callable, Iterator
from typing import cast

from ..unix_socket import credentials
from .problems import Problem, RefusedSender, Sender, SkippedLine
from .splitter import LineSplitter

READ_BYTES = 64 << 10
"""How much one read takes from a sender at most; what it brings is handed out before the next one. Not more, for malloc
gives larger blocks back to the kernel and has them zeroed again each time (measured: reading and splitting takes 0.5
microseconds for a line of 1 kB, and 0.7 to 1.2 with 256 KiB)."""

Arrival = tuple[Sender, list[bytes]]
"""What one read brought: the lines that it completed, without their newlines."""


class SenderRegistry:
    """Who may send, and who does.

    Args:
        uids: The users that may.
        report: Is told of problems; must not raise.
    """

    def __init__(self, uids: set[int], report: Callable[[Problem], object]) -> None:
        self.senders: list[Sender] = []
        self._uids = uids
        self._report = report

    def admit(self, connected: socket.socket) -> tuple[Sender, LineSplitter] | None:
        """Let a sender in, or report that it may not come in and return None."""
        sender = Sender(*credentials(connected))
        if sender.uid is not None and sender.uid not in self._uids:
            self._report(RefusedSender(sender))
            return None
        self.senders.append(sender)
        return sender, LineSplitter(
            lambda begin: self._report(SkippedLine(sender, "the line is over 1,048,576 bytes", begin))
        )


class ThreadDriver:
    """For a thread that sleeps until something comes.

    Args:
        listening: The socket, bound and listening.
        registry: Whom to ask about senders.
    """

    def __init__(self, listening: socket.socket, registry: SenderRegistry) -> None:
        self._listening = listening
        self._registry = registry
        self._ready: Iterator[tuple[selectors.SelectorKey, int]] = iter(())  # of the last wait, not yet looked at
        self._held: tuple[selectors.SelectorKey, int] | None = None  # whom the last wait left how many bytes
        self._selector = selectors.DefaultSelector()  # a sender is registered with what the registry gave for it
        self._selector.register(listening, selectors.EVENT_READ)

    def fileno(self) -> int:
        """A descriptor that is readable while `wait` would not wait."""
        return self._selector.fileno()  # epoll and kqueue have one

    def wait(self, hold: bool = False) -> Arrival | None:
        """Wait until a sender comes, sends or goes.

        Args:
            hold: Whether what it brings stays in the socket until `release`.
        """
        for key, _ in self._ready:
            if key.data is not None:
                return self._read(key, hold)
            self._accept()
            return None
        self._ready = iter(self._selector.select())
        return None

    def _accept(self) -> None:
        try:
            connected, _ = self._listening.accept()
        except (BlockingIOError, ConnectionAbortedError):
            return  # it is gone already
        if (admitted := self._registry.admit(connected)) is None:
            connected.close()
            return
        connected.setblocking(False)
        self._selector.register(connected, selectors.EVENT_READ, admitted)

    def _read(self, key: selectors.SelectorKey, hold: bool) -> Arrival | None:
        connected = cast(socket.socket, key.fileobj)
        sender, lines = key.data
        try:
            data = connected.recv(READ_BYTES, socket.MSG_PEEK if hold else 0)
        except BlockingIOError:
            return None
        except OSError:
            data = b""  # lost, which is an end like any other
        if not data:
            self._selector.unregister(connected)
            connected.close()
            self._registry.senders.remove(sender)
            return None
        if hold:
            self._held = key, len(data)
            self._selector.unregister(connected)  # or it would be readable all the time
        return sender, lines.feed(data)

    def release(self) -> None:
        """Take out of the socket what the last `wait` has held there."""
        if self._held is None:
            return
        (connected, _, events, data), size = self._held
        self._held = None
        self._selector.register(connected, events, data)
        while size:
            size -= len(cast(socket.socket, connected).recv(size)) or size

    def close(self) -> None:
        """Hang up on everybody."""
        self._selector.unregister(self._listening)
        if self._held is not None:
            cast(socket.socket, self._held[0].fileobj).close()
        for key in list(self._selector.get_map().values()):
            cast(socket.socket, key.fileobj).close()
        self._registry.senders.clear()
        self._selector.close()
