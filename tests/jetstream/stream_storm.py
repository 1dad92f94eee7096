"""A storm of faults between three hosts and a stream on three servers.

`python tests/jetstream/stream_storm.py --seconds 600 --seed 7` or `tox -e stream-storm`. At random, relays are killed
and stopped, servers are killed, stopped and started again, the stream gets another leader, and links are slowed, held
and cut; but never two servers at once. At the end of each storm:

- every event is in the stream once, and with ids those of a session are in their order;
- each graph is where it belongs between the events;
- the books of the pushers are those of the stream: nothing dropped, nothing pending.

`--no-ids` is the same without ids. Each storm is shorter than the duplicate window then, or the stream could not know
what it has.
"""

import argparse
import os
import random
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

sys.path.append(str(Path(__file__).parent.parent))  # it is run as a script, too

from socketpusher import wire
from support.link import Link, link
from support.nats import Relay, Server, cluster
from support.stream_load import Load, graphs_are_where_they_belong, tasks
from support.waiting import stop, wait_for

HOSTS = 3
WINDOW = 1200  # seconds


class Host:
    """A pusher, and its relay, which may be replaced."""

    def __init__(self, name: str, directory: Path, urls: str, event_ids: bool) -> None:
        self.name = name
        self._path = str(directory / name)
        self._urls = urls
        self.relay = self._start()
        self.load = Load(self._path, event_ids)

    def _start(self) -> Relay:
        options = ("--host", self.name, "--replicas", "3", "--duplicate-window", f"{WINDOW}s")
        return Relay(self._path, self._urls, *options)

    def replace_relay(self) -> None:
        self.relay.kill()
        if os.path.exists(self._path):
            os.unlink(self._path)
        self.relay = self._start()

    def end(self) -> None:
        self.load.pusher.close(0)
        self.relay.kill()


class StreamStorm:
    """Hosts, servers, links, and a schedule of faults.

    Args:
        seed: Of the schedule.
        servers: A cluster.
        links: To each of its servers.
        hosts: Whose relays know only the links.
    """

    def __init__(self, seed: int, servers: list[Server], links: list[Link], hosts: list[Host]) -> None:
        self.faults: Counter[str] = Counter()
        self._random = random.Random(seed)
        self._servers, self._links, self._hosts = servers, links, hosts
        self._stopped: list[tuple[float, object]] = []  # until when, and what goes on then

    def run(self, seconds: float) -> None:
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            for host in self._hosts:
                host.load.emit(self._random.randrange(300))
            if self._random.random() < 0.5:
                fault = self._random.choice(
                    [
                        self.kill_relay,
                        self.stop_relay,
                        self.fail_server,
                        self.move_leader,
                        self.slow_link,
                        self.cut_link,
                    ]
                )
                self.faults[fault.__name__] += 1
                fault()
            time.sleep(self._random.random() * 0.5)

    def kill_relay(self) -> None:
        self._random.choice(self._hosts).replace_relay()

    def stop_relay(self) -> None:
        host = self._random.choice(self._hosts)
        pid = host.relay.process.pid
        if host.relay.process.poll() is None:
            stop(pid)
            time.sleep(self._random.random() * 2)
            os.kill(pid, signal.SIGCONT)

    def fail_server(self) -> None:
        """One server is stopped or killed for a while, longer than a relay waits for an answer."""
        server = self._random.choice(self._servers)
        killed = self._random.random() < 0.5
        server.kill() if killed else server.stop()
        self.emit_for(self._random.random() * 8)
        server.start() if killed else server.go_on()
        wait_for(lambda: self._leader() is not None, 60)

    def emit_for(self, seconds: float) -> None:
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            for host in self._hosts:
                host.load.emit(self._random.randrange(50))
            time.sleep(0.1)

    def move_leader(self) -> None:
        async def step_down(js: object) -> None:
            await js._nc.request("$JS.API.STREAM.LEADER.STEPDOWN.EVENTS", b"", timeout=5)  # type: ignore[attr-defined]

        try:
            self._random.choice(self._servers).call(step_down)
        except Exception:
            self.faults["move_leader, refused"] += 1

    def slow_link(self) -> None:
        link = self._random.choice(self._links)
        link.bytes_per_second = self._random.choice([20_000, 200_000])
        self.emit_for(self._random.random() * 3)
        link.bytes_per_second = 0

    def cut_link(self) -> None:
        """What was held reaches the server after the relay has published it again elsewhere."""
        link = self._random.choice(self._links)
        link.hold("requests", "answers")
        self.emit_for(self._random.random() * 7)
        link.cut()
        self.emit_for(self._random.random())
        link.go_on()

    def _leader(self) -> str | None:
        async def ask(js: object) -> str | None:
            return (await js.stream_info("EVENTS")).cluster.leader  # type: ignore[attr-defined]

        try:
            return self._servers[0].call(ask)
        except Exception:
            return None

    def problems(self) -> list[str]:
        """Wait until everything is stored. What is wrong?"""
        for host in self._hosts:
            if host.relay.process.poll() is not None:
                return [f"the relay of {host.name} has ended: {host.relay.said}"]
        for host in self._hosts:
            wait_for(
                lambda host=host: host.load.pusher.flush(1), 120, f"{host.name} flushed; {host.relay.said[-2000:]}"
            )
        messages: list = []

        def all_stored() -> bool:
            messages[:] = self._servers[0].messages()
            stored = Counter(message.subject.split(".")[1] for message in messages if ".task." in message.subject)
            return all(stored[host.name] >= host.load.emitted for host in self._hosts)

        wrong = []
        try:
            wait_for(all_stored, 120)
        except AssertionError:
            wrong.append("events are missing")
        for host in self._hosts:
            own = [message for message in messages if message.subject.split(".")[1] == host.name]
            numbers = tasks(own)
            stats = host.load.pusher.stats()
            expected = list(range(1, host.load.emitted + 1))
            ids = wire.parse(own[-1].data).get("id") is not None
            if (numbers if ids else sorted(numbers)) != expected:
                counts = Counter(numbers)
                twice = [number for number, count in counts.items() if count > 1]
                missing = [number for number in expected if number not in counts]
                wrong.append(
                    f"{host.name}: {len(twice)} twice {twice[:5]}, {len(missing)} missing {missing[:5]}, or no order"
                )
            if (stats.emitted, stats.dropped, stats.pending) != (host.load.emitted, 0, 0):
                wrong.append(f"{host.name}: {stats}")
            if ids:
                try:
                    graphs_are_where_they_belong(own)
                except AssertionError as error:
                    wrong.append(f"{host.name}: a graph is not where it belongs: {error}")
        return wrong


