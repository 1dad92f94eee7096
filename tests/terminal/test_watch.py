"""How `socketpusher watch` ends: once, with the run, with a mistake."""

import asyncio
import os
import re
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

from socketpusher import Event, subscribe, wire
from socketpusher.cli import main
from socketpusher.terminal.screen import Screen
from socketpusher.terminal.sources import StreamSource
from socketpusher.terminal.text import text_of
from socketpusher.terminal.tracker import MAX_DISCONNECTED_RUNS, RunTracker
from socketpusher.terminal.watch import FAILED, _status
from support.cli import run, running, send
from support.nats import Server, needs_server, relaying
from support.senders import sender_once_it_listens
from support.waiting import wait_for
from support.watching import COMMAND, connected, part_of_a_run, piped, pushing_to_nobody, terminal

# Once


def test_once_prints_where_the_run_stands_and_ends(socket_path: str) -> None:
    with pushing_to_nobody(socket_path) as bus:
        part_of_a_run(bus)
        result = subprocess.run([*COMMAND, "--once", socket_path], capture_output=True, text=True, timeout=60)
    assert (result.returncode, result.stderr) == (0, f"listening on {socket_path}\n")
    assert re.match(r"pid \d+  running 0:\d\d  10/60 units  1 failed  1 blocked  2 running", result.stdout)
    assert "  ✗ unit-10  SyntaxError: invalid syntax\n" in result.stdout
    assert result.stdout.endswith("  10 complete, 46 pending\n")


def test_once_is_not_over_with_a_connection_that_says_nothing_and_goes(socket_path: str) -> None:
    with piped("--once", socket_path) as process:
        for _ in range(3):
            with connected(socket_path):
                pass
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(1.5)  # longer than it would wait for a connection that stays
        with connected(socket_path) as send:
            send(Event("unit.failed", "app", error="why"))
            output = process.stdout.read().decode()
            assert process.wait(30) == 0
    assert "  ✗ app  why\n" in output


def test_once_is_over_with_a_sender_that_says_nothing_and_stays(socket_path: str) -> None:
    with piped("--once", socket_path) as process, connected(socket_path):
        assert process.stdout.read().decode() == f"pid {os.getpid()}  0 events\n"
        assert process.wait(30) == 0


def test_once_is_over_though_a_sender_never_stops(socket_path: str) -> None:
    with piped("--once", socket_path) as process:
        deadline = time.monotonic() + 60
        with connected(socket_path) as send, pytest.raises((BrokenPipeError, ConnectionResetError)):
            while time.monotonic() < deadline:
                send(Event("unit.started", "app"))
        assert b"1 running" in process.stdout.read()
        assert process.wait(30) == 0


def test_ctrl_c_while_it_waits_for_a_sender_ends_it_quietly(socket_path: str) -> None:
    with piped("--once", socket_path) as process:
        process.send_signal(signal.SIGINT)
        assert process.wait(30) == 130
        assert process.stdout.read() + process.stderr.read() == b""


# Mistakes


def test_a_path_in_use_is_a_sentence_not_a_traceback(socket_path: str) -> None:
    with piped(socket_path) as process:
        second = subprocess.run([*COMMAND, socket_path], capture_output=True, text=True, timeout=60)
        process.send_signal(signal.SIGINT)
        process.wait(30)
    assert second.returncode == 1
    assert second.stderr.startswith("socketpusher watch: can't listen: somebody listens there already")


def test_a_path_in_use_is_the_same_sentence_with_exit_code(socket_path: str) -> None:
    path = socket_path + "\x1b[2J"
    with piped(path) as process:
        ended = [run("watch", *options, path) for options in ((), ("--exit-code",))]
        process.send_signal(signal.SIGINT)
        process.wait(30)
    assert [one.returncode for one in ended] == [1, 2]
    assert ended[0].stderr == ended[1].stderr
    assert "\x1b" not in ended[1].stderr


@pytest.mark.parametrize("text", ["soon", "-1", "nan", "inf"])
def test_a_timeout_that_is_no_time_is_a_sentence(text: str) -> None:
    ended = run("watch", f"--timeout={text}")
    assert ended.returncode == 2
    assert ended.stderr.endswith(f"argument --timeout: '{text}' is not a number of seconds\n")


# Who waits in vain


@pytest.mark.parametrize("options, code", [((), 1), (("--exit-code",), 2), (("--once",), 1)])
def test_it_gives_up_when_no_sender_connects_in_time(socket_path: str, options: tuple[str, ...], code: int) -> None:
    ended = run("watch", *options, "--timeout", "0.2", socket_path)
    assert (ended.returncode, ended.stdout) == (code, "")
    sentence = f"nothing has come from {socket_path} for 0.2 s; start a sender, or give a longer --timeout"
    assert ended.stderr.endswith(f"socketpusher watch: {sentence}\n")


def test_it_does_not_give_up_on_a_sender_that_is_connected_and_silent(socket_path: str) -> None:
    with piped("--timeout", "0.5", socket_path) as process:
        with connected(socket_path), pytest.raises(subprocess.TimeoutExpired):
            process.wait(1.0)
        assert process.wait(30) == 1


def test_once_gives_up_on_a_server_that_is_not_there() -> None:
    ended = run("watch", "--once", "--timeout", "0.5", "--from", "nats://localhost:1")
    assert (ended.returncode, ended.stdout) == (1, "")
    assert ended.stderr.splitlines()[-1] == (
        "socketpusher watch: nothing has come from EVENTS at nats://localhost:1 for 0.5 s; "
        "check that the server can be reached, or give a longer --timeout"
    )


