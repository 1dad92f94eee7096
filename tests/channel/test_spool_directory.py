"""The directory of the spools: who may use it, and who has which of them."""

import errno
import os
import subprocess
import sys
from itertools import islice
from pathlib import Path

import pytest

from socketpusher.channel import spool_directory
from socketpusher.channel.spool_directory import (
    Claim,
    bytes_of_others,
    check_directory,
    claim_inherited,
    claim_new,
    databases,
    is_in_use,
    names,
)

HOLDER = """
import sys
from socketpusher.channel.spool_directory import claim_new
claim = claim_new(sys.argv[1])
open(claim.database, "w").close()
print(claim.database, flush=True)
sys.stdin.read()
"""


def leave(directory: Path) -> str:
    """A spool that nobody has any more. Returns its name."""
    claim = claim_new(str(directory))
    Path(claim.database).touch()
    claim.lock.close()
    return claim.name


def test_the_directory_is_created_for_this_user_only(tmp_path: Path) -> None:
    check_directory(str(made := tmp_path / "a" / "b"))
    assert made.stat().st_mode & 0o777 == 0o700
    check_directory(str(made))


@pytest.mark.parametrize("mode", [0o750, 0o701, 0o755, 0o770])
def test_a_directory_that_is_open_to_others_is_refused(tmp_path: Path, mode: int) -> None:
    tmp_path.chmod(mode)
    with pytest.raises(PermissionError, match=f"its mode is {mode:04o}; run chmod 700 on it") as caught:
        check_directory(str(tmp_path))
    assert caught.value.filename == str(tmp_path)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can make another user's directory")
def test_a_directory_of_another_user_is_refused(tmp_path: Path) -> None:
    tmp_path.chmod(0o700)
    os.chown(tmp_path, 12345, -1)
    with pytest.raises(PermissionError, match="it belongs to user 12345, not to this user, 0"):
        check_directory(str(tmp_path))


def test_a_path_that_is_not_a_directory_is_refused(tmp_path: Path) -> None:
    (file := tmp_path / "file").touch()
    for path in (file, file / "below"):
        with pytest.raises(OSError, match=r"can't use the spool directory: .*choose a directory"):
            check_directory(str(path))


def test_a_new_spool_sorts_after_all_others(tmp_path: Path) -> None:
    made = [leave(tmp_path) for _ in range(12)]
    assert names(str(tmp_path)) == made == sorted(made, key=lambda name: int(name.partition("-")[0]))
    assert [claim.name for claim in claim_inherited(str(tmp_path))] == made


def test_spools_are_claimed_one_by_one_oldest_first(tmp_path: Path) -> None:
    made = [leave(tmp_path) for _ in range(3)]
    claims = list(islice(claim_inherited(str(tmp_path)), 2))
    assert [claim.name for claim in claims] == made[:2]
    assert [claim.name for claim in claim_inherited(str(tmp_path))] == made[2:]


def test_a_spool_of_another_process_is_not_claimed_until_that_is_killed(tmp_path: Path) -> None:
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert holder.stdout is not None
    database = holder.stdout.readline().strip()
    assert databases(str(tmp_path)) == [database]
    assert is_in_use(database)
    assert list(claim_inherited(str(tmp_path))) == []
    holder.kill()
    holder.communicate()
    assert not is_in_use(database)
    (claim,) = claim_inherited(str(tmp_path))
    assert claim.database == database


def test_a_shared_lock_holds_until_the_last_process_has_ended(tmp_path: Path) -> None:
    claim = claim_new(str(tmp_path))
    Path(claim.database).touch()
    other = os.dup(claim.lock.fileno())  # as the writer has it
    claim.lock.close()
    assert list(claim_inherited(str(tmp_path))) == []
    os.close(other)
    assert len(list(claim_inherited(str(tmp_path)))) == 1


def test_a_lock_without_a_database_is_removed(tmp_path: Path) -> None:
    claim_new(str(tmp_path)).lock.close()
    assert list(claim_inherited(str(tmp_path))) == []
    assert os.listdir(tmp_path) == []


def test_a_database_without_a_lock_is_claimed(tmp_path: Path) -> None:
    name = leave(tmp_path)
    (tmp_path / f"{name}.lock").unlink()
    (claim,) = claim_inherited(str(tmp_path))
    assert claim.name == name


def test_a_lock_that_was_removed_meanwhile_is_not_a_claim(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between opening the file and locking it, whoever had it may have removed it, and another made a new one."""
    name = leave(tmp_path)
    lock = tmp_path / f"{name}.lock"

    def replaced(fd: int, how: int) -> None:
        lock.unlink()
        lock.touch()

    monkeypatch.setattr(spool_directory.fcntl, "flock", replaced)
    assert list(claim_inherited(str(tmp_path))) == []


def test_other_files_are_not_spools(tmp_path: Path) -> None:
    for name in ("x.db", "1-abc.db", "00000001-0123456789ab.txt", "00000001-0123456789ab.db.damaged", "lock"):
        (tmp_path / name).touch()
    assert names(str(tmp_path)) == databases(str(tmp_path)) == []
    assert list(claim_inherited(str(tmp_path))) == []
    assert len(os.listdir(tmp_path)) == 5


def test_a_symbolic_link_in_the_place_of_a_lock_is_not_followed(tmp_path: Path) -> None:
    (target := tmp_path / "target").touch()
    (tmp_path / "00000001-0123456789ab.lock").symlink_to(target)
    assert list(claim_inherited(str(tmp_path))) == []
    assert target.exists()


def test_a_file_system_without_locks_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_locks(fd: int, how: int) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(spool_directory.fcntl, "flock", no_locks)
    with pytest.raises(OSError, match="can't lock a file in it: No locks available"):
        claim_new(str(tmp_path))


def test_removing_a_spool_removes_its_files_and_no_others(tmp_path: Path) -> None:
    claim = claim_new(str(tmp_path))
    other = leave(tmp_path)
    for end in ("", "-wal", "-shm", "-journal"):
        Path(claim.database + end).touch()
    claim.remove()
    assert names(str(tmp_path)) == [other]
    assert len(os.listdir(tmp_path)) == 2
    claim.remove()  # or is gone already


def test_putting_aside_a_missing_database_fails(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        claim_new(str(tmp_path)).put_aside()


def test_a_damaged_database_is_put_aside(tmp_path: Path) -> None:
    tmp_path = tmp_path / "x.db.d"
    tmp_path.mkdir()
    claim = claim_new(str(tmp_path))
    Path(claim.database).touch()
    Path(claim.database + "-wal").touch()
    assert claim.put_aside() == f"{claim.name}.db.damaged"
    assert sorted(os.listdir(tmp_path)) == [f"{claim.name}{end}" for end in (".db.damaged", ".db.damaged-wal", ".lock")]
    assert databases(str(tmp_path)) == []


def test_the_size_of_other_files_is_added_up_but_for_logs(tmp_path: Path) -> None:
    claim = claim_new(str(tmp_path))
    Path(claim.database).write_bytes(b"x" * 1000)
    (tmp_path / f"{leave(tmp_path)}.db").write_bytes(b"x" * 30)
    (tmp_path / "something.damaged").write_bytes(b"x" * 4)
    (tmp_path / "1-other.db-wal").write_bytes(b"x" * 500)
    assert isinstance(claim, Claim)
    assert bytes_of_others(claim) == 34
