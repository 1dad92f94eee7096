"""The command `socketpusher listen`, as a user runs it."""

import os
import pty
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from socketpusher import Bus, Event, PusherConfig, SocketPusher, __version__, wire
from support.cli import INSTALLED, listening, run, send
from support.waiting import wait_for


@pytest.fixture(autouse=True)
def buffered(monkeypatch: pytest.MonkeyPatch) -> None:
    """The output of a command is buffered, whatever this environment says."""
    monkeypatch.delenv("PYTHONUNBUFFERED", raising=False)


def test_events_are_printed_unmodified_and_other_lines_are_reported(socket_path: str) -> None:
    lines = [
        wire.encode(Event("x", payload="ü")),
        b' { "time" : "2026-11-23T17:08:00+01:00" , "type":"\\u00fc","z":1}\r\n',
    ]
    with listening(socket_path) as process:
        send(socket_path, b"\xff\x1b[2Jnot an event\r\n" + lines[0] + b"\nagain\n" + lines[1])
        assert [process.stdout.readline() for _ in lines] == lines
        reports = [process.stderr.readline() for _ in range(2)]
        process.send_signal(signal.SIGINT)
        assert process.wait(30) == 130
        assert process.stdout.read() == process.stderr.read() == b""
    assert b"skipped what process" in reports[0]
    assert b"\x1b" not in reports[0]
    assert b"2 more skipped lines" in reports[1]


def test_a_line_is_printed_at_once_and_senders_may_come_and_go(socket_path: str, bus: Bus) -> None:
    with listening(socket_path) as process:
        for task in (1, 2, 3):
            with SocketPusher(bus := Bus(), PusherConfig(socket_path=socket_path)):
                bus.emit(Event("task.started", task=task))
                assert wire.decode(process.stdout.readline()).task == task
        process.send_signal(signal.SIGINT)
        process.wait(30)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT])
def test_a_signal_ends_it_quietly_and_removes_the_socket(socket_path: str, number: signal.Signals) -> None:
    with listening(socket_path) as process:
        process.send_signal(number)
        assert process.wait(30) == 128 + number
        assert process.stderr.read() == b""
    assert not os.path.exists(socket_path)


INTERRUPTED_IMPORT = """
import os, signal, sys
from socketpusher.cli import main

def profile(frame, event, argument):
    inside = frame.f_code.co_name == "cb" and "importlib" in frame.f_code.co_filename
    if event == "call" and inside and callable(signal.getsignal(signal.SIGTERM)):
        sys.setprofile(None)
        os.kill(os.getpid(), int(os.environ["NUMBER"]))

sys.setprofile(profile)
sys.exit(main())
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_in_the_middle_of_an_import_is_not_lost(socket_path: str, number: signal.Signals) -> None:
    """An exception is ignored where the import system calls back from C."""
    command = [sys.executable, "-c", INTERRUPTED_IMPORT, "listen", socket_path]
    environment = {**os.environ, "NUMBER": str(number.value)}
    ended = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)
    assert (ended.returncode, "ignored" in ended.stderr) == (128 + number, False), ended.stderr


INTERRUPTED_BIND = """
import os, signal, sys
from socketpusher.cli import main
from socketpusher.listener import socketfile

bind = socketfile._bind

def bind_and_interrupt(*arguments):
    bind(*arguments)
    os.kill(os.getpid(), signal.SIGTERM)

socketfile._bind = bind_and_interrupt
sys.exit(main())
"""


@pytest.mark.parametrize("command", [["listen"], ["watch"], ["relay", "--to", "nats://127.0.0.1:1"]])
def test_a_signal_while_the_socket_is_made_leaves_no_file(socket_path: str, command: list[str]) -> None:
    whole = [sys.executable, "-c", INTERRUPTED_BIND, command[0], socket_path, *command[1:]]
    ended = subprocess.run(whole, capture_output=True, text=True, timeout=60)
    assert ended.returncode == 128 + signal.SIGTERM, ended.stderr
    assert not os.path.exists(socket_path)


def test_ctrl_c_in_a_terminal_ends_it_quietly(socket_path: str) -> None:
    terminal, inside = pty.openpty()
    try:
        with listening(socket_path, stdin=inside, stdout=inside, preexec_fn=_take_terminal) as process:
            os.write(terminal, b"\x03")
            assert process.wait(30) == 130
            assert process.stderr.read() == b""
    finally:
        os.close(inside)
        os.close(terminal)


def _take_terminal() -> None:
    import fcntl
    import termios

    os.setsid()
    fcntl.ioctl(0, termios.TIOCSCTTY, 0)


def test_a_reader_that_ends_ends_it_quietly(socket_path: str) -> None:
    with listening(socket_path) as process:
        line = wire.encode(Event("x"))
        send(socket_path, line)
        assert process.stdout.readline() == line
        process.stdout.close()
        send(socket_path, line)
        assert process.wait(30) == 128 + signal.SIGPIPE
        assert process.stderr.read() == b""


def test_it_ends_when_its_reader_does_without_waiting_for_an_event(socket_path: str) -> None:
    with listening(socket_path) as process:
        lines = [wire.encode(Event("x", task=number)) for number in range(2)]
        send(socket_path, b"".join(lines))
        assert [process.stdout.readline() for _ in lines] == lines
        process.stdout.close()  # as head -2 does
        assert process.wait(30) == 128 + signal.SIGPIPE
        assert process.stderr.read() == b""


def test_a_flood_arrives_whole(socket_path: str) -> None:
    data = b"".join(wire.encode(Event("x", task=number, payload="x" * 150)) for number in range(50_000))
    with listening(socket_path) as process:
        sender = subprocess.Popen(
            [sys.executable, "-c", SEND_INPUT, socket_path], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL
        )
        with sender:
            sender.stdin.write(data)
            sender.stdin.close()
            assert process.stdout.read(len(data)) == data
        process.send_signal(signal.SIGINT)
        process.wait(30)


SEND_INPUT = """
import socket, sys
with socket.socket(socket.AF_UNIX) as sender:
    sender.connect(sys.argv[1])
    sender.sendall(sys.stdin.buffer.read())
