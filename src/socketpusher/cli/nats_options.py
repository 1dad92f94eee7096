"""What the commands that connect to NATS have in common."""

import argparse
import logging
import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from ..jetstream import PREFIX, STREAM, subscribe

if TYPE_CHECKING:
    from ..jetstream.subscription import Subscription

_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86_400}


def add_nats_options(parser: argparse.ArgumentParser) -> None:
    """Add the options that say which stream to use, and how to log in."""
    group = parser.add_argument_group("NATS JetStream")
    group.add_argument("--stream", metavar="NAME", help=f"the name of the stream (default: {STREAM})")
    group.add_argument("--prefix", metavar="NAME", help=f"the first part of its subjects (default: {PREFIX})")
    group.add_argument("--creds", metavar="FILE", help="a credentials file; needs pip install 'nats-py[nkeys]'")
    group.add_argument("--token", help="a token; a user and password go into the URL, nats://user:password@host")
    group.add_argument("--tls-ca", metavar="FILE", help="the certificates to trust instead of the system's")
    group.add_argument("--tls-cert", metavar="FILE", help="the certificate of this client")
    group.add_argument("--tls-key", metavar="FILE", help="its key, unless it is in the same file")


def add_stream_source(
    parser: argparse.ArgumentParser, what: str = "first the events that the stream has kept, then new ones"
) -> None:
    """Add the options that take the events from a stream instead of a socket."""
    parser.add_argument(
        "--from",
        dest="url",
        metavar="URL",
        help="read from NATS JetStream, where socketpusher relay writes, such as nats://localhost: " + what,
    )
    parser.add_argument("--host", metavar="NAME", help="with --from: only this host, by the name its relay uses")
    parser.add_argument("--session", metavar="NAME", help="with --from: only this session (one pusher)")
    add_nats_options(parser)


def subscribed(
    arguments: argparse.Namespace, on_problem: Callable[[str], object], raw: bool = False
) -> "Subscription[Any] | None":
    """Return the subscription that `--from` asks for, or None without it: of lines if `raw`, else of events."""
    given = stream_options(arguments)
    given |= {name: value for name in ("host", "session") if (value := getattr(arguments, name)) is not None}
    if arguments.url is None:
        if given:
            arguments.parser.error(f"--{next(iter(given)).replace('_', '-')} needs --from")
        return None
    if arguments.path is not None:
        arguments.parser.error("give a PATH or --from, not both")
    if getattr(arguments, "allow_uid", None):
        arguments.parser.error("--allow-uid is for a socket, not for --from")
    try:
        if raw:
            return subscribe(arguments.url, raw=True, on_problem=on_problem, **given)
        return subscribe(arguments.url, on_problem=on_problem, **given)
    except ImportError as error:
        raise OSError(str(error)) from None


def stream_options(arguments: argparse.Namespace) -> dict[str, Any]:
    """Return the given options that say which stream to use and how to log in, by their names in `NatsOptions`."""
    if arguments.tls_key and not arguments.tls_cert:
        arguments.parser.error("--tls-key needs --tls-cert")
    # asyncio warns of each TLS connection that ends, for nats-py reads it as a stream.
    logging.getLogger("asyncio").setLevel(logging.ERROR)
    names = ("creds", "token", "tls_ca", "tls_cert", "tls_key", "stream", "prefix")
    return {name: value for name in names if (value := getattr(arguments, name)) is not None}


def duration(text: str) -> float:
    """Return a time such as 90s, 30m, 12h or 7d in seconds, as an argument's type."""
    match = re.fullmatch(r"([0-9]+)([smhd])", text)
    if match is None or int(match[1]) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a time such as 90s, 30m, 12h or 7d")
    return float(int(match[1]) * _SECONDS[match[2]])
