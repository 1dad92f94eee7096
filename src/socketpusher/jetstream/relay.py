"""Publishes the events of a socket to a stream: each event once, and the events of a session in order.

1. Lines are taken out of the socket only after JetStream has acknowledged them. If a relay is killed, the pusher finds
   the rest unread and sends it to the next one. If the stream is slow or down, the socket fills up, and then the bounds
   of the pusher apply.
2. The lines of one read are published as an atomic batch: all are stored, in order, or none. (With single messages in
   flight, a server that loses its leader may drop the fifth and store the sixth.) If the outcome of a batch is unknown,
   or a part of it is stored already, it is published again one by one, each message acknowledged before the next.
3. Duplicates are detected in two ways. JetStream drops a message whose id it has seen within the stream's duplicate
   window. And the last message of a session in the stream has the number up to which the session is stored: events up
   to it are not published. This works after an outage of any length.
4. An event older than one already stored for its session is skipped and counted. It can only come from a connection
   that the pusher has given up; the pusher has already resent or dropped (and counted) everything on it.
5. A pusher begins each connection with the event `graph`, the state of the run before the next event. It has no id. It
   is published right before the next event that the stream does not have. If the stream has that event, it has the
   state already.
"""

import asyncio
import secrets
import signal
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import orjson
from nats.js.api import Header, StreamConfig
from nats.js.errors import APIError

from .. import wire
from ..listener.listener import Listener
from ..listener.problems import Sender
from ..unix_socket import process_start_ticks
from ..wire import EventId
from .connection import NatsConnection, OutcomeUnknownError, Reporter, wait_first
from .options import NatsOptions
from .stream import MISSING, Stream, is_missing, prepare, stored_up_to
from .subjects import digest_message_id, graph_message_id, message_id, subject

BATCH = 1000  # the most messages that a server accepts in a batch
SHUTDOWN_GRACE = 3.0  # seconds for messages in flight after a signal; then they stay unread in the socket
PAUSE, LONGEST_PAUSE = 0.2, 5.0  # seconds before a refused message is retried: the first, doubling up to the longest
SESSIONS = 1024  # for how many the last stored number is remembered; for others the stream is asked again

DUPLICATES, FULL = 10201, 10077
"""Error codes of JetStream."""

# What the summary says of events:
_COUNTED = _DUPLICATE, _OUT_OF_ORDER, _SHORTENED = (
    "were stored already",
    "skipped as out of order (their pusher counts them as dropped)",
    "with a placeholder for a payload that was too long",
)


class _Line(NamedTuple):
    """A line without its newline, and its keys that matter here."""

    data: bytes
    type: str
    event_id: EventId | None
    retained: bool


class _Message(NamedTuple):
    subject: str
    id: str
    payload: bytes


class _PublishPlan(NamedTuple):
    """The messages to publish for the lines of one read."""

    messages: list[_Message]
    counts: Counter[str]  # how many events each of `_COUNTED` applies to
    stored_up_to: dict[str, int]  # by session, the number of the last stored event, once these are stored
    graph: _Line | None  # the graph that waits for the next event


