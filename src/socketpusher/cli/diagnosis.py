"""What is wrong between a pusher and its consumer, check by check, each with a remedy. It changes and sends nothing.

Whether a consumer reads can't be seen without sending it something. Whether it accepts the connection can: Linux lists
in /proc/net/unix the connections that wait to be accepted, and /proc/PID/stat says whether the listener is stopped.
"""

import errno
import os
import re
import select
import socket
import stat
import sys
import tempfile
import time
from collections.abc import Collection, Iterator
from typing import Literal, NamedTuple

from ..channel.spool_directory import DAMAGED, check_directory, databases, is_in_use
from ..config import PusherConfig, default_socket_path
from ..events import Bus, Event
from ..listener.listener import listen
from ..pusher import SocketPusher
from ..unix_socket import SUN_PATH_MAX, credentials
from .output import plural, size_text

ACCEPT_TIMEOUT = 2.0
"""A healthy consumer accepts a connection within this time, in seconds; an idle one within milliseconds."""

REFUSAL_TIMEOUT = 0.5
"""A consumer that refuses this user hangs up within this time after it accepted the connection, in seconds."""

# A line of /proc/net/unix: the flags, the state and the name of a socket, as it was given to bind.
_ENTRY = re.compile(r"\S+: \S+ \S+ (\S+) \S+ (\S+) +\S+ (.+)")
_LISTENS, _WAITS = "00010000", "02"  # the flags of a listener, the state of a connection that is not accepted


class Check(NamedTuple):
    """What a check found, or why it was skipped, and what to do about it, if anything."""

    verdict: Literal["ok", "warn", "FAIL", "skip"]
    name: str
    reason: str
    remedy: str = ""


def examine(path: str | None, spool: str | None = None, allow_uids: Collection[int] = ()) -> Iterator[Check]:
    """Check everything from the path to the pusher, in order.

    Args:
        path: Where the consumer listens; None for the default.
        spool: The directory of a spool; None for none.
        allow_uids: The users, besides this one and root, whose consumers may have the events.
    """
    yield from _socket_checks(path, {os.geteuid(), 0, *allow_uids})
    if spool is not None:
        yield _spool(spool, default_socket_path() if path is None else path)
    yield _pusher()


def _socket_checks(given: str | None, uids: set[int]) -> Iterator[Check]:
    path = default_socket_path() if given is None else given
    yield (check := _path(path, given is None))
    steps = {"directory": _directory, "socket": _socket}
    for name, step in steps.items():
        check = step(path) if check.verdict not in ("FAIL", "skip") else Check("skip", name, "see above")
        yield check
    if check.verdict not in ("FAIL", "skip"):
        yield from _connection(path, uids)
    else:
        yield from (Check("skip", name, "see above") for name in ("listener", "user", "reading"))


def _path(path: str, default: bool) -> Check:
    if not path:
        return Check("FAIL", "path", "it is empty", f"leave it out for the default, {default_socket_path()}")
    if (size := len(os.fsencode(path))) > SUN_PATH_MAX:
        remedy = "choose a shorter path, or one relative to the working directory"
        return Check("FAIL", "path", f"{path} has {size} bytes; a Unix socket takes {SUN_PATH_MAX}", remedy)
    if not default:
        where = "" if os.path.isabs(path) else f", in {os.getcwd()}"
        return Check("ok", "path", f"{path}, as given{where}")
    runtime_dir = os.environ.get("XDG_RUNTIME_DIR", "")
    if os.path.isabs(runtime_dir):
        return Check("ok", "path", f"{path}, from XDG_RUNTIME_DIR")
    if runtime_dir:
        reason = f"{path}, in the home directory: XDG_RUNTIME_DIR is not an absolute path: {runtime_dir}"
        return Check("warn", "path", reason, "set it to an absolute path, for the consumer too, or give the path")
    return Check("ok", "path", f"{path}, in the home directory: XDG_RUNTIME_DIR is not set")


