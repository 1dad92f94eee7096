"""What host and writer have agreed on: what a writer is given, and what it reports."""

from dataclasses import dataclass
from multiprocessing.connection import Connection as Pipe
from multiprocessing.queues import Queue
from typing import Any

from ..config import PusherConfig
from ..graph import GraphPayload
from .batch import Batch
from .ledger import Ledger

ORPHAN_DEADLINE = 5.0
"""How long a writer whose host is gone may take to send what it has, in seconds."""

Message = tuple[int, Batch] | tuple[()]
"""A batch and where it ends in the stream of all lines, in bytes; or nothing, as nothing was waiting."""


@dataclass(frozen=True)
class Assignment:
    """What a writer process is given.

    Args:
        queue: Brings a `Message` at a time.
        wakeups: Readable when the host has changed its part of the ledger; ended when the host is gone.
        reports: Takes what the host should know, see `Report`.
        ledger: The shared numbers; if a graph is set, its extra cells hold how its units stand.
        config: The pusher's configuration.
        graph: The payload of the `graph` event, or None.
        parallelism: How many units may run at a time.
        started: The last `orch.started` that earlier writers were given, as a line, or b"".
        directory: The working directory.
        host_pid: The process to outlive by no more than `ORPHAN_DEADLINE`.
    """

    queue: "Queue[Message]"
    wakeups: "Pipe[Any, Any]"
    reports: "Pipe[Any, Any]"
    ledger: Ledger
    config: PusherConfig
    graph: GraphPayload | None
    parallelism: int
    started: bytes
    directory: str
    host_pid: int


@dataclass(frozen=True)
class Report:
    """What the writer tells the host.

    Args:
        text: What happened, for the log.
        level: How bad it is, a level of `logging`; 0 if it is not for the log.
        failure: Why an attempt to connect failed, as `errno` and text; (0, "") if it is not about that.
    """

    text: str = ""
    level: int = 0
    failure: tuple[int, str] = (0, "")
