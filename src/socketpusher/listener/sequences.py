"""Finds by their ids which events came before, and which are missing. Pure.

The numbers in the ids of a pusher rise by one with each event (see `wire.EventId`). A pusher sends events in that
order, and repeats what its consumer may not have read, in the same order. So the next expected number of a session
usually suffices to find a repetition. The exception: a listener may read the new connection of a pusher before the end
of the old one, which may still hold events that the pusher has dropped since. Such events are late, not repeated, so up
to 64 gaps per session are remembered.
"""

from ..wire import EventId

SESSIONS = 1024
"""How many sessions are remembered; of more, the one that was silent for longest is forgotten."""

GAPS = 64
"""How many gaps of a session are remembered; an event that is late for an older gap counts as a repetition."""

Missed = range | None
NOTHING_MISSED = range(0)


class SequenceTracker:
    """Remembers which numbers of each session have come."""

    def __init__(self) -> None:
        self._sequences: dict[str, _Sequence] = {}
        self._session = ""  # of the last event
        self._sequence = _Sequence()  # of that session

    def observe(self, event_id: EventId, retained: bool) -> Missed:
        """Note that an event has come.

        Args:
            event_id: Its id.
            retained: Whether the pusher repeats it to show the state of the run; then no number before it is missing.

        Returns:
            None for a repetition; else the missing numbers right before this one, often none.
        """
        session, n = event_id
        if session != self._session:
            self._sequence = self._sequences.pop(session) if session in self._sequences else _Sequence()
            self._sequences[session] = self._sequence
            self._session = session
            if len(self._sequences) > SESSIONS:
                del self._sequences[next(iter(self._sequences))]
        return self._sequence.observe(n, retained)


class _Sequence:
    __slots__ = ("_known", "_missing", "_next")

    def __init__(self) -> None:
        self._next = 1
        self._known = False  # whether an event came that was not retained: numbers missing after it are a gap
        self._missing: list[range] = []

    def observe(self, number: int, retained: bool) -> Missed:
        if number == self._next:
            self._next += 1
            self._known = self._known or not retained
            return NOTHING_MISSED
        if number > self._next:
            missed = range(self._next, number)
            self._next = number + 1
            self._missing = [*self._missing[1 - GAPS :], missed]
            known, self._known = self._known, self._known or not retained
            return missed if known else NOTHING_MISSED
        return NOTHING_MISSED if self._fill(number) else None

    def _fill(self, number: int) -> bool:
        for place, gap in enumerate(self._missing):
            if number in gap:
                parts = (range(gap.start, number), range(number + 1, gap.stop))
                self._missing[place : place + 1] = [part for part in parts if part]
                del self._missing[:-GAPS]
                return True
        return False
