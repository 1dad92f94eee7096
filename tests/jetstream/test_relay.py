"""`socketpusher relay`: what it publishes, and what it says when it can't."""

import json
import os
import signal
import socket
import ssl
import subprocess
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import pytest

from socketpusher import Event, wire
from socketpusher.jetstream.stream import HEADER_BYTES
from support.cli import run, send
from support.nats import Relay, Server, free_port, needs_server, relaying, wait
from support.senders import sender_to, unread
from support.waiting import wait_for

pytestmark = needs_server

TIME = b'"time":"2026-11-23T17:08:00Z"'


def fails(path: str, to: str, *options: str) -> str:
    """What a relay says that ends at once, without leaving anything."""
    ended = run("relay", path, "--to", to, "--host", "h", *options)
    assert ended.returncode == 1
    assert not os.path.exists(path)
    lines = [
        line for line in ended.stderr.splitlines() if not line.startswith(("listening", "connected", "publishing"))
    ]
    assert len(lines) == 1, ended.stderr
    return lines[0]


def test_the_payload_is_the_line_byte_for_byte_and_the_subject_names_the_source(
    socket_path: str, server: Server
) -> None:
    lines = [
        b'{ "type" : "unit.failed", ' + TIME + b', "unknown":  [1.0], "id":"run-1" }\n',
        b'{"type":"unit.failed",' + TIME + b',"unit":"\\u00e4\xc3\xa4","id":"run-2"}\n',
        b'{"type":"a b.*.>..\\n\\u0000%",' + TIME + b',"unit":"*","id":"se ss.*-1"}\n',
        b'{"type":"",' + TIME + b',"id":7}\n',
        b'{"type":"' + b"t." * 5000 + b'",' + TIME + b"}\n",
    ]
    with relaying(socket_path, server.url):
        send(socket_path, b"".join(lines))
        wait_for(lambda: server.count() == len(lines))
    messages = server.messages()
    assert [message.data + b"\n" for message in messages] == lines
    subjects = [message.subject for message in messages]
    assert subjects[:3] == [
        "events.h.run.unit.failed",
        "events.h.run.unit.failed",
        "events.h.se%20ss%2E%2A.a%20b.%2A.%3E.%.%0A%00%25",
    ]
    assert subjects[3] == "events.h.se%20ss%2E%2A.%"  # the session of the sender
    assert "Nats-Msg-Id" not in messages[0].headers
    assert len({message.headers["Nats-Msg-Id"] for message in messages[3:]}) == 2


def test_an_event_out_of_order_is_skipped_and_counted(socket_path: str, server: Server) -> None:
    with relaying(socket_path, server.url) as relay:
        send(socket_path, b"".join(b'{"type":"a",%b,"id":"run-%d"}\n' % (TIME, n) for n in (1, 5, 2, 6, 5)))
        wait_for(lambda: server.count() == 3)
        relay.end()
        assert "stored 3 in EVENTS, 1 skipped as out of order" in relay.said


def test_a_line_that_is_too_long_for_the_server_gets_a_placeholder(socket_path: str, server: Server) -> None:
    event = Event("big", unit="app", payload="x" * 1_048_450)
    line = wire.encode(event)[:-2] + b',"id":"run-1"}\n'
    assert 1_048_500 < len(line) <= 1_048_576
    with relaying(socket_path, server.url) as relay:
        send(socket_path, line)
        wait_for(lambda: server.count() == 1)
        relay.end()
        assert "1 with a placeholder for a payload" in relay.said
    (message,) = server.messages()
    assert wire.parse(message.data)["id"] == "run-1"
    assert wire.decode(message.data).unit == "app"
    assert "payload left out" in wire.decode(message.data).payload


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_it_with_nothing_left(socket_path: str, server: Server, number: int) -> None:
    with relaying(socket_path, server.url) as relay:
        send(socket_path, wire.encode(Event("a")))
        wait_for(lambda: server.count() == 1)
        assert relay.end(number) == 128 + number
        assert not os.path.exists(socket_path)
        assert relay.said.endswith("stored 1 in EVENTS\n")


