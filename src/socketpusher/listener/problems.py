"""Who sent something, and what a listener has to say besides the events: each a small object that prints a sentence."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, eq=False)
class Sender:
    """A connection that somebody sends on; no two are equal.

    Args:
        pid: The process that connected: of a pusher, that of its writer. None where the platform does not tell.
        uid: The user that it ran as, or None.
    """

    pid: int | None
    uid: int | None

    def __str__(self) -> str:
        return "a sender" if self.pid is None else f"process {self.pid}"


@dataclass(frozen=True, slots=True)
class SkippedLine:
    """A line that was not yielded.

    Args:
        sender: Where it came from.
        reason: Why, a clause.
        line: The line without its newline; of one that is too long, the first 1,024 bytes.
    """

    sender: Sender
    reason: str
    line: bytes

    def __str__(self) -> str:
        return f"skipped what {self.sender} wrote: {self.reason}"


@dataclass(frozen=True, slots=True)
class Gap:
    """Events that are missing between two that came, told by their ids.

    The pusher has dropped them, or a consumer before this one had them. Should they come after all, they are yielded.

    Args:
        sender: Where the event behind the gap came from.
        session: What the ids begin with: one pusher, from its start to its end.
        first: The number of the first event that is missing.
        last: The number of the last one.
    """

    sender: Sender
    session: str
    first: int
    last: int

    def __str__(self) -> str:
        missing = f"event {self.first} is" if self.first == self.last else f"events {self.first} to {self.last} are"
        return f"{missing} missing in what {self.sender} sent for the session {self.session}"


@dataclass(frozen=True, slots=True)
class RefusedSender:
    """A sender that was hung up on, for it runs as a user that may not send.

    Args:
        sender: Who it was.
    """

    sender: Sender

    def __str__(self) -> str:
        return f"refused {self.sender} of user {self.sender.uid}; if it may send, put {self.sender.uid} into allow_uids"


Problem = SkippedLine | Gap | RefusedSender
