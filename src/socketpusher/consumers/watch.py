"""A socket's runs as people watch them: on the screen, as lines, or as they stand at one moment.

One thread, one place where it sleeps: for the listener, until the next drawing is due. A terminal that changes its size
wakes it through the signal's own descriptor.
"""

import math
import os
import selectors
import shutil
import signal
import sys
import time
from collections.abc import Hashable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from datetime import UTC, datetime
from typing import Any, Protocol

from ..events import Event, EventType
from .listener import Listener, listen
from .page import printable, text_of, whole
from .problems import Sender
from .runs import Run, Runs

_QUIET = 0.3  # a sender has told where its run stands when it has been quiet for so many seconds,
_BURST = 1.0  # or has been connected for so many

_TOLD = frozenset(
    (
        "graph",
        str(EventType.ORCH_STARTED),
        str(EventType.ORCH_COMPLETED),
        str(EventType.ORCH_FAILED),
        str(EventType.UNIT_STARTED),
        str(EventType.UNIT_COMPLETED),
        str(EventType.UNIT_MERGED),
        str(EventType.UNIT_FAILED),
        str(EventType.UNIT_BLOCKED),
    )
)
"""The events that are a line each, if they change anything."""


class Taker(Protocol):
    """What takes in what a listener brings: `Runs`, or what shows them."""

    def came(self, source: Hashable, title: str) -> object:
        """A source is connected."""

    def went(self, source: Hashable, now: float) -> object:
        """A source is gone; `now` is in seconds since the epoch."""

    def feed(self, source: Hashable, event: Event) -> object:
        """Take an event in."""


class View(Taker, Protocol):
    """What shows runs: a `Screen`, or `Lines`."""

    def problem(self, sentence: str) -> object:
        """Something else is to be told."""

    def refresh(self) -> float | None:
        """Show what is due to be shown. Returns in how many seconds it wants to be called again, or None."""


def watch(path: str | None = None) -> None:
    """Show the runs that are sent to a socket, until a signal ends it.

    On a terminal they are drawn on the screen, if rich is there. Otherwise every change that matters is a line.

    Args:
        path: Where to listen; by default `default_socket_path()`.

    Raises:
        OSError, ValueError: As `listen` raises them.
    """
    draw = can_draw()
    problems: list[str] = []
    with listen(path, on_problem=lambda problem: problems.append(str(problem))) as listener:
        if not draw:
            print(f"listening on {listener.path}", file=sys.stderr, flush=True)
        with _view(listener.path, draw) as view:
            _follow(listener, view, problems)


def show_once(path: str | None = None) -> None:
    """Wait for a sender, and print where its run stands when it has told.

    It has when it was quiet for 0.3 s, or connected for 1 s, or is gone. A sender that is gone without an event is
    none.

    Args:
        path: Where to listen; by default `default_socket_path()`.

    Raises:
        OSError, ValueError: As `listen` raises them.
    """
    runs = Runs()
    with listen(path, on_problem=_to_standard_error) as listener:
        print(f"listening on {listener.path}", file=sys.stderr, flush=True)
        _take_burst(listener, runs)
    lines = whole(runs, time.time(), shutil.get_terminal_size().columns)
    quiet = [f"{title}  0 events" for title in runs.sources.values()] if not lines else []
    print("\n".join([*map(text_of, lines), *quiet]))


class Lines:
    """A line for every change that matters: the time in UTC, the run, the type of the event, the unit and its error."""

    def __init__(self) -> None:
        self._runs = Runs()

    def came(self, source: Hashable, title: str) -> None:
        """A source is connected."""
        self._runs.came(source, title)
        _print(_now(), title, "sender.connected")

    def went(self, source: Hashable, now: float) -> None:
        """A source is gone; `now` is in seconds since the epoch."""
        title = self._runs.sources.get(source, "")
        self._runs.went(source, now)
        _print(_now(), title, "sender.gone")

    def feed(self, source: Hashable, event: Event) -> None:
        """Take an event in."""
        run, changed = self._runs.feed(source, event)
        if changed and event.type in _TOLD:
            _print(event.time or _now(), run.title, event.type, event.unit, _detail(run, event))

    def problem(self, sentence: str) -> None:
        """A problem is a line on standard error."""
        _to_standard_error(sentence)

    def refresh(self) -> None:
        """Flush what was printed."""
        sys.stdout.flush()


