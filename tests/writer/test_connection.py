"""What the kernel tells of the other end: the facts that redelivery rests on."""

import os
import socket
import sys
from pathlib import Path

import pytest

from socketpusher.unix_socket import check_path, with_advice
from socketpusher.writer.connection import Connection

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells what was read")


@pytest.fixture
def pair(socket_path: str):
    """Our connection and the consumer's end of it."""
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(socket_path)
        listener.listen()
        connection = Connection(socket_path, {os.geteuid()})
        theirs, _ = listener.accept()
        yield connection, theirs
        connection.close()
        theirs.close()
        os.unlink(socket_path)


def write(connection: Connection, data: bytes) -> tuple[int, int]:
    return connection.write([memoryview(data)])


def test_unread_memory_rises_with_a_write_and_falls_when_it_is_read_whole(pair) -> None:
    connection, theirs = pair
    assert connection.unread_memory() == 0
    count, memory = write(connection, b"x" * 100)
    assert count == 100
    assert connection.unread_memory() == memory >= 100
    theirs.recv(99)
    assert connection.unread_memory() == memory  # a buffer read in part counts whole
    theirs.recv(1)
    assert connection.unread_memory() == 0


def test_a_peer_that_has_read_everything_is_recognized(pair) -> None:
    connection, theirs = pair
    write(connection, b"x" * 100)
    theirs.recv(100)
    theirs.close()
    assert connection.all_was_read(BrokenPipeError())


def test_memory_freed_when_a_peer_closes_does_not_count_as_read(pair) -> None:
    connection, theirs = pair
    write(connection, b"x" * 100)
    theirs.recv(50)
    theirs.close()
    with pytest.raises(ConnectionResetError) as caught:
        connection.unread_memory()
    assert not connection.all_was_read(caught.value)  # though the kernel tells only once


@pytest.mark.parametrize("how", ["write", "discard_input"])
def test_a_reset_that_any_call_reports_is_remembered(pair, how: str) -> None:
    connection, theirs = pair
    write(connection, b"x" * 100)
    theirs.close()
    with pytest.raises(OSError) as caught:
        write(connection, b"y") if how == "write" else connection.discard_input()
    assert not connection.all_was_read(caught.value)


def test_a_peer_that_only_stops_sending_is_still_connected(pair) -> None:
    connection, theirs = pair
    theirs.sendall(b"hello")
    assert connection.discard_input()
    assert connection.discard_input()  # nothing there, and more may come
    theirs.shutdown(socket.SHUT_WR)
    assert not connection.discard_input()
    assert write(connection, b"x")[0] == 1


def test_a_full_socket_is_not_waited_for(pair) -> None:
    connection, _ = pair
    with pytest.raises(BlockingIOError):
        for _ in range(1000):
            write(connection, b"x" * 65536)


def test_a_missing_permission_for_the_socket_is_reported(pair, socket_path: str) -> None:
    """Root may use any, so it becomes somebody else for a moment."""
    if os.geteuid() != 0:
        pytest.skip("needs root")
    os.chmod(os.path.dirname(socket_path), 0o755)
    os.chmod(socket_path, 0o600)
    os.seteuid(65534)
    try:
        with pytest.raises(PermissionError) as caught:
            Connection(socket_path, {0})
    finally:
        os.seteuid(0)
    assert "give this user write permission" in str(with_advice(caught.value, socket_path))


def test_a_file_that_is_no_socket_is_said_to_be_none(tmp_path: Path) -> None:
    path = str(tmp_path / "file")
    Path(path).touch()
    with pytest.raises(ConnectionRefusedError) as caught:
        Connection(path, {0})
    assert "it is not a socket; choose another path" in str(with_advice(caught.value, path))


def test_a_consumer_of_this_user_that_hangs_up_refuses_nobody(pair) -> None:
    connection, theirs = pair
    theirs.close()
    assert connection.refusal() is None


def test_a_path_is_checked_before_anything_is_started(tmp_path) -> None:
    check_path("x" * 107)
    with pytest.raises(OSError, match="108 bytes, the limit is 107"):
        check_path("x" * 108)
    with pytest.raises(OSError, match="limit is 107"):
        check_path("é" * 60)  # bytes count, not characters