class Relay:
    """Publishes the lines of a listener.

    Args:
        listener: The source of the lines.
        options: The stream, its servers and the credentials.
        limits: The limits of the stream, see `prepare`.
        host: The name of this host in the subjects.
        on_info: Called with a message about what happens.
    """

    def __init__(
        self, listener: Listener[bytes], options: NatsOptions, limits: StreamConfig, host: str, on_info: Reporter
    ) -> None:
        self.stored = 0  # messages that the stream has acknowledged
        self.counts: Counter[str] = Counter()  # how many events each of `_COUNTED` applies to
        self._listener = listener
        self._options = options
        self._title = f"the stream {options.stream}"
        self._limits = limits
        self._host = host
        self._on_info = on_info
        self._connection = NatsConnection(options, on_info, on_info)
        self._stream: Stream | None = None  # as last checked; None after trouble
        self._prepared = False  # whether it was ever ready
        self._stored_up_to: dict[str, int] = {}  # by session, the number of the last stored event
        self._stored_at_start: dict[str, int] = {}  # the same when this relay first saw the session
        self._sessions: dict[Sender, str] = {}  # by sender, the session of its lines without an id
        self._graphs: dict[Sender, _Line | None] = {}  # by sender, the graph that waits for its next event
        self._busy = False  # whether lines are being published

    async def run(self) -> int:
        """Relay until a signal comes. Returns its number.

        Raises:
            OSError: It can't work; the message says why. Lines that are not stored stay in the socket.
            ValueError: A file of the options is not valid.
        """
        loop = asyncio.get_running_loop()
        ended: asyncio.Future[int] = loop.create_future()

        def end(number: int) -> None:
            if not ended.done():
                ended.set_result(number)

        numbers = [n for n in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP) if signal.getsignal(n) != signal.SIG_IGN]
        for n in numbers:
            loop.add_signal_handler(n, end, n)
        work = asyncio.ensure_future(self._work(ended))
        try:
            await wait_first(work, ended)
            if not work.done() and self._busy:
                await asyncio.wait({work}, timeout=SHUTDOWN_GRACE)
            if work.done():
                work.result()
            return ended.result()
        finally:
            work.cancel()
            await asyncio.wait({work})
            await self._connection.close()
            for n in numbers:
                loop.remove_signal_handler(n)

    def summary(self) -> str:
        """The counters as a sentence, without a full stop."""
        counted = [f", {self.counts[what]:,} {what}" for what in _COUNTED if self.counts[what]]
        return f"stored {self.stored:,} in {self._options.stream}" + "".join(counted)

    async def _work(self, ended: "asyncio.Future[int]") -> None:
        await self._wait_ready()  # before the first read, so that a permanent error ends it immediately
        while not ended.done():
            await self._wait_readable()
            lines = self._listener.read(hold=True)
            sender = self._listener.sender
            self._busy = True
            if lines and sender is not None:
                await self._store(sender, [_parsed(line) for line in lines])
            self._listener.release()
            await self._drop_disconnected()
            self._busy = False

    async def _wait_readable(self) -> None:
        loop, readable = asyncio.get_running_loop(), asyncio.Event()
        loop.add_reader(self._listener.fileno(), readable.set)
        try:
            await readable.wait()
        finally:
            loop.remove_reader(self._listener.fileno())

    async def _drop_disconnected(self) -> None:
        """Forget disconnected senders. If a graph waits, publish it now, because no event will follow."""
        for sender in (self._sessions.keys() | self._graphs.keys()) - set(self._listener.senders):
            if self._graphs.get(sender) is not None:
                await self._store(sender, [])
            self._sessions.pop(sender, None)
            self._graphs.pop(sender, None)

    async def _store(self, sender: Sender, lines: Sequence[_Line]) -> None:
        """Return when the stream has stored all lines."""
        one_by_one, pause = False, PAUSE
        while True:
            try:
                stream = await self._wait_ready()
                await self._load_stored_seqs(lines)
                plan = self._plan_batch(sender, lines, stream, one_by_one)
                await self._publish(plan.messages, BATCH if stream.atomic and not one_by_one else 1)
                break
            except OutcomeUnknownError as error:
                text = f"it is unknown whether some events were stored: {error}; publishing them again"
                self._connection.report_trouble(text)
            except APIError as error:
                if error.err_code not in (DUPLICATES, FULL) or one_by_one:
                    self._connection.report_trouble(self._advice(error))
                    await asyncio.sleep(pause)
                    pause = min(2 * pause, LONGEST_PAUSE)
            self._stream = None
            self._stored_up_to.clear()
            one_by_one = True
        self._connection.report_recovery(f"{self._title} accepts events again")
        self.counts += plan.counts
        self._stored_up_to = plan.stored_up_to
        self._graphs[sender] = plan.graph

    def _advice(self, error: APIError) -> str:
        if error.err_code == FULL:
            return f"{self._title} is full: {error.description}; purge it or raise its limits; events wait until then"
        return f"{self._title} refuses events: {error.description}; retrying"

    async def _wait_ready(self) -> Stream:
        """Wait for the connection and the stream. Raises `OSError` if a permanent error prevents it."""
        pause = PAUSE
        while True:
            await self._connection.ready()
            if self._stream is not None:
                return self._stream
            try:
                self._stream = await prepare(self._connection, self._options, self._limits)
            except OutcomeUnknownError as error:
                self._connection.report_trouble(f"can't check {self._title}: {error}; retrying")
            except APIError as error:
                if not self._prepared and is_missing(error):
                    raise OSError(MISSING) from None
                self._connection.report_trouble(f"can't use {self._title}: {error.description}; retrying")
                await asyncio.sleep(pause)
                pause = min(2 * pause, LONGEST_PAUSE)
            else:
                if not self._prepared:
                    self._on_info(f"publishing to {self._title} as {self._host}")
                if not self._prepared and not self._stream.atomic:
                    self._on_info(
                        f"{self._title} does not accept atomic batches (allow_atomic, servers from "
                        "2.12 on), so events are published one by one: at most one per round trip"
                    )
                self._prepared = True

    async def _load_stored_seqs(self, lines: Iterable[_Line]) -> None:
        """Ask the stream for the last stored number of each unknown session."""
        if len(self._stored_up_to) > SESSIONS:
            self._stored_up_to.clear()
            self._stored_at_start.clear()
        sessions = {line.event_id.session for line in lines if line.event_id is not None}
        for session in sessions - self._stored_up_to.keys():
            n = await stored_up_to(self._connection, self._options, self._host, session)
            self._stored_up_to[session] = n
            self._stored_at_start.setdefault(session, n)

    def _plan_batch(self, sender: Sender, lines: Sequence[_Line], stream: Stream, one_by_one: bool) -> _PublishPlan:
        stored_up_to = dict(self._stored_up_to)
        graph = self._graphs.get(sender)
        messages: list[_Message] = []
        counts: Counter[str] = Counter()

        def add(line: _Line, session: str, id: str) -> None:
            payload = line.data
            if len(payload) > stream.max_payload:
                payload = _with_placeholder(line, stream.max_payload)
                counts[_SHORTENED] += 1
            messages.append(_Message(subject(self._options.prefix, self._host, session, line.type), id, payload))

        for line in lines:
            if line.event_id is not None:
                session, n = line.event_id
                self._sessions[sender] = session
                if n <= stored_up_to[session]:
                    known = one_by_one or n <= self._stored_at_start[session]
                    if not line.retained:
                        counts[_DUPLICATE if known else _OUT_OF_ORDER] += 1
                        graph = None
                    continue
                stored_up_to[session] = n
                if graph is not None:
                    add(graph, session, graph_message_id(line.event_id))
                    graph = None
                add(line, session, message_id(line.event_id))
            elif line.type == "graph" and graph is None and sender not in self._sessions:
                graph = line
            else:
                session = self._sessions.setdefault(sender, _session_of(sender))
                for each in filter(None, (graph, line)):
                    add(each, session, digest_message_id(self._host, each.data))
                graph = None
        if not lines and graph is not None:
            add(graph, self._sessions.get(sender) or _session_of(sender), digest_message_id(self._host, graph.data))
            graph = None
        return _PublishPlan(messages, counts, stored_up_to, graph)

    async def _publish(self, messages: Sequence[_Message], size: int) -> None:
        """Publish the messages, up to `size` in an atomic batch. Returns when all are acknowledged."""
        for start in range(0, len(messages), size):
            *rest, last = messages[start : start + size]
            batch = {"Nats-Batch-Id": secrets.token_hex(16)} if rest else {}
            for place, message in enumerate(rest, 1):
                headers = {Header.MSG_ID: message.id, **batch, "Nats-Batch-Sequence": str(place)}
                await self._connection.publish(message.subject, message.payload, headers=headers)
            if rest:
                batch |= {"Nats-Batch-Sequence": str(len(rest) + 1), "Nats-Batch-Commit": "1"}
            answer = await self._connection.request(last.subject, last.payload, {Header.MSG_ID: last.id, **batch})
            if rest and answer.get("count") != len(rest) + 1:
                raise OutcomeUnknownError("the answer does not match the batch")
            duplicate = bool(answer.get("duplicate"))
            self.counts[_DUPLICATE] += duplicate
            self.stored += len(rest) + 1 - duplicate


def _parsed(line: bytes) -> _Line:
    fields = wire.parse(line)
    data = wire.as_sent(line).rstrip(b"\n")  # so that a repetition has the same digest
    return _Line(data, fields["type"], EventId.parse(fields.get("id")), wire.is_retained(fields))


def _with_placeholder(line: _Line, limit: int) -> bytes:
    """The line with a placeholder as its payload."""
    fields = wire.parse(line.data)
    id = b',"id":%b' % orjson.dumps(fields["id"]) if line.event_id is not None else b""
    return wire.encode(wire.event_of(fields), limit - len(id)).removesuffix(b"}\n") + id + b"}"


def _session_of(sender: Sender) -> str:
    """A session for the lines of a sender without ids, the same for all connections of its process."""
    ticks = None if sender.pid is None else process_start_ticks(sender.pid)
    return f"sender-{secrets.token_hex(6)}" if ticks is None else f"pid{sender.pid}-{ticks}"
