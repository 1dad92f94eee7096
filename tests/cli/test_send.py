"""`socketpusher send`, as a shell script uses it."""

import array
import fcntl
import gzip
import os
import pty
import re
import signal
import socket
import subprocess
import termios
import time
from argparse import Namespace
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from socketpusher import Event, wire
from socketpusher.cli.flow_control import FlowControlledPusher
from support.cli import COMMAND, NOBODY, for_root, hanging_up, run, run_as_nobody_beside_a_listener, running
from support.consumer import Consumer
from support.spooling import leave
from support.waiting import wait_for

AS_THEY_ARE = [
    b'{"type":"a","time":"2020-02-03T04:05:06.5+01:00","payload":{"\xc3\xbc":1}}',
    b'{"time": "2020-02-03T04:05:06.123456789Z", "type": "a", "x": {"y": 1.0}, "payload": 12345678901234567890123}',
    b'{"type":"unit.started","time":"2026-11-23T17:08:00Z","unit":"a","id":"s-7"}',
    b'{"type":"unit.started","time":"2026-11-23T17:08:00Z","unit":"a","payload":null,"id":"s-6","retained":true}',
    b'{"type": "unit.queued", "unit": "\\u00fc", "time": "2026-11-23T17:08:00+00:00", "error": ""}',
    b'{"type":"orch.started","time":"2026-11-23T17:08:00Z"}',
    b'{"type": "orch.started", "time": "2026-11-23T17:08:00Z", "payload": {"graph": {"nodes": [], "more": 1E2}}}',
    b'{"type":"orch.started","time":"2026-11-23T17:08:00Z","payload":{"graph":{"nodes":[{"id":"a"}],"edges":[]}}}',
    b'{"type":"orch.started","time":"2026-11-23T17:08:00Z","payload":{}}',
    b'{"time":"2026-11-23T17:08:00Z","payload":{},"type":"orch.started"}',
    b'{"type":"orch.started","time":"2026-11-23T17:08:00Z"}',
]
OUTPUT: dict[str, Any] = {"capture_output": True, "text": True, "timeout": 60}


