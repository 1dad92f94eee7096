"""The file of the socket: who may use it, whose it is, when it goes."""

import errno
import fcntl
import os
import socket
import stat
import subprocess
import sys
import threading

import pytest

from socketpusher import PusherConfig, listen
from socketpusher.listener import socketfile
from socketpusher.unix_socket import SUN_PATH_MAX
from support.senders import line, send, sender_to


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


def test_a_directory_that_another_process_has_locked_is_refused_in_words(
    socket_path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(socketfile, "LOCK_TIMEOUT", 0.1)
    directory = os.open(os.path.dirname(socket_path), os.O_RDONLY)
    try:
        fcntl.flock(directory, fcntl.LOCK_EX)
        with pytest.raises(TimeoutError, match=r"another process has locked the directory .*; end that process"):
            listen(socket_path)
    finally:
        os.close(directory)


def test_a_directory_that_another_listener_has_locked_is_waited_for(socket_path: str) -> None:
    directory = os.open(os.path.dirname(socket_path), os.O_RDONLY)
    fcntl.flock(directory, fcntl.LOCK_EX)
    unlock = threading.Timer(0.1, os.close, (directory,))
    unlock.start()
    listen(socket_path).close()
    unlock.join()


def test_a_forked_child_that_closes_the_listener_leaves_it_to_its_parent(socket_path: str) -> None:
    with listen(socket_path, raw=True) as listener:
        send(socket_path, line("before"))
        assert next(listener) == line("before")
        child = os.fork()
        if child == 0:
            listener.close()
            os._exit(0)
        assert os.waitpid(child, 0)[1] == 0
        send(socket_path, line("after"))
        assert next(listener) == line("after")


def test_a_second_removal_leaves_the_file_of_a_successor_alone(socket_path: str) -> None:
    """Which may have the inode number of the first: it was free."""
    first = socketfile.SocketFile(socket_path, shared=False)
    first.remove()
    with listen(socket_path):
        first._status = os.lstat(socket_path)
        first.remove()
        assert os.path.exists(socket_path)
    first.socket.close()
