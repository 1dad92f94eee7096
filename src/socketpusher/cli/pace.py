"""When the events of a recording are due. Pure: times in, seconds out."""

from datetime import datetime, timedelta

DISORDER = timedelta(seconds=1)
"""Threads that emit at once, and several senders, record times a little out of order; more is a clock that was set
back."""


class Pace:
    """Tells for each event, in order, when it is due.

    A pause in the recording is kept, however long. An event that is out of order is due with the one before it; where
    the recording's clock goes back, the event is due with the one before it, and time goes on from there.

    Args:
        speed: How many seconds of the recording pass in a second.
    """

    def __init__(self, speed: float) -> None:
        self._speed = speed
        self._from: datetime | None = None  # the time in the recording that is due at `_due`
        self._due = 0.0
        self._latest = datetime.min  # time so far since the clock was last set back
        self.set_back = 0  # how often it was

    def due(self, time: datetime) -> float:
        """When the next event is due, in seconds since the first one.

        Args:
            time: Its time in the recording, aware.
        """
        if self._from is None:
            self._from = self._latest = time
        elif time < self._latest - DISORDER:
            self.set_back += 1
            self._due = self._at(self._latest)
            self._from = self._latest = time
        self._latest = max(self._latest, time)
        return self._at(self._latest)

    def _at(self, time: datetime) -> float:
        assert self._from is not None  # since the first event
        return self._due + (time - self._from).total_seconds() / self._speed
