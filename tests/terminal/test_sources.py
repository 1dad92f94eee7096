"""`socketpusher watch run.ndjson`: a recording is read, and followed while it grows."""

import gzip
import os
import re
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path

import pytest

from socketpusher import Event, wire
from socketpusher.jetstream.subjects import Source
from socketpusher.terminal.sources import AT_REST, RecordingSource, StreamSource
from socketpusher.terminal.tracker import RunTracker
from socketpusher.terminal.view import RunView
from support.cli import listening, run, send
from support.terminal import Terminal
from support.watching import COMMAND

BEGIN = datetime.now(UTC) - timedelta(minutes=10)


def line(seconds: float, type: str, unit: str = "", **options: object) -> bytes:
    return wire.encode(Event(type, unit, time=BEGIN + timedelta(seconds=seconds), **options))


GRAPH = line(0, "graph", payload={"nodes": [{"id": "a"}, {"id": "b"}]})
STARTED = GRAPH + line(1, "orch.started") + line(2, "unit.started", "a")
FAILED = line(3, "unit.failed", "a", error="disk full") + line(4, "orch.failed", error="a failed")


@contextmanager
def reading(path: Path) -> Iterator[tuple[RecordingSource, RunView]]:
    source, view = RecordingSource(str(path)), RunView(RunTracker(lasting=True))
    try:
        yield source, view
    finally:
        source.close()


def read_to_its_end(source: RecordingSource, view: RunView) -> None:
    """What is there now, and nothing that will be."""
    source.due = 0
    while source.due == 0:
        source.take(view)


def statuses(view: RunView) -> dict[str, str]:
    (known,) = view.runs.runs
    return {name: unit.status for name, unit in known.units.items()}


@pytest.fixture
def recording(tmp_path: Path) -> Path:
    return tmp_path / "run.ndjson"


# Once


def test_a_recording_is_shown_as_it_ends(recording: Path) -> None:
    recording.write_bytes(STARTED + FAILED)
    shown = run("watch", "--once", str(recording))
    assert (shown.returncode, shown.stderr) == (0, f"reading {recording}\n")
    assert re.match(r"run\.ndjson  failed in 0:03  0/2 units  1 failed\n  x+·+  0%\n  a failed\n", shown.stdout)
    assert "  ✗ a  disk full\n" in shown.stdout


def test_a_recording_may_be_compressed(recording: Path) -> None:
    recording.write_bytes(gzip.compress(STARTED + FAILED))
    shown = run("watch", "--once", str(recording))
    assert "  ✗ a  disk full\n" in shown.stdout
    recording.write_bytes(gzip.compress(STARTED + FAILED)[:-12])
    shown = run("watch", "--once", str(recording))
    assert (shown.returncode, shown.stderr.count("can't be read to its end")) == (0, 1)


def test_the_files_that_a_recording_was_renamed_to_are_read_first(recording: Path) -> None:
    lines = (STARTED + FAILED).splitlines(keepends=True)
    for number, part in ((2, lines[:2]), (1, lines[2:3]), (0, lines[3:])):
        Path(f"{recording}.{number}" if number else recording).write_bytes(b"".join(part))
    assert "run.ndjson  failed in 0:03" in run("watch", "--once", str(recording)).stdout


def test_a_directory_beside_a_recording_is_not_an_older_part_of_it(recording: Path) -> None:
    recording.write_bytes(STARTED + FAILED)
    Path(f"{recording}.1").mkdir()
    assert "run.ndjson  failed in 0:03" in run("watch", "--once", str(recording)).stdout


def test_a_byte_order_mark_hides_no_event(recording: Path) -> None:
    recording.write_bytes(b"\xef\xbb\xbf" + STARTED + FAILED)
    shown = run("watch", "--once", str(recording))
    assert (shown.returncode, shown.stderr) == (0, f"reading {recording}\n")


def test_it_gives_up_on_a_recording_that_is_not_being_written(recording: Path) -> None:
    recording.write_bytes(STARTED)
    os.utime(recording, (time.time() - 2 * AT_REST,) * 2)
    shown = run("watch", "--exit-code", "--timeout", "0.5", str(recording))
    assert shown.returncode == 2
    assert f"nothing has come from {recording} for 0.5 s; start what writes it" in shown.stderr


