"""How lines come from the senders of a listening socket to asyncio.

Apart from `selecting`, for a scheduler has no use for asyncio, which takes time and memory to import.
"""

import asyncio
import socket
import sys
from collections import deque
from typing import Any, cast

from .problems import Sender
from .splitter import LineSplitter
from .threads import READ_BYTES, Arrival, SenderRegistry


class AsyncioDriver:
    """asyncio's Unix server, whose senders are paused while what they sent has not been taken.

    Args:
        registry: Whom to ask about senders.
    """

    def __init__(self, registry: SenderRegistry) -> None:
        self.registry = registry
        self.receivers: set[_SenderProtocol] = set()
        self.arrivals: deque[tuple[Arrival, asyncio.Transport]] = deque()  # one a sender at most
        self.changed = asyncio.Event()  # something came, or it was closed
        self._loop = asyncio.get_running_loop()
        self._server: asyncio.Server | None = None  # from `start` on
        self._closed = False

    async def start(self, listening: socket.socket) -> None:
        """Serve this socket, which is bound."""
        options: dict[str, Any] = {"cleanup_socket": False} if sys.version_info >= (3, 13) else {}
        self._server = await self._loop.create_unix_server(
            lambda: _SenderProtocol(self), sock=listening, backlog=socket.SOMAXCONN, start_serving=False, **options
        )
        await self._server.start_serving()  # apart, for `close` may be called meanwhile

    async def wait(self) -> Arrival | None:
        """Wait until a sender comes, sends or goes, or it is closed."""
        if self._loop is not asyncio.get_running_loop():
            raise RuntimeError("a listener serves the event loop that it was first used in; make a new one")
        if not self.arrivals and not self._closed:
            self.changed.clear()
            await self.changed.wait()
        if not self.arrivals:
            return None
        arrival, transport = self.arrivals.popleft()
        transport.resume_reading()
        return arrival

    def close(self) -> None:
        """Hang up on everybody."""
        self._closed = True
        self.changed.set()
        self.arrivals.clear()
        self.registry.senders.clear()
        if self._loop.is_closed():
            return  # with it went what could be told
        if self._server is not None:
            self._server.close()
        for receiver in self.receivers:
            receiver.transport.abort()


class _SenderProtocol(asyncio.BufferedProtocol):
    """One sender."""

    transport: asyncio.Transport

    def __init__(self, serving: AsyncioDriver) -> None:
        self._serving = serving
        self._admitted: tuple[Sender, LineSplitter] | None = None  # from the connection on, if the sender may send
        self._buffer = memoryview(bytearray(READ_BYTES))

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        self._admitted = self._serving.registry.admit(transport.get_extra_info("socket"))
        if self._admitted is None:
            self.transport.abort()
        else:
            self._serving.receivers.add(self)
        self._serving.changed.set()

    def get_buffer(self, sizehint: int) -> memoryview:
        return self._buffer

    def buffer_updated(self, nbytes: int) -> None:
        if self._admitted is not None:
            sender, lines = self._admitted
            self._serving.arrivals.append(((sender, lines.feed(bytes(self._buffer[:nbytes]))), self.transport))
            self._serving.changed.set()
            self.transport.pause_reading()

    def connection_lost(self, error: Exception | None) -> None:
        if self._admitted is not None:
            self._serving.receivers.discard(self)
            if self._admitted[0] in self._serving.registry.senders:
                self._serving.registry.senders.remove(self._admitted[0])
        self._serving.changed.set()
