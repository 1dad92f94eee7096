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
from collections.abc import Callable, Hashable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Protocol

from ..events import Event, EventType
from ..listener.listener import Listener, listen
from ..listener.problems import Sender
from .page import printable, text_of, whole
from .tracker import Run, RunTracker

if TYPE_CHECKING:
    from ..jetstream.subjects import Source
    from ..jetstream.subscription import Subscription

_QUIET = 0.3  # a sender has told where its run stands when it has been quiet for so many seconds,
_BURST = 1.0  # or has been connected for so many

_SOURCES = 64
"""Of more sources in a stream whose run is not over, those that were silent for longest count as gone."""

_OVER = frozenset((str(EventType.ORCH_COMPLETED), str(EventType.ORCH_FAILED)))

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
    """What takes in what a listener brings: `RunTracker`, or what shows them."""

    def source_connected(self, source: Hashable, title: str) -> object:
        """A source is connected."""

    def source_disconnected(self, source: Hashable, now: float) -> object:
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
    problems: list[str] = []
    known: set[Sender] = set()
    with (
        listen(path, on_problem=lambda problem: problems.append(str(problem))) as listener,
        _view(f"listening on {listener.path}", listener.path, RunTracker()) as view,
    ):
        _follow(listener, lambda: _take(listener, view, known), view, problems)


def watch_stream(subscription: "Subscription[Event]", problems: list[str]) -> None:
    """Show the runs in a stream, until a signal ends it.

    Args:
        subscription: What comes.
        problems: Where it puts what is to be told.

    Raises:
        OSError: As the subscription raises it.
    """
    known: dict[Source, None] = {}
    with _view(f"following {subscription.title}", subscription.title, RunTracker(lasting=True)) as view:
        _follow(subscription, lambda: _take_arrived(subscription, view, known), view, problems)


def print_stream_once(subscription: "Subscription[Event]", problems: list[str]) -> None:
    """Print where the runs in a stream stand when all that it has kept is read.

    Args:
        subscription: What comes.
        problems: Where it puts what is to be told.

    Raises:
        OSError: As the subscription raises it.
    """
    runs = RunTracker(lasting=True)
    known: dict[Source, None] = {}
    print(f"following {subscription.title}", file=sys.stderr, flush=True)
    while not subscription.caught_up:
        _take_arrived(subscription, runs, known)
        for sentence in problems:
            _to_standard_error(sentence)
        problems.clear()
    _print_whole(runs)


def print_once(path: str | None = None) -> None:
    """Wait for a sender, and print where its run stands when it has told.

    It has when it was quiet for 0.3 s, or connected for 1 s, or is gone. A sender that is gone without an event is
    none.

    Args:
        path: Where to listen; by default `default_socket_path()`.

    Raises:
        OSError, ValueError: As `listen` raises them.
    """
    runs = RunTracker()
    with listen(path, on_problem=_to_standard_error) as listener:
        print(f"listening on {listener.path}", file=sys.stderr, flush=True)
        _take_burst(listener, runs)
    _print_whole(runs)


def _print_whole(runs: RunTracker) -> None:
    lines = whole(runs, time.time(), shutil.get_terminal_size().columns)
    quiet = [f"{title}  0 events" for title in runs.sources.values()] if not lines else []
    print("\n".join([*map(text_of, lines), *quiet]))


class Lines:
    """A line for every change that matters: the time in UTC, the run, the type of the event, the unit and its error.

    Args:
        runs: What is known of the runs.
        tells_sources: Whether sources that come and go are a line each.
    """

    def __init__(self, runs: RunTracker, tells_sources: bool = True) -> None:
        self._runs = runs
        self._tells_sources = tells_sources

    def source_connected(self, source: Hashable, title: str) -> None:
        """A source is connected."""
        self._runs.source_connected(source, title)
        if self._tells_sources:
            _print(_now(), title, "sender.connected")

    def source_disconnected(self, source: Hashable, now: float) -> None:
        """A source is gone; `now` is in seconds since the epoch."""
        title = self._runs.sources.get(source, "")
        self._runs.source_disconnected(source, now)
        if self._tells_sources:
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


class _Readable(Protocol):
    """What events come from."""

    def fileno(self) -> int:
        """A descriptor that is readable while there are any."""


def _follow(source: _Readable, take: Callable[[], None], view: View, problems: list[str]) -> None:
    """Have the view take what comes, until a signal ends it."""
    with selectors.DefaultSelector() as selector, resizes() as resized:
        selector.register(source, selectors.EVENT_READ)
        selector.register(resized, selectors.EVENT_READ)
        while True:
            ready = {key.fileobj for key, _ in selector.select(view.refresh())}
            if resized in ready:
                os.read(resized, 4096)
            if source in ready:
                take()
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
        taker.source_connected(new, "a sender" if new.pid is None else f"pid {new.pid}")
    for event in events:
        taker.feed(sender, event)
    for old in (known | heard) - connected:
        taker.source_disconnected(old, time.time())
    known.clear()
    known |= connected


def _take_arrived(subscription: "Subscription[Event]", taker: Taker, known: "dict[Source, None]") -> None:
    """Take what came of one source in; `known` are those whose run is not over, the one silent for longest first."""
    for event in subscription.read():
        source = subscription.source
        assert source is not None  # for there is an event
        if source not in known:
            taker.source_connected(source, str(source))
        known.pop(source, None)
        known[source] = None
        taker.feed(source, event)
        if event.type in _OVER:
            del known[source]
            taker.source_disconnected(source, event.time.timestamp() if event.time else time.time())
    while len(known) > _SOURCES:
        silent = next(iter(known))
        del known[silent]
        taker.source_disconnected(silent, time.time())


def _take_burst(listener: Listener[Event], runs: RunTracker) -> None:
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


def _view(sentence: str, where: str, runs: RunTracker) -> AbstractContextManager[View]:
    """A screen, or lines behind a sentence on standard error."""
    if not can_draw():
        print(sentence, file=sys.stderr, flush=True)
        return nullcontext(Lines(runs, tells_sources=not runs.lasting))
    from .screen import Screen

    return Screen(where, runs)


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
