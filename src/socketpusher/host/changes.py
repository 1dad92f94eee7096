"""Waiting for a condition, from any thread and from a signal handler that interrupts one that waits.

`threading.Condition` is written in Python: an exception of a signal handler between two of its statements leaves its
lock in the wrong state. Here each wait has a lock of its own in C. What an interrupted one leaves behind is freed by
the next change.
"""

import threading
from collections import deque
from collections.abc import Callable

from ..channel.clock import Deadline


class Changes:
    """Tells whoever waits that something has changed."""

    def __init__(self) -> None:
        self._waiters: deque[threading.Lock] = deque()

    def notify(self) -> None:
        """Let everybody who waits look again."""
        for _ in range(len(self._waiters)):
            try:
                self._waiters.popleft().release()
            except (IndexError, RuntimeError):  # somebody else was quicker, or its owner never came to wait
                pass

    def wait_until(self, condition: Callable[[], bool], deadline: Deadline, pause: float = 3600.0) -> bool:
        """Wait until the condition holds or the deadline is over; whether it holds then.

        Args:
            condition: It is asked again at each change, and after each pause.
            deadline: Until when.
            pause: The longest time between two questions, in seconds.
        """
        while not condition():
            waiter = threading.Lock()
            waiter.acquire()
            self._waiters.append(waiter)
            if condition() or deadline.over():
                break
            waiter.acquire(timeout=min(pause, deadline.remaining()))
        return condition()
