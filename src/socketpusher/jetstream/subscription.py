"""Events out of a stream: those that it has kept, then those that follow, each once and in the stream's order.

The server's consumer is a throw-away one, which acknowledges nothing and is asked for a few hundred messages at a time.
Whatever goes wrong (a connection or a server that is lost, a number that is missing), another one is made that begins
behind the last message that came, so nothing is missing or twice at the seam.

Two drivers: asyncio's own loop for `async for`, and a thread with a loop of its own for everything else.
"""

import asyncio
import os
import secrets
import threading
import types
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

REQUEST = 500
"""How many messages are asked for at a time; so many wait here at most."""

REQUEST_BYTES = 4 << 20
"""How much they may be together, in bytes, unless one alone may be more."""

HEARTBEAT = 2.0
"""How often the server says that there is nothing new, in seconds; after three times that it is taken for lost."""

PAUSE = 0.5
"""Before what was refused is tried again, in seconds."""

_EXPIRES = 30_000_000_000
"""How long a request is good for, in nanoseconds."""

_INACTIVE_THRESHOLD = 60_000_000_000
"""After what time without a request the server forgets a consumer, in nanoseconds."""

_HEARTBEAT = "100"
_REQUEST_OVER = ("404", "408")
_ENOUGH = ("Message Size Exceeds MaxBytes", "Batch Completed")
"""What the server says of a request: it lives, it is over, or its bytes are sent."""

_T = TypeVar("_T", Event, bytes)


class _Arrival(NamedTuple):
    """Messages that came together."""

    messages: list[Msg]
    caught_up: bool  # whether nothing else was there behind them


