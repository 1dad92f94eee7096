"""The minimal consumer, with real sockets and real senders."""

import asyncio
import os
import signal
import stat
import subprocess
import sys
import tempfile
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from socketpusher import Bus, Event, Problem, PusherConfig, RefusedSender, SocketPusher, wire
from socketpusher.config import MAX_LINE_BYTES
from socketpusher.listener.listener import Listener, listen
from support.senders import line, send, sender_to, take
from support.waiting import wait_for

# What is yielded


def test_events_come_as_they_were_emitted(socket_path: str, bus: Bus) -> None:
    with listen(socket_path) as listener, SocketPusher(bus, PusherConfig(socket_path=socket_path)):
        for task in range(1, 101):
            bus.emit(Event("task.started", unit="app", task=task, payload={"n": task}))
        events = take(listener, 100)
    assert [(event.task, event.payload) for event in events] == [(task, {"n": task}) for task in range(1, 101)]
    assert {event.type for event in events} == {"task.started"}


def test_an_event_comes_before_its_sender_is_gone(socket_path: str) -> None:
    with listen(socket_path) as listener, sender_to(socket_path) as sender:
        for task in (1, 2, 3):
            sender.sendall(wire.encode(Event("task.started", task=task)))
            assert next(listener).task == task


def test_raw_lines_come_byte_for_byte(socket_path: str) -> None:
    lines = [line("plain"), b' {"time": "2026-11-23T17:08:00Z",\t"type":"\\u0041", "other": [1.50]} \r\n', line("ü")]
    with listen(socket_path, raw=True) as listener:
        send(socket_path, b"".join(lines))
        assert take(listener, len(lines)) == lines


def test_senders_may_come_and_go(socket_path: str) -> None:
    with listen(socket_path, raw=True) as listener:
        for number in range(50):
            send(socket_path, line(number))
            assert next(listener) == line(number)


def test_senders_at_the_same_time_do_not_mix_their_lines(socket_path: str) -> None:
    count, size = 500, 3000
    senders = [threading.Thread(target=send, args=(socket_path, line(letter * size) * count)) for letter in "abcd"]
    with listen(socket_path, raw=True) as listener:
        for sender in senders:
            sender.start()
        lines = take(listener, 4 * count)
        for sender in senders:
            sender.join()
    assert sorted(lines) == sorted(line(letter * size) for letter in "abcd" for _ in range(count))


def test_a_line_that_is_not_an_event_is_skipped_and_logged(socket_path: str, caplog: pytest.LogCaptureFixture) -> None:
    with listen(socket_path) as listener:
        send(socket_path, b"nonsense\n" + wire.encode(Event("kept")))
        assert next(listener).type == "kept"
    assert [(record.name, record.levelname) for record in caplog.records] == [("socketpusher", "WARNING")]
    assert "nonsense" in caplog.text


DEEP = b'{"type":' + b"[" * 1000 + b"]" * 1000 + b',"time":"2026-11-23T17:08:00Z"}'


@pytest.mark.parametrize("skipped", [b"nonsense", b'{"type":"x"}', b"[]", b"", DEEP])
def test_each_line_that_is_not_an_event_is_reported(socket_path: str, skipped: bytes) -> None:
    problems: list[Any] = []
    with listen(socket_path, on_problem=problems.append) as listener:
        send(socket_path, skipped + b"\n" + line("kept"))
        assert next(listener).type == "kept"
    assert [problem.line for problem in problems] == [skipped]


def test_the_unfinished_line_of_a_sender_that_disconnected_is_not_yielded(socket_path: str) -> None:
    with listen(socket_path, raw=True) as listener:
        send(socket_path, line("whole") + line("half")[:-1])
        assert next(listener) == line("whole")
        send(socket_path, line("other"))
        assert next(listener) == line("other")


@pytest.mark.parametrize("excess", [0, 1, 5_000_000])
def test_a_line_over_the_limit_is_skipped_and_its_neighbours_are_not(
    socket_path: str, caplog: pytest.LogCaptureFixture, excess: int
) -> None:
    long = line("x" * (MAX_LINE_BYTES - len(line("")) + excess))
    sender = threading.Thread(target=send, args=(socket_path, line("before") + long + line("after")))
    with listen(socket_path, raw=True) as listener:
        sender.start()
        expected = [line("before"), line("after")] if excess else [line("before"), long, line("after")]
        assert take(listener, len(expected)) == expected
        sender.join()
    assert len(caplog.records) == (1 if excess else 0)


# Who sends


def test_it_is_known_where_an_event_came_from(socket_path: str, bus: Bus) -> None:
    with listen(socket_path) as listener:
        assert (listener.sender, listener.senders) == (None, ())
        with SocketPusher(bus, PusherConfig(socket_path=socket_path)) as pusher, sender_to(socket_path) as other:
            bus.emit(Event("theirs"))
            other.sendall(line("ours"))
            senders = {}
            for _ in range(2):
                event = next(listener)
                senders[event.type] = listener.sender
            assert set(listener.senders) == set(senders.values())
            assert (senders["theirs"].pid, senders["theirs"].uid) == (pusher.stats().writer_pid, os.getuid())
            assert senders["ours"].pid == os.getpid()
        while listener.senders:
            listener.read()


