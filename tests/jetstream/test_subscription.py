"""What comes out of a stream: first what it has kept, then what follows, each once."""

import asyncio
import os
import re
import select
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any

import pytest

from socketpusher import Event, subscribe, wire
from socketpusher.listener.problems import ProblemLog
from support.cli import run, running, send
from support.leftovers import left_behind
from support.nats import Server, cluster, needs_server, relaying
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
            got += [event.task for event in events.read()]
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


def test_a_cluster_that_loses_the_server_that_it_is_followed_at(socket_path: str, tmp_path: Path) -> None:
    with cluster(tmp_path) as servers:
        urls = ",".join(server.url for server in servers)
        with relaying(socket_path, urls, "--replicas", "3"):
            send(socket_path, lines("a", 1, 1000))
            wait_for(lambda: servers[1].count() == 1000)
            with subscribe(servers[0].url) as events:  # it hears of the others from this one
                got = [event.task for event in islice(events, 1000)]
                servers[0].kill()
                send(socket_path, lines("a", 1001, 2000))
                got += [event.task for event in islice(events, 1000)]
                assert got == list(range(1, 2001))


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


@pytest.mark.parametrize("options", [("--host", "h"), ("--session", "s"), ("path", "--from", "nats://localhost")])
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