def test_a_signal_while_the_server_is_down_leaves_unstored_lines_in_the_socket(
    socket_path: str, server: Server
) -> None:
    with relaying(socket_path, server.url) as relay:
        server.kill()
        relay.says("lost the connection")
        send(socket_path, wire.encode(Event("a")))
        assert relay.end() == 128 + signal.SIGTERM
        assert relay.said.endswith("stored 0 in EVENTS\n")


def test_a_signal_waits_for_what_is_in_flight(socket_path: str, server: Server) -> None:
    with relaying(socket_path, server.url, patience=1) as relay:
        server.stop()
        send(socket_path, wire.encode(Event("a")))
        relay.says("publishing them again")
        relay.process.send_signal(signal.SIGTERM)
        server.go_on()
        assert relay.ends() == 128 + signal.SIGTERM
    assert server.count() == 1
    assert "stored 0 in EVENTS\n" not in relay.said  # it is stored, or found to be


def graph() -> bytes:
    return wire.encode(Event("graph", payload={"nodes": [], "edges": [], "levels": []}))


def numbered(*numbers: int, kind: str = "a") -> bytes:
    return b"".join(b'{"type":"%b",%b,"id":"run-%d"}\n' % (kind.encode(), TIME, n) for n in numbers)


def names(server: Server) -> list[str]:
    """What is in the stream: ids, or types of lines without an id."""
    lines = [wire.parse(message.data) for message in server.messages()]
    return [line.get("id") or line["type"] for line in lines]


def test_a_graph_is_published_only_before_new_events(socket_path: str, server: Server) -> None:
    """A consumer that came to an older graph behind newer events would see the run go back."""
    with relaying(socket_path, server.url):
        send(socket_path, graph() + numbered(1, kind="orch.started") + numbered(2))
        wait_for(lambda: server.count() == 3)
    with relaying(socket_path, server.url):  # for which the one before did not tell the pusher what it had read
        send(socket_path, graph() + numbered(1, kind="orch.started") + numbered(2, 3))
        wait_for(lambda: server.count() == 4)
        send(socket_path, graph() + numbered(1, kind="orch.started") + numbered(7))
        wait_for(lambda: server.count() == 6)
        send(socket_path, graph())  # and nothing else: the next connection of this process begins with a newer one
        send(socket_path, graph() + numbered(8))
        wait_for(lambda: server.count() == 8)
    assert names(server) == ["graph", "run-1", "run-2", "run-3", "graph", "run-7", "graph", "run-8"]


def test_a_missing_server_is_reported_once_and_waited_for(socket_path: str, tmp_path: Path) -> None:
    server = Server(tmp_path / "nats")
    relay = Relay(socket_path, server.url)
    try:
        relay.says("Connection refused; start a server there, or give another URL; retrying")
        send(socket_path, wire.encode(Event("a")))  # which is kept by the socket
        wait(1.5)  # for more attempts
        server.start()
        wait_for(lambda: server.count() == 1)
        relay.end()
        assert relay.said.count("Connection refused") == 1
    finally:
        relay.kill()
        if server.process is not None:
            server.kill()


@pytest.mark.parametrize("url", ["", "http://localhost", "nats://", "nats://h:port", "nats://a,,nats://b"])
def test_an_invalid_address_is_reported(socket_path: str, url: str) -> None:
    assert "is not the address of a NATS server: give one such as nats://localhost" in fails(socket_path, url)


def test_a_password_is_never_shown(socket_path: str) -> None:
    said = fails(socket_path, "http://user:secret@h")
    assert "secret" not in said


def test_a_server_without_jetstream_is_reported(socket_path: str, tmp_path: Path) -> None:
    server = Server(tmp_path / "nats", jetstream=False)
    server.start()
    try:
        assert "JetStream is not enabled at that server" in fails(socket_path, server.url)
    finally:
        server.kill()


