"""The stream, its NATS servers, and the credentials."""

import ssl
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from . import PREFIX, STREAM
from .subjects import checked_prefix


@dataclass(frozen=True, slots=True)
class NatsOptions:
    """How to reach a stream. `subscribe` has the same arguments, and documents them.

    Raises:
        ValueError: A URL, the stream's name or the prefix is not valid, or `tls_key` is given without `tls_cert`.
        ImportError: nats-py is not installed.
    """

    url: str
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
        for server in self.servers:
            _check(server)
        if self.tls_key and not self.tls_cert:
            raise ValueError("tls_key needs the certificate that it belongs to: give tls_cert, too")
        name = self.stream
        if not name or len(name) > 200 or not name.isprintable() or any(c in name for c in " .*>/\\"):
            raise ValueError(f"a stream's name must not be empty or contain a space, dot, *, >, / or \\: {name!r}")
        checked_prefix(self.prefix)

    @property
    def servers(self) -> list[str]:
        """Each server's URL."""
        return [server.strip() for server in self.url.split(",")]

    @property
    def wants_tls(self) -> bool:
        """Whether the connection must be encrypted."""
        return any(server.startswith("tls://") for server in self.servers) or bool(self.tls_ca or self.tls_cert)

    def connect_arguments(self) -> dict[str, Any]:
        """The arguments for nats-py's `connect`.

        Raises:
            OSError, ValueError: A file can't be used.
        """
        arguments: dict[str, Any] = {"servers": self.servers}
        if self.creds is not None:
            try:
                with open(self.creds, "rb") as file:
                    found = file.read()
            except OSError as error:
                raise OSError(error.errno, f"can't read the credentials: {error.strerror}", self.creds) from None
            if b"BEGIN NATS USER JWT" not in found or b"BEGIN USER NKEY SEED" not in found:
                raise ValueError(f"the file does not contain NATS credentials as `nsc` writes them: {self.creds}")
            arguments["user_credentials"] = self.creds
        if self.token is not None:
            arguments["token"] = self.token
        if self.wants_tls:
            arguments["tls"] = self._context()
        return arguments

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
        """The servers, without the secrets in their URLs."""
        return ", ".join(_without_secrets(server) for server in self.servers)


def _check(server: str) -> None:
    example = "give one such as nats://localhost or tls://nats.example.org:4222"
    try:
        parts = urlsplit(server if "://" in server else f"nats://{server}")
        usable = parts.scheme in ("nats", "tls") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        usable = False
    if not usable:
        raise ValueError(f"{_without_secrets(server)!r} is not the address of a NATS server: {example}")


def _without_secrets(server: str) -> str:
    scheme, separator, rest = server.rpartition("://")
    return f"{scheme}{separator}{rest.rpartition('@')[2]}"
