"""The double of `choo web` as a process, and a pusher that sends to it."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from socketpusher import Bus, Event, Graph, PusherConfig, SocketPusher
from support.truth import Truth
from support.waiting import stop, wait_for

PROGRAM = Path(__file__).parents[1] / "interop" / "choo_web.py"


class Web:
    """The server: started, killed, stopped, and asked what it shows."""

    def __init__(self, path: str, place: Path) -> None:
        self.path = path
        self._shown = place / "shown"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Return when it listens."""
        self._shown.write_bytes(b"")
        with self._shown.open("ab") as output:
            self._process = subprocess.Popen([sys.executable, "-S", PROGRAM, self.path], stdout=output)
        self._answer()

    def kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def restart(self) -> None:
        """End it with whatever it has not read, and begin with nothing."""
        self.kill()
        self.start()

    def stall(self) -> None:
        assert self._process is not None
        stop(self._process.pid)

    def go_on(self) -> None:
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)

    def remove(self) -> None:
        """End it, and leave no file."""
        self.kill()
        if os.path.exists(self.path):
            os.unlink(self.path)

    def picture(self) -> dict[str, Any]:
        """What it shows, once it has read what is there."""
        picture: dict[str, Any] = self._ask()["picture"]
        return picture

    def connections(self) -> int:
        """How many connections it has had since it was started."""
        connections: int = self._ask()["connections"]
        return connections

    def shows(self, truth: Truth) -> None:
        """Wait until it shows the truth, and nothing else."""
        right = truth.picture()
        wrong: list[str] = ["nothing yet"]

        def is_right() -> bool:
            wrong[:] = differences(self.picture(), right)
            return not wrong

        try:
            wait_for(is_right)
        except AssertionError:
            raise AssertionError("the display stays wrong:\n" + "\n".join(wrong[:5])) from None

    def wait_for(self, status: str) -> dict[str, Any]:
        """The picture, once it says that of the run."""
        wait_for(lambda: self.picture()["status"] == status, what=f"the status {status!r}")
        return self.picture()

    def _ask(self) -> dict[str, Any]:
        assert self._process is not None
        os.truncate(self._shown, 0)
        self._process.send_signal(signal.SIGUSR1)
        return self._answer()

    def _answer(self) -> dict[str, Any]:
        wait_for(lambda: self._shown.read_bytes().endswith(b"\n"), what="the server's answer")
        answer: dict[str, Any] = json.loads(self._shown.read_bytes())
        return answer


def differences(shown: dict[str, Any], right: dict[str, Any]) -> list[str]:
    """Where a picture is wrong, field by field."""
    fields = [("the run", key, shown[key], right[key]) for key in right if key != "units"]
    for name in {**shown["units"], **right["units"]}:
        one, other = shown["units"].get(name), right["units"].get(name)
        if one is None or other is None:
            fields.append((repr(name), "as a unit", one, other))
        else:
            fields += [(repr(name), key, one[key], other[key]) for key in other]
    return [f"{whose}, {key}: {one!r}, not {other!r}" for whose, key, one, other in fields if one != other]


@contextmanager
def sending(
    bus: Bus, path: str, graph: Graph | None = None, parallelism: int = 3, *, wait: bool = True, **config: Any
) -> Iterator[tuple[SocketPusher, Truth]]:
    """A pusher of the bus to the socket, and the truth of what is emitted meanwhile."""
    truth = Truth(graph, parallelism)
    quick = {"write_timeout": 60, "reconnect_backoff": 0.005, "max_reconnect_backoff": 0.02}
    pusher = SocketPusher(bus, PusherConfig(socket_path=path, **{**quick, **config}))
    if graph is not None:
        pusher.set_graph(graph, parallelism)
    unsubscribe = bus.subscribe(truth.follow)
    try:
        pusher.start(timeout=30, wait=wait)
        yield pusher, truth
    finally:
        pusher.close(timeout=30)
        unsubscribe()


def padding(count: int) -> Iterator[Event]:
    """Events that no display shows, and four of which fill a socket."""
    for _ in range(count):
        yield Event("task.committed", payload={"message": "x" * 60_000})


def drop_some(bus: Bus, pusher: SocketPusher) -> None:
    """Emit, to a server that is stopped, more than may wait, and return when some of it is dropped."""
    before = pusher.stats().dropped
    for event in padding(pusher.config.buffer_size + 10):
        bus.emit(event)
    wait_for(lambda: pusher.stats().dropped > before, what="a dropped event")


def kill_writer(pusher: SocketPusher) -> None:
    """Kill the writer process, and wait for the next one."""
    pid = pusher.stats().writer_pid
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    wait_for(lambda: pusher.stats().writer_pid not in (None, pid), what="another writer")
