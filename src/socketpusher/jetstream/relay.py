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
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

import orjson

from .. import wire
from ..listener.listener import Listener
from ..listener.problems import Sender
from ..unix_socket import process_start_ticks
from .connection import NatsConnection, OutcomeUnknownError, ServerError, wait_first
from .options import NatsOptions
from .stream import MISSING, Stream, StreamSpec, is_missing, last_id, prepare
from .subjects import EventId, digest_message_id, graph_message_id, last_stored_seq, message_id, number, subject

BATCH = 1000
"""The most messages that a server accepts in a batch."""

SHUTDOWN_GRACE = 3.0
"""How long messages in flight may take after a signal, in seconds; then they stay unread in the socket."""

PAUSE, LONGEST_PAUSE = 0.2, 5.0
"""The pauses before a refused message is retried, in seconds: the first, doubling up to the longest."""

SESSIONS = 1024
"""For how many sessions the last stored number is remembered; for others the stream is asked again."""

DUPLICATES, FULL = 10201, 10077
"""Error codes of JetStream."""


class _Line(NamedTuple):
    """A line without its newline, and its keys that matter here."""

    data: bytes
    type: str
    number: EventId | None
    retained: bool


class _Message(NamedTuple):
    subject: str
    id: str
    payload: bytes


class _PublishPlan(NamedTuple):
    """The messages to publish for the lines of one read."""

    messages: list[_Message]
    found: int  # events that the stream has already
    late: int  # events that are skipped because later ones of their session are stored
    shortened: int  # events that get a placeholder as their payload
    graph: _Line | None  # the graph that waits for the next event


