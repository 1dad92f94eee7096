"""What the commands that connect to NATS have in common."""

import argparse
import logging
import re
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from ..jetstream import PREFIX, STREAM, subscribe
from ..terminal.text import plural
from .arguments import positive, seconds
from .output import status

if TYPE_CHECKING:
    from ..jetstream.subscription import Subscription

REPORT_PERIOD = 10.0
"""How often a command says how far behind it is, in seconds."""

_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86_400}


def add_nats_options(parser: argparse.ArgumentParser) -> None:
    """Add the options that say which stream to use, and how to log in."""
    group = parser.add_argument_group(
        "NATS JetStream",
        "Other users of this machine can see passwords and tokens on a command line. Put them into a file, or into "
        "the environment variables NATS_CREDS (a file), NATS_TOKEN, or NATS_USER and NATS_PASSWORD.",
    )
    group.add_argument("--stream", metavar="NAME", help=f"the name of the stream (default: {STREAM})")
    group.add_argument("--prefix", metavar="NAME", help=f"the first part of its subjects (default: {PREFIX})")
    group.add_argument("--creds", metavar="FILE", help="a credentials file; needs pip install 'nats-py[nkeys]'")
    token = group.add_mutually_exclusive_group()
    token.add_argument("--token-file", metavar="FILE", help="a file that contains a token")
    token.add_argument("--token", help="a token; other users can see it here")
    group.add_argument("--tls-ca", metavar="FILE", help="the certificates to trust instead of the system's")
    group.add_argument("--tls-cert", metavar="FILE", help="the certificate of this client")
    group.add_argument("--tls-key", metavar="FILE", help="its key, unless it is in the same file")


def add_stream_source(
    parser: argparse.ArgumentParser,
    what: str = "first the events that the stream has kept, then new ones",
    timeout: str = "with --from: give up when the stream can't be read for so long (default: never)",
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
    start = parser.add_mutually_exclusive_group()
    start.add_argument(
        "--since",
        type=moment,
        metavar="TIME",
        help="with --from: only events that the stream stored since 2026-11-27T17:30 (local time, unless it ends in Z "
        "or +01:00) or in the last 90s, 30m, 12h or 7d",
    )
    start.add_argument(
        "--last",
        type=positive,
        metavar="N",
        help="with --from: start with the last N events, of this host and session if you give them",
    )
    parser.add_argument("--timeout", type=seconds, metavar="SECONDS", help=timeout)
    add_nats_options(parser)


def subscribed(
    arguments: argparse.Namespace, on_problem: Callable[[str], object], raw: bool = False
) -> "Subscription[Any] | None":
    """Return the subscription that `--from` asks for, or None without it: of lines if `raw`, else of events."""
    given = stream_options(arguments)
    names = ("host", "session", "since", "last")
    given |= {name: value for name in names if (value := getattr(arguments, name)) is not None}
    if arguments.url is None:
        if given:
            name = "token-file" if arguments.token_file is not None else next(iter(given)).replace("_", "-")
            arguments.parser.error(f"--{name} needs --from")
        return None
    if arguments.path is not None:
        arguments.parser.error("give a path or --from, not both")
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
    if arguments.token_file is not None:
        try:
            with open(arguments.token_file, encoding="utf-8") as file:
                arguments.token = file.read().strip()
        except OSError as error:
            raise OSError(error.errno, f"can't read the token: {error.strerror}", arguments.token_file) from None
        except UnicodeDecodeError:
            raise ValueError(f"can't read the token: it is not UTF-8: {arguments.token_file}") from None
        if not arguments.token:
            raise ValueError(f"can't read the token: the file is empty: {arguments.token_file}")
    names = ("creds", "token", "tls_ca", "tls_cert", "tls_key", "stream", "prefix")
    return {name: value for name in names if (value := getattr(arguments, name)) is not None}


class Patience:
    """How long a command waits for its subscription. Meanwhile it says on standard error how far behind that is.

    Args:
        arguments: With `timeout`, for how many seconds it may be impossible to read the stream.
        subscription: What it reads; None, with which it never gives up, if that is not a stream.
        default: The timeout if none is given; None for no limit.
    """

    def __init__(
        self, arguments: argparse.Namespace, subscription: "Subscription[Any] | None", default: float | None = None
    ) -> None:
        if arguments.timeout is not None and subscription is None:
            arguments.parser.error("--timeout needs --from")
        self._subscription = subscription
        self._timeout = default if arguments.timeout is None else arguments.timeout
        self._report_at = time.monotonic() + REPORT_PERIOD

    def left(self) -> float | None:
        """Return how many seconds are left; None without a limit. Raises `TimeoutError` if none are."""
        source, now = self._subscription, time.monotonic()
        if source is None:
            return None
        if now >= self._report_at:
            self._report_at = now + REPORT_PERIOD
            if source.pending:
                status(f"{plural(source.pending, 'event')} behind")
        if self._timeout is None or source.silent_since is None:
            return None
        if (left := source.silent_since + self._timeout - now) <= 0:
            silence = f"nothing has come from {source.title} for {self._timeout:g} s"
            raise TimeoutError(f"{silence}; check that the server can be reached, or give a longer --timeout")
        return left


def moment(text: str) -> datetime:
    """Return a time such as 2026-11-27T17:30Z, or one such as 30m ago, as an argument's type."""
    try:
        return datetime.now(UTC).replace(microsecond=0) - timedelta(seconds=duration(text))
    except (argparse.ArgumentTypeError, OverflowError):
        try:
            return datetime.fromisoformat(text).astimezone(UTC)
        except (ValueError, OverflowError):
            pass
    raise argparse.ArgumentTypeError(f"{text!r} is not a time such as 2026-11-27T17:30, 90s, 30m, 12h or 7d")


def duration(text: str) -> float:
    """Return a time such as 90s, 30m, 12h or 7d in seconds, as an argument's type."""
    match = re.fullmatch(r"([0-9]{1,12})([smhd])", text)
    length = int(match[1]) * _SECONDS[match[2]] if match else 0
    if not 1 <= length < 2**63 // 10**9:  # the server counts nanoseconds
        raise argparse.ArgumentTypeError(f"{text!r} is not a time such as 90s, 30m, 12h or 7d, of less than 292 years")
    return float(length)
