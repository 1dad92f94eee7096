"""What `socketpusher listen` chooses, how it prints, and what it records."""

import os
import pty
import re
import resource
import signal
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from socketpusher import Event, wire
from socketpusher.cli.event_format import EventFormatter, printable
from socketpusher.cli.rotating_file import RotatingFile
from support.cli import listening, run, send
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


# EventFormatter


def test_pretty_lines_are_aligned_and_say_everything(socket_path: str) -> None:
    events = [
        Event("unit.started", unit="app", payload={"total_tasks": 3}),
        Event("task.validation.fail", unit="größe", task=2, error="exit code 2\nsecond line"),
        Event("pr.merged", unit="日本", pr=12),
    ]
    with listening(socket_path, "--format", "pretty") as process:
        send(socket_path, b"".join(map(wire.encode, events)))
        lines = [process.stdout.readline().decode() for _ in events]
        end(process)
    assert [re.sub(r"^\d\d:\d\d:\d\d\.\d{3} ", "", line) for line in lines] == [
        'unit.started           app      {"total_tasks":3}\n',
        "task.validation.fail   größe    task 2 exit code 2\\nsecond line\n",
        "pr.merged              日本     pr 12\n",
    ]


@given(st.text(), st.text(), st.recursive(st.text(), st.lists), st.text())
def test_no_character_that_a_terminal_obeys_is_in_a_pretty_line(
    kind: str, unit: str, payload: object, error: str
) -> None:
    event = Event(kind, unit=unit, payload=payload, error=error)
    line = EventFormatter().line(wire.decode(wire.encode(event)))
    assert line.isprintable()
    assert printable(line) == line


def on_terminal(socket_path: str, **environment: str) -> bytes:
    """What `listen --format pretty` writes to a terminal of one failed event."""
    terminal, inside = pty.openpty()
    kept = {name: value for name, value in os.environ.items() if name != "NO_COLOR"}
    environment = {**kept, "TERM": "xterm-256color", **environment}
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
    return output


def test_colours_are_for_terminals_that_want_them(socket_path: str, tmp_path: Path) -> None:
    coloured = on_terminal(socket_path)
    assert b"\x1b[31munit.failed\x1b[0m" in coloured
    assert rb"a\x1b[2Jb" in coloured
    without_rich = tmp_path / "rich.py"
    without_rich.write_text("raise ImportError")
    for environment in ({"NO_COLOR": "1"}, {"TERM": "dumb"}, {"PYTHONPATH": str(tmp_path)}):
        plain = on_terminal(socket_path, **environment)
        assert b"\x1b" not in plain
        assert rb"unit.failed            a\x1b[2Jb" in plain


# Recording


def contents(path: Path) -> list[bytes]:
    """The files of a record, the oldest first."""
    numbered = sorted(path.parent.glob(f"{path.name}.*"), key=lambda file: -int(file.suffix[1:]))
    return [file.read_bytes() for file in [*numbered, path]]


