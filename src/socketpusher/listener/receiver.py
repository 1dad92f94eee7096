"""Accepts the senders of a socket, and cuts what they send into lines, for who waits: a thread or an event loop."""

import errno
import logging
import select
import selectors
import socket
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from operator import itemgetter
from typing import cast

from ..unix_socket import credentials
from .problems import Problem, RefusedSender, Sender, SkippedLine
from .splitter import LineSplitter

READ_BYTES = 64 << 10
"""How much one read takes from a sender at most, in bytes. With more, malloc returns the block to the kernel, which
clears it for each read (measured: to read and split a line of 1 kB takes 0.5 microseconds, with 256 KiB 0.7 to 1.2)."""

ACCEPT_PAUSE = 1.0
"""How long to accept no sender when no file descriptor is left, in seconds, unless a sender disconnects."""

_NO_DESCRIPTOR = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)

Chunk = tuple[Sender, list[bytes]]
"""What one read brought: the lines that it completed, without their newlines."""

logger = logging.getLogger("socketpusher")


class Receiver:
    """Accepts senders, and cuts what they send into lines. Only one thread or task may wait at a time.

    Args:
        listening: The socket, bound and listening.
        uids: The users that may send.
        report: Called with each problem; must not raise.
    """

    def __init__(self, listening: socket.socket, uids: set[int], report: Callable[[Problem], object]) -> None:
        self._listening = listening
        self._uids = uids
        self._report = report
        self._splitters: dict[Sender, LineSplitter] = {}  # of everybody who is connected
        # Each descriptor is registered with the function that is called when it is readable.
        self._selector = selectors.DefaultSelector()
        self._ready: list[tuple[selectors.SelectorKey, bool]] = []  # the rest of what the last `_select` found
        self._held: tuple[socket.socket, Sender, int] | None = None  # whose bytes are still in the socket, how many
        self._accept_again = 0.0  # when, in monotonic time, if accepting pauses
        self._warn_again = 0.0  # when the next pause is worth a warning
        self._always_readable: socket.socket | None = None  # its peer is closed; made by `fileno`
        self._alarm: tuple[socket.socket, socket.socket] | None = None  # tells the descriptor that a pause is over
        self._accept_senders()

    @property
    def senders(self) -> tuple[Sender, ...]:
        """Everybody who is connected."""
        return tuple(self._splitters)

    def fileno(self) -> int:
        """Return a descriptor that is readable while `wait` would not wait."""
        if self._always_readable is None:
            self._always_readable, peer = socket.socketpair()
            peer.close()
            self._alarm = socket.socketpair()
            self._selector.register(self._alarm[0], selectors.EVENT_READ, self._on_alarm)
        return self._selector.fileno()  # epoll and kqueue have one

    def set_pending(self, pending: bool) -> None:
        """Say whether lines are in memory, so that the descriptor is readable."""
        if self._always_readable is not None and pending != (self._always_readable in self._selector.get_map()):
            if pending:
                self._selector.register(self._always_readable, selectors.EVENT_READ, self._on_pending)
            else:
                self._selector.unregister(self._always_readable)

    def _on_pending(self, hold: bool) -> None:
        self.set_pending(False)

    def wait(self, hold: bool = False, timeout: float | None = None) -> Chunk | None:
        """Wait until a sender connects, sends or disconnects, or `timeout` seconds are over.

        Args:
            hold: Whether the bytes stay in the socket until `release`.
            timeout: In seconds; None for no limit.
        """
        if self._held is not None:
            raise RuntimeError("call release() first: what the last read(hold=True) returned is still held")
        limit = self.limited(timeout)
        if not self._ready:
            self._ready = self._select(limit)
        if not self._ready:
            return None
        key, closed = self._ready.pop(0)
        on_readable: Callable[[bool], Chunk | None] = key.data
        chunk = on_readable(hold)
        if closed and chunk is not None:
            self._ready.insert(0, (key, closed))  # to its end
        return chunk

    def _select(self, limit: float | None) -> list[tuple[selectors.SelectorKey, bool]]:
        """What is readable, and whether its sender has closed it: these first.

        A pusher that has given up a connection sends the same events on the next one, and then newer ones.
        """
        ready = [key for key, _ in self._selector.select(limit)]
        if len(ready) < 2:
            return [(key, False) for key in ready]
        poll = select.poll()
        for key in ready:
            poll.register(key.fd, select.POLLHUP)
        closed = {fd for fd, _ in poll.poll(0)}
        return sorted(((key, key.fd in closed) for key in ready), key=itemgetter(1), reverse=True)

    def limited(self, timeout: float | None) -> float | None:
        """Return the timeout, or how long accepting still pauses if that is shorter; end a pause that is over."""
        if not self._accept_again:
            return timeout
        left = self._accept_again - time.monotonic()
        if left <= 0:
            self._accept_senders()
            return timeout
        return left if timeout is None else min(left, timeout)

    def _accept_senders(self) -> None:
        self._accept_again = 0.0
        self._selector.register(self._listening, selectors.EVENT_READ, self._accept)

    def _accept(self, hold: bool) -> None:
        try:
            connected, _ = self._listening.accept()
        except OSError as error:
            if error.errno in _NO_DESCRIPTOR:
                self._pause_accepting(error)
            elif error.errno not in (errno.EAGAIN, errno.ECONNABORTED):  # it has disconnected already
                raise
            return
        sender = Sender(*credentials(connected))
        if sender.uid is not None and sender.uid not in self._uids:
            self._report(RefusedSender(sender))
            connected.close()
            return
        self._splitters[sender] = LineSplitter(
            lambda excerpt: self._report(SkippedLine(sender, "the line is over 1,048,576 bytes", excerpt))
        )
        connected.setblocking(False)
        self._register(connected, sender)

    def _pause_accepting(self, error: OSError) -> None:
        now = time.monotonic()
        self._selector.unregister(self._listening)
        self._accept_again = now + ACCEPT_PAUSE
        if now >= self._warn_again:
            path, why = self._listening.getsockname(), error.strerror
            logger.warning("can't accept another sender at %s yet: %s; raise the limit (ulimit -n)", path, why)
        self._warn_again = now + 60
        if self._alarm is not None:  # who waits for the descriptor does not call `wait` until it is readable
            timer = threading.Timer(ACCEPT_PAUSE, _ring, self._alarm[1:])
            timer.daemon = True
            with suppress(RuntimeError):  # no thread can be started either
                timer.start()

    def _on_alarm(self, hold: bool) -> None:
        assert self._alarm is not None
        self._alarm[0].recv(1)
        self.limited(0)

    def _register(self, connected: socket.socket, sender: Sender) -> None:
        self._selector.register(connected, selectors.EVENT_READ, partial(self._read, connected, sender))

    def _read(self, connected: socket.socket, sender: Sender, hold: bool) -> Chunk | None:
        try:
            data = connected.recv(READ_BYTES, socket.MSG_PEEK if hold else 0)
        except BlockingIOError:
            return None
        except OSError:
            data = b""  # a lost connection ends like any other
        if not data:
            self._selector.unregister(connected)
            connected.close()
            if unfinished := self._splitters.pop(sender).unfinished:
                self._report(SkippedLine(sender, "it disconnected in the middle of a line", unfinished))
            if self._accept_again:
                self._accept_senders()
            return None
        if hold:
            self._held = connected, sender, len(data)
            self._selector.unregister(connected)  # or the descriptor would be readable all the time
        return sender, self._splitters[sender].feed(data)

    def release(self) -> None:
        """Take the bytes that `wait` has held out of the socket."""
        if self._held is not None:
            connected, sender, size = self._held
            self._held = None
            self._register(connected, sender)
            while size:
                size -= len(connected.recv(size)) or size

    def close(self) -> None:
        """Disconnect everybody. May be called again."""
        sockets = [key.fileobj for key in (self._selector.get_map() or {}).values()]
        rest = (self._always_readable, self._held and self._held[0], self._alarm and self._alarm[1])
        sockets += [one for one in rest if one is not None]
        for one in sockets:
            cast(socket.socket, one).close()
        self._selector.close()


def _ring(alarm: socket.socket) -> None:
    with suppress(OSError):  # it is closed
        alarm.send(b"\0")