def test_the_last_line_may_lack_its_newline(recording: Path) -> None:
    recording.write_bytes((STARTED + FAILED)[:-1])
    assert "run.ndjson  failed in 0:03" in run("watch", "--once", str(recording)).stdout


def test_lines_that_are_no_events_are_counted(recording: Path) -> None:
    recording.write_bytes(STARTED + b"nonsense\n" * 1000 + b"\n" + FAILED)
    shown = run("watch", "--once", str(recording))
    assert shown.returncode == 0
    assert shown.stderr.count("\n") == 3
    assert "skipped a line in" in shown.stderr and "999 more problems" in shown.stderr


def test_a_file_without_events_is_a_mistake(recording: Path) -> None:
    recording.write_bytes(b"")
    shown = run("watch", "--once", str(recording))
    assert (shown.returncode, shown.stdout) == (1, "")
    assert shown.stderr.endswith(f"socketpusher watch: there are no events in {recording}\n")


def test_a_run_that_was_recorded_until_long_ago_stands_where_it_was_then(recording: Path) -> None:
    recording.write_bytes(STARTED)
    os.utime(recording, (time.time() - 2 * AT_REST,) * 2)
    with reading(recording) as (source, view):
        read_to_its_end(source, view)
        (known,) = view.runs.runs
        assert known.clock(time.time()) == (BEGIN + timedelta(seconds=2)).timestamp()
        with open(recording, "ab") as file:
            file.write(line(5, "task.started", "a"))
        read_to_its_end(source, view)
        assert known.clock(1e12) == 1e12


# While it grows


def test_a_recording_is_followed_through_every_rotation(recording: Path) -> None:
    lines = (STARTED + FAILED).splitlines(keepends=True)
    recording.write_bytes(b"")
    with reading(recording) as (source, view):
        for text in lines:
            with open(recording, "ab") as file:
                file.write(text)
            for number in (1, 0):  # twice at a time, so one file was never open before it was renamed
                _rotate(recording)
                recording.write_bytes(line(9, "task.started", "a", task=number) if number else b"")
        read_to_its_end(source, view)
        assert statuses(view) == {"a": "failed", "b": "pending"}
        assert view.runs.events == 2 * len(lines)


def _rotate(recording: Path) -> None:
    names = [str(recording), *(f"{recording}.{number}" for number in range(1, 100))]
    for old, new in reversed(list(pairwise(names))):
        if os.path.exists(old):
            os.replace(old, new)


def test_a_recording_that_is_renamed_and_not_there_again_yet_is_waited_for(recording: Path) -> None:
    recording.write_bytes(STARTED)
    with reading(recording) as (source, view):
        read_to_its_end(source, view)
        _rotate(recording)
        read_to_its_end(source, view)
        recording.write_bytes(FAILED)
        read_to_its_end(source, view)
        assert statuses(view)["a"] == "failed"


