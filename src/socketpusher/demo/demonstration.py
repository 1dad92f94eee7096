"""Runs the demo's scheduler with and without a pusher, in turn, and says what that made of a difference."""

import gc
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import textwrap
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from multiprocessing import resource_tracker

from ..config import PusherConfig
from ..events import Bus
from ..graph import Graph
from ..pusher import SocketPusher
from .figures import Figures, Received, Timing, count_of, table
from .modules import Unit, packages, standard_library, units_of
from .scheduler import Scheduler

DEFAULT_ROUNDS = 4
"""How many schedules are measured with the pusher, and as many without."""

_DELIVERY = 5.0
"""How long what waits at the end of a schedule may take to be delivered, in seconds."""

_FAREWELL = 2.0
"""How long the listener process may take to end, in seconds."""


def demonstrate(names: Sequence[str] = (), *, rounds: int = DEFAULT_ROUNDS, plain: bool = False) -> None:
    """Run the demo and print its table.

    Args:
        names: The packages or modules to work on; none means the standard library.
        rounds: How many schedules to measure with the pusher, and as many without.
        plain: Whether to print lines though the output is a terminal.

    Raises:
        ValueError: A package can't be worked on.
        OSError: The listener can't be started, or ended before the demo.
        BrokenPipeError: Nobody reads the output any more.
    """
    units = _read_units(names)
    figures = Figures()
    resource_tracker.ensure_running()  # its start unblocks signals (CPython 3.11 to 3.13), so not amid that of a pusher
    with _listener_process(plain) as listener:
        turns = _turns(rounds)
        for number, with_pusher in enumerate(turns, 1):
            way = "with the pusher" if with_pusher else "without a pusher, so nothing is shown"
            warm_up = ", to warm up" if number == 1 else ""
            listener.say(f"schedule {number} of {len(turns)}, {way}{warm_up} ...\n")
            timing = _run_watched(units, listener, figures) if with_pusher else _run_alone(units)
            listener.say(f"  {timing.wall:.3f} s\n")
            if number > 1:
                (figures.watched if with_pusher else figures.alone).append(timing)
        received = listener.received()
    print("\n" + table(figures, received))


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


def _run_watched(units: Mapping[str, Unit], listener: "_ListenerProcess", figures: Figures) -> Timing:
    bus = Bus()
    pusher = SocketPusher(bus, PusherConfig(socket_path=listener.path))
    pusher.set_graph(_graph(units), parallelism=1)
    scheduler = Scheduler(units, bus)
    try:
        pusher.start()
        timing = _timed(scheduler)
        pusher.close(_DELIVERY if listener.runs() else 0)
    except BaseException:
        pusher.close(0)  # at once, for this is Ctrl-C
        raise
    figures.emitted += scheduler.emitted
    figures.failed = scheduler.failed
    figures.books.append(pusher.stats())
    return timing


def _timed(scheduler: Scheduler) -> Timing:
    with _signals(signal.SIG_BLOCK):  # for an exception in a callback of the collector, Ctrl-C's too, goes nowhere
        gc.collect()  # what the schedule before has left is not to be paid by this one
    wall, cpu = time.perf_counter(), time.process_time()
    scheduler.run()
    return Timing(time.perf_counter() - wall, time.process_time() - cpu)


class _ListenerProcess:
    """The process that listens, shows and measures.

    Args:
        process: The process.
        line: Our end of the socket that is its standard input.
        path: Where it listens.
    """

    def __init__(self, process: "subprocess.Popen[bytes]", line: socket.socket, path: str) -> None:
        self.path = path
        self._process = process
        self._line = line
        answer = self._answer()
        if answer != "ready":
            raise OSError(answer)

    def say(self, text: str) -> None:
        """Have it show lines of text."""
        try:
            self._line.sendall(text.encode())
        except (BrokenPipeError, ConnectionResetError):
            raise self._ended() from None

    def runs(self) -> bool:
        """Whether it has not ended."""
        return self._process.poll() is None

    def received(self) -> Received:
        """Have it end, and tell what it measured."""
        try:
            self._line.shutdown(socket.SHUT_WR)
        except OSError:
            raise self._ended() from None
        received = Received(**json.loads(self._answer()))
        self._process.wait()  # what it shows comes before what we print
        return received

    def _answer(self) -> str:
        answer = b""
        while not answer.endswith(b"\n"):
            try:
                part = self._line.recv(65536)
            except ConnectionResetError:
                part = b""
            if not part:
                raise self._ended()
            answer += part
        return answer.decode().rstrip()

    def _ended(self) -> OSError:
        code = self._process.wait()
        if code == 128 + signal.SIGPIPE:
            return BrokenPipeError()
        return ChildProcessError(f"the demo's listener process ended too early, with exit code {code}; start it again")


@contextmanager
def _listener_process(plain: bool) -> Iterator[_ListenerProcess]:
    """Start it, and leave nothing of it behind.

    A Ctrl-C that came while it is started or ended would leave something, so signals wait meanwhile. The process
    inherits that, so they never reach it; it ends when our end of its standard input is closed.
    """
    with _signals(signal.SIG_BLOCK), tempfile.TemporaryDirectory(prefix="sp-", ignore_cleanup_errors=True) as directory:
        path = os.path.join(directory, "demo.sock")
        command = [sys.executable, "-m", "socketpusher.demo.display", path, *(["--plain"] if plain else [])]
        ours, theirs = socket.socketpair()
        with ours:
            with theirs:
                process = subprocess.Popen(command, stdin=theirs.fileno())
            try:
                with _signals(signal.SIG_UNBLOCK):
                    yield _ListenerProcess(process, ours, path)
            finally:
                ours.close()
                _wait(process)


@contextmanager
def _signals(how: int) -> Iterator[None]:
    before = signal.pthread_sigmask(how, {signal.SIGINT, signal.SIGTERM, signal.SIGHUP})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _wait(process: "subprocess.Popen[bytes]") -> None:
    try:
        process.wait(_FAREWELL)
    except subprocess.TimeoutExpired:  # it is stopped, or waits for whoever should read its output
        process.kill()
        process.wait()
