"""Which events have come already, and which are missing, told by their ids. Pure.

An id is "<session>-<n>": n is 1 for the first event of a pusher and rises by one with each. A pusher sends in that
order, and sends again, in that order, what its consumer may not have read. So per session the next number is enough to
know a repetition, but for one case: a listener that reads the new connection of a pusher before the end of the old one
may find in the old one what the pusher has given up and dropped meanwhile. Those come late, not twice; so what is
missing is remembered too, as far as memory is bounded.
"""

SESSIONS = 1024
"""How many sessions are remembered; of more, the one that was silent for longest is forgotten."""

GAPS = 64
"""How many gaps of a session are remembered; what comes late into an older one is taken for a repetition."""


class SequenceTracker:
    """What has come of each session."""

    def __init__(self) -> None:
        self._sessions: dict[str, _Sequence] = {}
        self._name = ""  # of the session that the last event belonged to
        self._session = _Sequence()  # that session

    def take(self, id: str, retained: bool) -> "Taken":
        """Take an event in.

        Args:
            id: Its id. One that has not the form of a pusher's id always belongs to an event that is new.
            retained: Whether the pusher tells it again, so that what is missing before it says nothing.

        Returns:
            None for a repetition; else the numbers that were missed right before it, which may be none.
        """
        name, _, digits = id.rpartition("-")
        if not name or len(digits) > 18 or not (digits.isascii() and digits.isdecimal()) or digits[0] == "0":
            return _NONE
        if name != self._name:
            self._session = self._sessions.pop(name) if name in self._sessions else _Sequence()
            self._sessions[name] = self._session
            self._name = name
            if len(self._sessions) > SESSIONS:
                del self._sessions[next(iter(self._sessions))]
        return self._session.take(int(digits), retained)


class _Sequence:
    __slots__ = ("_known", "_missing", "_next")

    def __init__(self) -> None:
        self._next = 1
        self._known = False  # whether what came so far says where this listener has begun to listen
        self._missing: list[range] = []

    def take(self, number: int, retained: bool) -> "Taken":
        if number == self._next:
            self._next += 1
            self._known = self._known or not retained
            return _NONE
        if number > self._next:
            missed = range(self._next, number)
            self._next = number + 1
            self._missing = [*self._missing[1 - GAPS :], missed]
            known, self._known = self._known, self._known or not retained
            return missed if known else _NONE
        return _NONE if self._fill(number) else None

    def _fill(self, number: int) -> bool:
        for place, gap in enumerate(self._missing):
            if number in gap:
                parts = (range(gap.start, number), range(number + 1, gap.stop))
                self._missing[place : place + 1] = [part for part in parts if part]
                return True
        return False


Taken = range | None
_NONE = range(0)
