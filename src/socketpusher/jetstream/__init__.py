"""Events on NATS JetStream: from a socket into a stream, and from the stream to consumers on any machine.

subjects.py      the subject and the message id of a line. Pure
options.py       the servers and the credentials
connection.py    one connection to the servers, and requests whose answer may be lost
stream.py        creates or checks the stream
relay.py         publishes the lines of a socket to the stream, each once, in order
subscription.py  reads events from the stream, each once, in order

nats-py is an extra, so everything except `subscribe` is imported only when it is needed.
"""

import logging
from collections.abc import Callable
from datetime import datetime
from typing import TYPE_CHECKING, Any, Literal, TypedDict, Unpack, overload

from ..listener.problems import ProblemLog

if TYPE_CHECKING:
    from ..events import Event
    from .subscription import Subscription

logger = logging.getLogger("socketpusher")

STREAM = "EVENTS"
"""The default name of the stream."""

PREFIX = "events"
"""The default first word of all subjects."""


class SubscribeOptions(TypedDict, total=False):
    """The options of `subscribe`, except `raw`."""

    host: str | None
    session: str | None
    since: datetime | None
    last: int | None
    stream: str
    prefix: str
    creds: str | None
    token: str | None
    tls_ca: str | None
    tls_cert: str | None
    tls_key: str | None
    on_problem: Callable[[str], object] | None


@overload
def subscribe(
    url: str, *, raw: Literal[False] = False, **options: Unpack[SubscribeOptions]
) -> "Subscription[Event]": ...
@overload
def subscribe(url: str, *, raw: Literal[True], **options: Unpack[SubscribeOptions]) -> "Subscription[bytes]": ...


def subscribe(
    url: str,
    *,
    host: str | None = None,
    session: str | None = None,
    raw: bool = False,
    since: datetime | None = None,
    last: int | None = None,
    on_problem: Callable[[str], object] | None = None,
    **access: Any,
) -> "Subscription[Any]":
    """Receive the events of a stream that relays publish to: first the stored events, then new ones.

    Each event comes once, and the events of a session in order, even if a connection or a server is lost.

    Args:
        url: The servers, such as "nats://localhost", several separated by commas. A user and a password may be in it,
            percent-encoded, the same for all servers. With "tls://" the connection is encrypted or not made.
        host: Only events of this host, by the name that its relay uses.
        session: Only events of this session: one pusher, from its start to its end.
        raw: Whether to yield the lines of the events, as bytes with their newline, instead of the events.
        since: Only events that the stream has stored since this time; local time if it has no time zone. An event is
            stored when its relay publishes it, which may be later than its own time.
        last: Start with the last N events of this host and this session, or with all if there are fewer.
        stream: The name of the stream.
        prefix: The prefix of the relays' subjects.
        creds: A file of NATS credentials.
        token: A token to authenticate with. If there are no credentials in any of these arguments, they are taken from
            the environment variables NATS_CREDS, NATS_TOKEN, or NATS_USER and NATS_PASSWORD.
        tls_ca: A file of certificates to trust instead of the system's.
        tls_cert: A file with this client's certificate.
        tls_key: A file with the key of that certificate, unless it is in the same file.
        on_problem: Called with a message when the connection is lost or restored, a message is not an event, or the
            stream has removed events before they were read. By default a warning is logged; of many that come at once,
            one for the first and one for the rest.

    Returns:
        An iterator, for `for` and for `async for`, that waits for the next event until it is closed.

    Raises:
        ValueError: The URL, the stream's name, the prefix or `last` is not valid, or `since` and `last` are given.
        ImportError: nats-py is not installed.
        OSError: While iterating, if it can never work; the message says what to do. If it may work later, for example
            when no server can be reached, it retries instead.

    Example:
        >>> for event in subscribe("nats://localhost", host="build-7"):  # doctest: +SKIP
        ...     print(event.type, event.unit)
    """
    from .options import NatsOptions

    options = NatsOptions(url, **access)
    from .subscription import Subscription  # after NatsOptions, whose error for a missing nats-py says what to do

    return Subscription(options, host, session, raw, since, last, on_problem or ProblemLog(logger.warning))
