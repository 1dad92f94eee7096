"""What the help prints as examples works as printed, with another path."""

import gzip
import os
import pty
import re
import shutil
import signal
import socket
import subprocess
import threading
from pathlib import Path

import pytest

from socketpusher import Event, wire
from support.cli import INSTALLED, listening, run
from support.terminal import Terminal
from support.waiting import wait_for

README = (Path(__file__).parent.parent.parent / "README.md").read_text()
LINES = [wire.encode(Event(kind, unit="app")) for kind in ("unit.started", "unit.failed", "unit.blocked")]


def examples(*commands: str) -> list[str]:
    """What the README and the help print for these commands; what needs a server is run in `tests/relay`."""
    helps = [run(*arguments, "--help").stdout.partition("examples:\n")[2] for arguments in ((), *zip(commands))]
    blocks = [block.partition("\n\n")[0] for block in helps] + re.findall(r"```sh\n(socketpusher .*?)```", README, re.S)
    lines = [line.strip() for block in blocks for line in re.sub(r"\|\n +", "| ", block).splitlines()]
    printed = [re.split(r" {3,}", line)[0] for line in lines]  # without what it does
    used = re.compile(rf".*socketpusher ({'|'.join(commands)})\b")
    return list(dict.fromkeys(example for example in printed if used.match(example) and "nats://" not in example))


@pytest.fixture
def place(socket_path: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Where the default socket is; the working directory holds recordings."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", f"{os.path.dirname(INSTALLED)}:{os.environ['PATH']}")
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    monkeypatch.delenv("NO_COLOR", raising=False)
    for name in ("run.ndjson", "run.ndjson.1", "run.ndjson.2"):
        (tmp_path / name).write_bytes(b"".join(LINES))
    (tmp_path / "run.ndjson.gz").write_bytes(gzip.compress(b"".join(LINES)))
    default = str(tmp_path / "choo" / "web.sock")
    if len(default) > 100:
        pytest.skip("the temporary directory has too long a name")
    return default


def needs(example: str) -> None:
    for program in ("jq", "seq"):
        if re.search(rf"\b{program}\b", example) and shutil.which(program) is None:
            pytest.skip(f"{program} is not there")


def shell(example: str, output: int = subprocess.PIPE) -> "subprocess.Popen[bytes]":
    return subprocess.Popen(["sh", "-c", example], stdout=output, stderr=subprocess.PIPE, process_group=0)


@pytest.mark.parametrize("example", examples("send", "replay", "doctor"))
def test_examples_that_send_do(example: str, place: str, socket_path: str) -> None:
    needs(example)
    path = socket_path if "/tmp/run.sock" in example else place
    with listening(path) as consumer, shell(example.replace("/tmp/run.sock", socket_path)) as process:
        output, errors = process.communicate(timeout=60)
        assert process.returncode == 0, errors
        consumer.send_signal(signal.SIGINT)
        assert consumer.wait(30) == 130
        received = consumer.stdout.read()
    assert (received != b"") == ("doctor" not in example)
    assert (output != b"") == ("doctor" in example)


@pytest.mark.parametrize("example", examples("listen"))
def test_examples_that_listen_do(example: str, place: str, socket_path: str, tmp_path: Path) -> None:
    needs(example)
    path = socket_path if "/tmp/run.sock" in example else place
    file = tmp_path / "run.ndjson"
    file.unlink()
    terminal, inside = pty.openpty()  # for jq holds its output back from a pipe
    with (
        open(terminal, "rb", buffering=0) as screen,
        shell(example.replace("/tmp/run.sock", socket_path), inside) as process,
    ):
        os.close(inside)  # so that a read fails when the command has ended
        deadline = threading.Timer(30, os.killpg, (process.pid, signal.SIGKILL))
        deadline.start()
        try:
            assert process.stderr.readline() == f"listening on {path}\n".encode()
            assert run("send", path, input=b"".join(LINES).decode()).returncode == 0
            if "run.ndjson" in example:
                wait_for(lambda: file.exists() and b"unit.failed" in file.read_bytes())
            else:
                output = b""
                while b"unit.failed" not in output:
                    output += screen.read(4096)
        finally:
            deadline.cancel()
            deadline.join()
            os.killpg(process.pid, signal.SIGINT)
        process.wait(30)
        assert b"Traceback" not in process.stderr.read()


@pytest.mark.parametrize("example", examples("trace"))
def test_examples_that_trace_do(example: str, place: str, tmp_path: Path) -> None:
    files = set(tmp_path.iterdir())
    with shell(example) as process:
        output, errors = process.communicate(timeout=60)
        assert (process.returncode, output, errors) == (0, b"", b"")
    (written,) = set(tmp_path.iterdir()) - files
    assert written.stat().st_size > 0


@pytest.mark.parametrize("example", examples("watch"))
def test_examples_that_watch_do(example: str, place: str, socket_path: str) -> None:
    path = socket_path if "/tmp/run.sock" in example else place
    watcher = Terminal("sh", "-c", example.replace("/tmp/run.sock", socket_path), TERM="xterm-256color")
    try:
        with socket.socket(socket.AF_UNIX) as sender:
            if "run.ndjson" not in example:
                watcher.wait_for(lambda: sender.connect_ex(path) == 0, "the socket")
                sender.sendall(b"".join(LINES))
            watcher.shows("app", "failed" if "grep" in example else "blocked")
            if "--once" in example:
                assert watcher.ends() == 0
            else:
                watcher.press(b"\x03")
                assert watcher.ends() in (130, -signal.SIGINT)  # the latter of the shell
    finally:
        watcher.close()
