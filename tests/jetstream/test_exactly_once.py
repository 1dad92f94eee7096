"""Whatever fails between a pusher and the stream, each event is in it once, those of a session in their order."""

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
from nats.js.api import StreamConfig

from socketpusher import Bus, Event, PusherConfig, SocketPusher, subscribe, wire
from support.link import link
from support.nats import Server, cluster, needs_server, relaying, wait
from support.senders import send, sender_to
from support.stream_load import Load, graphs_are_where_they_belong, last, load, tasks
from support.waiting import wait_for

pytestmark = needs_server


def all_there(server: Server, load: Load) -> None:
    """Every event is in the stream once, in order; nothing was dropped."""
    wait_for(lambda: load.pusher.flush(0.1), 60)
    wait_for(lambda: last(server) == load.emitted, 60, "the last event in the stream")
    messages = server.messages()
    assert tasks(messages) == list(range(1, load.emitted + 1))
    assert load.pusher.stats().dropped == 0
    graphs_are_where_they_belong(messages)


def test_a_server_that_is_killed_and_started_again(socket_path: str, server: Server) -> None:
    with relaying(socket_path, server.url) as relay, load(socket_path) as work:
        for round in range(2):
            work.emit(4000)
            wait_for(lambda: (last(server) or 0) > 4000 * round)  # noqa: B023 - is called at once
            work.emit(4000)
            server.kill()
            work.emit(1000)
            server.start()
            relay.says("connected to NATS", times=round + 2)
        all_there(server, work)
        assert relay.said.count("lost the connection") == 2


def test_a_server_that_stops_for_a_while(socket_path: str, server: Server) -> None:
    with relaying(socket_path, server.url, patience=1) as relay, load(socket_path) as work:
        work.emit(3000)
        wait_for(lambda: last(server))
        server.stop()
        work.emit(3000)
        relay.says("publishing them again")  # an answer was missed
        server.go_on()
        all_there(server, work)


def test_relays_that_are_killed_under_load(socket_path: str, server: Server) -> None:
    with load(socket_path) as work:
        for round in range(4):
            with relaying(socket_path, server.url) as relay:
                work.emit(3000)
                wait_for(lambda: (last(server) or 0) > 2000 * round)  # noqa: B023 - is called at once
                work.emit(500)
                wait(0.006 * round)
                relay.kill()
        with relaying(socket_path, server.url):
            all_there(server, work)


def test_a_relay_that_hands_over_to_another(socket_path: str, server: Server) -> None:
    with load(socket_path) as work:
        for round in range(2):
            with relaying(socket_path, server.url) as relay:
                work.emit(5000)
                wait_for(lambda: (last(server) or 0) > 5000 * round)  # noqa: B023 - is called at once
                assert relay.end() == 128 + signal.SIGTERM
                assert "stored" in relay.said
                assert not os.path.exists(socket_path)
        with relaying(socket_path, server.url):
            all_there(server, work)


def test_a_relay_that_is_killed_between_the_acknowledgement_and_the_release(socket_path: str, server: Server) -> None:
    """The duplicate window is over when the next one comes, so only the stream itself can tell."""
    with load(socket_path) as work:
        with link(server.port) as lossy, relaying(socket_path, lossy.url, "--duplicate-window", "1s") as relay:
            work.emit(10)
            wait_for(lambda: last(server) == 10)
            lossy.hold("answers")
            work.emit(5000)
            wait_for(lambda: (last(server) or 0) > 10)
            relay.kill()
        wait(1.5)
        with relaying(socket_path, server.url, "--duplicate-window", "1s") as relay:
            all_there(server, work)
            relay.end()
            assert "were stored already" in relay.said


def test_a_batch_that_reaches_the_server_after_the_duplicate_window(socket_path: str, server: Server) -> None:
    with (
        link(server.port) as slow,
        relaying(socket_path, slow.url, "--duplicate-window", "1s", patience=1) as relay,
        load(socket_path) as work,
    ):
        work.emit(10)
        wait_for(lambda: last(server) == 10)
        slow.hold("requests")
        work.emit(1000)
        relay.says("publishing them again")
        slow.cut()
        wait_for(lambda: last(server) == 1010)
        wait(1.5)
        slow.go_on()
        wait_for(lambda: b"wrong last sequence" in slow.undelivered)
        work.emit(10)
        all_there(server, work)


def test_a_link_that_is_slow_stores_large_events_once(socket_path: str, server: Server) -> None:
    """A batch takes longer than the server is given for an answer to a small request."""
    line = wire.encode(Event("a", payload="x" * 800_000))
    with link(server.port) as slow, relaying(socket_path, slow.url) as relay:
        slow.bytes_per_second = 140_000
        send(socket_path, line)
        wait_for(lambda: server.count() == 1, 60)
        relay.end()
    assert "publishing them again" not in relay.said


