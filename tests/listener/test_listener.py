"""The minimal consumer, with real sockets and real senders."""

import array
import asyncio
import errno
import fcntl
import os
import random
import select
import signal
import socket
import stat
import subprocess
import sys
import tempfile
import termios
import threading
import types
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from socketpusher import Bus, Event, Problem, PusherConfig, RefusedSender, SocketPusher, wire
from socketpusher.config import MAX_LINE_BYTES
from socketpusher.listener.listener import Listener, listen
from socketpusher.listener.splitter import LineSplitter
from socketpusher.listener.threads import READ_BYTES
from socketpusher.unix_socket import SUN_PATH_MAX
from support.waiting import wait_for


@pytest.fixture(autouse=True)
def alarm() -> Iterator[None]:
    """A listener that waits for what has come already must not wait for ever."""

    def ring(number: int, frame: types.FrameType | None) -> None:
        raise TimeoutError("the test took too long")

    before = signal.signal(signal.SIGALRM, ring)
    signal.alarm(30)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


def sender_to(path: str) -> socket.socket:
    sender = socket.socket(socket.AF_UNIX)
    sender.connect(path)
    return sender


def send(path: str, data: bytes) -> None:
    with sender_to(path) as sender:
        sender.sendall(data)


def line(name: str | int) -> bytes:
    return b'{"type":"%b","time":"2026-11-23T17:08:00Z"}\n' % str(name).encode()


def take(listener: Iterator, count: int) -> list:
    return [next(listener) for _ in range(count)]


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
        send(socket_path, b'nonsense\n{"type":"x"}\n[]\n' + wire.encode(Event("kept")))
        assert next(listener).type == "kept"
    assert [record.levelname for record in caplog.records if record.name == "socketpusher"] == ["WARNING"] * 3
    assert "nonsense" in caplog.text


def test_the_unfinished_line_of_a_sender_that_went_away_is_never_yielded(socket_path: str) -> None:
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


def test_a_line_without_end_takes_no_more_memory_than_the_longest_line() -> None:
    too_long: list[bytes] = []
    lines = LineSplitter(too_long.append)
    for _ in range(100):
        assert lines.feed(b"x" * READ_BYTES) == []
        assert len(lines._begun) < MAX_LINE_BYTES
    assert lines.feed(b"\nnext\n") == [b"next"]
    assert lines.feed(b"again\n") == [b"again"]
    assert too_long == [b"x" * 1024]


def test_it_does_not_matter_where_the_stream_is_cut() -> None:
    generator = random.Random(1)
    for _ in range(200):
        stream = bytes(generator.choice(b"ab\n\r") for _ in range(generator.randrange(60)))
        lines, found, position = LineSplitter(print), [], 0
        while position < len(stream):
            size = generator.randrange(1, 9)
            found += lines.feed(stream[position : position + size])
            position += size
        assert found == stream.split(b"\n")[:-1]


# Waiting


def test_what_one_read_brought_is_handed_out_before_the_next(socket_path: str) -> None:
    with listen(socket_path, raw=True) as listener, sender_to(socket_path) as sender:
        sender.sendall(line(1) + line(2))
        assert next(listener) == line(1)
        sender.sendall(line(3))
        assert listener.read() == [line(2)]
        assert next(listener) == line(3)


def test_a_loop_of_ones_own_can_wait_for_the_listener(socket_path: str) -> None:
    with listen(socket_path, raw=True) as listener:
        assert select.select([listener], [], [], 0)[0] == []
        send(socket_path, line("line"))
        lines: list[bytes] = []
        while select.select([listener], [], [], 0)[0]:
            lines += listener.read()
        assert lines == [line("line")]


def test_what_is_held_stays_in_the_socket_until_it_is_released(socket_path: str) -> None:
    with listen(socket_path) as listener, sender_to(socket_path) as sender:
        sender.sendall(line(1) + line(2)[:10])
        assert _held(listener) == ["1"]
        sender.sendall(line(2)[10:])
        assert select.select([listener], [], [], 0)[0] == []
        assert _is_unread(sender)
        listener.release()
        assert _held(listener) == ["2"]
        listener.release()
        assert not _is_unread(sender)
        sender.sendall(line(3))
        assert next(listener).type == "3"
        sender.sendall(line(4))
        assert _held(listener) == ["4"]


