"""Other consumers: the recipes in this folder, with the programs that they name."""

import json
import os
import signal
import socket
import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from socketpusher import Bus, Event, PusherConfig, SocketPusher
from socketpusher.wire import encode
from support.recipes import RECIPES as FOLDER
from support.recipes import Recipe, Running, openbsd_nc, program
from support.waiting import wait_for

SOCAT = Recipe(("socat.sh",), needs=("socat",))
NC_AND_JQ = Recipe(("nc-jq.sh",), needs=("nc", "jq"))
NODE = Recipe(("watch.mjs",), "exec {program} watch.mjs", ("node",))
RSYSLOG = Recipe(("events.conf",), "exec {program} -n -f $PWD/events.conf -i $PWD/pid", ("rsyslogd",))
# As the units say it to systemd: a process for each connection, which is its standard input; the output is appended.
SYSTEMD = Recipe(
    ("events.socket", "events@.service"),
    """
    listen=$(sed -n s/^ListenStream=//p events.socket)
    start=$(sed -n s/^ExecStart=//p events@.service)
    output=$(sed -n s/^StandardOutput=append://p events@.service)
    exec {program} --accept --inetd --listen="$listen" sh -c "exec $start >>$output"
    """,
    ("systemd-socket-activate",),
)
RECIPES = {"socat": SOCAT, "nc and jq": NC_AND_JQ, "Node": NODE, "rsyslog": RSYSLOG, "systemd": SYSTEMD}


def hard_to_carry() -> Iterator[Event]:
    """Events that a consumer that is not careful cuts, escapes or misreads."""
    yield Event("orch.started", payload={"said": 'a "quoted" \\ word', "lines": "one\ntwo\r\nthree\ttab\x00\x1b[0m"})
    yield Event("odd", unit="\u2028 \u2029 \x85 \x7f", payload="<13>Jan  1 00:00:00 #011 %rawmsg% 12 <1>")
    yield Event("large", payload="ü🚀" * 17_000)  # 100 kB, in which every chunk ends within a character
    for task in range(200):
        yield Event("task.completed", unit=f"unité {task % 7}", task=task, payload={"rockets": "🚀" * (task % 50)})
        if task % 20 == 0:
            yield Event("unit.failed", unit=f"unité {task % 7}", error=f'it said "no" \\ with code {task}: ü🚀')


def send(path: str, events: Iterator[Event]) -> list[bytes]:
    """Emit them through a pusher of its own, whose books say in the end that all was sent. Returns the lines."""
    bus, lines = Bus(), []
    pusher = SocketPusher(bus, PusherConfig(socket_path=path, reconnect_backoff=0.01, max_reconnect_backoff=0.1))
    pusher.start(wait=False)
    bus.subscribe(lambda event: lines.append(encode(event)))
    with pusher:
        for event in events:
            bus.emit(event)
        assert pusher.flush(60)
    stats = pusher.stats()
    assert (stats.emitted, stats.sent, stats.dropped, stats.pending) == (len(lines), len(lines), 0, 0)
    assert stats.resent == 0
    return [line[:-1] for line in lines]


def failures(lines: list[bytes]) -> list[object]:
    events = [json.loads(line) for line in lines]
    return [f"{event['unit']}: {event['error']}".encode() for event in events if event["type"] == "unit.failed"]


def essentials(lines: list[bytes]) -> list[object]:
    return [[json.loads(line).get(key) for key in ("time", "type", "unit", "payload")] for line in lines]


@pytest.fixture
def start(socket_path: str, tmp_path: Path) -> "Iterator[Callable[[str], Running]]":
    """Runs recipes, ends them, and removes the socket that a recipe leaves."""
    with ExitStack() as stack:

        def start(name: str) -> Running:
            if name == "nc and jq":
                openbsd_nc()
            return stack.enter_context(RECIPES[name].running(socket_path, tmp_path))

        yield start
    if os.path.exists(socket_path):
        os.unlink(socket_path)


@pytest.mark.parametrize("name", RECIPES)
def test_everything_that_two_senders_in_turn_say_arrives(
    name: str, start: Callable[[str], Running], socket_path: str
) -> None:
    running = start(name)
    lines: list[bytes] = []
    for _ in range(2):
        lines += send(socket_path, hard_to_carry())
        if name == "nc and jq":
            expected, understand = failures(lines), bytes
        elif name == "Node":
            expected, understand = essentials(lines), json.loads
        else:
            expected, understand = lines, bytes
        # rsyslog reads two connections at once, so the second sender waits for its turn.
        wait_for(
            lambda expected=expected: len(running.lines()) >= len(expected),
            what=f"all lines: {running.errors.read_text()}",
        )
    assert running.lines(understand) == expected
    assert running.process.poll() is None  # a third one may come


