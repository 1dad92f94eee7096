"""Whose socket is it?"""

import os
import socket

import pytest

from socketpusher import Bus, Event, PusherConfig, SocketPusher
from support import producer_script
from support.waiting import wait_for

NOBODY = 65534

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root can run a listener as somebody else")


@pytest.fixture
def squatter(socket_path: str):
    """A listener that somebody else runs where we expect ours: the credentials are those at the time of listen()."""
    os.chmod(os.path.dirname(socket_path), 0o777)
    listener = socket.socket(socket.AF_UNIX)
    os.seteuid(NOBODY)
    try:
        listener.bind(socket_path)
        listener.listen()
    finally:
        os.seteuid(0)
    yield listener
    listener.close()
    os.unlink(socket_path)


def received(listener: socket.socket) -> bytes:
    """All that the first connection carried."""
    connection, _ = listener.accept()
    with connection, connection.makefile("rb") as file:
        return file.read()


def test_a_squatter_gets_no_byte_and_start_says_why(bus: Bus, squatter: socket.socket) -> None:
    pusher = SocketPusher(bus, PusherConfig(socket_path=squatter.getsockname()))
    pusher.set_graph({"secret": []}, 1)
    with pytest.raises(PermissionError, match=r"the listener runs as user 65534.*put 65534 into allow_uids"):
        pusher.start()
    assert received(squatter) == b""


def test_a_squatter_gets_no_byte_when_nobody_waits_for_the_start(
    bus: Bus, squatter: socket.socket, caplog: pytest.LogCaptureFixture
) -> None:
    pusher = SocketPusher(bus, PusherConfig(socket_path=squatter.getsockname()))
    pusher.start(wait=False)
    bus.emit(Event("secret"))
    assert received(squatter) == b""
    assert not pusher.connected
    wait_for(lambda: "the listener runs as user 65534" in caplog.text)
    pusher.close(0.05)
    assert caplog.text.count("the listener runs as user 65534") == 1
    assert pusher.stats().dropped == 1


def test_another_user_may_be_allowed(bus: Bus, squatter: socket.socket) -> None:
    with SocketPusher(bus, PusherConfig(socket_path=squatter.getsockname(), allow_uids={NOBODY})):
        bus.emit(Event("x"))
    assert received(squatter).count(b"\n") == 1


def test_a_listener_run_by_root_is_trusted(consumer) -> None:
    os.chmod(os.path.dirname(consumer.path), 0o777)
    os.chmod(consumer.path, 0o777)
    lines = """
os.seteuid(65534)
with pusher:
    bus.emit(Event("x", task=1))
"""
    # The interpreter and the package must be readable for that user, which is not so everywhere.
    code, _, errors = producer_script.run(lines, consumer.path)
    if "PermissionError" in errors or "ModuleNotFoundError" in errors:
        pytest.skip("another user can't run this interpreter")
    assert code == 0
    assert consumer.wait_for_tasks(1) == [1]
