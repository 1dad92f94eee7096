"""`dask scheduler --preload socketpusher.dask_plugin`: what a cluster computes, for `socketpusher watch`.

The events go to the default socket, and a consumer is optional. See `socketpusher.sources.dask`.
"""

from typing import Any

from .events import Bus
from .plugin import close, start
from .sources.dask import ClusterRun

_pushers: list[Any] = []


def dask_setup(scheduler: Any) -> None:
    """Dask calls this when the scheduler starts."""
    bus = Bus()
    _pushers.append(start(bus))
    scheduler.add_plugin(ClusterRun(bus))


def dask_teardown(scheduler: Any) -> None:
    """Dask calls this when the scheduler ends."""
    while _pushers:
        close(_pushers.pop())
