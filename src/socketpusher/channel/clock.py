"""The clock that host and writer share, and deadlines on it.

Hosts freeze and shift the clocks of `time` (freezegun replaces `time.monotonic` in every module). This one is read by
its number, which nobody replaces.
"""

import time
from functools import partial

now = partial(time.clock_gettime, time.CLOCK_MONOTONIC)
"""Seconds on the monotonic clock of this machine, the same in every process."""

LONGEST_WAIT = 1e6
"""The longest wait of one call, in seconds; then the caller repeats it. poll(2) takes 24 days, a lock 292 years."""

_LAST = 2**63 - 1


class Deadline:
    """A point in time.

    Args:
        seconds: The time from now. A negative one counts as 0.
    """

    __slots__ = ("at",)

    def __init__(self, seconds: float) -> None:
        self.at = now() + max(0.0, seconds)

    def remaining(self) -> float:
        """The seconds that are left, from 0 to `LONGEST_WAIT`."""
        return min(max(0.0, self.at - now()), LONGEST_WAIT)

    def over(self) -> bool:
        """Whether the deadline has passed."""
        return now() >= self.at

    def nanoseconds(self) -> int:
        """The deadline as a 64-bit int for the ledger, in nanoseconds."""
        return min(int(self.at * 1e9), _LAST) if self.at < _LAST / 1e9 else _LAST
