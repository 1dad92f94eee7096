"""Carries the events of a forked child of the host to the host.

A fork copies the outbox but not the pusher's thread, and a lock may be copied while another thread holds it. So a child
uses nothing that it has inherited: it sends its lines through a socket pair to the host's thread, which accepts them as
the host's own. Messages are atomic, whichever process is killed: each is one datagram. If it is too large, the datagram
carries the descriptor of an anonymous file instead, and the number of lines in it.
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

from ..channel.batch import whole_lines
from ..channel.clock import Deadline
from ..channel.descriptors import Descriptor, above_standard, borrowed, memory_file, read_whole, wait

DATAGRAM_BYTES = 32 << 10
"""The largest datagram, in bytes; six of them fit into a socket before its sender has to wait (208 KiB here)."""

RECEIVE_BYTES = 1 << 20
"""How much the host receives before it does other things, in bytes. A child could send for ever."""

EXIT_TIMEOUT = 5.0
"""How long a child that exits may take to hand over its events, in seconds."""

_IN_FILE = b"\0"  # marks a datagram with a number of lines, which are in the file that comes with it


class ForkChannel:
    """Both ends of the socket pair. The host receives, and every forked child can send."""

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
        """Whether there is something to receive. For any thread of the host; another one may close it meanwhile."""
        fd = self._host.fileno()
        if fd < 0 or not self._host.intact():
            return False
        size = array.array("i", [0])
        with suppress(OSError):  # closed just now
            fcntl.ioctl(fd, termios.FIONREAD, size)  # not `wait`: with eventlet only one thread may wait for it
        return size[0] > 0

    def receive(self) -> Iterator[tuple[list[bytes], int]]:
        """Receive messages, `RECEIVE_BYTES` in all. For the host.

        Yields:
            The lines of each, and how many were lost because the host had no descriptor left.
        """
        if not self._host.intact():
            return
        room = RECEIVE_BYTES
        with borrowed(self._host, socket.SOCK_DGRAM) as end:
            while room > 0:
                try:
                    with above_standard():
                        data, descriptors, _, _ = socket.recv_fds(end, DATAGRAM_BYTES, 1)
                except OSError:  # nothing more now
                    return
                room -= len(data)
                if data[:1] == _IN_FILE:
                    if not descriptors:
                        yield [], int(data[1:])
                        continue
                    file = Descriptor(descriptors[0])
                    data = read_whole(file.fileno())
                    file.close()
                    room -= len(data)
                yield whole_lines(data), 0

    def sending(self, lines: bytes, count: int) -> Iterator[object]:
        """Send whole lines, all or none. For a child.

        Returns:
            An iterator of C that sends when it is asked for its one item, as `write_now`; if the lines need a file,
            the call may be interrupted. It raises BlockingIOError if the socket is full, and another OSError if the
            host has ended.

        Raises:
            OSError: This process has closed the channel.
        """
        if not self._child.intact():
            raise OSError(errno.EBADF, os.strerror(errno.EBADF))
        if len(lines) <= DATAGRAM_BYTES:
            return map(os.writev, (self._child.fileno(),), ((lines,),))  # with eventlet `write` waits
        return map(self._send_file, (lines,), (count,))

    def _send_file(self, lines: bytes, count: int) -> None:
        file = memory_file(lines)
        # A copy, because an interrupt closes the socket object's descriptor.
        with above_standard(), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM, 0, os.dup(self._child.fileno())) as end:
            end.setblocking(False)  # otherwise gevent would wait
            socket.send_fds(end, [_IN_FILE + b"%d" % count], [file.fileno()])

    def detach_in_child(self) -> None:
        """In a child, close the host's end, so that sending fails when the host has ended."""
        self._host.close()

    def wait(self, seconds: float) -> None:
        """Wait until there is room to send, at most this long. For a child."""
        wait([], [self._child.fileno()], seconds)

    def close(self) -> None:
        """Close both ends in this process."""
        self._host.close()
        self._child.close()


class _HandOver:
    """Lines on their way to the host. They stay referenced here until they are sent."""

    __slots__ = ("ended", "lines")

    def __init__(self) -> None:
        self.lines: list[bytes] = []
        self.ended: list[object] = []  # not empty once the lines were sent, or lost


class ForkedOutlet:
    """Sends the lines of a forked child's outbox to the host.

    Args:
        channel: The socket pair.
        lines: The lines that wait in the outbox of this child.
        on_lost: Called once, with the error, when lines can't be sent, for example because the host has ended.
    """

    def __init__(self, channel: ForkChannel, lines: deque[bytes], on_lost: Callable[[OSError], None]) -> None:
        self._channel = channel
        self._lines = lines
        self._on_lost = on_lost
        self._lock = threading.Lock()  # held while lines are sent; an emit never waits for it
        self._now = _HandOver()
        self.handed_over = 0  # lines
        self.lost = 0  # lines that could not be sent
        self.bytes = 0  # of both
        self.finish_at_exit()

    def waiting(self) -> int:
        """The number of lines that are not handed over yet."""
        return len(self._lines) + (0 if self._now.ended else len(self._now.lines))

    def put(self) -> None:
        """Send the waiting lines. If the socket is full, a thread sends the rest. This never waits."""
        if self._lock.locked():
            return  # the thread that holds it checks for more lines
        with self._lock:
            done = self._hand_over()
        if not done:
            try:
                threading.Thread(target=self._hand_over_in_time, name="socketpusher-fork", daemon=True).start()
            except RuntimeError:  # the interpreter is exiting: `finish` sends them
                pass
        elif self._lines:  # appended meanwhile, by a thread that found the lock held
            self.put()

    def finish(self, deadline: Deadline) -> bool:
        """Send the rest until the deadline. Returns whether nothing is left."""
        while True:
            # The lock is needed even if the outbox is empty: its holder may be sending the last lines.
            taken: list[bool] = []  # one call of C acquires the lock and notes it here
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
        """Register `finish` to be called when the interpreter exits."""
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
        """Send the waiting lines. Returns False if the socket is full."""
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
            except OSError as error:
                now.ended.append(None)
                self.lost += len(now.lines)
                if self.lost == len(now.lines):
                    self._on_lost(error)
            self.bytes += len(data)

    def _count_lines(self) -> int:
        """The number of waiting lines that fit into one message."""
        size = 0
        for count in range(len(self._lines)):
            size += len(self._lines[count])
            if count and size > DATAGRAM_BYTES:
                return count
        return len(self._lines)
