"""Reads the events of a stream: first the stored events, then new ones, each once and in the stream's order.

It uses a temporary JetStream consumer without acknowledgements, and pulls a few hundred messages at a time. After every
failure (a lost connection or server, a missing number) it makes another JetStream consumer that starts after the last
received message, so that nothing is lost or duplicated. (nats-py's ordered consumer does the same in a background task,
and reports a failure of that only to its error callback.)

There are two drivers: the caller's event loop for `async for`, and a thread with its own loop for everything else.
"""

import asyncio
import os
import secrets
import threading
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator
from contextlib import aclosing
from itertools import groupby
from typing import Any, Generic, NamedTuple, TypeVar

import nats.errors
import orjson
from nats.aio.msg import Msg

from .. import wire
from ..events import Event
from .connection import NatsConnection, OutcomeUnknownError, ServerError, wait_first
from .options import NatsOptions
from .stream import MISSING, NO_STREAM, checked_name, info, is_missing
from .subjects import Source, checked_prefix, source, subject_filter

PULL_MESSAGES = 500
"""How many messages one pull requests, and the most that wait here."""

PULL_BYTES = 4 << 20
"""How many bytes one pull requests, unless a single message may be larger."""

HEARTBEAT = 2.0
"""The interval of heartbeats while there are no messages, in seconds. After three missing ones the server is considered
lost."""

PAUSE = 0.5
"""The pause before a retry, in seconds."""

_PULL_EXPIRES = 30_000_000_000
"""How long a pull is valid, in nanoseconds."""

_INACTIVE_THRESHOLD = 60_000_000_000
"""The time without a pull after which the server deletes a JetStream consumer, in nanoseconds."""

# Statuses of a pull: a heartbeat, or it has expired; and descriptions of one that is complete.
_HEARTBEAT = "100"
_PULL_OVER = ("404", "408")
_PULL_COMPLETE = ("Message Size Exceeds MaxBytes", "Batch Completed")

_T = TypeVar("_T", Event, bytes)


class _Messages(NamedTuple):
    """Messages that were received together."""

    messages: list[Msg]
    caught_up: bool  # whether the stream had no more messages after them


