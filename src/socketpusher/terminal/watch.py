"""Runs as people watch them: on the screen, as lines, or as they stand at one moment.

One thread, one place where it sleeps: until events, a key or a signal come, or the next drawing is due.
"""

import math
import os
import selectors
import shutil
import sys
import time

from .page import render_full
from .sources import EventSource
from .text import text_of
from .tracker import RunTracker
from .view import LineView, RunView

DAY = 86_400.0
"""How long it waits at once, in seconds; `epoll` takes no more than 24 of them."""

COMPLETED, FAILED, UNKNOWN = 0, 1, 2
"""What `watch` returns."""


def watch(source: EventSource, *, once: bool = False, until_end: bool = False, timeout: float = math.inf) -> int:
    """Show runs until a signal or the user ends it.

    On a terminal they are drawn on the screen, if rich is there. Otherwise each change that matters is a line.

    Args:
        source: Where the events come from.
        once: Whether to print where the runs stand, when that is known, and return.
        until_end: Whether to return when the run has ended; of several, when all that are connected have.
        timeout: How long to wait while no sender is connected, or the stream can't be read, in seconds.

    Returns:
        How the runs ended: `COMPLETED`, or `FAILED` if one of them failed, or `UNKNOWN` if none has ended, or one
        that is connected has not.

    Raises:
        TimeoutError: The timeout is over.
        ValueError: There are no events, with `once`.
        OSError: As the source raises it.
    """
    runs = RunTracker(lasting=source.lasting)
    with _view(source, runs, once) as view:
        _follow(source, view, once, until_end, timeout)
    if once:
        if not runs.runs and not runs.sources:
            raise ValueError(f"there are no events in {source.where}")
        width = shutil.get_terminal_size().columns if sys.stdout.isatty() else math.inf
        silent = [f"{title}  0 events" for title in runs.sources.values()] if not runs.runs else []
        print("\n".join([*map(text_of, render_full(runs, time.time(), width)), *silent]))
    return _status(runs)


def _follow(source: EventSource, view: RunView, once: bool, until_end: bool, timeout: float) -> None:
    with selectors.DefaultSelector() as selector:
        if source.readable is not None:
            selector.register(source.readable, selectors.EVENT_READ, source)
        for descriptor, on_input in view.inputs.items():
            selector.register(descriptor, selectors.EVENT_READ, on_input)
        while not view.quit:
            now = time.monotonic()
            if once and now >= source.told:
                source.finish(view)
                break
            if until_end and not source.behind and _status(view.runs) != UNKNOWN:
                break
            give_up = math.inf if source.alone_since is None else source.alone_since + timeout
            if now >= give_up:
                silence = f"nothing has come from {source.where} for {timeout:g} s"
                raise TimeoutError(f"{silence}; {source.remedy}, or give a longer --timeout")
            wake = min(source.due, give_up, source.told if once else math.inf)
            waits = [wait for wait in (view.refresh(), wake - now) if wait is not None and wait < math.inf]
            ready = selector.select(max(0.0, min(*waits, DAY)) if waits else None)
            for key, _ in ready:
                if key.data is not source and not key.data():
                    selector.unregister(key.fileobj)
            if time.monotonic() >= source.due or any(key.data is source for key, _ in ready):
                source.take(view)
            _report(source, view)
    _report(source, view)


def _report(source: EventSource, view: RunView) -> None:
    if source.problems:
        view.report(source.problems)
        source.problems.clear()


def _status(runs: RunTracker) -> int:
    outcomes = runs.outcomes | {run.outcome for run in runs.runs if run.outcome or run.gone is None}
    if not outcomes or "" in outcomes:
        return UNKNOWN
    return FAILED if "failed" in outcomes else COMPLETED


def _view(source: EventSource, runs: RunTracker, once: bool) -> RunView:
    """A screen, or lines after a sentence on standard error."""
    if not once and can_draw():
        from .screen import Screen

        return Screen(source, runs)
    print(f"{source.announcement} {source.where}", file=sys.stderr, flush=True)
    return RunView(runs) if once else LineView(runs, with_senders=not source.lasting)


def can_draw() -> bool:
    """Whether standard output can be drawn on; if only rich is missing for that, a sentence says so."""
    if not sys.stdout.isatty() or os.environ.get("TERM") in (None, "", "dumb"):
        return False
    try:
        import rich  # noqa: F401 - optional, the extra `terminal`
    except ImportError:
        print(
            "showing lines instead of a screen, since rich is not installed: pip install 'socketpusher[terminal]'",
            file=sys.stderr,
        )
        return False
    return True