def written(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except FileNotFoundError:
        return b""  # at the beginning, and in the middle of a rotation


def test_a_record_rotates_between_lines_and_keeps_so_many_files(socket_path: str, tmp_path: Path) -> None:
    file = tmp_path / "run.ndjson"
    lines = [wire.encode(Event("x", task=number, payload="ü" * 100)) for number in range(1000, 1100)]
    with listening(socket_path, "--to", str(file), "--max-bytes", "1K", "--keep", "4") as process:
        send(socket_path, b"".join(lines))
        wait_for(lambda: lines[-1] in written(file))
        end(process)
        assert process.stdout.read() == b""
    each = 1024 // len(lines[0])
    files = contents(file)
    assert len(files) == 5
    assert all(data.count(b"\n") == each and data.endswith(b"\n") for data in files[:-1])
    assert b"".join(files) == b"".join(lines)[-len(b"".join(files)) :]


@given(
    st.lists(st.lists(st.integers(0, 30), max_size=8), max_size=8), st.integers(1, 40), st.integers(1, 3), st.booleans()
)
def test_a_record_holds_the_newest_lines_whole(
    tmp_path_factory: pytest.TempPathFactory, batches: list[list[int]], max_bytes: int, keep: int, reopened: bool
) -> None:
    path = tmp_path_factory.mktemp("record") / "r"
    record = RotatingFile(str(path), max_bytes, keep)
    for batch in batches:
        if reopened:
            record.close()
            record = RotatingFile(str(path), max_bytes, keep)
        record.write([b"x" * size + b"\n" for size in batch])
    record.close()
    files = contents(path)
    everything = b"".join(b"x" * size + b"\n" for batch in batches for size in batch)
    assert everything.endswith(b"".join(files))
    assert len(files) == keep + 1 or b"".join(files) == everything
    assert all(data.endswith(b"\n") for data in files if data)
    assert all(len(data) <= max_bytes or data.count(b"\n") == 1 for data in files)
    following = pairwise(files)
    assert all(len(data) + data_after.index(b"\n") + 1 > max_bytes for data, data_after in following)


def test_a_record_goes_on_behind_what_a_killed_listener_left(socket_path: str, tmp_path: Path) -> None:
    file = tmp_path / "run.ndjson"
    file.write_bytes(b'{"type":"whole"}\n{"type":"hal')
    with listening(socket_path, "--to", str(file)) as process:
        send(socket_path, EVENTS[0])
        wait_for(lambda: file.read_bytes().endswith(EVENTS[0]))
        end(process)
    assert file.read_bytes() == b'{"type":"whole"}\n{"type":"hal\n' + EVENTS[0]


def test_a_full_disk_ends_it_with_a_sentence_and_whole_lines(socket_path: str, tmp_path: Path) -> None:
    # A limit on the size of files fails in the same place, after a part of the data likewise.
    file = tmp_path / "run.ndjson"
    with listening(socket_path, "--to", str(file)) as process:
        resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (300, 300))
        send(socket_path, b"".join(EVENTS))
        assert process.wait(30) == 1
        errors = process.stderr.read().decode()
    assert file.read_bytes() == b"".join(EVENTS[: file.read_bytes().count(b"\n")])
    missing = len(EVENTS) - file.read_bytes().count(b"\n")
    assert 0 < missing < len(EVENTS)
    assert errors == (
        "socketpusher listen: can't record any more: File too large; make room or choose another file; "
        f"{missing} lines that came are not in it: {file}\n"
    )
    assert not os.path.exists(socket_path)


def test_a_signal_loses_no_line_that_was_read(socket_path: str, tmp_path: Path) -> None:
    """A Ctrl-C between the read and the write, made certain by a record whose lines are awaited in between."""
    file = tmp_path / "run.ndjson"
    code = f"""
import os, signal, sys
from socketpusher.cli import listen, main
decode = listen.decode
def interrupted(line):
    os.kill(os.getpid(), signal.SIGINT)
    return decode(line)
listen.decode = interrupted
sys.exit(main(["listen", {socket_path!r}, "--to", {str(file)!r}, "--type", "*"]))
"""
    with subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.PIPE) as process:
        try:
            process.stderr.readline()
            send(socket_path, EVENTS[0])
            assert process.wait(30) == 130
        finally:
            process.kill()
    assert file.read_bytes() == EVENTS[0]


def test_what_can_not_be_recorded_to_is_a_sentence(socket_path: str, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for file in (tmp_path, tmp_path / "pipe", tmp_path / "missing" / "file"):
        result = run("listen", socket_path, "--to", str(file))
        assert result.returncode == 1
        assert re.fullmatch(rf"socketpusher listen: can't record to a file: .*: {file}\n", result.stderr)
    assert sorted(os.listdir(tmp_path)) == ["pipe"]


@pytest.mark.parametrize("size", ["0", "-1", "1T", "ten", "1.5M", ""])
def test_a_size_that_is_none_is_told(size: str) -> None:
    result = run("listen", "--to", "x", f"--max-bytes={size}")
    assert result.returncode == 2
    assert "is not a size such as 4096, 100K, 100M or 1G" in result.stderr