AUTHORIZATION = """
authorization { users: [
    { user: "all", password: "right" }
    { user: "mute", password: "right", permissions: { publish: { deny: "events.>" } } }
    { user: "none", password: "right", permissions: { publish: { deny: "$JS.API.STREAM.INFO.>" } } }
] }
"""


def test_users_and_passwords_are_accepted_and_wrong_ones_reported(socket_path: str, tmp_path: Path) -> None:
    server = Server(tmp_path / "nats", config=AUTHORIZATION)
    server.start()
    try:
        address = f"127.0.0.1:{server.port}"
        assert "it refuses these credentials; give others" in fails(socket_path, f"nats://all:wrong@{address}")
        denied = fails(socket_path, f"nats://none:right@{address}")
        assert 'does not permit this user a publish to "$JS.API.STREAM.INFO.EVENTS"; grant it' in denied
        with relaying(socket_path, f"nats://all:right@{address}") as relay:
            send(socket_path, wire.encode(Event("a")))
            wait_for(lambda: server.count(user="all", password="right") == 1)
            assert "right" not in relay.said
        with relaying(socket_path, f"nats://mute:right@{address}") as relay:
            send(socket_path, wire.encode(Event("b")))
            assert relay.ends() == 1
            assert 'does not permit this user a publish to "events.h.' in relay.said
    finally:
        server.kill()


def test_a_token_authenticates(socket_path: str, tmp_path: Path) -> None:
    server = Server(tmp_path / "nats", config='authorization { token: "right" }')
    server.start()
    try:
        assert "it refuses these credentials" in fails(socket_path, server.url, "--token", "wrong")
        with relaying(socket_path, server.url, "--token", "right"):
            send(socket_path, wire.encode(Event("a")))
            wait_for(lambda: server.count(token="right") == 1)
    finally:
        server.kill()


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    directory = tmp_path_factory.mktemp("tls")
    files = str(directory / "cert.pem"), str(directory / "key.pem")
    openssl = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    names = ["-subj", "/CN=localhost", "-addext", "subjectAltName=IP:127.0.0.1"]
    try:
        subprocess.run([*openssl, *names, "-out", files[0], "-keyout", files[1]], check=True, capture_output=True)
    except FileNotFoundError:
        pytest.skip("openssl is not there")
    return files


def test_tls_connections_and_their_errors(socket_path: str, tmp_path: Path, certificate: tuple[str, str]) -> None:
    cert, key = certificate
    tls = f'tls {{ cert_file: "{cert}", key_file: "{key}", ca_file: "{cert}", verify: true }}'
    server = Server(tmp_path / "nats", config=tls)
    server.start()
    try:
        url = f"tls://127.0.0.1:{server.port}"
        assert "its certificate is not trusted" in fails(socket_path, url)
        ended = run("relay", socket_path, "--to", url, "--tls-ca", cert)
        assert ended.returncode == 1
        assert "if it requires a certificate, give" in ended.stderr.splitlines()[-1]
        options = ("--tls-ca", cert, "--tls-cert", cert, "--tls-key", key)
        with relaying(socket_path, url, *options) as relay:
            send(socket_path, wire.encode(Event("a")))
            context = ssl.create_default_context(cafile=cert)
            context.load_cert_chain(cert, key)
            wait_for(lambda: server.count(tls=context) == 1)
            relay.end()
            assert relay.said.count("\n") == 4  # listening, connected, publishing, stored
        assert "can't use the TLS files" in fails(socket_path, url, "--tls-ca", key)
    finally:
        server.kill()


def test_no_password_is_sent_if_tls_is_requested_and_missing(socket_path: str, server: Server) -> None:
    assert "it does not offer TLS" in fails(socket_path, f"tls://user:secret@127.0.0.1:{server.port}")


