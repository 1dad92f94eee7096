"""How events get out of a child that the host has forked.

A fork copies the outbox but not the pusher's thread, and any lock as some thread held it. So a child touches nothing
of what it has inherited: it sends its lines through a socket pair to the host's thread, which emits them as the host's
own. Each message is whole or is not there, whoever is killed when: a datagram is, and what is too large for one goes
into a file without a name, whose descriptor travels with a datagram that says how many lines are in it.
"""

import array
import errno
import fcntl
import os
import socket
import termios
import threading
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import suppress
from itertools import repeat, starmap
from multiprocessing.util import Finalize

from ..channel.clock import Deadline
from ..channel.descriptors import Descriptor, above_standard, borrowed, memory_file, read_whole, wait

DATAGRAM_BYTES = 32 << 10
"""The most that a datagram carries; a socket takes six of them before it makes its sender wait (208 KiB here)."""

EXIT_TIMEOUT = 5.0
"""How long a child that ends may take to hand over what it has emitted, in seconds."""

_IN_FILE = b"\0"  # a datagram that begins so names a number of lines; they are in the file that comes with it


class ForkChannel:
    """Both ends of the socket pair. The host receives, and every child that it forks can send."""

    def __init__(self) -> None:
        host, child = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
        for end in host, child:
            end.setblocking(False)
        self._host, self._child = Descriptor(host.detach()), Descriptor(child.detach())

    def fileno(self) -> int:
        """The host's end, for waiting."""
        return self._host.fileno()

    def intact(self) -> bool:
        """Whether both ends are still ours."""
        return self._host.intact() and self._child.intact()

    def has_data(self) -> bool:
        """Whether there is something to receive. For the host, in any thread: another one may close it meanwhile."""
        fd = self._host.fileno()
        if fd < 0 or not self._host.intact():
            return False
        size = array.array("i", [0])
        with suppress(OSError):  # closed just now
            fcntl.ioctl(fd, termios.FIONREAD, size)  # not `wait`: with eventlet only one may wait for it
        return size[0] > 0

    def receive(self) -> tuple[list[bytes], int]:
        """The lines that have come, and how many were lost, for the host had no descriptor left. For the host."""
        lines: list[bytes] = []
        lost = 0
        if not self._host.intact():
            return lines, lost
        with above_standard(), borrowed(self._host, socket.SOCK_DGRAM) as end:
            while True:
                try:
                    data, descriptors, _, _ = socket.recv_fds(end, DATAGRAM_BYTES, 1)
                except OSError:  # nothing more for now
                    return lines, lost
                if data[:1] == _IN_FILE:
                    if descriptors:
                        file = Descriptor(descriptors[0])
                        data = read_whole(file.fileno())
                        file.close()
                    else:
                        lost += int(data[1:])
                        continue
                lines += data.splitlines(keepends=True)

    def sending(self, lines: bytes, count: int) -> Iterator[object]:
        """Hand over whole lines, all or none. For a child.

        Returns:
            An iterator of C, as `write_now` does; for more than a datagram carries, of a call that may be interrupted.
            It raises BlockingIOError if the host has too much to take in, and another OSError if it is gone.

        Raises:
            OSError: This process has closed the channel.
        """
        if not self._child.intact():
            raise OSError(errno.EBADF, os.strerror(errno.EBADF))
        if len(lines) <= DATAGRAM_BYTES:
            return map(os.writev, (self._child.fileno(),), ((lines,),))  # eventlet makes `write` wait
        return map(self._send_file, (lines,), (count,))

    def _send_file(self, lines: bytes, count: int) -> None:
        file = memory_file(lines)
        # A copy, for an interrupt before the end of the block closes what the socket object has.
        with above_standard(), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM, 0, os.dup(self._child.fileno())) as end:
            end.setblocking(False)  # gevent would wait by itself
            socket.send_fds(end, [_IN_FILE + b"%d" % count], [file.fileno()])

    def detach_in_child(self) -> None:
        """In a child, leave the host's end to the host, so that its end ends the pair."""
        self._host.close()

    def wait(self, seconds: float) -> None:
        """Wait until there is room to send, or for so long. For a child."""
        wait([], [self._child.fileno()], seconds)

    def close(self) -> None:
        """Close both ends, of this process."""
        self._host.close()
        self._child.close()


