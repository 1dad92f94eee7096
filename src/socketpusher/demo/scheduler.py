"""The demo's scheduler, a process of its own: one thread, and no moment in which it sleeps.

Run as `python -m socketpusher.demo.scheduler SOCKET [PACKAGE ...]`. It prints a line when half of the work is done, and
at the end what it has measured. The cost of the pusher is measured where it arises: the time that each `emit` takes,
and the CPU time of the pusher's thread. To compare schedules with and without a pusher would not do, because two equal
schedules differ by more than a pusher costs.
"""

import ast
import signal
import statistics
import sys
import threading
import time
import warnings
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from graphlib import TopologicalSorter
from pathlib import Path
from typing import Any

from ..config import PusherConfig
from ..events import Bus, Event, EventType
from ..graph import Graph
from ..pusher import SocketPusher
from .modules import find_modules, imports
from .processes import wait_until

HALFWAY = "halfway\n"

LIMIT = 8.0
"""How long the schedule may take, in seconds; modules that have not begun by then are skipped."""


class Scheduler:
    """Compiles the files of modules, each module after those that it imports, and emits what happens.

    A module is a unit, and each of its files is a task. A module that fails does not stop those that import it.

    Args:
        modules: The source files of each module.
        dependencies: The modules that each one imports.
        bus: Where the events go.
    """

    def __init__(self, modules: Mapping[str, Sequence[Path]], dependencies: Mapping[str, set[str]], bus: Bus) -> None:
        self._modules = modules
        self._sorter = TopologicalSorter(dependencies)
        self._bus = bus
        self.failed = 0  # files
        self.skipped = 0  # modules
        self.emit_times: list[int] = []  # how long each emit took by the clock, in nanoseconds
        self.emit_cpu = 0.0  # how much CPU time all of them took, in seconds

    def run(self) -> Iterator[float]:
        """Do all the work. Yields after each file how much of it is done, from 0 to 1."""
        start = time.monotonic()
        files = sum(map(len, self._modules.values()))
        done = 0
        ready: deque[str] = deque()
        self._sorter.prepare()
        self._emit(EventType.ORCH_STARTED, payload={})
        while self._sorter.is_active():
            for name in self._sorter.get_ready():
                self._emit(EventType.UNIT_QUEUED, name)
                ready.append(name)
            name = ready.popleft()
            time_over = (time.monotonic() - start) / LIMIT
            if time_over >= 1:
                self._emit(EventType.UNIT_SKIPPED, name)
                self.skipped += 1
            else:
                for number in self._run_unit(name):
                    yield max((done + number) / files, time_over)
            self._sorter.done(name)
            done += len(self._modules[name])
        self._emit(EventType.ORCH_COMPLETED, payload={"failed_tasks": self.failed})

    def _run_unit(self, name: str) -> Iterator[int]:
        files = self._modules[name]
        failed = 0
        self._emit(EventType.UNIT_STARTED, name, payload={"total_tasks": len(files), "completed_tasks": 0})
        for task, path in enumerate(files, 1):
            failed += not self._run_task(name, task, path)
            yield task
        self.failed += failed
        if failed:
            self._emit(EventType.UNIT_FAILED, name, error=f"{failed} of {len(files)} files do not compile")
        else:
            self._emit(EventType.UNIT_COMPLETED, name)

    def _run_task(self, unit: str, task: int, path: Path) -> bool:
        self._emit(EventType.TASK_STARTED, unit, task)
        try:
            payload = _compile_file(path)
        except Exception as error:  # a file may hold anything, and the compiler raises accordingly
            text = f"{type(error).__name__}: {error}"
            self._emit(EventType.TASK_FAILED, unit, task, payload={"file": str(path)}, error=text)
            return False
        self._emit(EventType.TASK_COMPLETED, unit, task, payload=payload)
        return True

    def _emit(self, type: str, unit: str = "", task: int | None = None, **fields: Any) -> None:
        event = Event(type, unit, task, **fields)
        cpu, start = time.thread_time(), time.perf_counter_ns()
        self._bus.emit(event)
        self.emit_times.append(time.perf_counter_ns() - start)
        self.emit_cpu += time.thread_time() - cpu


def _compile_file(path: Path) -> dict[str, object]:
    """Read, parse and compile a source file. Returns what it consists of, as the payload of an event."""
    source = path.read_bytes()
    with warnings.catch_warnings(action="ignore"):  # the compiler's opinion of the file is not the point
        tree = ast.parse(source, path)
        compile(tree, path, "exec", dont_inherit=True)
    return {"file": str(path), "lines": source.count(b"\n"), "nodes": sum(1 for _ in ast.walk(tree))}


def main() -> None:
    """Run the schedule once, and print what it cost."""
    path, *names = sys.argv[1:]
    modules = find_modules(names)
    dependencies = imports(modules)
    tasks = {name: len(files) for name, files in modules.items()}
    bus = Bus()
    # The buffer holds all the events of a schedule, however long a busy machine takes to start another display.
    config = PusherConfig(path, buffer_size=100_000, event_ids=True, reconnect_backoff=0.02, max_reconnect_backoff=0.2)
    pusher = SocketPusher(bus, config)
    pusher.set_graph(Graph(dependencies, tasks), parallelism=1)

    def stop(*_: object) -> None:
        pusher.close(0)  # or the writer would wait for a display, and there is none when the demo ends early
        sys.exit(1)

    signal.signal(signal.SIGTERM, stop)
    pusher.start(wait=False)
    wait_until(lambda: pusher.connected)
    idents = [thread.ident for thread in threading.enumerate() if thread.name == "socketpusher"]
    thread_clock = time.pthread_getcpuclockid(idents[0] or 0)
    scheduler = Scheduler(modules, dependencies, bus)
    halfway = False
    cpu, thread_cpu = time.thread_time(), time.clock_gettime(thread_clock)
    for done in scheduler.run():
        if done >= 0.5 and not halfway:
            print(HALFWAY, end="", flush=True)
            halfway = True
    cpu = time.thread_time() - cpu
    pusher.flush()
    thread_cpu = time.clock_gettime(thread_clock) - thread_cpu
    writer_cpu = time.clock_gettime(~(pusher.stats().writer_pid or 0) << 3 | 2)  # clock_getcpuclockid(3) of it
    pusher.close()
    stats = pusher.stats()
    times = sorted(scheduler.emit_times)
    late = f"\n         without {scheduler.skipped} modules for which there was no time" if scheduler.skipped else ""
    print(f"""\
work     {len(modules)} modules, {sum(tasks.values())} files, compiled in {cpu:.1f} s of CPU time{late}
events   {stats.emitted:,} emitted, {stats.sent:,} sent, {stats.dropped:,} lost
         {stats.resent:,} unread by the killed display, and sent again to the next one
emit     {statistics.median(times) / 1e3:.1f} us at the median, {times[len(times) * 99 // 100] / 1e3:.0f} us at 99 %, \
by the clock
         {scheduler.emit_cpu * 1e3:.1f} ms of CPU time in all = {scheduler.emit_cpu / cpu:.2%} of the work
thread   {thread_cpu * 1e3:.1f} ms of CPU time in the pusher's thread = {thread_cpu / cpu:.2%} of the work
writer   {writer_cpu * 1e3:.0f} ms of CPU time in the writer process, with its start""")


if __name__ == "__main__":
    main()
