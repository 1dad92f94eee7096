"""What `socketpusher listen` chooses, how it prints, and what it records."""

import os
import pty
import re
import resource
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from socketpusher import Bus, Event, PusherConfig, SocketPusher, wire
from support.cli import COMMAND, listening, run, running, send
from support.terminal import Terminal
from support.waiting import wait_for

TYPES = ["unit.started", "unit.failed", "task.completed", "orch.failed"]
EVENTS = [wire.encode(Event(kind, unit=unit)) for kind in TYPES for unit in ("app", "lib", "")]


def end(process: "subprocess.Popen[bytes]") -> None:
    process.send_signal(signal.SIGINT)
    assert process.wait(30) == 130


@pytest.mark.parametrize(
    ("options", "chosen"),
    [
        (["--type", "unit.*"], r'"type":"unit\.'),
        (["--type", "*.failed", "--type", "task.[ab]ompleted"], r"failed"),
        (["--unit", "a?p"], r'"unit":"app"'),
        (["--type", "*.failed", "--unit", "app", "--unit", "lib"], r'failed.*"unit"'),
        (["--unit", ""], r"^(?!.*unit\":)"),
    ],
)
def test_only_what_matches_is_printed(socket_path: str, options: list[str], chosen: str) -> None:
    last = wire.encode(Event("unit.failed", unit="app", payload="last"))
    expected = [line for line in [*EVENTS, last] if re.search(chosen, line.decode())]
    with listening(socket_path, *options) as process:
        send(socket_path, b"".join([*EVENTS, last]))
        assert [process.stdout.readline() for _ in expected] == expected
        end(process)
        assert process.stdout.read() == b""


def test_colours_are_for_a_terminal(socket_path: str) -> None:
    terminal, inside = pty.openpty()
    environment = {name: value for name, value in os.environ.items() if name != "NO_COLOR"} | {"TERM": "xterm"}
    with (
        open(terminal, "rb", buffering=0) as screen,
        listening(socket_path, "--format", "pretty", stdout=inside, env=environment) as process,
    ):
        os.close(inside)  # so that a read fails when the command has ended
        send(socket_path, wire.encode(Event("unit.failed", unit="a\x1b[2Jb")))
        output = b""
        while b"\n" not in output:
            output += screen.read(4096)
        end(process)
    assert b"\x1b[31munit.failed\x1b[0m             a\\x1b[2Jb" in output


def test_pretty_lines_are_plain_in_a_pipe(socket_path: str) -> None:
    with listening(socket_path, "--format", "pretty", "--unit", "a*") as process:
        send(socket_path, EVENTS[0])
        assert re.fullmatch(rb"\d\d:\d\d:\d\d\.\d{3} unit.started            app\n", process.stdout.readline())
        end(process)


@pytest.mark.parametrize("command", ["listen", "watch"])
def test_the_report_of_a_refused_user_names_the_option(socket_path: str, command: str) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can be another user")
    send_as_another = SEND_AS.format(uid=65534, path=socket_path)
    with listening(socket_path, command=command) as process:
        os.chmod(socket_path, 0o666)
        os.chmod(os.path.dirname(socket_path), 0o711)
        sender = subprocess.Popen([sys.executable, "-c", send_as_another])
        report = process.stderr.readline().decode()
        assert sender.wait(30) == 0
        end(process)
    prefix = "socketpusher watch: " * (command == "watch")
    assert re.fullmatch(rf"{prefix}refused process \d+ of user 65534; .* --allow-uid 65534\n", report)
    with listening(socket_path, "--allow-uid", "65534", command=command) as process:
        assert subprocess.run([sys.executable, "-c", send_as_another], timeout=30).returncode == 0
        assert any(b"orch.completed" in line for line in iter(process.stdout.readline, b""))
        end(process)


SEND_AS = """
import os, socket
os.setuid({uid})
with socket.socket(socket.AF_UNIX) as sender:
    sender.connect({path!r})
    try:
        sender.sendall(b'{{"type":"orch.completed","time":"2026-01-01T00:00:00Z"}}\\n')
    except BrokenPipeError:
        pass
"""


def test_many_lines_that_are_no_events_are_reported_once(socket_path: str) -> None:
    with listening(socket_path) as process:
        send(socket_path, b"no event\n" * 5000)
        reports = [process.stderr.readline() for _ in range(2)]  # without a signal or another event
        assert b"skipped what process" in reports[0]
        assert b"4,999 more skipped lines" in reports[1]
        end(process)
        assert process.stderr.read() == b""