class _HandOver:
    """Lines on their way to the host. What was taken out of the outbox stays referred to until they are there."""

    __slots__ = ("ended", "lines")

    def __init__(self) -> None:
        self.lines: list[bytes] = []
        self.ended: list[object] = []  # not empty once they have been sent


class ForkedOutlet:
    """In a forked child, what carries the lines of the outbox to the host.

    Args:
        channel: The way out.
        lines: What waits in the outbox of this child.
        on_lost: Called when the host is found to be gone, for the first time.
    """

    def __init__(self, channel: ForkChannel, lines: deque[bytes], on_lost: Callable[[], None]) -> None:
        self._channel = channel
        self._lines = lines
        self._on_lost = on_lost
        self._lock = threading.Lock()  # held by whoever hands over; an emit only tries it
        self._now = _HandOver()
        self.handed_over = 0  # lines
        self.lost = 0  # lines that were for a host that is gone
        self.bytes = 0  # of both
        self.finish_at_exit()

    def waiting(self) -> int:
        """How many lines are not handed over."""
        return len(self._lines) + (0 if self._now.ended else len(self._now.lines))

    def put(self) -> None:
        """Hand over what waits; what the host can't take in now is left to a thread. It never waits."""
        if self._lock.locked():
            return  # whoever holds it looks again
        with self._lock:
            done = self._hand_over()
        if not done:
            try:
                threading.Thread(target=self._hand_over_in_time, name="socketpusher-fork", daemon=True).start()
            except RuntimeError:  # the interpreter is ending: `finish` will do it
                pass
        elif self._lines:  # appended since, by a thread that found the lock held
            self.put()

    def finish(self, deadline: Deadline) -> bool:
        """Hand over the rest until the deadline; whether nothing is left."""
        while True:
            # Whoever holds the lock has lines in hand that are no longer in the outbox, and not yet at the host.
            taken: list[bool] = []  # the lock is taken and noted in one call of C
            try:
                taken.extend(map(self._lock.acquire, (True,), (deadline.remaining(),)))
                if not taken[0]:
                    return False
                if self._hand_over():
                    return True
            finally:
                if taken and taken[0]:
                    self._lock.release()
            if deadline.over():
                return False
            self._channel.wait(deadline.remaining())

    def finish_at_exit(self) -> None:
        """Let the end of the interpreter wait for the rest to be handed over, for a while."""
        Finalize(None, lambda: self.finish(Deadline(EXIT_TIMEOUT)), exitpriority=100)

    def _hand_over_in_time(self) -> None:
        while True:
            with self._lock:
                if self._hand_over():
                    break
            self._channel.wait(3600.0)
        if self._lines:
            self.put()

    def _hand_over(self) -> bool:
        """Send what waits; False when the host has to take in something first."""
        while True:
            now = self._now
            if now.ended:
                self._now = now = _HandOver()
            if not now.lines:
                now.lines.extend(starmap(self._lines.popleft, repeat((), self._count_lines())))
            if not now.lines:
                return True
            data = b"".join(now.lines)
            try:
                now.ended.extend(self._channel.sending(data, len(now.lines)))
                self.handed_over += len(now.lines)
            except BlockingIOError:
                return False
            except OSError:
                now.ended.append(None)
                self.lost += len(now.lines)
                if self.lost == len(now.lines):
                    self._on_lost()
            self.bytes += len(data)

    def _count_lines(self) -> int:
        """How many of the waiting lines go into one message."""
        size = 0
        for count in range(len(self._lines)):
            size += len(self._lines[count])
            if count and size > DATAGRAM_BYTES:
                return count
        return len(self._lines)