@pytest.mark.parametrize("name", ["socat", "Node", "rsyslog"])
def test_it_removes_its_socket_when_it_is_told_to_end(
    name: str, start: Callable[[str], Running], socket_path: str
) -> None:
    running = start(name)
    send(socket_path, iter([Event("x")]))
    wait_for(running.lines)
    running.end(signal.SIGINT if name == "Node" else signal.SIGTERM)
    wait_for(lambda: not os.path.exists(socket_path))  # the shell that runs it may end before it does


@pytest.mark.parametrize("name", ["nc and jq", "Node", "rsyslog", "systemd"])
def test_it_starts_again_where_it_was_killed(name: str, start: Callable[[str], Running], socket_path: str) -> None:
    for turn in range(2):
        running = start(name)
        send(socket_path, iter([Event("unit.failed", unit=f"turn {turn}", error="x")]))
        wait_for(lambda turn=turn, running=running: f"turn {turn}".encode() in running.output.read_bytes())
        running.end(signal.SIGKILL)
        assert os.path.exists(socket_path)


def test_socat_lets_a_second_sender_wait_rather_than_cut_the_line_of_the_first(
    start: Callable[[str], Running], socket_path: str
) -> None:
    running = start("socat")
    wait_for(lambda: connects(socket_path))
    with socket.socket(socket.AF_UNIX) as first:
        first.connect(socket_path)
        for sent in range(1, 100):
            first.sendall(b"1")
            wait_for(lambda sent=sent: running.output.read_bytes().count(b"1") == sent)
            if sent == 1:
                with socket.socket(socket.AF_UNIX) as second:
                    second.connect(socket_path)
                    second.sendall(b"2\n")
        first.sendall(b"\n")
    wait_for(lambda: running.lines() == [b"1" * 99, b"2"])


def connects(path: str) -> bool:
    with socket.socket(socket.AF_UNIX) as probe:
        return probe.connect_ex(path) == 0


def test_node_reports_a_line_that_is_not_an_event_and_goes_on(
    start: Callable[[str], Running], socket_path: str
) -> None:
    running = start("Node")
    wait_for(lambda: connects(socket_path))
    for text in (b"no JSON\n", b"null\n", encode(Event("whole"))):
        with socket.socket(socket.AF_UNIX) as sender:
            sender.connect(socket_path)
            sender.sendall(text)
    wait_for(running.lines)
    assert [line[1] for line in running.lines(json.loads)] == ["whole"]
    wait_for(lambda: running.errors.read_text().count("skipped a line that is not an event") == 2)


def test_node_removes_no_file_but_a_socket_that_nobody_listens_on(
    start: Callable[[str], Running], socket_path: str, tmp_path: Path
) -> None:
    start("Node")
    wait_for(lambda: connects(socket_path))
    for place, path in (("second", socket_path), ("third", str(tmp_path / "file"))):
        (tmp_path / place).mkdir()
        (tmp_path / "file").write_text("precious")
        with NODE.running(path, tmp_path / place) as refused:
            assert refused.process.wait(30) == 1
            assert "EADDRINUSE" in refused.errors.read_text()
    assert connects(socket_path)
    assert (tmp_path / "file").read_text() == "precious"


@pytest.mark.parametrize("name", ["Node", "rsyslog"])
def test_half_a_line_of_a_sender_that_was_killed_is_dropped(
    name: str, start: Callable[[str], Running], socket_path: str
) -> None:
    running = start(name)
    (first,) = send(socket_path, iter([Event("first")]))
    with socket.socket(socket.AF_UNIX) as sender:
        sender.connect(socket_path)
        sender.sendall(first[:30])
    (last,) = send(socket_path, iter([Event("last")]))
    wait_for(lambda: len(running.lines()) >= 2)
    if name == "Node":
        assert running.lines(json.loads) == essentials([first, last])
    else:
        assert running.lines() == [first, last]


def test_the_units_are_such_that_systemd_takes_them(tmp_path: Path) -> None:
    analyze = program("systemd-analyze")
    for name in SYSTEMD.files:
        (tmp_path / name).write_text((FOLDER / name).read_text())
    for name in ("events.socket", "events@1.service"):
        verified = subprocess.run(
            [analyze, "--user", "verify", tmp_path / name],
            env={**os.environ, "XDG_RUNTIME_DIR": str(tmp_path)},
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert (verified.returncode, verified.stdout + verified.stderr) == (0, "")
