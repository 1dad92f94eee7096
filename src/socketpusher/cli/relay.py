"""`socketpusher relay`: what is sent to a socket, into a stream of NATS JetStream."""

import argparse
import os
from contextlib import ExitStack

from .arguments import add_allowed_senders, add_path, positive, size
from .nats_options import add_nats_options, duration, stream_options
from .output import status

SUMMARY = "publish the events sent to a socket to NATS JetStream"
DESCRIPTION = """\
Listens on a Unix socket and publishes each event to NATS JetStream. Read them there with socketpusher watch --from,
socketpusher listen --from or, in Python, socketpusher.subscribe. A message is the line, byte for byte, without its
newline. Its subject is PREFIX.HOST.SESSION.TYPE. A session is one pusher, from its start to its end.

An event leaves the socket only when the stream has acknowledged it. While NATS is slow or unreachable, events wait in
the socket and in the pusher, as many as fit there. If a relay is killed, the next one publishes what it had not
finished.

Use PusherConfig(event_ids=True): then each event is in the stream exactly once and in the order of its session, however
long an outage lasts. Without ids, lines are deduplicated by content within the duplicate window: identical lines are
merged, and after a longer outage some may be stored twice.

If the stream does not exist, it is created. An existing stream is not changed, and must have the limits you give here.
"""

EXAMPLES = """\
examples:
  socketpusher relay                       from the default socket to localhost
  socketpusher relay --to nats://nats.example.org --token-file ~/.nats-token
  socketpusher relay --to tls://nats1.example.org,tls://nats2.example.org
  socketpusher relay --max-age 30d --max-bytes 20G
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    add_path(parser, "where to listen")
    add_allowed_senders(parser)
    parser.add_argument(
        "--to",
        metavar="URL",
        default="nats://localhost",
        help="the servers, several separated by commas (default: %(default)s)",
    )
    parser.add_argument(
        "--host",
        metavar="NAME",
        default=os.uname().nodename,
        help="the name of this host there (default: %(default)s)",
    )
    add_nats_options(parser)
    group = parser.add_argument_group("limits of a new stream")
    group.add_argument("--replicas", type=positive, metavar="N", help="how many servers keep it (default: 1)")
    group.add_argument("--max-age", type=duration, metavar="TIME", help="how long it keeps events (default: 7d)")
    group.add_argument(
        "--max-bytes", type=size, metavar="SIZE", help="how much it keeps at most, with K, M or G (default: 1G)"
    )
    group.add_argument(
        "--duplicate-window",
        type=duration,
        metavar="TIME",
        help="how long it remembers ids; for events without ids, longer than any outage (default: 120s)",
    )


def run(arguments: argparse.Namespace) -> int:
    """Run it until a signal comes. Returns the exit code."""
    import asyncio

    from ..jetstream.options import NatsOptions
    from ..listener.listener import listen
    from ..listener.problems import ProblemLog
    from ..terminal.tty import uninterrupted

    try:
        options = NatsOptions(arguments.to, **stream_options(arguments))
    except ImportError as error:
        raise OSError(str(error)) from None
    from nats.js.api import StreamConfig  # NatsOptions has looked for it

    from ..jetstream.relay import Relay

    limits = StreamConfig(
        num_replicas=arguments.replicas,
        max_age=arguments.max_age,
        max_bytes=arguments.max_bytes,
        duplicate_window=arguments.duplicate_window or 0,
    )
    if not 0 < len(arguments.host) <= 255:
        raise ValueError("the name of a host has 1 to 255 characters; give another one with --host")
    with ExitStack() as opened:
        with uninterrupted():
            listener = opened.enter_context(
                listen(arguments.path, raw=True, allow_uids=arguments.allow_uid, on_problem=ProblemLog(status))
            )

        async def publish() -> int:
            relay = Relay(listener, options, limits, arguments.host, status)
            code = 0
            try:
                code = 128 + await relay.run()
            finally:
                if code or relay.stored:
                    status(relay.summary())
            return code

        status(f"listening on {listener.path}")
        return asyncio.run(publish())
