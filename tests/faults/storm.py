"""A storm of faults: a seeded random schedule of everything that can go wrong, against the books and the consumers.

`python tests/faults/storm.py --seconds 60 --seed 7` or `tox -e storm`. What holds at the end of each storm:

- no event is missing that the books do not count as dropped, told by its id;
- no line is torn: whatever stands before a newline decodes;
- order: on one connection ids only rise, and the events of one thread and of one forked child come in their order;
- emitted == sent + dropped + pending, and pending is 0 after a flush.

Beside it run hostile hosts, each in a process of its own, see `storm_hosts`: `--hosts reaper forks` for some of them,
`--hosts` for none. Ctrl-C ends everything at once.

A consumer that is killed and a writer that is killed before the kernel's count was read are the two cases in which
events come twice; repetitions are counted, and shown.
"""

import argparse
import logging
import os
import random
import signal
import subprocess
import sys
import tempfile
import threading
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from socketpusher import Bus, Event, PusherConfig, SocketPusher

sys.path.append(str(Path(__file__).parent.parent))  # it is run as a script, too

from storm_hosts import KINDS, Hosts, end_session, read_events

from support.recorder import Recorder


@dataclass
class Outcome:
    """What a storm came to."""

    seed: int
    faults: dict[str, int] = field(default_factory=dict)
    emitted: int = 0
    received: int = 0  # lines
    missing: int = 0  # events that no consumer has
    dropped: int = 0
    repeated: int = 0
    problems: list[str] = field(default_factory=list)


class Storm:
    """One pusher, one consumer process at a time, and a schedule of faults."""

    def __init__(self, seed: int, directory: str) -> None:
        self.random = random.Random(seed)
        self.outcome = Outcome(seed)
        self.path = os.path.join(directory, "s")
        self.recorder = Recorder(self.path)
        self.bus = Bus()
        self.config = PusherConfig(
            socket_path=self.path,
            buffer_size=self.random.choice([50, 1000, 100_000]),
            overflow=self.random.choice(["drop_newest", "drop_oldest"]),
            event_ids=True,
            write_timeout=self.random.choice([0.1, 5.0]),
            reconnect_backoff=0.005,
            max_reconnect_backoff=0.05,
        )
        self.pusher = SocketPusher(self.bus, self.config)
        if self.random.random() < 0.5:
            self.pusher.set_graph({f"u{i}": [] for i in range(20)}, 4)
        self.count = 0
        self.lock = threading.Lock()

    def emit(self, source: str, number: int) -> None:
        payload = "x" * self.random.choice([0, 10, 10, 10, 300, 5000])
        kind = self.random.choice(["unit.started", "unit.completed", "task.completed", "log"])
        self.bus.emit(Event(kind, unit=f"u{number % 20}", task=number, payload={"source": source, "pad": payload}))

    def signal_writer(self, number: int) -> None:
        pid = self.pusher.stats().writer_pid
        if pid is not None:
            try:
                os.kill(pid, number)
            except ProcessLookupError:
                pass

    def burst(self) -> None:
        for _ in range(self.random.choice([1, 10, 300, 3000])):
            self.emit("main", self.count)
            self.count += 1

    def threads(self) -> None:
        def work(name: str) -> None:
            for number in range(100):
                self.emit(name, number)

        started = [threading.Thread(target=work, args=(f"thread {self.count} {i}",)) for i in range(3)]
        self.count += 1
        for thread in started:
            thread.start()
        for thread in started:
            thread.join()

    def fork(self) -> None:
        pid = os.fork()
        if pid == 0:
            try:
                for number in range(50):
                    self.emit(f"child {os.getpid()} {self.count}", number)
                self.pusher.flush(20)
            finally:
                os._exit(0)
        self.count += 1
        try:
            os.waitpid(pid, 0)
        except KeyboardInterrupt:
            os.kill(pid, signal.SIGKILL)
            raise

    def rest(self) -> None:
        time.sleep(self.random.choice([0, 0.001, 0.01, 0.1]))

    def run(self, seconds: float) -> Outcome:
        self.pusher.start(wait=False)
        actions: list[tuple[int, Callable[[], object]]] = [
            (30, self.burst),
            (8, self.threads),
            (6, self.fork),
            (25, self.rest),
            (8, self.recorder.kill),
            (14, self.recorder.start),
            (6, self.recorder.stall),
            (12, self.recorder.go_on),
            (3, lambda: self.signal_writer(signal.SIGKILL)),
            (4, lambda: self.signal_writer(signal.SIGSTOP)),
            (10, lambda: self.signal_writer(signal.SIGCONT)),
            (3, lambda: self.pusher.flush(0.05)),
        ]
        names = [
            "burst", "threads", "fork", "rest", "kill consumer", "start consumer", "stall consumer", "resume consumer",
            "kill writer", "stop writer", "continue writer", "flush",
        ]  # fmt: skip
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            choice = self.random.choices(range(len(actions)), [weight for weight, _ in actions])[0]
            actions[choice][1]()
            self.outcome.faults[names[choice]] = self.outcome.faults.get(names[choice], 0) + 1
        self.calm()
        self.judge()
        return self.outcome

    def calm(self) -> None:
        """The storm is over: everything runs, and everything that waits must arrive."""
        self.signal_writer(signal.SIGCONT)
        self.recorder.start()
        self.recorder.go_on()
        if not self.pusher.flush(60):
            self.outcome.problems.append(f"not flushed a minute after the storm: {self.pusher.stats()}")
        stats = self.pusher.stats()
        self.pusher.close(10)
        closed = self.pusher.stats()
        for books in (stats, closed):
            if books.emitted != books.sent + books.dropped + books.pending or books.pending:
                self.outcome.problems.append(f"the books do not add up: {books}")
        self.outcome.emitted, self.outcome.dropped = closed.emitted, closed.dropped
        self.recorder.catch_up()
        self.recorder.kill()

    def judge(self) -> None:
        events, lines, problems = read_events(self.recorder.connections())
        self.outcome.problems += problems
        sources: dict[str, list[int]] = {}
        for event in events.values():
            sources.setdefault(event.payload["source"], []).append(event.task or 0)
        for source, tasks in sources.items():
            if tasks != sorted(tasks) or len(tasks) != len(set(tasks)):
                self.outcome.problems.append(f"events of {source!r} out of order: {tasks[:50]}")
        self.outcome.received = lines
        self.outcome.repeated = lines - len(events)
        self.outcome.missing = self.outcome.emitted - len(events)
        # More may be counted: what a consumer had read, but not as far as the kernel told, may be dropped on its way to
        # the next one.
        if self.outcome.missing > self.outcome.dropped:
            self.outcome.problems.append(
                f"{self.outcome.missing} events missing, {self.outcome.dropped} counted as dropped"
            )


