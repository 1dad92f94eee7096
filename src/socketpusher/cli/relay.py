"""`socketpusher relay`: what is sent to a socket, into a stream of NATS JetStream."""

import argparse
import asyncio
import socket
import sys
from typing import TYPE_CHECKING

from ..listener.listener import Listener, listen
from .arguments import Commands, add_command, add_path, positive, size
from .event_format import printable
from .nats_options import add_nats_options, duration, options_of

if TYPE_CHECKING:
    from ..jetstream.options import NatsOptions
    from ..jetstream.stream import StreamSpec

_DESCRIPTION = """\
Listens on a Unix socket and publishes every event that is sent to it to NATS JetStream, where others follow it with
socketpusher watch --from, socketpusher listen --from or socketpusher.subscribe. The message is the line, byte for byte,
without its newline; the subject is PREFIX.HOST.SESSION.TYPE, where a session is one pusher, from its start to its end.

Nothing leaves the socket before the stream has acknowledged it. While NATS is slow or gone, events wait in the socket
and then in the pusher, within its bounds; what a relay that was killed had not finished goes to the next one.

With PusherConfig(event_ids=True), which is recommended, each event is in the stream exactly once, those of a session
in order, however long an outage was. Without ids a line is told by its digest, for as long as the duplicate window: two
equal lines within it are one, and after a longer outage some may be there twice.

The stream is made if it is not there. One that is there stays as it is, and must be what the given options say.
"""

_EXAMPLES = """\
examples:
  socketpusher relay                              from the default socket to a server on this machine
  socketpusher relay /tmp/run.sock --to nats://user:password@nats.example.org
  socketpusher relay --to tls://a.example.org,tls://b.example.org --replicas 3 --creds relay.creds
  socketpusher relay --max-age 30d --max-bytes 20G
"""


def add_to(commands: Commands) -> None:
    """Add the sub-command."""
    summary = "publish what is sent to a socket to NATS JetStream"
    parser = add_command(commands, "relay", summary, _DESCRIPTION, _EXAMPLES)
    add_path(parser, "where to listen")
    parser.add_argument(
        "--to",
        metavar="URL",
        default="nats://localhost",
        help="the servers, several separated by commas (default: %(default)s)",
    )
    parser.add_argument(
        "--host",
        metavar="NAME",
        default=socket.gethostname(),
        help="what this host is called there (default: %(default)s)",
    )
    add_nats_options(parser)
    group = parser.add_argument_group("limits of the stream, where it has to be made")
    group.add_argument("--replicas", type=positive, metavar="N", help="on how many servers it is kept (default: 1)")
    group.add_argument("--max-age", type=duration, metavar="TIME", help="how long it keeps events (default: 7d)")
    group.add_argument(
        "--max-bytes", type=size, metavar="SIZE", help="how much it keeps, the newest; with K, M or G (default: 1G)"
    )
    group.add_argument(
        "--duplicate-window",
        type=duration,
        metavar="TIME",
        help="how long it remembers ids; should be longer than any outage, for events without ids (default: 120s)",
    )
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Run it until a signal comes. Returns the exit code."""
    from ..jetstream.options import NatsOptions

    try:
        access = NatsOptions(arguments.to, **options_of(arguments))
    except ImportError as error:
        raise OSError(str(error)) from None
    from ..jetstream.stream import StreamSpec  # behind that sentence

    plan = StreamSpec(
        arguments.stream,
        arguments.prefix,
        arguments.replicas,
        arguments.max_age,
        arguments.max_bytes,
        arguments.duplicate_window,
    )
    if not 0 < len(arguments.host) <= 255:
        raise ValueError("a host's name has 1 to 255 characters; give another one with --host")
    with listen(arguments.path, raw=True, on_problem=_say) as listener:
        _say(f"listening on {listener.path}")
        return asyncio.run(_relay(listener, access, plan, arguments.host))


async def _relay(listener: "Listener[bytes]", access: "NatsOptions", plan: "StreamSpec", host: str) -> int:
    from ..jetstream.relay import Relay

    relay = Relay(listener, access, plan, host, _say)
    try:
        code = 128 + await relay.run()
    except BaseException:
        if relay.stored:
            _say(relay.summary())
        raise
    _say(relay.summary())
    return code


def _say(what: object) -> None:
    print(printable(str(what)), file=sys.stderr, flush=True)
