"""Reads the events of a stream: first the stored events, then new ones, each once and in the stream's order.

It uses a temporary JetStream consumer without acknowledgements, and pulls a few hundred messages at a time. After every
failure (a lost connection or server, a missing number) it makes another JetStream consumer that starts after the last
received message, so that nothing is lost or duplicated. (nats-py's ordered consumer does not do: it drops messages at
its pending limits, does not notice a stream that was created again, and reports failures only to its error callback.)

Two drivers fill the store of what was not yielded yet: the caller's event loop for `async for`, and a thread with its
own loop for everything else.
"""

import asyncio
import os
import secrets
import select
import threading
import time
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator
from contextlib import aclosing, suppress
from datetime import UTC, datetime, timedelta
from typing import Any, Generic, TypeVar

import nats.errors
import orjson
from nats.aio.msg import Msg
from nats.js.api import AckPolicy, ConsumerConfig, ConsumerInfo, DeliverPolicy, Header, StatusCode, StreamState
from nats.js.errors import APIError

from .. import wire
from ..events import Event
from ..listener.problems import FrequentProblem, ProblemLog
from .connection import SLOW_LINK, NatsConnection, OutcomeUnknownError, Reporter
from .options import NatsOptions
from .stream import MISSING, NO_STREAM, event_id, info, is_missing
from .subjects import Source, source, subject_filter

PULL_MESSAGES = 500  # how many messages one pull requests, and the most that wait here
PULL_BYTES = 1 << 16  # how many bytes one pull requests beside the longest message; a slow link has to carry them

# In seconds:
HEARTBEAT = 2  # between heartbeats while there are no messages; after three missing ones the server is considered lost
PAUSE = 0.5  # before a retry
PULL_EXPIRES = 30  # how long a pull is valid
LONGEST_WAIT = 86_400.0  # for events; `poll` takes at most 24 times as long
INACTIVE_THRESHOLD = 60  # without a pull, before the server deletes a JetStream consumer

_PULL_OVER = {StatusCode.NO_MESSAGES, StatusCode.REQUEST_TIMEOUT, "Message Size Exceeds MaxBytes", "Batch Completed"}
"""The statuses of a pull that has expired or is complete, or their descriptions."""

_MARKER = "Nats-Marker-Reason"
"""The header of a message of the server itself: in this place others have expired."""

_Entry = Msg | str | Exception | None
"""A message, a problem, the error that ends the subscription, or None: the stream has no more messages."""

_T = TypeVar("_T", Event, bytes)


