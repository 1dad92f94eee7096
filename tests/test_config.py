"""How a pusher is set up."""

import enum
import math
import pickle
import sys
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
def test_an_invalid_time_is_refused(name: str, value: float) -> None:
    with pytest.raises(ValueError, match=name):
        PusherConfig(**{name: value})


@pytest.mark.parametrize(
    "name", ["write_timeout", "buffer_size", "buffer_bytes", "reconnect_backoff", "max_reconnect_backoff"]
)
@pytest.mark.parametrize("value", ["5", None, True, [1]])
def test_the_wrong_type_is_refused(name: str, value: object) -> None:
    with pytest.raises(TypeError, match=name):
        PusherConfig(**{name: value})


@pytest.mark.parametrize("name", ["buffer_size", "buffer_bytes"])
def test_a_buffer_is_counted_in_whole_events_and_bytes(name: str) -> None:
    with pytest.raises(TypeError, match=rf"{name} must be an int, not 1\.5"):
        PusherConfig(**{name: 1.5})


@pytest.mark.parametrize("name", ["socket_path", "spool"])
def test_a_path_that_no_file_can_have_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match=f"{name} must be a path that the file system can have"):
        PusherConfig(**{"socket_path": "/a", name: "/a\ud800"})
    assert PusherConfig(**{"socket_path": "/a", name: "/a\udc80"})  # as os.fsdecode writes it


@pytest.mark.parametrize("value", [0, -1, -(10**400)])
def test_zero_and_less_mean_the_default(value: int) -> None:
    names = ("buffer_size", "buffer_bytes", "write_timeout", "reconnect_backoff", "max_reconnect_backoff")
    assert PusherConfig("/a", **dict.fromkeys(names, value)) == PusherConfig("/a")
    assert PusherConfig().buffer_bytes == 64 << 20


@pytest.mark.parametrize("value", [1e7, 10**15, sys.float_info.max, 10**400])
def test_any_finite_number_is_accepted(value: float) -> None:
    config = PusherConfig(write_timeout=value, max_reconnect_backoff=value)
    assert config.write_timeout == config.max_reconnect_backoff == min(value, sys.float_info.max)
    assert type(config.write_timeout) is float
    for number in (9 << 20, 10**5000):
        config = PusherConfig(max_line_bytes=number, buffer_size=number, buffer_bytes=number)
        assert config.max_line_bytes == config.buffer_size == config.buffer_bytes == min(number, sys.maxsize)


def test_nothing_of_the_hosts_own_classes_is_kept() -> None:
    """The config goes to the writer, which can't import what the host's main script defines."""

    class Own(enum.StrEnum):
        PATH = "/a"
        DROP_OLDEST = "drop_oldest"

    class Number(enum.IntEnum):
        ID = 1234

    config = PusherConfig(Own.PATH, Number.ID, Number.ID, overflow=Own.DROP_OLDEST, allow_uids=[Number.ID])  # type: ignore[arg-type]
    assert config == PusherConfig("/a", 1234, 1234.0, overflow="drop_oldest", allow_uids=[1234])
    assert b"Own" not in pickle.dumps(config)
    assert b"Number" not in pickle.dumps(config)


@pytest.mark.parametrize(
    ("path", "error"), [(5, TypeError), (b"/x", TypeError), (None, TypeError), ("", ValueError), ("a\0b", ValueError)]
)
def test_an_invalid_path_is_refused(path: object, error: type[Exception]) -> None:
    with pytest.raises(error, match="socket_path"):
        PusherConfig(socket_path=path)  # type: ignore[arg-type]


def test_a_path_may_be_a_path_object() -> None:
    assert PusherConfig(socket_path=Path("/a") / "b").socket_path == "/a/b"


def test_a_line_limit_without_room_for_a_line_is_refused() -> None:
    with pytest.raises(ValueError, match="max_line_bytes=100 leaves no room"):
        PusherConfig(max_line_bytes=100)
