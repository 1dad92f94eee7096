"""The charts of a run, readable on light and on dark backgrounds."""

import os
from types import ModuleType
from typing import Any

from .runner import median, ratio

GREY = "#808080"
OURS, THEIRS = "#2e9e5b", "#7a8ca5"


def _plot() -> Any:
    """matplotlib.pyplot, without a display and with a transparent background."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    pyplot.rcParams.update(
        {
            "savefig.transparent": True,
            "svg.fonttype": "none",
            "svg.hashsalt": "socketpusher",  # the same figures give the same file
            "font.family": "sans-serif",
            "font.size": 10,
            **dict.fromkeys(("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color"), GREY),
        }
    )
    return pyplot


def _bare(axes: Any) -> None:
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    axes.tick_params(left=False)
    axes.grid(axis="x", color=GREY, alpha=0.25, linewidth=0.6)
    axes.set_axisbelow(True)


def _labelled(axes: Any, rows: list[int], numbers: list[float], texts: list[str]) -> None:
    for row, number, text in zip(rows, numbers, texts, strict=True):
        axes.annotate(
            text, (number, row), xytext=(4, 0), textcoords="offset points", va="center", fontsize=9, color=GREY
        )


def busy(figures: dict[str, Any], modules: dict[str, ModuleType], path: str) -> None:
    """Lost events, latency and the slowdown of the schedule, with a busy scheduler."""
    pyplot = _plot()
    runs = {peer: found for peer, found in figures["alone"].items() if found and modules[peer].DELIVERS}
    names = [modules[peer].NAME for peer in runs]
    rows = list(range(len(runs)))[::-1]
    lost = [100 * (median(found, "lost") or 0) / found[0]["emitted"] for found in runs.values()]
    p50 = [median(found, "latency_p50") or 0.1 for found in runs.values()]
    p99 = [median(found, "latency_p99") or 0.1 for found in runs.values()]
    colours = [OURS if peer == "socketpusher" else THEIRS for peer in runs]
    slower = [ratio(found, figures["alone"]["floor"], "schedule") or 1.0 for found in runs.values()]
    picture, (left, right, last) = pyplot.subplots(1, 3, figsize=(11.5, 0.42 * len(rows) + 1.4), sharey=True)
    left.barh(rows, lost, color=colours, height=0.6)
    _labelled(left, rows, lost, [f"{share:.0f} %" if share >= 1 or not share else f"{share:.1f} %" for share in lost])
    left.set_yticks(rows, names)
    left.set_xlim(0, 125)
    left.set_title("events lost, %", fontsize=10)
    right.hlines(rows, p50, p99, color=colours, linewidth=3, alpha=0.6)
    right.scatter(p50, rows, color=colours, s=36, zorder=3)
    right.scatter(p99, rows, color=colours, s=36, marker="|", linewidth=2.5, zorder=3)
    _labelled(
        right,
        rows,
        p99,
        [f"{a:,.2g} / {b:,.2g}" if b < 10 else f"{a:,.0f} / {b:,.0f}" for a, b in zip(p50, p99, strict=True)],
    )
    right.set_xscale("log")
    right.set_xlim(min(p50) / 2, max(p99) * 40)
    right.set_title("latency of the rest, ms: p50 (dot) to p99 (bar)", fontsize=10)
    last.barh(rows, [100 * (part - 1) for part in slower], color=colours, height=0.6)
    _labelled(last, rows, [100 * (part - 1) for part in slower], [f"{100 * (part - 1):,.0f} %" for part in slower])
    last.set_xlim(0, 120 * (max(slower) - 1))
    last.set_title("the schedule takes longer by, %", fontsize=10)
    for axes in (left, right, last):
        _bare(axes)
    picture.suptitle("A scheduler that never sleeps: an event every 20 microseconds of Python", fontsize=11)
    picture.tight_layout()
    picture.savefig(path, metadata={"Date": None})
    pyplot.close(picture)


def throughput(figures: dict[str, Any], modules: dict[str, ModuleType], path: str) -> None:
    """Events per second in a burst without losses."""
    pyplot = _plot()
    runs = {peer: found for peer, found in figures["unlimited"].items() if found and modules[peer].DELIVERS}
    ordered = sorted(runs, key=lambda peer: median(runs[peer], "rate") or 0.0)
    rows = list(range(len(ordered)))
    rates = [(median(runs[peer], "rate") or 0.0) / 1e3 for peer in ordered]
    picture, axes = pyplot.subplots(figsize=(9.5, 0.42 * len(rows) + 1.2))
    axes.barh(rows, rates, color=[OURS if peer == "socketpusher" else THEIRS for peer in ordered], height=0.6)
    _labelled(axes, rows, rates, [f"{rate:,.0f}" for rate in rates])
    axes.set_yticks(rows, [modules[peer].NAME for peer in ordered])
    axes.set_xlim(0, max(rates) * 1.12)
    axes.set_title(
        "A burst of events, delivered whole: thousand events per second, first emit to last receipt", fontsize=11
    )
    _bare(axes)
    picture.tight_layout()
    picture.savefig(path, metadata={"Date": None})
    pyplot.close(picture)


def draw(figures: dict[str, Any], modules: dict[str, ModuleType], directory: str) -> list[str]:
    """Draw the charts that have figures. Returns the files.

    Raises:
        ImportError: matplotlib is not installed.
    """
    drawn = []
    for scenario, name, picture in (("busy", "busy.svg", busy), ("burst", "throughput.svg", throughput)):
        if scenario in figures:
            os.makedirs(directory, exist_ok=True)
            path = os.path.join(directory, name)
            picture(figures[scenario], modules, path)
            drawn.append(path)
    return drawn
