"""`socketpusher doctor` tells apart what can be wrong between a pusher and its consumer, and disturbs nobody."""

import os
import re
import resource
import signal
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from socketpusher import Bus, Event, PusherConfig, SocketPusher
from socketpusher.cli import diagnosis
from support.cli import NOBODY, for_root, hanging_up, listening, run, run_as_nobody_beside_a_listener, running
from support.consumer import Consumer
from support.waiting import stop, wait_for

CHECKS = ["path", "directory", "socket", "listener", "user", "reading", "pusher"]


def verdicts(result: "subprocess.CompletedProcess[str]") -> dict[str, str]:
    """By check, its verdict with its reason and its remedy."""
    assert result.stderr == ""
    found = re.findall(r"^(ok|warn|FAIL|skip) +((?:\S| (?! ))+)  +(.*(?:\n {21}.*)?)", result.stdout, re.MULTILINE)
    assert [name for _, name, _ in found] == CHECKS
    assert result.returncode == any(verdict == "FAIL" for verdict, _, _ in found)
    for verdict, _, text in found:
        assert ("\n" in text) == (verdict in ("warn", "FAIL"))  # the remedy
    return {name: f"{verdict} {' '.join(text.split())}" for verdict, name, text in found}


def examine(path: str, *arguments: str, **options) -> dict[str, str]:
    return verdicts(run("doctor", path, *arguments, **options))


def failure(path: str, check: str, **options) -> str:
    """The reason and remedy of the only check that fails; those that need it are skipped."""
    found = examine(path, **options)
    assert [name for name, text in found.items() if text.startswith("FAIL")] == [check]
    behind = CHECKS[CHECKS.index(check) + 1 : CHECKS.index("pusher")]
    if check not in ("user", "reading"):
        assert all(found[name].startswith("skip") for name in behind)
    assert found["pusher"].startswith("ok")
    return found[check].removeprefix("FAIL ")


@pytest.fixture
def directory(socket_path: str) -> Iterator[str]:
    """A directory with a short name; what is in it is removed."""
    directory = os.path.dirname(socket_path)
    yield directory
    for name in os.listdir(directory):
        path = os.path.join(directory, name)
        os.rmdir(path) if os.path.isdir(path) and not os.path.islink(path) else os.unlink(path)


def test_all_is_well_and_the_consumer_gets_nothing(consumer: Consumer) -> None:
    found = examine(consumer.path)
    assert all(text.startswith("ok") for text in found.values()), found
    wait_for(lambda: consumer.connections)
    assert consumer.connections == [[]]


def test_a_pusher_that_is_connected_is_not_disturbed(consumer: Consumer, bus: Bus) -> None:
    with SocketPusher(bus, PusherConfig(socket_path=consumer.path)) as pusher:
        assert examine(consumer.path)["reading"].startswith("ok")
        bus.emit(Event("x", task=1))
        assert consumer.wait_for_tasks(1) == [1]
        assert pusher.stats().reconnects == 0


def test_a_listener_says_nothing_of_a_doctor(socket_path: str) -> None:
    with listening(socket_path) as process:
        found = examine(socket_path)
        assert f"process {process.pid} (" in found["listener"]
        process.send_signal(signal.SIGINT)
        assert process.wait(30) == 130
        assert process.stdout.read() == process.stderr.read() == b""


# The path


def test_where_the_default_comes_from_is_told(directory: str) -> None:
    found = verdicts(run("doctor", env={**os.environ, "XDG_RUNTIME_DIR": directory}))
    assert found["path"] == f"ok {directory}/choo/web.sock, from XDG_RUNTIME_DIR"
    found = verdicts(run("doctor", env={**os.environ, "XDG_RUNTIME_DIR": "relative", "HOME": directory}))
    assert found["path"].startswith(f"warn {directory}/.choo/web.sock, in the home directory: XDG_RUNTIME_DIR is not")


def test_a_path_that_is_too_long(directory: str) -> None:
    path = f"{directory}/{'x' * 107}"
    assert failure(path, "path").startswith(f"{path} has {len(path)} bytes; a Unix socket takes 107")


def test_an_empty_path() -> None:
    assert failure("", "path").startswith("it is empty leave it out for the default")


def test_a_missing_directory(directory: str) -> None:
    assert failure(f"{directory}/a/s", "directory").startswith(f"{directory}/a does not exist start the consumer")


def test_a_file_for_a_directory(directory: str) -> None:
    Path(directory, "f").touch()
    assert failure(f"{directory}/f/s", "directory").startswith(f"{directory}/f is a regular file")
    assert failure(f"{directory}/f/g/s", "directory").startswith(f"a part of {directory}/f/g is not a directory")


def test_a_directory_that_its_group_may_write_to(consumer: Consumer) -> None:
    os.chmod(os.path.dirname(consumer.path), 0o770)
    found = examine(consumer.path)
    assert re.match(r"warn .*mode 0770: group \d+ can replace the socket chmod go-w ", found["directory"])


@for_root
def test_a_directory_of_somebody_else(consumer: Consumer) -> None:
    os.chown(os.path.dirname(consumer.path), NOBODY, -1)
    assert "of user 65534, mode 0700: its owner can replace" in examine(consumer.path)["directory"]


# The socket


def test_no_socket(socket_path: str) -> None:
    assert failure(socket_path, "socket") == (
        f"{socket_path} does not exist start the consumer, for example: socketpusher listen {socket_path}"
    )


def test_something_else_than_a_socket(directory: str) -> None:
    Path(directory, "file").touch()
    os.mkfifo(f"{directory}/pipe")
    os.mkdir(f"{directory}/directory")
    for name, kind in (("file", "regular file"), ("pipe", "pipe"), ("directory", "directory")):
        assert failure(f"{directory}/{name}", "socket").startswith(f"a {kind} is in its place move it away")