def _directory(path: str) -> Check:
    directory = os.path.dirname(path) or os.curdir

    def failed(reason: str, remedy: str) -> Check:
        return Check("FAIL", "directory", reason, remedy)

    def insecure(who: str, remedy: str) -> Check:
        return Check("warn", "directory", f"{found}: {who} can replace the socket", remedy)

    try:
        status = os.stat(directory)
    except FileNotFoundError:
        return failed(f"{directory} does not exist", f"start the consumer, or: mkdir -p -m 700 {directory}")
    except NotADirectoryError:
        return failed(f"a part of {directory} is not a directory", "choose another path")
    except OSError as error:
        return failed(
            f"{_me()} can't reach {directory}: {error.strerror}",
            "give this user search permission (x) for each directory in the path, or choose another path",
        )
    if not stat.S_ISDIR(status.st_mode):
        return failed(f"{directory} is {_kind(status.st_mode)}", "choose another path")
    found = f"{directory}, {_owner_and_mode(status)}"
    if not os.access(directory, os.X_OK, effective_ids=os.access in os.supports_effective_ids):
        return failed(f"{found}: {_me()} may not enter it", f"chmod +x {directory}, or run as its owner")
    if status.st_uid not in (os.geteuid(), 0):
        return insecure("its owner", "choose a directory of your own")
    if status.st_mode & 0o022 and not status.st_mode & stat.S_ISVTX:
        return insecure("anyone" if status.st_mode & 0o002 else f"group {status.st_gid}", f"chmod go-w {directory}")
    return Check("ok", "directory", found)


def _socket(path: str) -> Check:
    try:
        target = os.readlink(path) if os.path.islink(path) else None
        status = os.stat(path)
    except FileNotFoundError:
        start = f"start the consumer, for example: socketpusher listen {path}"
        if os.path.islink(path):
            dangling = f"it is a symbolic link to {os.readlink(path)}, which does not exist"
            return Check("FAIL", "socket", dangling, f"remove the link, and {start}")
        return Check("FAIL", "socket", f"{path} does not exist", start)
    except OSError as error:
        return Check("FAIL", "socket", f"it can't be examined: {error.strerror}", "choose another path")
    what = f"a symbolic link to {target}, " if target is not None else ""
    if not stat.S_ISSOCK(status.st_mode):
        found = f"{what}{_kind(status.st_mode)} is in its place"
        return Check("FAIL", "socket", found, "move it away, or choose another path")
    found = what + _owner_and_mode(status)
    if not os.access(path, os.W_OK, effective_ids=os.access in os.supports_effective_ids):
        remedy = "run the consumer and the pusher as the same user, or let the consumer open its socket to this one"
        return Check("FAIL", "socket", f"{found}: {_me()} may not write to it", remedy)
    if target is not None:
        return Check("warn", "socket", f"{found}: pushers follow it, socketpusher listen does not", f"use {target}")
    if status.st_uid not in (os.geteuid(), 0):
        return Check("warn", "socket", f"{found}: another user's", "see below whether a pusher sends to it")
    if status.st_mode & 0o002:
        return Check("warn", "socket", f"{found}: anyone may send to it", f"chmod go-w {path}, if that is not wanted")
    return Check("ok", "socket", found)


def _connection(path: str, uids: set[int]) -> Iterator[Check]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)
        try:
            probe.connect(path)
        except OSError as error:
            yield _not_connected(path, error)
            yield from (Check("skip", name, "see above") for name in ("user", "reading"))
            return
        pid, uid = credentials(probe)
        yield Check("ok", "listener", f"{_process(pid)} listens")
        yield _user(uid, uids)
        yield _hung_up(probe, pid, uid, 0) or _reading(probe, path, pid, uid)


def _not_connected(path: str, error: OSError) -> Check:
    reason, remedy = {
        errno.ECONNREFUSED: (
            "the socket is stale: no process listens on it any more",
            f"start the consumer again; socketpusher listen {path} replaces the file",
        ),
        errno.EAGAIN: (
            "the queue of connections is full: a process listens but does not accept them",
            f"continue or restart the consumer; to see its process: ss -xlp src {path}",
        ),
        errno.EPROTOTYPE: (
            "the socket is not a stream socket",
            "let the consumer listen on one (SOCK_STREAM)",
        ),
    }.get(error.errno or 0, (f"can't connect to it: {error.strerror}", "choose another path"))
    return Check("FAIL", "listener", reason, remedy)


def _user(uid: int | None, uids: set[int]) -> Check:
    if uid is None:
        return Check("skip", "user", "the system does not say who listens")
    if uid in uids:
        return Check("ok", "user", f"it runs as user {uid}, who may have the events of {_me()}")
    return Check(
        "FAIL",
        "user",
        f"it runs as user {uid}, and a pusher of {_me()} sends only to that user and root",
        f"run both as the same user, or allow user {uid}: PusherConfig(allow_uids=({uid},)), "
        f"or for a command --allow-uid {uid}",
    )


