"""Publishes the events of a socket to a stream: each event once, and the events of a session in order.

1. Lines leave the socket only after JetStream has acknowledged them. If a relay is killed, the pusher finds the rest
   unread and sends it to the next one. If the stream is slow or down, the socket fills up, and then the bounds of the
   pusher apply.
2. What to publish for the lines of one read is planned once, in atomic batches: the stream stores all of a batch, in
   order, or nothing. (With single messages in flight, a server that loses its leader may drop the fifth and store the
   sixth.)
3. A batch names the last message of each session that it continues, and the server refuses it if there is a newer one.
   So a batch that is late, or repeated, is not stored twice. After a refusal, or without an answer, the relay asks the
   stream what it has, and publishes the rest of the plan.
4. The last message of a session, or of each of its subjects if that one is not a relay's, tells up to which event the
   stream has it. Events up to that one are skipped, after an outage of any length. An event that is older than one that
   this relay has stored is counted as out of order: it comes from a connection that the pusher has given up, and the
   pusher has already resent or dropped it.
5. A pusher begins each connection with the event `graph`, the state of the run before the next event. It has no id. It
   is published right before the next event that the stream does not have. If the stream has that event, it has the
   state already. If the connection ends before that event, the next one begins with a newer graph; only that of a
   process without any event is published then.
6. A line without an id has a digest as its message id. Of equal lines from a host, the stream stores one within its
   duplicate window.
"""

import asyncio
import secrets
import signal
from collections import Counter
from collections.abc import Iterable, Sequence
from time import monotonic
from typing import Any, NamedTuple

from nats.js.api import Header, StreamConfig
from nats.js.errors import APIError

from .. import wire
from ..listener.listener import Listener
from ..listener.problems import Sender
from ..unix_socket import process_start_ticks
from ..wire import EventId
from .connection import NatsConnection, OutcomeUnknownError, Reporter, wait_first
from .options import NatsOptions
from .stream import LAST_EVENT, MISSING, Stored, Stream, is_missing, prepare, stored_up_to
from .subjects import digest_message_id, subject, subject_filter

BATCH = 1000  # the most messages that a server accepts in a batch
SHUTDOWN_GRACE = 3.0  # seconds for messages in flight after a signal; then they stay unread in the socket
PAUSE, LONGEST_PAUSE = 0.2, 5.0  # seconds before a refused message is retried: the first, doubling up to the longest
SESSIONS = 1024  # for how many the last stored message is remembered; for others the stream is asked again

DUPLICATES, FULL, NEWER, UNSUPPORTED = 10201, 10077, 10071, 10177
"""Error codes of JetStream."""