"""


def test_ctrl_c_in_its_first_moments_ends_it_quietly() -> None:
    for moment in range(24):
        with subprocess.Popen([INSTALLED, "--help"], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) as process:
            time.sleep(moment * 0.005)  # any moment is a good one
            process.send_signal(signal.SIGINT)
            _, errors = process.communicate(timeout=30)
        # Before our first lines run, the interpreter and the script that pip wrote may have their say.
        assert re.search(rb"socketpusher/(?!__init__|cli/__init__)", errors) is None


# Closed streams


def shell(socket_path: str, arguments: str) -> "subprocess.Popen[bytes]":
    script = f'exec "$@" {arguments}'
    command = ["sh", "-c", script, "sh", sys.executable, "-m", "socketpusher"]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def send_once_it_listens(socket_path: str, data: bytes) -> None:
    def sent() -> bool:
        try:
            send(socket_path, data)
        except (FileNotFoundError, ConnectionRefusedError):  # it is bound a moment before it listens
            return False
        return True

    wait_for(sent)


def test_without_standard_error_standard_output_holds_the_events_only(socket_path: str) -> None:
    line = wire.encode(Event("x"))
    with shell(socket_path, f"listen {socket_path} 2>&-") as process:
        try:
            send_once_it_listens(socket_path, b"no event\n" + line)
            assert process.stdout.readline() == line
            process.send_signal(signal.SIGTERM)
            assert process.wait(30) == 143
            assert process.stdout.read() == b""
        finally:
            process.kill()


def test_without_standard_error_a_recording_holds_the_events_only(socket_path: str, tmp_path: Path) -> None:
    line, file = wire.encode(Event("x")), tmp_path / "run.ndjson"
    with shell(socket_path, f"listen {socket_path} --to {file} 2>&-") as process:
        try:
            send_once_it_listens(socket_path, b"no event\n" + line)
            wait_for(lambda: file.exists() and line in file.read_bytes())
            process.send_signal(signal.SIGTERM)
            assert process.wait(30) == 143
            assert process.stdout.read() == b""
        finally:
            process.kill()
    assert file.read_bytes() == line


@pytest.mark.parametrize("command", ["listen", "watch", "watch --exit-code"])
def test_a_closed_standard_output_is_reported_without_waiting_for_an_event(socket_path: str, command: str) -> None:
    with shell(socket_path, f"{command} {socket_path} >&-") as process:
        try:
            assert process.wait(30) == (2 if "--exit-code" in command else 1)
            name = command.split()[0]
            assert process.stderr.read().decode() == f"socketpusher {name}: standard output is closed\n"
        finally:
            process.kill()


# Mistakes


def test_a_path_in_use_is_a_sentence_not_a_traceback(socket_path: str) -> None:
    with listening(socket_path) as process:
        second = run("listen", socket_path)
        process.send_signal(signal.SIGINT)
        process.wait(30)
    assert second.returncode == 1
    assert second.stderr == (
        "socketpusher listen: can't listen: somebody listens there already; "
        f"end the process that listens there, or choose another path: {socket_path}\n"
    )


def test_a_directory_is_not_to_be_removed(tmp_path: Path) -> None:
    result = run("listen", str(tmp_path))
    assert result.returncode == 1
    advice = "it is a directory, not a socket; choose another path"
    assert result.stderr == f"socketpusher listen: can't listen: {advice}: {tmp_path}\n"


@pytest.mark.parametrize("path", ["", "{place}/file", "{place}/file/s", "{place}/" + "x" * 200])
def test_an_invalid_path_is_a_sentence_not_a_traceback(path: str, tmp_path: Path) -> None:
    # Files of the test's own only: a listener that is broken might remove what it finds.
    (tmp_path / "file").touch()
    result = run("listen", path.format(place=tmp_path))
    assert result.returncode == 1
    assert re.fullmatch(r"socketpusher listen: can't listen.*\n", result.stderr)


def test_the_installed_command_is_the_same() -> None:
    command = os.path.join(os.path.dirname(sys.executable), "socketpusher")
    result = subprocess.run([command, "--version"], capture_output=True, text=True, timeout=60)
    assert result.stdout == f"socketpusher {__version__}\n"


def test_the_socket_is_gone_when_the_command_has_ended(socket_path: str) -> None:
    with listening(socket_path) as process:
        process.send_signal(signal.SIGINT)
        wait_for(lambda: not os.path.exists(socket_path))
        process.wait(30)
