"""From a socket into a stream: each event once, those of a session in their order, whatever dies on the way.

Nothing is taken out of the socket before JetStream has acknowledged it. So whatever kills a relay, the pusher finds
what it had not finished unread, and sends it again to the next one; and a stream that is slow or gone fills the socket,
and then counts against the pusher's own bounds.

What one read brings is published as an atomic batch: all of it is stored, in order, or nothing. (With single messages
in flight, a server that loses its leader may drop the fifth and store the sixth.) Where nobody knows what became of a
batch, or the stream has stored a part of it already, it is published again message by message, each acknowledged
before the next one.

What was stored before is known in two ways. JetStream drops a message whose id it has seen within the stream's
duplicate window. And the last message of a session in the stream says up to which number the session is stored: events
with ids up to that one are not published at all, which needs no window, however long an outage was.

An event that comes behind later ones of its session is left out, and counted: a pusher that had to give a connection up
sends again on the next one what was not read, so what is only on the old one it has dropped, and counts so.

A pusher begins each connection with the event `graph`, how the run stands before the next event. It has no id, and
comes anew with each connection. It is published right before the next event that the stream does not have yet; if the
stream has that one, it has told already what the graph would tell.
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
"""The most messages that a server takes in a batch."""

SHUTDOWN_GRACE = 3.0
"""After a signal what is in flight may take so long, in seconds; then it stays unread in the socket."""

PAUSE, LONGEST_PAUSE = 0.2, 5.0
"""Between attempts to publish what was not taken, in seconds: the first, doubling up to the last."""

SESSIONS = 1024
"""Of how many sessions it is remembered up to where they are stored; for others the stream is asked again."""

DUPLICATES, FULL = 10201, 10077
"""Error codes of JetStream."""


class _Line(NamedTuple):
    """A line, without its newline, and what of it matters here."""

    data: bytes
    type: str
    number: EventId | None
    retained: bool


class _Message(NamedTuple):
    subject: str
    id: str
    payload: bytes


class _PublishPlan(NamedTuple):
    """What is to be done about the lines of one read."""

    messages: list[_Message]
    found: int  # how many events the stream has already
    late: int  # how many are left out, for later ones of their session are stored
    shortened: int
    graph: _Line | None  # what waits for an event from now on


class Relay:
    """Publishes what a listener brings.

    Args:
        listener: What comes, as lines.
        access: Where it goes.
        plan: The stream.
        host: What this host is called in the subjects.
        say: Is told in sentences what happens.
    """

    def __init__(
        self, listener: Listener[bytes], access: NatsOptions, plan: StreamSpec, host: str, say: Callable[[str], object]
    ) -> None:
        self.stored = 0  # messages that the stream has acknowledged
        self.found = 0  # events that it had already
        self.late = 0  # events that came behind later ones of their session
        self.shortened = 0  # events whose payload was too long for it
        self._listener = listener
        self._plan = plan
        self._host = host
        self._say = say
        self._link = NatsConnection(access, say, say)
        self._stream: Stream | None = None  # as last checked; None after trouble
        self._prepared = False  # whether it ever was there
        self._stored_up_to: dict[str, int] = {}  # up to which number each session is stored
        self._stored_at_start: dict[str, int] = {}  # up to which number each was when this relay first heard of it
        self._sessions: dict[Sender, str] = {}  # what each sender's lines without an id belong to
        self._graphs: dict[Sender, _Line] = {}  # each sender's graph that waits for an event
        self._batches = secrets.token_hex(8)
        self._busy = False  # something is held

    async def run(self) -> int:
        """Relay until a signal comes. Returns its number.

        Raises:
            OSError, ValueError: It can't work, and why. What is not stored stays in the socket.
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
        """What became of the events, as a sentence without its end."""
        text = f"stored {self.stored:,} in {self._plan.name}"
        if self.found:
            text += f", {self.found:,} were there already"
        if self.late:
            text += (
                f", {self.late:,} left out that came behind later ones of their pusher, which counts them as dropped"
            )
        if self.shortened:
            text += f", {self.shortened:,} with a note in place of a payload that was too long"
        return text

    async def _work(self, ended: "asyncio.Future[int]") -> None:
        await self._be_ready()  # before anything is read, so that what can never work ends it at once
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
        """A sender that is gone after nothing but a graph has no event for it to wait for."""
        for sender in (self._sessions.keys() | self._graphs.keys()) - set(self._listener.senders):
            if sender in self._graphs:
                await self._store(sender, [])
            self._sessions.pop(sender, None)

    async def _store(self, sender: Sender, lines: Sequence[_Line]) -> None:
        """Return when the stream has all of it."""
        singly, pause = False, PAUSE
        while True:
            try:
                stream = await self._be_ready()
                await self._load_stored_seqs(lines)
                planned = self._plan_batch(sender, lines, stream, singly)
                await self._publish(planned.messages, stream.atomic and not singly)
                break
            except OutcomeUnknownError as error:
                self._link.trouble(f"don't know what became of some events: {error}; publishing them again")
            except ServerError as error:
                if error.err_code not in (DUPLICATES, FULL) or singly:
                    self._link.trouble(self._advice(error))
                    await asyncio.sleep(pause)
                    pause = min(2 * pause, LONGEST_PAUSE)
            self._stream = None
            self._stored_up_to.clear()
            singly = True
        self._link.well(f"the stream {self._plan.name} takes events again")
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
        return f"the stream {name} does not take events: {error}; trying until it does"

    async def _be_ready(self) -> Stream:
        """Wait until there is a connection and the stream. Raises `OSError` if there never will be."""
        pause = PAUSE
        while True:
            await self._link.ready()
            if self._stream is not None:
                return self._stream
            try:
                self._stream = await prepare(self._link, self._plan)
            except OutcomeUnknownError as error:
                self._link.trouble(f"can't check the stream {self._plan.name}: {error}; trying until it works")
            except ServerError as error:
                if not self._prepared and is_missing(error):
                    raise OSError(MISSING) from None
                self._link.trouble(f"can't use the stream {self._plan.name}: {error}; trying until it works")
                await asyncio.sleep(pause)
                pause = min(2 * pause, LONGEST_PAUSE)
            else:
                if not self._prepared:
                    self._say(f"publishing to the stream {self._plan.name} as {self._host}")
                if not self._prepared and not self._stream.atomic:
                    self._say(
                        f"the stream {self._plan.name} takes no atomic batches (allow_atomic, servers from 2.12 on), "
                        "so events are published one by one: at most one a round trip"
                    )
                self._prepared = True

    async def _load_stored_seqs(self, lines: Iterable[_Line]) -> None:
        """Ask the stream up to where it has the sessions that are not known."""
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
        """Return when all are acknowledged."""
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
            raise OutcomeUnknownError("the answer was not one to a batch")


def _settle(future: "asyncio.Future[None]") -> None:
    if not future.done():
        future.set_result(None)


def _parsed(line: bytes) -> _Line:
    fields = wire.parse(line)
    data = wire.as_sent(line).rstrip(b"\n")  # or the stream would not know it again
    return _Line(data, fields["type"], number(fields.get("id")), wire.is_retained(fields))


def _short(line: _Line, limit: int) -> bytes:
    """The line with a note in place of its payload."""
    fields = wire.parse(line.data)
    id = b',"id":%b' % orjson.dumps(fields["id"]) if line.number is not None else b""
    return wire.encode(wire.event_of(fields), limit - len(id)).removesuffix(b"}\n") + id + b"}"


def _session_of(sender: Sender) -> str:
    """A name for what a sender without ids sends, the same for all connections of its process."""
    ticks = None if sender.pid is None else process_start_ticks(sender.pid)
    return f"sender-{secrets.token_hex(6)}" if ticks is None else f"pid{sender.pid}-{ticks}"
