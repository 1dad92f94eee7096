"""Waiting for a condition, never for a time."""

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
