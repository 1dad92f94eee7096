"""The subject and the message id of a line in JetStream. Pure.

A subject is PREFIX.HOST.SESSION.TYPE. The host and the session are one token each; the type keeps its dots, so that
`PREFIX.*.*.unit.>` is every unit event, and `PREFIX.*.*.*.failed` every failure. In a token every character except
ASCII letters, digits, "-", "_" and "~" is percent-encoded as UTF-8, and an empty token is "%". So no name can be a
wildcard, end a token or break the protocol.

The message id of a line without an id is the host's name and a digest of the line. An event with an id needs none.
"""

import hashlib
from typing import NamedTuple
from urllib.parse import quote, unquote

TYPE_CHARACTERS = 100  # in a subject; a longer type is cut. A server closes the connection at a subject over 4 KiB
TOKEN_CHARACTERS = 256  # of a host or a session, encoded


class Source(NamedTuple):
    """The source of an event in a stream.

    Args:
        host: The name of the host that its relay uses.
        session: One pusher, from its start to its end; for senders without ids, one process.
    """

    host: str
    session: str

    def __str__(self) -> str:
        return f"{self.host} {self.session}"


def token(text: str) -> str:
    """The text as one token of a subject; a digest stands for the end of one that is too long."""
    made = quote(text, safe="", errors="surrogatepass").replace(".", "%2E") or "%"
    if len(made) <= TOKEN_CHARACTERS:
        return made
    return f"{made[: TOKEN_CHARACTERS - 33]}~{hashlib.sha256(made.encode()).hexdigest()[:32]}"


def subject(prefix: str, host: str, session: str, kind: str) -> str:
    """The subject of an event of a type."""
    kinds = ".".join(map(token, kind[:TYPE_CHARACTERS].split(".")))
    return f"{prefix}.{token(host)}.{token(session)}.{kinds}"


def subject_filter(prefix: str, host: str | None, session: str | None) -> str:
    """The filter for the events of a host and a session; None means any."""
    host_token = "*" if host is None else token(host)
    session_token = "*" if session is None else token(session)
    return f"{prefix}.{host_token}.{session_token}.>"


def source(prefix: str, subject: str) -> Source:
    """The source of an event with this subject."""
    tokens = subject[len(prefix) + 1 :].split(".")
    host, session = map(_name, (*tokens, "", "")[:2])
    return Source(host, session)


def _name(token: str) -> str:
    """The text that `token` has encoded."""
    if token == "%":
        return ""
    try:
        return unquote(token, errors="surrogatepass")
    except UnicodeDecodeError:  # not written by a relay
        return unquote(token)


def checked_prefix(prefix: str) -> str:
    """The prefix. Raises `ValueError` if it is not valid."""
    tokens = prefix.split(".")
    if len(prefix) > 200 or not all(part and token(part) == part for part in tokens):
        raise ValueError(
            f"the prefix of subjects must be words of ASCII letters, digits, '-' and '_' joined by dots, not {prefix!r}"
        )
    return prefix


def digest_message_id(host: str, line: bytes) -> str:
    """The message id of a line without an id."""
    return f"{token(host)}:{hashlib.sha256(line).hexdigest()[:32]}"
