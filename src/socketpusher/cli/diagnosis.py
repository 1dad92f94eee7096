"""What is wrong between a pusher and its consumer, check by check, each with a remedy. It changes and sends nothing.

Whether a consumer reads can't be seen without sending it something. Whether it takes the connection can: Linux lists in
/proc/net/unix the connections that wait at a socket to be accepted. And of the process that listens, /proc tells
whether it is stopped.
"""

import errno
import multiprocessing
import os
import re
import select
import socket
import stat
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from ..channel.spool_directory import DAMAGED, check_directory, databases, is_in_use
from ..config import PusherConfig, default_socket_path
from ..events import Bus, Event
from ..listener.listener import listen
from ..pusher import SocketPusher
from ..unix_socket import SUN_PATH_MAX, credentials

ACCEPTED_WITHIN = 2.0
"""A consumer that is well takes a connection in so many seconds, and in a few milliseconds if it has nothing to do."""

# A line of /proc/net/unix: the flags, the state and the name of a socket, as it was given to bind.
_ENTRY = re.compile(r"\S+: \S+ \S+ (\S+) \S+ (\S+) +\S+ (.+)")
_LISTENS, _WAITS = "00010000", "02"  # the flags of a listener, the state of a connection that is not accepted


@dataclass(frozen=True, slots=True)
class Check:
    """What a check found.

    Args:
        verdict: "skip" if an earlier check failed that this one needs, or the system does not tell.
        name: What was looked at.
        reason: What was found, or why nothing could be.
        remedy: What to do; "" if nothing needs to be done.
    """

    verdict: Literal["ok", "warn", "FAIL", "skip"]
    name: str
    reason: str
    remedy: str = ""


def examine(path: str | None, spool: str | None = None) -> Iterator[Check]:
    """Check everything from the path to the pusher, in order.

    Args:
        path: Where the consumer listens; None for the default.
        spool: The directory of a spool; None for none.
    """
    yield from _socket_checks(path)
    if spool is not None:
        yield _spool(spool, default_socket_path() if path is None else path)
    memory = _shared_memory()
    yield memory
    if memory.verdict == "ok":
        yield _pusher()
    else:
        yield Check("skip", "pusher", "without shared memory none can start")


def _socket_checks(given: str | None) -> Iterator[Check]:
    path = default_socket_path() if given is None else given
    passed = True
    for check in (_path(path, given is None), _length(path), _directory(path), _socket(path)):
        if check.name in ("length", "directory", "socket") and not passed:
            check = Check("skip", check.name, "see above")
        passed = passed and check.verdict != "FAIL"
        yield check
    if passed:
        yield from _connection(path)
    else:
        for name in ("listener", "user", "reading"):
            yield Check("skip", name, "see above")


def _path(path: str, default: bool) -> Check:
    if not path:
        return Check("FAIL", "path", "it is empty", f"leave it out for the default, {default_socket_path()}")
    if not default:
        where = "" if os.path.isabs(path) else f", in {os.getcwd()}"
        return Check("ok", "path", f"{path}, as given{where}")
    runtime_dir = os.environ.get("XDG_RUNTIME_DIR", "")
    if os.path.isabs(runtime_dir):
        return Check("ok", "path", f"{path}, by XDG_RUNTIME_DIR")
    if runtime_dir:
        return Check(
            "warn",
            "path",
            f"{path}, by the home directory, for XDG_RUNTIME_DIR is not an absolute path: {runtime_dir}",
            "set it to an absolute path, for the consumer too, or give the path",
        )
    return Check("ok", "path", f"{path}, by the home directory, for XDG_RUNTIME_DIR is not set")


def _length(path: str) -> Check:
    size = len(os.fsencode(path))
    found = f"{size} of the {SUN_PATH_MAX} bytes that a Unix socket takes"
    if size > SUN_PATH_MAX:
        return Check("FAIL", "length", found, "choose a shorter path, or one relative to the working directory")
    return Check("ok", "length", found)


def _directory(path: str) -> Check:
    directory = os.path.dirname(path) or os.curdir
    try:
        status = os.stat(directory)
    except FileNotFoundError:
        return Check(
            "FAIL", "directory", f"{directory} does not exist", f"start the consumer, or: mkdir -p -m 700 {directory}"
        )
    except NotADirectoryError:
        return Check("FAIL", "directory", f"a part of {directory} is not a directory", "choose another path")
    except OSError as error:
        return Check(
            "FAIL",
            "directory",
            f"{directory} can't be reached by {_me()}: {error.strerror}",
            "give this user search permission (x) for every directory on the way, or choose another path",
        )
    if not stat.S_ISDIR(status.st_mode):
        return Check("FAIL", "directory", f"{directory} is {_kind(status.st_mode)}", "choose another path")
    found = f"{directory}, {_owner_and_mode(status)}"
    if not os.access(directory, os.X_OK, effective_ids=os.access in os.supports_effective_ids):
        return Check(
            "FAIL", "directory", f"{found}: {_me()} may not enter it", f"chmod +x {directory}, or run as its owner"
        )
    if status.st_uid not in (os.geteuid(), 0):
        return Check(
            "warn", "directory", f"{found}: its owner can put another socket in its place", "choose one of your own"
        )
    if status.st_mode & 0o022 and not status.st_mode & stat.S_ISVTX:
        who = "anybody" if status.st_mode & 0o002 else f"group {status.st_gid}"
        return Check(
            "warn", "directory", f"{found}: {who} can put another socket in its place", f"chmod go-w {directory}"
        )
    return Check("ok", "directory", found)


