"""What comes out of a stream: first what it has kept, then what follows, each once."""

import argparse
import asyncio
import os
import re
import select
import shutil
import signal
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from itertools import islice
from pathlib import Path
from typing import Any

import pytest

from socketpusher import Event, subscribe, wire
from socketpusher.cli.nats_options import Patience, moment
from socketpusher.jetstream import connection, subscription
from socketpusher.listener.problems import ProblemLog
from support.cli import run, running, send
from support.leftovers import left_behind
from support.link import link
from support.nats import Server, needs_server, relaying
from support.waiting import wait_for

pytestmark = needs_server


def line(session: str, n: int, kind: str = "task.completed", unit: str = "app") -> bytes:
    return wire.encode(Event(kind, unit, n))[:-2] + b',"id":"%b-%d"}\n' % (session.encode(), n)


def lines(session: str, first: int, last: int) -> bytes:
    return b"".join(line(session, n) for n in range(first, last + 1))


@contextmanager
def publishing(path: str, to: str, host: str = "h", *options: str) -> Iterator[None]:
    with relaying(path, to, "--host", host, *options) as relay:
        yield
        relay.end()


def test_stored_events_come_first_and_then_new_ones_without_a_gap(socket_path: str, server: Server) -> None:
    with publishing(socket_path, server.url):
        send(socket_path, lines("a", 1, 3000))
        wait_for(lambda: server.count() == 3000)
        with subscribe(server.url) as events:
            got = [event.task for event in islice(events, 1500)]
            send(socket_path, lines("a", 3001, 6000))  # while the history is read
            got += [event.task for event in islice(events, 4500)]
            assert got == list(range(1, 6001))
            assert events.source == ("h", "a")
            wait_for(lambda: events.caught_up)


def test_asyncio_gets_the_same(socket_path: str, server: Server) -> None:
    async def read(count: int) -> list[int | None]:
        got = []
        async for event in subscribe(server.url):
            got.append(event.task)
            if len(got) == count:
                break
        return got

    with publishing(socket_path, server.url):
        send(socket_path, lines("a", 1, 2000))
        assert asyncio.run(read(2000)) == list(range(1, 2001))


def test_an_iteration_that_was_left_goes_on_with_the_next_event(socket_path: str, server: Server) -> None:
    async def read(events: Any, count: int) -> list[int | None]:
        got = []
        async for event in events:
            got.append(event.task)
            if len(got) == count:
                break
        return got

    with publishing(socket_path, server.url), subscribe(server.url) as events:
        send(socket_path, lines("a", 1, 1000))
        wait_for(lambda: server.count() == 1000)
        got = [*asyncio.run(read(events, 200)), *asyncio.run(read(events, 200))]
        got += [next(events).task for _ in range(100)] + [event.task for event in islice(events, 100)]
        got += [*asyncio.run(read(events, 10)), *(event.task for event in islice(events, 290))]
        send(socket_path, lines("a", 1001, 1100))
        got += [*(event.task for event in islice(events, 150)), *asyncio.run(read(events, 50))]
        assert got == list(range(1, 1101))


def test_it_is_readable_while_events_wait_in_it(socket_path: str, server: Server) -> None:
    with publishing(socket_path, server.url), subscribe(server.url) as events:
        assert events.read() == []  # there is nothing
        assert not select.select([events], [], [], 0)[0]
        send(socket_path, lines("a", 1, 10))
        assert next(events).task == 1
        assert select.select([events], [], [], 60)[0] == [events]
        got = []
        while len(got) < 9:
            assert select.select([events], [], [], 60)[0]
            got += [event.task for event in events.read(1e10)]
        assert got == list(range(2, 11))
        assert not select.select([events], [], [], 0)[0]


