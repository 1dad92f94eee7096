"""A file that lines are recorded to: rotated, moved under its writer, truncated, full, and used by two."""

import errno
import fcntl
import os
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from socketpusher.cli.rotating_file import RotatingFile, write_whole
from support.waiting import wait_for


def contents(path: Path) -> list[bytes]:
    """The files of a record, the oldest first."""
    numbered = sorted(path.parent.glob(f"{path.name}.*"), key=lambda file: -int(file.suffix[1:]))
    return [file.read_bytes() for file in [*numbered, path]]


@given(
    st.lists(st.lists(st.integers(0, 30), max_size=8), max_size=8), st.integers(1, 40), st.integers(1, 3), st.booleans()
)
def test_a_record_holds_the_newest_lines_whole(
    tmp_path_factory: pytest.TempPathFactory, batches: list[list[int]], max_bytes: int, keep: int, reopened: bool
) -> None:
    path = tmp_path_factory.mktemp("record") / "r"
    record = RotatingFile(str(path), max_bytes, keep)
    for batch in batches:
        if reopened:
            record.close()
            record = RotatingFile(str(path), max_bytes, keep)
        record.write([b"x" * size + b"\n" for size in batch])
    record.close()
    files = contents(path)
    everything = b"".join(b"x" * size + b"\n" for batch in batches for size in batch)
    assert everything.endswith(b"".join(files))
    assert len(files) == keep + 1 or b"".join(files) == everything
    assert all(data.endswith(b"\n") for data in files if data)
    assert all(len(data) <= max_bytes or data.count(b"\n") == 1 for data in files)
    following = pairwise(files)
    assert all(len(data) + data_after.index(b"\n") + 1 > max_bytes for data, data_after in following)


def move(path: Path) -> None:
    path.rename(f"{path}-20260101")


def replace_by_a_new_one(path: Path) -> None:
    move(path)
    path.touch()


def truncate(path: Path) -> None:
    os.truncate(path, 0)


@pytest.mark.parametrize("rotate", [move, Path.unlink, replace_by_a_new_one, truncate])
def test_lines_go_to_the_path_whatever_logrotate_does(tmp_path: Path, rotate: Callable[[Path], object]) -> None:
    path = tmp_path / "run.ndjson"
    with closing(RotatingFile(str(path), 8, 1)) as record:
        record.write([b"first\n"])
        rotate(path)
        record.write([b"other\n"])
        assert path.read_bytes() == b"other\n"
        assert not Path(f"{path}.1").exists()  # its size begins at 0 again
        record.write([b"third\n"])
    assert contents(path)[-2:] == [b"other\n", b"third\n"]


def test_a_file_that_disappears_when_it_is_full_is_no_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "run.ndjson"
    with closing(RotatingFile(str(path), 8, 1)) as record:
        record.write([b"first\n"])
        exists = os.path.lexists
        monkeypatch.setattr(os.path, "lexists", lambda file: (path.unlink(missing_ok=True), exists(file))[1])
        record.write([b"other\n"])
    assert path.read_bytes() == b"other\n"


def test_only_one_process_records_to_a_file(tmp_path: Path) -> None:
    path = str(tmp_path / "run.ndjson")
    with closing(RotatingFile(path, 8, 1)) as record:
        record.write([b"first\n", b"other\n"])  # another file than at the beginning
        with pytest.raises(OSError, match="another process records to it") as refused:
            RotatingFile(path, 8, 1)
        assert refused.value.errno == errno.EBUSY
    with closing(RotatingFile(path, 8, 1)) as record:
        record.write([b"third\n"])


def test_a_second_recorder_is_refused_in_the_middle_of_a_rotation(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, replace, flock = str(tmp_path / "run.ndjson"), os.replace, fcntl.flock
    refused: list[int | None] = []

    def try_to_record() -> None:
        try:
            RotatingFile(path, 8, 1).close()
        except OSError as error:
            refused.append(error.errno)

    def replace_while_another_starts(old: str, new: str) -> None:
        replace(old, new)
        starting.append(thread := threading.Thread(target=try_to_record))
        thread.start()
        wait_for(lambda: os.path.exists(path))  # the other one is the first to have the new file

    starting: list[threading.Thread] = []
    with closing(RotatingFile(path, 8, 1)) as record:
        record.write([b"first\n"])
        monkeypatch.setattr(os, "replace", replace_while_another_starts)
        record.write([b"other\n"])
        for thread in starting:
            thread.join()
        monkeypatch.undo()

        def rotate_first(file: int, operation: int) -> None:  # another one has opened what is PATH.1 now
            monkeypatch.setattr(fcntl, "flock", flock)
            record.write([b"third\n"])
            flock(file, operation)

        monkeypatch.setattr(fcntl, "flock", rotate_first)
        try_to_record()
        assert refused == [errno.EBUSY] * 2
        record.write([b"fourth\n"])
    assert contents(Path(path)) == [b"third\n", b"fourth\n"]


def test_a_batch_that_does_not_fit_on_the_disk_is_not_written_at_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, write = tmp_path / "run.ndjson", os.write

    def write_a_part(file: int, data: memoryview) -> int:
        if len(data) < 6:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return write(file, data[:9])

    with closing(RotatingFile(str(path), 1000, 1)) as record:
        record.write([b"first\n"])
        monkeypatch.setattr(os, "write", write_a_part)
        with pytest.raises(OSError, match="No space left on device; make room") as full:
            record.write([b"other\n", b"third\n"])
        assert full.value.errno == errno.ENOSPC
        monkeypatch.undo()
        record.write([b"fourth\n"])
    assert path.read_bytes() == b"first\nfourth\n"


def test_a_full_pipe_that_does_not_block_is_waited_for() -> None:
    """Another process may have made it so: the flag belongs to what its processes share."""
    data = os.urandom(1 << 20)
    reading, writing = os.pipe()
    os.set_blocking(writing, False)

    def write() -> None:
        with open(writing, "wb"):
            write_whole(writing, data)

    with ThreadPoolExecutor() as pool, open(reading, "rb") as pipe:
        written = pool.submit(write)
        assert pipe.read() == data
        written.result(30)


def test_however_many_files_may_be_kept_a_rotation_looks_only_for_those_that_there_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []
    exists = os.path.lexists
    monkeypatch.setattr("os.path.lexists", lambda path: asked.append(path) or exists(path))
    with closing(RotatingFile(str(tmp_path / "r"), 4, 1000)) as record:
        for number in range(5):
            record.write([b"%d\n" % number] * 2)
    assert len(asked) < 40
    assert contents(tmp_path / "r") == [b"%d\n%d\n" % (number, number) for number in range(5)]