def storm(seconds: float, seed: int) -> Outcome:
    """Run one storm, without its log: every fault is there on purpose."""
    logger = logging.getLogger("socketpusher")
    logger.disabled = True
    try:
        with tempfile.TemporaryDirectory(prefix="sp") as directory, warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # forking with threads is what is tried
            one = Storm(seed, directory)
            try:
                return one.run(seconds)
            finally:
                one.recorder.kill()
                one.pusher.close(0)
    finally:
        logger.disabled = False


def storms(seconds: float, each: float, seed: int) -> int:
    """One storm after the other; how many had problems."""
    end = time.monotonic() + seconds
    failed = 0
    total = Outcome(seed)
    while time.monotonic() < end:
        outcome = storm(min(each, seconds), seed)
        print(
            f"seed {seed}: {outcome.emitted} emitted, {outcome.received} received, {outcome.repeated} repeated, "
            f"{outcome.dropped} dropped; {outcome.faults}",
            flush=True,
        )
        for problem in outcome.problems[:10]:
            print(f"  PROBLEM {problem[:500]}", flush=True)
        failed += bool(outcome.problems)
        total.emitted += outcome.emitted
        total.repeated += outcome.repeated
        total.dropped += outcome.dropped
        seed += 1
    print(f"{failed} storms with problems; {total.emitted} events, {total.dropped} dropped, {total.repeated} repeated")
    return failed


def with_hosts(kinds: list[str], seconds: float, each: float, seed: int) -> int:
    """The same in a process of its own, and beside it the hostile hosts; how many of all had problems."""
    stop: list[int] = []
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda signum, _: stop.append(signum))  # an exception might lose a process
    began = said = time.monotonic()
    command = [sys.executable, __file__, "--seconds", str(seconds), "--each", str(each), "--seed", str(seed), "--hosts"]
    failed = judged = events = 0
    with tempfile.TemporaryDirectory(prefix="sp") as directory:
        hosts = Hosts(kinds, seconds, seed, directory)
        alone = subprocess.Popen(command, start_new_session=True)
        try:
            while not stop and not (hosts.over and alone.poll() is not None):
                for host in hosts.turn():
                    for problem in host.problems[:10]:
                        print(f"  PROBLEM {host.kind}, seed {host.seed}: {problem}", flush=True)
                    failed += bool(host.problems)
                    judged += 1
                    events += host.emitted
                if time.monotonic() > said + 10:
                    said = time.monotonic()
                    alive = ", ".join(f"{host.kind} {host.age():.0f} s" for host in hosts.alive)
                    print(f"{said - began:.0f} s: {judged} hosts with {events} events judged; {alive}", flush=True)
                time.sleep(0.1)
        finally:
            hosts.end()
            end_session(alone.pid)
            alone.wait()
    print(f"{failed} of {judged} hosts with problems, {events} events" + ", interrupted" * bool(stop))
    return failed + abs(alone.returncode) + len(stop)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seconds", type=float, default=60, help="how long in all (default: 60)")
    parser.add_argument("--each", type=float, default=10, help="how long each storm lasts (default: 10)")
    parser.add_argument("--seed", type=int, default=None, help="of the first storm and hosts (default: random)")
    parser.add_argument(
        "--hosts", nargs="*", choices=[*KINDS, []], default=list(KINDS), metavar="KIND",
        help=f"which hostile hosts run beside it, none or any of {', '.join(KINDS)} (default: all)",
    )  # fmt: skip
    options = parser.parse_args()
    seed = options.seed if options.seed is not None else random.randrange(1_000_000)
    if options.hosts:
        return with_hosts(options.hosts, options.seconds, options.each, seed) > 0
    return storms(options.seconds, options.each, seed) > 0


if __name__ == "__main__":
    sys.exit(main())