class Relay:
    """Publishes the lines of a listener.

    Args:
        listener: The source of the lines.
        access: The servers and the credentials.
        plan: The stream.
        host: The name of this host in the subjects.
        say: Called with a message about what happens.
    """

    def __init__(
        self, listener: Listener[bytes], access: NatsOptions, plan: StreamSpec, host: str, say: Callable[[str], object]
    ) -> None:
        self.stored = 0  # messages that the stream has acknowledged
        self.found = 0  # events that it had already
        self.late = 0  # events that came after later ones of their session
        self.shortened = 0  # events whose payload was too long for it
        self._listener = listener
        self._plan = plan
        self._host = host
        self._say = say
        self._link = NatsConnection(access, say, say)
        self._stream: Stream | None = None  # as last checked; None after trouble
        self._prepared = False  # whether it was ever ready
        self._stored_up_to: dict[str, int] = {}  # by session, the number of the last stored event
        self._stored_at_start: dict[str, int] = {}  # the same when this relay first saw the session
        self._sessions: dict[Sender, str] = {}  # by sender, the session of its lines without an id
        self._graphs: dict[Sender, _Line] = {}  # by sender, the graph that waits for its next event
        self._batches = secrets.token_hex(8)
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
            await self._link.close()
            for n in numbers:
                loop.remove_signal_handler(n)

    def summary(self) -> str:
        """The counters as a sentence, without a full stop."""
        text = f"stored {self.stored:,} in {self._plan.name}"
        if self.found:
            text += f", {self.found:,} were stored already"
        if self.late:
            text += f", {self.late:,} skipped as out of order (their pusher counts them as dropped)"
        if self.shortened:
            text += f", {self.shortened:,} with a placeholder for a payload that was too long"
        return text

    async def _work(self, ended: "asyncio.Future[int]") -> None:
        await self._be_ready()  # before the first read, so that a permanent error ends it immediately
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
        loop = asyncio.get_running_loop()
        readable: asyncio.Future[None] = loop.create_future()
        loop.add_reader(self._listener.fileno(), _settle, readable)
        try:
            await readable
        finally:
            loop.remove_reader(self._listener.fileno())

    async def _drop_disconnected(self) -> None:
        """Forget disconnected senders. If a graph waits, publish it now, because no event will follow."""
        for sender in (self._sessions.keys() | self._graphs.keys()) - set(self._listener.senders):
            if sender in self._graphs:
                await self._store(sender, [])
            self._sessions.pop(sender, None)

    async def _store(self, sender: Sender, lines: Sequence[_Line]) -> None:
        """Return when the stream has stored all lines."""
        singly, pause = False, PAUSE
        while True:
            try:
                stream = await self._be_ready()
                await self._load_stored_seqs(lines)
                planned = self._plan_batch(sender, lines, stream, singly)
                await self._publish(planned.messages, stream.atomic and not singly)
                break
            except OutcomeUnknownError as error:
                self._link.trouble(f"it is unknown whether some events were stored: {error}; publishing them again")
            except ServerError as error:
                if error.err_code not in (DUPLICATES, FULL) or singly:
                    self._link.trouble(self._advice(error))
                    await asyncio.sleep(pause)
                    pause = min(2 * pause, LONGEST_PAUSE)
            self._stream = None
            self._stored_up_to.clear()
            singly = True
        self._link.well(f"the stream {self._plan.name} accepts events again")
        self.found += planned.found
        self.late += planned.late
        self.shortened += planned.shortened
        if planned.graph is None:
            self._graphs.pop(sender, None)
        else:
            self._graphs[sender] = planned.graph
        for line in lines:
            if line.number is not None:
                session, n = line.number
                self._stored_up_to[session] = max(n, self._stored_up_to[session])

    def _advice(self, error: ServerError) -> str:
        name = self._plan.name
        if error.err_code == FULL:
            return f"the stream {name} is full: {error}; purge it or raise its limits; events wait until then"
        return f"the stream {name} refuses events: {error}; retrying"

    async def _be_ready(self) -> Stream:
        """Wait for the connection and the stream. Raises `OSError` if a permanent error prevents it."""
        pause = PAUSE
        while True:
            await self._link.ready()
            if self._stream is not None:
                return self._stream
            try:
                self._stream = await prepare(self._link, self._plan)
            except OutcomeUnknownError as error:
                self._link.trouble(f"can't check the stream {self._plan.name}: {error}; retrying")
            except ServerError as error:
                if not self._prepared and is_missing(error):
                    raise OSError(MISSING) from None
                self._link.trouble(f"can't use the stream {self._plan.name}: {error}; retrying")
                await asyncio.sleep(pause)
                pause = min(2 * pause, LONGEST_PAUSE)
            else:
                if not self._prepared:
                    self._say(f"publishing to the stream {self._plan.name} as {self._host}")
                if not self._prepared and not self._stream.atomic:
                    self._say(
                        f"the stream {self._plan.name} does not accept atomic batches (allow_atomic, servers from 2.12 "
                        "on), so events are published one by one: at most one per round trip"
                    )
                self._prepared = True

    async def _load_stored_seqs(self, lines: Iterable[_Line]) -> None:
        """Ask the stream for the last stored number of each unknown session."""
        if len(self._stored_up_to) > SESSIONS:
            self._stored_up_to.clear()
            self._stored_at_start.clear()
        for session in {line.number.session for line in lines if line.number is not None} - self._stored_up_to.keys():
            id = await last_id(self._link, self._plan.name, self._plan.prefix, self._host, session)
            self._stored_up_to[session] = last_stored_seq(id)
            self._stored_at_start.setdefault(session, self._stored_up_to[session])

    def _plan_batch(self, sender: Sender, lines: Sequence[_Line], stream: Stream, again: bool) -> _PublishPlan:
        lasts = dict(self._stored_up_to)
        graph = self._graphs.get(sender)
        messages: list[_Message] = []
        found = late = shortened = 0

        def add(line: _Line, session: str, id: str) -> None:
            nonlocal shortened
            payload = line.data
            if len(payload) > stream.max_payload:
                payload = _short(line, stream.max_payload)
                shortened += 1
            messages.append(_Message(subject(self._plan.prefix, self._host, session, line.type), id, payload))

        for line in lines:
            if line.number is not None:
                session, n = line.number
                self._sessions[sender] = session
                if n <= lasts[session]:
                    known = again or n <= self._stored_at_start[session]
                    if not line.retained:
                        found += known
                        late += not known
                        graph = None
                    continue
                lasts[session] = n
                if graph is not None:
                    add(graph, session, graph_message_id(line.number))
                    graph = None
                add(line, session, message_id(line.number))
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
        return _PublishPlan(messages, found, late, shortened, graph)

    async def _publish(self, messages: Sequence[_Message], atomic: bool) -> None:
        """Publish the messages. Returns when all are acknowledged."""
        for start in range(0, len(messages), BATCH):
            batch = messages[start : start + BATCH]
            if atomic and len(batch) > 1:
                await self._publish_batch(batch)
                self.stored += len(batch)
                continue
            for message in batch:
                answer = await self._link.ask(message.subject, message.payload, {"Nats-Msg-Id": message.id})
                if answer.get("duplicate"):
                    self.found += 1
                else:
                    self.stored += 1

    async def _publish_batch(self, batch: Sequence[_Message]) -> None:
        id = f"{self._batches}-{secrets.token_hex(8)}"
        for place, message in enumerate(batch, 1):
            headers = {"Nats-Msg-Id": message.id, "Nats-Batch-Id": id, "Nats-Batch-Sequence": str(place)}
            if place < len(batch):
                await self._link.publish(message.subject, message.payload, headers)
            else:
                answer = await self._link.ask(message.subject, message.payload, {**headers, "Nats-Batch-Commit": "1"})
        if answer.get("count") != len(batch):
            raise OutcomeUnknownError("the answer does not match the batch")


def _settle(future: "asyncio.Future[None]") -> None:
    if not future.done():
        future.set_result(None)


def _parsed(line: bytes) -> _Line:
    fields = wire.parse(line)
    data = wire.as_sent(line).rstrip(b"\n")  # so that a repetition has the same digest
    return _Line(data, fields["type"], number(fields.get("id")), wire.is_retained(fields))


def _short(line: _Line, limit: int) -> bytes:
    """The line with a placeholder as its payload."""
    fields = wire.parse(line.data)
    id = b',"id":%b' % orjson.dumps(fields["id"]) if line.number is not None else b""
    return wire.encode(wire.event_of(fields), limit - len(id)).removesuffix(b"}\n") + id + b"}"


def _session_of(sender: Sender) -> str:
    """A session for the lines of a sender without ids, the same for all connections of its process."""
    ticks = None if sender.pid is None else process_start_ticks(sender.pid)
    return f"sender-{secrets.token_hex(6)}" if ticks is None else f"pid{sender.pid}-{ticks}"