class Subscription(Generic[_T]):
    """What `subscribe` returns: an iterator over events or lines, and a context manager that closes it.

    Args:
        access: The servers.
        stream: The name of the stream.
        prefix: What the subjects begin with.
        host: The host whose events it is about, or None for all.
        session: The session, or None for all.
        raw: Whether to yield lines.
        on_problem: Is told of problems, in sentences.
    """

    def __init__(
        self,
        access: NatsOptions,
        stream: str,
        prefix: str,
        host: str | None,
        session: str | None,
        raw: bool,
        on_problem: Callable[[str], object],
    ) -> None:
        self._access = access
        self._stream = checked_name(stream)
        self._prefix = checked_prefix(prefix)
        self._filter = subject_filter(prefix, host, session)
        self._raw = raw
        self._on_problem = on_problem
        self._last = 0  # the number of the last message that came
        self._created = ""  # when the stream was made that this number is of
        self._source: Source | None = None
        self._caught_up = False
        self._items: Iterator[_T] = iter(())  # of the last read, not yet handed out
        self._thread: _LoopThread | None = None  # from the first use on, unless that is one of asyncio
        self._closed = False

    @property
    def title(self) -> str:
        """Where the events come from, for people."""
        return f"{self._stream} at {self._access}"

    @property
    def source(self) -> Source | None:
        """The host and the session of that which was yielded or read last, or None before that."""
        return self._source

    @property
    def caught_up(self) -> bool:
        """Whether that which was read last was all that the stream had."""
        return self._caught_up

    def fileno(self) -> int:
        """A descriptor that is readable while `read` would not wait, for a loop that waits for other things too."""
        return self._driven().fileno()

    def read(self) -> list[_T]:
        """Wait until something comes, and return what came of one source, which may be nothing.

        Raises:
            OSError: It can't work, and why.
        """
        rest = list(self._items)
        self._items = iter(())
        if rest:
            return rest
        came = self._driven().take()
        if isinstance(came, str):
            self._on_problem(came)
            return []
        if isinstance(came, Exception):
            raise came
        self._caught_up = came.caught_up
        return list(self._of(came.messages))

    def __iter__(self) -> Iterator[_T]:
        while not self._closed:
            self._items = iter(self.read())
            yield from self._items

    def __next__(self) -> _T:
        for item in self:
            return item
        raise StopIteration

    async def __aiter__(self) -> AsyncIterator[_T]:
        async with aclosing(self.arrivals(self._on_problem)) as arrivals:
            async for messages, caught_up in arrivals:
                self._caught_up = caught_up
                for item in self._of(messages):
                    yield item
                    if self._closed:
                        return

    def source_of(self, message: Msg) -> Source:
        """Where a message comes from."""
        return source(self._prefix, message.subject)

    def _of(self, messages: list[Msg]) -> Iterator[_T]:
        for message in messages:
            try:
                event = wire.decode(message.data)
            except wire.DecodeError as error:
                self._on_problem(f"skipped what was published to {message.subject}: {error}")
                continue
            self._source = self.source_of(message)
            yield message.data + b"\n" if self._raw else event  # type: ignore[misc]  # as `subscribe` promises

    def _driven(self) -> "_LoopThread":
        if self._closed:
            raise ValueError("the subscription is closed; make a new one")
        if self._thread is None:
            self._thread = _LoopThread(self)
        return self._thread

    def close(self) -> None:
        """Hang up. An `async for` ends behind the next event, or when it is cancelled."""
        if self._closed:
            return
        self._closed = True
        self._items = iter(())
        if self._thread is not None:
            self._thread.close()

    def __enter__(self) -> "Subscription[_T]":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: types.TracebackType | None,
    ) -> None:
        self.close()

    async def arrivals(self, warn: Callable[[str], object]) -> AsyncGenerator[_Arrival, None]:
        """What comes, for a driver. Raises `OSError` if it can't work."""
        link = NatsConnection(self._access, lambda sentence: None, warn)
        begun = False
        try:
            while True:
                await link.ready()
                try:
                    async with aclosing(self._consume(link)) as consumed:
                        async for arrival in consumed:
                            begun = True
                            yield arrival
                except OutcomeUnknownError as error:
                    link.trouble(f"can't follow the stream {self._stream}: {error}; trying until it works")
                except ServerError as error:
                    if not begun and is_missing(error):
                        raise OSError(MISSING) from None
                    if not begun and error.code != 503:
                        raise OSError(f"can't follow the stream {self._stream}: {error}") from None
                    link.trouble(f"can't follow the stream {self._stream}: {error}; trying until it works")
                await asyncio.sleep(PAUSE)
        finally:
            await link.close()

    async def _consume(self, link: NatsConnection) -> AsyncGenerator[_Arrival, None]:
        """What a consumer brings, as long as it lives."""
        await self._check_stream(link)
        inbox = _Inbox()
        address = link.client.new_inbox()
        subscribed = await link.client.subscribe(address, cb=inbox.put)
        name = f"socketpusher-{secrets.token_hex(8)}"
        try:
            pending = await self._make_consumer(link, name)
            link.well(f"following the stream {self._stream} again")
            if pending == 0:
                yield _Arrival([], True)
            outstanding, following, alive = 0, 1, True
            while alive:
                if outstanding <= 0:
                    outstanding = REQUEST
                    await self._request(link, name, address)
                messages: list[Msg] = []
                for message in await inbox.take(link):
                    status = (message.headers or {}).get("Status")
                    if status is None:
                        place = message.metadata
                        alive = place.sequence.consumer == following
                        if not alive:
                            break  # one is missing, which the next consumer brings
                        following += 1
                        outstanding -= 1
                        self._last = place.sequence.stream
                        pending = place.num_pending
                        messages.append(message)
                    elif status in _REQUEST_OVER or (message.headers or {}).get("Description") in _ENOUGH:
                        outstanding = 0
                    elif status != _HEARTBEAT:
                        alive = False
                        break
                if messages:
                    yield _Arrival(messages, pending == 0)
        finally:
            try:
                await subscribed.unsubscribe()
                await link.publish(f"$JS.API.CONSUMER.DELETE.{self._stream}.{name}", b"")
            except (nats.errors.Error, OutcomeUnknownError):
                pass  # there is no connection, and the server forgets both

    async def _check_stream(self, link: NatsConnection) -> None:
        """Begin anew if it is another stream than before."""
        found = await info(link, self._stream)
        if found is None:
            raise ServerError(404, NO_STREAM, "there is none yet; start a relay first, or name another stream")
        if found["created"] != self._created or found["state"]["last_seq"] < self._last:
            self._last = 0
        self._created = found["created"]

    async def _make_consumer(self, link: NatsConnection, name: str) -> int:
        """Make one that begins behind what came last. Returns how many messages it has to bring."""
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
        made = await link.ask(
            f"$JS.API.CONSUMER.CREATE.{self._stream}.{name}.{self._filter}",
            orjson.dumps({"stream_name": self._stream, "config": config}),
        )
        return int(made["num_pending"])

    async def _request(self, link: NatsConnection, name: str, address: str) -> None:
        request = {
            "batch": REQUEST,
            "max_bytes": max(REQUEST_BYTES, 2 * link.client.max_payload),
            "expires": _EXPIRES,
            "idle_heartbeat": round(HEARTBEAT * 1e9),
        }
        await link.publish(f"$JS.API.CONSUMER.MSG.NEXT.{self._stream}.{name}", orjson.dumps(request), reply=address)


