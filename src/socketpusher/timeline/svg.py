"""A timeline as a picture in SVG: a row per track, on it a bar per attempt at a unit, with its tasks below."""

import unicodedata
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable, Iterator
from datetime import timedelta
from html import escape
from itertools import accumulate, pairwise

from .model import Run, Slice, Track

WIDTH, NAMES, ROW, BAR, MARGIN = 1000, 120, 26, 20, 16
"""The picture, the column with the names of tracks, a row, a bar in it, and the margin, in pixels."""

ROWS = 60
"""The most tracks that are shown of a run."""

_COLORS = {
    "completed": "#a8d5b5",
    "failed": "#f0877d",
    "blocked": "#f3c886",
    "skipped": "#dfe5e1",
    "unfinished": "#d5d9de",
}
_DARK = {"completed": "#4c9466", "failed": "#b3261e"}
_CRITICAL, _TEXT, _GRID = "#1f3a93", "#1f2328", "#e3e7eb"
_CELL = 6.2  # the width of a character of 11 pixels, about
_SECONDS = 1_000_000
_STEPS = [
    *(step * 10**power for power in range(7) for step in (1, 2, 5)),
    *(step * _SECONDS for step in (10, 30, 60, 120, 300, 600, 1800, 3600, 7200, 21_600, 43_200)),
    *(step * 86_400 * _SECONDS for step in (1, 2, 7, 30, 365, 3650, 36_500)),
]


def svg_lines(runs: Iterable[Run]) -> Iterator[str]:
    """The lines of the picture."""
    body: list[str] = []
    top = MARGIN
    for run in runs:
        chart = _Chart(run, top)
        body += chart.lines()
        top = chart.bottom + MARGIN
    yield (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{top + 20}" '
        f'viewBox="0 0 {WIDTH} {top + 20}" font-family="system-ui, sans-serif" font-size="11" fill="{_TEXT}">'
    )
    yield f'<rect width="{WIDTH}" height="{top + 20}" fill="white"/>'
    yield from body
    for number, (outcome, color) in enumerate(_COLORS.items()):
        yield f'<rect x="{MARGIN + 100 * number}" y="{top}" width="12" height="12" rx="2" fill="{color}"/>'
        yield _text(MARGIN + 100 * number + 18, top + 10, outcome)
    x = MARGIN + 100 * len(_COLORS)
    yield f'<rect x="{x}" y="{top}" width="12" height="12" rx="2" fill="none" stroke="{_CRITICAL}" stroke-width="2"/>'
    yield _text(x + 18, top + 10, "on the critical path")
    yield "</svg>"


