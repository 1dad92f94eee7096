"""What waits on the disk: each change is whole, whenever the process dies, and what is damaged is found."""

import os
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from pathlib import Path

import pytest

from socketpusher.channel.batch import Batch
from socketpusher.channel.spool_directory import SpoolError
from socketpusher.writer import spool as spools
from socketpusher.writer.spool import Spool

STARTS = b'{"type":"orch.started"'


def lines(first: int, end: int) -> Batch:
    return Batch(first, end, b"".join(b"%d\n" % number for number in range(first, end)))


def gap(number: int, told: bytes) -> Batch:
    return Batch(number, number, told)


@pytest.fixture
def path(tmp_path: Path) -> str:
    return str(tmp_path / "x.db")


@pytest.fixture
def spool(path: str) -> Iterator[Spool]:
    with closing(Spool(path, {"nodes": []}, 3)) as spool:
        yield spool


def reopened(spool: Spool, path: str) -> Spool:
    spool.close()
    return Spool(path)


def test_what_is_appended_is_loaded_in_order(spool: Spool) -> None:
    spool.append([lines(5, 8)], STARTS, loaded=False, before=(5, b"told\n"))
    spool.append([gap(10, b"gap\n"), lines(10, 12)], STARTS, loaded=False)
    assert (spool.read, spool.end, spool.count, spool.not_loaded) == (5, 12, 5, 5)
    assert spool.load(1 << 20) == [lines(5, 8), gap(10, b"gap\n"), lines(10, 12)]
    assert (spool.count, spool.not_loaded, spool.all_loaded) == (5, 0, True)
    assert spool.load(1 << 20) == []


def test_no_more_is_loaded_at_once_than_asked_for_but_a_row(spool: Spool) -> None:
    for first in range(0, 40, 10):
        spool.append([lines(first, first + 10)], STARTS, loaded=False)
    assert spool.load(1) == [lines(0, 10)]
    assert spool.load(60) == [lines(10, 20), lines(20, 30)]


def test_what_the_backlog_has_already_is_not_loaded(spool: Spool) -> None:
    spool.append([lines(0, 3)], STARTS, loaded=True, before=(0, b""))
    assert (spool.all_loaded, spool.count, spool.not_loaded) == (True, 3, 0)
    spool.append([lines(3, 5)], STARTS, loaded=False)
    assert spool.load(1 << 20) == [lines(3, 5)]


def test_batches_are_joined_but_not_over_a_gap(spool: Spool, path: str) -> None:
    spool.append([lines(0, 1), lines(1, 2), gap(4, b"a\n"), lines(4, 5), lines(5, 6), lines(7, 8)], STARTS, False)
    assert spool.load(1 << 20) == [lines(0, 2), gap(4, b"a\n"), lines(4, 6), lines(7, 8)]


def test_rows_do_not_become_too_large(spool: Spool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spools, "LARGEST_ROW", 4)
    spool.append([lines(0, 2), lines(2, 3), lines(3, 6)], STARTS, loaded=False)
    assert spool.load(1 << 20) == [lines(0, 2), lines(2, 3), lines(3, 6)]


@pytest.mark.parametrize("read", range(13))
def test_read_lines_are_removed_and_another_process_finds_the_rest(spool: Spool, path: str, read: int) -> None:
    spool.append([lines(0, 3), lines(3, 8), gap(10, b"gap\n"), lines(10, 12)], STARTS, loaded=False, before=(0, b""))
    loaded = spool.load(1 << 20)
    read = loaded[0].end if read in (8, 9) else read  # those were dropped
    spool.settle(read, b"seen\n")
    expected = [number for number in (*range(8), 10, 11) if number >= read]
    assert spool.count == len(expected)
    again = reopened(spool, path)
    with closing(again):
        assert (again.read, again.count, again.not_loaded) == (read, len(expected), len(expected))
        found = again.load(1 << 20)
        assert [int(line) for batch in found for line in batch.data.split() if line != b"gap"] == expected
        assert (b"gap\n" in [batch.data for batch in found]) == (read < 10)
        assert again.observed() == [b"", b"seen\n"]


def test_the_count_is_right_after_reads_of_any_size(spool: Spool) -> None:
    spool.append([lines(0, 7)], STARTS, loaded=False)
    spool.append([lines(7, 9)], STARTS, loaded=False)
    spool.append([lines(12, 20)], STARTS, loaded=False)
    spool.load(1 << 20)
    for read, left in ((1, 16), (3, 14), (8, 9), (9, 8), (13, 7), (20, 0)):
        spool.settle(read)
        assert spool.count == left