class _Inbox:
    """What the server sends, until it is taken."""

    def __init__(self) -> None:
        self._messages: list[Msg] = []
        self._arrived: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    async def put(self, message: Msg) -> None:
        """For nats-py."""
        self._messages.append(message)
        if not self._arrived.done():
            self._arrived.set_result(None)

    async def take(self, link: NatsConnection) -> list[Msg]:
        """Wait for messages. Raises `OutcomeUnknownError` if none can come any more, not even heartbeats."""
        if not self._messages:
            self._arrived = asyncio.get_running_loop().create_future()
            await wait_first(self._arrived, link.broken, timeout=3 * HEARTBEAT)
        if link.broken.done():
            raise link.broken.result()
        if not self._messages:
            raise OutcomeUnknownError("the server is silent")
        messages, self._messages = self._messages, []
        return messages


class _LoopThread:
    """Runs a subscription in a loop of its own. What it brings is taken by any one thread.

    Args:
        subscription: What to run.
    """

    def __init__(self, subscription: "Subscription[Any]") -> None:
        self._subscription = subscription
        self._came: deque[_Arrival | str | Exception] = deque()
        self._inside, self._outside = os.pipe()  # holds a byte for each of these
        self._room = asyncio.Event()  # all of it was taken
        self._runner = asyncio.Runner(loop_factory=asyncio.new_event_loop)
        self._loop = self._runner.get_loop()
        self._task: asyncio.Task[None] | None = None  # once it runs
        self._closed = False
        self._thread = threading.Thread(target=self._drive, name="socketpusher subscription", daemon=True)
        self._thread.start()

    def fileno(self) -> int:
        """Is readable while `take` would not wait."""
        return self._inside

    def take(self) -> _Arrival | str | Exception:
        """Wait for messages of one source, or a problem, or the reason why it has ended."""
        os.read(self._inside, 1)
        came = self._came.popleft()
        if isinstance(came, Exception):
            self._put(came)  # for whoever asks again
        elif not self._came:
            try:
                self._loop.call_soon_threadsafe(self._room.set)
            except RuntimeError:
                pass  # it has ended
        return came

    def close(self) -> None:
        """End it."""
        self._closed = True
        try:
            self._loop.call_soon_threadsafe(self._cancel)
        except RuntimeError:
            pass  # it has ended
        self._thread.join()
        os.close(self._inside)
        os.close(self._outside)

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
            async with aclosing(self._subscription.arrivals(self._put)) as arrivals:
                async for messages, caught_up in arrivals:
                    self._room.clear()
                    self._put_each(messages, caught_up)
                    await self._room.wait()
        except asyncio.CancelledError:
            pass
        except Exception as error:  # it is raised where somebody asks
            self._put(error)

    def _put_each(self, messages: list[Msg], caught_up: bool) -> None:
        """Apart for each source."""
        parts = [list(part) for _, part in groupby(messages, key=self._subscription.source_of)] or [[]]
        for part in parts[:-1]:
            self._put(_Arrival(part, False))
        self._put(_Arrival(parts[-1], caught_up))

    def _put(self, came: "_Arrival | str | Exception") -> None:
        self._came.append(came)
        os.write(self._outside, b"\0")
