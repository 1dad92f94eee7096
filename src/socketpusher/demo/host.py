"""One host of the demo's fleet: a scheduler with a pusher, and nothing to see.

Run as `python -m socketpusher.demo.host SOCKET [PACKAGE ...]`.
"""

import sys

from ..config import PusherConfig
from ..events import Bus
from ..graph import Graph
from ..pusher import SocketPusher
from .modules import packages, standard_library, units_of
from .scheduler import Scheduler


def main() -> int:
    """Run the schedule once. Returns the exit code."""
    path, *names = sys.argv[1:]
    units = units_of(packages(names) if names else standard_library())
    bus = Bus()
    pusher = SocketPusher(bus, PusherConfig(path, event_ids=True))
    tasks = {name: len(unit.files) for name, unit in units.items()}
    pusher.set_graph(Graph({name: unit.dependencies for name, unit in units.items()}, tasks), parallelism=1)
    with pusher:
        Scheduler(units, bus).run()
    return 0 if pusher.stats().dropped == 0 else 1


if __name__ == "__main__":
    sys.exit(main())
