"""The directory of a spool: its permissions, its files, and the locks that say which process owns a database.

Each pusher has its own database in it, NAME.db, beside NAME.lock. The process that holds the lock owns both. A host
and its writers share the lock; after they have ended, the next pusher with this directory takes it. The kernel releases
a lock when the last process that holds it ends. Names begin with a rising number, so they sort in the order of the
pushers without a clock.
"""

import errno
import fcntl
import os
import re
import secrets
import stat
from collections.abc import Iterator
from contextlib import suppress
from typing import NamedTuple

from .descriptors import Descriptor, above_standard

DAMAGED = ".damaged"
"""The suffix that a database gets if it can't be read."""

_NAME = re.compile(r"(\d{8,}-[0-9a-f]{12})\.(?:lock|db)")
_ENDINGS = ("", "-wal", "-shm", "-journal")
_LOCK_FLAGS = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW


def check_directory(path: str) -> None:
    """Check the directory, and create it if it is missing, for this user only.

    Raises:
        OSError: It can't be created or used, belongs to another user, or is accessible to others.
    """
    try:
        os.makedirs(path, mode=0o700, exist_ok=True)
        status = os.stat(path)
    except OSError as error:
        reason = "it is not a directory" if isinstance(error, FileExistsError) else error.strerror
        advice = f"{reason}; choose a directory that this user can write to"
        raise _refused(error.errno or errno.EIO, advice, path) from error
    if status.st_uid != os.geteuid():
        advice = f"it belongs to user {status.st_uid}, not to this user, {os.geteuid()}; choose another directory"
        raise _refused(errno.EPERM, advice, path)
    if status.st_mode & 0o077:
        mode = stat.S_IMODE(status.st_mode)
        raise _refused(errno.EPERM, f"other users can access it, its mode is {mode:04o}; run chmod 700 on it", path)


def _refused(code: int, why: str, path: str) -> OSError:
    return OSError(code, f"can't use the spool directory: {why}", path)


class SpoolError(Exception):
    """A spool can't be read or written.

    Args:
        text: What is wrong.
        damaged: Whether the file is torn or foreign, so that a retry can't help. Otherwise the disk may be full or not
            writable.
    """

    def __init__(self, text: str, damaged: bool = False) -> None:
        super().__init__(text)
        self.damaged = damaged


class Claim(NamedTuple):
    """A spool that this process owns, as long as the lock is open here."""

    directory: str
    name: str
    lock: Descriptor

    @property
    def database(self) -> str:
        """The path of the database."""
        return os.path.join(self.directory, self.name + ".db")

    def remove(self) -> None:
        """Remove every file of the spool, and release the lock."""
        self.remove_database()
        with suppress(OSError):
            os.unlink(os.path.join(self.directory, self.name + ".lock"))
        self.lock.close()

    def remove_database(self) -> None:
        """Remove the database, which needs no room on the disk."""
        for ending in _ENDINGS:
            with suppress(OSError):
                os.unlink(self.database + ending)

    def put_aside(self) -> str:
        """Rename a database that can't be read, so that no pusher tries it again.

        Returns:
            The new name.

        Raises:
            OSError: It can't be renamed.
        """
        os.rename(self.database, self.database + DAMAGED)
        for ending in _ENDINGS[1:]:
            with suppress(FileNotFoundError):
                os.rename(self.database + ending, self.database + DAMAGED + ending)
        return os.path.basename(self.database) + DAMAGED


def claim_new(directory: str) -> Claim:
    """Claim a new spool, with a name after all others. Only its lock is on the disk yet.

    Raises:
        OSError: The lock can't be created, or the file system has no locks.
    """
    while True:
        number = 1 + max((int(name.partition("-")[0]) for name in names(directory)), default=0)
        if (claim := _claim(directory, f"{number:08}-{secrets.token_hex(6)}")) is not None:
            return claim


def claim_inherited(directory: str) -> Iterator[Claim]:
    """Claim the spools that earlier pushers have left, one by one, oldest first."""
    for name in names(directory):
        try:
            if (claim := _claim(directory, name)) is None:
                continue
        except OSError:  # another process has removed it, or the directory
            continue
        if os.path.exists(claim.database):
            yield claim
        else:
            claim.remove()


def _claim(directory: str, name: str) -> Claim | None:
    """Claim a spool. Returns None if another process owns it."""
    path = os.path.join(directory, name + ".lock")
    try:
        with above_standard():
            lock = Descriptor(os.open(path, _LOCK_FLAGS, 0o600))
        fcntl.flock(lock.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return None
    except OSError as error:
        raise _refused(error.errno or errno.EIO, f"can't lock a file in it: {error.strerror}", directory) from error
    with suppress(FileNotFoundError):
        if os.path.samestat(os.stat(path), os.fstat(lock.fileno())):
            return Claim(directory, name, lock)
    return None  # the lock was removed meanwhile


def names(directory: str) -> list[str]:
    """The names of the spools, oldest first."""
    found = {match[1] for entry in os.listdir(directory) if (match := _NAME.fullmatch(entry)) is not None}
    return sorted(found, key=lambda name: (int(name.partition("-")[0]), name))


def databases(directory: str) -> list[str]:
    """The paths of all databases, oldest first, whether a process owns them or not."""
    paths = (os.path.join(directory, name + ".db") for name in names(directory))
    return [path for path in paths if os.path.exists(path)]


def is_in_use(database: str) -> bool:
    """Whether a process owns the spool."""
    with suppress(FileNotFoundError), open(database.removesuffix(".db") + ".lock", "rb") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


def bytes_of_others(claim: Claim) -> int:
    """The size of all other files in the directory, in bytes, without the logs of databases."""
    size = 0
    with os.scandir(claim.directory) as entries:
        for entry in entries:
            if not entry.name.startswith(claim.name) and not entry.name.endswith("-wal"):
                with suppress(FileNotFoundError):
                    size += entry.stat(follow_symlinks=False).st_size
    return size
