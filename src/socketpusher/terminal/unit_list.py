"""The list of all units, which keys open: to move in it, to search, and to see why a unit failed. Pure."""

from .sections import MARKS, unit_name, work
from .text import BOLD, DIM, PLAIN, SELECTED, Line, clip, clock, fit, plural, printable, width, wrap
from .tracker import NO_LEVEL, RunTracker, Unit

ESCAPE, ENTER, BACKSPACE = "\x1b", ("\r", "\n"), ("\x7f", "\b")
_UP, _DOWN = ("\x1b[A", "\x1bOA"), ("\x1b[B", "\x1bOB")
_PAGE_UP, _PAGE_DOWN = ("\x1b[5~",), ("\x1b[6~",)
_HOME, _END = ("\x1b[H", "\x1bOH", "\x1b[1~"), ("\x1b[F", "\x1bOF", "\x1b[4~")

HELP = """\
  q or Ctrl-C       quit
  arrows            move through all units; why the marked one failed is below the list
  PageUp, PageDown  go faster; Home and End go to the first and the last unit
  /                 search for a part of a name, worker or reason; Enter ends it
  f                 only units that failed or are blocked; again: all units
  Esc               back to the overview
  Ctrl-Z            stop, until the command fg
  ?                 this help; any key closes it
"""


class UnitList:
    """The list: what it is limited to, and which unit is marked."""

    def __init__(self) -> None:
        self._rows = 1  # of units on the screen
        self._close()

    def _close(self) -> None:
        self.shown = False
        self.typing = False  # whether keys go into the text that is searched for
        self._query = ""
        self._failed_only = False
        self._marked = self._top = 0  # the positions of the unit that is marked, and of the first one on the screen

    def press(self, key: str) -> None:
        """Handle a key."""
        if self.shown and (step := self._step(key)):
            self._marked += step
            self._top += step if abs(step) > 1 else 0
        elif self._step(key):
            self.shown = True
        elif key == ESCAPE:
            self._close()
        elif self.typing and key in ENTER:
            self.typing = False
        elif self.typing:
            self._query = self._query[:-1] if key in BACKSPACE else self._query + (key if key.isprintable() else "")
            self._marked = 0
        elif key == "/":
            self.shown, self.typing, self._query = True, True, ""
        elif key == "f":
            self.shown, self._failed_only, self._marked = True, not self._failed_only, 0

    def _step(self, key: str) -> int:
        steps = {_UP: -1, _DOWN: 1, _PAGE_UP: -self._rows, _PAGE_DOWN: self._rows, _HOME: -(1 << 40), _END: 1 << 40}
        return next((step for keys, step in steps.items() if key in keys), 0)

    def render(self, runs: RunTracker, now: float, columns: int, height: int) -> list[Line]:
        """The list, with what is known of the marked unit below it.

        Args:
            runs: What is known.
            now: The time, in seconds since the epoch.
            columns: How many columns a line may take.
            height: How many lines there may be.
        """
        found = self._found(runs)
        self._marked = max(0, min(self._marked, len(found) - 1))
        room = height // 4  # for the details, also where they need less, so that the list stays where it is
        details = _details(found[self._marked], columns, room) if found else []
        details += [[]] * (room - len(details))
        self._rows = max(1, height - 2 - room)
        self._top = max(0, min(self._top, self._marked, len(found) - self._rows), self._marked - self._rows + 1)
        shown = found[self._top : self._top + self._rows]
        names = [
            f"{printable(unit.run.title)}  {unit_name(unit)}" if len(runs.runs) > 1 else unit_name(unit)
            for unit in shown
        ]
        space = min(max(map(width, names), default=0), max(20, columns // 2 - 22))
        rows = [
            _row(unit, fit(name, space), now, marked=number == self._marked)
            for number, (unit, name) in enumerate(zip(shown, names, strict=True), self._top)
        ]
        blank: list[Line] = [[] for _ in range(self._rows - len(rows))]
        lines = [
            self._heading(len(found)),
            *rows,
            *blank,
            *details,
            [("  / search   f failed only   Esc back   ? help   q quit", DIM)],
        ]
        return [clip(line, columns) for line in lines[:height]]

    def _found(self, runs: RunTracker) -> list[Unit]:
        query = self._query.casefold()
        found: list[Unit] = []
        for run in runs.runs:
            shown = run.by_status["failed"] | run.by_status["blocked"] if self._failed_only else run.units
            units = shown.values()
            found += (unit for unit in units if _matches(unit, query)) if query else units
        return found

    def _heading(self, count: int) -> Line:
        what = plural(count, "unit") + (", failed or blocked" if self._failed_only else "")
        search = f"  /{printable(self._query)}{'_' if self.typing else ''}" if self._query or self.typing else ""
        return [(what, DIM), (search, BOLD)]


def _matches(unit: Unit, query: str) -> bool:
    return query in unit.name.casefold() or query in unit.worker.casefold() or query in unit.reason.casefold()


def _row(unit: Unit, name: str, now: float, marked: bool) -> Line:
    mark, style = MARKS[unit.status]
    why = f"  {printable(unit.reason)}" if unit.reason else ""
    return [
        (f"  {mark} ", style),
        (name, SELECTED if marked else PLAIN),
        (f" {work(unit, unit.run.clock(now))}", PLAIN),
        (why, style),
    ]


def _details(unit: Unit, columns: int, height: int) -> list[Line]:
    """What is known of a unit; of a long error the end."""
    if height < 2:
        return []
    times = (("started", unit.started), ("ended", unit.ended))
    told = [
        "running" if unit.status == "in_progress" else unit.status,
        "" if unit.level.number == NO_LEVEL else f"level {unit.level.number}",
        *(f"{what} {clock(moment)}" for what, moment in times if moment is not None),
        f"in {unit.run.title}",
    ]
    error = [line for text in (unit.error or unit.reason).splitlines() for line in wrap(printable(text), columns - 2)]
    lines: list[Line] = [[(unit_name(unit), BOLD), (f"  {printable(', '.join(filter(None, told)))}", DIM)]]
    return lines + [[(f"  {line}", MARKS[unit.status][1])] for line in error[1 - height :]]
