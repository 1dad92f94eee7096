"""Ten million events: is anything growing?

`python tests/faults/soak.py` or `tox -e soak`: through a consumer that restarts again and again.
`python tests/faults/soak.py --spool` or `tox -e soak -- --spool`: into a spool, with a consumer that comes at the end.
`--events N` for another number.

Every twentieth of them it prints the memory of host and writer (their own, PSS would share it out; here RSS, MiB) and
their open descriptors. It fails if in the second half of the run the median of either process is more than 2 MiB, or a
descriptor, above the first half's; the medians, for at any moment the host may hold up to 8 MiB that are on their way.
With a spool it fails as well if an event is missing, or is not behind the one before it.
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time

from socketpusher import Bus, Event, PusherConfig, SocketPusher

CONSUMER = """
import os, socket, sys
listener = socket.socket(socket.AF_UNIX)
listener.bind(sys.argv[1])
listener.listen()
while True:
    connection, _ = listener.accept()
    while connection.recv(1 << 18):
        pass
"""


ORDERED_CONSUMER = """
import re, socket, sys, time
listener = socket.socket(socket.AF_UNIX)
listener.bind(sys.argv[1])
listener.listen()
connection, _ = listener.accept()
tasks, received, expected, rest = re.compile(rb'"task":(\\d+)'), 0, 0, b""
begin = end = time.monotonic()
while data := connection.recv(1 << 20):
    end = time.monotonic()
    whole, _, rest = (rest + data).rpartition(b"\\n")
    found = list(map(int, tasks.findall(whole)))
    if found != list(range(expected, expected + len(found))):
        print("not in order:", expected, found[:3], flush=True)
    expected += len(found)
print(f"{expected:,} events in order, {expected / (end - begin):,.0f} a second", flush=True)
"""


def rss(pid: int) -> float:
    """Resident memory, MiB."""
    with open(f"/proc/{pid}/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20


def descriptors(pid: int) -> int:
    return len(os.listdir(f"/proc/{pid}/fd"))


class Growth:
    """The memory and the descriptors of a pusher's two processes over a run."""

    def __init__(self) -> None:
        self._rows: list[tuple[float, float, int, int]] = []

    def look(self, pusher: SocketPusher, number: int, more: str = "") -> None:
        stats = pusher.stats()
        assert stats.writer_pid is not None
        writer = stats.writer_pid
        self._rows.append((rss(os.getpid()), rss(writer), descriptors(os.getpid()), descriptors(writer)))
        host_rss, writer_rss, host_fds, writer_fds = self._rows[-1]
        print(
            f"{number:>11,} events, {stats.dropped:,} dropped, {stats.resent:,} resent, "
            f"{stats.reconnects} reconnects: host {host_rss:.1f} MiB, {host_fds} descriptors; "
            f"writer {writer_rss:.1f} MiB, {writer_fds} descriptors{more}",
            flush=True,
        )

    def is_flat(self) -> bool:
        half = len(self._rows) // 2
        medians = [
            [statistics.median(row[column] for row in rows) for column in range(4)]
            for rows in (self._rows[:half], self._rows[half:])
        ]
        grown = [late - early for early, late in zip(*medians, strict=True)]
        flat = grown[0] <= 2 and grown[1] <= 2 and grown[2] < 1 and grown[3] < 1
        print(
            f"second half against the first: host {grown[0]:+.1f} MiB, writer {grown[1]:+.1f} MiB; "
            + ("flat" if flat else "GROWING")
        )
        return flat


def event(number: int) -> Event:
    return Event("task.completed", unit=f"u{number % 100}", task=number, payload={"file": "x" * 60})


def restarting(events: int, directory: str) -> bool:
    """A consumer that is killed twenty times."""
    bus, consumer, growth = Bus(), None, Growth()
    path = os.path.join(directory, "s")
    config = PusherConfig(socket_path=path, reconnect_backoff=0.01, max_reconnect_backoff=0.1, event_ids=True)
    pusher = SocketPusher(bus, config)
    pusher.set_graph({f"u{i}": [] for i in range(100)}, 4)
    pusher.start(wait=False)
    begin = time.monotonic()
    for number in range(events):
        if number % (events // 20) == 0:
            if consumer is not None:
                consumer.kill()
                consumer.wait()
                os.unlink(path)
            consumer = subprocess.Popen([sys.executable, "-S", "-c", CONSUMER, path])
        bus.emit(event(number))
        if (number + 1) % (events // 20) == 0:
            pusher.flush(30)
            growth.look(pusher, number + 1)
    pusher.close()
    stats = pusher.stats()
    if consumer is not None:
        consumer.kill()
        consumer.wait()
    print(f"{events / (time.monotonic() - begin):,.0f} events/s; {stats}")
    return growth.is_flat() and stats.emitted == stats.sent + stats.dropped == events


def spooled(events: int, directory: str) -> bool:
    """A consumer that comes when all is emitted."""
    bus, growth = Bus(), Growth()
    path, spool = os.path.join(directory, "s"), os.path.join(directory, "spool")
    pusher = SocketPusher(bus, PusherConfig(path, spool=spool, spool_bytes=64 << 30, max_reconnect_backoff=0.1))
    pusher.start(wait=False)
    begin = time.monotonic()
    for number in range(events):
        bus.emit(event(number))
        if (number + 1) % (events // 20) == 0:
            size = sum(os.path.getsize(os.path.join(spool, name)) for name in os.listdir(spool))
            growth.look(pusher, number + 1, f"; {size / 1e6:,.0f} MB on the disk")
    print(f"{events / (time.monotonic() - begin):,.0f} events/s emitted")
    consumer = subprocess.Popen([sys.executable, "-c", ORDERED_CONSUMER, path], stdout=subprocess.PIPE, text=True)
    flat = growth.is_flat()
    growth = Growth()  # the writer has other things in memory while it reads from the disk
    while not pusher.flush(5):
        growth.look(pusher, events, f"; {pusher.stats().pending:,} to go")
    pusher.close()
    said, _ = consumer.communicate()
    stats = pusher.stats()
    print(f"{said}{stats}")
    flat = growth.is_flat() and flat
    return flat and stats.sent == events and said.startswith(f"{events:,} events in order") and not os.listdir(spool)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--events", type=int, default=10_000_000)
    parser.add_argument("--spool", action="store_true")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="sp") as directory:
        return not (spooled if arguments.spool else restarting)(arguments.events, directory)


if __name__ == "__main__":
    sys.exit(main())