def test_a_cancelled_close_leaves_no_connection(socket_path: str, server: Server) -> None:
    async def read(turns: int) -> None:
        events = aiter(subscribe(server.url))
        await anext(events)
        farewell = asyncio.ensure_future(events.aclose())
        for _ in range(turns):
            await asyncio.sleep(0)
        farewell.cancel()
        await asyncio.gather(farewell, return_exceptions=True)

    with publishing(socket_path, server.url):
        send(socket_path, lines("a", 1, 2))
        before = left_behind()
        for turns in range(12):
            asyncio.run(read(turns))
            wait_for(lambda: not left_behind() - before, what=f"nothing left behind after {turns} turns")


def test_raw_lines_are_those_that_were_sent(socket_path: str, server: Server) -> None:
    sent = [line("a", 1), line("b", 1, "x y"), b'{"type": "odd" , "time":"2026-11-23T17:08:00Z"}\n']
    with publishing(socket_path, server.url):
        send(socket_path, b"".join(sent))
        with subscribe(server.url, raw=True) as events:
            assert list(islice(events, 3)) == sent


def test_only_a_host_or_a_session(socket_path: str, server: Server) -> None:
    for published, host in ((2, "h.1"), (4, "h*")):
        with publishing(socket_path, server.url, host):
            send(socket_path, line(f"{host}-a", 1) + line(f"{host}-b", 2))
            wait_for(lambda published=published: server.count() == published)
    for options, expected in (
        ({"host": "h*"}, [("h*", "h*-a"), ("h*", "h*-b")]),
        ({"session": "h.1-b"}, [("h.1", "h.1-b")]),
        ({"host": "h.1", "session": "h.1-a"}, [("h.1", "h.1-a")]),
        ({}, [("h.1", "h.1-a"), ("h.1", "h.1-b"), ("h*", "h*-a"), ("h*", "h*-b")]),
    ):
        with subscribe(server.url, **options) as events:
            got = []
            while not events.caught_up:
                got += [events.source for _ in events.read()]
        assert got == expected


def test_a_server_that_is_killed_and_started_again_costs_no_event(socket_path: str, server: Server) -> None:
    problems: list[str] = []
    with publishing(socket_path, server.url), subscribe(server.url, on_problem=problems.append) as events:
        got = []
        for first in (1, 2001, 4001):
            send(socket_path, lines("a", first, first + 1999))
            got += [event.task for event in islice(events, 1000)]
            wait_for(lambda: server.count() == first + 1999)  # noqa: B023 - is called at once
            server.kill()
            server.start()
        got += [event.task for event in islice(events, 3000)]
        assert got == list(range(1, 6001))
        assert any(problem.startswith("lost the connection to NATS") for problem in problems)
        assert any(problem.startswith("connected to NATS") for problem in problems)