def test_a_rotation_while_the_next_file_is_opened_skips_none(recording: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recording.write_bytes(STARTED)
    with reading(recording) as (source, view):
        read_to_its_end(source, view)
        _rotate(recording)
        recording.write_bytes(FAILED)

        def rotated_meanwhile(path: str) -> object:
            monkeypatch.undo()
            _rotate(recording)
            recording.write_bytes(line(9, "task.started", "b"))
            return open(path, "rb")

        monkeypatch.setattr("socketpusher.terminal.sources._opened", rotated_meanwhile)
        read_to_its_end(source, view)
        assert statuses(view)["a"] == "failed"
        assert view.runs.events == 6


@pytest.mark.parametrize("how", ["removed", "moved elsewhere", "emptied"])
def test_a_recording_that_is_replaced_is_followed(recording: Path, how: str, tmp_path: Path) -> None:
    recording.write_bytes(STARTED)
    with reading(recording) as (source, view):
        read_to_its_end(source, view)
        if how == "removed":
            recording.unlink()
        elif how == "moved elsewhere":
            recording.rename(tmp_path / "old")
        else:
            recording.write_bytes(b"")
        read_to_its_end(source, view)
        assert statuses(view)["a"] == "in_progress"
        recording.write_bytes(FAILED)
        read_to_its_end(source, view)
        assert statuses(view)["a"] == "failed"


def test_a_line_that_is_written_in_two_parts_is_one(recording: Path) -> None:
    recording.write_bytes(STARTED + FAILED[:20])
    with reading(recording) as (source, view):
        read_to_its_end(source, view)
        assert statuses(view)["a"] == "in_progress"
        with open(recording, "ab") as file:
            file.write(FAILED[20:])
        read_to_its_end(source, view)
        assert (statuses(view)["a"], source.problems) == ("failed", [])


def test_a_run_is_recorded_and_watched_with_two_commands(recording: Path, socket_path: str) -> None:
    with listening(socket_path, "--to", str(recording), "--max-bytes", "300") as recorder:
        send(socket_path, STARTED)
        with Terminal(*COMMAND, str(recording), TERM="xterm-256color") as watcher:
            watcher.shows("following: 1 recording", "▸ a")
            send(socket_path, FAILED)
            watcher.shows("✗ a  disk full", "run.ndjson  failed in 0:03")
        recorder.terminate()
        recorder.wait(30)
    assert os.path.exists(f"{recording}.1")


def test_with_exit_code_it_ends_with_the_run_that_is_recorded(recording: Path) -> None:
    recording.write_bytes(STARTED)
    with subprocess.Popen([*COMMAND, "--exit-code", str(recording)], stdout=subprocess.PIPE) as watcher:
        while b"unit.started a" not in watcher.stdout.readline():
            pass
        with open(recording, "ab") as file:
            file.write(FAILED)
        assert watcher.stdout.read().endswith(b"orch.failed 2 units, 1 failed: a failed\n")
        assert watcher.wait(30) == 1


@pytest.mark.parametrize(
    ("lines", "code"),
    [(STARTED, 2), (STARTED + FAILED, 1), (GRAPH + line(1, "orch.completed"), 0)],
    ids=["running", "failed", "completed"],
)
def test_once_with_exit_code_tells_how_the_recorded_run_ended(recording: Path, lines: bytes, code: int) -> None:
    recording.write_bytes(lines)
    assert run("watch", "--once", "--exit-code", str(recording)).returncode == code


def test_a_link_to_a_recording_stands_for_all_of_its_files(recording: Path, tmp_path: Path) -> None:
    recording.with_name("run.ndjson.1").write_bytes(STARTED)
    recording.write_bytes(FAILED)
    link = tmp_path / "elsewhere" / "link"
    link.parent.mkdir()
    link.symlink_to(recording)
    with reading(link) as (source, view):
        read_to_its_end(source, view)
        assert view.runs.events == 5


def test_a_link_that_is_set_to_another_recording_is_followed(recording: Path, tmp_path: Path) -> None:
    recording.write_bytes(STARTED)
    link = tmp_path / "latest"
    link.symlink_to(recording)
    with reading(link) as (source, view):
        read_to_its_end(source, view)
        (other := tmp_path / "other").write_bytes(FAILED)
        link.unlink()
        link.symlink_to(other)
        read_to_its_end(source, view)
        assert statuses(view)["a"] == "failed"


def test_a_rotation_that_removes_the_file_that_is_being_read_skips_no_other(recording: Path) -> None:
    for number, data in ((2, GRAPH), (1, STARTED.removeprefix(GRAPH)), (0, FAILED)):
        (recording.with_name(f"run.ndjson.{number}") if number else recording).write_bytes(data)
    with reading(recording) as (source, view):
        source.take(view)
        os.replace(f"{recording}.1", f"{recording}.2")
        os.replace(recording, f"{recording}.1")
        recording.write_bytes(line(9, "task.started", "b"))
        read_to_its_end(source, view)
        assert statuses(view)["a"] == "failed"
        assert view.runs.events == 6


def test_hundreds_of_sessions_in_a_stream_that_send_in_turn_stay_known() -> None:
    class Stream:
        title, pending, silent_since, caught_up = "stream", 0, None, True
        source: Source | None = None

        def read(self) -> Iterator[Event]:
            for number in range(3):
                for session in range(300):
                    self.source = Source("host", str(session))
                    yield Event("task.completed", "a", task=number, time=BEGIN)

    view = RunView(RunTracker(lasting=True))
    StreamSource(Stream(), []).take(view)  # type: ignore[arg-type]
    assert [run.events for run in view.runs.runs] == [3] * 300
