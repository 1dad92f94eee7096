"""One lasting connection to NATS, and requests whose answer may be lost.

nats-py reconnects when a connection is lost. This module adds what it lacks: a request fails when its answer may be
lost, permanent and temporary errors are handled differently, and each is reported once.
"""

import asyncio
import os
import socket
import ssl
from collections.abc import Callable, Coroutine
from contextlib import suppress
from typing import Any, TypeVar

import nats.errors
import orjson
from nats.aio.client import Client
from nats.js import JetStreamManager
from nats.js.errors import APIError, ServiceUnavailableError

from ..listener.problems import Recovery
from .options import NatsOptions

# In seconds:
CONNECT_TIMEOUT = 10.0  # for each step of connecting
REQUEST_TIMEOUT = 5.0  # for an answer; after that it is unknown whether the server received the request
PAUSE = 0.5  # between attempts to connect
PING_INTERVAL = 5.0  # between two pings; a server that does not answer two of them is considered dead
CLOSE_TIMEOUT = 2.0  # for closing the connection

SLOW_LINK = 100_000  # bytes per second; what is large is given the time that it takes over such a link

_NO_RESPONDERS = "nobody answers requests to it"

Reporter = Callable[[str], object]
_T = TypeVar("_T")


class OutcomeUnknownError(Exception):
    """It is unknown whether the server received a request. The message says why, as a clause."""


class _Client(Client):
    """Sends no password if TLS was requested and the server has none, which nats-py would.

    `publish` remembers the subject, and raises `OutcomeUnknownError` if there is no connection.
    """

    subject = ""

    async def publish(self, subject: str, *args: Any, **options: Any) -> None:
        self.subject = subject
        try:
            await super().publish(subject, *args, **options)
        except (nats.errors.Error, OSError):
            raise OutcomeUnknownError("the connection is lost") from None

    def _connect_command(self) -> bytes:
        if "tls" in self.options and not self._server_info.get("tls_required"):
            raise nats.errors.SecureConnWantedError
        return super()._connect_command()


