"""Senders, and what a listener reports besides events: small objects whose `str()` is a sentence."""

import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, eq=False)
class Sender:
    """A connection to the listener. No two are equal.

    Args:
        pid: The process that connected; for a pusher, its writer process. None if the platform does not tell.
        uid: The user of that process, or None.
    """

    pid: int | None
    uid: int | None

    def __str__(self) -> str:
        return "a sender" if self.pid is None else f"process {self.pid}"


@dataclass(frozen=True, slots=True)
class SkippedLine:
    """A line that was not yielded.

    Args:
        sender: Who sent it.
        reason: Why it was skipped, as a clause.
        line: The line without its newline; its first 1,024 bytes if it is too long or its end never came.
    """

    sender: Sender
    reason: str
    line: bytes

    def __str__(self) -> str:
        return f"skipped what {self.sender} wrote: {self.reason}"


@dataclass(frozen=True, slots=True)
class Gap:
    """Events that are missing, as the ids of the events show.

    The pusher has dropped them, or an earlier consumer has read them. If they arrive later, they are yielded.

    Args:
        sender: Who sent the event after the gap.
        session: The first part of the ids; it stands for one pusher, from its start to its end.
        first: The number of the first missing event.
        last: The number of the last one.
    """

    sender: Sender
    session: str
    first: int
    last: int

    def __str__(self) -> str:
        missing = f"event {self.first} is" if self.first == self.last else f"events {self.first} to {self.last} are"
        session = self.session if self.session.isprintable() else repr(self.session)  # a terminal may obey it
        return f"{missing} missing in what {self.sender} sent for the session {session}"


@dataclass(frozen=True, slots=True)
class RefusedSender:
    """A sender that was disconnected because its user may not send.

    Args:
        sender: Who it was.
    """

    sender: Sender

    def __str__(self) -> str:
        return f"refused {self.sender} of user {self.sender.uid}; if it may send, put {self.sender.uid} into allow_uids"


Problem = SkippedLine | Gap | RefusedSender


class FrequentProblem(str):
    """A sentence about a problem of which many may come at once, such as a message that is not an event."""


class Recovery(str):
    """Says that what a plain string has reported as trouble works again."""


class ProblemLog:
    """An `on_problem` that reports the first problem of an episode, and at its end how many more there were.

    An episode ends after a second without a problem, and after a minute at most. A plain string, such as a sentence
    about a lost connection, is reported at once and not counted.

    Args:
        report: Called with each sentence.
    """

    QUIET, LONGEST = 1.0, 60.0

    def __init__(self, report: Callable[[str], object]) -> None:
        self._report = report
        self._began = 0.0  # when the episode began, and when it ends unless another problem comes, in monotonic time
        self._ends: float | None = None
        self._more: Counter[type] = Counter()
        self._missing = 0  # events, in the gaps among them

    def __call__(self, problem: Problem | str) -> None:
        """Report the problem if it is the first of an episode, else count it."""
        self.end_episode()
        if type(problem) is str or isinstance(problem, Recovery):
            self._report(problem)
            return
        now = time.monotonic()
        if self._ends is None:
            self._began = now
            self._report(str(problem))
        else:
            self._more[type(problem)] += 1
            self._missing += problem.last - problem.first + 1 if isinstance(problem, Gap) else 0
        self._ends = min(now + self.QUIET, self._began + self.LONGEST)

    def remaining(self) -> float | None:
        """Return in how many seconds `end_episode` has something to report; None if it has nothing."""
        return max(0.0, self._ends - time.monotonic()) if self._more and self._ends is not None else None

    def end_episode(self, at_once: bool = False) -> None:
        """Report what has come since the first problem, if the episode is over or must end at once."""
        if self._ends is None or not (at_once or time.monotonic() >= self._ends):
            return
        self._ends = None
        if self._more:
            more = [f"{n:,} more {_NAMES.get(kind, 'problem')}{'s' * (n > 1)}" for kind, n in self._more.items()]
            missing = f"; {self._missing:,} more missing events" if self._missing else ""
            self._report(f"{', '.join(more)} within {time.monotonic() - self._began:.1f} s{missing}")
            self._more.clear()
            self._missing = 0


_NAMES: dict[type, str] = {SkippedLine: "skipped line", Gap: "gap", RefusedSender: "refused sender"}
