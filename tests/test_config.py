"""How a pusher is set up."""

import math
from pathlib import Path

import pytest

from socketpusher import PusherConfig, default_socket_path


def test_the_socket_is_in_the_runtime_directory_if_there_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", "/run/user/1000")
    assert default_socket_path() == "/run/user/1000/choo/web.sock" == PusherConfig().socket_path


@pytest.mark.parametrize("value", ["", "relative/dir", None])
def test_the_socket_is_in_the_home_directory_otherwise(monkeypatch: pytest.MonkeyPatch, value: str | None) -> None:
    monkeypatch.setenv("HOME", "/home/someone")
    if value is None:
        monkeypatch.delenv("XDG_RUNTIME_DIR", raising=False)
    else:
        monkeypatch.setenv("XDG_RUNTIME_DIR", value)
    assert default_socket_path() == "/home/someone/.choo/web.sock"


@pytest.mark.parametrize("name", ["write_timeout", "reconnect_backoff", "max_reconnect_backoff"])
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_time_that_is_no_time_is_refused(name: str, value: float) -> None:
    with pytest.raises(ValueError, match=name):
        PusherConfig(**{name: value})


@pytest.mark.parametrize("name", ["write_timeout", "buffer_size", "reconnect_backoff", "max_reconnect_backoff"])
@pytest.mark.parametrize("value", ["5", None, True, [1]])
def test_the_wrong_type_is_refused(name: str, value: object) -> None:
    with pytest.raises(TypeError, match=name):
        PusherConfig(**{name: value})


def test_a_buffer_is_counted_in_whole_events() -> None:
    with pytest.raises(TypeError, match=r"buffer_size must be an int, not 1\.5"):
        PusherConfig(buffer_size=1.5)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("path", "error"), [(5, TypeError), (b"/x", TypeError), (None, TypeError), ("", ValueError), ("a\0b", ValueError)]
)
def test_a_path_that_is_none_is_refused(path: object, error: type[Exception]) -> None:
    with pytest.raises(error, match="socket_path"):
        PusherConfig(socket_path=path)  # type: ignore[arg-type]


def test_a_path_may_be_a_path_object() -> None:
    assert PusherConfig(socket_path=Path("/a") / "b").socket_path == "/a/b"


def test_a_line_limit_without_room_for_a_line_is_refused() -> None:
    with pytest.raises(ValueError, match="max_line_bytes=100 leaves no room"):
        PusherConfig(max_line_bytes=100)