def test_two_connections_of_a_process_are_two_senders(socket_path: str) -> None:
    with listen(socket_path) as listener:
        send(socket_path, line(1))
        send(socket_path, line(2))
        first = (next(listener), listener.sender)[1]
        second = (next(listener), listener.sender)[1]
        assert first.pid == second.pid
        assert first != second


@pytest.mark.skipif(os.getuid() != 0, reason="only root can become another user")
@pytest.mark.parametrize("form", ["thread", "asyncio"])
def test_other_users_are_hung_up_on_unless_they_are_allowed(form: str) -> None:
    with tempfile.TemporaryDirectory(prefix="sp") as directory:
        os.chmod(directory, 0o711)
        path, problems = os.path.join(directory, "s"), []
        with listen(path, allow_uids=[12345], on_problem=problems.append) as listener:
            assert stat.S_IMODE(os.stat(path).st_mode) == 0o666
            with ThreadPoolExecutor() as pool:
                refused = pool.submit(send_as, 54321, path)
                if form == "asyncio":
                    asyncio.run(asyncio.wait_for(_wait_in_asyncio(listener, problems), 30))
                else:
                    while not problems:
                        listener.read()
                    sent = [pool.submit(send_as, uid, path) for uid in (12345, 0)]
                    assert sorted(event.type for event in take(listener, 2)) == ["0", "12345"]
                    assert [future.result().returncode for future in sent] == [0, 0]
                assert refused.result().returncode == HUNG_UP_ON
        assert [(type(problem), problem.sender.uid) for problem in problems] == [(RefusedSender, 54321)]
        assert "put 54321 into allow_uids" in str(problems[0])


async def _wait_in_asyncio(listener: Listener[Event], problems: list[Problem]) -> None:
    reading = asyncio.ensure_future(anext(aiter(listener)))
    while not problems:
        await asyncio.sleep(0.01)
    reading.cancel()
    await asyncio.gather(reading, return_exceptions=True)
    await asyncio.sleep(0.01)


HUNG_UP_ON = 3


def send_as(uid: int, path: str) -> "subprocess.CompletedProcess[bytes]":
    """Send a line; a sender that is let in ends at once, another one waits until it is hung up on."""
    command = [sys.executable, "-S", "-c", SEND_AS, str(uid), path]
    return subprocess.run(command, input=line(uid), capture_output=True, timeout=30)


SEND_AS = f"""
import os, socket, sys
sender = socket.socket(socket.AF_UNIX)
os.setuid(int(sys.argv[1]))
sender.connect(sys.argv[2])
try:
    sender.sendall(sys.stdin.buffer.read())
    if sys.argv[1] == "54321":
        sender.recv(1)
        sys.exit({HUNG_UP_ON})
except (BrokenPipeError, ConnectionResetError):
    sys.exit({HUNG_UP_ON})
"""


@pytest.mark.skipif(os.getuid() != 0, reason="only root can become another user")
def test_other_users_can_not_even_connect_to_a_socket_of_ones_own() -> None:
    with tempfile.TemporaryDirectory(prefix="sp") as directory:
        os.chmod(directory, 0o711)
        path = os.path.join(directory, "s")
        with listen(path):
            assert b"PermissionError" in send_as(12345, path).stderr


def test_allow_uids_holds_user_ids() -> None:
    with pytest.raises(TypeError, match="must hold user ids"):
        listen("anywhere", allow_uids=["root"])


def test_what_is_told_again_to_one_that_comes_late_is_no_gap_and_to_another_no_repetition(
    socket_path: str, bus: Bus
) -> None:
    problems: list[Problem] = []
    pusher = SocketPusher(bus, PusherConfig(socket_path=socket_path, event_ids=True, reconnect_backoff=0.01))
    with listen(socket_path, on_problem=problems.append) as first, pusher:
        for event in (Event("x"), Event("unit.started", "a"), Event("x"), Event("unit.started", "b"), Event("x")):
            bus.emit(event)
        assert [next(first).unit for _ in range(5)] == ["", "a", "", "b", ""]
        writer = pusher.stats().writer_pid
        assert writer is not None
        wait_for(lambda: pusher._supervisor.ledger.settled == 5)
        os.kill(writer, signal.SIGKILL)  # so that the next one tells the same consumer again
        wait_for(lambda: pusher.stats().writer_restarts == 1 and pusher.connected)
        bus.emit(Event("y"))
        assert next(first).type == "y"
        first.close()
        with listen(socket_path, on_problem=problems.append) as second:
            assert [next(second).unit for _ in range(2)] == ["a", "b"]
            bus.emit(Event("z"))
            assert next(second).type == "z"
    assert problems == []