def storm(seconds: float, seed: int, event_ids: Sequence[bool]) -> tuple[int, Counter[str], list[str]]:
    """Run a storm, with a host for each of `event_ids`.

    Returns how many events were emitted, how often which fault happened, and what is wrong.
    """
    with tempfile.TemporaryDirectory(prefix="sp") as directory, ExitStack() as opened:
        place = Path(directory)
        servers = opened.enter_context(cluster(place, "no_advertise: true"))
        links = [opened.enter_context(link(server.port)) for server in servers]
        urls = ",".join(link.url for link in links)
        hosts = []
        for number, ids in enumerate(event_ids):
            hosts.append(Host(f"h{number}", place, urls, ids))
            opened.callback(hosts[-1].end)
            hosts[-1].relay.says("publishing to the stream")
        storm = StreamStorm(seed, servers, links, hosts)
        storm.run(seconds)
        problems = storm.problems()
        return sum(host.load.emitted for host in hosts), storm.faults, problems


def main() -> None:
    parser = argparse.ArgumentParser(description="A storm of faults between three hosts and a stream on three servers.")
    parser.add_argument("--seconds", type=float, default=60, help="how long, of each storm (60)")
    parser.add_argument("--seed", type=int, default=1, help="of the first storm (1)")
    parser.add_argument("--storms", type=int, default=1, help="how many, with rising seeds (1)")
    parser.add_argument("--no-ids", action="store_true", help="events have no ids")
    chosen = parser.parse_args()
    failed = False
    for seed in range(chosen.seed, chosen.seed + chosen.storms):
        emitted, faults, problems = storm(chosen.seconds, seed, [not chosen.no_ids] * HOSTS)
        print(
            f"seed {seed}: {emitted:,} events; {dict(faults)}; {problems or 'each is in the stream once'}", flush=True
        )
        failed = failed or bool(problems)
    sys.exit(failed)


if __name__ == "__main__":
    main()