def test_only_what_was_loaded_can_be_read(spool: Spool) -> None:
    spool.append([lines(0, 5)], STARTS, loaded=False)
    spool.append([lines(5, 9)], STARTS, loaded=False)
    spool.load(1)
    spool.settle(5)
    assert (spool.count, spool.load(1 << 20)) == (4, [lines(5, 9)])


def test_a_new_beginning_forgets_what_was_observed_before(spool: Spool, path: str) -> None:
    spool.append([lines(0, 2)], STARTS, loaded=True, before=(0, b"one\n"))
    spool.settle(2, b"two\n")
    assert spool.observed() == [b"one\n", b"two\n"]
    spool.append([lines(7, 9)], STARTS, loaded=True, before=(7, b"three\n"))
    assert spool.observed() == [b"three\n"]
    assert (spool.read, spool.end, spool.count) == (7, 9, 2)


def test_what_is_observed_is_kept_short(spool: Spool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spools, "OBSERVED_BYTES", 300)
    spool.append([lines(0, 50)], STARTS, loaded=True, before=(0, b""))
    for number in range(50):
        spool.settle(number + 1, b'{"type":"task.completed","time":"t","unit":"a","task":%d}\n' % number)
    told = b"".join(spool.observed())
    assert len(told) < 1000
    assert b'"task":49' in told


def test_the_rows_with_the_begin_of_a_run_are_found(spool: Spool) -> None:
    start = STARTS + b',"time":"t"}\n'
    spool.append([lines(0, 2)], STARTS, loaded=False)
    spool.append([Batch(2, 4, b"x\n" + start)], STARTS, loaded=False)
    spool.append([gap(6, start)], STARTS, loaded=False)
    assert list(spool.starting()) == [b"x\n" + start, start]


def test_another_process_knows_the_graph(spool: Spool, path: str) -> None:
    with closing(reopened(spool, path)) as again:
        assert (again.graph, again.parallelism) == ({"nodes": []}, 3)


def test_no_other_process_can_open_the_database(spool: Spool, path: str) -> None:
    spool.append([lines(0, 5)], STARTS, loaded=False)
    with closing(sqlite3.connect(path, timeout=0)) as other, pytest.raises(sqlite3.OperationalError, match="locked"):
        other.execute("SELECT * FROM batches").fetchall()


def test_the_file_is_for_this_user_only(path: str) -> None:
    before = os.umask(0)
    try:
        Spool(path).close()
    finally:
        os.umask(before)
    assert os.stat(path).st_mode & 0o777 == 0o600


def test_more_than_the_quota_is_refused_and_changes_nothing(spool: Spool) -> None:
    spool.append([lines(0, 5)], STARTS, loaded=False)
    spool.limit(100_000)
    large = Batch(5, 6, b"x" * 99_999 + b"\n")
    with pytest.raises(SpoolError, match="full") as caught:
        spool.append([large], STARTS, loaded=False)
    assert not caught.value.damaged
    assert (spool.count, spool.end) == (5, 5)
    assert spool.load(1 << 20) == [lines(0, 5)]
    spool.settle(5)
    spool.limit(200_000)
    spool.append([large], STARTS, loaded=False)
    assert spool.load(1 << 20) == [large]


def test_space_is_used_again(spool: Spool) -> None:
    spool.append([lines(0, 1)], STARTS, loaded=False)
    for first in range(1, 200):
        spool.append([Batch(first, first + 1, b"x" * 50_000 + b"\n")], STARTS, loaded=False)
        spool.load(1 << 20)
        spool.settle(first + 1)
    assert spool.size < 400_000


def torn(path: str) -> None:
    with open(path, "r+b") as file:
        file.seek(4096)
        file.write(os.urandom(3 * 4096))


def foreign(path: str) -> None:
    Path(path).write_bytes(b"events of somebody else\n" * 1000)


def another_database(path: str) -> None:
    os.unlink(path)
    with closing(sqlite3.connect(path)) as database:
        database.execute("CREATE TABLE batches (x)")


def short(path: str) -> None:
    os.truncate(path, 5000)


@pytest.mark.parametrize("damage", [torn, foreign, another_database, short])
def test_a_damaged_file_and_a_failing_disk_are_different_errors(path: str, damage: Callable[[str], None]) -> None:
    with closing(Spool(path)) as spool:
        for first in range(100):
            spool.append([Batch(first, first + 1, b"x" * 1000 + b"\n")], STARTS, loaded=False)
    damage(path)
    with pytest.raises(SpoolError) as caught, closing(Spool(path)) as spool:
        while not spool.all_loaded:
            spool.load(1)
    assert caught.value.damaged