def test_a_link_that_is_slow_delivers_large_events(
    socket_path: str, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One takes longer than the silence after which a server is considered lost."""
    monkeypatch.setattr(subscription, "HEARTBEAT", 1)
    with publishing(socket_path, server.url):
        send(socket_path, wire.encode(Event("large", payload="x" * 450_000)))
        wait_for(lambda: server.count() == 1)
    problems: list[str] = []
    with link(server.port) as slow:
        slow.bytes_per_second = 100_000
        with subscribe(slow.url, on_problem=problems.append) as events:
            assert next(iter(events)).type == "large"
    assert problems == []


def test_on_a_slow_link_the_answers_to_pings_are_not_late(
    socket_path: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They come after the events that were asked for, so few are asked for at once."""
    monkeypatch.setattr(connection, "PING_INTERVAL", 2)  # two that are missing mean that the server is dead
    server = Server(tmp_path / "small", config="max_payload: 400000")
    server.start()
    problems: list[str] = []
    try:
        with publishing(socket_path, server.url):
            send(socket_path, b"".join(wire.encode(Event("large", payload="x" * 300_000)) for _ in range(4)))
            wait_for(lambda: server.count() == 4)
        with link(server.port) as slow:
            slow.bytes_per_second = 150_000
            with subscribe(slow.url, on_problem=problems.append) as events:
                assert [next(events).type for _ in range(4)] == ["large"] * 4
    finally:
        server.kill()
    assert problems == []


def test_a_server_that_is_stopped_and_forgets_the_consumer_costs_no_event(socket_path: str, server: Server) -> None:
    async def forget(js: Any) -> None:
        for consumer in await js.consumers_info("EVENTS"):
            await js.delete_consumer("EVENTS", consumer.name)

    with publishing(socket_path, server.url), subscribe(server.url) as events:
        send(socket_path, lines("a", 1, 100))
        got = [event.task for event in islice(events, 100)]
        server.call(forget)
        send(socket_path, lines("a", 101, 200))
        got += [event.task for event in islice(events, 100)]
        assert got == list(range(1, 201))


def test_a_subscription_that_waits_is_closed(server: Server, socket_path: str) -> None:
    with publishing(socket_path, server.url), subscribe(server.url) as events:
        assert events.read() == []  # there is nothing
        assert events.caught_up
    events.close()


@pytest.mark.parametrize(
    ("options", "what"),
    [
        ({"stream": "OTHER"}, "can't follow the stream OTHER: it does not exist; start a relay first"),
        ({"creds": "/nowhere"}, "can't read the credentials"),
    ],
)
def test_what_can_not_work_is_raised_each_time(server: Server, options: dict[str, str], what: str) -> None:
    with subscribe(server.url, **options) as events:
        for _ in range(2):
            with pytest.raises(OSError, match=what):
                next(events)


def test_a_message_that_is_not_an_event_is_reported_and_skipped(socket_path: str, server: Server) -> None:
    async def intrude(js: Any) -> None:
        await js.publish("events.h.a.x", b"no event")

    problems: list[str] = []
    with publishing(socket_path, server.url), subscribe(server.url, on_problem=problems.append) as events:
        server.call(intrude)
        send(socket_path, line("a", 1))
        assert next(events).task == 1
    assert [re.match(r"skipped a message on events.h.a.x: a line is not JSON", p) is not None for p in problems]
    assert len(problems) == 1


async def flood(js: Any) -> None:
    for _ in range(300):
        await js.publish("events.h.a.x", b"no event")


def test_of_many_messages_that_are_no_events_a_few_warnings_are_logged(
    socket_path: str, server: Server, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ProblemLog, "QUIET", 0.2)
    with publishing(socket_path, server.url), subscribe(server.url) as events:
        server.call(flood)
        reading = threading.Thread(target=next, args=(events,))
        reading.start()
        wait_for(lambda: any("more problems within" in message for message in caplog.messages))  # without an event
        send(socket_path, line("a", 1))
        reading.join()
        server.call(flood)
        send(socket_path, line("a", 2))
        assert next(events).task == 2
    messages = [message for message in caplog.messages if "NATS" not in message]
    assert messages[0].startswith("skipped a message on events.h.a.x")
    assert "more problems within" in messages[-1]  # closing reports the rest
    assert len(messages) <= 12


# Events that the stream has removed


def publish(server: Server, subject: str, data: list[bytes]) -> None:
    async def work(js: Any) -> None:
        for start in range(0, len(data), 200):
            await asyncio.gather(*(js.publish(subject, one) for one in data[start : start + 200]))

    server.call(work, timeout=30)


def stream(server: Server, **limits: Any) -> None:
    server.call(lambda js: js.add_stream(name="EVENTS", subjects=["events.>"], **limits))


def history(session: str, first: int, last: int) -> list[bytes]:
    return [line(session, n)[:-1] for n in range(first, last + 1)]


REMOVED = r"the stream EVENTS has removed events before they were read: ([\d,]+)"


@pytest.mark.parametrize("host", [None, "h"])
def test_a_slow_reader_is_told_how_many_events_it_has_missed(server: Server, host: str | None) -> None:
    stream(server, max_msgs=1000)
    publish(server, "events.h.a.x", history("a", 1, 1000))
    problems: list[str] = []
    with subscribe(server.url, host=host, on_problem=problems.append) as events:
        got = [next(events).task]
        publish(server, "events.h.a.x", history("a", 1001, 5000))
        while got[-1] != 5000:
            got.append(next(events).task)
    assert got == [*range(1, len(got) - 999), *range(4001, 5001)]
    reported = [re.match(REMOVED, problem) for problem in problems]
    assert [match and match[1] for match in reported] == [f"{5000 - len(got):,}"]


def test_a_reader_of_one_host_that_can_not_know_is_told_how_many_events_are_missing_at_most(server: Server) -> None:
    stream(server, max_msgs=1000)
    data = [wire.encode(Event("x", "app", n))[:-1] for n in range(1, 5001)]  # without ids
    publish(server, "events.h.a.x", data[:1000])
    problems: list[str] = []
    with subscribe(server.url, host="h", on_problem=problems.append) as events:
        got = [next(events).task]
        publish(server, "events.h.a.x", data[1000:])
        while got[-1] != 5000:
            got.append(next(events).task)
    assert len(problems) == 1
    assert f"read: {5000 - len(got):,} at most, some of which may be of other hosts or sessions" in problems[0]


def test_what_others_have_lost_is_no_gap(server: Server) -> None:
    stream(server, max_msgs=1000)
    publish(server, "events.h.a.x", history("a", 1, 600))
    problems: list[str] = []
    with subscribe(server.url, host="h", on_problem=problems.append) as slow:
        got = [next(slow).task for _ in range(10)]
        publish(server, "events.other.b.x", history("b", 1, 899))  # of h, only 501 to 600 are left
        publish(server, "events.other.b.x", history("b", 900, 900))
        got += [next(slow).task for _ in range(590)]
        publish(server, "events.other.b.x", history("b", 901, 3000))
        publish(server, "events.h.a.x", history("a", 601, 601))
        assert (got, next(slow).task) == ([*range(1, 601)], 601)
    assert problems == []


@pytest.mark.parametrize(("session", "number", "told"), [("c", 2, []), ("a", 7, ["5 at most of the session a"])])
def test_what_others_have_lost_is_no_gap_for_a_reader_that_had_read_everything(
    session: str, number: int, told: list[str], server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is missing between two ids may be: the pusher has dropped it, or the stream has removed it."""
    monkeypatch.setattr("socketpusher.jetstream.subscription.PULL_MESSAGES", 1)
    stream(server, max_msgs=3)
    publish(server, "events.h.a.x", history("a", 1, 1))
    problems: list[str] = []
    with subscribe(server.url, host="h", on_problem=problems.append) as events:
        assert next(events).task == 1
        publish(server, "events.other.b.x", history("b", 1, 7))
        publish(server, f"events.h.{session}.x", history(session, number, number))
        assert next(events).task == number
    assert [problem.partition("read: ")[2].partition(";")[0] for problem in problems] == told


def test_events_that_somebody_deleted_before_are_no_gap(server: Server) -> None:
    stream(server)
    for session in "abc":
        publish(server, f"events.h.{session}.x", history(session, 1, 300))
    server.call(lambda js: js.purge_stream("EVENTS", subject="events.h.b.>"))
    problems: list[str] = []
    with subscribe(server.url, on_problem=problems.append) as events:
        assert [next(events).task for _ in range(600)] == [*range(1, 301)] * 2
    assert problems == []


@pytest.mark.parametrize("quick", [True, False])
def test_after_a_stream_has_lost_its_tail_the_subscription_goes_on_with_new_events(
    server: Server, tmp_path: Path, quick: bool
) -> None:
    store, kept = tmp_path / "nats" / "store", tmp_path / "kept"
    stream(server)
    publish(server, "events.h.a.x", history("a", 1, 60))
    server.kill()
    shutil.copytree(store, kept)
    server.start()
    publish(server, "events.h.a.x", history("a", 61, 100))
    problems: list[str] = []
    with subscribe(server.url, on_problem=problems.append) as events:
        assert [next(events).task for _ in range(100)] == [*range(1, 101)]
        server.kill()
        wait_for(lambda: events.read(0.1) == [] and problems)
        shutil.rmtree(store)
        kept.rename(store)
        server.start()
        if not quick:
            wait_for(lambda: events.read(0.1) == [] and events.caught_up)
        publish(server, "events.h.a.x", history("a", 101, 110))
        assert [next(events).task for _ in range(10)] == [*range(101, 111)]


def test_a_stream_that_was_created_again_is_read_from_its_first_event(server: Server) -> None:
    stream(server)
    publish(server, "events.h.a.x", history("a", 1, 100))
    with subscribe(server.url, last=10) as events:
        assert [next(events).task for _ in range(10)] == [*range(91, 101)]
        server.call(lambda js: js.delete_stream("EVENTS"))
        stream(server)
        publish(server, "events.h.a.x", history("a", 1, 200))
        assert [next(events).task for _ in range(200)] == [*range(1, 201)]


# Where to start


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"last": 1}, [40]),
        ({"last": 40}, [*range(1, 41)]),
        ({"last": 60}, [*range(281, 301), *range(1, 41)]),
        ({"last": 10**9}, [*range(1, 301), *range(1, 301), *range(1, 41)]),
        ({"last": 50, "host": "one"}, [*range(251, 301)]),
        ({"last": 7, "session": "b"}, [*range(294, 301)]),
        ({"last": 301, "host": "one"}, [*range(1, 301)]),
        ({"last": 3, "host": "nobody"}, []),
    ],
)
def test_the_last_events_are_those_of_the_host_or_session(
    server: Server, options: dict[str, Any], expected: list[int]
) -> None:
    stream(server)
    for host, session, last in (("one", "a", 300), ("two", "b", 300), ("two", "c", 40)):
        publish(server, f"events.{host}.{session}.x", history(session, 1, last))
    with subscribe(server.url, **options) as events:
        got = []
        while not events.caught_up:
            got += [event.task for event in events.read()]
        assert got == expected
        publish(server, "events.one.b.x", history("b", 1, 1))
        if options.get("host") != "nobody":
            assert next(events).task == 1


def test_since_a_time_means_when_the_stream_has_stored_them(server: Server) -> None:
    stream(server)
    publish(server, "events.h.a.x", history("a", 1, 10))
    between = server.messages()[-1].metadata.timestamp + timedelta(microseconds=1)
    publish(server, "events.h.a.x", history("a", 11, 20))
    naive = between.astimezone().replace(tzinfo=None)
    for since, expected in ((between, 11), (naive, 11), (between - timedelta(days=1), 1)):
        with subscribe(server.url, since=since) as events:
            assert [next(events).task for _ in range(21 - expected)] == [*range(expected, 21)]
    with subscribe(server.url, since=datetime.now(UTC) + timedelta(microseconds=1)) as events:
        assert events.read() == []
        publish(server, "events.h.a.x", history("a", 21, 21))
        assert next(events).task == 21


def test_a_start_that_means_nothing_is_refused() -> None:
    for options in ({"last": 0}, {"last": 1, "since": datetime.now()}):
        with pytest.raises(ValueError, match="last must be at least 1"):
            subscribe("nats://localhost", **options)


def test_it_says_how_many_events_are_left_and_since_when_it_is_silent(server: Server) -> None:
    stream(server)
    publish(server, "events.h.a.x", history("a", 1, 10))
    with subscribe(server.url) as events:
        assert events.silent_since is not None
        next(events)
        assert (events.pending, events.silent_since) == (9, None)
        for _ in range(9):
            next(events)
        assert events.pending == 0
        assert events.read(0.01) == []
        server.kill()
        wait_for(lambda: events.read(0.1) == [] and events.silent_since is not None)


# Left and gone on with


@pytest.mark.parametrize("waits", [0.0, 0.001, 0.003, 0.02])
def test_an_async_iteration_that_is_cancelled_loses_no_event(server: Server, waits: float) -> None:
    async def take(events: Any, got: list[int | None], most: int) -> None:
        async for event in events:
            got.append(event.task)
            if len(got) == most:
                return
            if len(got) % 7 == 0:
                await asyncio.sleep(0)

    async def read() -> list[int | None]:
        got: list[int | None] = []
        events = subscribe(server.url)
        for turns in range(12):
            if len(got) == 1500:
                break
            task = asyncio.ensure_future(take(events, got, 1500))
            for _ in range(turns * 5):
                await asyncio.sleep(waits)
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
        if len(got) < 1500:
            await asyncio.wait_for(take(events, got, 1500), 30)
        return got

    stream(server)
    publish(server, "events.h.a.x", history("a", 1, 1500))
    assert asyncio.run(read()) == list(range(1, 1501))


# The commands


@pytest.mark.parametrize("command", ["listen", "watch"])
def test_many_messages_that_are_no_events_are_a_few_sentences(socket_path: str, server: Server, command: str) -> None:
    with publishing(socket_path, server.url), running(command, "--from", server.url) as process:
        server.call(flood)
        reports = [process.stderr.readline() for _ in range(3)]  # without a signal or an event
        process.send_signal(signal.SIGINT)
        assert process.wait(30) == 130
        reports += process.stderr.read().splitlines()
    assert b"skipped a message on events.h.a.x" in reports[1]
    assert b"more problems within" in reports[2]
    assert len(reports) <= 12


def test_listen_prints_and_records_what_was_sent(socket_path: str, server: Server, tmp_path: Path) -> None:
    file = tmp_path / "record"
    with publishing(socket_path, server.url), running("listen", "--from", server.url) as printing:
        send(socket_path, lines("a", 1, 10))
        assert b"".join(printing.stdout.readline() for _ in range(10)) == lines_like(server)
        with running("listen", "--from", server.url, "--to", str(file), "--type", "task.*") as recording:
            wait_for(lambda: file.exists() and file.read_bytes() == lines_like(server))
            recording.send_signal(signal.SIGINT)
            assert recording.wait(30) == 130
        printing.send_signal(signal.SIGTERM)
        assert printing.wait(30) == 128 + signal.SIGTERM
        assert printing.stderr.read().decode() == f"following EVENTS at {server.url}\n"


def lines_like(server: Server) -> bytes:
    return b"".join(message.data + b"\n" for message in server.messages())


@pytest.mark.parametrize("options", [("--last", "3"), ("--since", "{since}")])
def test_the_commands_start_where_they_are_told_to(server: Server, options: tuple[str, str]) -> None:
    stream(server)
    publish(server, "events.h.a.x", [line("a", n, unit="early")[:-1] for n in range(1, 8)])
    since = server.messages()[-1].metadata.timestamp + timedelta(microseconds=1)
    publish(server, "events.h.a.x", history("a", 8, 10))
    start = (options[0], options[1].format(since=since.isoformat()))
    with running("listen", "--from", server.url, *start) as process:
        assert [wire.decode(process.stdout.readline()).task for _ in range(3)] == [8, 9, 10]
    trace = run("trace", "--from", server.url, *start)
    shown = run("watch", "--once", "--from", server.url, *start)
    assert re.findall('"task":([0-9]+)', trace.stdout) == ["8", "9", "10"]
    assert "0/1 units" in shown.stdout


@pytest.mark.parametrize("command", ["listen", "watch", "trace"])
def test_a_command_gives_up_on_a_server_that_is_not_there(command: str) -> None:
    ended = run(command, "--timeout", "0.5", "--from", "nats://localhost:1")
    assert (ended.returncode, ended.stdout) == (1, "")
    told = f"socketpusher {command}: nothing has come from EVENTS at nats://localhost:1 for 0.5 s; "
    assert ended.stderr.splitlines()[-1].startswith(told)


@pytest.mark.parametrize("to_file", [False, True])
def test_listen_gives_up_when_the_server_is_lost_but_not_when_it_is_silent(
    server: Server, tmp_path: Path, to_file: bool
) -> None:
    stream(server)
    publish(server, "events.h.a.x", history("a", 1, 1))
    options = ("--to", str(tmp_path / "record")) if to_file else ()
    with running("listen", "--from", server.url, "--timeout", "0.5", *options) as process:
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(2)
        server.kill()
        assert process.wait(30) == 1
        assert b"nothing has come from EVENTS" in process.stderr.read().splitlines()[-1]


def test_listen_says_how_far_behind_it_is(server: Server, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    stream(server)
    publish(server, "events.h.a.x", history("a", 1, 2000))
    monkeypatch.setattr("socketpusher.cli.nats_options.REPORT_PERIOD", 0.0)
    with subscribe(server.url) as events:
        patience = Patience(argparse.Namespace(timeout=None), events)
        next(events)
        assert patience.left() is None
        assert capsys.readouterr().err == "1,999 events behind\n"
        while not events.caught_up:
            events.read()
        assert patience.left() is None
        assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("text", "expected"),
    [("2026-11-27T17:30Z", "2026-11-27T17:30:00+00:00"), ("2026-11-27T17:30+01:00", "2026-11-27T16:30:00+00:00")],
)
def test_a_time_is_iso_8601(text: str, expected: str) -> None:
    assert moment(text).isoformat() == expected


def test_a_time_without_a_zone_is_local_and_a_span_is_counted_from_now() -> None:
    assert moment("2026-11-27 17:30") == datetime(2026, 11, 27, 17, 30).astimezone()
    assert timedelta(minutes=9, seconds=59) < datetime.now(UTC) - moment("10m") < timedelta(minutes=11)


@pytest.mark.parametrize("text", ["soon", "10", "0m", "99999999999d", "17:30", ""])
def test_a_time_that_is_none_is_a_sentence(text: str) -> None:
    ended = run("listen", "--from", "nats://localhost", f"--since={text}")
    assert ended.returncode == 2
    assert ended.stderr.endswith(f"{text!r} is not a time such as 2026-11-27T17:30, 90s, 30m, 12h or 7d\n")


def test_watch_shows_the_runs_of_several_hosts(socket_path: str, server: Server) -> None:
    for published, host in ((3, "one"), (6, "two")):
        with publishing(socket_path, server.url, host):
            kinds = ("orch.started", "unit.started", "unit.completed")
            send(socket_path, b"".join(line(host, n, kind, kind[:4] + host) for n, kind in enumerate(kinds, 1)))
            wait_for(lambda published=published: server.count() == published)
    shown = run("watch", "--from", server.url, "--once").stdout
    assert re.findall(r"^(\w+ \w+)  running", shown, re.MULTILINE) == ["one one", "two two"]
    assert "two two" not in run("watch", "--from", server.url, "--once", "--host", "one").stdout
    absent = run("watch", "--from", server.url, "--once", "--host", "nope")
    assert (absent.returncode, absent.stdout) == (1, "")
    assert absent.stderr.endswith(f"socketpusher watch: there are no events in EVENTS at {server.url}, host nope\n")
    with running("watch", "--from", server.url, env={**os.environ, "TERM": "dumb"}) as process:
        told = [process.stdout.readline().decode().split()[1:] for _ in range(6)]
    assert told[2] == ["one", "one", "unit.completed", "unitone"]
    assert told[5] == ["two", "two", "unit.completed", "unittwo"]


@pytest.mark.parametrize(
    "options",
    [("--host", "h"), ("--session", "s"), ("--last", "1"), ("--since", "1h"), ("path", "--from", "nats://localhost")],
)
def test_options_that_do_not_fit_together_are_refused(options: tuple[str, ...]) -> None:
    for command in ("listen", "watch"):
        ended = run(command, *options)
        assert ended.returncode == 2
        assert "--from" in ended.stderr.splitlines()[-1]


def test_without_nats_py_an_error_says_what_to_install(tmp_path: Path, socket_path: str) -> None:
    (tmp_path / "nats.py").write_text("raise ImportError")
    for arguments in (["relay", socket_path], ["listen", "--from", "nats://localhost"]):
        ended = run(*arguments, env={**os.environ, "PYTHONPATH": str(tmp_path)})
        assert ended.returncode == 1
        assert ended.stderr.endswith("nats-py is needed but not installed: pip install 'socketpusher[nats]'\n")
        assert ended.stderr.count("\n") == 1