class _Chart:
    """The picture of one run, from a height on."""

    def __init__(self, run: Run, top: int) -> None:
        self._run = run
        self._top = top + 44
        self._tracks = run.tracks[:ROWS]
        self._left = MARGIN + NAMES
        self._scale = (WIDTH - MARGIN - self._left) / max(1, run.end - run.start)  # pixels per microsecond
        self._floor = self._top + ROW * len(self._tracks)
        self.bottom = self._floor + (36 if len(run.tracks) > ROWS else 20)

    def lines(self) -> Iterator[str]:
        run = self._run
        yield _text(MARGIN, self._top - 30, run.title, 'font-size="14" font-weight="bold"')
        yield _text(MARGIN, self._top - 12, _cut(_summary(run), WIDTH - 2 * MARGIN))
        step = next((step for step in _STEPS if step * self._scale >= 80), _STEPS[-1])
        for time in range(0, run.end - run.start + 1, step):
            x = self._x(run.start + time)
            yield f'<path d="M{x} {self._top}V{self._floor}" stroke="{_GRID}"/>'
            yield _text(x, self._floor + 13, duration(time), 'text-anchor="middle"')
        for before, after in pairwise(run.critical):
            if before.track in self._tracks and after.track in self._tracks:
                start = f"{self._x(before.end)} {self._y(before.track) + BAR // 2}"
                end = f"{self._x(after.start)} {self._y(after.track) + BAR // 2}"
                yield f'<path d="M{start}L{end}" stroke="{_CRITICAL}" stroke-opacity="0.6"/>'
        for track in self._tracks:
            yield _text(MARGIN, self._y(track) + 14, _cut(track.name, NAMES - 8))
            yield from self._bars(track)
        if len(run.tracks) > ROWS:
            yield _text(MARGIN, self._floor + 29, f"{len(run.tracks) - ROWS:,} more tracks are not shown")

    def _bars(self, track: Track) -> Iterator[str]:
        crowds: list[list[Slice]] = []  # of slices that share two pixels; most are alone
        for slice in track.slices:
            if crowds and self._x(slice.end) - self._x(crowds[-1][0].start) <= 2:
                crowds[-1].append(slice)
            else:
                crowds.append([slice])
        for crowd, after in pairwise([*crowds, None]):
            assert crowd is not None
            yield from self._bar(crowd, self._y(track), WIDTH if after is None else self._x(after[0].start))

    def _bar(self, crowd: list[Slice], y: int, limit: float) -> Iterator[str]:
        """The bar of a slice, or of several, with its name in it, or behind it if that ends before `limit`."""
        slice = next((slice for slice in crowd if slice.outcome == "failed"), crowd[0])
        x, right = self._x(crowd[0].start), self._x(crowd[-1].end)
        width = max(1, right - x)
        style = f'fill="{_COLORS[slice.outcome]}"'
        if slice.critical or width > 3:
            style += f' stroke="{_CRITICAL}" stroke-width="2"' if slice.critical else ' stroke="white"'
        title = [slice.name[:500], f"{slice.outcome} after {duration(slice.duration)}", slice.error[:500]]
        if len(crowd) > 1:
            title.append(f"and {len(crowd) - 1:,} more")
        yield f'<rect x="{x}" y="{y}" width="{width:.1f}" height="{BAR}" rx="2" {style}>'
        yield f"<title>{_safe(' | '.join(filter(None, title)))}</title></rect>"
        for task in slice.children if len(slice.children) * 4 <= width else ():
            start, color = self._x(task.start), _DARK.get(task.outcome, "#7b848e")
            length = max(1, self._x(task.end) - start - 1)
            yield f'<rect x="{start}" y="{y + BAR - 5}" width="{length:.1f}" height="3" fill="{color}"/>'
        if len(name := _cut(slice.name, width - 8)) > 2 or name == slice.name:
            yield _text(x + 4, y + 12, name)
        elif len(crowd) == 1 and right + 4 + _columns(slice.name) * _CELL < limit:
            yield _text(right + 4, y + 13, slice.name)

    def _x(self, time: int) -> float:
        return round(self._left + (time - self._run.start) * self._scale, 1)

    def _y(self, track: Track) -> int:
        return self._top + ROW * track.number


def _summary(run: Run) -> str:
    outcomes = Counter(slices[-1].outcome for slices in run.units.values())
    counts = ", ".join(f"{count:,} {outcome}" for outcome, count in outcomes.items())
    said = f"{run.outcome} after {duration(run.end - run.start)}; units: {counts or 'none ran'}"
    if run.critical:
        units = " > ".join(dict.fromkeys(slice.unit for slice in run.critical))
        said += f"; critical path: {duration(sum(slice.duration for slice in run.critical))} in {units}"
    return said


def duration(microseconds: int) -> str:
    """The duration for people, such as "12.3 s" or "0:02:30"."""
    # 999.5 and more would be "1e+03".
    for limit, unit, size in ((1000, "µs", 1), (999_500, "ms", 1000), (60 * _SECONDS, "s", _SECONDS)):
        if microseconds < limit:
            return f"{microseconds / size:.3g} {unit}" if microseconds else "0"
    return str(timedelta(seconds=round(microseconds / _SECONDS)))


def _text(x: float, y: int, text: str, style: str = "") -> str:
    return f'<text x="{x}" y="{y}" {style}>{_safe(text)}</text>'


def _safe(text: str) -> str:
    """The text for XML, which has no place for control characters."""
    return escape("".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text))


def _cut(text: str, width: float) -> str:
    """As much of the text as fits into so many pixels."""
    fit = int(width / _CELL)
    ends = list(accumulate(map(_columns, text[: fit + 1])))
    return text if len(text) <= fit and ends[-1:] <= [fit] else text[: bisect_left(ends, fit)] + "…"


def _columns(text: str) -> int:
    return sum(2 if unicodedata.east_asian_width(c) in "WF" else 1 for c in text)
