"""Passwords and tokens: where they come from, and that no output has any part of them."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from socketpusher import Event, subscribe, wire
from socketpusher.cli import main
from support.cli import run, running, send
from support.nats import Server, needs_server, relaying

pytestmark = needs_server

PASSWORD = "s3cret,p4ss://w0rd@x%"
ENCODED = "s3cret%2Cp4ss%3A%2F%2Fw0rd%40x%25"
TOKEN = "t0ken,s3cret"
PARTS = ("s3cret", "p4ss", "w0rd", "t0ken")
EVENTS = b"".join(wire.encode(Event(kind, "app")) for kind in ("orch.started", "unit.started", "unit.completed"))


@contextmanager
def authorizing(directory: Path, rules: str) -> Iterator[Server]:
    server = Server(directory, config=f"authorization {{ {rules} }}")
    server.start()
    yield server
    server.kill()


@pytest.fixture
def with_password(tmp_path: Path) -> Iterator[Server]:
    with authorizing(tmp_path / "with_password", f'user: "us:er", password: "{PASSWORD}"') as server:
        yield server


@pytest.fixture
def with_token(tmp_path: Path) -> Iterator[Server]:
    with authorizing(tmp_path / "with_token", f'token: "{TOKEN}"') as server:
        yield server


def reveals(*texts: str) -> list[str]:
    return [part for part in PARTS if any(part in text for text in texts)]


def works(socket_path: str, url: str, *options: str) -> str:
    """Run the commands, and return what they say."""
    with relaying(socket_path, url, *options) as relay:
        send(socket_path, EVENTS)
        said = listened(url, *options)
        relay.end()
    for command in (("watch", "--once"), ("trace",)):
        ended = run(*command, "--from", url, *options)
        assert ended.returncode == 0 and ended.stdout, ended.stderr
        said += ended.stderr + ended.stdout
    with subscribe(url, token=TOKEN if options else None) as events:
        assert next(events).type == "orch.started"
        return said + relay.said + repr(events) + events.title + repr(vars(events))


def listened(url: str, *options: str) -> str:
    with running("listen", "--from", url, *options) as process:
        lines = [process.stdout.readline() for _ in range(3)]
        assert b"unit.completed" in lines[-1]
        process.send_signal(signal.SIGINT)
        return process.stderr.read().decode()


def test_a_password_comes_from_the_url_and_is_not_shown(socket_path: str, with_password: Server) -> None:
    url = f"nats://us%3Aer:{ENCODED}@127.0.0.1:{with_password.port}"
    assert reveals(works(socket_path, url)) == []


def test_a_password_comes_from_the_environment_and_is_not_shown(
    socket_path: str, with_password: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NATS_USER", "us:er")
    monkeypatch.setenv("NATS_PASSWORD", PASSWORD)
    assert reveals(works(socket_path, with_password.url)) == []


def test_a_token_comes_from_a_file_and_is_not_shown(socket_path: str, with_token: Server, tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text(f"{TOKEN}\n")
    assert reveals(works(socket_path, with_token.url, "--token-file", str(file))) == []
    missing = run("listen", "--from", with_token.url, "--token-file", str(tmp_path / "missing"))
    assert missing.stderr.endswith(f"can't read the token: No such file or directory: {tmp_path}/missing\n")


def test_a_token_comes_from_the_environment_and_is_not_shown(
    socket_path: str, with_token: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NATS_TOKEN", TOKEN)
    assert reveals(works(socket_path, with_token.url)) == []


@pytest.mark.parametrize(
    "url", ["nats://us:{}@127.0.0.1:{}", "us:{}@127.0.0.1:{}", "nats://{}@127.0.0.1:{}", "http://us:{}@127.0.0.1:{}"]
)
@pytest.mark.parametrize("secret", [ENCODED, PASSWORD, "12,s3cret", "s3cret://p4ss", "s3cret,nats://p4ss", "12/w0rd"])
def test_no_failure_shows_a_password(
    socket_path: str, with_password: Server, url: str, secret: str, capfd: pytest.CaptureFixture[str]
) -> None:
    url = url.format(secret, with_password.port)
    for command in (
        ("relay", socket_path, "--to", url),
        ("listen", "--timeout", "1", "--from", url),
        ("watch", "--timeout", "1", "--once", "--from", url),
        ("trace", "--timeout", "1", "--from", url),
        ("trace", "--timeout", "1", "--from", f"nats://localhost:1,{url}"),
        *((command, f"nats://{url}") for command in ("listen", "watch", "trace", "relay", "doctor", "send")),
    ):
        try:
            assert main(command) == 1
        except SystemExit as error:
            assert error.code == 2
        assert reveals(*capfd.readouterr()) == [], command
    try:
        events = subscribe(url)
    except ValueError as error:
        assert reveals(str(error), repr(error)) == []
    else:
        with events, pytest.raises(OSError) as caught:
            next(events)
        assert reveals(str(caught.value), repr(caught.value), repr(vars(events))) == []
