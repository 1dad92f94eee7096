"""Waiting for a condition, never for a time."""

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path


def wait_for(condition: Callable[[], object], timeout: float = 30.0, what: str = "") -> None:
    """Return soon after the condition holds; fail after `timeout` seconds.

    What is waited for needs the CPU, so asking takes a quarter of the time at most.
    """
    asked = time.monotonic()
    deadline = asked + timeout
    while not condition():
        now = time.monotonic()
        if now > deadline:
            raise AssertionError(f"{what or condition} did not come true in {timeout:g} s")
        time.sleep(min(0.3, max(0.002, 3 * (now - asked))))
        asked = time.monotonic()


def is_running(pid: int | str) -> bool:
    """Whether the process exists and has not ended: one whose parent is gone may wait long to be taken note of."""
    try:
        stat = Path(f"/proc/{str(pid).strip()}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False
    return stat.rpartition(")")[2].split()[0] not in "ZX"


def stop(pid: int) -> None:
    """Return when the process has stopped: until each of its threads has, it goes on."""
    os.kill(pid, signal.SIGSTOP)
    tasks = Path(f"/proc/{pid}/task")
    wait_for(lambda: all("\nState:\tT" in (task / "status").read_text() for task in tasks.iterdir()))


def cpu_ticks(pid: int | None) -> int:
    """The CPU time that a process has used, in clock ticks."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return int(fields[11]) + int(fields[12])


def comes_to_rest(pid: int | None) -> None:
    """Wait until a process uses no CPU for a while; one that polls in vain never does."""

    def rests() -> bool:
        before = cpu_ticks(pid)
        time.sleep(0.3)  # the length of the while
        return cpu_ticks(pid) == before

    wait_for(rests)
