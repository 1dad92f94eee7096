"""`socketpusher drain`: what pushers have left reaches a consumer, and nothing is lost."""

import os
import re
import signal
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from socketpusher import Bus, Event, SocketPusher
from socketpusher.channel.spool_directory import databases
from socketpusher.cli import flow_control, main
from support import cli
from support.consumer import Consumer
from support.spooling import drain, leave, pusher_with
from support.waiting import wait_for


@pytest.fixture
def spool(tmp_path: Path) -> Path:
    return tmp_path / "spool"


def test_drain_says_what_is_lost(consumer: Consumer, spool: Path) -> None:
    leave("/nowhere/s", spool, range(100))
    with closing(sqlite3.connect(databases(str(spool))[0])) as database:
        database.execute("UPDATE batches SET crc = 1")
        database.commit()
    ran = cli.run("drain", str(spool), consumer.path)
    assert ran.returncode == 1
    assert "without those lost in 00000001-" in ran.stderr
    assert all(".db.damaged" in name for name in os.listdir(spool))  # with its log, where SQLite keeps that


def sent_to(consumer: Consumer) -> list[Event]:
    return [event for event in consumer.events() if event.type == "x"]


def test_drain_counts_what_was_read_and_not_what_is_lost(consumer: Consumer, spool: Path) -> None:
    leave("/nowhere/s", spool, range(3000), payload="x" * 2000)
    with closing(sqlite3.connect(databases(str(spool))[0])) as database:
        database.execute("UPDATE batches SET crc = 1 WHERE place = 4")
        database.commit()
    ran = cli.run("drain", str(spool), consumer.path)
    assert ran.returncode == 1
    received = len(sent_to(consumer))
    assert 0 < received < 3000
    assert f"sent {received:,} events to" in ran.stderr


def test_drain_counts_what_was_sent_before_it_looked(
    consumer: Consumer, spool: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    leave("/nowhere/s", spool, range(100))
    start = flow_control.start_pusher

    def start_and_dawdle(*arguments: Any, **options: Any) -> SocketPusher:
        pusher = start(*arguments, **options)
        wait_for(lambda: len(sent_to(consumer)) == 100 and pusher.stats().inherited == 0)
        return pusher

    monkeypatch.setattr(flow_control, "start_pusher", start_and_dawdle)
    assert main(["drain", str(spool), consumer.path]) == 0
    assert capsys.readouterr().err == f"sent 100 events to {consumer.path}\n"


def test_drain_sends_what_waits(socket_path: str, spool: Path) -> None:
    leave(socket_path, spool, range(50))
    ran = cli.run("drain", str(spool), socket_path)
    assert ran.returncode == 1
    assert re.fullmatch(
        "socketpusher drain: can't connect to the consumer: No such file or directory; start the consumer first, or "
        f"give --wait if it may come later: {socket_path}\n",
        ran.stderr,
    )
    consumer = Consumer(socket_path)
    ran = cli.run("drain", str(spool), socket_path)
    assert (ran.returncode, ran.stderr) == (0, f"sent 50 events to {socket_path}\n")
    assert consumer.wait_for_tasks(50) == list(range(50))
    ran = cli.run("drain", str(spool), socket_path)
    assert (ran.returncode, ran.stderr) == (0, f"nothing is waiting in {spool}\n")
    consumer.go_away()


def test_drain_of_no_directory_makes_none(spool: Path) -> None:
    ran = cli.run("drain", str(spool))
    assert ran.returncode == 1
    assert "the directory does not exist" in ran.stderr
    assert not spool.exists()


def test_drain_with_its_arguments_in_the_wrong_order_says_so(consumer: Consumer, spool: Path) -> None:
    ran = cli.run("drain", consumer.path, str(spool))
    assert ran.returncode == 1
    assert ran.stderr == (
        "socketpusher drain: can't read the spool: it is a socket; the directory comes first: "
        f"socketpusher drain {spool} {consumer.path}: {consumer.path}\n"
    )


def test_drain_leaves_to_a_program_what_it_has(consumer: Consumer, spool: Path, bus: Bus) -> None:
    pusher = pusher_with("/nowhere/s", spool, bus)
    pusher.start(wait=False)
    bus.emit(Event("x", task=0))
    wait_for(lambda: pusher.stats().spooled == 1)
    ran = cli.run("drain", str(spool), consumer.path)
    assert ran.returncode == 1
    assert f"databases in {spool} that are in use or can't be read: 1;" in ran.stderr
    assert pusher.stats().spooled == 1
    pusher.close()


def test_drain_that_is_interrupted_loses_nothing(consumer: Consumer, spool: Path) -> None:
    leave("/nowhere/s", spool, range(30_000), buffer_size=100)
    consumer.stall()
    with cli.running("drain", str(spool), consumer.path) as process:
        assert process.stderr is not None
        assert b" left\n" in process.stderr.readline()
        process.send_signal(signal.SIGINT)
        said = process.stderr.read().decode()
        assert process.wait(30) == 130
    assert re.search(r"left in .* for the next time: [\d,]+ events of 30,000", said)
    consumer.go_on()
    drain(consumer.path, spool)
    assert sorted({*consumer.wait_for_tasks(30_000)}) == list(range(30_000))


def test_drain_waits_for_a_consumer_if_it_is_asked_to(socket_path: str, spool: Path) -> None:
    leave(socket_path, spool, range(50))
    with cli.running("drain", str(spool), socket_path, "--wait") as process:
        assert process.stderr is not None
        assert process.stderr.readline() == (
            f"waiting for a consumer at {socket_path}: No such file or directory; Ctrl-C gives up\n".encode()
        )
        consumer = Consumer(socket_path)
        assert process.wait(30) == 0
    assert consumer.wait_for_tasks(50) == list(range(50))
    consumer.go_away()
