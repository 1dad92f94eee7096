"""What a test, or a host, may leave behind: processes, descriptors, threads."""

import os
import threading
from pathlib import Path


def children() -> set[str]:
    """The processes that this one has started, and its pushers' writers, which are nobody's children."""
    found = set()
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
            command = stat.with_name("cmdline").read_bytes()
        except OSError:
            continue  # it has ended
        if int(fields[1]) == os.getpid() or is_writer(command):
            found.add(f"process {stat.parent.name}: {command!r}")
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
