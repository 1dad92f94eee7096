"""pyzmq: PUSH over ipc to a bridge process, which writes the lines.

Best settings: the line is encoded at `emit` and copied into the message (`copy=True`, faster below about 64 KB); the
high-water mark of each end is half the limit, or 0 without a limit; `NOBLOCK` drops at the limit. libzmq's I/O thread
needs no GIL, so a busy scheduler does not delay it. The bridge writes all waiting lines with one send.
"""

import multiprocessing
import os
import tempfile
from datetime import UTC, datetime
from typing import Any

import zmq

from socketpusher import Event
from socketpusher.wire import encode

from ._line_sender import LineSender

NAME = "pyzmq PUSH"
DISTRIBUTION = "pyzmq"
DELIVERS = True

_AT_ONCE = 500


def _bridge(path: str, address: str, limit: int, ready: Any) -> None:
    line_sender = LineSender(path)
    pull = zmq.Context().socket(zmq.PULL)
    pull.set_hwm(limit)
    pull.bind(address)
    ready.set()
    line = pull.recv()
    while line:
        lines = []
        try:
            while line:
                lines.append(line)
                if len(lines) == _AT_ONCE:
                    break
                line = pull.recv(zmq.NOBLOCK)
        except zmq.Again:
            pass
        line_sender.send(b"".join(lines))
        line = line and pull.recv()
    line_sender.close()


class Peer:
    """A PUSH socket and the process with the PULL socket."""

    def __init__(self, path: str, buffer_size: int | None) -> None:
        limit = buffer_size // 2 if buffer_size else 0
        address = f"ipc://{os.path.join(tempfile.mkdtemp(dir=os.path.dirname(path)), 'zmq')}"
        context = multiprocessing.get_context("spawn")
        ready = context.Event()
        self._process = context.Process(target=_bridge, args=(path, address, limit, ready), daemon=True)
        self._process.start()
        ready.wait()
        self._context = zmq.Context()
        self._push = self._context.socket(zmq.PUSH)
        self._push.set_hwm(limit)
        self._push.connect(address)

    def emit(self, kind: str, unit: str, task: int, payload: dict[str, Any]) -> None:
        """Make the event and accept it."""
        try:
            self._push.send(encode(Event(kind, unit, task, None, payload, "", datetime.now(UTC))), zmq.NOBLOCK)
        except zmq.Again:
            pass

    def close(self) -> None:
        """Deliver the waiting events, and end."""
        self._push.send(b"")
        self._push.close()
        self._context.term()
        self._process.join()