@pytest.mark.parametrize(
    ("config", "options", "what"),
    [
        ({"subjects": ["other.>"]}, (), "its subjects are other.>, not events.>"),
        ({"subjects": ["events.>"], "retention": "workqueue"}, (), "its retention is 'workqueue', not 'limits'"),
        ({"subjects": ["events.>"], "no_ack": True}, (), "it acknowledges nothing"),
        ({"subjects": ["events.>"], "max_age": 60}, ("--max-age", "2m"), "its max_age is 60 s, not 120 s"),
        (
            {"subjects": ["events.>"], "max_age": 2592001},
            ("--max-age", "30d"),
            "its max_age is 2592001 s, not 2592000 s",
        ),
        ({"subjects": ["events.>"], "max_bytes": 1 << 30}, ("--max-bytes", "3K"), "its max_bytes is 1 GiB, not 3 KiB"),
        ({"subjects": ["events.>"], "max_msg_size": 1000}, (), "its messages have at most 1000 bytes"),
    ],
)
def test_a_stream_that_is_set_up_otherwise_is_told_and_left_alone(
    socket_path: str, server: Server, config: dict[str, Any], options: tuple[str, ...], what: str
) -> None:
    async def make(js: Any) -> Any:
        return await js.add_stream(name="EVENTS", **config)

    async def look(js: Any) -> Any:
        return (await js.stream_info("EVENTS")).config

    made = server.call(make).config
    said = fails(socket_path, server.url, *options)
    assert f"the stream EVENTS exists but can't be used: {what}" in said
    assert said.endswith("; change it, or name another stream")
    assert server.call(look) == made


def test_subjects_of_another_stream_and_replicas_without_a_cluster_are_reported(
    socket_path: str, server: Server
) -> None:
    async def make(js: Any) -> Any:
        return await js.add_stream(name="OTHER", subjects=["events.a.>"])

    assert "replicas > 1 not supported" in fails(socket_path, server.url, "--replicas", "3")
    server.call(make)
    assert "name the stream that has the subjects events.>, or choose" in fails(socket_path, server.url)


def test_a_stream_without_batches_takes_events_one_by_one(socket_path: str, server: Server) -> None:
    async def make(js: Any) -> Any:
        return await js.add_stream(name="EVENTS", subjects=["events.>"])

    server.call(make)
    with relaying(socket_path, server.url) as relay:
        relay.says("the stream EVENTS does not accept atomic batches")
        send(socket_path, b"".join(wire.encode(Event("a", task=task)) for task in range(100)))
        wait_for(lambda: server.count() == 100)
    assert [wire.decode(message.data).task for message in server.messages()] == list(range(100))


def test_a_second_relay_at_one_socket_is_refused(socket_path: str) -> None:
    relay = Relay(socket_path, f"nats://127.0.0.1:{free_port()}")
    try:
        relay.says("listening on")
        ended = run("relay", socket_path)
        assert ended.returncode == 1
        assert ended.stderr.count("\n") == 1
        assert relay.end() == 128 + signal.SIGTERM
    finally:
        relay.kill()


def test_repeated_lines_of_a_pusher_are_neither_stored_twice_nor_out_of_order(socket_path: str, server: Server) -> None:
    again = numbered(1, kind="orch.started") + numbered(2).replace(b"}\n", b',"retained":true}\n')
    with relaying(socket_path, server.url):
        send(socket_path, graph() + numbered(1, kind="orch.started") + numbered(2, 3))
        wait_for(lambda: server.count() == 4)
    with relaying(socket_path, server.url) as relay:  # which has not seen them, and whose listener has not either
        send(socket_path, graph() + again + numbered(4))
        wait_for(lambda: server.count() == 6)
        relay.end()
        assert relay.said.endswith("stored 2 in EVENTS\n")
    assert names(server)[4:] == ["graph", "run-4"]


def test_the_same_graph_is_published_before_each_event_that_it_comes_with(socket_path: str, server: Server) -> None:
    first = graph()
    with relaying(socket_path, server.url):
        for number in (1, 2):
            send(socket_path, first + numbered(number))
            wait_for(lambda: server.count() == 2 * number)  # noqa: B023 - is called at once
    assert names(server) == ["graph", "run-1", "graph", "run-2"]


