"""What every test must leave behind: nothing."""

import gc
import multiprocessing
import os
import signal
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

from socketpusher import Bus
from support.consumer import Consumer
from support.waiting import wait_for

# Other programs on this machine have semaphores too; ours, and those of the hosts in
# `producer_script`, are told by this.
SEMAPHORES = f"mp-test{os.getpid()}"
os.environ["SEMAPHORES"] = SEMAPHORES
multiprocessing.current_process()._config["semprefix"] = f"/{SEMAPHORES}"  # type: ignore[attr-defined]

# A runner in the background may have it ignored, and so would every host that the tests start.
signal.signal(signal.SIGINT, signal.default_int_handler)

settings.register_profile("default", deadline=None)  # the machine is shared, so times mean nothing
settings.load_profile("default")


def _children() -> set[str]:
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


def _descriptors() -> set[str]:
    found = set()
    for link in Path("/proc/self/fd").iterdir():
        try:
            found.add(f"descriptor {link.name}: {link.readlink()}")
        except OSError:
            continue  # the one that lists the directory
    return {name for name in found if "/proc/" not in name and "hypothesis" not in name}


def _left_behind() -> set[str]:
    threads = {f"thread {thread.name} {thread.ident}" for thread in threading.enumerate()}
    names = os.listdir("/dev/shm") if os.path.isdir("/dev/shm") else []
    shared = {f"/dev/shm/{name}" for name in names if SEMAPHORES in name}
    return _children() | _descriptors() | threads | shared


@pytest.fixture(autouse=True)
def leaves_nothing_behind() -> Iterator[None]:
    # Started before the first look, for it keeps a descriptor and stays.
    from multiprocessing import resource_tracker

    resource_tracker.ensure_running()
    before = _left_behind()
    yield
    gc.collect()
    try:
        wait_for(lambda: not _left_behind() - before, timeout=20)
    except AssertionError:
        pytest.fail(f"left behind: {sorted(_left_behind() - before)}")


@pytest.fixture
def socket_path() -> Iterator[str]:
    """A path that is short enough for a Unix socket, in a directory that is empty at the end."""
    with tempfile.TemporaryDirectory(prefix="sp") as directory:
        yield os.path.join(directory, "s")
        assert os.listdir(directory) == []


@pytest.fixture
def consumer(socket_path: str) -> Iterator[Consumer]:
    consumer = Consumer(socket_path)
    yield consumer
    consumer.go_away()


@pytest.fixture
def bus() -> Bus:
    return Bus()
