"""The settings of a pusher, and the path where its consumer listens by default."""

import math
import os
import sys
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field, fields
from typing import Literal

MAX_LINE_BYTES = 1_048_576
"""The longest line that known consumers accept, in bytes with its newline; `choo web` disconnects at a longer one."""

_OVERFLOWS = ("drop_newest", "drop_oldest")

MIN_MAX_LINE_BYTES = 1024
"""The smallest `max_line_bytes`: a line whose payload and long strings are replaced by placeholders fits into it."""


def default_socket_path() -> str:
    """The path where a consumer listens by default.

    Returns:
        `$XDG_RUNTIME_DIR/choo/web.sock` if that variable holds an absolute path, else `~/.choo/web.sock`.
    """
    runtime_dir = os.environ.get("XDG_RUNTIME_DIR", "")
    if os.path.isabs(runtime_dir):
        return os.path.join(runtime_dir, "choo", "web.sock")
    return os.path.join(os.path.expanduser("~"), ".choo", "web.sock")


@dataclass(frozen=True, slots=True)
class PusherConfig:
    """The settings of a pusher. For every number, zero or less means the default.

    Args:
        socket_path: The Unix socket that the consumer listens on.
        buffer_size: How many events may wait in memory for a slow consumer.
        write_timeout: How long a connection may accept no byte while events wait, in seconds. Then it is closed, and
            the writer connects again.
        reconnect_backoff: The first pause between attempts to connect, in seconds; it doubles with each attempt.
        max_reconnect_backoff: The longest pause between attempts to connect, in seconds.
        max_line_bytes: The longest line, in bytes with its newline. A longer one gets a placeholder as its payload.
        overflow: Which events are dropped when more than `buffer_size` wait: "drop_newest" keeps the history before
            the gap, "drop_oldest" keeps what a live display needs.
        event_ids: Whether each event gets a key `id`, "<session>-<n>", so that a consumer can detect duplicates and
            losses. n starts at 1 and rises by one with each event, including dropped ones.
        allow_uids: Users, besides this process's own and root, whose listeners may receive events.
        buffer_bytes: How much may wait in memory for a slow consumer, in this process and the writer together, in
            bytes. Events beyond it are dropped, even if `buffer_size` allows more.
        spool: A directory on disk. Events that can't be sent in time are stored there instead of being dropped, and the
            next pusher with this directory sends them. It is created if missing, for this user only; several pushers
            may share it.
        spool_bytes: How much may be in that directory, in bytes, not counting a database's log of up to 16 MiB. Events
            beyond it are dropped, as without a spool.

    Raises:
        TypeError: A value has the wrong type.
        ValueError: A number is NaN or infinite, a path is empty or holds a NUL, `max_line_bytes` is below 1024, or
            `overflow` has another value.
    """

    socket_path: str | os.PathLike[str] = field(default_factory=default_socket_path)
    buffer_size: int = 1000
    write_timeout: float = 5.0
    reconnect_backoff: float = 0.1
    max_reconnect_backoff: float = 5.0
    max_line_bytes: int = MAX_LINE_BYTES
    overflow: Literal["drop_newest", "drop_oldest"] = "drop_newest"
    event_ids: bool = False
    allow_uids: Collection[int] = ()
    buffer_bytes: int = 64 * 1024 * 1024
    spool: str | os.PathLike[str] | None = None
    spool_bytes: int = 1 << 30

    def __post_init__(self) -> None:
        advice = f"leave it out for the default, {default_socket_path()}"
        self._set("socket_path", _checked_path("socket_path", self.socket_path, advice))
        if self.spool is not None:
            self._set("spool", _checked_path("spool", self.spool, "leave it out for none"))
        defaults = {f.name: f.default for f in fields(self)}
        for name in ("buffer_size", "max_line_bytes", "buffer_bytes", "spool_bytes"):
            self._set(name, _checked_number(name, getattr(self, name), int, defaults[name]))
        for name in ("write_timeout", "reconnect_backoff", "max_reconnect_backoff"):
            self._set(name, _checked_number(name, getattr(self, name), float, defaults[name]))
        if self.max_line_bytes < MIN_MAX_LINE_BYTES:
            raise ValueError(
                f"max_line_bytes={self.max_line_bytes} leaves no room for an event; give {MIN_MAX_LINE_BYTES} or more"
            )
        if self.overflow not in _OVERFLOWS:
            raise ValueError(f'overflow must be "drop_newest" or "drop_oldest", not {self.overflow!r}')
        self._set("overflow", _OVERFLOWS[_OVERFLOWS.index(self.overflow)])  # not a member of the caller's StrEnum
        if not isinstance(self.event_ids, bool):
            raise TypeError(f"event_ids must be a bool, not {self.event_ids!r}")
        self._set("allow_uids", checked_uids(self.allow_uids))

    def _set(self, name: str, value: object) -> None:
        object.__setattr__(self, name, value)  # because the class is frozen


def _checked_path(name: str, path: object, advice: str) -> str:
    if not isinstance(path, str | os.PathLike):
        raise TypeError(f"{name} must be a str or a path, not {path!r}")
    text = os.fspath(path)
    if not isinstance(text, str):
        raise TypeError(f"{name} must be a path of str, not of bytes: {path!r}")
    if not text:
        raise ValueError(f"{name} is empty; {advice}")
    if "\0" in text:
        raise ValueError(f"{name} must not contain a NUL, because no file name does: {text!r}")
    try:
        os.fsencode(text)
    except UnicodeEncodeError:
        raise ValueError(f"{name} must be a path that the file system can have, not {text!r}") from None
    return str.__str__(text)  # exactly a str: the writer could not import a subclass


def _checked_number(name: str, value: object, kind: type, default: object) -> object:
    accepted = int if kind is int else (int, float)
    if isinstance(value, bool) or not isinstance(value, accepted):
        raise TypeError(f"{name} must be {'an int' if kind is int else 'a number of seconds'}, not {value!r}")
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f"{name} must be finite, not {value!r}")
    if value <= 0:
        return default
    return kind(min(value, sys.float_info.max if kind is float else sys.maxsize))  # an int has no largest value


def checked_uids(uids: object) -> tuple[int, ...]:
    """The user ids as a tuple of ints. Raises `TypeError` for anything else."""
    if isinstance(uids, str | bytes) or not isinstance(uids, Iterable):
        raise TypeError(f"allow_uids must be a collection of user ids, not {uids!r}")
    unique = tuple(uids)
    for uid in unique:
        if isinstance(uid, bool) or not isinstance(uid, int):
            raise TypeError(f"allow_uids must hold user ids as ints, not {uid!r}")
    return tuple(min(int(uid), sys.maxsize) for uid in unique)  # no user has a larger one