def _socket(path: str) -> Check:
    try:
        status = os.lstat(path)
        target = os.readlink(path) if stat.S_ISLNK(status.st_mode) else None
        status = os.stat(path)
    except FileNotFoundError:
        start = f"start the consumer, for example: socketpusher listen {path}"
        if os.path.islink(path):
            dangling = f"it is a symbolic link to {os.readlink(path)}, where there is nothing"
            return Check("FAIL", "socket", dangling, f"remove the link, and {start}")
        return Check("FAIL", "socket", f"there is nothing at {path}", start)
    except OSError as error:
        return Check("FAIL", "socket", f"it can't be looked at: {error.strerror}", "choose another path")
    what = f"a symbolic link to {target}, " if target is not None else ""
    if not stat.S_ISSOCK(status.st_mode):
        return Check(
            "FAIL", "socket", f"{what}{_kind(status.st_mode)} is in its place", "move it away, or choose another path"
        )
    found = what + _owner_and_mode(status)
    if not os.access(path, os.W_OK, effective_ids=os.access in os.supports_effective_ids):
        return Check(
            "FAIL",
            "socket",
            f"{found}: {_me()} may not write to it",
            "run the consumer and the pusher as the same user, or let the consumer open its socket to this one",
        )
    if target is not None:
        return Check("warn", "socket", f"{found}: pushers follow it, socketpusher listen does not", f"use {target}")
    if status.st_uid not in (os.geteuid(), 0):
        return Check("warn", "socket", f"{found}: it is another user's", "see below whether a pusher sends to it")
    if status.st_mode & 0o002:
        return Check("warn", "socket", f"{found}: anybody may send to it", f"chmod go-w {path}, if that is not wanted")
    return Check("ok", "socket", found)


def _connection(path: str) -> Iterator[Check]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)
        try:
            probe.connect(path)
        except OSError as error:
            yield _not_connected(path, error)
            for name in ("user", "reading"):
                yield Check("skip", name, "see above")
            return
        pid, uid = credentials(probe)
        yield Check("ok", "listener", f"{_process(pid)} listens")
        yield _user(uid)
        yield _reading(path, pid)


def _not_connected(path: str, error: OSError) -> Check:
    reason, remedy = {
        errno.ECONNREFUSED: (
            "the socket is stale: nobody listens on it any more",
            f"start the consumer again; socketpusher listen {path} replaces the file",
        ),
        errno.EAGAIN: (
            "the queue of connections is full: somebody listens, but takes none",
            f"continue or restart the consumer; which process it is tells: ss -xlp src {path}",
        ),
        errno.EPROTOTYPE: (
            "the socket is not a stream socket",
            "let the consumer listen on one (SOCK_STREAM)",
        ),
    }.get(error.errno or 0, (f"it can't be connected: {error.strerror}", "choose another path"))
    return Check("FAIL", "listener", reason, remedy)


def _user(uid: int | None) -> Check:
    if uid is None:
        return Check("skip", "user", "the system does not tell who listens")
    if uid in (os.geteuid(), 0):
        return Check("ok", "user", f"it runs as user {uid}, who may have the events of {_me()}")
    return Check(
        "FAIL",
        "user",
        f"it runs as user {uid}, and a pusher of {_me()} sends only to that user and root",
        f"run both as the same user, or set PusherConfig(allow_uids=({uid},))",
    )


def _reading(path: str, pid: int | None) -> Check:
    if sys.platform != "linux":
        return Check("skip", "reading", "the system does not tell without sending something")
    if _is_stopped(pid):
        return Check("FAIL", "reading", f"{_process(pid)} is stopped", f"continue it: kill -CONT {pid}")
    deadline = time.monotonic() + ACCEPTED_WITHIN
    while True:
        states = _connections(path, pid)
        if states is None:
            return Check("skip", "reading", "the system does not list the listener, as in another container")
        if _WAITS not in states:
            return Check("ok", "reading", "it took the connection; nothing was sent")
        if time.monotonic() > deadline:
            break
        time.sleep(0.01)
    if len(states) > states.count(_WAITS):
        return Check(
            "warn",
            "reading",
            f"it is connected, but took no further connection in {ACCEPTED_WITHIN:g} s",
            "nothing, if the consumer serves one connection at a time; else restart it",
        )
    return Check(
        "FAIL",
        "reading",
        f"{_process(pid)} took no connection in {ACCEPTED_WITHIN:g} s",
        "restart the consumer; it hangs, or does not call accept",
    )


