"""What the commands that go to NATS have in common."""

import argparse
import re

from ..consumers.jetstream import PREFIX, STREAM

_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86_400}


def add_access(parser: argparse.ArgumentParser) -> None:
    """Add the options that say which stream, and how the servers are to know who this is."""
    group = parser.add_argument_group("NATS")
    group.add_argument("--stream", metavar="NAME", default=STREAM, help="the stream (default: %(default)s)")
    group.add_argument("--prefix", default=PREFIX, help="what its subjects begin with (default: %(default)s)")
    group.add_argument("--creds", metavar="FILE", help="credentials; needs nkeys: pip install 'nats-py[nkeys]'")
    group.add_argument("--token", help="a token; a user and password go into the URL, nats://user:password@host")
    group.add_argument("--tls-ca", metavar="FILE", help="certificates to trust instead of the system's")
    group.add_argument("--tls-cert", metavar="FILE", help="this client's certificate")
    group.add_argument("--tls-key", metavar="FILE", help="the key of that, unless it is in the same file")


def access_of(arguments: argparse.Namespace) -> dict[str, str | None]:
    """Those of these options that `Access` and `subscribe` take likewise."""
    return {name: getattr(arguments, name) for name in ("creds", "token", "tls_ca", "tls_cert", "tls_key")}


def duration(text: str) -> float:
    """A time such as 90s, 30m, 12h or 7d in seconds, as an argument's type."""
    match = re.fullmatch(r"([0-9]+)([smhd])", text)
    if match is None or int(match[1]) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a time such as 90s, 30m, 12h or 7d")
    return float(int(match[1]) * _SECONDS[match[2]])
