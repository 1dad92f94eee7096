"""What host and writer tell each other besides lines: plain data, as JSON."""

import dataclasses
import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

ORPHAN_TIMEOUT = 5.0
"""How long a writer whose host is gone may take to send what it has, in seconds."""

REPORT_BYTES = 4096
"""The longest report, in bytes: what a pipe takes as a whole or not at all (PIPE_BUF)."""

FILES = ("spec", "queue", "wakeups", "reports", "ledger", "journal", "journal", "graph", "spool", "host")
"""The files that a writer is sent through its standard input, in this order: a `WriterSpec`, the queue to read, what
wakes it, where its `Report` goes, the shared numbers, the two files of the journal, the payload of the `graph` event as
JSON (or null), the lock of the spool, if there is one, and what becomes readable when the host ends, if there is
that."""


@dataclass(frozen=True)
class WriterSpec:
    """What a writer process is given.

    Args:
        search_path: Where it finds modules besides those of the standard library: absolute paths.
        directory: The directory to work in: that of a relative `config["socket_path"]`, or "/".
        config: The fields of the pusher's `PusherConfig`.
        parallelism: How many units may run at a time.
        received: The number of the first line that it will be given.
        high_water: The number after the highest line that an earlier writer put on a socket.
        sent: How many lines earlier writers have put on a socket and not taken back.
        resent: How many of them were put there again.
        connections: How many connections earlier writers had.
        spool: The name of the spool in the directory `config["spool"]`; "" if there is none.
    """

    search_path: list[str]
    directory: str
    config: dict[str, Any]
    parallelism: int
    received: int
    high_water: int
    sent: int
    resent: int
    connections: int
    spool: str = ""

    def encode(self) -> bytes:
        """As JSON. It is ASCII, so lone surrogates in names survive."""
        return json.dumps({f.name: getattr(self, f.name) for f in dataclasses.fields(self)}).encode()

    @classmethod
    def decode(cls, data: bytes) -> "WriterSpec":
        """What `encode` has made."""
        return cls(**json.loads(data))


@dataclass(frozen=True)
class Report:
    """What the writer tells the host.

    Args:
        text: What happened, for the log.
        level: How bad it is, a level of `logging`; 0 if it is not for the log.
        failure: Why an attempt to connect failed, as `errno` and text; (0, "") if it is not about that.
        pid: The writer's process id, in the first report; else 0.
        ready: Whether it has begun to work.
        done: Whether it ends because there is nothing more to do.
    """

    text: str = ""
    level: int = 0
    failure: tuple[int, str] = (0, "")
    pid: int = 0
    ready: bool = False
    done: bool = False

    def encode(self) -> bytes:
        """One line of JSON, at most `REPORT_BYTES` long."""
        said = {f.name: value for f in dataclasses.fields(self) if (value := getattr(self, f.name)) != f.default}
        line = json.dumps(said).encode() + b"\n"
        if len(line) > REPORT_BYTES:
            return dataclasses.replace(self, text=self.text[-REPORT_BYTES // 16 :]).encode()
        return line


@dataclass
class Reports:
    """Cuts what comes out of the writer's pipe into reports."""

    _rest: bytes = field(default=b"", repr=False)

    def feed(self, data: bytes) -> None:
        """Take data in."""
        self._rest += data

    def __iter__(self) -> Iterator[Report]:
        """The reports that are complete. What is none, as the interpreter's own last words, is for the log."""
        while b"\n" in self._rest:
            line, _, rest = self._rest.partition(b"\n")
            report = _report(line)
            self._rest = rest
            if line:
                yield report


def _report(line: bytes) -> Report:
    try:
        said = json.loads(line)
        return Report(**{**said, "failure": tuple(said.get("failure", (0, "")))})
    except (ValueError, TypeError, AttributeError):
        return Report(line.decode(errors="backslashreplace"), level=40)
