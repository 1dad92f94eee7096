"""The demo's other process: it listens, shows the events as they come, and notes each one that it has received.

Run as `python -m socketpusher.demo.display SOCKET NOTES [--plain]`, where NOTES is the descriptor of a file. Its
standard input is a socket that the demo holds the other end of. It answers "ready" there, or says why not; each line
that comes is shown; and when the demo has closed its direction, or is gone, the process takes what senders have left,
and ends.

It may be killed at any moment. So an event leaves the socket only when it is noted: what it was killed over is sent to
the next display.
"""

import contextlib
import os
import selectors
import socket
import sys
import time
from collections.abc import Hashable
from contextlib import AbstractContextManager, nullcontext
from typing import Protocol

from .. import wire
from ..events import Event
from ..listener.listener import Listener, listen
from ..listener.problems import Sender
from ..terminal.tracker import Level, RunTracker
from ..terminal.watch import View, hand_over, resizes
from .figures import Note, count_of, line_of


class Stage(View, Protocol):
    """What shows runs, and what the demo says: a `Screen`, or `Lines`."""

    def say(self, note: str) -> object:
        """Show a line of text."""


def main() -> int:
    """Listen until the demo ends. Returns the exit code."""
    path, notes, *options = sys.argv[1:]
    sys.stdout.reconfigure(errors="replace")  # type: ignore[union-attr]  # names may hold what its encoding has not
    with socket.socket(fileno=os.dup(0)) as demo:
        try:
            problems: list[str] = []
            with (
                listen(path, raw=True, on_problem=lambda problem: problems.append(str(problem))) as listener,
                _stage(path, "--plain" in options) as stage,
            ):
                demo.sendall(b"ready\n")
                _follow(listener, demo, int(notes), stage, problems)
            sys.stdout.flush()
        except BrokenPipeError:
            os._exit(141)  # the interpreter would complain of what is still buffered for a reader that is gone
        except OSError as error:
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # a demo that is gone asks for nothing
                demo.sendall(f"{error.strerror}: {error.filename}\n".encode())
            return 1
        finally:
            _remove_directory(path)
    return 0


def _follow(listener: Listener[bytes], demo: socket.socket, notes: int, stage: Stage, problems: list[str]) -> None:
    known: set[Sender] = set()
    with selectors.DefaultSelector() as selector, resizes() as resized:
        for source in (listener, demo, resized):
            selector.register(source, selectors.EVENT_READ)
        ended = False
        while True:
            due = stage.refresh()
            ready = {key.fileobj for key, _ in selector.select(0 if ended else due)}
            if resized in ready:
                os.read(resized, 4096)
            if demo in ready:
                said = demo.recv(4096)
                for line in said.decode().splitlines():
                    stage.say(line)
                if not said:
                    selector.unregister(demo)
                    ended = True
            if listener in ready:
                hand_over(_received(listener, notes), listener, stage, known)  # afterwards, for showing takes time
                for sentence in problems:
                    stage.problem(sentence)
                problems.clear()
            elif ended:
                return


def _received(listener: Listener[bytes], notes: int) -> list[Event]:
    """What one read brings. It is noted before it leaves the socket."""
    lines = listener.read(hold=True)
    now = time.time()
    objects = [wire.parse(line) for line in lines]
    events = [wire.event_of(fields) for fields in objects]
    noted = [
        line_of(Note(fields["id"], event.time.timestamp(), now))
        for fields, event in zip(objects, events, strict=True)
        if "id" in fields and event.time is not None  # the writer's own `graph` has none
    ]
    if noted:
        os.write(notes, b"".join(noted))
    listener.release()
    return events


class Lines:
    """One line a level, when its last unit has ended."""

    def __init__(self) -> None:
        self._runs = RunTracker()

    def source_connected(self, source: Hashable, title: str) -> None:
        """A source is connected."""
        self._runs.source_connected(source, title)

    def source_disconnected(self, source: Hashable, now: float) -> None:
        """A source is gone; `now` is in seconds since the epoch."""
        self._runs.source_disconnected(source, now)

    def feed(self, source: Hashable, event: Event) -> None:
        """Take an event in."""
        run, changed = self._runs.feed(source, event)
        if changed and event.unit:
            level = run.units[event.unit].level
            if _ended(level):
                failed = f", {count_of(level.statuses['failed'], 'unit')} failed" if level.statuses["failed"] else ""
                files = count_of(level.tasks, "file")
                self.say(f"  level {level.number:2}: {count_of(level.units, 'unit')}, {files}{failed}")
        elif event.type == "graph" and (done := sum(map(_ended, run.levels.values()))):
            self.say(f"  told where the run stands: {count_of(done, 'level')} done")

    def say(self, note: str) -> None:
        """Print a line of text."""
        print(note, flush=True)

    def problem(self, sentence: str) -> None:
        """A problem is a line, too."""
        self.say(f"  {sentence}")

    def refresh(self) -> None:
        """Every line is shown already."""


def _ended(level: Level) -> bool:
    return level.statuses["complete"] + level.statuses["failed"] == level.units


def _stage(where: str, plain: bool) -> AbstractContextManager[Stage]:
    if plain:
        return nullcontext(Lines())
    from ..terminal.screen import Screen

    return Screen(where, RunTracker())


def _remove_directory(path: str) -> None:
    """The demo removes its directory itself, unless it was killed."""
    with contextlib.suppress(OSError):
        os.rmdir(os.path.dirname(path))


if __name__ == "__main__":
    sys.exit(main())
