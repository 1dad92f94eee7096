"""The directory of the spools: whose it is, which files are in it, and who has each of them.

A pusher's spool is a database of its own, NAME.db, beside NAME.lock. Who has locked the latter owns both: the host and
its writers share the lock; once they are gone, the next pusher with this directory takes it. The kernel lets a lock go
with the last process that holds it, however that ends. Names begin with a number that rises, so their order is that of
the pushers, and no clock is asked.
"""

import errno
import fcntl
import os
import re
import secrets
import stat
from contextlib import suppress
from typing import NamedTuple

from .descriptors import Descriptor, above_standard

DAMAGED = ".damaged"
"""What is put behind the name of a database that can't be read."""

_NAME = re.compile(r"(\d{8,}-[0-9a-f]{12})\.(?:lock|db)")
_ENDINGS = ("", "-wal", "-shm", "-journal")
_LOCK_FLAGS = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW


def check_directory(path: str) -> None:
    """Make the directory if it is missing, for this user only.

    Raises:
        OSError: It can't be made or used, is another user's, or is open to others.
    """
    try:
        os.makedirs(path, mode=0o700, exist_ok=True)
        status = os.stat(path)
    except OSError as error:
        reason = "something else has that name" if isinstance(error, FileExistsError) else error.strerror
        advice = f"{reason}; choose a directory that this user can write to"
        raise _refused(error.errno or errno.EIO, advice, path) from error
    if status.st_uid != os.geteuid():
        advice = f"it is user {status.st_uid}'s, and this is user {os.geteuid()}; choose a directory of its own"
        raise _refused(errno.EPERM, advice, path)
    if status.st_mode & 0o077:
        mode = stat.S_IMODE(status.st_mode)
        raise _refused(errno.EPERM, f"others may look into it, its mode is {mode:04o}; chmod 700 it", path)


def _refused(code: int, why: str, path: str) -> OSError:
    return OSError(code, f"can't use the spool directory: {why}", path)


class SpoolError(Exception):
    """The disk, or a database on it, does not do what it should.

    Args:
        text: What is wrong.
        damaged: Whether the file is torn or foreign, and will be so the next time; else the disk may be full, or can't
            be written to.
    """

    def __init__(self, text: str, damaged: bool = False) -> None:
        super().__init__(text)
        self.damaged = damaged


class Claim(NamedTuple):
    """A spool that is this process's, for as long as the lock is open here."""

    directory: str
    name: str
    lock: Descriptor

    @property
    def database(self) -> str:
        """The path of the database."""
        return os.path.join(self.directory, self.name + ".db")

    def remove(self) -> None:
        """Remove every file of the spool, and let go of it."""
        self.remove_database()
        with suppress(OSError):
            os.unlink(os.path.join(self.directory, self.name + ".lock"))
        self.lock.close()

    def remove_database(self) -> None:
        """Remove what is in it, which needs no room on the disk."""
        for ending in _ENDINGS:
            with suppress(OSError):
                os.unlink(self.database + ending)

    def put_aside(self) -> str:
        """Give a database that can't be read another name, under which nobody tries again.

        Returns:
            The name.

        Raises:
            OSError: It can't be done.
        """
        os.rename(self.database, self.database + DAMAGED)
        for ending in _ENDINGS[1:]:
            with suppress(FileNotFoundError):
                os.rename(self.database + ending, self.database + DAMAGED + ending)
        return os.path.basename(self.database) + DAMAGED


def claim_new(directory: str) -> Claim:
    """A spool behind all others. Nothing of it is on the disk but the lock.

    Raises:
        OSError: The lock can't be made, or the file system has none.
    """
    while True:
        number = 1 + max((int(name.partition("-")[0]) for name in names(directory)), default=0)
        if (claim := _claim(directory, f"{number:08}-{secrets.token_hex(6)}")) is not None:
            return claim


def claim_inherited(directory: str, most: int) -> list[Claim]:
    """The spools that earlier pushers have left, at most so many, oldest first; now they are this process's."""
    claims: list[Claim] = []
    for name in names(directory):
        if len(claims) == most:
            break
        with suppress(OSError):  # another has removed it, or the directory
            if (claim := _claim(directory, name)) is not None:
                if os.path.exists(claim.database):
                    claims.append(claim)
                else:
                    claim.remove()
    return claims


def _claim(directory: str, name: str) -> Claim | None:
    """None if another process has it."""
    path = os.path.join(directory, name + ".lock")
    try:
        with above_standard():
            lock = Descriptor(os.open(path, _LOCK_FLAGS, 0o600))
        fcntl.flock(lock.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return None
    except OSError as error:
        raise _refused(error.errno or errno.EIO, f"no file in it can be locked: {error.strerror}", directory) from error
    with suppress(FileNotFoundError):
        if os.path.samestat(os.stat(path), os.fstat(lock.fileno())):
            return Claim(directory, name, lock)
    return None  # it was removed meanwhile


def names(directory: str) -> list[str]:
    """The names of the spools, oldest first."""
    found = {match[1] for entry in os.listdir(directory) if (match := _NAME.fullmatch(entry)) is not None}
    return sorted(found, key=lambda name: (int(name.partition("-")[0]), name))


def databases(directory: str) -> list[str]:
    """The paths of the spools with something in them, oldest first, whoever has them."""
    paths = (os.path.join(directory, name + ".db") for name in names(directory))
    return [path for path in paths if os.path.exists(path)]


def is_in_use(database: str) -> bool:
    """Whether a process has the spool."""
    with suppress(FileNotFoundError), open(database.removesuffix(".db") + ".lock", "rb") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


def bytes_of_others(claim: Claim) -> int:
    """How much all other files in the directory take, in bytes."""
    size = 0
    with os.scandir(claim.directory) as entries:
        for entry in entries:
            if not entry.name.startswith(claim.name):
                with suppress(FileNotFoundError):
                    size += entry.stat(follow_symlinks=False).st_size
    return size
