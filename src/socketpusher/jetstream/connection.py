"""One connection to NATS that is kept, and requests whose answer may be lost.

nats-py finds another server, or the same one again, when a connection is lost. What it does not do is done here: tell
those who wait for an answer that it may not come any more, tell what can never work from what may pass, and say either
in a sentence, once.
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
"""How long an answer may take, in seconds; behind it nobody knows whether the request was heard."""

PAUSE = 0.5
"""Between attempts to connect, in seconds."""

PING_INTERVAL = 5.0
"""A server that does not answer two pings so many seconds apart is taken for dead."""

CLOSE_TIMEOUT = 2.0
"""How long hanging up may take, in seconds."""

Headers = dict[str, str]


class OutcomeUnknownError(Exception):
    """Whether the request was heard can't be known; the message says why, a clause."""


class ServerError(Exception):
    """The server has answered with an error.

    Args:
        code: Its class, as in HTTP: 503 for what may pass.
        err_code: Which one it is, of JetStream's list.
        description: What the server says.
    """

    def __init__(self, code: int, err_code: int, description: str) -> None:
        super().__init__(description)
        self.code = code
        self.err_code = err_code


class _Client(Client):
    """Sends no password where TLS was asked for and is not there; nats-py would."""

    wants_tls = False

    def _connect_command(self) -> bytes:
        if self.wants_tls and not self._server_info.get("tls_required"):
            raise nats.errors.SecureConnWantedError
        return super()._connect_command()