def test_a_link_that_is_late_connects(socket_path: str, server: Server) -> None:
    with link(server.port) as far:
        far.delay = 2.2  # nats-py would wait 2 s for each step
        with relaying(socket_path, far.url) as relay:
            far.delay = 0
            send(socket_path, wire.encode(Event("a")))
            wait_for(lambda: server.count() == 1, 60)
        assert "retrying" not in relay.said


def numbered(n: int) -> bytes:
    return wire.encode(Event(f"event.{n}"))[:-2] + b',"id":"s-%d"}\n' % n


def test_an_answer_that_is_lost_moves_no_graph(socket_path: str, server: Server) -> None:
    with link(server.port) as lossy, relaying(socket_path, lossy.url, patience=1) as relay:
        send(socket_path, numbered(1))
        wait_for(lambda: server.count() == 1)
        with sender_to(socket_path) as sender:  # the stream does not have what the pusher marks as retained
            lossy.hold("answers")
            sender.sendall(wire.encode(Event("graph")) + wire.retained(numbered(2)))
            relay.says("publishing them again")
            lossy.cut()
            relay.says("connected to NATS", times=2)
            sender.sendall(numbered(3))
            wait_for(
                lambda: (server.call(lambda js: js.get_last_msg("EVENTS", "events.>"))).subject.endswith("event.3")
            )
        relay.end()
    types = [wire.decode(message.data).type for message in server.messages()]
    assert types == ["event.1", "graph", "event.2", "event.3"]
    assert "stored 4 in EVENTS" in relay.said


async def store_the_second(js: Any) -> None:
    await js.publish("events.h.s.event.2", numbered(2)[:-1])


def test_what_another_relay_has_stored_meanwhile_is_no_trouble(socket_path: str, server: Server) -> None:
    with relaying(socket_path, server.url) as relay:
        send(socket_path, numbered(1))
        wait_for(lambda: server.count() == 1)
        server.call(store_the_second)
        send(socket_path, numbered(2) + numbered(3))
        wait_for(lambda: server.count() == 3)
        relay.end()
    assert [wire.decode(message.data).type for message in server.messages()] == ["event.1", "event.2", "event.3"]
    assert "refuses" not in relay.said


def test_a_graph_knows_which_event_it_comes_after_though_another_relay_has_stored_that(
    socket_path: str, server: Server
) -> None:
    with relaying(socket_path, server.url):
        send(socket_path, wire.encode(Event("graph")) + numbered(1))
        wait_for(lambda: server.count() == 2)
        server.call(store_the_second)
        send(socket_path, wire.encode(Event("graph")) + numbered(3))
        wait_for(lambda: server.count() == 5)
    graphs_are_where_they_belong(server.messages())


def ids(server: Server) -> list[Any]:
    """What is in the stream: ids, or types of events without one; None for what is no event."""
    lines = [wire.parse(message.data) if message.data.startswith(b"{") else {} for message in server.messages()]
    return [line.get("id") or line.get("type") for line in lines]


def test_a_graph_that_is_published_after_a_failure_knows_which_event_it_comes_after(
    socket_path: str, server: Server
) -> None:
    """It names no session itself, and its relay has forgotten what the stream has."""
    with relaying(socket_path, server.url, patience=1) as relay, sender_to(socket_path) as sender:
        sender.sendall(numbered(1) + numbered(2))
        wait_for(lambda: server.count() == 2)
        server.stop()
        sender.sendall(wire.encode(Event("graph")))
        relay.says("publishing them again")
        server.kill()
        server.start()
        wait_for(lambda: server.count() == 3)
        relay.end()
    with relaying(socket_path, server.url):
        send(socket_path, wire.retained(numbered(1)) + wire.retained(numbered(2)) + numbered(3))
        wait_for(lambda: server.count() >= 4)
    assert ids(server) == ["s-1", "s-2", "graph", "s-3"]


@pytest.mark.parametrize(
    ("data", "headers", "known_as"),
    [
        (b"hello", None, None),
        (b"hello", {"Socketpusher-Last-Event": "x"}, None),
        (b'{"type":"a","time":"2026-11-27T17:08:00Z","id":"other-99"}', None, "other-99"),
    ],
)
def test_what_somebody_else_has_published_on_the_subject_of_a_session_hides_nothing(
    data: bytes, headers: dict[str, str] | None, known_as: str | None, socket_path: str, server: Server
) -> None:
    with relaying(socket_path, server.url):
        send(socket_path, numbered(1) + numbered(2))
        wait_for(lambda: server.count() == 2)
        server.call(lambda js: js.publish("events.h.s.note", data, headers=headers))
    with relaying(socket_path, server.url):
        send(socket_path, wire.retained(numbered(1)) + wire.retained(numbered(2)) + numbered(3))
        wait_for(lambda: server.count() >= 4)
    assert ids(server) == ["s-1", "s-2", known_as, "s-3"]