def _held(listener: Listener[Event]) -> list[str]:
    while not (events := listener.read(hold=True)):
        pass
    return [event.type for event in events]


def _is_unread(sender: socket.socket) -> bool:
    size = array.array("i", [0])
    fcntl.ioctl(sender, termios.TIOCOUTQ, size)
    return size[0] > 0


def test_what_a_killed_listener_has_held_comes_to_the_next_one_and_no_more(socket_path: str, bus: Bus) -> None:
    command = [sys.executable, "-c", HOLD_AND_DIE, socket_path]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as killed:
        assert killed.stdout.readline() == "listening\n"
        with SocketPusher(bus, PusherConfig(socket_path=socket_path)):
            bus.emit(Event("released"))
            assert killed.stdout.readline() == "released\n"
            bus.emit(Event("held"))
            assert killed.stdout.readline() == "held\n"
            killed.wait(30)
            with listen(socket_path) as listener:
                bus.emit(Event("last"))
                assert [event.type for event in take(listener, 2)] == ["held", "last"]


HOLD_AND_DIE = """
import os, signal, sys
from socketpusher import listen
listener = listen(sys.argv[1])
print("listening", flush=True)
for _ in range(2):
    while not (events := listener.read(hold=True)):
        pass
    if events[0].type == "released":
        listener.release()
    print(events[0].type, flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_ctrl_c_ends_the_wait_at_once_and_the_listener_goes_on(socket_path: str) -> None:
    main = threading.get_ident()
    with listen(socket_path, raw=True) as listener:
        interrupt = threading.Thread(
            target=lambda: (wait_for(lambda: _sleeps(main)), signal.pthread_kill(main, signal.SIGINT))
        )
        interrupt.start()
        with pytest.raises(KeyboardInterrupt):
            next(listener)
        interrupt.join()
        send(socket_path, line("later"))
        assert next(listener) == line("later")


def _sleeps(thread: int) -> bool:
    frame = sys._current_frames()[thread]
    return frame.f_code.co_name == "select"


def test_a_closed_listener_yields_nothing_more(socket_path: str) -> None:
    listener = listen(socket_path, raw=True)
    send(socket_path, line(1) + line(2))
    assert next(listener) == line(1)
    listener.close()
    listener.close()
    assert list(listener) == []


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


# The socket file


def test_no_other_user_can_ever_use_the_socket(socket_path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    modes = []
    bind = socket.socket.bind

    class Spy(socket.socket):
        def bind(self, address: str) -> None:
            bind(self, address)
            modes.append(stat.S_IMODE(os.stat(address).st_mode))

    monkeypatch.setattr(socket, "socket", Spy)
    umask = os.umask(0)
    try:
        listen(socket_path).close()
    finally:
        os.umask(umask)
    assert modes == [0o600]


def test_a_missing_directory_is_created_for_this_user_only(tmp_path_factory: pytest.TempPathFactory) -> None:
    directory = tmp_path_factory.mktemp("s") / "new"
    umask = os.umask(0)
    try:
        listen(directory / "s").close()
    finally:
        os.umask(umask)
    assert stat.S_IMODE(directory.stat().st_mode) == 0o700
    assert list(directory.iterdir()) == []


def test_the_default_path_is_where_pushers_send_to(socket_path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    runtime = os.path.dirname(socket_path)
    monkeypatch.setenv("XDG_RUNTIME_DIR", runtime)
    with listen() as listener:
        assert listener.path == PusherConfig().socket_path
    os.rmdir(os.path.join(runtime, "choo"))


def test_a_stale_socket_is_taken_over(socket_path: str) -> None:
    killed = "import os, socket, sys; s = socket.socket(socket.AF_UNIX); s.bind(sys.argv[1]); s.listen(); os._exit(0)"
    subprocess.run([sys.executable, "-c", killed, socket_path], check=True)
    with listen(socket_path, raw=True) as listener:
        send(socket_path, line("line"))
        assert next(listener) == line("line")


def test_a_socket_that_somebody_listens_on_is_refused_and_left_alone(socket_path: str) -> None:
    with listen(socket_path, raw=True) as first:
        with pytest.raises(OSError, match="somebody listens there already") as refused:
            listen(socket_path)
        assert refused.value.errno == errno.EADDRINUSE
        assert refused.value.filename == socket_path
        send(socket_path, line("line"))
        assert next(first) == line("line")


def test_a_listener_whose_queue_is_full_is_not_taken_for_a_dead_one(socket_path: str) -> None:
    with socket.socket(socket.AF_UNIX) as other, sender_to_full_queue(other, socket_path):
        with pytest.raises(OSError, match="somebody listens"):
            listen(socket_path)
        assert os.path.exists(socket_path)
    os.unlink(socket_path)


def sender_to_full_queue(other: socket.socket, path: str) -> socket.socket:
    other.bind(path)
    other.listen(0)
    return sender_to(path)


@pytest.mark.parametrize("kind", ["file", "directory", "symlink", "fifo"])
def test_what_is_not_a_socket_is_never_deleted(socket_path: str, kind: str) -> None:
    create = {
        "file": lambda: open(socket_path, "w").close(),
        "directory": lambda: os.mkdir(socket_path),
        "symlink": lambda: os.symlink("elsewhere", socket_path),
        "fifo": lambda: os.mkfifo(socket_path),
    }
    create[kind]()
    before = os.lstat(socket_path)
    with pytest.raises(OSError, match="not a socket") as refused:
        listen(socket_path)
    assert refused.value.errno == errno.ENOTSOCK
    assert os.lstat(socket_path) == before
    (os.rmdir if kind == "directory" else os.unlink)(socket_path)


def test_a_path_that_is_too_long_is_refused_in_words(socket_path: str) -> None:
    longest = socket_path.ljust(SUN_PATH_MAX, "x")
    listen(longest).close()
    with pytest.raises(OSError, match=f"{SUN_PATH_MAX + 1} bytes.* choose a shorter path") as refused:
        listen(longest + "x")
    assert refused.value.errno == errno.ENAMETOOLONG


@pytest.mark.parametrize("path", ["", "a\0b"])
def test_a_path_that_names_no_file_is_refused(path: str) -> None:
    with pytest.raises(ValueError, match="names no file"):
        listen(path)


def test_close_leaves_the_socket_file_of_somebody_else(socket_path: str) -> None:
    first = listen(socket_path)
    os.unlink(socket_path)
    with listen(socket_path, raw=True) as second:
        first.close()
        send(socket_path, line("line"))
        assert next(second) == line("line")


def test_close_finds_the_socket_file_from_another_directory(socket_path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(os.path.dirname(socket_path))
    with listen("s"):
        assert os.path.exists(socket_path)
        monkeypatch.chdir("/")
    assert not os.path.exists(socket_path)


def test_a_path_is_looked_at_and_bound_by_one_listener_at_a_time(
    socket_path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    attempts = []
    bind = socket.socket.bind

    class Spy(socket.socket):
        def bind(self, address: str) -> None:
            directory = os.open(os.path.dirname(address), os.O_RDONLY)
            try:
                with pytest.raises(BlockingIOError):
                    fcntl.flock(directory, fcntl.LOCK_EX | fcntl.LOCK_NB)
            finally:
                os.close(directory)
            attempts.append(address)
            bind(self, address)

    monkeypatch.setattr(socket, "socket", Spy)
    listen(socket_path).close()
    assert attempts == [socket_path]


def test_of_listeners_that_start_at_once_one_wins_and_the_others_are_told(socket_path: str) -> None:
    # A stale socket makes it harder: each of them might remove what the other has just bound.
    code = (
        "import sys\nfrom socketpusher.listener.listener import listen\nsys.stdin.readline()\n"
        "try:\n    listener = listen(sys.argv[1], raw=True)\n"
        "except OSError as error:\n    print(error.errno, flush=True)\n"
        "else:\n    print(0, flush=True)\n    sys.stdin.readline()\n    listener.close()\n"
    )
    for _ in range(5):
        with socket.socket(socket.AF_UNIX) as stale:
            stale.bind(socket_path)
        racers = [
            subprocess.Popen(
                [sys.executable, "-c", code, socket_path], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
            )
            for _ in range(4)
        ]
        for racer in racers:
            racer.stdin.write("go\n")
            racer.stdin.flush()
        outcomes = [int(racer.stdout.readline()) for racer in racers]
        for racer in racers:
            racer.communicate("end\n", timeout=30)
        assert sorted(outcomes) == [0] + [errno.EADDRINUSE] * 3


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
