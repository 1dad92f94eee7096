"""Views of runs: the base class, and the view that prints lines."""

import os
import select
import sys
from collections.abc import Callable, Hashable
from contextlib import ExitStack, suppress
from datetime import UTC, datetime

from ..events import Event, EventType
from ..listener.problems import ProblemLog
from ..run_state import STATUS_AFTER
from .text import printable
from .tracker import RUN_EVENTS, Run, RunTracker
from .tty import signals_caught

_PRINTED = (RUN_EVENTS | STATUS_AFTER.keys()) - {str(EventType.UNIT_QUEUED)}
"""The events that are a line each, if they change anything."""


class RunView:
    """Keeps track of runs; subclasses show them.

    Args:
        runs: What is known of the runs.
    """

    def __init__(self, runs: RunTracker) -> None:
        self.runs = runs
        self.quit = False  # whether the user wants it to end
        self.inputs: dict[int, Callable[[], bool]] = {}
        """What to call when a descriptor is readable; it returns whether to wait for that descriptor again."""
        self._log = ProblemLog(_print_problem)
        self._opened = ExitStack()

    def source_connected(self, source: Hashable, title: str) -> None:
        """A source is connected."""
        self.runs.source_connected(source, title)

    def source_disconnected(self, source: Hashable, now: float) -> None:
        """A source has disconnected; `now` is in seconds since the epoch."""
        self.runs.source_disconnected(source, now)

    def feed(self, source: Hashable, event: Event) -> None:
        """Take an event in."""
        self.runs.feed(source, event)

    def report(self, problems: list[str]) -> None:
        """Report problems: of many, the first one, and later how many others there were."""
        for problem in problems:
            self._log(problem)

    def refresh(self) -> float | None:
        """Show what is due. Returns in how many seconds to call it again if nothing comes, or None."""
        self._log.end_episode()
        return self._log.remaining()

    def __enter__(self) -> "RunView":
        signals = self._opened.enter_context(signals_caught())
        self.inputs[signals] = lambda: bool(os.read(signals, 4096))
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._opened.close()
        self._log.end_episode(at_once=True)


class LineView(RunView):
    """A line for every change that matters: the time in UTC, the run, the type of the event, the unit and the reason.

    Args:
        runs: What is known of the runs.
        with_senders: Whether a sender that connects or disconnects is a line, too.
    """

    def __init__(self, runs: RunTracker, with_senders: bool) -> None:
        super().__init__(runs)
        self._with_senders = with_senders
        self._output = select.epoll()  # is readable when the reader of a pipe has closed it
        with suppress(PermissionError):  # it is a file
            self._output.register(sys.stdout, 0)
        self.inputs[self._output.fileno()] = _stop

    def source_connected(self, source: Hashable, title: str) -> None:
        """A source is connected."""
        super().source_connected(source, title)
        if self._with_senders:
            _print(datetime.now(UTC), title, "sender.connected")

    def source_disconnected(self, source: Hashable, now: float) -> None:
        """A source has disconnected; `now` is in seconds since the epoch."""
        title = self.runs.sources.get(source, "")
        super().source_disconnected(source, now)
        if self._with_senders:
            _print(datetime.now(UTC), title, "sender.disconnected")

    def feed(self, source: Hashable, event: Event) -> None:
        """Take an event in."""
        run, changed = self.runs.feed(source, event)
        if changed and event.type in _PRINTED:
            of_unit = event.unit and event.type.startswith("unit.")
            details = run.units[event.unit].reason if of_unit else _standing(run)
            _print(event.time or datetime.now(UTC), run.title, event.type, event.unit, details)

    def refresh(self) -> float | None:
        """Flush what was printed. Returns in how many seconds to call it again if nothing comes, or None."""
        sys.stdout.flush()
        return super().refresh()


def _stop() -> bool:
    raise BrokenPipeError


def _print_problem(problem: str) -> None:
    print(f"socketpusher watch: {printable(problem)}", file=sys.stderr, flush=True)


def _standing(run: Run) -> str:
    counts = {status: run.count(status) for status in ("complete", "failed", "blocked")}
    told = [f"{run.total} units", *(f"{count} {status}" for status, count in counts.items() if count)]
    return ": ".join(filter(None, (", ".join(told), run.reason, run.no_graph)))


def _print(moment: datetime, *words: str) -> None:
    stamp = moment.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    print(stamp, *(printable(word) for word in words if word))
