"""`socketpusher replay`: the same events again, when they are due."""

import gzip
import os
import pty
import re
import signal
import subprocess
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from socketpusher import Event, wire
from socketpusher.cli.replay import ReplayClock
from support.cli import COMMAND, run, running
from support.consumer import Consumer
from support.waiting import stop, wait_for

HIDE_CURSOR, SHOW_CURSOR = b"\x1b[?25l", b"\x1b[?25h"
START = datetime(2026, 11, 23, 17, 8, tzinfo=UTC)


def recorded(*seconds: float) -> bytes:
    """A recording with an event at each of these times; the tasks count them."""
    events = [Event("x", task=task, time=START + timedelta(seconds=second)) for task, second in enumerate(seconds)]
    return b"".join(map(wire.encode, events))


@pytest.fixture
def recording(tmp_path: Path) -> Path:
    return tmp_path / "run.ndjson"


@pytest.mark.parametrize("speed", ["max", "0"])
def test_a_recording_arrives_byte_for_byte_as_fast_as_can_be(consumer: Consumer, recording: Path, speed: str) -> None:
    data = recorded(*(86_400 * day for day in range(3000)))
    recording.write_bytes(data)
    result = run("replay", str(recording), consumer.path, "--speed", speed)
    assert result.returncode == 0
    assert re.fullmatch(rf"sent 3,000 events to {consumer.path} in [\d.]+ s\n", result.stderr)
    assert consumer.wait_for_tasks(3000) == list(range(3000))
    assert b"".join(b"".join(pieces) for pieces in consumer.connections) == data


def test_it_reads_standard_input_and_names_the_lines_that_are_no_events(consumer: Consumer) -> None:
    with running("replay", "-", consumer.path, "--speed", "max") as process:
        _, errors = process.communicate(b'{"type":"no time"}\n' + recorded(0) + b'{"type"')
        assert process.returncode == 1
    assert re.findall(rb"^line (\d+) of standard input is skipped", errors, re.MULTILINE) == [b"1", b"3"]
    assert re.search(rb"\nsent 1 event to .* s; 2 lines skipped\n$", errors)
    assert consumer.wait_for_tasks(1) == [0]


def test_lines_are_sent_byte_for_byte(consumer: Consumer, recording: Path) -> None:
    lines = [
        b'{"type": "unit.started", "time": "2026-11-23T18:08:00.123456789+01:00", "unit": "a", "id": "s-1"}\n',
        b'{"type":"graph","time":"2026-11-23T17:08:00Z","payload":{"nodes":[]},"x":12345678901234567890123}\n',
        b'{"type":"unit.failed","time":"2026-11-23T17:08:01Z","unit":"a","id":"s-2","retained":true}\n',
        b'{"type":"orch.started","time":"2026-11-23T17:08:02Z"}\n',
        b'{"type":"orch.started","time":"2026-11-23T17:08:02Z","payload":{"graph":{"nodes":[{"id":"a"}]}},"id":"s-3"}\n',
        b'{"type":"orch.started","time":"2026-11-23T17:08:03Z","payload":{},"id":"t-1"}\n',
        b'{"time":"2026-11-23T17:08:03Z","payload":{},"id":"t-2","type":"orch.started"}\n',
        b'{"type":"orch.started","time":"2026-11-23T17:08:03Z","id":"t-3"}\n',
    ]
    for name, data in (("run.ndjson", b"".join(lines)), ("run.ndjson.gz", gzip.compress(b"".join(lines)))):
        recording.with_name(name).write_bytes(data)
        result = run("replay", str(recording.with_name(name)), consumer.path, "--speed", "max")
        assert (result.returncode, result.stderr.count("\n")) == (0, 1)
        wait_for(lambda: len(consumer.lines()) % len(lines) == 0)
    wait_for(lambda: len(consumer.lines()) == 2 * len(lines))
    assert b"".join(b"".join(pieces) for pieces in consumer.connections) == 2 * b"".join(lines)


def test_an_event_comes_when_it_is_due_and_not_before(consumer: Consumer, recording: Path) -> None:
    recording.write_bytes(recorded(0, 4, 8))
    result = run("replay", str(recording), consumer.path, "--speed", "10")
    assert result.returncode == 0
    took = re.search(r"in ([\d.]+) s\n", result.stderr)
    assert took is not None
    assert 0.8 <= float(took[1]) < 8


