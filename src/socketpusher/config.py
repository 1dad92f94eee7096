"""How a pusher is set up, and where its consumer listens by default."""

import math
import os
from dataclasses import dataclass, field, fields

MAX_LINE_BYTES = 1_048_576
"""The longest line that known consumers accept, in bytes with its newline (`choo web` drops the connection at more)."""

MIN_MAX_LINE_BYTES = 1024
"""Room for a line whose payload and long strings are replaced by notes."""


def default_socket_path() -> str:
    """Where a consumer listens unless told otherwise.

    Returns:
        `$XDG_RUNTIME_DIR/choo/web.sock` if that variable holds an absolute path, else `~/.choo/web.sock`.
    """
    runtime_dir = os.environ.get("XDG_RUNTIME_DIR", "")
    if os.path.isabs(runtime_dir):
        return os.path.join(runtime_dir, "choo", "web.sock")
    return os.path.join(os.path.expanduser("~"), ".choo", "web.sock")


@dataclass(frozen=True, slots=True)
class PusherConfig:
    """How a pusher is set up. For every number, zero or less means the default.

    Args:
        socket_path: The Unix socket that the consumer listens on.
        buffer_size: How many events may wait for a consumer that does not keep up, in events.
        write_timeout: A connection that accepts no byte for so long while something waits is given up, in seconds.
        reconnect_backoff: The first pause between attempts to connect, in seconds; it doubles with each attempt.
        max_reconnect_backoff: The longest pause between attempts to connect, in seconds.
        max_line_bytes: A longer line goes out with its payload replaced by a note, in bytes with the newline.

    Raises:
        TypeError: A value is of the wrong type.
        ValueError: A number is NaN or infinite, the path is empty or holds a NUL, or `max_line_bytes` is below 1024.
    """

    socket_path: str | os.PathLike[str] = field(default_factory=default_socket_path)
    buffer_size: int = 1000
    write_timeout: float = 5.0
    reconnect_backoff: float = 0.1
    max_reconnect_backoff: float = 5.0
    max_line_bytes: int = MAX_LINE_BYTES

    def __post_init__(self) -> None:
        self._set("socket_path", _checked_path(self.socket_path))
        defaults = {f.name: f.default for f in fields(self)}
        for name in ("buffer_size", "max_line_bytes"):
            self._set(name, _checked_number(name, getattr(self, name), int, defaults[name]))
        for name in ("write_timeout", "reconnect_backoff", "max_reconnect_backoff"):
            self._set(name, _checked_number(name, getattr(self, name), float, defaults[name]))
        if self.max_line_bytes < MIN_MAX_LINE_BYTES:
            raise ValueError(
                f"max_line_bytes={self.max_line_bytes} leaves no room for an event; give {MIN_MAX_LINE_BYTES} or more"
            )

    def _set(self, name: str, value: object) -> None:
        object.__setattr__(self, name, value)  # the class is frozen for everybody else


def _checked_path(path: object) -> str:
    if not isinstance(path, str | os.PathLike):
        raise TypeError(f"socket_path must be a str or a path, not {path!r}")
    text = os.fspath(path)
    if not isinstance(text, str):
        raise TypeError(f"socket_path must be a path of str, not of bytes: {path!r}")
    if not text:
        raise ValueError(f"socket_path is empty; leave it out for the default, {default_socket_path()}")
    if "\0" in text:
        raise ValueError(f"socket_path must name a file, and a file's name holds no NUL: {text!r}")
    return text


def _checked_number(name: str, value: object, kind: type, default: object) -> object:
    accepted = int if kind is int else (int, float)
    if isinstance(value, bool) or not isinstance(value, accepted):
        raise TypeError(f"{name} must be {'an int' if kind is int else 'a number of seconds'}, not {value!r}")
    if not math.isfinite(value):
        raise ValueError(f"{name} must be finite, not {value!r}")
    return kind(value) if value > 0 else default