# Recording


def written(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except FileNotFoundError:
        return b""  # at the beginning, and in the middle of a rotation


def test_a_recording_rotates_between_lines_and_keeps_some_old_files(socket_path: str, tmp_path: Path) -> None:
    file = tmp_path / "run.ndjson"
    lines = [wire.encode(Event("x", task=number, payload="ü" * 100)) for number in range(1000, 1100)]
    with listening(socket_path, "--to", str(file), "--max-bytes", "1K", "--keep", "4") as process:
        send(socket_path, b"".join(lines))
        wait_for(lambda: lines[-1] in written(file))
        end(process)
        assert process.stdout.read() == b""
    each = 1024 // len(lines[0])
    files = [Path(f"{file}.{number}").read_bytes() for number in (4, 3, 2, 1)] + [file.read_bytes()]
    assert not os.path.exists(f"{file}.5")
    assert all(data.count(b"\n") == each and data.endswith(b"\n") for data in files[:-1])
    assert b"".join(files) == b"".join(lines)[-len(b"".join(files)) :]


def test_two_commands_record_and_watch_the_same_run(socket_path: str, tmp_path: Path) -> None:
    file = tmp_path / "run.ndjson"
    with listening(socket_path, "--to", str(file)) as recorder:
        send(socket_path, EVENTS[0])
        wait_for(lambda: written(file))
        with running("watch", str(file)) as late:
            for event in (EVENTS[0], EVENTS[3]):  # what is there, and what follows
                kind = wire.decode(event).type.encode()
                assert any(kind in line for line in iter(late.stdout.readline, b""))
                send(socket_path, EVENTS[3])
            end(late)
        end(recorder)


def test_a_recording_is_passed_on_as_the_help_says(socket_path: str, tmp_path: Path) -> None:
    printed = run("listen", "--help").stdout.partition("record a run, watch it")[2].splitlines()
    record, pass_on = (line.strip() for line in printed if " --to " in line or " send " in line)
    assert record == "socketpusher listen --to run.ndjson"
    assert pass_on == "tail -n +1 -F run.ndjson | socketpusher send /tmp/other.sock"
    file, other = tmp_path / "run.ndjson", f"{socket_path}2"
    with listening(socket_path, "--to", str(file)) as recorder:
        send(socket_path, EVENTS[0])
        wait_for(lambda: written(file))
        with listening(other) as late:
            tail = subprocess.Popen(["tail", "-n", "+1", "-F", str(file)], stdout=subprocess.PIPE)
            with tail, running("send", other, stdin=tail.stdout) as sender:
                assert late.stdout.readline() == EVENTS[0]
                send(socket_path, b"".join(EVENTS[1:]))
                assert [late.stdout.readline() for _ in EVENTS[1:]] == EVENTS[1:]
                tail.terminate()
                assert sender.wait(30) == 0
            end(late)
        end(recorder)


def test_a_recording_continues_after_an_incomplete_line(socket_path: str, tmp_path: Path) -> None:
    file = tmp_path / "run.ndjson"
    file.write_bytes(b'{"type":"whole"}\n{"type":"hal')
    with listening(socket_path, "--to", str(file)) as process:
        send(socket_path, EVENTS[0])
        wait_for(lambda: file.read_bytes().endswith(EVENTS[0]))
        end(process)
    assert file.read_bytes() == b'{"type":"whole"}\n{"type":"hal\n' + EVENTS[0]


@pytest.mark.parametrize("redirected", [False, True])
def test_a_full_disk_ends_it_and_loses_no_line(redirected: bool, socket_path: str, tmp_path: Path, bus: Bus) -> None:
    # A limit on the size of files fails in the same place, also after a part of the data.
    file = tmp_path / "run.ndjson"
    config = PusherConfig(socket_path, reconnect_backoff=0.01, max_reconnect_backoff=0.05)
    with recording(socket_path, file, redirected) as process, SocketPusher(bus, config) as pusher:
        bus.emit(Event("x", task=0))
        wait_for(lambda: written(file).count(b"\n") == 1)
        resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (300, 300))
        for number in range(1, 20):
            bus.emit(Event("x", task=number))
        assert process.wait(30) == 1
        what, name = ("write to standard output", "") if redirected else ("record to a file", f": {file}")
        assert process.stderr.read().decode() == (
            f"socketpusher listen: can't {what}: File too large; make room or choose another file; "
            f"pushers send again what is missing{name}\n"
        )
        assert written(file).endswith(b"\n")
        with recording(socket_path, file, redirected) as following:
            assert pusher.flush(30)
            wait_for(lambda: b'"task":19}' in written(file))
            end(following)
    tasks = [wire.decode(line).task for line in written(file).splitlines()]
    assert list(dict.fromkeys(tasks)) == list(range(20))  # what the pusher can't know to be read comes twice


