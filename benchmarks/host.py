"""A measured host: `python -m benchmarks.host PEER SCENARIO SOCKET OPTIONS` prints one line of JSON.

A process of its own for every measurement, so that no peer inherits the memory, the threads or the imports of another.
"""

import json
import multiprocessing
import os
import sys
import threading
from collections.abc import Callable
from importlib import import_module


def finish(close: Callable[[], object], timeout: float) -> bool:
    """Let a peer deliver what it has; whether it could in `timeout` seconds. Some wait for ever for a dead consumer."""
    closing = threading.Thread(target=close, daemon=True)
    closing.start()
    closing.join(timeout)
    return not closing.is_alive()


def leave(figures: dict[str, object]) -> None:
    """Print the figures and end at once, with every child, whatever still waits for something."""
    print(json.dumps(figures), flush=True)
    for child in multiprocessing.active_children():
        child.kill()
    os._exit(0)


def main(peer: str, scenario: str, path: str, options: str) -> None:
    measured = import_module(f"benchmarks.peers.{peer}")
    leave(import_module(f"benchmarks.scenarios.{scenario}").in_host(measured.Peer, path, **json.loads(options)))


if __name__ == "__main__":
    main(*sys.argv[1:])
