"""One lasting connection to NATS, and requests whose answer may be lost.

nats-py reconnects when a connection is lost. This module adds what it lacks: a request fails when its answer may be
lost, permanent and temporary errors are handled differently, and each is reported once.
"""

import asyncio
import os
import socket
import ssl
from collections.abc import Callable
from typing import Any

import nats.errors
import orjson
from nats.aio.client import Client

from .options import NatsOptions

REQUEST_TIMEOUT = 3.0
"""How long an answer may take, in seconds. After that it is unknown whether the server received the request."""

PAUSE = 0.5
"""The pause between attempts to connect, in seconds."""

PING_INTERVAL = 5.0
"""The time between two pings, in seconds. A server that does not answer two of them is considered dead."""

CLOSE_TIMEOUT = 2.0
"""How long closing the connection may take, in seconds."""

Headers = dict[str, str]
Reporter = Callable[[str], object]


class OutcomeUnknownError(Exception):
    """It is unknown whether the server received a request. The message says why, as a clause."""


class ServerError(Exception):
    """The server has answered with an error.

    Args:
        code: The class of the error, as in HTTP: 503 is temporary.
        err_code: JetStream's error code.
        description: The server's message.
    """

    def __init__(self, code: int, err_code: int, description: str) -> None:
        super().__init__(description)
        self.code = code
        self.err_code = err_code


class _Client(Client):
    """Sends no password if TLS was requested and the server has none; nats-py would."""

    wants_tls = False

    def _connect_command(self) -> bytes:
        if self.wants_tls and not self._server_info.get("tls_required"):
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
        self._subject = ""  # the subject of the last request

    @property
    def client(self) -> Client:
        """The connection, after `ready`."""
        assert self._client is not None
        return self._client

    @property
    def broken(self) -> "asyncio.Future[Exception]":
        """Done, with the reason, as soon as answers may be lost. `ready` replaces it."""
        return self._broken

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

    async def request(self, subject: str, payload: bytes = b"", headers: Headers | None = None) -> dict[str, Any]:
        """Send a request to JetStream, or publish, and wait for the answer.

        Raises:
            ServerError: The server has refused it.
            OutcomeUnknownError: There was no answer.
            OSError: This user has no permission.
        """
        self._subject = subject
        request = asyncio.ensure_future(self.client.request(subject, payload, timeout=REQUEST_TIMEOUT, headers=headers))
        try:
            await wait_first(request, self._broken)
            if not request.done():
                raise self._broken.result()
            answer = orjson.loads(request.result().data)
        except nats.errors.NoRespondersError:
            raise ServerError(503, 0, "nobody answers requests to it") from None
        except (nats.errors.Error, TimeoutError):
            raise OutcomeUnknownError("there was no answer in time") from None
        finally:
            request.cancel()
        if "error" in answer:
            error = answer["error"]
            raise ServerError(error.get("code", 0), error.get("err_code", 0), error.get("description", ""))
        return answer  # type: ignore[no-any-return]  # JSON objects are what JetStream sends

    async def publish(self, subject: str, payload: bytes, headers: Headers | None = None, reply: str = "") -> None:
        """Publish without an answer.

        Raises:
            OutcomeUnknownError: There is no connection.
        """
        self._subject = subject
        try:
            await self.client.publish(subject, payload, reply=reply, headers=headers)
        except (nats.errors.Error, OSError):
            raise OutcomeUnknownError("the connection is lost") from None

    def report_trouble(self, message: str) -> None:
        """Report what is wrong, unless it was the last report."""
        if message != self._trouble:
            self._on_warning(message)
        self._trouble = message

    def report_recovery(self, message: str) -> None:
        """Report that it works again, if trouble was reported."""
        if self._trouble:
            self._on_warning(message)
        self._trouble = ""

    async def close(self) -> None:
        """Close the connection."""
        self._connected = False
        if self._client is not None:
            try:
                await asyncio.wait_for(self._client.close(), CLOSE_TIMEOUT)
            except (TimeoutError, OSError, nats.errors.Error):
                pass  # the server is stopped or has ended
            finally:
                # Even if this is cancelled, which asyncio.run does after an `async for` that was left.
                if self._client._transport is not None:
                    self._client._transport.close()  # type: ignore[no-untyped-call]

    async def _connect(self) -> None:
        failed: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self._client = client = _Client()
        client.wants_tls = self._options.wants_tls

        async def on_error(error: Exception) -> None:
            if connecting.done():
                self._on_error(error)
                return
            reason, temporary = connect_failure(error)
            if not failed.done() and not temporary and not self._was_connected:
                failed.set_result(reason)
            elif not failed.done():
                self.report_trouble(f"can't connect to NATS at {self._options}: {reason}; retrying")

        connecting = asyncio.ensure_future(self._connected_client(client, on_error))
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

    async def _connected_client(self, client: Client, on_error: Callable[[Exception], Any]) -> None:
        # nats-py keeps nothing while the connection is lost (pending_size): the caller publishes it again.
        await client.connect(
            **self._arguments,
            error_cb=on_error,
            disconnected_cb=self._on_disconnected,
            reconnected_cb=self._on_connected,
            closed_cb=self._on_closed,
            max_reconnect_attempts=-1,
            reconnect_time_wait=PAUSE,  # type: ignore[arg-type]  # it is passed to asyncio.sleep
            ping_interval=PING_INTERVAL,  # type: ignore[arg-type]  # likewise
            pending_size=0,
            name="socketpusher",
        )

    async def _on_connected(self) -> None:
        self._was_connected = True
        self._connected = True
        self._changed.set()
        url = self.client.connected_url
        report = self._on_warning if self._trouble else self._on_info
        report(f"connected to NATS at {url.netloc.rpartition('@')[2] if url else self._options}")
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
            if self._subject.lower() in what:  # nats-py has converted it to lower case
                what = what.replace(self._subject.lower(), self._subject)
            self._break(
                PermissionError(f"NATS does not permit this user a {what}; grant it, or give other credentials")
            )

    def _break(self, reason: Exception) -> None:
        if not self._broken.done():
            self._broken.set_result(reason)


async def wait_first(*futures: "asyncio.Future[Any]", timeout: float | None = None) -> None:
    """Wait until one of the futures is done, or for `timeout` seconds."""
    await asyncio.wait(futures, timeout=timeout, return_when=asyncio.FIRST_COMPLETED)


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
