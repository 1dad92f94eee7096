"""Sends the events of an orchestrator out of its process, as newline-delimited JSON over a Unix socket."""

# Each name is imported on first use: the writer process needs few of them, and most commands need none.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from . import wire
    from .config import PusherConfig, default_socket_path
    from .events import Bus, Event, EventType
    from .graph import CycleError, Graph, MissingDependencyError
    from .host.writer_handle import freeze_support
    from .jetstream import subscribe
    from .listener.listener import Listener, listen
    from .listener.problems import Gap, Problem, RefusedSender, Sender, SkippedLine
    from .pusher import PusherStats, SocketPusher

__version__ = "0.1.0"

__all__ = [
    "Bus",
    "CycleError",
    "Event",
    "EventType",
    "Gap",
    "Graph",
    "Listener",
    "MissingDependencyError",
    "Problem",
    "PusherConfig",
    "PusherStats",
    "RefusedSender",
    "Sender",
    "SkippedLine",
    "SocketPusher",
    "default_socket_path",
    "freeze_support",
    "listen",
    "subscribe",
    "wire",
]

_MODULES = {
    "config": ("PusherConfig", "default_socket_path"),
    "host.writer_handle": ("freeze_support",),
    "jetstream": ("subscribe",),
    "listener.listener": ("Listener", "listen"),
    "listener.problems": ("Gap", "Problem", "RefusedSender", "Sender", "SkippedLine"),
    "events": ("Bus", "Event", "EventType"),
    "graph": ("CycleError", "Graph", "MissingDependencyError"),
    "pusher": ("PusherStats", "SocketPusher"),
}


def __getattr__(name: str) -> object:
    from importlib import import_module

    if name == "wire":
        return import_module(".wire", __name__)
    for module, names in _MODULES.items():
        if name in names:
            value: object = getattr(import_module(f".{module}", __name__), name)
            globals()[name] = value
            return value
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