class Subscription(Generic[_T]):
    """The result of `subscribe`: an iterator over events or lines, and a context manager that closes it.

    Args:
        options: The servers and the credentials.
        stream: The name of the stream.
        prefix: The prefix of the subjects.
        host: The host whose events to receive, or None for all.
        session: The session whose events to receive, or None for all.
        raw: Whether to yield lines instead of events.
        on_problem: Called with a message about each problem.
    """

    def __init__(
        self,
        options: NatsOptions,
        stream: str,
        prefix: str,
        host: str | None,
        session: str | None,
        raw: bool,
        on_problem: Callable[[str], object],
    ) -> None:
        self._options = options
        self._stream = checked_name(stream)
        self._prefix = checked_prefix(prefix)
        self._filter = subject_filter(prefix, host, session)
        self._raw = raw
        self._on_problem = on_problem
        self._last = 0  # the stream sequence of the last message
        self._created = ""  # the creation time of the stream that this sequence belongs to
        self._source: Source | None = None
        self._caught_up = False
        self._items: Iterator[_T] = iter(())  # of the last read, not yet yielded
        self._thread: _LoopThread | None = None  # from the first use on, except with `async for`
        self._closed = False

    @property
    def title(self) -> str:
        """The stream and its servers, to be shown to users."""
        return f"{self._stream} at {self._options}"

    @property
    def source(self) -> Source | None:
        """The host and the session of the last event yielded or read; None before the first."""
        return self._source

    @property
    def caught_up(self) -> bool:
        """Whether the stream had no more events after the last read."""
        return self._caught_up

    def fileno(self) -> int:
        """A descriptor that is readable while `read` would not wait, for a loop that waits for several things."""
        return self._driver().fileno()

    def read(self) -> list[_T]:
        """Wait for events, and return those of one source. The list may be empty.

        Raises:
            OSError: It can never work; the message says why.
            ValueError: The subscription is closed.
        """
        rest = list(self._items)
        self._items = iter(())
        if rest:
            return rest
        item = self._driver().get()
        if isinstance(item, str):
            self._on_problem(item)
            return []
        if isinstance(item, Exception):
            raise item
        self._caught_up = item.caught_up
        return list(self._decode(item.messages))

    def __iter__(self) -> Iterator[_T]:
        while not self._closed:
            self._items = iter(self.read())
            yield from self._items

    def __next__(self) -> _T:
        for item in self:
            return item
        raise StopIteration

    async def __aiter__(self) -> AsyncIterator[_T]:
        async with aclosing(self.received(self._on_problem)) as received:
            async for messages, caught_up in received:
                self._caught_up = caught_up
                for item in self._decode(messages):
                    yield item
                    if self._closed:
                        return

    def source_of(self, message: Msg) -> Source:
        """The source of a message."""
        return source(self._prefix, message.subject)

    def _decode(self, messages: list[Msg]) -> Iterator[_T]:
        for message in messages:
            try:
                event = wire.decode(message.data)
            except wire.DecodeError as error:
                self._on_problem(f"skipped a message on {message.subject}: {error}")
                continue
            self._source = self.source_of(message)
            yield message.data + b"\n" if self._raw else event  # type: ignore[misc]  # as `subscribe` promises

    def _driver(self) -> "_LoopThread":
        if self._closed:
            raise ValueError("the subscription is closed; make a new one")
        if self._thread is None:
            self._thread = _LoopThread(self)
        return self._thread

    def close(self) -> None:
        """Close the subscription. An `async for` ends after the next event, or when it is cancelled."""
        if self._closed:
            return
        self._closed = True
        self._items = iter(())
        if self._thread is not None:
            self._thread.close()

    def __enter__(self) -> "Subscription[_T]":
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    async def received(self, on_warning: Callable[[str], object]) -> AsyncGenerator[_Messages, None]:
        """Receive messages, for a driver. Raises `OSError` if it can never work."""
        connection = NatsConnection(self._options, lambda message: None, on_warning)
        started = False
        try:
            while True:
                await connection.ready()
                try:
                    async with aclosing(self._consume(connection)) as consumed:
                        async for messages in consumed:
                            started = True
                            yield messages
                except OutcomeUnknownError as error:
                    connection.report_trouble(f"can't follow the stream {self._stream}: {error}; retrying")
                except ServerError as error:
                    if not started and is_missing(error):
                        raise OSError(MISSING) from None
                    if not started and error.code != 503:
                        raise OSError(f"can't follow the stream {self._stream}: {error}") from None
                    connection.report_trouble(f"can't follow the stream {self._stream}: {error}; retrying")
                await asyncio.sleep(PAUSE)
        finally:
            await connection.close()

    async def _consume(self, connection: NatsConnection) -> AsyncGenerator[_Messages, None]:
        """Receive messages from a new JetStream consumer until it fails."""
        await self._check_stream(connection)
        inbox = _Inbox()
        address = connection.client.new_inbox()
        subscribed = await connection.client.subscribe(address, cb=inbox.put)
        name = f"socketpusher-{secrets.token_hex(8)}"
        try:
            pending = await self._make_consumer(connection, name)
            connection.report_recovery(f"following the stream {self._stream} again")
            if pending == 0:
                yield _Messages([], True)
            outstanding, following, alive = 0, 1, True
            while alive:
                if outstanding <= 0:
                    outstanding = PULL_MESSAGES
                    await self._pull(connection, name, address)
                messages: list[Msg] = []
                for message in await inbox.take(connection):
                    status = (message.headers or {}).get("Status")
                    if status is None:
                        place = message.metadata
                        alive = place.sequence.consumer == following
                        if not alive:
                            break  # a message is missing; the next JetStream consumer delivers it
                        following += 1
                        outstanding -= 1
                        self._last = place.sequence.stream
                        pending = place.num_pending
                        messages.append(message)
                    elif status in _PULL_OVER or (message.headers or {}).get("Description") in _PULL_COMPLETE:
                        outstanding = 0
                    elif status != _HEARTBEAT:
                        alive = False
                        break
                if messages:
                    yield _Messages(messages, pending == 0)
        finally:
            try:
                await subscribed.unsubscribe()
                await connection.publish(f"$JS.API.CONSUMER.DELETE.{self._stream}.{name}", b"")
            except (nats.errors.Error, OutcomeUnknownError):
                pass  # there is no connection; the server deletes both

    async def _check_stream(self, connection: NatsConnection) -> None:
        """Start at the first message if the stream was created again, or has lost its last messages."""
        found = await info(connection, self._stream)
        if found is None:
            raise ServerError(404, NO_STREAM, "it does not exist; start a relay first, or name another stream")
        if found["created"] != self._created or found["state"]["last_seq"] < self._last:
            self._last = 0
        self._created = found["created"]

    async def _make_consumer(self, connection: NatsConnection, name: str) -> int:
        """Make a JetStream consumer that starts after the last message. Returns how many messages it has."""
        config: dict[str, Any] = {
            "name": name,
            "ack_policy": "none",
            "deliver_policy": "all",
            "filter_subject": self._filter,
            "inactive_threshold": _INACTIVE_THRESHOLD,
            "mem_storage": True,
            "num_replicas": 1,
        }
        if self._last:
            config |= {"deliver_policy": "by_start_sequence", "opt_start_seq": self._last + 1}
        made = await connection.request(
            f"$JS.API.CONSUMER.CREATE.{self._stream}.{name}.{self._filter}",
            orjson.dumps({"stream_name": self._stream, "config": config}),
        )
        return int(made["num_pending"])

    async def _pull(self, connection: NatsConnection, name: str, address: str) -> None:
        request = {
            "batch": PULL_MESSAGES,
            "max_bytes": max(PULL_BYTES, 2 * connection.client.max_payload),
            "expires": _PULL_EXPIRES,
            "idle_heartbeat": round(HEARTBEAT * 1e9),
        }
        subject = f"$JS.API.CONSUMER.MSG.NEXT.{self._stream}.{name}"
        await connection.publish(subject, orjson.dumps(request), reply=address)