def _connections(path: str, pid: int | None) -> list[str] | None:
    """The states of the connections at a socket, or None if its listener is not known to the system."""
    with open("/proc/net/unix", encoding="utf-8", errors="surrogateescape") as file:
        entries = [match.groups() for match in map(_ENTRY.match, file) if match is not None]
    here = [(flags, state) for flags, state, name in entries if _is_same(path, name, pid)]
    if not any(flags == _LISTENS for flags, _ in here):
        return None
    return [state for flags, state in here if flags != _LISTENS]


def _is_same(path: str, name: str, pid: int | None) -> bool:
    """Whether a listener with this process id, if known, means the path when it says `name`."""
    if name == path:
        return True
    if os.path.basename(name) != os.path.basename(os.path.realpath(path)):
        return False
    try:
        directory = "/" if os.path.isabs(name) else os.readlink(f"/proc/{pid}/cwd")
        return os.path.samefile(os.path.join(directory, name), path)
    except OSError:
        return False


def _is_stopped(pid: int | None) -> bool:
    try:
        with open(f"/proc/{pid}/stat", encoding="utf-8", errors="replace") as file:
            return file.read().rpartition(")")[2].split()[0] in "tT"
    except OSError:
        return False


def _spool(directory: str, path: str) -> Check:
    """What waits in a spool. Only what no process has can be counted."""
    if not os.path.isdir(directory):
        return Check(
            "warn", "spool", f"there is no directory {directory}", "nothing: the first pusher with it makes it"
        )
    try:
        check_directory(directory)
        found, damaged = databases(directory), [name for name in os.listdir(directory) if DAMAGED in name]
        used = [database for database in found if is_in_use(database)]
        size = sum(os.path.getsize(database) for database in found)
    except OSError as error:
        return Check("FAIL", "spool", f"{error.strerror}: {directory}", "choose another directory, or change this one")
    if damaged:
        names = ", ".join(sorted(damaged))
        remedy = "sqlite3 FILE .recover may get events back; remove it then"
        return Check("warn", "spool", f"in {directory} these were damaged and put aside: {names}", remedy)
    if not found:
        return Check("ok", "spool", f"nothing waits in {directory}")
    free = len(found) - len(used)
    left = "what 1 pusher has left waits" if len(found) == 1 else f"what {len(found)} pushers have left waits"
    what = f"{left} in {directory}: {size:,} bytes, {len(used)} in use"
    if not free:
        return Check("ok", "spool", what)
    return Check("warn", "spool", what, f"start a pusher with it, or: socketpusher drain {directory} {path}")


def _shared_memory() -> Check:
    try:
        multiprocessing.get_context("fork").Lock()  # whose file, with this context, is gone again at once
    except (OSError, ImportError) as error:
        return Check(
            "FAIL",
            "shared memory",
            f"multiprocessing can't make a semaphore: {error}",
            "let this user write to /dev/shm, where a container may need --tmpfs /dev/shm",
        )
    return Check("ok", "shared memory", "multiprocessing can make semaphores")


def _pusher() -> Check:
    """Whether a pusher can start, and deliver to a listener of our own: the user's consumer is left alone."""
    remedy = "let this user start processes (ulimit -u), open files (ulimit -n) and write to a TMPDIR with a short name"
    try:
        with tempfile.TemporaryDirectory(prefix="sp") as directory:
            path = os.path.join(directory, "s")
            bus = Bus()
            with listen(path) as events, SocketPusher(bus, PusherConfig(path)) as pusher:
                bus.emit(Event("doctor"))
                if not pusher.flush() or not select.select([events], [], [], 5.0)[0]:
                    return Check("FAIL", "pusher", "it starts, but its event does not arrive", remedy)
    except (OSError, RuntimeError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        return Check("FAIL", "pusher", f"it can't start: {reason}", remedy)
    return Check("ok", "pusher", "it starts, and delivers to a listener of its own")


def _me() -> str:
    return f"user {os.geteuid()}"


def _owner_and_mode(status: os.stat_result) -> str:
    return f"of user {status.st_uid}, mode {stat.S_IMODE(status.st_mode):04o}"


def _process(pid: int | None) -> str:
    try:
        with open(f"/proc/{pid}/comm", encoding="utf-8", errors="replace") as file:
            return f"process {pid} ({file.read().strip()})"
    except OSError:
        return "a process" if pid is None else f"process {pid}"


def _kind(mode: int) -> str:
    kinds = ((stat.S_ISREG, "a regular file"), (stat.S_ISDIR, "a directory"), (stat.S_ISFIFO, "a pipe"))
    return next((name for is_kind, name in kinds if is_kind(mode)), "a device")
