"""Ten million events through a consumer that restarts again and again: is anything growing?

`python tests/faults/soak.py` or `tox -e soak`; `--events N` for another number. Every half million events it prints the
memory of host and writer (their own, PSS would share it out; here RSS, MiB) and their open descriptors. It fails if
in the second half of the run the median of either process is more than 2 MiB, or a descriptor, above the first half's;
the medians, for at any moment the host may hold up to 8 MiB that are on their way.
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


def rss(pid: int) -> float:
    """Resident memory, MiB."""
    with open(f"/proc/{pid}/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20


def descriptors(pid: int) -> int:
    return len(os.listdir(f"/proc/{pid}/fd"))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--events", type=int, default=10_000_000)
    events = parser.parse_args().events
    bus = Bus()
    consumer = None
    with tempfile.TemporaryDirectory(prefix="sp") as directory:
        path = os.path.join(directory, "s")
        config = PusherConfig(socket_path=path, reconnect_backoff=0.01, max_reconnect_backoff=0.1, event_ids=True)
        pusher = SocketPusher(bus, config)
        pusher.set_graph({f"u{i}": [] for i in range(100)}, 4)
        pusher.start(wait=False)
        rows: list[tuple[float, float, int, int]] = []
        begin = time.monotonic()
        for number in range(events):
            if number % (events // 20) == 0:
                if consumer is not None:
                    consumer.kill()
                    consumer.wait()
                    os.unlink(path)
                consumer = subprocess.Popen([sys.executable, "-S", "-c", CONSUMER, path])
            bus.emit(Event("task.completed", unit=f"u{number % 100}", task=number, payload={"file": "x" * 60}))
            if (number + 1) % (events // 20) == 0:
                pusher.flush(30)
                stats = pusher.stats()
                assert stats.writer_pid is not None
                writer = stats.writer_pid
                rows.append((rss(os.getpid()), rss(writer), descriptors(os.getpid()), descriptors(writer)))
                host_rss, writer_rss, host_fds, writer_fds = rows[-1]
                print(
                    f"{number + 1:>11,} events, {stats.dropped:,} dropped, {stats.resent:,} resent, "
                    f"{stats.reconnects} reconnects: host {host_rss:.1f} MiB, {host_fds} descriptors; "
                    f"writer {writer_rss:.1f} MiB, {writer_fds} descriptors",
                    flush=True,
                )
        pusher.close()
        stats = pusher.stats()
        if consumer is not None:
            consumer.kill()
            consumer.wait()
    print(f"{events / (time.monotonic() - begin):,.0f} events/s; {stats}")
    half = len(rows) // 2
    grown = [
        statistics.median(row[column] for row in rows[half:]) - statistics.median(row[column] for row in rows[:half])
        for column in range(4)
    ]
    flat = grown[0] <= 2 and grown[1] <= 2 and grown[2] < 1 and grown[3] < 1
    exact = stats.emitted == stats.sent + stats.dropped == events
    print(
        f"second half against the first: host {grown[0]:+.1f} MiB, writer {grown[1]:+.1f} MiB; "
        + ("flat" if flat else "GROWING")
    )
    return not (flat and exact)


if __name__ == "__main__":
    sys.exit(main())
