"""What the README and the help print about a server is run with a real one, on another port."""

import os
import re
import signal
import subprocess
from contextlib import redirect_stdout, suppress
from functools import cache
from io import StringIO
from pathlib import Path

import pytest

from socketpusher import Event, wire
from socketpusher.cli import main
from support.cli import INSTALLED, send
from support.nats import Server, needs_server, relaying
from support.senders import sender_once_it_listens
from support.terminal import Terminal
from support.waiting import wait_for

pytestmark = needs_server
README = (Path(__file__).parent.parent.parent / "README.md").read_text()
LINES = b"".join(wire.encode(Event(kind, unit="app")) for kind in ("unit.started", "unit.failed", "unit.blocked"))


@cache
def printed_help(*arguments: str) -> str:
    """Without a process, for each worker of the tests asks before the first test."""
    with redirect_stdout(StringIO()) as output, suppress(SystemExit):
        main([*arguments, "--help"])
    return output.getvalue()


def examples(command: str) -> list[str]:
    texts = [README, *(printed_help(*arguments) for arguments in ((), (command,)))]
    lines = [line.strip() for text in texts for line in text.splitlines()]
    found = [re.split(r" {3,}", line)[0] for line in lines if line.startswith(f"socketpusher {command}")]
    return list(dict.fromkeys(example for example in found if "nats://localhost" in example))


@pytest.fixture
def place(socket_path: str, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("PATH", f"{os.path.dirname(INSTALLED)}:{os.environ['PATH']}")
    monkeypatch.setenv("XDG_RUNTIME_DIR", os.path.dirname(socket_path))
    os.mkdir(os.path.join(os.path.dirname(socket_path), "choo"))
    yield os.path.join(os.path.dirname(socket_path), "choo", "web.sock")
    os.rmdir(os.path.join(os.path.dirname(socket_path), "choo"))


@pytest.mark.parametrize("example", examples("relay"))
def test_examples_that_relay_do(example: str, place: str, server: Server) -> None:
    command = example.replace("nats://localhost", server.url)
    with subprocess.Popen(["sh", "-c", f"exec {command}"], stderr=subprocess.DEVNULL) as process:
        with sender_once_it_listens(place) as sender:
            sender.sendall(LINES)
        wait_for(lambda: server.count() == 3)
        process.send_signal(signal.SIGINT)
        assert process.wait(30) == 130


@pytest.mark.parametrize("example", [*examples("watch"), *examples("listen")])
def test_examples_that_follow_a_stream_do(example: str, socket_path: str, server: Server) -> None:
    host = (re.findall(r"--host (\S+)", example) or ["h"])[0]
    with relaying(socket_path, server.url, "--host", host):
        send(socket_path, LINES)
        command = f"{os.path.dirname(INSTALLED)}/{example}".replace("nats://localhost", server.url)
        watcher = Terminal("sh", "-c", f"exec {command}", width=120, TERM="xterm-256color")
        try:
            watcher.shows("unit.failed", "app")
            watcher.press(b"\x03")
            assert watcher.ends() == 130
        finally:
            watcher.close()


@pytest.mark.parametrize("example", examples("trace"))
def test_examples_that_trace_a_stream_do(
    example: str, socket_path: str, server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    host = (re.findall(r"--host (\S+)", example) or ["h"])[0]
    with relaying(socket_path, server.url, "--host", host):
        send(socket_path, LINES)
        wait_for(lambda: server.count() == 3)
    command = f"{os.path.dirname(INSTALLED)}/{example}".replace("nats://localhost", server.url)
    subprocess.run(["sh", "-c", command], check=True, timeout=60)
    assert b"unit.blocked" in (tmp_path / "trace.json").read_bytes()


def test_there_are_such_examples() -> None:
    assert all(examples(command) for command in ("relay", "watch", "listen", "trace"))