class NatsConnection:
    """A connection to the servers.

    Args:
        options: The servers and the credentials.
        on_info: Called with a message when it is connected.
        on_warning: Called with a message when the connection is lost, can't be made, or is restored.

    Raises:
        OSError: A file of the options can't be read.
        ValueError: A file of the options is not valid.
    """

    def __init__(self, options: NatsOptions, on_info: Reporter, on_warning: Reporter) -> None:
        self._options = options
        self._arguments = options.connect_arguments()
        self._on_info = on_info
        self._on_warning = on_warning
        self._client: _Client | None = None  # from the first attempt on
        self._connected = False
        self._changed = asyncio.Event()  # set when it is connected, or nats-py has given up
        self._broken: asyncio.Future[Exception] = asyncio.get_running_loop().create_future()  # why answers may be lost
        self._was_connected = False  # then every later error is considered temporary
        self._trouble = ""  # the trouble that was reported last

    @property
    def client(self) -> _Client:
        """The connection, after `ready`."""
        assert self._client is not None
        return self._client

    @property
    def manager(self) -> JetStreamManager:
        """The requests of nats-py about streams and JetStream consumers, for `call`."""
        return self.client.jsm(timeout=REQUEST_TIMEOUT)

    async def ready(self) -> None:
        """Wait until the connection is established.

        Raises:
            OSError: It can never be established.
        """
        while not self._connected:
            self._changed.clear()
            if self._client is None or self._client.is_closed:
                await self._connect()
            else:
                await self._changed.wait()
        if self._broken.done():
            self._broken = asyncio.get_running_loop().create_future()

    async def call(self, request: Coroutine[Any, Any, _T], no_answer: str = "there was no answer in time") -> _T:
        """Return the result of a request of nats-py, unless the answer may be lost.

        Raises:
            APIError: The server has refused it.
            OutcomeUnknownError: There was no answer.
            OSError: This user has no permission.
        """
        task = asyncio.ensure_future(request)
        try:
            await wait_first(task, self._broken)
            if not task.done():
                raise self._broken.result()
            return task.result()
        except nats.errors.NoRespondersError:
            raise ServiceUnavailableError(503, _NO_RESPONDERS) from None
        except APIError as error:
            error.description = error.description or _NO_RESPONDERS  # which the manager does not say
            raise
        except (nats.errors.Error, TimeoutError):
            raise OutcomeUnknownError(no_answer) from None
        finally:
            task.cancel()

    async def request(self, subject: str, payload: bytes, headers: dict[str, str], size: int) -> dict[str, Any]:
        """Publish to a stream and return its answer. Raises as `call`.

        Args:
            subject: Where to publish.
            payload: The message.
            headers: Its headers.
            size: How many bytes have to reach the server before it answers, with those published before.
        """
        request = self.client.request(subject, payload, REQUEST_TIMEOUT + size / SLOW_LINK, headers=headers)
        answer: dict[str, Any] = orjson.loads((await self.call(request)).data)
        if "error" in answer:
            raise APIError.from_error(answer["error"])
        return answer

    def report_trouble(self, message: str) -> None:
        """Report what is wrong, unless it was the last report."""
        if message != self._trouble:
            self._on_warning(message)
        self._trouble = message

    def report_recovery(self, message: str) -> None:
        """Report that it works again, if trouble was reported."""
        if self._trouble:
            self._on_warning(Recovery(message))
        self._trouble = ""

    async def close(self) -> None:
        """Close the connection."""
        self._connected = False
        if self._client is not None:
            try:
                with suppress(OSError, nats.errors.Error):  # the server is stopped or has ended
                    await asyncio.wait_for(self._client.close(), CLOSE_TIMEOUT)
            finally:
                # Even if this is cancelled, which asyncio.run does after an `async for` that was left.
                if self._client._transport is not None:
                    self._client._transport.close()  # type: ignore[no-untyped-call]

    async def _connect(self) -> None:
        failed: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self._client = client = _Client()

        async def on_error(error: Exception) -> None:
            if connecting.done():
                self._on_error(error)
                return
            reason, temporary = connect_failure(error)
            if not failed.done() and not temporary and not self._was_connected:
                failed.set_result(reason)
            elif not failed.done():
                self.report_trouble(f"can't connect to NATS at {self._options}: {reason}; retrying")

        connecting = asyncio.ensure_future(
            client.connect(
                **self._arguments,
                error_cb=on_error,
                disconnected_cb=self._on_disconnected,
                reconnected_cb=self._on_connected,
                closed_cb=self._on_closed,
                connect_timeout=CONNECT_TIMEOUT,  # type: ignore[arg-type]  # it is passed to asyncio.wait_for
                max_reconnect_attempts=-1,
                reconnect_time_wait=PAUSE,  # type: ignore[arg-type]  # it is passed to asyncio.sleep
                ping_interval=PING_INTERVAL,  # type: ignore[arg-type]  # likewise
                pending_size=0,  # nothing is kept while the connection is lost: the caller publishes it again
                name="socketpusher",
            )
        )
        try:
            await wait_first(connecting, failed)
            if not connecting.done():
                raise OSError(f"can't connect to NATS at {self._options}: {failed.result()}")
            connecting.result()
        except ModuleNotFoundError as error:
            self._client = None
            raise OSError(f"a credentials file needs {error.name}: pip install 'nats-py[nkeys]'") from None
        finally:
            if not connecting.done():
                connecting.cancel()
                await asyncio.wait({connecting})
                await client._close(Client.CLOSED, False)
        await self._on_connected()

    async def _on_connected(self) -> None:
        self._was_connected = True
        self._connected = True
        self._changed.set()
        url = self.client.connected_url
        report = self._on_warning if self._trouble else self._on_info
        report(Recovery(f"connected to NATS at {url.netloc.rpartition('@')[2] if url else self._options}"))
        self._trouble = ""

    async def _on_disconnected(self) -> None:
        if self._connected:
            self._connected = False
            self._break(OutcomeUnknownError("the connection was lost"))
            self.report_trouble("lost the connection to NATS; reconnecting")

    async def _on_closed(self) -> None:
        await self._on_disconnected()
        self._changed.set()

    def _on_error(self, error: Exception) -> None:
        """Handle an error while connected. A lost connection is reported to `_on_disconnected`."""
        _, denied, what = str(error).partition("permissions violation for ")
        if denied:
            subject = self.client.subject  # nats-py has converted it to lower case
            what = what.replace(subject.lower(), subject)
            self._break(
                PermissionError(f"NATS does not permit this user a {what}; grant it, or give other credentials")
            )

    def _break(self, reason: Exception) -> None:
        if not self._broken.done():
            self._broken.set_result(reason)


async def wait_first(*futures: "asyncio.Future[Any]") -> None:
    """Wait until one of the futures is done."""
    await asyncio.wait(futures, return_when=asyncio.FIRST_COMPLETED)


def connect_failure(error: Exception) -> tuple[str, bool]:
    """The reason why connecting failed, as a clause that says what to do, and whether the error is temporary."""
    text = str(error)
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"its certificate is not trusted ({error.verify_message}); give trusted ones with tls-ca", False
    if isinstance(error, ssl.SSLError):
        return f"TLS failed ({error.reason}); if it requires a certificate, give tls-cert and tls-key", False
    if isinstance(error, nats.errors.SecureConnWantedError):
        return "it does not offer TLS; use an address with nats:// and no TLS files, or enable TLS on it", False
    if "authorization violation" in text.lower() or "authentication" in text.lower():
        what = "it refuses these credentials; give others: creds, a token, or a user and password in the URL"
        return what, False
    if isinstance(error, socket.gaierror):
        return f"{error.strerror}; correct the name", error.errno == socket.EAI_AGAIN
    if isinstance(error, TimeoutError):
        return "it did not answer in time; check that it is a NATS server and not overloaded", True
    if isinstance(error, OSError):
        return f"{os.strerror(error.errno) if error.errno else text}; start a server there, or give another URL", True
    return text.removeprefix("nats: "), True
