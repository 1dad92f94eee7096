"""`socketpusher send`, as a shell script uses it."""

import array
import fcntl
import json
import os
import pty
import re
import signal
import subprocess
import termios
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from socketpusher import Event, wire
from socketpusher.cli.flow_control import FlowControlledPusher
from support.cli import run, running
from support.consumer import Consumer
from support.waiting import wait_for


def line(task: int, size: int = 10) -> bytes:
    return wire.encode(Event("x", task=task, payload="ü" * (size // 2)))


def test_one_event_from_the_command_line(consumer: Consumer) -> None:
    described = [
        "--type",
        "a.b",
        "--unit",
        "app",
        "--task",
        "0",
        "--pr",
        "7",
        "--payload",
        '{"n": [1]}',
        "--error",
        "e",
    ]
    result = run("send", consumer.path, *described)
    assert (result.returncode, result.stdout, result.stderr) == (0, "", f"sent 1 event to {consumer.path}\n")
    wait_for(consumer.events)
    (event,) = consumer.events()
    assert event.time is not None
    assert event == Event("a.b", "app", 0, 7, {"n": [1]}, "e", event.time)


def test_lines_are_sent_as_they_are_with_the_time_that_they_have(consumer: Consumer) -> None:
    lines = ['{"type":"a","time":"2020-02-03T04:05:06.5+01:00","payload":{"ü":1}}', '{"unit":"u","type":"b"}']
    result = run("send", consumer.path, input="\n".join(lines))
    assert (result.returncode, result.stderr) == (0, f"sent 2 events to {consumer.path}\n")
    wait_for(lambda: len(consumer.lines()) == 2)
    first, second = map(json.loads, consumer.lines())
    assert first == {"type": "a", "time": "2020-02-03T03:05:06.500000Z", "payload": {"ü": 1}}
    assert second == {"type": "b", "time": second["time"], "unit": "u"}


def test_a_line_that_is_no_event_is_named_and_skipped(consumer: Consumer) -> None:
    lines = [
        b'{"type":"a"}',
        b"\xff\x1b[2J",
        b"",
        b'{"type":1}',
        b'{"type":"b","time":"now"}',
        b'{"type":"c"}',
        b'{"type"',
    ]
    with running("send", consumer.path) as process:
        output, errors = process.communicate(b"\n".join(lines))
        assert (process.returncode, output) == (1, b"")
    assert re.findall(rb"^line (\d+) of standard input is skipped: ", errors, re.MULTILINE) == [
        b"2",
        b"3",
        b"4",
        b"5",
        b"7",
    ]
    assert errors.endswith(f"\nsent 2 events to {consumer.path}; 5 lines skipped\n".encode())
    assert b"\x1b" not in errors
    wait_for(lambda: [event.type for event in consumer.events()] == ["a", "c"])


def test_what_is_piped_slowly_is_sent_at_once(consumer: Consumer) -> None:
    with running("send", consumer.path) as process:
        for task in (1, 2, 3):
            process.stdin.write(line(task))
            process.stdin.flush()
            assert consumer.wait_for_tasks(task) == list(range(1, task + 1))
        process.stdin.close()
        assert process.wait(30) == 0


@pytest.mark.parametrize(("count", "size"), [(20_000, 50), (60, 900_000)])
def test_a_slow_consumer_slows_the_reading_and_loses_nothing(consumer: Consumer, count: int, size: int) -> None:
    data = b"".join(line(task, size) for task in range(count))
    consumer.stall()
    with running("send", consumer.path) as process, ThreadPoolExecutor(1) as pool:
        feeding = pool.submit(process.communicate, data)
        wait_for(lambda: is_waiting_with_unread_input(process))
        assert not feeding.done()
        consumer.go_on()
        output, errors = feeding.result(60)
        assert (process.returncode, output) == (0, b"")
    assert errors == f"sent {count:,} events to {consumer.path}\n".encode()
    assert consumer.wait_for_tasks(count) == list(range(count))


def is_waiting_with_unread_input(process: "subprocess.Popen[bytes]") -> bool:
    """Whether the pipe to it is full, and it has not read from it for 50 looks."""
    unread = array.array("i", [0])
    for _ in range(50):
        fcntl.ioctl(process.stdin, termios.FIONREAD, unread)
        if unread[0] < 60_000:
            return False
        time.sleep(0.002)
    return True


def test_a_consumer_that_restarts_gets_the_rest(consumer: Consumer) -> None:
    with running("send", consumer.path) as process:
        process.stdin.write(line(0))
        process.stdin.flush()
        consumer.wait_for_tasks(1)
        consumer.go_away()
        process.stdin.write(b"".join(line(task) for task in range(1, 1200)))
        process.stdin.flush()
        assert process.stderr.readline() == (
            f"the consumer at {consumer.path} is gone; waiting for another one, Ctrl-C gives up\n".encode()
        )
        consumer.come_back()
        process.stdin.close()
        assert process.wait(30) == 0
    assert consumer.wait_for_tasks(1200) == list(range(1200))


def test_a_consumer_that_is_gone_at_the_end_is_not_waited_for_for_ever(consumer: Consumer) -> None:
    with running("send", consumer.path) as process:
        process.stdin.write(line(0))
        process.stdin.flush()
        consumer.wait_for_tasks(1)
        consumer.go_away()
        process.stdin.write(line(1))
        process.stdin.close()
        assert process.wait(30) == 1
        assert f"sent 1 event to {consumer.path}, 1 could not be sent\n".encode() in process.stderr.read()


def test_ctrl_c_ends_it_and_what_was_read_is_sent(consumer: Consumer) -> None:
    with running("send", consumer.path) as process:
        process.stdin.write(b"".join(line(task) for task in range(100)))
        process.stdin.flush()
        consumer.wait_for_tasks(1)
        process.send_signal(signal.SIGINT)
        assert process.wait(30) == 130
        sent = re.fullmatch(rb"sent (\d+) events? to .*\n", process.stderr.read())
    assert sent is not None
    assert consumer.wait_for_tasks(int(sent[1])) == list(range(int(sent[1])))


def test_what_waits_at_a_ctrl_c_is_sent(consumer: Consumer) -> None:
    feeder = FlowControlledPusher(consumer.path)
    with pytest.raises(KeyboardInterrupt), feeder:
        for task in range(400):
            feeder.emit(Event("x", task=task))
        raise KeyboardInterrupt
    assert feeder.complete
    assert consumer.wait_for_tasks(400) == list(range(400))


def test_ctrl_c_ends_it_while_the_consumer_does_not_read(consumer: Consumer) -> None:
    consumer.stall()
    with running("send", consumer.path) as process:
        for task in range(2):  # which is more than is sent without waiting for the consumer
            process.stdin.write(line(task, 900_000))
            process.stdin.flush()
        wait_for(lambda: consumer.connections)
        process.send_signal(signal.SIGINT)
        assert process.wait(30) == 130
        assert b"could not be sent\n" in process.stderr.read()


def test_who_types_is_told_how(consumer: Consumer) -> None:
    terminal, inside = pty.openpty()
    try:
        with running("send", consumer.path, stdin=inside) as process:
            assert b"Ctrl-D ends" in process.stderr.readline()
            os.write(terminal, b'{"type":"typed"}\n')
            wait_for(lambda: [event.type for event in consumer.events()] == ["typed"])
            os.write(terminal, b"\x04")
            assert process.wait(30) == 0
    finally:
        os.close(inside)
        os.close(terminal)


# Mistakes


def test_without_a_consumer_it_says_why(socket_path: str) -> None:
    result = run("send", socket_path, "--type", "a")
    assert result.returncode == 1
    assert re.fullmatch(
        rf"socketpusher send: can't connect to the consumer: No such file or directory; .*: {socket_path}\n",
        result.stderr,
    )


@pytest.mark.parametrize(
    "arguments",
    [
        ["--unit", "a"],
        ["--type", "a", "--task", "x"],
        ["--type", "a", "--pr", str(2**63)],
        ["--type", "a", "--payload", "{"],
    ],
)
def test_an_event_that_is_not_described_rightly_is_told(arguments: list[str]) -> None:
    result = run("send", *arguments)
    assert result.returncode == 2
    assert result.stderr.startswith("usage: socketpusher send")
    assert "Traceback" not in result.stderr
