"""Without a screen, each change that matters is a line."""

import os
import re
import signal
import socket
from pathlib import Path

from socketpusher import Event, Graph
from support.cli import listening
from support.waiting import wait_for
from support.watching import connected, piped, pushing, terminal


def test_in_a_pipe_every_change_that_matters_is_a_line(socket_path: str) -> None:
    with piped(socket_path) as process:
        with pushing(socket_path, Graph({"a": [], "b": ["a"]})) as (bus, pusher):
            bus.emit(Event("orch.started", payload={}))
            bus.emit(Event("unit.queued", "a"))
            for _ in range(2):  # of a repetition nothing is said
                bus.emit(Event("unit.started", "a"))
            bus.emit(Event("task.started", "a", 1))
            bus.emit(Event("unit.failed", "a", error="why\x1b[2J\nmore"))
            bus.emit(Event("unit.blocked", "b", error="waits for a"))
            bus.emit(Event("orch.failed", error="a failed"))
            pid = pusher.stats().writer_pid
        lines = [process.stdout.readline().decode() for _ in range(8)]
        process.send_signal(signal.SIGINT)
        assert process.wait(30) == 130
        assert process.stderr.read() == b""
    assert all(re.match(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z ", line) for line in lines)
    assert [line.partition(" ")[2] for line in lines] == [
        f"pid {pid} sender.connected\n",
        f"pid {pid} graph 2 units\n",
        f"pid {pid} orch.started 2 units\n",
        f"pid {pid} unit.started a\n",
        f"pid {pid} unit.failed a why\ufffd[2J\n",
        f"pid {pid} unit.blocked b waits for a\n",
        f"pid {pid} orch.failed 2 units, 1 failed, 1 blocked: a failed\n",
        f"pid {pid} sender.disconnected\n",
    ]


def test_in_a_pipe_problems_are_on_standard_error(socket_path: str) -> None:
    with piped(socket_path) as process, socket.socket(socket.AF_UNIX) as sender:
        sender.connect(socket_path)
        sender.sendall(b"nonsense\x1b[2J\n")
        assert process.stderr.readline().startswith(b"socketpusher watch: skipped what process")
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 143
        assert b"\x1b" not in process.stderr.read() + process.stdout.read()


def test_a_reader_that_has_seen_enough_ends_it_quietly(socket_path: str) -> None:
    with piped(socket_path) as process, connected(socket_path) as send:
        assert process.stdout.readline().endswith(b"sender.connected\n")
        process.stdout.close()
        send(Event("unit.started", "a"))
        assert process.wait(30) == 141
        assert process.stderr.read() == b""


def test_it_ends_when_its_reader_does_without_waiting_for_an_event(socket_path: str) -> None:
    with piped(socket_path) as process, connected(socket_path):
        assert process.stdout.readline().endswith(b"sender.connected\n")
        process.stdout.close()  # as head -1 does
        assert process.wait(30) == 141
        assert process.stderr.read() == b""


def test_it_goes_on_with_a_file_as_its_output(socket_path: str, tmp_path: Path) -> None:
    file = tmp_path / "out"
    with open(file, "wb") as output, listening(socket_path, command="watch", stdout=output) as process:
        with connected(socket_path) as send:
            send(Event("unit.started", "app"))
            wait_for(lambda: b"unit.started app" in file.read_bytes())
        process.send_signal(signal.SIGINT)
        assert process.wait(30) == 130


def test_many_lines_that_are_no_events_are_a_few_sentences(socket_path: str) -> None:
    with piped(socket_path) as process, socket.socket(socket.AF_UNIX) as sender:
        sender.connect(socket_path)
        sender.sendall(b"no event\n" * 20_000)
        reports = [process.stderr.readline() for _ in range(2)]  # without a signal or another event
        process.send_signal(signal.SIGINT)
        assert process.wait(30) == 130
        reports += process.stderr.read().splitlines()
    assert reports[0].startswith(b"socketpusher watch: skipped what process")
    assert re.match(rb"socketpusher watch: [\d,]+ more problems within", reports[1])
    assert len(reports) <= 12


def test_a_terminal_that_can_not_be_drawn_on_gets_lines(socket_path: str) -> None:
    with terminal(socket_path, TERM="dumb") as watcher:
        watcher.shows("listening on")
        with connected(socket_path) as send:
            send(Event("unit.started", "app"))
            watcher.shows("unit.started app")
    assert b"\x1b" not in watcher.written


def test_without_rich_it_says_what_to_install_and_shows_lines(socket_path: str, tmp_path: Path) -> None:
    (tmp_path / "rich.py").write_text("raise ImportError('not installed')")
    modules = os.pathsep.join(filter(None, [str(tmp_path), os.environ.get("PYTHONPATH")]))
    with terminal(socket_path, PYTHONPATH=modules, width=200) as watcher:
        watcher.shows("rich is not installed: pip install 'socketpusher[terminal]'", "listening on")
        with connected(socket_path) as send:
            send(Event("unit.started", "app"))
            watcher.shows("unit.started app")
    assert b"\x1b" not in watcher.written


def test_names_that_the_output_can_not_encode_end_nothing(socket_path: str) -> None:
    with piped(socket_path, env={**os.environ, "PYTHONIOENCODING": "ascii"}) as process:
        with connected(socket_path) as send:
            send(Event("unit.started", "ü"))
            assert process.stdout.readline().endswith(b"sender.connected\n")
            assert process.stdout.readline().endswith(b"unit.started ?\n")
        process.send_signal(signal.SIGINT)
        assert process.wait(30) == 130
