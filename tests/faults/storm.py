"""A storm of faults: a seeded random schedule of everything that can go wrong, against the books and the consumers.

`python tests/faults/storm.py --seconds 60 --seed 7` or `tox -e storm`. What holds at the end of each storm:

- no event is missing that the books do not count as dropped, told by its id;
- no line is torn: whatever stands before a newline decodes;
- order: on one connection ids only rise, and the events of one thread and of one forked child come in their order;
- emitted == sent + dropped + pending, and pending is 0 after a flush.

A consumer that is killed and a writer that is killed before the kernel's count was read are the two cases in which
events come twice; repetitions are counted, and shown.
"""

import argparse
import logging
import os
import random
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field

from socketpusher import Bus, Event, PusherConfig, SocketPusher, wire

CONNECTION = b"--- connection\n"

CONSUMER = """
import os, socket, sys
listener = socket.socket(socket.AF_UNIX)
listener.bind(sys.argv[1])
listener.listen()
while True:
    connection, _ = listener.accept()
    with open(sys.argv[2], "ab", buffering=0) as file:
        file.write(b"--- connection\\n")
        while data := connection.recv(65536, socket.MSG_PEEK):
            # On record before it counts as read: killed between the two, it gets the same again, and none is missing.
            file.write(data)
            connection.recv(len(data))
"""


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
        self.record = os.path.join(directory, "record")
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
        self.consumer: subprocess.Popen[bytes] | None = None
        self.count = 0
        self.lock = threading.Lock()

    def emit(self, source: str, number: int) -> None:
        payload = "x" * self.random.choice([0, 10, 10, 10, 300, 5000])
        kind = self.random.choice(["unit.started", "unit.completed", "task.completed", "log"])
        self.bus.emit(Event(kind, unit=f"u{number % 20}", task=number, payload={"source": source, "pad": payload}))

    def start_consumer(self) -> None:
        if self.consumer is None:
            if os.path.exists(self.path):
                os.unlink(self.path)
            self.consumer = subprocess.Popen([sys.executable, "-S", "-c", CONSUMER, self.path, self.record])

    def kill_consumer(self) -> None:
        if self.consumer is not None:
            self.consumer.kill()
            self.consumer.wait()
            self.consumer = None

    def stall_consumer(self) -> None:
        if self.consumer is not None:
            os.kill(self.consumer.pid, signal.SIGSTOP)

    def resume_consumer(self) -> None:
        if self.consumer is not None:
            os.kill(self.consumer.pid, signal.SIGCONT)

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
        os.waitpid(pid, 0)

    def rest(self) -> None:
        time.sleep(self.random.choice([0, 0.001, 0.01, 0.1]))

    def run(self, seconds: float) -> Outcome:
        self.start_consumer()
        self.pusher.start(wait=False)
        actions: list[tuple[int, Callable[[], object]]] = [
            (30, self.burst),
            (8, self.threads),
            (6, self.fork),
            (25, self.rest),
            (8, self.kill_consumer),
            (14, self.start_consumer),
            (6, self.stall_consumer),
            (12, self.resume_consumer),
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
        self.start_consumer()
        self.resume_consumer()
        if not self.pusher.flush(60):
            self.outcome.problems.append(f"not flushed a minute after the storm: {self.pusher.stats()}")
        stats = self.pusher.stats()
        self.pusher.close(10)
        closed = self.pusher.stats()
        for books in (stats, closed):
            if books.emitted != books.sent + books.dropped + books.pending or books.pending:
                self.outcome.problems.append(f"the books do not add up: {books}")
        self.outcome.emitted, self.outcome.dropped = closed.emitted, closed.dropped
        # The writer closes when all is sent; the last consumer has read it all when it waits for the next connection.
        deadline = time.monotonic() + 30
        while not self.accepts_again() and time.monotonic() < deadline:
            time.sleep(0.01)
        self.kill_consumer()
        os.unlink(self.path)

    def accepts_again(self) -> bool:
        """Whether a connection made now is accepted, which comes after the end of the one before."""
        with socket.socket(socket.AF_UNIX) as probe, open(self.record, "rb") as record:
            before = record.read().count(CONNECTION)
            probe.connect(self.path)
            end = time.monotonic() + 5
            while time.monotonic() < end:
                record.seek(0)
                if record.read().count(CONNECTION) > before:
                    return True
                time.sleep(0.01)
        return False

    def judge(self) -> None:
        with open(self.record, "rb") as file:
            connections = file.read().split(CONNECTION)[1:]
        seen: set[int] = set()
        sources: dict[str, list[int]] = {}
        lines = 0
        for connection in connections:
            last = 0
            for line in connection.split(b"\n")[:-1]:
                try:
                    event = wire.decode(line)
                except wire.DecodeError as error:
                    self.outcome.problems.append(f"torn: {error} {line!r}")
                    continue
                if b'"id":"' not in line[-60:]:
                    continue  # the handshake
                lines += 1
                number = int(line.rpartition(b"-")[2].rstrip(b'"}'))
                if number <= last:
                    self.outcome.problems.append(f"out of order: id {number} after {last}")
                last = number
                if number not in seen:
                    sources.setdefault(event.payload["source"], []).append(event.task or 0)
                seen.add(number)
        for source, tasks in sources.items():
            if tasks != sorted(tasks) or len(tasks) != len(set(tasks)):
                self.outcome.problems.append(f"events of {source!r} out of order: {tasks[:50]}")
        self.outcome.received = lines
        self.outcome.repeated = lines - len(seen)
        self.outcome.missing = self.outcome.emitted - len(seen)
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
            return Storm(seed, directory).run(seconds)
    finally:
        logger.disabled = False


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seconds", type=float, default=60, help="how long in all (default: 60)")
    parser.add_argument("--each", type=float, default=10, help="how long each storm lasts (default: 10)")
    parser.add_argument("--seed", type=int, default=None, help="of the first storm (default: random)")
    options = parser.parse_args()
    seed = options.seed if options.seed is not None else random.randrange(1_000_000)
    end = time.monotonic() + options.seconds
    failed = 0
    total = Outcome(seed)
    while time.monotonic() < end:
        outcome = storm(min(options.each, options.seconds), seed)
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
    return failed > 0


if __name__ == "__main__":
    sys.exit(main())
