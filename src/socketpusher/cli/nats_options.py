"""What the commands that go to NATS have in common."""

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
    """Add the options that say which stream, and how the servers are to know who this is."""
    group = parser.add_argument_group("NATS")
    group.add_argument("--stream", metavar="NAME", default=STREAM, help="the stream (default: %(default)s)")
    group.add_argument("--prefix", default=PREFIX, help="what its subjects begin with (default: %(default)s)")
    group.add_argument("--creds", metavar="FILE", help="credentials; needs nkeys: pip install 'nats-py[nkeys]'")
    group.add_argument("--token", help="a token; a user and password go into the URL, nats://user:password@host")
    group.add_argument("--tls-ca", metavar="FILE", help="certificates to trust instead of the system's")
    group.add_argument("--tls-cert", metavar="FILE", help="this client's certificate")
    group.add_argument("--tls-key", metavar="FILE", help="the key of that, unless it is in the same file")


def add_stream_source(parser: argparse.ArgumentParser, what: str = "the history first, then what follows") -> None:
    """Add the options that take the events from a stream instead of a socket."""
    parser.add_argument(
        "--from",
        dest="url",
        metavar="URL",
        help="take them from NATS JetStream, where socketpusher relay puts them, such as nats://localhost; " + what,
    )
    parser.add_argument("--host", metavar="NAME", help="with --from: only of this host, as its relay calls it")
    parser.add_argument("--session", metavar="NAME", help="with --from: only of this pusher")
    add_nats_options(parser)
    parser.set_defaults(error=parser.error)


def subscribed(
    arguments: argparse.Namespace, on_problem: Callable[[str], object], raw: bool = False
) -> "Subscription[Any] | None":
    """The subscription that these options ask for, if they do: of lines if it is to be raw, else of events."""
    if arguments.url is None:
        if arguments.host is not None or arguments.session is not None:
            arguments.error("--host and --session go with --from")
        return None
    if arguments.path is not None:
        arguments.error("give a PATH to listen on, or --from, not both")
    options: dict[str, Any] = options_of(arguments)
    for name in ("host", "session", "stream", "prefix"):
        options[name] = getattr(arguments, name)
    try:
        if raw:
            return subscribe(arguments.url, raw=True, on_problem=on_problem, **options)
        return subscribe(arguments.url, on_problem=on_problem, **options)
    except ImportError as error:
        raise OSError(str(error)) from None


def options_of(arguments: argparse.Namespace) -> dict[str, Any]:
    """Those of these options that `NatsOptions` and `subscribe` take likewise."""
    # asyncio warns of every TLS connection that ends, for nats-py reads it as a stream.
    logging.getLogger("asyncio").setLevel(logging.ERROR)
    return {name: getattr(arguments, name) for name in ("creds", "token", "tls_ca", "tls_cert", "tls_key")}


def duration(text: str) -> float:
    """A time such as 90s, 30m, 12h or 7d in seconds, as an argument's type."""
    match = re.fullmatch(r"([0-9]+)([smhd])", text)
    if match is None or int(match[1]) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a time such as 90s, 30m, 12h or 7d")
    return float(int(match[1]) * _SECONDS[match[2]])
