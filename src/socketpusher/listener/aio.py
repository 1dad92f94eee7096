"""Brings the bytes of senders to asyncio.

It is not in `threads`, because a program without asyncio should not spend time and memory on importing it.
"""

import asyncio
import socket
import sys
import threading
from collections import deque
from typing import Any, cast

from .problems import Sender
from .threads import READ_BYTES, Chunk, SenderRegistry


class AsyncioDriver:
    """asyncio's Unix server. It pauses each sender until its last bytes are consumed.

    Args:
        listening: The socket, bound.
        registry: The senders.
    """

    def __init__(self, listening: socket.socket, registry: SenderRegistry) -> None:
        self.registry = registry
        self.protocols: set[_SenderProtocol] = set()  # of the senders that were admitted
        self.chunks: deque[tuple[Chunk, asyncio.Transport]] = deque()  # at most one per sender
        self.changed = asyncio.Event()  # something came, or it was closed
        self.closed = False
        self._listening = listening
        self._loop = asyncio.get_running_loop()
        self._thread = threading.get_ident()
        self._server: asyncio.Server | None = None  # from `start` on

    async def start(self) -> None:
        """Accept senders."""
        options: dict[str, Any] = {"cleanup_socket": False} if sys.version_info >= (3, 13) else {}
        self._server = await self._loop.create_unix_server(
            lambda: _SenderProtocol(self),
            sock=self._listening,
            backlog=socket.SOMAXCONN,
            start_serving=False,
            **options,
        )
        await self._server.start_serving()  # a second step, so that `close` finds the server meanwhile

    async def wait(self, timeout: float | None) -> Chunk | None:
        """Wait until a sender connects, sends or disconnects, `timeout` seconds are over, or it is closed."""
        if self._loop is not asyncio.get_running_loop():
            raise RuntimeError("a listener serves the event loop that it was first used in; make a new one")
        if not self.chunks and not self.closed:
            self.changed.clear()
            if timeout is not None:
                self._loop.call_later(timeout, self.changed.set)
            await self.changed.wait()
        if not self.chunks:
            return None
        chunk, transport = self.chunks.popleft()
        transport.resume_reading()
        return chunk

    def close(self) -> None:
        """Disconnect everybody, as soon as the loop gets to it: a signal handler may have interrupted the loop."""
        self.closed = True
        if self._loop.is_running():
            if threading.get_ident() == self._thread:
                self._abort()  # at once, for the loop may end after this turn
            try:
                self._loop.call_soon_threadsafe(self._disconnect)
                return
            except RuntimeError:
                pass  # it has just ended
        self._disconnect()

    def _disconnect(self) -> None:
        self.changed.set()
        if self._server is not None:
            self._server.close()
        self._listening.close()
        if not self._loop.is_closed():
            self._abort()

    def _abort(self) -> None:
        for protocol in self.protocols:
            protocol.transport.abort()


class _SenderProtocol(asyncio.BufferedProtocol):
    """One sender."""

    transport: asyncio.Transport

    def __init__(self, driver: AsyncioDriver) -> None:
        self._driver = driver
        self._sender: Sender | None = None  # from the connection on, if it may send
        self._buffer = memoryview(bytearray(READ_BYTES))

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        if not self._driver.closed:
            self._sender = self._driver.registry.admit(transport.get_extra_info("socket"))
        if self._sender is None:
            self.transport.abort()
        else:
            self._driver.protocols.add(self)
        self._driver.changed.set()

    def get_buffer(self, sizehint: int) -> memoryview:
        return self._buffer

    def buffer_updated(self, nbytes: int) -> None:
        if self._sender is not None:
            chunk = self._driver.registry.received(self._sender, bytes(self._buffer[:nbytes]))
            self._driver.chunks.append((chunk, self.transport))
            self._driver.changed.set()
            self.transport.pause_reading()

    def connection_lost(self, error: Exception | None) -> None:
        if self._sender is not None:
            self._driver.protocols.discard(self)
            self._driver.registry.disconnected(self._sender)
        self._driver.changed.set()