def test_a_long_pause_is_announced_and_ctrl_c_ends_it(consumer: Consumer, recording: Path) -> None:
    recording.write_bytes(recorded(0, 7200))
    with running("replay", str(recording), consumer.path) as process:
        assert process.stderr.readline().startswith(b"the recording pauses for 2:00:00; ")
        assert consumer.wait_for_tasks(1) == [0]
        process.send_signal(signal.SIGINT)
        assert process.wait(30) == 130
        assert re.fullmatch(rb"sent 1 event to .* s\n", process.stderr.read())


def test_a_clock_that_was_set_back_stops_nothing_and_is_reported(consumer: Consumer, recording: Path) -> None:
    recording.write_bytes(recorded(0, 0.1, -3600, -3599.9))
    result = run("replay", str(recording), consumer.path)
    assert result.returncode == 0
    assert result.stderr.endswith(" s; the recording's clock goes back 1 time\n")
    assert consumer.wait_for_tasks(4) == [0, 1, 2, 3]


def test_a_slow_consumer_loses_nothing(consumer: Consumer, recording: Path) -> None:
    recording.write_bytes(recorded(*(number / 1e6 for number in range(20_000))))
    consumer.stall()
    with running("replay", str(recording), consumer.path) as process:
        wait_for(lambda: consumer.connections)
        stop(process.pid)
        process.send_signal(signal.SIGCONT)
        consumer.go_on()
        assert process.wait(60) == 0
    assert consumer.wait_for_tasks(20_000) == list(range(20_000))


def test_progress_on_a_terminal_is_drawn_and_wiped(consumer: Consumer, recording: Path) -> None:
    recording.write_bytes(recorded(0, 0.2, 3600))
    terminal, inside = pty.openpty()
    environment = {**os.environ, "TERM": "xterm", "COLUMNS": "80"}
    with (
        open(terminal, "rb", buffering=0) as screen,
        running("replay", str(recording), consumer.path, stderr=inside, env=environment) as process,
    ):
        os.close(inside)  # so that a read fails when the command has ended
        seen = b""
        while re.search(rb"6\d%.*2 events sent, the next one in 0:59:\d\d", seen) is None:
            seen += screen.read(4096)
        assert seen.rfind(SHOW_CURSOR) > seen.rfind(HIDE_CURSOR) >= 0  # so that Ctrl-Z leaves it as it was
        process.send_signal(signal.SIGINT)
        while b"sent 2 events to " not in seen:
            seen += screen.read(4096)
        assert process.wait(30) == 130


def test_no_progress_is_drawn_into_a_file(consumer: Consumer, recording: Path) -> None:
    recording.write_bytes(recorded(0, 0.2))
    result = run("replay", str(recording), consumer.path, env={**os.environ, "FORCE_COLOR": "1"})
    assert re.fullmatch(rf"sent 2 events to {consumer.path} in [\d.]+ s\n", result.stderr)


@given(st.lists(st.floats(0, 100).map(lambda step: round(step, 3))), st.sampled_from([0.5, 1.0, 10.0]))
def test_times_that_rise_are_kept(steps: list[float], speed: float) -> None:
    clock = ReplayClock(speed)
    time = START
    for step in [0.0, *steps]:
        time += timedelta(seconds=step)
        assert clock.due(time) == pytest.approx((time - START).total_seconds() / speed)
    assert clock.set_back == 0


@given(st.lists(st.floats(-5000, 5000)))
def test_an_event_is_never_due_before_the_one_before_it(times: list[float]) -> None:
    clock = ReplayClock(1.0)
    due = [clock.due(START + timedelta(seconds=second)) for second in times]
    assert due == sorted(due)
    assert all(0 <= after - before <= 10_000 for before, after in pairwise(due))


def test_a_little_disorder_does_not_slow_a_recording_down() -> None:
    clock = ReplayClock(1.0)
    dues = [clock.due(START + timedelta(seconds=second)) for number in range(100) for second in (number + 0.5, number)]
    assert dues == pytest.approx([number for number in range(100) for _ in range(2)])
    assert clock.set_back == 0


