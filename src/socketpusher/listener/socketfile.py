"""The file of a listening socket: who may use it, who owns it, and when it is removed.

Two things are not obvious. Other users may not be able to connect at any moment, so the mode of the file is set before
the file exists (`_bind`). And two listeners that start at the same time must not take each other's socket for a stale
one, so a listener locks the directory while it looks at the path and binds it (`_locked`).
"""

import errno
import fcntl
import os
import socket
import stat
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

from ..config import default_socket_path
from ..unix_socket import SUN_PATH_MAX

LOCK_TIMEOUT = 5.0
"""How long another process may lock the directory, in seconds. Our own listeners need a millisecond."""

_ADVICE = {
    errno.EADDRINUSE: "end the process that listens there, or choose another path",
    errno.ENOTSOCK: "choose another path",
    errno.EACCES: "choose a path in a directory that this user may write to",
    errno.EROFS: "choose a path on a file system that can be written to",
    errno.ENOENT: "create the directory, or choose another path",
    errno.EEXIST: "a part of the path is not a directory; choose another path",
    errno.ENOTDIR: "a part of the path is not a directory; choose another path",
    errno.ENAMETOOLONG: "choose a shorter path, or one relative to the working directory",
    errno.ETIMEDOUT: "end that process (lslocks shows it), or choose a path in a directory of your own",
}


class SocketFile:
    """A listening socket and its file.

    Args:
        path: Where to listen. A missing directory is created; a socket file that nobody listens on is replaced.
        shared: Whether other users may connect, as far as the directory lets them.

    Raises:
        OSError: See `listen`.
        ValueError: The path is empty or contains a NUL.
    """

    def __init__(self, path: str, shared: bool) -> None:
        if not path or "\0" in path:
            raise ValueError(f"can't listen at {path!r}, which names no file; leave it out for {default_socket_path()}")
        self._pid = os.getpid()
        self._removed = False
        self._path = os.path.abspath(path)  # `remove` may be called in another working directory
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            self.socket.setblocking(False)
            size = len(os.fsencode(path))
            if size > SUN_PATH_MAX:
                raise OSError(errno.ENAMETOOLONG, f"the path has {size} bytes, a Unix socket takes {SUN_PATH_MAX}")
            directory = os.path.dirname(path) or os.curdir
            os.makedirs(directory, 0o711 if shared else 0o700, exist_ok=True)
            with _locked(directory):
                _remove_stale(path)
                _bind(self.socket, path)
                if shared:
                    os.chmod(path, 0o666)
                self.socket.listen(socket.SOMAXCONN)
                self._status = os.lstat(path)
        except BaseException as error:
            self.socket.close()
            if isinstance(error, OSError):
                raise _with_advice(error, path) from None
            raise

    def remove(self) -> None:
        """Remove the file, unless another one has taken its place. In a forked child this does nothing.

        Nor does it when called again: then another file may have the same inode number.
        """
        if os.getpid() == self._pid and not self._removed:
            _remove(self._path, self._status)
            self._removed = True

    def wake(self) -> None:
        """Accept no sender any more; a thread that waits for the socket wakes up. In a forked child, do nothing."""
        try:
            if os.getpid() == self._pid:
                self.socket.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass  # it is closed


@contextmanager
def _locked(directory: str) -> Iterator[None]:
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        deadline = time.monotonic() + LOCK_TIMEOUT
        while True:
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline:
                    reason = f"another process has locked the directory {directory} (flock) for {LOCK_TIMEOUT:g} s"
                    raise OSError(errno.ETIMEDOUT, reason) from None
            time.sleep(0.01)
        yield
    finally:
        os.close(fd)


def _remove_stale(path: str) -> None:
    """Remove a stale socket file at `path`. Raises `OSError` if the path is in use."""
    try:
        found = os.lstat(path)
    except FileNotFoundError:
        return
    if stat.S_ISDIR(found.st_mode):
        raise OSError(errno.ENOTSOCK, "it is a directory, not a socket")
    if not stat.S_ISSOCK(found.st_mode):
        raise OSError(errno.ENOTSOCK, "something that is not a socket has this name")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)
        try:
            probe.connect(path)
        except ConnectionRefusedError:
            _remove(path, found)
            return
        except FileNotFoundError:
            return  # its listener has just closed
        except PermissionError:
            raise
        except OSError:
            pass  # its queue is full, or it is not a stream socket: somebody listens
    raise OSError(errno.EADDRINUSE, "somebody listens there already")


def _bind(listening: socket.socket, path: str) -> None:
    """Bind the socket; its file has mode 0600 from the first moment."""
    if sys.platform == "linux":
        # bind gives the file the mode of the socket's own inode (unix_bind in net/unix/af_unix.c).
        os.fchmod(listening.fileno(), 0o600)
        listening.bind(path)
        return
    # The whole process has one umask: files that other threads create at this moment get fewer permissions, too.
    umask = os.umask(0o177)
    try:
        listening.bind(path)
    finally:
        os.umask(umask)


def _remove(path: str, status: os.stat_result) -> None:
    try:
        if os.path.samestat(os.lstat(path), status):
            os.unlink(path)
    except FileNotFoundError:
        pass  # somebody has removed it already


def _with_advice(error: OSError, path: str) -> OSError:
    """Return the same error with what was tried, on what, why it failed and what to do."""
    code = error.errno or errno.EIO
    advice = f"; {_ADVICE[code]}" if code in _ADVICE else ""
    return OSError(code, f"can't listen: {error.strerror}{advice}", path)
