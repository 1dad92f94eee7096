"""What is wrong between a pusher and its consumer, check by check, each with a remedy. The consumer is sent nothing.

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
from collections.abc import Callable, Collection, Iterator
from typing import Literal, NamedTuple

from ..channel.spool_directory import DAMAGED, check_directory, databases, is_in_use
from ..config import PusherConfig, default_socket_path
from ..events import Bus, Event
from ..listener.listener import listen
from ..pusher import SocketPusher
from ..terminal.text import plural
from ..unix_socket import SUN_PATH_MAX, credentials
from .output import size_text

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
    reason: str
    remedy: str = ""


def examine(
    given: str | None, spool: str | None = None, allow_uids: Collection[int] = ()
) -> Iterator[tuple[str, Check]]:
    """Check everything from the path to the pusher, in order. Yields the name of each check, and the check.

    Args:
        given: Where the consumer listens; None for the default.
        spool: The directory of a spool; None for none.
        allow_uids: The users, besides this one and root, whose consumers may have the events.
    """
    path = default_socket_path() if given is None else given
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        steps: dict[str, Callable[[], Check]] = {
            "path": lambda: _path(path, given is None),
            "directory": lambda: _directory(path),
            "socket": lambda: _socket(path),
            "listener": lambda: _listener(path, probe),
            "user": lambda: _user(probe, {os.geteuid(), 0, *allow_uids}),
            "reading": lambda: _reading(path, probe),
        }
        failed = False
        for name, step in steps.items():
            check = Check("skip", "see above") if failed else step()
            failed = failed or (check.verdict == "FAIL" and name != "user")
            yield name, check
    if spool is not None:
        yield "spool", _spool(spool, path)
    yield "pusher", _pusher()


def _path(path: str, default: bool) -> Check:
    if not path:
        return Check("FAIL", "it is empty", f"leave it out for the default, {default_socket_path()}")
    if (size := len(os.fsencode(path))) > SUN_PATH_MAX:
        remedy = "choose a shorter path, or one relative to the working directory"
        return Check("FAIL", f"{path} has {size} bytes; a Unix socket takes {SUN_PATH_MAX}", remedy)
    if not default:
        where = "" if os.path.isabs(path) else f", in {os.getcwd()}"
        return Check("ok", f"{path}, as given{where}")
    runtime_dir = os.environ.get("XDG_RUNTIME_DIR", "")
    if os.path.isabs(runtime_dir):
        return Check("ok", f"{path}, from XDG_RUNTIME_DIR")
    if runtime_dir:
        reason = f"{path}, in the home directory: XDG_RUNTIME_DIR is not an absolute path: {runtime_dir}"
        return Check("warn", reason, "set it to an absolute path, for the consumer too, or give the path")
    return Check("ok", f"{path}, in the home directory: XDG_RUNTIME_DIR is not set")


def _directory(path: str) -> Check:
    directory = os.path.dirname(path) or os.curdir
    try:
        status = os.stat(directory)
    except FileNotFoundError:
        return Check("FAIL", f"{directory} does not exist", f"start the consumer, or: mkdir -p -m 700 {directory}")
    except NotADirectoryError:
        return Check("FAIL", f"a part of {directory} is not a directory", "choose another path")
    except OSError as error:
        remedy = "give this user search permission (x) for each directory in the path, or choose another path"
        return Check("FAIL", f"{_me()} can't reach {directory}: {error.strerror}", remedy)
    if not stat.S_ISDIR(status.st_mode):
        return Check("FAIL", f"{directory} is {_kind(status.st_mode)}", "choose another path")
    found = f"{directory}, {_owner_and_mode(status)}"
    if not os.access(directory, os.X_OK, effective_ids=os.access in os.supports_effective_ids):
        return Check("FAIL", f"{found}: {_me()} may not enter it", f"chmod +x {directory}, or run as its owner")
    if status.st_uid not in (os.geteuid(), 0):
        return Check("warn", f"{found}: its owner can replace the socket", "choose a directory of your own")
    if status.st_mode & 0o022 and not status.st_mode & stat.S_ISVTX:
        who = "anyone" if status.st_mode & 0o002 else f"group {status.st_gid}"
        return Check("warn", f"{found}: {who} can replace the socket", f"chmod go-w {directory}")
    return Check("ok", found)


def _socket(path: str) -> Check:
    try:
        target = os.readlink(path) if os.path.islink(path) else None
        status = os.stat(path)
    except FileNotFoundError:
        start = f"start the consumer, for example: socketpusher listen {path}"
        if os.path.islink(path):
            dangling = f"it is a symbolic link to {os.readlink(path)}, which does not exist"
            return Check("FAIL", dangling, f"remove the link, and {start}")
        return Check("FAIL", f"{path} does not exist", start)
    except OSError as error:
        return Check("FAIL", f"it can't be examined: {error.strerror}", "choose another path")
    what = f"a symbolic link to {target}, " if target is not None else ""
    if not stat.S_ISSOCK(status.st_mode):
        found = f"{what}{_kind(status.st_mode)} is in its place"
        return Check("FAIL", found, "move it away, or choose another path")
    found = what + _owner_and_mode(status)
    if not os.access(path, os.W_OK, effective_ids=os.access in os.supports_effective_ids):
        remedy = "run the consumer and the pusher as the same user, or let the consumer open its socket to this one"
        return Check("FAIL", f"{found}: {_me()} may not write to it", remedy)
    if target is not None:
        return Check("warn", f"{found}: pushers follow it, socketpusher listen does not", f"use {target}")
    if status.st_uid not in (os.geteuid(), 0):
        return Check("warn", f"{found}: another user's", "see below whether a pusher sends to it")
    if status.st_mode & 0o002:
        return Check("warn", f"{found}: anyone may send to it", f"chmod go-w {path}, if that is not wanted")
    return Check("ok", found)


def _listener(path: str, probe: socket.socket) -> Check:
    probe.setblocking(False)
    try:
        probe.connect(path)
    except ConnectionRefusedError:
        remedy = f"start the consumer again; socketpusher listen {path} replaces the file"
        return Check("FAIL", "the socket is stale: no process listens on it any more", remedy)
    except BlockingIOError:
        reason = "the queue of connections is full: a process listens but does not accept them"
        remedy = f"continue or restart the consumer; to see its process: ss -xlp src {path}"
        return Check("FAIL", reason, remedy)
    except OSError as error:
        if error.errno == errno.EPROTOTYPE:
            return Check("FAIL", "the socket is not a stream socket", "let the consumer listen on one (SOCK_STREAM)")
        return Check("FAIL", f"can't connect to it: {error.strerror}", "choose another path")
    return Check("ok", f"{_process(credentials(probe)[0])} listens")


def _user(probe: socket.socket, uids: set[int]) -> Check:
    _, uid = credentials(probe)
    if uid is None:
        return Check("skip", "the system does not say who listens")
    if uid in uids:
        return Check("ok", f"it runs as user {uid}, who may have the events of {_me()}")
    return Check(
        "FAIL",
        f"it runs as user {uid}, and a pusher of {_me()} sends only to that user and root",
        f"run both as the same user, or allow user {uid}: PusherConfig(allow_uids=({uid},)), "
        f"or for a command --allow-uid {uid}",
    )


def _hung_up(probe: socket.socket, timeout: float) -> Check | None:
    """What to say if the consumer closes the connection within this time, in seconds."""
    poll = select.poll()
    poll.register(probe, 0)
    if not poll.poll(timeout * 1000):
        return None
    pid, uid = credentials(probe)
    if uid == os.geteuid():
        remedy = "nothing if the consumer serves one connection at a time; else see its own log"
        return Check("warn", f"{_process(pid)} hung up at once", remedy)
    reason = f"{_process(pid)} of user {uid} hung up at once, so it seems to refuse {_me()}"
    remedy = f"run both as the same user, or let it allow this one: socketpusher listen --allow-uid {os.geteuid()}"
    return Check("FAIL", reason, remedy)


def _reading(path: str, probe: socket.socket) -> Check:
    pid, uid = credentials(probe)
    if (found := _hung_up(probe, 0)) is not None:
        return found
    if sys.platform != "linux":
        return Check("skip", "the system does not say whether it reads unless something is sent")
    if _is_stopped(pid):
        return Check("FAIL", f"{_process(pid)} is stopped", f"continue it: kill -CONT {pid}")
    deadline = time.monotonic() + ACCEPT_TIMEOUT
    while True:
        states = _connections(path, pid)
        if states is None:
            return Check("skip", "the system does not list the listener, as in another container")
        if _WAITS not in states:
            # One that refuses this user has accepted the connection first.
            found = _hung_up(probe, 0 if uid == os.geteuid() else REFUSAL_TIMEOUT)
            return found or Check("ok", "it accepted the connection; nothing was sent")
        if time.monotonic() > deadline:
            break
        time.sleep(0.01)
    if len(states) > states.count(_WAITS):
        reason = f"it is connected, but accepted no further connection in {ACCEPT_TIMEOUT:g} s"
        return Check("warn", reason, "nothing if it serves one connection at a time; else restart it")
    reason = f"{_process(pid)} accepted no connection in {ACCEPT_TIMEOUT:g} s"
    return Check("FAIL", reason, "restart the consumer; it hangs, or does not call accept")


def _connections(path: str, pid: int | None) -> list[str] | None:
    """The states of the connections at a socket, or None if its listener is not known to the system."""
    try:
        with open("/proc/net/unix", encoding="utf-8", errors="surrogateescape") as file:
            entries = [match.groups() for match in map(_ENTRY.match, file) if match is not None]
    except OSError:  # as in a chroot
        return None
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
    """What is waiting in a spool. The events of those that no process is using can be counted."""
    if not os.path.lexists(directory):
        remedy = "nothing: the first pusher that uses it creates it"
        return Check("warn", f"the directory {directory} does not exist", remedy)
    try:
        check_directory(directory)
        found, damaged = databases(directory), [name for name in os.listdir(directory) if DAMAGED in name]
        used = sum(map(is_in_use, found))
        size = sum(map(os.path.getsize, found))
    except OSError as error:
        return Check("FAIL", f"{error.strerror}: {directory}", "choose another directory, or change this one")
    if damaged:
        names = ", ".join(sorted(damaged))
        remedy = "sqlite3 FILE .recover may recover events; then remove the file"
        return Check("warn", f"damaged files were put aside in {directory}: {names}", remedy)
    if not found:
        return Check("ok", f"nothing is waiting in {directory}")
    what = f"{directory} has events of {plural(len(found), 'pusher')}: {size_text(size)}, {used} in use"
    if used == len(found):
        return Check("ok", what)
    return Check("warn", what, f"start a pusher that uses it, or: socketpusher drain {directory} {path}")


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
                    return Check("FAIL", "it starts, but its event does not arrive", remedy)
    except (OSError, RuntimeError, ImportError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        return Check("FAIL", f"it can't start: {reason}", remedy)
    return Check("ok", "it starts, and delivers to a listener of its own")


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
