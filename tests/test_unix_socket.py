"""What is known of Unix sockets."""

import errno
import os
import socket
import struct
import sys

import pytest

from socketpusher.unix_socket import SUN_PATH_MAX, check_path, credentials, process_start_ticks, with_advice


def test_the_longest_path_that_is_let_through_is_the_longest_that_the_system_takes(tmp_path) -> None:
    directory = os.open(tmp_path, os.O_RDONLY)
    before = os.getcwd()
    os.chdir(tmp_path)  # the path is relative, so that its length is ours to choose
    try:
        for size, taken in (SUN_PATH_MAX, True), (SUN_PATH_MAX + 1, False):
            path = "x" * size
            with socket.socket(socket.AF_UNIX) as listener:
                if taken:
                    check_path(path)
                    listener.bind(path)
                else:
                    with pytest.raises(OSError, match="too long"):
                        listener.bind(path)
                    with pytest.raises(OSError, match=f"{size} bytes") as caught:
                        check_path(path)
                    assert (caught.value.errno, caught.value.filename) == (errno.ENAMETOOLONG, path)
    finally:
        os.chdir(before)
        os.close(directory)


def test_bytes_of_a_path_count_not_characters() -> None:
    check_path("é" * (SUN_PATH_MAX // 2))
    with pytest.raises(OSError, match=f"the limit is {SUN_PATH_MAX}"):
        check_path("é" * (SUN_PATH_MAX // 2 + 1))


@pytest.mark.parametrize(
    ("code", "kind", "what_to_do"),
    [
        (errno.ENOENT, FileNotFoundError, "start"),
        (errno.ECONNREFUSED, ConnectionRefusedError, "start"),
        (errno.EACCES, PermissionError, "permission"),
        (errno.ENOTSOCK, OSError, "path"),
        (errno.EPROTOTYPE, OSError, "SOCK_STREAM"),
        (errno.ENOTDIR, NotADirectoryError, "path"),
        (errno.EAGAIN, BlockingIOError, "consumer"),
        (errno.EMFILE, OSError, "descriptor"),
    ],
)
def test_an_error_keeps_its_kind_and_says_what_was_tried_on_what_why_it_failed_and_what_to_do(
    code: int, kind: type[OSError], what_to_do: str
) -> None:
    error = with_advice(OSError(code, os.strerror(code)), "/run/web.sock")
    assert type(error) is kind
    assert (error.errno, error.filename) == (code, "/run/web.sock")
    said, _, advice = error.strerror.partition(";" if code != errno.ECONNREFUSED else "; the socket")
    assert os.strerror(code) in said
    assert what_to_do in advice


def test_an_error_without_a_number_is_an_oserror_with_its_text() -> None:
    error = with_advice(OSError("odd"), "/s")
    assert error.errno == errno.EIO
    assert "odd" in str(error)


@pytest.mark.skipif(sys.platform != "linux", reason="SO_PEERCRED")
def test_who_is_at_the_other_end_is_told() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        assert credentials(ours) == (os.getpid(), os.getuid())


@pytest.mark.skipif(sys.platform != "linux", reason="SO_PEERCRED")
def test_a_user_may_have_any_number_and_a_process_may_be_hidden() -> None:
    class Connected:
        def getsockopt(self, *arguments: int) -> bytes:
            return struct.pack("iII", 0, 3_000_000_000, 0)

    assert credentials(Connected()) == (None, 3_000_000_000)  # type: ignore[arg-type]


@pytest.mark.skipif(sys.platform != "linux", reason="/proc")
def test_a_process_has_one_start_and_one_that_is_gone_has_none() -> None:
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(write)
        os.read(read, 1)
        os._exit(0)
    os.close(read)
    ours, theirs = process_start_ticks(os.getpid()), process_start_ticks(child)
    assert ours is not None
    assert theirs is not None
    assert ours <= theirs == process_start_ticks(child)
    os.close(write)
    os.waitpid(child, 0)
    assert process_start_ticks(child) is None