def test_a_clock_that_was_set_back_goes_on_from_there() -> None:
    clock = ReplayClock(2.0)
    assert [clock.due(START + timedelta(seconds=second)) for second in (0, 10, -3600, -3596, 10)] == [0, 5, 5, 7, 1810]
    assert clock.set_back == 1


def test_a_recording_may_begin_in_the_year_1() -> None:
    clock = ReplayClock(1.0)
    assert [clock.due(datetime.min.replace(tzinfo=UTC)) for _ in range(2)] == [0, 0]


def test_a_pause_without_end_is_announced(consumer: Consumer, recording: Path) -> None:
    recording.write_bytes(recorded(0, 9))
    with running("replay", str(recording), consumer.path, "--speed", "1e-15") as process:
        assert process.stderr.readline().startswith(b"the recording pauses for 11574 days")
        process.send_signal(signal.SIGINT)
        assert process.wait(30) == 130


def test_a_line_that_is_too_long_to_be_sent_again_keeps_its_id_and_is_counted(
    consumer: Consumer, recording: Path
) -> None:
    whole = wire.encode(Event("big", payload="x" * 1_048_500))
    line = whole[:-2] + b',"id":"s-1"}\n'
    assert 1_048_576 - 16 < len(line) <= 1_048_576
    recording.write_bytes(line)
    ended = run("replay", str(recording), consumer.path, "--speed", "max")
    assert "1 with a placeholder for what was too long" in ended.stderr
    (event,) = map(wire.parse, consumer.lines())
    assert (event["type"], event["id"]) == ("big", "s-1")


# Mistakes


def test_a_recording_that_is_not_there_is_a_sentence(socket_path: str, tmp_path: Path) -> None:
    for file, why in ((tmp_path / "none", "No such file or directory"), (tmp_path, "Is a directory")):
        result = run("replay", str(file), socket_path)
        assert (result.returncode, result.stderr) == (
            1,
            f"socketpusher replay: can't read the recording: {why}: {file}\n",
        )


def test_arguments_in_the_wrong_order_are_recognized(consumer: Consumer, recording: Path) -> None:
    recording.write_bytes(recorded(0))
    result = run("replay", consumer.path, str(recording))
    assert result.returncode == 1
    assert result.stderr == (
        "socketpusher replay: can't read the recording: it is a socket; the recording comes first: "
        f"socketpusher replay {recording} {consumer.path}: {consumer.path}\n"
    )


def test_a_recording_for_a_path_is_recognized(recording: Path) -> None:
    recording.write_bytes(recorded(0))
    result = run("replay", str(recording), str(recording))
    assert result.returncode == 1
    assert "it is not a socket; choose another path" in result.stderr


def test_a_closed_standard_input_is_a_sentence(consumer: Consumer) -> None:
    command = ["sh", "-c", 'exec "$@" <&-', "sh", *COMMAND, "replay", "-", consumer.path]
    result = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert result.returncode == 1
    assert result.stderr.startswith("socketpusher replay: can't read standard input: it is closed")
    assert result.stderr.count("\n") == 1


@pytest.mark.parametrize("speed", ["-1", "nan", "inf", "fast", ""])
def test_an_invalid_speed_is_refused(speed: str) -> None:
    result = run("replay", "-", f"--speed={speed}")
    assert result.returncode == 2
    assert "is neither a number from 0 on nor max" in result.stderr


def test_events_that_were_sent_again_are_due_at_once_and_set_no_clock_back() -> None:
    """A pusher that reconnects tells how the run stands, with the old times."""
    clock = ReplayClock(1.0)
    events = [(-100, True), (0, False), (10, False), (0, True), (12, False)]
    assert [clock.due(START + timedelta(seconds=second), repeated) for second, repeated in events] == [0, 0, 10, 10, 12]
    assert clock.set_back == 0


def test_repetitions_in_a_recording_are_no_clock_that_was_set_back(consumer: Consumer, tmp_path: Path) -> None:
    lines = recorded(0, 3600, 0, 3601).splitlines(keepends=True)
    lines[2] = wire.retained(lines[2])
    path = tmp_path / "run.ndjson"
    path.write_bytes(b"".join(lines))
    result = run("replay", str(path), consumer.path, "--speed", "36000")
    assert result.returncode == 0
    assert "goes back" not in result.stderr
