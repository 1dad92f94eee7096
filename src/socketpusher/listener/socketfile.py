"""The file of a listening socket: who may use it, whose it is, and when it may go.

Two things are not obvious. The file must at no moment be open to other users than it is meant for, so its mode is set
before it exists (`_bind`). And two listeners that start at once may not take each other's socket for a stale one, so
whoever looks at a path and binds it holds a lock on the directory meanwhile (`_locked`).
"""

import errno
import fcntl
import os
import socket
import stat
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from ..config import default_socket_path
from ..unix_socket import SUN_PATH_MAX

_ADVICE = {
    errno.EADDRINUSE: "end the process that listens there, or choose another path",
    errno.ENOTSOCK: "choose another path",
    errno.EACCES: "choose a path in a directory that this user may write to",
    errno.EROFS: "choose a path on a file system that can be written to",
    errno.ENOENT: "create the directory, or choose another path",
    errno.EEXIST: "a part of the path is not a directory; choose another path",
    errno.ENOTDIR: "a part of the path is not a directory; choose another path",
    errno.ENAMETOOLONG: "choose a shorter path, or one relative to the working directory",
}


class SocketFile:
    """A socket that listens, and its file.

    Args:
        path: Where; a missing directory is created, a socket file that nobody listens on is replaced.
        shared: Whether other users may connect, as far as the directory lets them.

    Raises:
        OSError: See `listen`.
        ValueError: The path is empty or holds a NUL.
    """

    def __init__(self, path: str, shared: bool) -> None:
        if not path or "\0" in path:
            raise ValueError(f"can't listen at {path!r}, which names no file; leave it out for {default_socket_path()}")
        self._path = os.path.abspath(path)  # what `remove` removes, also from another working directory
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            self.socket.setblocking(False)
            size = len(os.fsencode(path))
            if size > SUN_PATH_MAX:
                raise OSError(errno.ENAMETOOLONG, f"the path has {size} bytes, a Unix socket takes {SUN_PATH_MAX}")
            directory = os.path.dirname(path) or os.curdir
            if not os.path.isdir(directory):
                os.makedirs(directory, 0o711 if shared else 0o700, exist_ok=True)
            with _locked(directory):
                _remove_stale(path)
                _bind(self.socket, path)
                if shared:
                    os.chmod(path, 0o666)
                self.socket.listen(socket.SOMAXCONN)
                self._identity = _identity(os.lstat(path))
        except OSError as error:
            self.socket.close()
            raise _with_advice(error, path) from None
        except BaseException:
            self.socket.close()
            raise

    def remove(self) -> None:
        """Remove the file, unless somebody has put another one in its place."""
        _remove(self._path, self._identity)


@contextmanager
def _locked(directory: str) -> Iterator[None]:
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        yield
    finally:
        os.close(fd)


def _remove_stale(path: str) -> None:
    """Make room at `path`, or raise the `OSError` that says why there can be none."""
    try:
        found = os.lstat(path)
    except FileNotFoundError:
        return
    if stat.S_ISDIR(found.st_mode):
        raise OSError(errno.ENOTSOCK, "it is a directory, not a socket")
    if not stat.S_ISSOCK(found.st_mode):
        raise OSError(errno.ENOTSOCK, "there is something that is not a socket")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)
        try:
            probe.connect(path)
        except ConnectionRefusedError:
            _remove(path, _identity(found))
            return
        except FileNotFoundError:
            return  # its listener has just closed
        except PermissionError:
            raise
        except OSError:
            pass  # its queue is full, or it is of another type: somebody listens
    raise OSError(errno.EADDRINUSE, "somebody listens there already")


def _bind(listening: socket.socket, path: str) -> None:
    """Bind with a file that has mode 0600 from its first moment on."""
    if sys.platform == "linux":
        # bind gives the file the mode of the socket's own inode (unix_bind in net/unix/af_unix.c).
        os.fchmod(listening.fileno(), 0o600)
        listening.bind(path)
        return
    # The umask is the whole process's: what another thread creates at this moment is narrower than it expects.
    umask = os.umask(0o177)
    try:
        listening.bind(path)
    finally:
        os.umask(umask)


def _identity(status: os.stat_result) -> tuple[int, int]:
    return status.st_dev, status.st_ino


def _remove(path: str, identity: tuple[int, int]) -> None:
    try:
        if _identity(os.lstat(path)) == identity:
            os.unlink(path)
    except FileNotFoundError:
        pass  # somebody has removed it already


def _with_advice(error: OSError, path: str) -> OSError:
    """The same error, saying what was tried, on what, why it failed and what to do."""
    code = error.errno or errno.EIO
    advice = _ADVICE.get(code)
    return OSError(code, f"can't listen: {error.strerror}" + (f"; {advice}" if advice else ""), path)
