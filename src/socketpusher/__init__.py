"""Carries the events of an orchestrator out of its process, as newline-delimited JSON over a Unix socket."""

from . import wire
from .config import PusherConfig, default_socket_path
from .consumers.listener import Listener, listen
from .consumers.problems import Gap, Problem, Refused, Sender, Skipped
from .events import Bus, Event, EventType
from .graph import CycleError, Graph, MissingDependencyError
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
    "Refused",
    "Sender",
    "Skipped",
    "SocketPusher",
    "default_socket_path",
    "listen",
    "wire",
]
