"""Hosts as users write them: scripts that run in an interpreter of their own."""

import os
import subprocess
import sys
import tempfile
import time

# What a host needs before its own lines: no guard, no function, as in a notebook or a quick script.
PROLOGUE = """
import multiprocessing, os, signal, sys, threading, time
from socketpusher import Bus, Event, PusherConfig, SocketPusher
bus = Bus()
config = PusherConfig(socket_path=os.environ["SOCKET"], reconnect_backoff=0.01)
pusher = SocketPusher(bus, config)
"""


def start(lines: str, socket_path: str, how: str = "file", *, before: str = "", **options) -> subprocess.Popen:
    """Run `PROLOGUE` and the lines: as a `file`, on the `command` line, from standard `input`, or as a `module`.

    What is `before` runs before the package is imported.
    """
    code = before + PROLOGUE + lines
    options.setdefault("stdout", subprocess.PIPE)
    options.setdefault("stderr", subprocess.PIPE)
    environment = {**os.environ, "SOCKET": socket_path, **options.pop("env", {})}
    with tempfile.TemporaryDirectory() as directory:
        script = os.path.join(directory, "host.py")
        with open(script, "w") as file:
            # The file removes itself: a writer that imported it again would fail.
            file.write("import os\nos.unlink(__file__)\n" * (how == "file") + code)
        command = {
            "file": [sys.executable, script],
            "command": [sys.executable, "-c", code],
            "input": [sys.executable, "-"],
            "module": [sys.executable, "-m", "host"],
        }[how]
        if how == "module":
            environment["PYTHONPATH"] = directory
        if how == "input":
            options["stdin"] = subprocess.PIPE
        host = subprocess.Popen(command, env=environment, text=True, **options)
        if how == "input":
            assert host.stdin is not None
            host.stdin.write(code)
            host.stdin.close()
            host.stdin = None
        while how == "file" and os.path.exists(script) and host.poll() is None:
            time.sleep(0.002)
        if how == "module":
            host.wait(60)
    return host


def run(lines: str, socket_path: str, how: str = "file", timeout: float = 60, **options) -> tuple[int, str, str]:
    """The same, to its end: exit code, standard output and error."""
    host = start(lines, socket_path, how, **options)
    try:
        output, errors = host.communicate(timeout=timeout)
    finally:
        host.kill()
        host.wait()
    return host.returncode, output, errors