@contextmanager
def recording(socket_path: str, file: Path, redirected: bool) -> "Iterator[subprocess.Popen[bytes]]":
    """`listen --to FILE`, or `listen >> FILE`."""
    with file.open("ab") as output:
        options, arguments = ({"stdout": output}, ()) if redirected else ({}, ("--to", str(file)))
        with listening(socket_path, *arguments, **options) as process:
            yield process


def test_a_new_file_is_made_after_the_old_one_was_moved(socket_path: str, tmp_path: Path) -> None:
    file, moved = tmp_path / "run.ndjson", tmp_path / "moved"
    with listening(socket_path, "--to", str(file)) as process:
        send(socket_path, EVENTS[0])
        wait_for(lambda: written(file) == EVENTS[0])
        file.rename(moved)
        send(socket_path, EVENTS[1])
        wait_for(lambda: written(file) == EVENTS[1])
        file.unlink()
        process.send_signal(signal.SIGHUP)
        wait_for(file.exists)  # at once
        send(socket_path, EVENTS[2])
        wait_for(lambda: written(file) == EVENTS[2])
        end(process)
    assert moved.read_bytes() == EVENTS[0]


def test_a_terminal_that_is_closed_ends_a_recording(socket_path: str, tmp_path: Path) -> None:
    file = tmp_path / "run.ndjson"
    terminal = Terminal(*COMMAND, "listen", socket_path, "--to", str(file))
    try:
        terminal.shows(f"listening on {socket_path}"[:80])
        terminal.hang_up()
        assert terminal.process.wait(30) == 128 + signal.SIGHUP
    finally:
        terminal.close()
    assert not os.path.exists(socket_path)


def test_a_second_recorder_to_the_same_file_is_refused(socket_path: str, tmp_path: Path) -> None:
    file = tmp_path / "run.ndjson"
    with listening(socket_path, "--to", str(file)) as process:
        second = run("listen", f"{socket_path}2", "--to", str(file))
        end(process)
    assert second.returncode == 1
    assert second.stderr == (
        "socketpusher listen: can't record to a file: another process records to it; "
        f"end that one or choose another file: {file}\n"
    )


@pytest.mark.parametrize("redirected", [False, True])
def test_a_signal_loses_no_line_that_was_read(redirected: bool, socket_path: str, tmp_path: Path) -> None:
    """A Ctrl-C between the read and the write, made certain by a signal in between."""
    file = tmp_path / "run.ndjson"
    code = f"""
import os, signal, sys
from socketpusher import wire
from socketpusher.cli import main
decode = wire.decode
def interrupted(line):
    os.kill(os.getpid(), signal.SIGINT)
    return decode(line)
wire.decode = interrupted
sys.exit(main(["listen", {socket_path!r}, "--type", "*", *sys.argv[1:]]))
"""
    command = [sys.executable, "-c", code, *([] if redirected else ["--to", str(file)])]
    with file.open("ab") as output, subprocess.Popen(command, stdout=output, stderr=subprocess.PIPE) as process:
        try:
            process.stderr.readline()
            send(socket_path, EVENTS[0])
            assert process.wait(30) == 130
        finally:
            process.kill()
    assert file.read_bytes() == EVENTS[0]


def test_an_unsuitable_file_is_a_sentence(socket_path: str, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for file in (tmp_path, tmp_path / "pipe", tmp_path / "missing" / "file"):
        result = run("listen", socket_path, "--to", str(file))
        assert result.returncode == 1
        assert re.fullmatch(rf"socketpusher listen: can't record to a file: .*: {file}\n", result.stderr)
    assert sorted(os.listdir(tmp_path)) == ["pipe"]


@pytest.mark.parametrize("size", ["0", "-1", "1T", "ten", "1.5M", "", "8589934592G", "9" * 400])
def test_an_invalid_size_is_reported(size: str) -> None:
    result = run("listen", "--to", "x", f"--max-bytes={size}")
    assert result.returncode == 2
    assert "is not a size such as 4096, 100K, 100M or 1G" in result.stderr
