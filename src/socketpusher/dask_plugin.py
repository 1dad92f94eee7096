"""`dask scheduler --preload socketpusher.dask_plugin`: what a cluster computes, for `socketpusher watch`.

The events go to the default socket, and a consumer is optional. See `socketpusher.sources.dask`.
"""

import sys
from typing import Any

from .events import Bus
from .plugin import close, start
from .sources.dask import ClusterRun

_pushers: list[Any] = []


def dask_setup(scheduler: Any) -> None:
    """Dask calls this when the scheduler starts."""
    bus = Bus()
    try:
        _pushers.append(start(bus))
    except (OSError, ValueError, RuntimeError) as error:  # watching must not break what is watched
        print(f"socketpusher: no events are sent: {error}", file=sys.stderr)
        return
    scheduler.add_plugin(ClusterRun(bus))


def dask_teardown(scheduler: Any) -> None:
    """Dask calls this when the scheduler ends."""
    while _pushers:
        close(_pushers.pop())
