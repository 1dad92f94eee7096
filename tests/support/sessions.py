"""The processes that a command has started."""

import os
import subprocess
from pathlib import Path

from support.waiting import is_running


def session_of(process: "subprocess.Popen[bytes]") -> dict[int, str]:
    """The processes of a command with a session of its own that still run, and their command lines."""
    found = {}
    for path in Path("/proc").glob("[0-9]*"):
        try:
            if os.getsid(int(path.name)) == process.pid and is_running(path.name):
                found[int(path.name)] = (path / "cmdline").read_text().replace("\0", " ")
        except OSError:
            continue  # it has just ended
    return found
