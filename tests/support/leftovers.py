"""What a test, or a host, may leave behind: processes, descriptors, threads."""

import os
import threading
from pathlib import Path

_foreign: set[str] = set()  # processes of others, which each test would look at twice


def children() -> set[str]:
    """The processes that this one has started, and its pushers' writers, which are nobody's children."""
    found = set()
    running = set(filter(str.isdigit, os.listdir("/proc")))
    _foreign.intersection_update(running)
    for pid in running - _foreign:
        try:
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            command = Path(f"/proc/{pid}/cmdline").read_bytes()
        except OSError:
            continue  # it has ended
        if int(fields[1]) == os.getpid() or is_writer(command):
            found.add(f"process {pid}")
        else:
            _foreign.add(pid)
    return found


def is_writer(command: bytes) -> bool:
    """Whether a process with this command line is the writer of a pusher in this process."""
    return f"host={os.getpid()}".encode() in command.split(b"\0")


def writers() -> set[int]:
    """The process ids of this process's writers."""
    found = set()
    for file in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if is_writer(file.read_bytes()):
                found.add(int(file.parent.name))
        except OSError:
            continue  # it has ended
    return found


def described(name: str) -> str:
    """A name with what its process is running; that is no part of the name, for a process may be about to change it."""
    kind, _, pid = name.partition(" ")
    try:
        return f"{name}: {Path(f'/proc/{pid}/cmdline').read_bytes()!r}" if kind == "process" else name
    except OSError:
        return f"{name}, which has ended since"


def descriptors() -> set[str]:
    found = set()
    for link in Path("/proc/self/fd").iterdir():
        try:
            found.add(f"descriptor {link.name}: {link.readlink()}")
        except OSError:
            continue  # the one that lists the directory
    return {name for name in found if "/proc/" not in name and "hypothesis" not in name}


def left_behind() -> set[str]:
    """Everything of these kinds that exists now."""
    threads = {f"thread {thread.name} {thread.ident}" for thread in threading.enumerate()}
    return children() | descriptors() | threads
