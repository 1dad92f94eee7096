"""Waiting for a condition, from any thread, and from a signal handler that interrupts a thread that waits.

`threading.Condition` is written in Python: an exception of a signal handler between two of its statements leaves its
lock in the wrong state. Here each wait has its own lock, which is written in C. If a wait is interrupted, the next
change removes its lock.
"""

import threading
from collections import deque
from collections.abc import Callable

from ..channel.clock import Deadline


class Changes:
    """Wakes those who wait when something has changed."""

    def __init__(self) -> None:
        self._waiters: deque[threading.Lock] = deque()

    def notify(self) -> None:
        """Let all waiters check their conditions again."""
        for _ in range(len(self._waiters)):
            try:
                self._waiters.popleft().release()
            except (IndexError, RuntimeError):  # another thread was faster, or the wait was interrupted
                pass

    def wait_until(self, condition: Callable[[], bool], deadline: Deadline, pause: float = 3600.0) -> bool:
        """Wait until the condition holds or the deadline is over. Returns whether the condition holds then.

        Args:
            condition: Checked at each change, and after each pause.
            deadline: When to give up.
            pause: The longest time between two checks, in seconds.
        """
        while not condition():
            waiter = threading.Lock()
            waiter.acquire()
            self._waiters.append(waiter)
            if condition() or deadline.over():
                break
            waiter.acquire(timeout=min(pause, deadline.remaining()))
        return condition()
