"""The demo's other process: it listens, shows the events as they come, and notes how long each was on its way.

Run as `python -m socketpusher.demo.display SOCKET [--plain]`. Its standard input is a socket that the demo holds the
other end of. It answers "ready" there, or says why not; each line that comes is shown; and when the demo has closed its
direction, or is gone, the process takes what senders have left, answers what it measured as JSON, and ends.
"""

import contextlib
import json
import os
import selectors
import socket
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any, Protocol

from ..consumers.listener import Listener, listen
from ..events import Event, EventType
from .figures import Received, count_of

REDRAW = 0.1
"""The bars are drawn so many seconds apart at least: drawing takes milliseconds, in which no event is received."""


def main() -> int:
    """Listen until the demo ends. Returns the exit code."""
    path, *options = sys.argv[1:]
    view_of_choice = _bars if "--plain" not in options and _can_draw() else _lines
    with socket.socket(fileno=os.dup(0)) as demo:
        try:
            with listen(path) as listener, view_of_choice() as view:
                demo.sendall(b"ready\n")
                received = _follow(listener, demo, view)
            sys.stdout.flush()
        except BrokenPipeError:
            os._exit(141)  # the interpreter would complain of what is still buffered for a reader that is gone
        except OSError as error:
            _answer(demo, f"{error.strerror}: {error.filename}\n".encode())
            return 1
        finally:
            _remove_directory(path)
        _answer(demo, json.dumps(asdict(received)).encode() + b"\n")
    return 0


def _follow(listener: Listener[Event], demo: socket.socket, view: "View") -> Received:
    received = Received()
    with selectors.DefaultSelector() as selector:
        selector.register(listener, selectors.EVENT_READ)
        selector.register(demo, selectors.EVENT_READ)
        ended = False
        while True:
            ready = {key.fileobj for key, _ in selector.select(0 if ended else None)}
            if demo in ready:
                said = demo.recv(4096)
                view.say(said.decode())
                if not said:
                    selector.unregister(demo)
                    ended = True
            if listener in ready:
                _take(listener.read(), received, view)
            elif ended:
                return received


def _take(events: list[Event], received: Received, view: "View") -> None:
    for event in events:
        if event.type != "graph":
            received.add(event)
    for event in events:  # afterwards, for showing takes time
        view.show(event)


@dataclass
class Level:
    """Where the units of one depth of the graph stand."""

    number: int
    units: int = 0
    units_done: int = 0
    tasks: int = 0
    tasks_done: int = 0
    failed: int = 0
    current: str = ""


class Levels:
    """Where a run stands, level by level, after the events that it was given."""

    def __init__(self) -> None:
        self.levels: list[Level] = []
        self._level_of: dict[str, Level] = {}

    def follow(self, event: Event) -> Level | None:
        """Take in an event. Returns the level that it changed; None if it changed all or nothing."""
        if event.type == "graph":
            self._begin(event.payload["nodes"])
            return None
        level = self._level_of.get(event.unit)
        if level is None:
            return None
        match event.type:
            case EventType.UNIT_STARTED:
                level.current = event.unit
            case EventType.TASK_COMPLETED | EventType.TASK_FAILED:
                level.tasks_done += 1
                level.failed += event.type == EventType.TASK_FAILED
            case done if done in _DONE:
                level.units_done += 1
        return level

    def _begin(self, nodes: list[dict[str, Any]]) -> None:
        self.levels = [Level(number) for number in range(1 + max((node["level"] for node in nodes), default=-1))]
        self._level_of = {node["id"]: self.levels[node["level"]] for node in nodes}
        for node in nodes:
            level = self._level_of[node["id"]]
            level.units += 1
            level.tasks += node["tasks"]


_DONE = (EventType.UNIT_COMPLETED, EventType.UNIT_FAILED)


class View(Protocol):
    """What shows a run."""

    def say(self, text: str) -> None:
        """Show lines of text."""

    def show(self, event: Event) -> None:
        """Show what an event changed."""


class _Lines:
    """One line a level."""

    def __init__(self) -> None:
        self._run = Levels()

    def say(self, text: str) -> None:
        sys.stdout.write(text)
        sys.stdout.flush()

    def show(self, event: Event) -> None:
        level = self._run.follow(event)
        if level is not None and level.units_done == level.units and event.type in _DONE:
            done = f"{count_of(level.units, 'unit')}, {count_of(level.tasks, 'file')}{_failed(level)}"
            self.say(f"  level {level.number:2}: {done}\n")


@contextmanager
def _lines() -> Iterator[View]:
    yield _Lines()


class _Bars:
    """A progress bar a level, drawn by rich."""

    def __init__(self, progress: Any) -> None:
        self._progress = progress
        self._run = Levels()
        self._bars: list[Any] = []  # rich's number for the bar of each level
        self._drawn = 0.0  # when, of `time.monotonic`

    def say(self, text: str) -> None:
        if text:
            self._progress.console.print(text, end="", highlight=False)

    def show(self, event: Event) -> None:
        level = self._run.follow(event)
        if event.type == "graph":
            self._begin()
        elif level is not None:
            self._progress.update(
                self._bars[level.number],
                completed=level.tasks_done,
                units=f"{level.units_done}/{level.units}",
                current=(level.current if level.units_done < level.units else "") + _failed(level),
            )
        if time.monotonic() - self._drawn >= REDRAW or event.type == EventType.ORCH_COMPLETED:
            self._progress.refresh()
            self._drawn = time.monotonic()

    def _begin(self) -> None:
        for bar in self._bars:
            self._progress.remove_task(bar)
        self._bars = [
            self._progress.add_task(f"level {level.number}", total=level.tasks, units=f"0/{level.units}", current="")
            for level in self._run.levels
        ]


@contextmanager
def _bars() -> Iterator[View]:
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

    with Progress(
        TextColumn("{task.description:>8}", markup=False),
        BarColumn(bar_width=24),
        TextColumn("{task.fields[units]:>7} units", markup=False),
        MofNCompleteColumn(),
        TextColumn("files  {task.fields[current]}", markup=False),
        auto_refresh=False,  # its thread would compete with the one that receives
    ) as progress:
        yield _Bars(progress)


def _can_draw() -> bool:
    if not sys.stdout.isatty() or os.environ.get("TERM") in (None, "", "dumb"):
        return False
    try:
        import rich.progress  # noqa: F401 - optional, the extra `terminal`
    except ImportError:
        return False
    return True


def _failed(level: Level) -> str:
    return f", {level.failed} failed" if level.failed else ""


def _answer(demo: socket.socket, answer: bytes) -> None:
    with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # a demo that is gone asks for nothing more
        demo.sendall(answer)


def _remove_directory(path: str) -> None:
    """The demo removes its directory itself, unless it was killed."""
    with contextlib.suppress(OSError):
        os.rmdir(os.path.dirname(path))


if __name__ == "__main__":
    sys.exit(main())
