"""The stream, its NATS servers, and the credentials."""

import os
import re
import ssl
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import unquote, urlsplit

from . import PREFIX, STREAM
from .subjects import checked_prefix

_VARIABLES = {"user_credentials": "NATS_CREDS", "token": "NATS_TOKEN", "user": "NATS_USER", "password": "NATS_PASSWORD"}
"""The environment variables of the `nats` command, by the arguments of nats-py's `connect`."""

_LOGIN = re.compile(r"^\s*((?:nats|tls|https?)://)?(?:(.*)@)?", re.DOTALL)
"""The scheme, the user and the password at the start of a server's URL; of several URLs, all up to the last user."""


@dataclass(frozen=True, slots=True)
class NatsOptions:
    """How to reach a stream. `subscribe` has the same arguments, and documents them.

    Raises:
        ValueError: A URL, the stream's name or the prefix is not valid, or `tls_key` is given without `tls_cert`.
        ImportError: nats-py is not installed.
    """

    url: str = field(repr=False)
    stream: str = STREAM
    prefix: str = PREFIX
    creds: str | None = None
    token: str | None = field(default=None, repr=False)
    tls_ca: str | None = None
    tls_cert: str | None = None
    tls_key: str | None = None

    def __post_init__(self) -> None:
        try:
            import nats  # noqa: F401 - an extra
        except ImportError:
            raise ImportError("nats-py is needed but not installed: pip install 'socketpusher[nats]'") from None
        _check(self.url)
        if self.tls_key and not self.tls_cert:
            raise ValueError("tls_key needs the certificate that it belongs to: give tls_cert, too")
        name = self.stream
        if not name or len(name) > 200 or not name.isprintable() or any(c in name for c in " .*>/\\"):
            raise ValueError(f"a stream's name must not be empty or contain a space, dot, *, >, / or \\: {name!r}")
        checked_prefix(self.prefix)

    @property
    def servers(self) -> list[str]:
        """Each server's URL, without a user and password."""
        return [_without_secrets(server) for server in self.url.split(",")]

    @property
    def wants_tls(self) -> bool:
        """Whether the connection must be encrypted."""
        return any(server.startswith("tls://") for server in self.servers) or bool(self.tls_ca or self.tls_cert)

    def connect_arguments(self) -> dict[str, Any]:
        """The arguments for nats-py's `connect`.

        Raises:
            OSError, ValueError: A file can't be used.
        """
        arguments: dict[str, Any] = {"servers": self.servers, **self._credentials()}
        if (creds := arguments.get("user_credentials")) is not None:
            try:
                with open(creds, "rb") as file:
                    found = file.read()
            except OSError as error:
                raise OSError(error.errno, f"can't read the credentials: {error.strerror}", creds) from None
            if b"BEGIN NATS USER JWT" not in found or b"BEGIN USER NKEY SEED" not in found:
                raise ValueError(f"the file does not contain NATS credentials as `nsc` writes them: {creds}")
        if self.wants_tls:
            arguments["tls"] = self._context()
        return arguments

    def _credentials(self) -> dict[str, str]:
        """The credentials that were given, or else those in the environment."""
        found: dict[str, str | None] = {"user_credentials": self.creds, "token": self.token}
        if not any(found.values()):
            found = {argument: os.environ.get(name) for argument, name in _VARIABLES.items()}
            for login in _logins(self.url):
                user, colon, password = map(unquote, login.partition(":"))
                found = {"user": user, "password": password} if colon else {"token": user}
        return {argument: value for argument, value in found.items() if value}

    def _context(self) -> ssl.SSLContext:
        try:
            context = ssl.create_default_context(cafile=self.tls_ca)
            if self.tls_cert is not None:
                context.load_cert_chain(self.tls_cert, self.tls_key)
        except OSError as error:  # ssl.SSLError is one
            files = ", ".join(filter(None, (self.tls_ca, self.tls_cert, self.tls_key)))
            rule = "each must be a PEM file, and the key must belong to the certificate"
            raise ValueError(f"can't use the TLS files {files}: {error}; {rule}") from None
        return context

    def __str__(self) -> str:
        """The servers, without a user and password."""
        return ", ".join(self.servers)


def _check(url: str) -> None:
    try:
        # A server before the one with the user may be the beginning of a password that contains a comma.
        usable = not re.search(r"(?:^|,)[^,@]*,.*@", url, re.DOTALL)
        for server in map(str.strip, url.split(",")):
            server = server if "://" in server else f"nats://{server}"
            parts = urlsplit(server)
            usable &= server.startswith(("nats://", "tls://")) and bool(parts.hostname) and parts.port != 0
            usable &= parts.path in ("", "/") and not parts.query + parts.fragment
    except ValueError:
        usable = False
    if not usable:
        example = "give one such as nats://localhost or tls://nats.example.org:4222"
        encoding = "; start with a server that has the user, and write a comma in a password as %2C, a slash as %2F"
        raise ValueError(
            f"{_without_secrets(url)!r} is not the address of a NATS server: {example}{encoding if '@' in url else ''}"
        )
    if len(_logins(url)) > 1:
        raise ValueError("the URLs of the servers have different users or passwords; give the same to each")


def _logins(url: str) -> set[str]:
    """The users and passwords of the servers, percent-encoded."""
    return {login for server in url.split(",") if (login := _LOGIN.findall(server)[0][1])}


def _without_secrets(text: str) -> str:
    """A server without what may be a user or password; of several, only the last address."""
    return _LOGIN.sub(r"\1", text).strip()
