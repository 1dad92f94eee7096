"""A measured host: `python -m benchmarks.host PEER SCENARIO SOCKET OPTIONS` prints one line of JSON.

Every measurement has its own process, so that no peer inherits the memory, the threads or the imports of another.
"""

import json
import multiprocessing
import os
import sys
import threading
from collections.abc import Callable
from importlib import import_module


def finish(close: Callable[[], object], timeout: float) -> bool:
    """Close a peer. Returns whether it ended within `timeout` seconds; some wait for a dead consumer for ever."""
    closing = threading.Thread(target=close, daemon=True)
    closing.start()
    closing.join(timeout)
    return not closing.is_alive()


def leave(figures: dict[str, object]) -> None:
    """Print the figures and end immediately, with every child, even if a thread still waits."""
    print(json.dumps(figures), flush=True)
    for child in multiprocessing.active_children():
        child.kill()
    os._exit(0)


def main(peer: str, scenario: str, path: str, options: str) -> None:
    measured = import_module(f"benchmarks.peers.{peer}")
    leave(import_module(f"benchmarks.scenarios.{scenario}").in_host(measured.Peer, path, **json.loads(options)))


if __name__ == "__main__":
    main(*sys.argv[1:])