def test_the_servers_marker_of_an_expired_event_hides_nothing(socket_path: str, server: Server) -> None:
    config = StreamConfig(name="EVENTS", subjects=["events.>"], allow_atomic=True, allow_rollup_hdrs=True)
    config = config.evolve(max_age=2.0, duplicate_window=1.0, subject_delete_marker_ttl=600.0, allow_msg_ttl=True)

    async def begin(js: Any) -> None:
        await js.add_stream(config)
        await js.publish("events.h.s.event.1", numbered(1)[:-1])
        await js.publish("events.h.s.event.2", numbered(2)[:-1], headers={"Nats-TTL": "never"})

    server.call(begin)
    wait_for(lambda: last_subject(server) == "events.h.s.event.1")  # the marker
    with relaying(socket_path, server.url):
        send(socket_path, wire.retained(numbered(1)) + wire.retained(numbered(2)) + numbered(3))
        wait_for(lambda: last_subject(server) == "events.h.s.event.3")
    assert ids(server)[:2] == ["s-2", None]
    assert len(ids(server)) == 3


def last_subject(server: Server) -> Any:
    return server.call(lambda js: js.get_last_msg("EVENTS", "events.>")).subject


def test_a_stream_that_was_deleted_has_nothing_of_what_was_in_it(socket_path: str, server: Server) -> None:
    """Not even the lines without an id, whose digests the relay remembers."""
    with relaying(socket_path, server.url):
        send(socket_path, wire.encode(first := Event("x", "first", time=datetime.now(UTC))))
        wait_for(lambda: server.count() == 1)
        server.call(lambda js: js.delete_stream("EVENTS"))
        send(socket_path, wire.encode(Event("y")))
        wait_for(lambda: server.count() == 1)
        send(socket_path, wire.encode(first))
        wait_for(lambda: server.count() == 2)


def test_a_stream_that_is_full_until_it_is_purged(socket_path: str, server: Server) -> None:
    async def make(js: Any) -> None:
        limits = {"max_msgs": 3000, "discard": "new", "allow_atomic": True}
        await js.add_stream(name="EVENTS", subjects=["events.>"], **limits)

    async def purge(js: Any) -> None:
        await js.purge_stream("EVENTS")

    server.call(make)
    with relaying(socket_path, server.url) as relay, load(socket_path) as work:
        work.emit(5000)
        relay.says("the stream EVENTS is full: maximum messages exceeded; purge it or raise its limits")
        before = server.messages()
        server.call(purge)
        relay.says("the stream EVENTS accepts events again")
        wait_for(lambda: last(server) == 5000)
        assert tasks(before) + tasks(server.messages()) == list(range(1, 5001))
        assert relay.said.count("is full") == 1


def test_a_cluster_that_loses_the_leader_of_the_stream_and_the_server_that_it_is_followed_at(
    socket_path: str, tmp_path: Path
) -> None:
    async def leader(js: Any) -> str:
        return (await js.stream_info("EVENTS")).cluster.leader

    with cluster(tmp_path) as servers:
        urls = ",".join(server.url for server in servers)
        with relaying(socket_path, urls, "--replicas", "3"), load(socket_path) as work:
            work.emit(3000)
            wait_for(lambda: last(servers[0]) == work.emitted, 60)
            number = int(servers[0].call(leader)[1])
            with subscribe(servers[number].url) as events:  # it hears of the others from this one
                received = (event.task for event in events if event.type != "graph")
                got = list(islice(received, 3000))
                work.emit(3000)
                servers[number].kill()
                work.emit(1000)
                got += islice(received, 4000)
            assert got == list(range(1, 7001))
            all_there(servers[number - 1], work)


def test_without_ids_nothing_is_lost_or_twice_within_the_duplicate_window(socket_path: str, server: Server) -> None:
    bus = Bus()
    backoff = {"reconnect_backoff": 0.01, "max_reconnect_backoff": 0.2}
    config = PusherConfig(socket_path, buffer_size=100_000, **backoff)
    with _connectable(bus, config):
        sent = 0
        for _ in range(2):
            with relaying(socket_path, server.url) as relay:
                for _ in range(3000):
                    sent += 1
                    bus.emit(Event("task.completed", "app", sent))
                wait_for(lambda: (last(server) or 0) > sent - 2500)  # noqa: B023 - is called at once
                relay.kill()
        with relaying(socket_path, server.url):
            wait_for(lambda: last(server) == sent)
            assert tasks(server.messages()) == list(range(1, sent + 1))


@contextmanager
def _connectable(bus: Bus, config: PusherConfig) -> Iterator[SocketPusher]:
    pusher = SocketPusher(bus, config)
    pusher.start(wait=False)
    try:
        yield pusher
    finally:
        pusher.close(0)
