"""Runs the demo's scheduler with and without a pusher, in turn, and says what that made of a difference."""

import gc
import random
import signal
import textwrap
import time
from collections.abc import Mapping, Sequence
from multiprocessing import resource_tracker

from ..config import PusherConfig
from ..events import Bus
from ..graph import Graph
from ..pusher import SocketPusher
from ..terminal.watch import can_draw
from .accident import Accident
from .figures import Figures, Timing, count_of, table
from .keeper import Keeper, kept_display, signals
from .modules import Unit, packages, standard_library, units_of
from .scheduler import Scheduler

DEFAULT_ROUNDS = 4
"""How many schedules are measured with the pusher, and as many without."""

_DELIVERY = 5.0
"""How long what waits at the end of a schedule may take to be delivered, in seconds."""

_BUFFER = 10_000
"""How many events may wait for a display: 500 a second, for as long as a busy machine may take to start another one."""


def demonstrate(names: Sequence[str] = (), *, rounds: int = DEFAULT_ROUNDS, plain: bool = False) -> None:
    """Run the demo and print its table.

    Args:
        names: The packages or modules to work on; none means the standard library.
        rounds: How many schedules to measure with the pusher, and as many without.
        plain: Whether to print lines though the output is a terminal.

    Raises:
        ValueError: A package can't be worked on.
        OSError: The display can't be started, or ended before the demo.
        BrokenPipeError: Nobody reads the output any more.
    """
    plain = plain or not can_draw()
    units = _read_units(names)
    figures = Figures()
    resource_tracker.ensure_running()  # its start unblocks signals (CPython 3.11 to 3.13), so not amid that of a pusher
    with kept_display(plain) as keeper:
        turns = _turns(rounds)
        unlucky = [number for number, with_pusher in enumerate(turns, 1) if with_pusher][1 + rounds // 2]
        for number, with_pusher in enumerate(turns, 1):
            way = "with the pusher" if with_pusher else "without a pusher, so nothing is shown"
            warm_up = ", to warm up" if number == 1 else ""
            keeper.say(f"schedule {number} of {len(turns)}, {way}{warm_up} ...")
            accident = random.uniform(0.2, 0.8) * figures.emitted / len(figures.books) if number == unlucky else None
            timing = _run_watched(units, keeper, figures, accident) if with_pusher else _run_alone(units)
            keeper.say(f"  {timing.wall:.3f} s")
            if number > 1:
                (figures.watched if with_pusher else figures.alone).append(timing)
        displays = keeper.finish()
    print("\n" + table(figures, displays))


def _turns(rounds: int) -> list[bool]:
    """Whether each schedule has the pusher: one to warm up, then pairs, each the other way round than the last."""
    turns = [True]
    for number in range(rounds):
        turns += [False, True] if number % 2 == 0 else [True, False]
    return turns


def _read_units(names: Sequence[str]) -> dict[str, Unit]:
    sources = packages(names) if names else standard_library()
    where = "" if names else " of the standard library"
    files = sum(map(len, sources.values()))
    print(f"reading {count_of(len(sources), 'module')}{where}, {count_of(files, 'file')} ...", flush=True)
    units = units_of(sources)
    for unit in units.values():
        if len(unit.modules) > 1:
            circle = f"one unit, for they import each other in a circle: {', '.join(unit.modules)}"
            print(textwrap.fill(circle, 100, subsequent_indent="  "))
    graph = _graph(units)
    levels = len(graph.levels())
    print(f"{count_of(len(units), 'unit')} in {count_of(levels, 'level')}, {count_of(files, 'task')}", flush=True)
    return units


def _graph(units: Mapping[str, Unit]) -> Graph:
    return Graph(
        {name: unit.dependencies for name, unit in units.items()},
        {name: len(unit.files) for name, unit in units.items()},
    )


def _run_alone(units: Mapping[str, Unit]) -> Timing:
    return _timed(Scheduler(units, Bus()))


def _run_watched(units: Mapping[str, Unit], keeper: Keeper, figures: Figures, event: float | None) -> Timing:
    """A schedule with a pusher. After so many events, if that is given, the display is killed."""
    bus = Bus()
    pusher = SocketPusher(bus, PusherConfig(socket_path=keeper.path, buffer_size=_BUFFER, event_ids=True))
    pusher.set_graph(_graph(units), parallelism=1)
    scheduler = Scheduler(units, bus)
    try:
        pusher.start()
        if event is None:
            timing = _timed(scheduler)
        else:
            with Accident(keeper, scheduler, event) as accident:
                timing = _timed(scheduler)
            figures.kill = accident.kill
            keeper.wait_until_ready()
        pusher.close(_DELIVERY if keeper.runs() else 0)
    except BaseException:
        pusher.close(0)  # at once, for this is Ctrl-C
        raise
    figures.emitted += scheduler.emitted
    figures.failed = scheduler.failed
    figures.books.append(pusher.stats())
    return timing


def _timed(scheduler: Scheduler) -> Timing:
    with signals(signal.SIG_BLOCK):  # for an exception in a callback of the collector, Ctrl-C's too, goes nowhere
        gc.collect()  # what the schedule before has left is not to be paid by this one
    wall, cpu = time.perf_counter(), time.process_time()
    scheduler.run()
    return Timing(time.perf_counter() - wall, time.process_time() - cpu)
