"""A consumer in a process of its own. It keeps what it receives in a file; tests kill, stop and start it."""

import json
import os
import signal
import socket
import subprocess
import sys
from typing import Any

from support.waiting import stop, wait_for

CONNECTION = b"--- connection\n"

SCRIPT = """
import os, socket, sys
listener = socket.socket(socket.AF_UNIX)
listener.bind(sys.argv[1] + ".new")
listener.listen(1000)
os.rename(sys.argv[1] + ".new", sys.argv[1])  # whoever sees it can connect
while True:
    connection, _ = listener.accept()
    with open(sys.argv[2], "ab", buffering=0) as file:
        file.write(b"--- connection\\n")
        try:
            while data := connection.recv(65536, socket.MSG_PEEK):
                # On record before it counts as read: if it is killed between the two, it gets the same again.
                file.write(data)
                connection.recv(len(data))
        except ConnectionResetError:
            pass
"""


class Recorder:
    """Listens at `path` and writes to `path` + ".record", one connection after the other."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.record = path + ".record"
        self.process: subprocess.Popen[bytes] | None = None
        self.start()

    def start(self) -> None:
        """Listen, unless it does."""
        if self.process is None:
            if os.path.exists(self.path):
                os.unlink(self.path)
            with open(self.record, "ab"):
                pass
            command = [sys.executable, "-S", "-c", SCRIPT, self.path, self.record]
            self.process = subprocess.Popen(command, process_group=0)  # a terminal's Ctrl-C is for who started it
            wait_for(lambda: os.path.exists(self.path), what="the recorder's socket")

    def kill(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None

    def signal(self, number: int) -> None:
        if self.process is not None:
            self.process.send_signal(number)

    def stall(self) -> None:
        if self.process is not None:
            stop(self.process.pid)

    def go_on(self) -> None:
        self.signal(signal.SIGCONT)

    def catch_up(self) -> None:
        """Return when it has read everything that was sent and closed before: it then takes the next connection."""

        def count() -> int:
            with open(self.record, "rb") as file:
                return file.read().count(CONNECTION)

        before = count()
        with socket.socket(socket.AF_UNIX) as probe:
            probe.connect(self.path)
            wait_for(lambda: count() > before, what="an accepted connection")

    def remove(self) -> None:
        """End, and leave no file."""
        self.kill()
        for path in (self.path, self.record):
            if os.path.exists(path):
                os.unlink(path)

    def connections(self) -> list[list[bytes]]:
        """The whole lines of each connection."""
        with open(self.record, "rb") as file:
            return [connection.split(b"\n")[:-1] for connection in file.read().split(CONNECTION)[1:]]

    def lines(self) -> list[bytes]:
        return [line for connection in self.connections() for line in connection]

    def events(self) -> list[dict[str, Any]]:
        """Every event that is not of the preface, as JSON."""
        return [event for line in self.lines() if (event := json.loads(line))["type"] not in ("graph", "orch.started")]
