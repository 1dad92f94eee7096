"""`socketpusher trace`: a recording in, a trace or a picture out."""

import gzip
import json
import os
from pathlib import Path

import pytest

from support.cli import run, running, send
from support.nats import Server, needs_server, relaying
from support.trace import line, read_trace
from support.waiting import wait_for

RECORDING = b"".join(
    [
        line(0, "orch.started"),
        line(1, "unit.started", "app", payload={"worker": "w1"}),
        line(2, "unit.completed", "app"),
        line(3, "orch.completed"),
    ]
)


@pytest.fixture
def recording(tmp_path: Path) -> Path:
    path = tmp_path / "run.ndjson"
    path.write_bytes(RECORDING)
    return path


def slices(data: bytes | str) -> list[str]:
    return [event["name"] for event in read_trace(data) if event["ph"] == "X"]


def test_the_trace_goes_to_standard_output(recording: Path) -> None:
    result = run("trace", str(recording))
    assert (result.returncode, result.stderr) == (0, "")
    assert slices(result.stdout) == ["run", "app"]


@pytest.mark.parametrize("arguments", [[], ["-"]])
@pytest.mark.parametrize("compressed", [False, True])
def test_it_reads_standard_input_also_if_it_is_compressed(arguments: list[str], compressed: bool) -> None:
    with running("trace", *arguments) as process:
        output, errors = process.communicate(gzip.compress(RECORDING) if compressed else RECORDING)
        assert (process.returncode, errors) == (0, b"")
    assert slices(output) == ["run", "app"]


def test_it_writes_files(recording: Path, tmp_path: Path) -> None:
    trace, picture = tmp_path / "trace.json", tmp_path / "run.svg"
    result = run("trace", str(recording), "-o", str(trace), "--svg", str(picture))
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "")
    assert slices(trace.read_bytes()) == ["run", "app"]
    assert picture.read_text(encoding="utf-8").startswith("<svg ")


def test_a_picture_alone_needs_no_trace(recording: Path, tmp_path: Path) -> None:
    result = run("trace", str(recording), "--svg", str(tmp_path / "run.svg"), env={**os.environ, "LC_ALL": "C"})
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "")
    assert (tmp_path / "run.svg").exists()


def test_lines_that_are_not_events_are_reported_and_skipped(recording: Path) -> None:
    recording.write_bytes(b'{"type":"x"}\n\n' + RECORDING + b'{"type":"unit.st\x1b')
    result = run("trace", str(recording))
    assert slices(result.stdout) == ["run", "app"]
    assert result.returncode == 1
    assert [each.partition(": ")[0] for each in result.stderr.splitlines()] == [
        f"line {number} of {recording} is skipped" for number in (1, 7)
    ]


@pytest.mark.parametrize("compressed", [False, True])
def test_a_byte_order_mark_hides_no_event(recording: Path, compressed: bool) -> None:
    marked = b"\xef\xbb\xbf" + RECORDING[RECORDING.index(b"\n") + 1 :]
    recording.write_bytes(gzip.compress(marked) if compressed else marked)
    result = run("trace", str(recording))
    assert (result.returncode, result.stderr) == (0, "")
    assert slices(result.stdout) == ["run", "app"]


def test_what_is_left_of_a_damaged_file_is_shown(recording: Path) -> None:
    recording.write_bytes(gzip.compress(RECORDING + line(4, "x") * 10_000)[:-20])
    result = run("trace", str(recording))
    assert slices(result.stdout) == ["run", "app"]
    assert result.stderr.startswith(f"can't read {recording} to its end, it is damaged: ")
    assert result.returncode == 1


# Mistakes


@pytest.mark.parametrize("content", [b"", b"no event\n"])
def test_a_recording_without_events_is_told_and_writes_nothing(recording: Path, tmp_path: Path, content: bytes) -> None:
    recording.write_bytes(content)
    result = run("trace", str(recording), "-o", str(tmp_path / "trace.json"))
    assert (result.returncode, result.stdout) == (1, "")
    assert f"socketpusher trace: there are no events in {recording}" in result.stderr
    assert not (tmp_path / "trace.json").exists()


def test_files_that_can_not_be_used_are_told(recording: Path, tmp_path: Path) -> None:
    for arguments, sentence in (
        ([str(tmp_path / "none")], f"No such file or directory: {tmp_path}/none"),
        ([str(tmp_path)], f"Is a directory: {tmp_path}"),
        ([str(recording), "-o", str(tmp_path / "a" / "b")], f"No such file or directory: {tmp_path}/a/b"),
        ([str(recording), "--svg", str(tmp_path)], f"Is a directory: {tmp_path}"),
    ):
        result = run("trace", *arguments)
        assert (result.returncode, result.stderr) == (1, f"socketpusher trace: {sentence}\n")


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["run.ndjson", "--from", "nats://localhost"], "give a path or --from, not both"),
        (["--host", "build-7"], "--host needs --from"),
    ],
)
def test_options_that_contradict_each_other_are_told(arguments: list[str], sentence: str) -> None:
    result = run("trace", *arguments)
    assert result.returncode == 2
    assert sentence in result.stderr


# From a stream


@needs_server
def test_it_reads_what_a_stream_has_stored(socket_path: str, tmp_path: Path) -> None:
    server = Server(tmp_path / "nats")
    server.start()
    try:
        with relaying(socket_path, server.url):
            send(socket_path, RECORDING)
            wait_for(lambda: server.count() == 4)
        result = run("trace", "--from", server.url)
        assert result.returncode == 0
        assert slices(result.stdout) == ["run", "app"]
        (process,) = [event for event in json.loads(result.stdout)["traceEvents"] if event["name"] == "process_name"]
        assert process["args"]["name"].startswith("run 2026-11-23 17:08:00 UTC h ")
    finally:
        server.kill()