def test_a_graph_with_nothing_after_it_is_published_at_the_end(socket_path: str, server: Server) -> None:
    with relaying(socket_path, server.url) as relay, socket.socket(socket.AF_UNIX) as sender:
        sender.connect(socket_path)
        sender.sendall(graph())
        wait_for(lambda: not unread(sender))
        assert relay.end() == 128 + signal.SIGTERM
    assert names(server) == ["graph"]


def test_names_that_are_too_long_for_a_subject_are_cut(socket_path: str, server: Server) -> None:
    session = "\N{BUG}" * 100
    relay = Relay(socket_path, server.url, "--host", "\N{BUG}" * 255)
    try:
        relay.says("publishing to")
        send(socket_path, graph() + b'{"type":"a",%b,"id":"%b-1"}\n' % (TIME, session.encode()))
        wait_for(lambda: server.count() == 2)
    finally:
        relay.kill()
        os.unlink(socket_path)
    assert names(server) == ["graph", f"{session}-1"]


def test_the_longest_line_has_room_for_the_longest_headers(socket_path: str, server: Server) -> None:
    """The server closes the connection at a message that is too large."""
    session = "\N{BUG}" * 100
    begin = b'{"type":"b",%b,"payload":"' % TIME
    longest = begin + b"x" * ((1 << 20) - HEADER_BYTES - len(begin) - 2) + b'"}'
    relay = Relay(socket_path, server.url, "--host", "\N{BUG}" * 255, "--prefix", "p" * 200)
    try:
        relay.says("publishing to")
        with sender_to(socket_path) as sender:
            sender.sendall(b'{"type":"a",%b,"id":"%b-1"}\n' % (TIME, session.encode()))
            wait_for(lambda: server.count() == 1)
            sender.sendall(longest + b"\n")
            wait_for(lambda: server.count() == 2)
    finally:
        relay.kill()
        os.unlink(socket_path)
    assert server.messages()[1].data == longest


@pytest.mark.parametrize("time", ["0d", "300000d", "9" * 400 + "d"])
def test_a_time_that_no_server_can_count_is_refused(time: str, socket_path: str) -> None:
    refused = run("relay", socket_path, "--max-age", time)
    assert refused.returncode == 2
    assert "is not a time such as 90s, 30m, 12h or 7d, of less than 292 years" in refused.stderr


def test_equal_lines_without_ids_are_dropped_before_a_batch(socket_path: str, tmp_path: Path) -> None:
    """The stream would refuse each batch that has one."""
    port = free_port()
    server = Server(tmp_path / "nats", config=f'http: "127.0.0.1:{port}"')
    server.start()
    lines = [b'{"type":"a",%b,"task":%d}\n' % (TIME, task // 2) for task in range(4000)]
    try:
        with relaying(socket_path, server.url) as relay:
            send(socket_path, b"".join(lines))
            wait_for(lambda: server.count() == 2000)
            send(socket_path, b"".join(lines[1000:]) + wire.encode(Event("b")))
            wait_for(lambda: server.count() == 2001)
            relay.end()
        assert "5,000 were stored already" in relay.said
        with urlopen(f"http://127.0.0.1:{port}/varz") as answer:
            assert json.load(answer)["in_msgs"] < 3000
    finally:
        server.kill()


def test_without_ids_repeated_lines_of_a_pusher_are_recognized(socket_path: str, server: Server) -> None:
    line = wire.encode(Event("unit.started", "a"))
    with relaying(socket_path, server.url):
        send(socket_path, line)
        wait_for(lambda: server.count() == 1)
        send(socket_path, wire.retained(line) + wire.encode(Event("x")))
        wait_for(lambda: server.count() == 2)
    assert [wire.parse(message.data)["type"] for message in server.messages()] == ["unit.started", "x"]
    assert "retained" not in wire.parse(server.messages()[0].data)
