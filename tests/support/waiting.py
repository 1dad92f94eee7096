"""Waiting for a condition, never for a time."""

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path


def wait_for(condition: Callable[[], object], timeout: float = 30.0, what: str = "") -> None:
    """Return as soon as the condition holds; fail after `timeout` seconds."""
    deadline = time.monotonic() + timeout
    while not condition():
        if time.monotonic() > deadline:
            raise AssertionError(f"{what or condition} did not come true in {timeout:g} s")
        time.sleep(0.002)


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
