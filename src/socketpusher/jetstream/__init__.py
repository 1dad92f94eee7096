"""The same events on NATS JetStream: from a socket into a stream, and from the stream to consumers anywhere.

subjects.py      what a line is called there: its subject and its message id. Pure
access.py        which servers, and how they know who it is
link.py          one connection to them that is kept, and requests whose answer may be lost
stream.py        the stream: made, or checked to be what is needed
relay.py         lines of a socket into the stream, each once, in order
subscription.py  events out of the stream, each once, in order

nats-py is an extra, so nothing here is imported before it is needed, but for `subscribe`.
"""

import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Literal, overload

if TYPE_CHECKING:
    from ..events import Event
    from .subscription import Subscription

logger = logging.getLogger("socketpusher")

STREAM = "EVENTS"
"""What the stream is called unless told otherwise."""

PREFIX = "events"
"""What all subjects begin with unless told otherwise."""


def _log(sentence: str) -> None:
    logger.warning("%s", sentence)


@overload
def subscribe(
    url: str,
    *,
    host: str | None = None,
    session: str | None = None,
    raw: Literal[False] = False,
    stream: str = STREAM,
    prefix: str = PREFIX,
    creds: str | None = None,
    token: str | None = None,
    tls_ca: str | None = None,
    tls_cert: str | None = None,
    tls_key: str | None = None,
    on_problem: Callable[[str], object] = _log,
) -> "Subscription[Event]": ...
@overload
def subscribe(
    url: str,
    *,
    host: str | None = None,
    session: str | None = None,
    raw: Literal[True],
    stream: str = STREAM,
    prefix: str = PREFIX,
    creds: str | None = None,
    token: str | None = None,
    tls_ca: str | None = None,
    tls_cert: str | None = None,
    tls_key: str | None = None,
    on_problem: Callable[[str], object] = _log,
) -> "Subscription[bytes]": ...


def subscribe(
    url: str,
    *,
    host: str | None = None,
    session: str | None = None,
    raw: bool = False,
    stream: str = STREAM,
    prefix: str = PREFIX,
    creds: str | None = None,
    token: str | None = None,
    tls_ca: str | None = None,
    tls_cert: str | None = None,
    tls_key: str | None = None,
    on_problem: Callable[[str], object] = _log,
) -> "Subscription[Any]":
    """Receive the events that relays have put into a stream: first those that it has kept, then those that follow.

    Each comes once, and those of a session in the order of the session, through any loss of a connection or a server.

    Args:
        url: The servers, such as "nats://localhost", several separated by commas; a user and a password may be in it.
        host: Only events of this host, as its relay calls it.
        session: Only events of this session: one pusher, from its start to its end.
        raw: Whether to yield the lines of the events, as bytes with their newline, instead of the events.
        stream: The name of the stream.
        prefix: What the relays' subjects begin with.
        creds: A file of NATS credentials.
        token: A token to authenticate with.
        tls_ca: A file of certificates to trust instead of the system's.
        tls_cert: A file with this client's certificate.
        tls_key: A file with the key of that certificate.
        on_problem: Called with a sentence when the connection is lost, or made again, or a message is no event. By
            default it logs a warning.

    Returns:
        An iterator, for `for` and for `async for`, that waits for the next event until it is closed.

    Raises:
        ValueError: The URL, the stream's name or the prefix can't be one.
        ImportError: nats-py is not installed.

        When it is iterated over: OSError, saying what to do, if that can't work. Where it may work later, as when no
        server can be reached, it is tried until it does.

    Example:
        >>> for event in subscribe("nats://localhost", host="build-7"):  # doctest: +SKIP
        ...     print(event.type, event.unit)
    """
    from .options import NatsOptions

    access = NatsOptions(url, creds=creds, token=token, tls_ca=tls_ca, tls_cert=tls_cert, tls_key=tls_key)
    from .subscription import Subscription  # behind the sentence that NatsOptions has for a missing nats-py

    return Subscription(access, stream, prefix, host, session, raw, on_problem)
