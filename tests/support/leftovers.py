"""What a test, or a host, may leave behind: processes, descriptors, threads, names in /dev/shm."""

import os
import threading
from pathlib import Path

SEMAPHORES = f"mp-test{os.getpid()}"


def children() -> set[str]:
    """The processes that this one has started, but for multiprocessing's resource tracker, which lives as long."""
    found = set()
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
            command = stat.with_name("cmdline").read_bytes()
        except OSError:
            continue  # it has ended
        if int(fields[1]) == os.getpid() and b"resource_tracker" not in command:
            found.add(f"process {stat.parent.name}: {command!r}")
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
    names = os.listdir("/dev/shm") if os.path.isdir("/dev/shm") else []
    shared = {f"/dev/shm/{name}" for name in names if SEMAPHORES in name}
    return children() | descriptors() | threads | shared