class NatsConnection:
    """A connection to the servers.

    Args:
        access: Which they are.
        say: Is told in a sentence when it is connected.
        warn: Is told in a sentence when it is not any more, or can't be, or is again.

    Raises:
        OSError, ValueError: A file that it needs can't be used.
    """

    def __init__(self, access: NatsOptions, say: Callable[[str], object], warn: Callable[[str], object]) -> None:
        self._access = access
        self._options = access.options()
        self._say = say
        self._warn = warn
        self._client: _Client | None = None  # from the first attempt on
        self._connected = False
        self._changed = asyncio.Event()  # it is connected, or nats-py has given up
        self._broken: asyncio.Future[Exception] = asyncio.get_running_loop().create_future()  # why no answer may come
        self._was_connected = False  # what has worked once may work again
        self._trouble = ""  # that was told of last
        self._asked = ""  # the subject of the last request

    @property
    def client(self) -> Client:
        """The connection, after `ready`."""
        assert self._client is not None
        return self._client

    @property
    def broken(self) -> "asyncio.Future[Exception]":
        """Is done, with the reason, as soon as answers may be missing; after `ready` there is a new one."""
        return self._broken

    async def ready(self) -> None:
        """Wait until there is a connection.

        Raises:
            OSError: There never will be one.
        """
        while not self._connected:
            self._changed.clear()
            if self._client is None or self._client.is_closed:
                await self._connect()
            else:
                await self._changed.wait()
        if self._broken.done():
            self._broken = asyncio.get_running_loop().create_future()

    async def ask(self, subject: str, payload: bytes = b"", headers: Headers | None = None) -> dict[str, Any]:
        """Send a request to JetStream, or publish, and wait for the answer.

        Raises:
            ServerError: The server says no.
            OutcomeUnknownError: There was no answer.
            OSError: This user may not do that.
        """
        self._asked = subject
        request = asyncio.ensure_future(self.client.request(subject, payload, timeout=REQUEST_TIMEOUT, headers=headers))
        try:
            await wait_first(request, self._broken)
            if not request.done():
                raise self._broken.result()
            answer = orjson.loads(request.result().data)
        except nats.errors.NoRespondersError:
            raise ServerError(503, 0, "nobody is there to answer") from None
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
        self._asked = subject
        try:
            await self.client.publish(subject, payload, reply=reply, headers=headers)
        except (nats.errors.Error, OSError):
            raise OutcomeUnknownError("the connection is lost") from None

    def trouble(self, sentence: str) -> None:
        """Say what is wrong, unless that was said before and `well` not since."""
        if sentence != self._trouble:
            self._warn(sentence)
        self._trouble = sentence

    def well(self, sentence: str) -> None:
        """Say that it works, if it was said that it does not."""
        if self._trouble:
            self._warn(sentence)
        self._trouble = ""

    async def close(self) -> None:
        """Hang up."""
        self._connected = False
        if self._client is not None:
            try:
                await asyncio.wait_for(self._client.close(), CLOSE_TIMEOUT)
            except (TimeoutError, OSError, nats.errors.Error):
                pass  # the server is stopped or gone
            finally:
                # Also when this is cancelled, as it is at the end of asyncio.run behind an `async for` that was left.
                if self._client._transport is not None:
                    self._client._transport.close()  # type: ignore[no-untyped-call]

    async def _connect(self) -> None:
        hopeless: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self._client = client = _Client()
        client.wants_tls = self._access.wants_tls

        async def on_error(error: Exception) -> None:
            if connecting.done():
                self._on_error(error)
                return
            reason, passes = connect_failure(error)
            if not hopeless.done() and not passes and not self._was_connected:
                hopeless.set_result(reason)
            elif not hopeless.done():
                self.trouble(f"can't connect to NATS at {self._access}: {reason}; trying until it works")

        connecting = asyncio.ensure_future(self._connected_client(client, on_error))
        try:
            await wait_first(connecting, hopeless)
            if not connecting.done():
                raise OSError(f"can't connect to NATS at {self._access}: {hopeless.result()}")
            connecting.result()
        except ModuleNotFoundError as error:
            self._client = None
            raise OSError(f"a file of credentials needs {error.name}: pip install 'nats-py[nkeys]'") from None
        finally:
            if not connecting.done():
                connecting.cancel()
                await asyncio.wait({connecting})
                await client._close(Client.CLOSED, False)
        await self._on_connected()

    async def _connected_client(self, client: Client, on_error: Callable[[Exception], Any]) -> None:
        # Nothing is kept for a connection that is lost (pending_size): whoever published it publishes it again.
        await client.connect(
            **self._options,
            error_cb=on_error,
            disconnected_cb=self._on_disconnected,
            reconnected_cb=self._on_connected,
            closed_cb=self._on_closed,
            max_reconnect_attempts=-1,
            reconnect_time_wait=PAUSE,  # type: ignore[arg-type]  # it is handed to asyncio.sleep
            ping_interval=PING_INTERVAL,  # type: ignore[arg-type]  # likewise
            pending_size=0,
            name="socketpusher",
        )

    async def _on_connected(self) -> None:
        self._was_connected = True
        self._connected = True
        self._changed.set()
        url = self.client.connected_url
        tell = self._warn if self._trouble else self._say
        tell(f"connected to NATS at {url.netloc.rpartition('@')[2] if url else self._access}")
        self._trouble = ""

    async def _on_disconnected(self) -> None:
        if self._connected:
            self._connected = False
            self._break(OutcomeUnknownError("the connection was lost"))
            self.trouble("lost the connection to NATS; connecting again until it works")

    async def _on_closed(self) -> None:
        await self._on_disconnected()
        self._changed.set()

    def _on_error(self, error: Exception) -> None:
        """What the server says or nats-py meets while connected. A lost connection it tells otherwise."""
        _, denied, what = str(error).partition("permissions violation for ")
        if denied:
            if self._asked.lower() in what:  # nats-py has made it all lower case
                what = what.replace(self._asked.lower(), self._asked)
            self._break(
                PermissionError(f"NATS does not permit this user a {what}; grant that, or give other credentials")
            )

    def _break(self, reason: Exception) -> None:
        if not self._broken.done():
            self._broken.set_result(reason)


async def wait_first(*futures: "asyncio.Future[Any]", timeout: float | None = None) -> None:
    """Wait until one of them is done, or so many seconds."""
    await asyncio.wait(futures, timeout=timeout, return_when=asyncio.FIRST_COMPLETED)


def connect_failure(error: Exception) -> tuple[str, bool]:
    """Why a connection could not be made, a clause that says what to do, and whether that may pass."""
    text = str(error)
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"its certificate is not trusted ({error.verify_message}); give those to trust with tls-ca", False
    if isinstance(error, ssl.SSLError):
        return f"TLS failed ({error.reason}); if it asks for a certificate, give it with tls-cert and tls-key", False
    if isinstance(error, nats.errors.SecureConnWantedError):
        return "it offers no TLS; use an address with nats:// and no TLS files, or have it offer that", False
    if "authorization violation" in text.lower() or "authentication" in text.lower():
        what = "it does not accept these credentials; give others: creds, a token, or a user and password in the URL"
        return what, False
    if isinstance(error, socket.gaierror):
        return f"{error.strerror}; correct the name", error.errno == socket.EAI_AGAIN
    if isinstance(error, TimeoutError):
        return "there was no answer in time; is it a NATS server, and not overloaded?", True
    if isinstance(error, OSError):
        return f"{os.strerror(error.errno) if error.errno else text}; start a server there, or give another URL", True
    return text.removeprefix("nats: "), True
