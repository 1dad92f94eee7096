"""What a line is called in JetStream: its subject and its message id. Pure.

A subject is PREFIX.HOST.SESSION.TYPE. The host and the session are one token each; the type keeps its dots, so that
`PREFIX.*.*.unit.>` is every unit event, and `PREFIX.*.*.*.failed` all that failed. In a token every character but
ASCII letters, digits, "-", "_" and "~" is percent-encoded as UTF-8, and an empty one is "%", so no name can be a
wildcard, end a token or break the protocol.

A message id is the event's own id, "<session>-<n>". A line without one has the host's name and a digest of the line. A
`graph` that a connection of a pusher with ids begins with has the id of the event behind it, and "/graph".
"""

import hashlib
from typing import NamedTuple
from urllib.parse import quote, unquote

TYPE_CHARACTERS = 100
"""A longer type is cut in the subject, for a server takes 4 KiB of those and hangs up at more."""

SESSION_CHARACTERS = 100
"""An id whose session is longer is none."""

_OF_A_GRAPH = "/graph"


class EventId(NamedTuple):
    """What an id says."""

    session: str
    n: int


class Source(NamedTuple):
    """Where an event in a stream comes from.

    Args:
        host: The host, as its relay calls it.
        session: One pusher, from its start to its end; for senders without ids, one process.
    """

    host: str
    session: str

    def __str__(self) -> str:
        return f"{self.host} {self.session}"


def token(text: str) -> str:
    """The text as one token of a subject."""
    return quote(text, safe="", errors="surrogatepass").replace(".", "%2E") or "%"


def subject(prefix: str, host: str, session: str, kind: str) -> str:
    """The subject of an event of a type."""
    kinds = ".".join(map(token, kind[:TYPE_CHARACTERS].split(".")))
    return f"{prefix}.{token(host)}.{token(session)}.{kinds}"


def subject_filter(prefix: str, host: str | None, session: str | None) -> str:
    """The filter for all events of a host, of a session, or of any."""
    host_token = "*" if host is None else token(host)
    session_token = "*" if session is None else token(session)
    return f"{prefix}.{host_token}.{session_token}.>"


def source(prefix: str, subject: str) -> Source:
    """Where an event with this subject comes from."""
    tokens = subject[len(prefix) + 1 :].split(".")
    host, session = map(_name, (*tokens, "", "")[:2])
    return Source(host, session)


def _name(token: str) -> str:
    """What `token` was made of."""
    if token == "%":
        return ""
    try:
        return unquote(token, errors="surrogatepass")
    except UnicodeDecodeError:  # somebody else's
        return unquote(token)


def checked_prefix(prefix: str) -> str:
    """The prefix; raises `ValueError` if subjects can't begin with it."""
    tokens = prefix.split(".")
    if len(prefix) > 200 or not all(part and token(part) == part for part in tokens):
        raise ValueError(
            f"a prefix of subjects must be words of ASCII letters, digits, '-' and '_' joined by dots, not {prefix!r}"
        )
    return prefix


def number(id: object) -> EventId | None:
    """What an id says; None if it has not the form "<session>-<n>"."""
    if not isinstance(id, str):
        return None
    session, _, digits = id.rpartition("-")
    n = _counted(digits)
    return EventId(session, n) if n and 0 < len(session) <= SESSION_CHARACTERS else None


def _counted(digits: str) -> int:
    """A number from 1 on, as ids have it, or 0 if it is none."""
    plain = len(digits) <= 18 and digits.isascii() and digits.isdecimal() and digits[0] != "0"
    return int(digits) if plain else 0


def message_id(number: EventId) -> str:
    """The message id of an event with an id: that, wherever a header can hold it."""
    session = number.session
    plain = session.isascii() and session.isprintable() and " " not in session
    return f"{session if plain else token(session)}-{number.n}"


def graph_message_id(behind: EventId) -> str:
    """The message id of the `graph` that comes right before an event."""
    return message_id(behind) + _OF_A_GRAPH


def digest_message_id(host: str, line: bytes) -> str:
    """The message id of a line without an id."""
    return f"{token(host)}:{hashlib.sha256(line).hexdigest()[:32]}"


def last_stored_seq(id: str) -> int:
    """Up to which number a session is stored, told by the id of its last message; 0 if that does not tell."""
    behind = id.endswith(_OF_A_GRAPH)
    n = _counted(id.removesuffix(_OF_A_GRAPH).rpartition("-")[2])
    return n - 1 if behind and n else n
