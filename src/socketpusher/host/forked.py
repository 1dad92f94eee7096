"""How events get out of a child that the host has forked.

A fork copies the outbox but not the feeder thread, and any lock as some thread held it. So a child touches nothing of
what it has inherited: it sends its lines through a socket pair to the host's supervisor, which emits them as the
host's own. Each message is whole or is not there, whoever is killed when: a datagram is, and what is too large for one
goes into a file without a name, of which the datagram carries the descriptor.
"""

import os
import select
import socket
import threading
import time
from collections import deque
from multiprocessing.util import Finalize

from ..channel.ledger import anonymous_file

DATAGRAM_BYTES = 32 << 10
"""The most that a datagram carries; a socket takes six of them before it makes its sender wait (208 KiB here)."""

EXIT_DEADLINE = 5.0
"""How long a child that ends may take to hand over what it has emitted, in seconds."""


class SideDoor:
    """Both ends of the socket pair. The host receives, and every child that it forks can send."""

    def __init__(self) -> None:
        self._inside, self._outside = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._inside.setblocking(False)
        self._outside.setblocking(False)

    def fileno(self) -> int:
        """The host's end, for waiting."""
        return self._inside.fileno()

    def receive(self) -> list[bytes]:
        """The lines that have come. For the host."""
        lines: list[bytes] = []
        while True:
            try:
                data, descriptors, _, _ = socket.recv_fds(self._inside, DATAGRAM_BYTES, 1)
            except OSError:  # nothing more for now, or closed
                return lines
            for fd in descriptors:
                with open(fd, "rb") as file:
                    file.seek(0)
                    data = file.read()
            lines += data.splitlines(keepends=True)

    def send(self, lines: bytes) -> None:
        """Hand over whole lines, all or none. For a child.

        Raises:
            BlockingIOError: The host has too much to take in.
            OSError: The host is gone.
        """
        if len(lines) <= DATAGRAM_BYTES:
            self._outside.send(lines)
            return
        fd = anonymous_file(0)
        try:
            with open(fd, "wb", closefd=False) as file:
                file.write(lines)
            socket.send_fds(self._outside, [b" "], [fd])
        finally:
            os.close(fd)

    def stay_outside(self) -> None:
        """In a child, leave the host's end to the host, so that its end ends the pair."""
        self._inside.close()

    def wait(self, seconds: float) -> None:
        """Wait until there is room to send, or for so long. For a child."""
        select.select([], [self._outside], [], max(0.0, seconds))

    def close(self) -> None:
        """Close both ends, of this process."""
        self._inside.close()
        self._outside.close()


class ForkedToken:
    """In a forked child, what stands for the queue: it carries what waits in the outbox to the side door.

    Args:
        door: The way out.
        lines: What waits in the outbox of this child.
    """

    feeder = 0

    def __init__(self, door: SideDoor, lines: deque[bytes]) -> None:
        lock = threading.Lock()
        self.mark = lock.acquire  # held by whoever hands over; an emit only tries it
        self._unmark = lock.release
        self._door = door
        self._lines = lines
        self.handed_over = 0  # lines
        self.handed_over_bytes = 0
        self.lost = 0  # lines that were for a host that is gone
        self.finish_at_exit()

    def put(self) -> None:
        """Hand over what waits; what the host can't take in now is left to a thread. By whoever has set the mark."""
        try:
            self._hand_over()
        except BlockingIOError:
            try:
                threading.Thread(target=self._hand_over_in_time, name="socketpusher-fork", daemon=True).start()
            except RuntimeError:  # the interpreter is ending: `finish` will do it
                self._unmark()
            return
        self._unmark()
        if self._lines and self.mark(False):  # appended since, by a thread that found the mark set
            self.put()

    def finish(self, deadline: float) -> bool:
        """Hand over the rest until the deadline, of `time.monotonic`; whether nothing is left."""
        while True:
            # Whoever holds the mark has lines in hand that are no longer in the outbox, and not yet at the host.
            if not self.mark(True, max(0.0, deadline - time.monotonic())):
                return False
            try:
                self._hand_over()
                return True
            except BlockingIOError:
                pass
            finally:
                self._unmark()
            if time.monotonic() >= deadline:
                return False
            self._door.wait(deadline - time.monotonic())

    def finish_at_exit(self) -> None:
        """Let the end of the interpreter wait for the rest to be handed over, for a while."""
        Finalize(None, lambda: self.finish(time.monotonic() + EXIT_DEADLINE), exitpriority=100)

    def _hand_over_in_time(self) -> None:
        while True:
            try:
                self._hand_over()
            except BlockingIOError:
                self._door.wait(3600.0)
                continue
            self._unmark()
            if not self._lines or not self.mark(False):
                return

    def _hand_over(self) -> None:
        """Raises BlockingIOError when the host has to take in something first; the lines are kept then."""
        while self._lines:
            lines: list[bytes] = []
            size = 0
            while self._lines and (not lines or size + len(self._lines[0]) <= DATAGRAM_BYTES):
                lines.append(self._lines.popleft())
                size += len(lines[-1])
            try:
                self._door.send(b"".join(lines))
                self.handed_over += len(lines)
            except BlockingIOError:
                self._lines.extendleft(reversed(lines))
                raise
            except OSError:
                self.lost += len(lines)
            self.handed_over_bytes += size