def test_without_timeout_only_once_gives_up_on_a_stream_and_after_10_s(monkeypatch: pytest.MonkeyPatch) -> None:
    timeouts: list[float] = []

    def watch(source: object, timeout: float, **options: Any) -> int:
        timeouts.append(timeout)
        return 0

    monkeypatch.setattr("socketpusher.terminal.watch.watch", watch)
    url = "nats://localhost:1"
    for options in (["--once", "--from", url], ["--from", url], ["--once", "--timeout", "3", "--from", url]):
        assert main(["watch", *options]) == 0
    assert timeouts == [10, float("inf"), 3]


@needs_server
def test_a_timeout_may_be_longer_than_poll_takes(socket_path: str) -> None:
    with running("watch", socket_path, "--timeout", "3000000") as process:
        with sender_once_it_listens(socket_path) as sender:
            sender.sendall(wire.encode(Event("unit.started", "app")))
            assert b"app" in process.stdout.readline() + process.stdout.readline()
        process.send_signal(signal.SIGINT)
        assert process.wait(30) == 130


def test_it_gives_up_on_a_server_that_is_killed_after_it_has_caught_up(socket_path: str, tmp_path: Path) -> None:
    server = Server(tmp_path)
    server.start()
    command = [*COMMAND, "--timeout", "0.5", "--from", server.url]
    try:
        with relaying(socket_path, server.url):
            send(socket_path, wire.encode(Event("unit.started", "app")))
            wait_for(lambda: server.count() == 1)
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
            try:
                assert b"unit.started app" in process.stdout.readline()
                with pytest.raises(subprocess.TimeoutExpired):
                    process.wait(1.5)  # silence is no reason
                server.kill()
                assert process.wait(30) == 1
                assert b"nothing has come from EVENTS" in process.stderr.read().splitlines()[-1]
            finally:
                process.kill()
    finally:
        server.kill()


@needs_server
def test_the_screen_says_how_far_behind_a_stream_it_is(tmp_path: Path) -> None:
    async def store(js: Any) -> None:
        await js.add_stream(name="EVENTS", subjects=["events.>"])
        await asyncio.gather(*(js.publish("events.h.a.x", wire.encode(Event("tick"))) for _ in range(1500)))

    server = Server(tmp_path)
    server.start()
    try:
        server.call(store, timeout=30)
        with subscribe(server.url) as subscription:
            source, runs = StreamSource(subscription, []), RunTracker(lasting=True)
            screen = Screen(source, runs)
            source.take(screen)
            assert source.pending == 1500 - runs.events > 0
            assert f" {source.pending:,} behind " in text_of(screen._header(0.0))
            while source.behind:
                source.take(screen)
            assert source.pending == 0
            assert "behind" not in text_of(screen._header(0.0))
    finally:
        server.kill()


# With the exit code of the run


@pytest.mark.parametrize("kind, code", [("orch.completed", 0), ("orch.failed", 1)])
def test_with_exit_code_it_ends_with_the_run(socket_path: str, kind: str, code: int) -> None:
    with piped("--exit-code", socket_path) as process, connected(socket_path) as send:
        send(Event("orch.started"), Event("unit.failed", "app"))
        while b"unit.failed app" not in process.stdout.readline():
            pass
        assert process.poll() is None  # a failed unit may be tried again
        send(Event(kind))
        assert process.wait(30) == code
        assert process.stdout.read().decode().count(kind) == 1


def test_with_exit_code_it_waits_for_each_run_that_is_connected(socket_path: str) -> None:
    with piped("--exit-code", socket_path) as process, connected(socket_path) as one, connected(socket_path) as other:
        one(Event("orch.started"))
        other(Event("orch.started"))
        for _ in range(4):
            process.stdout.readline()
        one(Event("orch.failed"))
        process.stdout.readline()
        assert process.poll() is None
        other(Event("orch.completed"))
        assert process.wait(30) == 1


def test_a_run_that_failed_counts_also_when_it_is_not_shown_any_more() -> None:
    runs = RunTracker()
    for number in range(MAX_DISCONNECTED_RUNS + 2):
        runs.feed(number, Event("orch.failed" if number == 0 else "x"))
        runs.source_disconnected(number, float(number))
    runs.feed("last", Event("orch.completed"))
    assert {run.outcome for run in runs.runs} == {"", "completed"}
    assert _status(runs) == FAILED


def test_with_exit_code_the_screen_ends_with_the_run_too(socket_path: str) -> None:
    with terminal(socket_path, "--exit-code") as watcher:
        watcher.shows("waiting for a sender")
        with connected(socket_path) as send:
            send(Event("orch.started"), Event("orch.completed"))
            assert watcher.ends() == 0
    assert b"completed in 0:00\r\n" in watcher.written.rpartition(b"\x1b[?1049l")[2]


def test_without_exit_code_a_failed_run_is_no_failure(socket_path: str) -> None:
    with piped("--once", socket_path) as process, connected(socket_path) as send:
        send(Event("orch.started"), Event("orch.failed"))
        assert process.wait(30) == 0


def test_once_cuts_no_line_that_goes_into_a_pipe(socket_path: str) -> None:
    why = "why " * 100 + "!"
    with piped("--once", socket_path) as process, connected(socket_path) as send:
        send(Event("unit.failed", "app" * 30, error=why))
        assert f"  ✗ {'app' * 30}  {why}\n" in process.stdout.read().decode()