EXPECTED = Header.EXPECTED_LAST_SUBJECT_SEQUENCE.value

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
    payload: bytes
    session: str
    number: int  # of the event, or of the one that a graph comes right before; 0 if there is none
    digest: str  # its message id if the line has no id, else empty


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
        self._stored: dict[str, Stored] = {}  # by session, the last message in the stream
        self._stored_at_start: dict[str, int] = {}  # by session, the number of the last event when it was first seen
        self._digests: dict[str, float] = {}  # the message ids of stored lines without an id, and when each expires
        self._sessions: dict[Sender, str] = {}  # by sender, the session of its lines without an id
        self._processes: dict[Sender, str] = {}  # by sender, its process
        self._with_ids: set[str] = set()  # the processes that have sent events with ids
        self._graphs: dict[Sender, _Line | None] = {}  # by sender, the graph that waits for its next event
        self._digests_in_batches = True  # a server of 2.12.0 refuses message ids there
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
            if not work.done() and (self._busy or any(self._graphs.values())):
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
        while await self._wait_readable(ended):
            lines = self._listener.read(hold=True)
            sender = self._listener.sender
            self._busy = True
            if lines and sender is not None:
                if sender not in self._processes:
                    self._processes[sender] = _process_of(sender)
                await self._store(sender, [_parsed(line) for line in lines])
            self._listener.release()
            await self._drop_senders(self._processes.keys() - set(self._listener.senders))
            self._busy = False
        await self._drop_senders(set(self._processes))

    async def _wait_readable(self, ended: "asyncio.Future[int]") -> bool:
        """Wait for lines. Returns False if a signal came."""
        loop, readable = asyncio.get_running_loop(), asyncio.Event()
        loop.add_reader(self._listener.fileno(), readable.set)
        waiting = asyncio.ensure_future(readable.wait())
        try:
            await wait_first(waiting, ended)
            return not ended.done()
        finally:
            waiting.cancel()
            loop.remove_reader(self._listener.fileno())

    async def _drop_senders(self, senders: Iterable[Sender]) -> None:
        """Forget senders. If a graph waits, publish it now, because no event will follow on its connection."""
        for sender in senders:
            graph = self._graphs.pop(sender, None)
            if graph is not None and (sender in self._sessions or self._processes[sender] not in self._with_ids):
                self._sessions.setdefault(sender, self._processes[sender])  # so that it does not wait again
                await self._store(sender, [graph])
            for of_senders in (self._processes, self._sessions, self._graphs):
                of_senders.pop(sender, None)

    async def _store(self, sender: Sender, lines: Sequence[_Line]) -> None:
        """Return when the stream has stored all lines."""
        one_by_one, pause = False, PAUSE
        messages: list[_Message] | None = None
        while True:
            try:
                stream = await self._wait_ready()
                await self._load_sessions(sender, lines)
                if messages is None:
                    messages, counts, graph = self._plan(sender, lines, stream)
                await self._publish(messages, stream, BATCH if stream.atomic and not one_by_one else 1)
                break
            except OutcomeUnknownError as error:
                text = f"it is unknown whether some events were stored: {error}; publishing them again"
                self._connection.report_trouble(text)
            except APIError as error:
                if error.err_code in (DUPLICATES, UNSUPPORTED) and not one_by_one:
                    one_by_one = True
                    self._digests_in_batches = error.err_code == DUPLICATES
                else:
                    if error.err_code != NEWER:
                        self._connection.report_trouble(self._advice(error))
                    await asyncio.sleep(pause)
                    pause = min(2 * pause, LONGEST_PAUSE)
            self._stream = None
            self._stored.clear()
            self._digests.clear()  # it may be another stream of that name
        self._connection.report_recovery(f"{self._title} accepts events again")
        self.counts += counts
        self._graphs[sender] = graph

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

    async def _load_sessions(self, sender: Sender, lines: Iterable[_Line]) -> None:
        """Ask the stream for the last message of each session with ids, unless it is known."""
        if len(self._stored) > SESSIONS:
            self._stored.clear()
            self._stored_at_start.clear()
            self._with_ids.clear()
        sessions = {line.event_id.session for line in lines if line.event_id is not None}
        if (current := self._sessions.get(sender)) not in (None, self._processes[sender]):
            sessions.add(current)  # that of lines without an id, between two with one
        for session in sessions - self._stored.keys():
            stored = await stored_up_to(self._connection, self._options, self._host, session)
            self._stored[session] = stored
            self._stored_at_start.setdefault(session, stored.number)

    def _plan(
        self, sender: Sender, lines: Sequence[_Line], stream: Stream
    ) -> tuple[list[_Message], Counter[str], _Line | None]:
        """What to publish for lines; and once it is stored, how many events each of `_COUNTED` applies to, and the
        graph that waits for the next event."""
        messages: list[_Message] = []
        counts: Counter[str] = Counter()
        graph = self._graphs.get(sender)
        numbers = {session: stored.number for session, stored in self._stored.items()}
        digests: set[str] = set()

        def add(line: _Line, session: str, event_id: EventId | None) -> None:
            payload = line.data
            if len(payload) > stream.max_payload:
                payload = wire.shortened(line.data, stream.max_payload).rstrip(b"\n")
                counts[_SHORTENED] += 1
            digest = ""
            if line.event_id is None:
                # The same graph may come before two events, and is stored before both.
                digest = digest_message_id(self._host, line.data + f"{event_id or ''}".encode())
                if digest in digests or self._digests.get(digest, 0) > monotonic():
                    counts[_DUPLICATE] += 1
                    return
                digests.add(digest)
            name = subject(self._options.prefix, self._host, session, line.type)
            messages.append(_Message(name, payload, session, event_id.n if event_id else 0, digest))

        for line in lines:
            if line.event_id is not None:
                session, number = line.event_id
                if self._sessions.get(sender) != session:
                    self._sessions[sender] = session
                    self._with_ids.add(self._processes[sender])
                if number <= numbers[session]:
                    known = number <= self._stored_at_start[session]
                    if not line.retained:
                        counts[_DUPLICATE if known else _OUT_OF_ORDER] += 1
                        graph = None
                    continue
                numbers[session] = number
            elif line.type == "graph" and graph is None and sender not in self._sessions:
                graph = line
                continue
            else:
                session = self._sessions.setdefault(sender, self._processes[sender])
            for each in filter(None, (graph, line)):
                add(each, session, line.event_id)
            graph = None
        return messages, counts, graph

    async def _publish(self, messages: list[_Message], stream: Stream, size: int) -> None:
        """Publish those messages that the stream does not have, up to `size` in an atomic batch. Empties the list."""
        missing = [message for message in messages if message.number > self._number(message) or not message.number]
        self.stored += len(messages) - len(missing)  # by an attempt whose answer was lost
        messages[:] = missing
        if not self._digests_in_batches and not all(message.number for message in messages):
            size = 1
        while messages:
            batch = messages[:size]
            answer = await self._publish_batch(batch)
            del messages[:size]
            duplicate = bool(answer.get("duplicate"))  # of one message, for the stream refuses a batch with one
            self.stored += len(batch) - duplicate
            self.counts[_DUPLICATE] += duplicate
            first = int(answer["seq"]) - len(batch) + 1
            for place, message in enumerate(batch, first):
                if message.session in self._stored and not duplicate:
                    last = self._number(message) if message.digest else message.number
                    self._stored[message.session] = Stored(last, place)
                if message.digest:
                    self._digests[message.digest] = monotonic() + stream.duplicate_window
        while self._digests and next(iter(self._digests.values())) <= monotonic():
            del self._digests[next(iter(self._digests))]

    def _number(self, message: _Message) -> int:
        return self._stored[message.session].number if message.session in self._stored else 0

    async def _publish_batch(self, messages: Sequence[_Message]) -> dict[str, Any]:
        """Publish messages, all or none. Returns the answer of the stream."""
        batch = secrets.token_hex(16) if len(messages) > 1 else ""
        numbers: dict[str, int] = {}  # by session, of the last event up to here
        for place, message in enumerate(messages, 1):
            headers = {"Nats-Batch-Id": batch, "Nats-Batch-Sequence": str(place)} if batch else {}
            if message.session in self._stored and message.session not in numbers:
                headers[EXPECTED] = str(self._stored[message.session].sequence)
                headers[f"{EXPECTED}-Subject"] = subject_filter(self._options.prefix, self._host, message.session)
            last = numbers.setdefault(message.session, self._number(message))
            if message.digest:
                headers |= {Header.MSG_ID: message.digest, LAST_EVENT: str(last)}
            else:
                numbers[message.session] = message.number
            if place < len(messages):
                await self._connection.client.publish(message.subject, message.payload, headers=headers)
        if batch:
            headers["Nats-Batch-Commit"] = "1"
        size = sum(len(message.payload) for message in messages)
        answer = await self._connection.request(message.subject, message.payload, headers, size)
        if batch and answer.get("count") != len(messages):
            raise OutcomeUnknownError("the answer does not match the batch")
        return answer


def _parsed(line: bytes) -> _Line:
    fields = wire.parse(line)
    data = wire.as_sent(line).rstrip(b"\n")  # so that a repetition has the same digest
    return _Line(data, fields["type"], EventId.parse(fields.get("id")), wire.is_retained(fields))


def _process_of(sender: Sender) -> str:
    """The process of a sender, which is the session of its lines if they have no ids."""
    ticks = None if sender.pid is None else process_start_ticks(sender.pid)
    return f"sender-{secrets.token_hex(6)}" if ticks is None else f"pid{sender.pid}-{ticks}"