class Subscription(Generic[_T]):
    """The result of `subscribe`: an iterator over events or lines, and a context manager that closes it.

    An iteration that is left and begun again goes on with the next event.

    Attributes:
        title: The stream and its servers, to be shown to users.
        source: The host and the session of the last event yielded or read; None before the first.
        pending: How many events the stream had after that one.
        caught_up: Whether the stream had no more events after the last read; False while the connection is lost.
        silent_since: Since when the stream can't be read, of `time.monotonic`; None while it can.
    """

    def __init__(
        self,
        options: NatsOptions,
        host: str | None,
        session: str | None,
        raw: bool,
        since: datetime | None,
        last: int | None,
        on_problem: Reporter,
    ) -> None:
        if last is not None and (last < 1 or since is not None):
            raise ValueError(f"last must be at least 1, and not be given together with since: {last}, {since}")
        self.title = f"{options.stream} at {options}"
        self.source: Source | None = None
        self.pending = 0
        self.caught_up = False
        self.silent_since: float | None = time.monotonic()
        self._options = options
        self._stream = options.stream
        self._filter = subject_filter(options.prefix, host, session)
        self._raw = raw
        self._on_problem = on_problem
        self._log = on_problem if isinstance(on_problem, ProblemLog) else ProblemLog(str)  # which stays empty
        self._since = None if since is None else since.astimezone(UTC)  # when to start, unless it has
        self._count = last  # how many of the last messages to start with, likewise
        self._last = 0  # the stream sequence of the last message, or of the one before the start
        self._previous: Msg | None = None  # the last message
        self._created: datetime | None = None  # the creation time of the stream that this sequence belongs to
        self._all_pass = False  # whether all messages of the stream pass the filter
        self._store: deque[deque[_Entry]] = deque()  # what was received together and is not yielded yet; none is empty
        self._thread: _LoopThread | None = None  # from the first use on, except with `async for`
        self._closed = False

    def fileno(self) -> int:
        """A descriptor that is readable while `read` would not wait, for a loop that waits for several things."""
        return self._driver().fileno()

    def read(self, timeout: float | None = None) -> list[_T]:
        """Wait for events, for `timeout` seconds at most, and return those of one source.

        The list may be empty: after the timeout, after a day, or if what came was no event.

        Raises:
            OSError: It can never work; the message says why.
            ValueError: The subscription is closed.
        """
        limits = [limit for limit in (timeout, self._log.remaining()) if limit is not None]
        self._driver().wait(min(limits, default=None))
        return list(self._take())

    def __iter__(self) -> Iterator[_T]:
        while not self._closed:
            self._driver().wait(self._log.remaining())
            yield from self._take()

    def __next__(self) -> _T:
        return next(iter(self))

    async def __aiter__(self) -> AsyncIterator[_T]:
        if self._thread is not None:
            self._thread.close()
            self._thread = None
        async with aclosing(self.received(self._report)) as received:
            while not self._closed:
                if not self._store:
                    self._store.append(await anext(received))
                for item in self._take():
                    yield item

    def _take(self) -> Iterator[_T]:
        """Take messages of one source from the store. If this is abandoned, the next call continues."""
        self._log.end_episode()
        entries = self._store[0] if self._store else ()
        of: Source | None = None
        while entries and not self._closed:
            entry = entries[0]
            if isinstance(entry, Exception):
                raise entry  # it stays, for the next call
            if isinstance(entry, Msg):
                found = source(self._options.prefix, entry.subject)
                if found != (of := of or found):
                    return
            entries.popleft()
            if not entries:
                self._store.popleft()
                if self._thread is not None:
                    self._thread.removed()
            if isinstance(entry, str):
                self._report(entry)
                continue
            self.silent_since = None
            self.pending = 0 if entry is None else entry.metadata.num_pending
            self.caught_up = not entries and self.pending == 0
            if entry is None or _MARKER in (entry.headers or {}):
                continue
            try:
                event = wire.decode(entry.data)
            except wire.DecodeError as error:
                self._on_problem(FrequentProblem(f"skipped a message on {entry.subject}: {error}"))
                continue
            self.source = of
            yield entry.data.removesuffix(b"\n") + b"\n" if self._raw else event  # type: ignore[misc]  # as `subscribe` promises

    def _report(self, problem: str) -> None:
        self.caught_up = False
        self.silent_since = self.silent_since or time.monotonic()
        self._on_problem(problem)

    def _driver(self) -> "_LoopThread":
        if self._closed:
            raise ValueError("the subscription is closed; make a new one")
        if self._thread is None:
            self._thread = _LoopThread(self, self._store)
        return self._thread

    def close(self) -> None:
        """Close the subscription. An `async for` ends when the next event comes, or when it is cancelled."""
        if self._closed:
            return
        self._closed = True
        if self._thread is not None:
            self._thread.close()
        self._store.clear()
        self._log.end_episode(at_once=True)

    def __enter__(self) -> "Subscription[_T]":
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    async def received(self, on_warning: Reporter) -> AsyncGenerator[deque[_Entry], None]:
        """Receive messages, for a driver. Raises `OSError` if it can never work."""
        connection = NatsConnection(self._options, lambda message: None, on_warning)
        started = False
        try:
            while True:
                await connection.ready()
                try:
                    async with aclosing(self._consume(connection)) as consumed:
                        async for entries in consumed:
                            started = True
                            yield entries
                except OutcomeUnknownError as error:
                    connection.report_trouble(f"can't follow the stream {self._stream}: {error}; retrying")
                except APIError as error:
                    what = f"can't follow the stream {self._stream}: {error.description}"
                    if not started and (is_missing(error) or error.code != 503):
                        raise OSError(MISSING if is_missing(error) else what) from None
                    connection.report_trouble(f"{what}; retrying")
                await asyncio.sleep(PAUSE)
        finally:
            await connection.close()

    async def _consume(self, connection: NatsConnection) -> AsyncGenerator[deque[_Entry], None]:
        """Receive messages from a new JetStream consumer until it fails."""
        await self._check_stream(connection)
        inbox: asyncio.Queue[Msg] = asyncio.Queue()
        address = connection.client.new_inbox()
        subscribed = await connection.client.subscribe(address, cb=inbox.put)
        name = f"socketpusher-{secrets.token_hex(8)}"
        try:
            made = await self._create(connection, name, self._last + 1)
            connection.report_recovery(f"following the stream {self._stream} again")
            if made.num_pending == 0:
                yield deque([None])
            outstanding, following, alive = 0, 1, True
            while alive:
                if outstanding <= 0:
                    outstanding = PULL_MESSAGES
                    await self._pull(connection, name, address)
                messages: deque[_Entry] = deque()
                for message in await _next_messages(inbox, connection):
                    headers = message.headers or {}
                    status = headers.get(Header.STATUS)
                    if status is None:
                        sequence = message.metadata.sequence
                        alive = sequence.consumer == following
                        if not alive:
                            break  # a message is missing; the next JetStream consumer delivers it
                        previous, jumped = self._previous, sequence.stream > self._last + 1
                        # If that is due to the filter, one check a pull is enough.
                        if jumped and previous and (self._all_pass or outstanding == PULL_MESSAGES):
                            if messages:
                                yield messages
                            messages = deque(await self._removed(connection, previous, message))
                        following += 1
                        outstanding -= 1
                        self._last, self._previous = sequence.stream, message
                        messages.append(message)
                    elif _PULL_OVER & {status, headers.get(Header.DESCRIPTION)}:
                        outstanding = 0
                    elif status != StatusCode.CONTROL_MESSAGE:  # a heartbeat
                        alive = False
                        break
                if messages:
                    yield messages
        finally:
            with suppress(nats.errors.Error, OutcomeUnknownError):  # without a connection, the server deletes both
                await subscribed.unsubscribe()
                await self._delete(connection, name)

    async def _check_stream(self, connection: NatsConnection) -> None:
        """Find where to start, or to go on if the stream was created again or has lost its last messages."""
        found = await info(connection, self._stream)
        if found is None:
            raise APIError(404, "it does not exist; start a relay first, or name another stream", NO_STREAM)
        state = found.state
        if found.created != self._created:
            if self._created is not None:
                self._since = self._count = self._previous = None
            start = await self._start(connection, state)
            self._last = 0 if self._since else max(0, start - 1)
            self._created = found.created
            prefix = self._filter.removesuffix("*.*.>")
            self._all_pass = all(subject.startswith(prefix) for subject in found.config.subjects or ("",))
        if self._previous is not None and state.last_seq < self._last:  # go on with what was stored later
            self._since = self._previous.metadata.timestamp + timedelta(microseconds=1)
            self._last, self._previous = 0, None
        self._last = min(self._last, state.last_seq)

    async def _start(self, connection: NatsConnection, state: StreamState) -> int:
        """The stream sequence of the first message to receive: of all, or of the last ones, found by bisection."""
        low = state.first_seq
        probe = high = low if self._count is None else state.last_seq + 1 - self._count  # right if all pass the filter
        while low < high:
            name = f"socketpusher-{secrets.token_hex(8)}"
            enough = ((await self._create(connection, name, probe)).num_pending or 0) >= (self._count or 0)
            await self._delete(connection, name)
            low, high = (probe, high) if enough else (low, probe - 1)
            probe = (low + high + 1) // 2
        return low

    async def _removed(self, connection: NatsConnection, previous: Msg, message: Msg) -> list[str]:
        """A sentence if the stream has removed messages between these two before they were read."""
        most, of = message.metadata.sequence.stream, ""
        if not self._all_pass:
            before, after = event_id(previous.data), event_id(message.data)
            behind = previous.metadata.num_pending > 0  # else all that pass the filter had been read
            if before is not None and after is not None and before.session == after.session:
                most = after.n - before.n - 1
                of = f"{'' if behind else ' at most'} of the session {after.session}"
            else:
                most *= behind
                of = " at most, some of which may be of other hosts or sessions"
        found = await info(connection, self._stream) if most > 0 else None
        first = min(found.state.first_seq if found else 0, message.metadata.sequence.stream)
        if (number := min(most, first - self._last - 1)) <= 0:
            return []
        what = f"the stream {self._stream} has removed events before they were read: {number:,}{of}"
        return [FrequentProblem(f"{what}; read faster, or let it keep more")]

    async def _create(self, connection: NatsConnection, name: str, start: int) -> ConsumerInfo:
        """Create a JetStream consumer that starts at a stream sequence, or at the time that was asked for."""
        by_time = self._since is not None and self._last == 0
        config = ConsumerConfig(
            name=name,
            ack_policy=AckPolicy.NONE,
            deliver_policy=DeliverPolicy.BY_START_TIME if by_time else DeliverPolicy.BY_START_SEQUENCE,
            opt_start_seq=None if by_time else start,
            opt_start_time=self._since if by_time else None,
            filter_subject=self._filter,
            inactive_threshold=INACTIVE_THRESHOLD,
            mem_storage=True,
            num_replicas=1,
        )
        return await connection.call(connection.manager.add_consumer(self._stream, config))

    async def _delete(self, connection: NatsConnection, name: str) -> None:
        await connection.client.publish(f"$JS.API.CONSUMER.DELETE.{self._stream}.{name}", b"")

    async def _pull(self, connection: NatsConnection, name: str, address: str) -> None:
        request = {
            "batch": PULL_MESSAGES,
            "max_bytes": connection.client.max_payload + PULL_BYTES,
            "expires": PULL_EXPIRES * 1_000_000_000,
            "idle_heartbeat": HEARTBEAT * 1_000_000_000,
        }
        subject = f"$JS.API.CONSUMER.MSG.NEXT.{self._stream}.{name}"
        await connection.client.publish(subject, orjson.dumps(request), reply=address)