def test_a_file_that_can_not_be_opened_is_not_damaged(path: str) -> None:
    os.mkdir(path)
    with pytest.raises(SpoolError, match="Is a directory") as caught:
        Spool(path)
    assert not caught.value.damaged


@pytest.mark.parametrize(
    "change",
    [
        """UPDATE about SET graph = '{"nodes#'""",
        "UPDATE about SET parallelism = 8",
        "UPDATE about SET read = 1",
        "UPDATE about SET read = 'x'",
        "UPDATE about SET graph = NULL",
        "UPDATE batches SET first = 'x'",
        "UPDATE batches SET first = first + 1",
        'UPDATE batches SET "end" = NULL',
        'UPDATE batches SET "end" = 9223372036854775807',
        "UPDATE batches SET first = first + 200",
        "UPDATE batches SET first = -9e999",
        "UPDATE about SET graph = x'6e75', parallelism = x'30'",
        "UPDATE batches SET data = NULL",
        "UPDATE batches SET data = 'text'",
        "UPDATE batches SET starts = 1",
        "UPDATE observed SET lines = x'00'",
        "UPDATE observed SET lines = NULL",
        "DELETE FROM about",
        "DROP TABLE observed",
    ],
)
def test_changed_content_counts_as_damage(path: str, change: str) -> None:
    with closing(Spool(path)) as spool:
        spool.append([lines(0, 5)], STARTS, loaded=False, before=(0, b"told\n"))
    with closing(sqlite3.connect(path)) as database:
        database.execute(change)
        database.commit()
    with pytest.raises(SpoolError) as caught, closing(Spool(path)) as spool:
        spool.load(1 << 20)
        spool.observed()
    assert caught.value.damaged or change.startswith("DROP")


def test_a_database_that_another_program_has_locked_is_not_waited_for(path: str) -> None:
    with closing(Spool(path)) as spool:
        spool.append([lines(0, 5)], STARTS, loaded=False, before=(0, b""))
        assert spool._database.execute("PRAGMA busy_timeout").fetchone() == (0,)
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        with pytest.raises(SpoolError, match="locked") as caught:
            Spool(path)
    assert not caught.value.damaged


def test_rows_before_a_damaged_one_are_loaded(path: str) -> None:
    with closing(Spool(path)) as spool:
        for first in range(50):
            spool.append([Batch(first, first + 1, b"x" * 20_000 + b"\n")], STARTS, loaded=False)
    with open(path, "r+b") as file:
        file.seek(os.path.getsize(path) // 4096 // 2 * 4096 + 500)
        file.write(b"y" * 3000)  # inside of a page of one line, where SQLite does not look
    found = 0
    with closing(Spool(path)) as spool, pytest.raises(SpoolError) as caught:
        while batches := spool.load(60_000):
            assert {batch.data for batch in batches} == {b"x" * 20_000 + b"\n"}
            found += len(batches)
    assert caught.value.damaged
    assert 10 < found < 50


class Died(BaseException):
    """The process is gone."""


STEPS = [f"{name}: {step}" for name in ("make", "append", "settle") for step in ("begin", "commit", "done")]


@pytest.mark.parametrize("step", STEPS)
def test_a_process_may_die_at_each_step(path: str, step: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is there afterwards is what was there before the change, or behind it; and one can go on with it."""
    armed = step.startswith("make")

    def reached(at: str) -> None:
        if armed and at == step:
            raise Died

    monkeypatch.setattr(spools, "fault_point", reached)
    done = step.endswith("done")
    states: dict[str, list[Batch]] = {
        "make": [],
        "append": [lines(0, 4), lines(4, 9)] if done else [lines(0, 4)],
        "settle": [lines(3, 4)] if done else [lines(0, 4)],
    }
    with suppress(Died), closing(Spool(path, None, 7)) as spool:
        spool.append([lines(0, 4)], STARTS, loaded=False, before=(0, b"told\n"))
        spool.load(1 << 20)
        armed = True
        if step.startswith("append"):
            spool.append([lines(4, 9)], STARTS, loaded=False)
        else:
            spool.settle(3, b"seen\n")
        pytest.fail("it lives")
    armed = False
    with closing(Spool(path, None, 7)) as spool:  # as a writer that finds what an earlier one has begun to make
        assert spool.load(1 << 20) == states[step.partition(":")[0]]
        assert spool.parallelism == 7
        if step.startswith("settle"):
            assert (b"seen\n" in spool.observed()) == done
        spool.append([lines(20, 22)], STARTS, loaded=False)
        assert spool.load(1 << 20) == [lines(20, 22)]