def _hung_up(probe: socket.socket, pid: int | None, uid: int | None, timeout: float) -> Check | None:
    """Whether the consumer closes the connection within this time, in seconds."""
    poll = select.poll()
    poll.register(probe, 0)
    if not poll.poll(timeout * 1000):
        return None
    if uid == os.geteuid():
        remedy = "nothing if the consumer serves one connection at a time; else see its own log"
        return Check("warn", "reading", f"{_process(pid)} hung up at once", remedy)
    return Check(
        "FAIL",
        "reading",
        f"{_process(pid)} of user {uid} hung up at once, so it seems to refuse {_me()}",
        f"run both as the same user, or let it allow this one: socketpusher listen --allow-uid {os.geteuid()}",
    )


def _reading(probe: socket.socket, path: str, pid: int | None, uid: int | None) -> Check:
    if sys.platform != "linux":
        return Check("skip", "reading", "the system does not say whether it reads unless something is sent")
    if _is_stopped(pid):
        return Check("FAIL", "reading", f"{_process(pid)} is stopped", f"continue it: kill -CONT {pid}")
    deadline = time.monotonic() + ACCEPT_TIMEOUT
    while True:
        states = _connections(path, pid)
        if states is None:
            return Check("skip", "reading", "the system does not list the listener, as in another container")
        if _WAITS not in states:
            # One that refuses this user has accepted the connection first.
            refused = _hung_up(probe, pid, uid, 0 if uid == os.geteuid() else REFUSAL_TIMEOUT)
            return refused or Check("ok", "reading", "it accepted the connection; nothing was sent")
        if time.monotonic() > deadline:
            break
        time.sleep(0.01)
    if len(states) > states.count(_WAITS):
        reason = f"it is connected, but accepted no further connection in {ACCEPT_TIMEOUT:g} s"
        return Check("warn", "reading", reason, "nothing if it serves one connection at a time; else restart it")
    reason = f"{_process(pid)} accepted no connection in {ACCEPT_TIMEOUT:g} s"
    return Check("FAIL", "reading", reason, "restart the consumer; it hangs, or does not call accept")


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
    """What is waiting in a spool. Only what no process is using can be counted."""
    if not os.path.isdir(directory):
        remedy = "nothing: the first pusher that uses it makes it"
        return Check("warn", "spool", f"the directory {directory} does not exist", remedy)
    try:
        check_directory(directory)
        found, damaged = databases(directory), [name for name in os.listdir(directory) if DAMAGED in name]
        used = sum(map(is_in_use, found))
        size = sum(map(os.path.getsize, found))
    except OSError as error:
        return Check("FAIL", "spool", f"{error.strerror}: {directory}", "choose another directory, or change this one")
    if damaged:
        names = ", ".join(sorted(damaged))
        remedy = "sqlite3 FILE .recover may recover events; then remove the file"
        return Check("warn", "spool", f"damaged files were put aside in {directory}: {names}", remedy)
    if not found:
        return Check("ok", "spool", f"nothing is waiting in {directory}")
    what = f"{directory} has events of {plural(len(found), 'pusher')}: {size_text(size)}, {used} in use"
    if used == len(found):
        return Check("ok", "spool", what)
    return Check("warn", "spool", what, f"start a pusher that uses it, or: socketpusher drain {directory} {path}")


def _pusher() -> Check:
    """Whether a pusher can start, and deliver to a listener of our own: the user's consumer is left alone."""
    remedy = (
        "let this user start processes (ulimit -u), open files (ulimit -n), and write to /dev/shm and to a TMPDIR with "
        "a short name; a container may need --tmpfs /dev/shm"
    )
    try:
        with tempfile.TemporaryDirectory(prefix="sp") as directory:
            path = os.path.join(directory, "s")
            bus = Bus()
            with listen(path) as events, SocketPusher(bus, PusherConfig(path)) as pusher:
                bus.emit(Event("doctor"))
                if not pusher.flush() or not select.select([events], [], [], 5.0)[0]:
                    return Check("FAIL", "pusher", "it starts, but its event does not arrive", remedy)
    except (OSError, RuntimeError, ImportError) as error:
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