async def _next_messages(inbox: "asyncio.Queue[Msg]", connection: NatsConnection) -> list[Msg]:
    """Wait for messages. Raises `OutcomeUnknownError` if the connection is lost, or not even heartbeats come."""
    first = asyncio.wait_for(inbox.get(), 3 * HEARTBEAT + connection.client.max_payload / SLOW_LINK)
    messages = [await connection.call(first, "the server sends no heartbeats")]
    while not inbox.empty():
        messages.append(inbox.get_nowait())
    return messages


class _LoopThread:
    """A thread that receives messages in its own event loop. One other thread takes them from the store."""

    def __init__(self, subscription: "Subscription[Any]", store: deque[deque[_Entry]]) -> None:
        self._subscription = subscription
        self._store = store
        self._reader, self._writer = os.pipe()  # holds a byte for each deque in the store
        os.write(self._writer, b"\0" * len(store))
        self._readable = select.poll()
        self._readable.register(self._reader, select.POLLIN)
        self._room = asyncio.Event()  # set when the store is empty
        self._runner = asyncio.Runner(loop_factory=asyncio.new_event_loop)
        self._loop = self._runner.get_loop()
        self._task = self._loop.create_task(self._run())
        self._thread = threading.Thread(target=self._drive, name="socketpusher subscription", daemon=True)
        self._thread.start()

    def fileno(self) -> int:
        """A descriptor that is readable while the store holds something."""
        return self._reader

    def wait(self, timeout: float | None) -> None:
        """Wait until the store holds something, for `timeout` seconds at most; None for no limit."""
        self._readable.poll(None if timeout is None else min(timeout, LONGEST_WAIT) * 1000)

    def removed(self) -> None:
        """Note that a deque was removed from the store."""
        os.read(self._reader, 1)
        if not self._store:
            self._call_soon(self._room.set)

    def close(self) -> None:
        """End the thread."""
        self._call_soon(self._task.cancel)
        self._thread.join()
        os.close(self._reader)
        os.close(self._writer)

    def _call_soon(self, function: Callable[[], object]) -> None:
        with suppress(RuntimeError):  # the loop has ended
            self._loop.call_soon_threadsafe(function)

    def _drive(self) -> None:
        with self._runner, suppress(asyncio.CancelledError):
            self._loop.run_until_complete(self._task)

    async def _run(self) -> None:
        try:
            async with aclosing(self._subscription.received(lambda problem: self._put(deque([problem])))) as received:
                async for entries in received:
                    self._room.clear()
                    self._put(entries)
                    await self._room.wait()
        except Exception as error:  # raised by the next `read`
            self._put(deque([error]))

    def _put(self, entries: deque[_Entry]) -> None:
        self._store.append(entries)
        os.write(self._writer, b"\0")