def line(task: int, size: int = 10) -> bytes:
    return wire.encode(Event("x", task=task, payload="ü" * (size // 2)))


def test_one_event_from_the_command_line(consumer: Consumer) -> None:
    described = {"unit": "app", "task": "1", "pr": "7", "payload": '{"n": [1]}', "error": "e"}
    options = [word for key, value in described.items() for word in (f"--{key}", value)]
    result = run("send", consumer.path, "--type", "a.b", *options)
    assert (result.returncode, result.stdout, result.stderr) == (0, "", f"sent 1 event to {consumer.path}\n")
    wait_for(consumer.events)
    (event,) = consumer.events()
    assert event.time is not None
    assert event == Event("a.b", "app", 1, 7, {"n": [1]}, "e", event.time)


def test_a_payload_from_the_command_line_keeps_its_numbers(consumer: Consumer) -> None:
    result = run("send", consumer.path, "--type", "a", "--payload", '{"n": 123456789012345678901,\n "m": 1.0}')
    assert result.returncode == 0
    wait_for(consumer.lines)
    assert consumer.lines()[0].endswith(b',"payload":{"n": 123456789012345678901,  "m": 1.0}}')


def test_lines_are_sent_byte_for_byte(consumer: Consumer) -> None:
    lines = AS_THEY_ARE
    with running("send", consumer.path) as process:
        _, errors = process.communicate(b"\n".join(lines))
        assert (process.returncode, errors.decode()) == (0, f"sent {len(lines)} events to {consumer.path}\n")
    wait_for(lambda: len(consumer.lines()) == len(lines))
    assert consumer.lines() == lines


def test_a_line_without_a_time_gets_the_present_one(consumer: Consumer) -> None:
    before = datetime.now(UTC)
    result = run("send", consumer.path, input='{"unit":"u","type":"b","more":12345678901234567890123}')
    assert (result.returncode, result.stderr) == (0, f"sent 1 event to {consumer.path}\n")
    wait_for(consumer.lines)
    (line,) = consumer.lines()
    assert line.startswith(b'{"unit":"u","type":"b","more":12345678901234567890123,"time":"')
    sent_at = wire.decode(line).time
    assert sent_at is not None
    assert before <= sent_at <= datetime.now(UTC)


def test_a_run_that_is_told_in_another_form_is_told_to_the_next_consumer(consumer: Consumer) -> None:
    """What tells where a run stands is found in the lines of other programs, too."""
    lines = [
        b'{"type": "orch.started"}',
        b'{"type": "unit.started", "unit": "a"}',
        b'{"unit":"b","type":"unit.queued"}',
        b'{"type":"unit.queued","unit":"c"}',
        b'{"type":"unit.queued", "unit":"d"}',
        b'{"type": "task.completed", "unit": "a", "task": 2}',
        b'{"type":"task.completed","unit":"a","task":3}',
        b'{"type":"log"}',
    ]
    with running("send", consumer.path) as process:
        process.stdin.write(b"\n".join(lines) + b"\n")
        process.stdin.flush()
        wait_for(lambda: len(consumer.lines()) == len(lines))
        first = consumer.events()
        consumer.go_away()
        consumer.come_back()
        wait_for(lambda: len(consumer.connections) == 2 and len(consumer.lines()) >= 2 * len(lines) - 2)
        told = [event for event in consumer.events()[len(lines) :] if event.type != "graph"]
        process.stdin.close()
        assert process.wait(30) == 0
    assert first[0].payload is None  # as it was written
    expected = [("orch.started", "", None), ("unit.started", "a", None), ("unit.queued", "b", None)]
    expected += [("unit.queued", "c", None), ("unit.queued", "d", None), ("task.completed", "a", 3)]
    assert [(event.type, event.unit, event.task) for event in told] == expected
    assert all(b'"retained":true' in line for line in consumer.lines()[len(lines) :])


def test_a_line_that_is_no_event_is_named_and_skipped_and_a_blank_one_is_passed_over(consumer: Consumer) -> None:
    lines = [
        b'\xef\xbb\xbf{"type":"a"}\r',
        b"\xff\x1b[2J",
        b"",
        b'{"type":1}',
        b'{"type":"b","time":"now"}',
        b' {"type":"c"} ',
        b" \t\r",
        b'{"type"',
    ]
    with running("send", consumer.path) as process:
        output, errors = process.communicate(b"\n".join(lines))
        assert (process.returncode, output) == (1, b"")
    found = re.findall(rb"^line (\d+) of standard input is skipped: (.{29})", errors, re.MULTILINE)
    assert [number for number, _ in found] == [b"2", b"4", b"5", b"8"]
    assert found[0][1] == b"a line is not JSON: it is not"  # UTF-8
    assert errors.endswith(f"\nsent 2 events to {consumer.path}; 4 lines skipped\n".encode())
    assert b"\x1b" not in errors
    wait_for(lambda: [event.type for event in consumer.events()] == ["a", "c"])
    assert consumer.lines()[0].startswith(b'{"type":"a","time":"')


@pytest.mark.parametrize("size", [wire.MAX_LINE_BYTES - 16, wire.MAX_LINE_BYTES - 15])
def test_a_line_that_no_consumer_takes_is_sent_with_a_placeholder(consumer: Consumer, size: int) -> None:
    start, end = b'{"type":"a","time":"2026-11-23T17:08:00Z","payload":"', b'"}'
    text = start + b"x" * (size - 1 - len(start) - len(end)) + end
    with running("send", consumer.path) as process:
        _, errors = process.communicate(text)
    fits = size <= wire.MAX_LINE_BYTES - 16  # some room, for an event may be told again, marked as such
    assert errors.decode() == f"sent 1 event to {consumer.path}" + (
        "\n" if fits else ", 1 with a placeholder for what was too long\n"
    )
    wait_for(consumer.lines)
    assert (consumer.lines() == [text]) == fits
    assert consumer.events()[0].type == "a"


def test_of_many_lines_that_are_no_events_only_the_first_are_named(consumer: Consumer) -> None:
    result = run("send", consumer.path, input="x\n" * 5000 + '{"type":"a"}\n')
    *named, summary = result.stderr.splitlines()
    assert [line.split(" of ")[0] for line in named] == [f"line {number}" for number in range(1, 11)]
    assert named[-1].endswith("; further ones are only counted")
    assert summary == f"sent 1 event to {consumer.path}; 5,000 lines skipped"


def test_what_gzip_has_compressed_is_read(consumer: Consumer) -> None:
    data = b"".join(line(task) for task in range(3))
    with running("send", consumer.path) as process:
        process.communicate(gzip.compress(data[:100]) + gzip.compress(data[100:]))
        assert process.returncode == 0
    assert consumer.wait_for_tasks(3) == [0, 1, 2]
    with running("send", consumer.path) as process:
        _, errors = process.communicate(gzip.compress(data)[:-9])
        assert process.returncode == 1
    assert b"socketpusher send: can't read standard input to its end, it is damaged: " in errors


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
            f"lost the consumer at {consumer.path}; waiting for another one, Ctrl-C gives up\n".encode()
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
    pusher = FlowControlledPusher(Namespace(path=consumer.path, wait=False, timeout=None, allow_uid=[]))
    with pytest.raises(KeyboardInterrupt), pusher:
        for task in range(400):
            pusher.send(line(task)[:-1])
        raise KeyboardInterrupt
    assert pusher.complete
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


def test_it_waits_for_a_consumer_if_it_is_asked_to(socket_path: str) -> None:
    with running("send", socket_path, "--wait", "--type", "a", stdin=None) as process:
        assert process.stderr.readline() == (
            f"waiting for a consumer at {socket_path}: No such file or directory; Ctrl-C gives up\n".encode()
        )
        consumer = Consumer(socket_path)
        assert process.wait(30) == 0
        wait_for(consumer.events)
        consumer.go_away()


# Mistakes


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ([], r"can't connect to the consumer: No such file or directory; start the consumer first, or give --wait .*"),
        (["--wait", "--timeout", "0.1"], r"no consumer in 0\.1 s.*; start one"),
    ],
)
def test_without_a_consumer_it_says_why_and_what_to_do(socket_path: str, options: list[str], reason: str) -> None:
    result = run("send", socket_path, "--type", "a", *options)
    assert result.returncode == 1
    assert re.fullmatch(rf"socketpusher send: {reason}: {socket_path}\n", result.stderr)


@pytest.mark.parametrize("stale", [True, False])
def test_a_path_where_nobody_listens_is_told_from_one_that_is_no_socket(socket_path: str, stale: bool) -> None:
    if stale:
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(socket_path)
    else:
        Path(socket_path).touch()
    try:
        result = run("send", socket_path, "--type", "a")
    finally:
        os.unlink(socket_path)
    assert ("start the consumer, or give --wait" if stale else "is not a socket; choose another") in result.stderr


def test_a_closed_standard_input_is_a_sentence(consumer: Consumer) -> None:
    result = subprocess.run(["sh", "-c", 'exec "$@" <&-', "sh", *COMMAND, "send", consumer.path], **OUTPUT)
    assert result.returncode == 1
    assert result.stderr.startswith("socketpusher send: can't read standard input: it is closed")
    assert result.stderr.count("\n") == 1


def test_a_closed_standard_error_gets_nothing_into_the_data(consumer: Consumer) -> None:
    result = subprocess.run(
        ["sh", "-c", 'exec "$@" 2>&-', "sh", *COMMAND, "send", consumer.path, "--type", "a"], **OUTPUT
    )
    assert (result.returncode, result.stdout) == (0, "")


@for_root
def test_a_consumer_that_refuses_this_user_is_seen(socket_path: str) -> None:
    result = run_as_nobody_beside_a_listener(socket_path, "send", socket_path, "--type", "a")
    assert_refused(result, "send", by=0, user=NOBODY)


@for_root
@pytest.mark.parametrize("command", ["send", "replay", "drain"])
def test_a_consumer_of_another_user_that_hangs_up_at_once_is_seen(
    socket_path: str, tmp_path: Path, command: str
) -> None:
    recording, spool = tmp_path / "run.ndjson", tmp_path / "spool"
    recording.write_bytes(line(0))
    leave(socket_path, spool, range(1))
    arguments = {
        "send": [socket_path, "--type", "a"],
        "replay": [str(recording), socket_path],
        "drain": [str(spool), socket_path],
    }[command]
    with hanging_up(socket_path):
        result = run(command, *arguments, "--allow-uid", str(NOBODY))
    assert_refused(result, command, by=NOBODY, user=0)


def assert_refused(result: "subprocess.CompletedProcess[str]", command: str, by: int, user: int) -> None:
    assert result.returncode == 1
    *_, summary, reason = result.stderr.splitlines()  # `drain` may have seen the hang-up before its reason
    assert ("for the next time: 1 event of 1" if command == "drain" else ", 1 could not be sent") in summary
    assert reason.startswith(
        f"socketpusher {command}: the consumer of user {by} hung up at once, so it seems to refuse user"
    )
    assert f"or for the consumer give --allow-uid {user}: " in reason


@for_root
def test_a_consumer_of_another_user_can_be_allowed(socket_path: str) -> None:
    os.chmod(os.path.dirname(socket_path), 0o777)
    os.seteuid(NOBODY)
    try:
        consumer = Consumer(socket_path)
    finally:
        os.seteuid(0)
    result = run("send", socket_path, "--type", "a")
    assert result.returncode == 1
    assert "to allow it, give --allow-uid 65534" in result.stderr
    assert run("send", socket_path, "--type", "a", "--allow-uid", "65534").returncode == 0
    wait_for(consumer.events)
    consumer.go_away()


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["--unit", "a"], "--unit describes an event, which needs a --type"),
        (["--type", ""], "--type is empty; give a type"),
        (["--type", "a", "--task", "x"], "'x' is not a whole number from 1 on"),
        (["--type", "a", "--task", "0"], "'0' is not a whole number from 1"),
        (["--type", "a", "--pr", str(2**63)], "is not a whole number from 1"),
        (["--type", "a", "--payload", "{"], "it is not JSON: unexpected end of data"),
        (["--type", "a", "--payload", ""], "it is not JSON: it is empty"),
        (["--type", "a", "--payload", b"\xff"], "it is not JSON: it is not UTF-8"),
        (["--timeout", "-1"], "'-1' is not a number of seconds"),
    ],
)
def test_an_option_that_makes_no_event_is_refused(arguments: list[str], reason: str) -> None:
    result = run("send", *arguments)
    assert result.returncode == 2
    assert result.stderr.startswith("usage: socketpusher send")
    assert reason in " ".join(result.stderr.split())