def _detail(run: Run, event: Event) -> str:
    if event.unit and event.type.startswith("unit."):
        return run.units[event.unit].error
    counts = {status: run.count(status) for status in ("complete", "failed", "blocked")}
    told = [f"{len(run.units)} units", *(f"{count} {status}" for status, count in counts.items() if count)]
    return ", ".join(told) + "".join(f": {what}" for what in (run.error, run.no_graph) if what)


def _follow(listener: Listener[Event], view: View, problems: list[str]) -> None:
    known: set[Sender] = set()
    with selectors.DefaultSelector() as selector, resizes() as resized:
        selector.register(listener, selectors.EVENT_READ)
        selector.register(resized, selectors.EVENT_READ)
        while True:
            ready = {key.fileobj for key, _ in selector.select(view.refresh())}
            if resized in ready:
                os.read(resized, 4096)
            if listener in ready:
                _take(listener, view, known)
                for sentence in problems:
                    view.problem(sentence)
                problems.clear()


def _take(listener: Listener[Event], taker: Taker, known: set[Sender]) -> None:
    """Take one read in; see `hand_over` for `known`."""
    hand_over(listener.read(), listener, taker, known)


def hand_over(events: list[Event], listener: Listener[Any], taker: Taker, known: set[Sender]) -> None:
    """Tell a taker what one read brought, and who came and went meanwhile.

    Args:
        events: What was read, of one sender.
        listener: What they were read from, in any form.
        taker: Who is told.
        known: The senders that were connected before the read; then those that are.
    """
    sender = listener.sender
    connected = set(listener.senders)
    heard = connected | {sender} if events and sender is not None else connected
    for new in heard - known:
        taker.came(new, "a sender" if new.pid is None else f"pid {new.pid}")
    for event in events:
        taker.feed(sender, event)
    for old in (known | heard) - connected:
        taker.went(old, time.time())
    known.clear()
    known |= connected


def _take_burst(listener: Listener[Event], runs: Runs) -> None:
    known: set[Sender] = set()
    quiet_at = burst_over_at = math.inf
    with selectors.DefaultSelector() as selector:
        selector.register(listener, selectors.EVENT_READ)
        while (now := time.monotonic()) < min(quiet_at, burst_over_at):
            until = min(quiet_at, burst_over_at)
            if not selector.select(None if until == math.inf else until - now):
                continue
            events = runs.events
            _take(listener, runs, known)
            if runs.events > events:
                quiet_at = time.monotonic() + _QUIET
            if not known:
                if runs.events:
                    return
                burst_over_at = math.inf
            elif burst_over_at == math.inf:
                burst_over_at = time.monotonic() + _BURST


def can_draw() -> bool:
    """Whether standard output can be drawn on; where nothing but rich is missing, a sentence says so."""
    return _is_screen() and _rich_is_there()


def _is_screen() -> bool:
    """Whether standard output is a terminal that can be drawn on."""
    return sys.stdout.isatty() and os.environ.get("TERM") not in (None, "", "dumb")


def _rich_is_there() -> bool:
    try:
        import rich  # noqa: F401 - optional, the extra `terminal`
    except ImportError:
        print(
            "there are lines instead of a screen, for rich is not installed: pip install 'socketpusher[terminal]'",
            file=sys.stderr,
        )
        return False
    return True


def _view(where: str, draw: bool) -> AbstractContextManager[View]:
    if not draw:
        return nullcontext(Lines())
    from .screen import Screen

    return Screen(where)


@contextmanager
def resizes() -> Iterator[int]:
    """A descriptor that is readable when the terminal has changed its size."""
    inside, outside = os.pipe()
    try:
        os.set_blocking(outside, False)  # as set_wakeup_fd asks for
        before = signal.signal(signal.SIGWINCH, lambda number, frame: None)
        signal.set_wakeup_fd(outside, warn_on_full_buffer=False)
        try:
            yield inside
        finally:
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGWINCH, before)
    finally:
        os.close(inside)
        os.close(outside)


def _to_standard_error(problem: object) -> None:
    print(f"socketpusher watch: {printable(str(problem))}", file=sys.stderr, flush=True)


def _now() -> datetime:
    return datetime.now(UTC)


def _print(moment: datetime, *words: str) -> None:
    stamp = moment.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    print(stamp, *(printable(word) for word in words if word))