class _Inbox:
    """A queue of the messages that the server sends."""

    def __init__(self) -> None:
        self._messages: list[Msg] = []
        self._arrived: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    async def put(self, message: Msg) -> None:
        """Add a message. Called by nats-py."""
        self._messages.append(message)
        if not self._arrived.done():
            self._arrived.set_result(None)

    async def take(self, connection: NatsConnection) -> list[Msg]:
        """Wait for messages. Raises `OutcomeUnknownError` if the connection is lost, or not even heartbeats come."""
        if not self._messages:
            self._arrived = asyncio.get_running_loop().create_future()
            await wait_first(self._arrived, connection.broken, timeout=3 * HEARTBEAT)
        if connection.broken.done():
            raise connection.broken.result()
        if not self._messages:
            raise OutcomeUnknownError("the server sends no heartbeats")
        messages, self._messages = self._messages, []
        return messages


class _LoopThread:
    """A thread that runs a subscription in its own event loop. One other thread gets the results.

    Args:
        subscription: The subscription to run.
    """

    def __init__(self, subscription: "Subscription[Any]") -> None:
        self._subscription = subscription
        self._received: deque[_Messages | str | Exception] = deque()
        self._reader, self._writer = os.pipe()  # holds a byte for each of these
        self._room = asyncio.Event()  # set when all of them were taken
        self._runner = asyncio.Runner(loop_factory=asyncio.new_event_loop)
        self._loop = self._runner.get_loop()
        self._task: asyncio.Task[None] | None = None  # once it runs
        self._closed = False
        self._thread = threading.Thread(target=self._drive, name="socketpusher subscription", daemon=True)
        self._thread.start()

    def fileno(self) -> int:
        """A descriptor that is readable while `get` would not wait."""
        return self._reader

    def get(self) -> _Messages | str | Exception:
        """Wait for messages of one source, a problem, or the error that has ended the loop."""
        os.read(self._reader, 1)
        item = self._received.popleft()
        if isinstance(item, Exception):
            self._put(item)  # for the next call
        elif not self._received:
            try:
                self._loop.call_soon_threadsafe(self._room.set)
            except RuntimeError:
                pass  # the loop has ended
        return item

    def close(self) -> None:
        """End the thread."""
        self._closed = True
        try:
            self._loop.call_soon_threadsafe(self._cancel)
        except RuntimeError:
            pass  # the loop has ended
        self._thread.join()
        os.close(self._reader)
        os.close(self._writer)

    def _cancel(self) -> None:
        if self._task is not None:
            self._task.cancel()

    def _drive(self) -> None:
        with self._runner:
            self._runner.run(self._run())

    async def _run(self) -> None:
        self._task = asyncio.current_task()
        if self._closed:
            return
        try:
            async with aclosing(self._subscription.received(self._put)) as received:
                async for messages, caught_up in received:
                    self._room.clear()
                    self._put_each(messages, caught_up)
                    await self._room.wait()
        except asyncio.CancelledError:
            pass
        except Exception as error:  # raised by the next `read`
            self._put(error)

    def _put_each(self, messages: list[Msg], caught_up: bool) -> None:
        """Put the messages of each source separately."""
        parts = [list(part) for _, part in groupby(messages, key=self._subscription.source_of)] or [[]]
        for part in parts[:-1]:
            self._put(_Messages(part, False))
        self._put(_Messages(parts[-1], caught_up))

    def _put(self, item: "_Messages | str | Exception") -> None:
        self._received.append(item)
        os.write(self._writer, b"\0")
