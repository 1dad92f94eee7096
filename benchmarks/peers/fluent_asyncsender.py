"""fluent-logger's asyncsender to a bridge process, which writes the lines.

Its protocol is msgpack, so the bridge takes the part of fluentd: it listens on a Unix socket (fluent-logger accepts
`unix://`), unpacks, encodes with orjson and writes the events of each read with one send. Best settings:
`queue_circular=True`, which drops the oldest events at the limit; otherwise the caller waits. Without a limit the
queue's maximum is 0. The time is sent as a msgpack timestamp, which keeps its microseconds.
"""

import multiprocessing
import os
import socket
import tempfile
from datetime import UTC, datetime
from typing import Any

import msgpack
import orjson
from fluent import asyncsender

from ._line_sender import LineSender

NAME = "fluent-logger asyncsender"
DISTRIBUTION = "fluent-logger"
DELIVERS = True

_OPTIONS = orjson.OPT_UTC_Z | orjson.OPT_APPEND_NEWLINE


def _bridge(path: str, listening: socket.socket) -> None:
    line_sender = LineSender(path)
    connection, _ = listening.accept()
    unpacker = msgpack.Unpacker(timestamp=3)
    while chunk := connection.recv(1 << 18):
        unpacker.feed(chunk)
        line_sender.send(b"".join(orjson.dumps(event, None, _OPTIONS) for _, _, event in unpacker))
    line_sender.close()


class Peer:
    """A sender and the bridge process."""

    def __init__(self, path: str, buffer_size: int | None) -> None:
        self._directory = tempfile.mkdtemp(dir=os.path.dirname(path))
        bridge = os.path.join(self._directory, "fluent")
        listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        listening.bind(bridge)
        listening.listen()
        self._process = multiprocessing.get_context("spawn").Process(
            target=_bridge, args=(path, listening), daemon=True
        )
        self._process.start()
        listening.close()
        self._sender = asyncsender.FluentSender(
            "socketpusher",
            host=f"unix://{bridge}",
            queue_maxsize=buffer_size or 0,
            queue_circular=buffer_size is not None,
            msgpack_kwargs={"datetime": True},
        )

    def emit(self, kind: str, unit: str, task: int, payload: dict[str, Any]) -> None:
        """Make the event and accept it."""
        event = {"type": kind, "time": datetime.now(UTC), "unit": unit, "task": task, "payload": payload}
        self._sender.emit("", event)

    def close(self) -> None:
        """Deliver the waiting events, and end."""
        self._sender.close()
        self._process.join()
