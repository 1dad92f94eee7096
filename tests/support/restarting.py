"""A display that is restarted again and again while a run goes on."""

import os
import socket
import threading

from socketpusher import wire
from socketpusher.terminal.tracker import Run, RunTracker

ENDS = ("orch.completed", "orch.failed")


class RestartingConsumer:
    """Displays one after the other at a path, each of which reads some lines and ends; the last one sees the run end.

    A context manager.

    Args:
        path: Where they listen.
        lines: How many lines each reads.
        restarts: How many of them end that early.
    """

    def __init__(self, path: str, lines: int, restarts: int = 3) -> None:
        self._lines = lines
        self._restarts = restarts
        self._path = path
        self._listener = socket.socket(socket.AF_UNIX)
        self._displays: list[RunTracker] = []
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> "RestartingConsumer":
        self._listener.bind(self._path)
        self._listener.listen()
        self._thread.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._thread.join()
        self._listener.close()
        os.unlink(self._path)

    def _run(self) -> None:
        while not self._over.is_set():
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            self._displays.append(display := RunTracker())
            number, rest = 0, b""
            with connection:
                # What has left the socket counts as read, so all of it is shown before a display ends.
                while chunk := connection.recv(2048):
                    *lines, rest = (rest + chunk).split(b"\n")
                    for event in map(wire.decode, lines):
                        display.feed(connection, event)
                        if event.type in ENDS:
                            self._over.set()
                    number += len(lines)
                    if number >= self._lines and len(self._displays) <= self._restarts and not self._over.is_set():
                        break
                    if self._over.is_set():
                        break

    def final_run(self) -> Run:
        """What the last display knows of the run once that has ended."""
        assert self._over.wait(60), "no display was told the end of the run"
        self._thread.join(60)
        assert len(self._displays) > 1, "it was never restarted"
        (run,) = self._displays[-1].runs
        return run