def test_symbolic_links(directory: str) -> None:
    path = f"{directory}/link"
    os.symlink("s", path)
    assert failure(path, "socket").startswith("it is a symbolic link to s, which does not exist")
    consumer = Consumer(f"{directory}/s")
    try:
        found = examine(path)
        assert re.match(r"warn a symbolic link to s, .*: pushers follow it", found["socket"])
        assert found["reading"].startswith("ok")
    finally:
        consumer.go_away()


@for_root
def test_a_socket_of_somebody_else(consumer: Consumer) -> None:
    os.chown(consumer.path, NOBODY, -1)
    assert "of user 65534" in examine(consumer.path)["socket"]
    assert examine(consumer.path)["socket"].startswith("warn")


def test_a_socket_that_anybody_may_write_to(consumer: Consumer) -> None:
    os.chmod(consumer.path, 0o666)
    assert re.match(r"warn .*mode 0666: anyone may send to it", examine(consumer.path)["socket"])


def test_a_stale_socket(directory: str) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(f"{directory}/s")
        listener.listen()
    assert failure(f"{directory}/s", "listener").startswith("the socket is stale")


def test_a_socket_of_another_kind(directory: str) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind(f"{directory}/s")
        assert failure(f"{directory}/s", "listener").startswith("the socket is not a stream socket")


# The consumer


def test_a_full_queue(directory: str) -> None:
    with socket.socket(socket.AF_UNIX) as listener, socket.socket(socket.AF_UNIX) as waiting:
        listener.bind(f"{directory}/s")
        listener.listen(0)
        waiting.connect(f"{directory}/s")
        assert failure(f"{directory}/s", "listener").startswith("the queue of connections is full")


def test_a_consumer_that_is_stopped(socket_path: str) -> None:
    with listening(socket_path) as process:
        stop(process.pid)
        reason = failure(socket_path, "reading")
        assert re.fullmatch(rf"process {process.pid} \(.*\) is stopped continue it: kill -CONT {process.pid}", reason)
        process.send_signal(signal.SIGCONT)
        process.send_signal(signal.SIGINT)
        assert process.wait(30) == 130


@pytest.mark.parametrize("relative", [False, True])
def test_a_consumer_that_takes_no_connection(directory: str, relative: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(directory)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind("s" if relative else f"{directory}/s")
        listener.listen()
        assert re.match(r"process \d+ \(.*\) accepted no connection in 2 s", failure(f"{directory}/s", "reading"))


def test_a_consumer_that_serves_one_connection_at_a_time(directory: str) -> None:
    with socket.socket(socket.AF_UNIX) as listener, socket.socket(socket.AF_UNIX) as pusher:
        listener.bind(f"{directory}/s")
        listener.listen()
        pusher.connect(f"{directory}/s")
        connection, _ = listener.accept()
        with connection:
            found = examine(f"{directory}/s")
    assert found["reading"].startswith("warn it is connected, but accepted no further connection in 2 s")


@for_root
def test_a_consumer_of_somebody_else(directory: str) -> None:
    os.chmod(directory, 0o777)
    with socket.socket(socket.AF_UNIX) as listener:
        os.seteuid(NOBODY)
        try:
            listener.bind(f"{directory}/s")
            listener.listen()
        finally:
            os.seteuid(0)
        waiting = examine(f"{directory}/s")
        allowed = examine(f"{directory}/s", "--allow-uid", str(NOBODY))
    assert re.match(r"FAIL it runs as user 65534, .*allow_uids=\(65534,\)\), or .* --allow-uid 65534", waiting["user"])
    assert allowed["user"].startswith("ok")


@for_root
def test_a_consumer_that_refuses_this_user(socket_path: str) -> None:
    found = verdicts(run_as_nobody_beside_a_listener(socket_path, "doctor", socket_path))
    assert "of user 0 hung up at once, so it seems to refuse user 65534 run both" in found["reading"]
    assert found["reading"].endswith("socketpusher listen --allow-uid 65534")


@for_root
def test_a_consumer_of_somebody_else_that_hangs_up_at_once(socket_path: str) -> None:
    with hanging_up(socket_path):
        found = examine(socket_path, "--allow-uid", str(NOBODY))
    assert re.match(r"FAIL .* of user 65534 hung up at once, so it seems to refuse user 0 run both", found["reading"])


# This process


def test_shared_memory_that_can_not_be_written() -> None:
    # A limit of 0 on the size of files hits the one that sem_open makes, as a read-only /dev/shm does.
    with running("doctor", "/nowhere/s") as process:
        resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (0, 0))
        output = process.stdout.read().decode()
        assert process.wait(30) == 1
    assert re.search(r"^FAIL  pusher +it can't start: .*\n +let this user .*/dev/shm", output, re.M)


def test_a_pusher_that_can_not_start(tmp_path: Path) -> None:
    long = tmp_path / ("x" * 100)
    long.mkdir()
    found = examine("/nowhere/s", env={**os.environ, "TMPDIR": str(long)})
    assert re.match(r"FAIL it can't start: can't listen: the path has \d+ bytes", found["pusher"])
    assert os.listdir(long) == []


def test_a_system_that_does_not_list_sockets_is_no_reason_to_stop(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a chroot without /proc."""

    def missing(path: str, **options: object) -> None:
        raise FileNotFoundError(2, "No such file or directory", path)

    monkeypatch.setattr(diagnosis, "open", missing, raising=False)
    assert diagnosis._connections("/s", 1) is None
